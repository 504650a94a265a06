"""Keep the plan up to date: plan the dirty nodes, and only them, and settle name clashes.

`planner.decide` looks at one node; here are the rules that look at others:

- a directory that is away on one side lives if something in it has to live there;
- content is sent only after it was read (its chunks are at the server or at hand);
- a name that a live node of the journal holds (SYNC.md 4): if that node is about to leave it, both
  go out together; two directories, or two equal contents, become one node (adopt); two names on
  our disk that fold together wait as `case_clash`; else our entry takes a conflict name.
"""

from dataclasses import replace

from client_agent.core import priority
from client_agent.core.planner import (
    SENDS,
    TAKES,
    VACATES_THERE,
    Step,
    Steps,
    decide,
    keeps_here,
    keeps_there,
    remembered,
)
from client_agent.core.safety import MASS_CHANGE
from client_agent.core.state import State
from client_agent.core.trees import Local, Remote
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.names import conflict_name, fold

_PLACED = frozenset({Step.CREATE, Step.MOVE, Step.RESTORE})
_WITH_CONTENT = frozenset({Step.CREATE, Step.MODIFY, Step.RESTORE})
_USES_ITS_READING = _WITH_CONTENT | {Step.CLASH}
_DESTROYS = frozenset({Step.DELETE, Step.MODIFY, Step.REMOVE, Step.PUT})
_NEEDS_ITS_REMOTE = frozenset({Step.MAKE, Step.PUT, Step.SHIFT})


def run(state: State) -> None:
    """Plan all dirty nodes again. Cost: O(dirty), whatever the size of the trees."""
    dirty = state.forest.dirty
    while dirty:
        batch = list(dirty)
        dirty.clear()
        for node in batch:
            replan(state, node)


def replan(state: State, node: bytes) -> None:
    """Decide anew what is to be done with a node, unless something is under way for it."""
    if node == ROOT or state.busy(node):
        return
    state.stuck.pop(node, None)
    if node in state.missing:
        _set(state, node, ())
        return
    forest = state.forest
    steps = _decide(state, node)
    if not steps and node not in state.plans and node not in state.reads:
        return
    if Step.FORGET in steps:
        forest.drop_synced(node)
        steps = ()
    local, remote = forest.local.rows.get(node), forest.remote.rows.get(node)
    if Step.REMEMBER in steps:
        assert local is not None
        assert remote is not None
        forest.put_synced(remembered(local, remote, forest.synced.get(node)))
        _share(state, local, remote)
        return  # it is dirty again
    if local is not None and _PLACED & set(steps):
        steps = _unclashed(state, local, steps)
    if local is not None and _WITH_CONTENT & set(steps):
        steps = _read_first(state, local, remote, steps)
    if remote is not None and remote.alive and (remote.fault or not remote.name):
        if _NEEDS_ITS_REMOTE & set(steps):
            state.stuck[node] = remote.fault or "no usable name"
        steps = tuple(step for step in steps if step not in _NEEDS_ITS_REMOTE)
    if not _USES_ITS_READING & set(steps):
        state.forget_read(node)
    _set(state, node, steps)


def _decide(state: State, node: bytes) -> Steps:
    forest = state.forest
    local, remote = forest.local.rows.get(node), forest.remote.rows.get(node)
    half = (local is None) == (remote is not None and remote.alive)
    return decide(
        local,
        remote,
        forest.synced.get(node),
        kept=half and _kept(state, node),
        yielded=node in state.yielded,
    )


def _kept(state: State, node: bytes) -> bool:
    plans = state.plans
    if node in state.forest.local.rows:
        return any(keeps_there(plans.get(n, ())) for n in state.forest.local.children(node))
    return any(keeps_here(plans.get(n, ())) for n in state.forest.remote.children(node))


def _share(state: State, local: Local, remote: Remote) -> None:
    """Keep equal names and content ids in memory once."""
    if local.name == remote.name and local.content_id == remote.content_id:
        rows = state.forest.local.rows
        rows[local.node] = replace(local, name=remote.name, content_id=remote.content_id)


def _read_first(state: State, local: Local, remote: Remote | None, steps: Steps) -> Steps:
    if local.type is NodeType.DIRECTORY:
        return steps
    read = state.reads.get(local.node)
    if read is not None and read.content_id == local.content_id:
        return steps
    if Step.RESTORE in steps and remote is not None and remote.content_id == local.content_id:
        return steps  # the journal has that content
    return (Step.READ, *(step for step in steps if step not in _WITH_CONTENT))


