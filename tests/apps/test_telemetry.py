"""What the server logs, and above all what it does not."""

import json
import subprocess
import sys

import pytest

from apps.telemetry import trace_of

SCRIPT = """
import logging, structlog
from apps.telemetry import TRACE_ID, configure
configure("info", {form!r})
log = structlog.get_logger()
TRACE_ID.set("ab" * 16)

def fails(auth_key):
    try:
        hidden = "canary" + "-in-a-local"
        raise ValueError("it failed")
    except ValueError:
        log.exception("failed", token="canary-token", space=bytes(16), sealed=b"canary" * 9)
        logging.getLogger("library").warning("from a library")
        log.debug("canary-not-shown")

fails("canary" + "-key")
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_logs_hold_no_secrets_locals_or_sealed_bytes(form: str) -> None:
    # Planted bug: the pretty traceback of the text form, which prints local variables.
    said = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(form=form)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout == ""
    assert "canary" not in said.stderr
    assert "it failed" in said.stderr
    assert "ab" * 16 in said.stderr
    if form == "json":
        first, second = [json.loads(line) for line in said.stderr.splitlines()]
        assert (first["event"], first["token"], first["space"]) == ("failed", "***", "00" * 16)
        assert first["sealed"] == "<54 bytes>"
        assert "Traceback" in first["exception"]
        assert (second["event"], second["level"]) == ("from a library", "warning")


def test_traces() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert trace_of(f"00-{trace}-00f067aa0ba902b7-01") == trace
    assert trace_of("") != trace_of("")
    assert len(trace_of(f"00-{'0' * 32}-00f067aa0ba902b7-01")) == 32
