"""The agent's log never stands in the agent's way."""

import io

import pytest

from client_agent.logs import Steady


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")

    def flush(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_full_disk_stops_no_log_line_and_is_counted():
    log = Steady(Full())
    assert log.write("a line\n") == 7
    log.flush()
    assert log.lost == 2


def test_what_is_no_trouble_of_the_disk_is_not_hidden():
    closed = io.StringIO()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        Steady(closed).write("a line\n")
