"""The watcher hints quickly, and says so when it may have missed something."""

import os
import queue

import pytest

from client_agent.adapters.watcher import Watcher, _exhausted
from client_agent.core.events import Hinted

WAIT_S = 20.0


@pytest.fixture
def watched(tmp_path):
    hints: queue.Queue[Hinted] = queue.Queue()
    modes: queue.Queue[str] = queue.Queue()
    (tmp_path / ".syncline").mkdir()
    watcher = Watcher(tmp_path, hints.put, modes.put)
    watcher.start()
    assert watcher.watching.wait(WAIT_S)
    assert modes.get(timeout=WAIT_S) == "events"
    assert hints.get(timeout=WAIT_S).lost, "what was before is unknown"
    yield tmp_path, hints, modes
    watcher.stop()


def until(hints, wanted) -> Hinted:
    while True:
        hint = hints.get(timeout=WAIT_S)
        if wanted(hint):
            return hint


def test_changes_are_hinted_with_relative_paths(watched):
    folder, hints, _ = watched
    (folder / "ä b").write_text("x")
    assert until(hints, lambda hint: "ä b" in hint.paths)
    (folder / "ä b").rename(folder / "other")
    both = until(hints, lambda hint: "other" in hint.paths)
    assert "ä b" in both.paths


def test_new_folders_are_hinted_once_more(watched):
    folder, hints, _ = watched
    (folder / "new/deep").mkdir(parents=True)
    assert until(hints, lambda hint: "new" in hint.paths)
    again = until(hints, lambda hint: "new" in hint.paths)
    assert not again.lost


def test_a_burst_may_have_lost_something(watched, monkeypatch):
    monkeypatch.setattr("client_agent.adapters.watcher.BURST_CHANGES", 50)
    folder, hints, _ = watched
    for n in range(200):
        (folder / f"f{n}").touch()
    assert until(hints, lambda hint: hint.lost)


def test_a_stop_of_this_process_may_have_lost_something(watched, monkeypatch):
    monkeypatch.setattr("client_agent.adapters.watcher.STALLED_S", -1.0)
    folder, hints, _ = watched
    (folder / "f").touch()
    assert until(hints, lambda hint: hint.lost)


def test_our_own_folder_is_not_hinted(watched):
    folder, hints, _ = watched
    (folder / ".syncline/tmp").write_text("x")
    (folder / "seen").write_text("x")
    hint = until(hints, lambda hint: "seen" in hint.paths)
    assert not any(path.startswith(".syncline") for path in hint.paths)


def test_a_name_that_is_not_utf8_costs_the_watch_and_says_so(watched):
    folder, hints, _ = watched
    with open(os.fsencode(folder) + b"/\xff", "wb"):
        pass
    assert until(hints, lambda hint: hint.lost)
    (folder / "after").write_text("x")
    assert until(hints, lambda hint: "after" in hint.paths)


def test_used_up_watches_are_told_from_other_faults():
    assert _exhausted(OSError("OS file watch limit reached."))
    assert _exhausted(OSError(28, "No space left on device"))
    assert not _exhausted(ValueError("Unable to decode path"))
