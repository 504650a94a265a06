"""What comes first: directories, then recent and small files, deletions last (SYNC.md 2).

Priorities are tuples that sort; recent means modified within the same hour.
"""

from client_agent.core.planner import Step, Steps
from client_agent.core.trees import Local, Remote
from protocol.entry import NodeType

HOUR_NS = 3_600_000_000_000
STRUCTURE, CONTENT, DELETION = 0, 1, 2


def of_send(steps: Steps, local: Local | None, depth: int) -> tuple[int, ...]:
    """Return the place of a node among what is to be sent. Deletions: deepest first."""
    if local is None:
        return (DELETION, -depth)
    if local.type is NodeType.DIRECTORY or steps == (Step.MOVE,):
        return (STRUCTURE, depth)
    return (CONTENT, -(local.stat.mtime_ns // HOUR_NS), local.stat.size_bytes)


def of_take(steps: Steps, remote: Remote | None, depth: int) -> tuple[int, ...]:
    """Return the place of a node among what is to be taken."""
    if Step.REMOVE in steps or remote is None:
        return (DELETION, -depth)
    if remote.type is NodeType.DIRECTORY or Step.SHIFT in steps or Step.CLASH in steps:
        return (STRUCTURE, depth)
    return (CONTENT, -(remote.mtime_ns // HOUR_NS), remote.size_bytes)


def of_read(local: Local) -> tuple[int, ...]:
    """Return the place of an entry among what is to be read."""
    return (CONTENT, -(local.stat.mtime_ns // HOUR_NS), local.stat.size_bytes)