def _set(state: State, node: bytes, steps: Steps) -> None:
    forest = state.forest
    local, remote = forest.local.rows.get(node), forest.remote.rows.get(node)
    old = state.plans.get(node, ())
    if steps:
        state.plans[node] = steps
    else:
        state.plans.pop(node, None)
        state.done(node)
    if _DESTROYS & set(steps):
        state.destructive.add(node)
    else:
        state.destructive.discard(node)
        state.approved.discard(node)
    if steps != old:
        state.unsaved_queue.add(node)
        if local is not None and keeps_there(steps) != keeps_there(old):
            _touch_half(state, local.parent)
        if remote is not None and keeps_here(steps) != keeps_here(old):
            _touch_half(state, remote.parent)
    _enqueue(state, node, steps, local, remote)


def _touch_half(state: State, node: bytes) -> None:
    if state.forest.half(node):
        state.forest.touch(node)


def _enqueue(
    state: State, node: bytes, steps: Steps, local: Local | None, remote: Remote | None
) -> None:
    wanted = set(steps)
    if Step.READ in wanted and local is not None and node not in state.reading:
        state.to_read.push(priority.of_read(local), node)
    else:
        state.to_read.discard(node)
    if wanted & SENDS:
        depth = state.forest.depth(node)
        state.to_send.push(priority.of_send(steps, local, depth), node)
    else:
        state.to_send.discard(node)
    if wanted & TAKES:
        depth = state.forest.depth(node)
        state.to_take.push(priority.of_take(steps, remote, depth), node)
    else:
        state.to_take.discard(node)


def watch_mass_change(state: State) -> None:
    """Hold deletions and overwrites that are too many at once; let go when they are not."""
    pending = len(state.destructive) - len(state.approved)
    if state.breaker.allows(pending, len(state.forest.synced), state.now_ms):
        if state.holds.pop(MASS_CHANGE, None) is not None:
            for node in sorted(state.destructive):
                state.forest.touch(node)
            run(state)
    else:
        state.hold(MASS_CHANGE, f"{pending} deletions and overwrites at once")


# ------------------------------------------------------------------ name clashes


def _unclashed(state: State, local: Local, steps: Steps) -> Steps:
    """Return the steps of an entry that goes to a name which another live node may hold."""
    forest, node = state.forest, local.node
    folded = fold(local.name)
    holder = forest.remote.holder(local.parent, folded)
    if holder is None or holder == node:
        return steps
    forest.block(node, holder)
    if holder in state.missing or state.busy(holder):
        return ()
    here = forest.local.rows.get(holder)
    if here is not None and here.parent == local.parent and fold(here.name) == folded:
        state.stuck[node] = "case_clash"
        return ()
    if VACATES_THERE & set(_decide(state, holder)):
        return steps
    if not state.caught_up:
        state.after_pull.add(node)
        return ()
    theirs = forest.remote.rows[holder]
    if here is None and not forest.remote.alive(node) and _alike(local, theirs):
        adopt(state, local, theirs)
        return ()
    return (Step.CLASH,)


def _alike(local: Local, theirs: Remote) -> bool:
    if local.type is not theirs.type:
        return False
    return local.type is NodeType.DIRECTORY or local.content_id == theirs.content_id


def adopt(state: State, local: Local, theirs: Remote) -> None:
    """Let an entry on disk take over the id of the node it is the same as, children and all."""
    forest = state.forest
    children = [forest.local.rows[child] for child in forest.local.children(local.node)]
    forest.drop_local(local.node)
    forest.drop_synced(local.node)
    state.forget_read(local.node)
    forest.put_local(replace(local, node=theirs.node))
    for child in children:
        forest.put_local(replace(child, parent=theirs.node))
    for gone, (row, until_ms) in list(state.missing.items()):
        if row.parent == local.node:
            state.missing[gone] = (replace(row, parent=theirs.node), until_ms)
            state.missing_at.pop((row.parent, row.name), None)
            state.missing_at[theirs.node, row.name] = gone


def free_name(state: State, parent: bytes, name: str, device: bytes, at_ms: int) -> str:
    """Return the first conflict name of `name` that nothing in the directory has, here or there."""
    author = state.names.get(device, "another device")
    number = 1
    while True:
        candidate = conflict_name(name, author, at_ms, number)
        folded = fold(candidate)
        forest = state.forest
        if forest.remote.holder(parent, folded) is None and not forest.local.alike(parent, folded):
            return candidate
        number += 1
