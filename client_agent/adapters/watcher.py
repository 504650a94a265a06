"""Hints about changes, by `watchfiles`: quick, and never trusted to be complete.

One thread. While something happens it looks every 5 ms (8 ms until a change is reported), in
quiet times less often. Whatever goes wrong (a name that is not UTF-8, watches used up, a folder
that went away) ends the watch; a new one is made, and a hint says that anything may have changed.
Where watches are used up the folder is looked at now and then instead, and that is said.

An overflow of the kernel's queue is not reported by the library, so it is suspected: after a
burst, and when this process stood still. What appears in a new folder before its own watch is
attached is missed, so new folders are hinted at once more when things have calmed down.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from watchfiles._rust_notify import RustNotify

from client_agent.core.events import Hinted
from protocol.names import RESERVED

STEP_BUSY_MS: Final = 5
STEP_QUIET_MS: Final = 25
QUIET_AFTER_S: Final = 20.0
DEBOUNCE_MS: Final = 100  # the longest that changes are gathered
TIMEOUT_MS: Final = 5_000  # how often the step is thought over
CALM_MS: Final = 500  # no change for so long: the burst, or the making of folders, is over
BURST_CHANGES: Final = 1_000  # in one batch; the kernel's queue has room for about 16,000
STALLED_S: Final = 2.0  # later than it should be: this process, or the machine, was stopped
ADDED: Final = 1  # watchfiles.Change.added
RESTART_S, RESTART_MAX_S = 0.2, 60.0
POLL_S: Final = 60.0  # where there can be no watch

log = structlog.get_logger()


class Watcher:
    """Watches one folder; `emit` and `tell` are called from its thread.

    `tell` gets "events" or "polling: <why>", whenever that changes.
    """

    def __init__(
        self, root: Path, emit: Callable[[Hinted], None], tell: Callable[[str], None]
    ) -> None:
        """Start nothing yet."""
        self._root = str(root)
        self._emit, self._tell = emit, tell
        self._stopped = threading.Event()
        self._mode = ""
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self.watching = threading.Event()  # set while there is a watch

    def start(self) -> None:
        """Begin to watch; call once."""
        self._thread.start()

    def stop(self) -> None:
        """End the watch and its thread."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        wait_s = RESTART_S
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                watch = RustNotify([self._root], False, False, 0, True, True)
                try:
                    self._say("events")
                    self.watching.set()
                    self._emit(Hinted(frozenset(), lost=True))  # what was before is unknown
                    self._follow(watch)
                finally:
                    self.watching.clear()
                    watch.close()
            except Exception as error:  # noqa: BLE001 - its errors have no common class
                log.warning("watch ended", error=str(error))
                if time.monotonic() - started > RESTART_MAX_S:
                    wait_s = RESTART_S
                exhausted = _exhausted(error)
                if exhausted or wait_s > 1.0:
                    self._say(f"polling: {'watches are used up' if exhausted else error}")
                self._stopped.wait(POLL_S if exhausted else wait_s)
                wait_s = min(wait_s * 2, RESTART_MAX_S)
                if exhausted:
                    self._emit(Hinted(frozenset(), lost=True))

    def _follow(self, watch: RustNotify) -> None:
        step_ms, last = STEP_BUSY_MS, time.monotonic()
        unsure, folders = False, set[str]()  # to be said when it is calm
        while not self._stopped.is_set():
            timeout_ms = CALM_MS if unsure or folders else TIMEOUT_MS
            asked = time.monotonic()
            found = watch.watch(DEBOUNCE_MS, step_ms, timeout_ms, self._stopped)
            now = time.monotonic()
            unsure |= now - asked > (timeout_ms + DEBOUNCE_MS) / 1000 + STALLED_S
            if isinstance(found, str):
                if found == "stop":
                    return
                if unsure or folders:
                    self._emit(Hinted(frozenset(folders), lost=unsure))
                    unsure, folders = False, set()
                if now - last > QUIET_AFTER_S:
                    step_ms = STEP_QUIET_MS
                continue
            step_ms, last = STEP_BUSY_MS, now
            unsure |= len(found) >= BURST_CHANGES
            paths = self._relative({path for _, path in found})
            if paths is None:
                raise FileNotFoundError("the folder itself changed")
            if paths:
                self._emit(Hinted(paths))
            added = self._relative({path for kind, path in found if kind == ADDED}) or ()
            folders |= {path for path in added if os.path.isdir(f"{self._root}/{path}")}

    def _relative(self, changed: set[str]) -> frozenset[str] | None:
        """Return paths below the root, ours left out; None: the root itself went away."""
        skip, prefix = len(self._root) + 1, self._root + os.sep
        paths = set()
        for path in changed:
            if path.startswith(prefix):
                relative = path[skip:]
                if relative.partition(os.sep)[0] != RESERVED:
                    paths.add(relative)
            elif path == self._root and not os.path.isdir(path):
                return None
        return frozenset(paths)

    def _say(self, mode: str) -> None:
        if mode != self._mode:
            self._mode = mode
            self._tell(mode)


def _exhausted(error: Exception) -> bool:
    text = str(error).lower()
    return "no space left" in text or "watch limit" in text or "too many open files" in text
