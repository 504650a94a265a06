"""Safety stops: when to ask a human before going on (SYNC.md 2).

    root            the folder is missing, without its marker, on another disk
    emptied         nothing is left in it, though it held two or more entries
    mass_change     more than max(50 nodes, 25 %) deleted or overwritten within ten minutes
    history         the server's head does not extend what this device has seen

`root` and `emptied` stop whatever looks at or touches the disk, `mass_change` the deletions and
overwrites that go beyond it, `history` all talk with the server. Nothing is deleted meanwhile.
"""

from collections import deque

ROOT_FAULT, EMPTIED, MASS_CHANGE, HISTORY = "root", "emptied", "mass_change", "history"
STOPS_DISK = frozenset({ROOT_FAULT, EMPTIED})
EMPTIED_MIN = 2  # entries at which an empty folder is suspicious
WINDOW_MS = 10 * 60 * 1000
NODES_MAX = 50
SHARE_MAX_PERCENT = 25


class Breaker:
    """Counts deletions and overwrites in a sliding window since the last approval."""

    def __init__(self) -> None:
        self._counted: deque[tuple[int, int]] = deque()  # (when, how many)
        self._total = 0

    def allows(self, count: int, space_nodes: int, now_ms: int) -> bool:
        """Say whether `count` more are still normal in a space of that size."""
        while self._counted and self._counted[0][0] <= now_ms - WINDOW_MS:
            self._total -= self._counted.popleft()[1]
        return self._total + count <= max(NODES_MAX, space_nodes * SHARE_MAX_PERCENT // 100)

    def count(self, count: int, now_ms: int) -> None:
        """Record that so many go out, or come in, now."""
        self._counted.append((now_ms, count))
        self._total += count

    def approve(self) -> None:
        """The user looked at it: begin to count anew."""
        self._counted.clear()
        self._total = 0
