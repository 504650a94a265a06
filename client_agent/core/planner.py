"""Plan what must happen to a node so that disk, journal and memory agree again.

The table of SYNC.md 2, as one pure function of a node's rows. The same rows always give the same
steps; an edit or a move always beats a deletion, so nothing new is lost.

    steps that send     CREATE MODIFY MOVE DELETE RESTORE
    steps that take     MAKE (bring it here) PUT (its content) SHIFT (its place) REMOVE
    steps in memory     REMEMBER (the merge base moves) FORGET (it is gone on both sides)
    READ                the content on disk is not known yet
    CLASH               our own entry needs another name (added by core/clashing.py)
"""

from collections.abc import Mapping
from enum import Enum

from client_agent.core.trees import Local, Remote, Synced
from protocol.entry import NodeType
from protocol.vector import EMPTY, Vector


class Step(Enum):
    """One thing to do to a node. The value is the word that users see in the queue."""

    READ = "read"
    CREATE = "create"
    MODIFY = "modify"
    MOVE = "move"
    DELETE = "delete"
    RESTORE = "restore"
    MAKE = "download"
    PUT = "update"
    SHIFT = "move here"
    REMOVE = "remove here"
    CLASH = "rename here"
    REMEMBER = "remember"
    FORGET = "forget"


Steps = tuple[Step, ...]
SENDS = frozenset({Step.CREATE, Step.MODIFY, Step.MOVE, Step.DELETE, Step.RESTORE})
TAKES = frozenset({Step.MAKE, Step.PUT, Step.SHIFT, Step.REMOVE, Step.CLASH})
MEMORY = frozenset({Step.REMEMBER, Step.FORGET})
VACATES_THERE = frozenset({Step.DELETE, Step.MOVE})  # its name in the journal becomes free
VACATES_HERE = frozenset({Step.REMOVE, Step.SHIFT, Step.CLASH})  # its name on disk becomes free


def decide(
    local: Local | None,
    remote: Remote | None,
    synced: Synced | None,
    *,
    kept: bool = False,
    yielded: bool = False,
) -> Steps:
    """Return the steps for one node; () when it is in step.

    `kept`: it is a directory that something live needs (see `keeps_here`, `keeps_there`).
    `yielded`: the server refused our move as part of a cycle, so the journal's place counts.
    """
    theirs = remote if remote is not None and remote.alive else None
    if local is None and theirs is None:
        return (Step.FORGET,) if synced is not None else ()
    if local is None:
        assert theirs is not None
        return _gone_here(theirs, synced, kept)
    if theirs is None:
        return _gone_there(local, remote, synced, kept)
    steps = [*_content(local, theirs, synced), *_place(local, theirs, synced, yielded)]
    return tuple(dict.fromkeys(steps))


def unknown(local: Local) -> bool:
    """Say whether an entry's content has to be read before anything can be said of it."""
    return local.type is not NodeType.DIRECTORY and not local.content_id


def place(row: Local | Remote | Synced) -> tuple[bytes, str]:
    """Return where a row says its node is."""
    return row.parent, row.name


def base_of(theirs: Remote, synced: Synced | None) -> Vector:
    """Return the vector of the content that ours is based on.

    Theirs, if it is equal to the merge base: a join of vectors is no news.
    """
    if synced is None:
        return EMPTY
    return theirs.vector if theirs.content_id == synced.content_id else synced.vector


def _gone_here(theirs: Remote, synced: Synced | None, kept: bool) -> Steps:
    if synced is None or kept or _moved(theirs, synced) or _edited(theirs, synced):
        return (Step.MAKE,)
    return (Step.DELETE,)


def _gone_there(local: Local, remote: Remote | None, synced: Synced | None, kept: bool) -> Steps:
    if unknown(local):
        return (Step.READ,)
    if remote is None:
        return (Step.CREATE,)
    if synced is None or kept or _moved(local, synced) or _edited(local, synced):
        return (Step.RESTORE,)
    return (Step.REMOVE,)


def _content(local: Local, theirs: Remote, synced: Synced | None) -> Steps:
    if local.type is NodeType.DIRECTORY:
        return ()
    if unknown(local):
        return (Step.READ,)
    if local.content_id == theirs.content_id:
        known = synced is not None and (
            synced.content_id == theirs.content_id
            and synced.version == theirs.version
            and synced.vector == theirs.vector
        )
        return () if known else (Step.REMEMBER,)
    if synced is not None and local.content_id == synced.content_id:
        return (Step.PUT,)
    return (Step.MODIFY,)  # if theirs changed too, the server finds a conflict (SYNC.md 4)


def _place(local: Local, theirs: Remote, synced: Synced | None, yielded: bool) -> Steps:
    if place(local) == place(theirs):
        return () if synced is not None and not _moved(theirs, synced) else (Step.REMEMBER,)
    if synced is not None and not _moved(theirs, synced) and not yielded:
        return (Step.MOVE,)
    return (Step.SHIFT,)  # theirs moved; if ours did too, the first commit wins the place


def _moved(row: Local | Remote, synced: Synced) -> bool:
    return place(row) != place(synced)


def _edited(row: Local | Remote, synced: Synced) -> bool:
    return row.content_id != synced.content_id


def remembered(local: Local, theirs: Remote, synced: Synced | None) -> Synced:
    """Return the merge base after REMEMBER: what both hold now, facet by facet.

    A facet on which they differ keeps its old base; without one, the place on disk and no content.
    """
    old = synced or Synced(local.node, local.parent, local.name, theirs.type)
    place_from: Remote | Synced = theirs if place(local) == place(theirs) else old
    content_from: Remote | Synced = theirs if local.content_id == theirs.content_id else old
    return Synced(
        node=local.node,
        parent=place_from.parent,
        name=place_from.name,
        type=theirs.type,
        content_id=content_from.content_id,
        version=content_from.version,
        vector=content_from.vector,
    )


def keeps_there(steps: Steps) -> bool:
    """Say whether an entry in a directory on disk needs that directory in the journal."""
    return any(s in (Step.CREATE, Step.RESTORE, Step.MOVE) for s in steps)


def keeps_here(steps: Steps) -> bool:
    """Say whether a node in a directory of the journal needs that directory on disk."""
    return any(s in (Step.MAKE, Step.SHIFT) for s in steps)


def plan(
    local: Mapping[bytes, Local], remote: Mapping[bytes, Remote], synced: Mapping[bytes, Synced]
) -> dict[bytes, Steps]:
    """Return the steps of all nodes that are out of step: the reference for the engine.

    Name clashes are not looked at here. O(nodes x depth).
    """
    nodes = sorted({*local, *remote, *synced})
    kept: set[bytes] = set()
    while True:
        steps = {
            n: decide(local.get(n), remote.get(n), synced.get(n), kept=n in kept) for n in nodes
        }
        needed = {row.parent for n, row in local.items() if keeps_there(steps[n])}
        needed |= {row.parent for n, row in remote.items() if row.alive and keeps_here(steps[n])}
        if needed <= kept:
            return {n: s for n, s in steps.items() if s}
        kept |= needed
