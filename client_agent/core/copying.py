"""Conflict copies: the loser of a conflict becomes a file of its own, beside the node (SYNC.md 4).

The newcomer's device commits it at once; any other after a minute, if it has not appeared. All
would make the same node id, so it is made once. Copies cannot breed: a copy is an ordinary file,
and a conflict makes at most one.
"""

from dataclasses import replace

from client_agent.core.events import ChangeSpec
from client_agent.core.planning import free_name
from client_agent.core.state import State
from client_agent.core.trees import Conflict
from protocol.entry import ChangeKind
from protocol.ids import ROOT

COPIES_MAX = 10  # live ones of one node; further losers stay versions


def due(state: State, loser: bytes) -> None:
    """The time has come to copy a loser, unless that was done."""
    conflict = state.conflicts.get(loser)
    if conflict is not None and not conflict.copied:
        state.copies_due[loser] = None


def copy_specs(state: State, room: int) -> list[ChangeSpec]:
    """Return the copies to commit now, at most `room`."""
    specs: list[ChangeSpec] = []
    taken: set[tuple[bytes, str]] = set()
    for loser in list(state.copies_due)[:room]:
        del state.copies_due[loser]
        conflict = state.conflicts.get(loser)
        if conflict is None or conflict.copied:
            continue
        if _live_copies(state, conflict.node) >= COPIES_MAX:
            state.conflicts[loser] = replace(conflict, copied=True)
            state.unsaved_conflicts.add(loser)
            state.tell("conflict", state.path(conflict.node), "kept as a version only")
            continue
        spec = _spec(state, conflict)
        assert spec.parent is not None
        assert spec.name is not None
        if (spec.parent, spec.name) in taken:
            state.copies_due[loser] = None  # the next commit sees that name and counts on
            continue
        taken.add((spec.parent, spec.name))
        specs.append(spec)
    return specs


def _live_copies(state: State, node: bytes) -> int:
    remote = state.forest.remote
    others = state.conflicts_of.get(node, ())
    return sum(remote.alive(state.conflicts[loser].copy) for loser in others)


def _spec(state: State, conflict: Conflict) -> ChangeSpec:
    remote = state.forest.remote
    row = remote.rows[conflict.node]
    parent = row.parent
    while not remote.alive(parent):
        above = remote.rows.get(parent)
        parent = above.parent if above is not None else ROOT
    return ChangeSpec(
        kind=ChangeKind.CREATE,
        node=conflict.copy,
        type=row.type,
        dot=0,
        hlc=state.stamp(),
        parent=parent,
        name=free_name(state, parent, row.name, conflict.loser_device, conflict.at_ms),
        copy_of=conflict.loser,
    )
