"""Bring the disk up to date: batches of disk steps, parents first, removals children first.

A step is taken only where the local tree still is as the plan assumed; the adapter compares the
disk with it once more. What is in the way leaves first, in the same batch; a ring of renames goes
through a name of passage. Each finished step moves local and synced tree together.
"""

from dataclasses import dataclass, replace

from client_agent.core.events import (
    Applied,
    Apply,
    DiskStep,
    MakeDirectory,
    Move,
    PutFile,
    PutLink,
    Remove,
    StepDone,
    StepFailed,
)
from client_agent.core.observing import miss, settle
from client_agent.core.planner import TAKES, VACATES_HERE, Step, remembered
from client_agent.core.planning import free_name
from client_agent.core.safety import HISTORY, STOPS_DISK
from client_agent.core.state import State, Taking, joined
from client_agent.core.trees import Local, Remote, Stat, Synced
from protocol.backoff import NODE, RECONNECT
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.limits import MIB
from protocol.names import fold

STEPS_MAX = 1_000  # in one batch
BATCH_BYTES_MAX = 32 * MIB  # a larger file goes on its own
APPLIES_MAX = 4
NEST_MAX = 100
_ORDER = (Step.CLASH, Step.REMOVE, Step.MAKE, Step.SHIFT, Step.PUT)  # one at a time for a node


def dispatch(state: State) -> None:
    """Start batches as far as the limits allow."""
    stopped = HISTORY in state.holds or bool(STOPS_DISK & state.holds.keys())
    if stopped or not (state.connected and state.scanned and state.caught_up):
        return
    while state.applies < APPLIES_MAX:
        batch = _Batch(state)
        while not batch.full():
            node = state.to_take.pop()
            if node is None:
                break
            batch.add(node)
        for node in batch.overflowed:
            state.forest.touch(node)
        if not batch.steps:
            return
        state.applies += 1
        state.out.append(Apply(tuple(batch.steps)))


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a step goes: the directory, the name there, the path."""

    parent: bytes
    name: str
    path: str


class _Batch:
    """One Apply in the making."""

    def __init__(self, state: State) -> None:
        self.state, self.forest = state, state.forest
        self.steps: list[DiskStep] = []
        self.overflowed: list[bytes] = []
        self._made: dict[bytes, str] = {}  # directories made in this batch -> path
        self._left: set[bytes] = set()  # entries that leave their name in this batch
        self._active: list[bytes] = []
        self._bytes = 0
        self._ring = False  # what came up waits for itself

    def full(self) -> bool:
        """Say whether another step might be one too many."""
        return len(self.steps) >= STEPS_MAX or self._bytes >= BATCH_BYTES_MAX

    def add(self, node: bytes) -> bool:
        """Add a node's next step, and before it what has to come before. False: not now."""
        state = self.state
        if node in state.taking:
            return node in self._made or node in self._left
        steps = [s for s in _ORDER if s in state.plans.get(node, ()) and s in TAKES]
        if node in self._active:
            self._ring = True
            return False
        if not steps or node in state.reading or not state.free(node):
            return False
        if len(self._active) >= NEST_MAX or len(self.steps) >= 2 * STEPS_MAX:
            self.overflowed.append(node)
            return False
        self._active.append(node)
        try:
            return self._step(node, steps[0])
        finally:
            self._active.pop()

    def _step(self, node: bytes, step: Step) -> bool:
        local, remote = self.forest.local.rows.get(node), self.forest.remote.rows.get(node)
        if step in (Step.MAKE, Step.PUT) and self._no_room(node, remote):
            return False
        path = self._path(node, node) if local is not None else ""
        if path is None:
            return False
        if step is Step.MAKE or step is Step.SHIFT:
            assert remote is not None
            target = self._target(node, remote)
            if target is None or not self._name_is_free(node, target):
                return False
            if node in self.state.taking:
                return True  # parked: the rest of the ring goes first
            moved = local is not None and self._path(node, node) != path
            if moved or self._target(node, remote) != target:
                return False  # what had to leave took a folder along: paths are others then
            if local is None:
                self._make(remote, target)
            else:
                self._move(local, remote, target, "shift")
            return True
        assert local is not None
        if step is Step.REMOVE:
            return self._remove(local, remote, path)
        if step is Step.CLASH:
            self._clash(local, path)
        else:
            assert remote is not None
            self._put(remote, _Target(local.parent, local.name, path), local.stat)
            self._begin(node, "put", remote, local.parent, local.name, "", path)
        return True

    # ------------------------------------------------------------ what has to hold

    def _no_room(self, node: bytes, remote: Remote | None) -> bool:
        """Say whether a content has to wait until the disk is no longer full."""
        until_ms = self.state.downloads_not_before_ms
        full = until_ms > self.state.now_ms and not self.forest.is_directory(node)
        if full and remote is not None:
            self.state.alarm(until_ms, "node", node)
        return full

    def _path(self, node: bytes, waiter: bytes) -> str | None:
        """Return the path of an entry; None, and a block, if a directory above it moves now."""
        names: list[str] = []
        while node != ROOT:
            row = self.forest.local.rows.get(node)
            under_way = self.state.taking.get(node)
            if row is None or (under_way is not None and node != waiter):
                self.forest.block(waiter, node)
                return None
            names.append(row.name)
            node = row.parent
        return "/".join(reversed(names))

    def _target(self, node: bytes, remote: Remote) -> _Target | None:
        parent = remote.parent
        here = parent == ROOT or parent in self.forest.local.rows or parent in self._made
        if not here and not self.add(parent):
            self.forest.block(node, parent)
            return None
        between = self.forest.local.between(parent, node)
        if between:
            self._ring = True
            for mover in between:  # one of them has to leave first
                self.forest.block(node, mover)
            return None
        above = self._made.get(parent)
        if above is None:
            above = self._path(parent, node) if parent != ROOT else ""
        return None if above is None else _Target(parent, remote.name, joined(above, remote.name))

    def _name_is_free(self, node: bytes, target: _Target) -> bool:
        """See to it that whatever has that name on disk leaves it before."""
        folded = fold(target.name)
        for holder in self.forest.local.alike(target.parent, folded):
            if holder == node or holder in self._left:
                continue
            leaves = VACATES_HERE & set(self.state.plans.get(holder, ()))
            self._ring = False
            if leaves and self.add(holder):
                continue
            if not (leaves and self._ring and self._park(holder)):
                self.forest.block(node, holder)
                return False
        return True

    def _park(self, node: bytes) -> bool:
        """Take an entry out of a ring of renames, to a name of passage; it goes on from there."""
        local = self.forest.local.rows[node]
        name = f"moving {self.state.dice(6).hex()}"
        path = self._path(node, node)
        if path is None:
            return False
        target = _Target(local.parent, name, joined(path.rpartition("/")[0], name))
        self._move(local, None, target, "aside")
        return True

    # ------------------------------------------------------------ the steps

    def _begin(
        self, node: bytes, step: str, remote: Remote | None, parent: bytes, name: str,
        source: str, path: str,
    ) -> None:  # fmt: skip
        state = self.state
        state.taking[node] = Taking(step, remote, parent, name, source, path)
        if state.scanning is not None:
            state.unsure |= {p for p in (source, path) if p}
        if step in ("put", "remove"):
            state.count_destructive(node)

    def _make(self, remote: Remote, target: _Target) -> None:
        if remote.type is NodeType.DIRECTORY:
            self.steps.append(MakeDirectory(remote.node, target.path))
            self._made[remote.node] = target.path
        else:
            self._put(remote, target, None)
        self._begin(remote.node, "make", remote, target.parent, target.name, "", target.path)

    def _put(self, remote: Remote, target: _Target, expect: Stat | None) -> None:
        self._bytes += remote.size_bytes
        if remote.type is NodeType.SYMLINK:
            self.steps.append(PutLink(remote.node, target.path, expect, remote.target))
            return
        self.steps.append(
            PutFile(
                node=remote.node,
                path=target.path,
                expect=expect,
                version=remote.version,
                content_id=remote.content_id,
                size_bytes=remote.size_bytes,
                mtime_ns=remote.mtime_ns,
                executable=remote.executable,
            )
        )

    def _move(self, local: Local, remote: Remote | None, target: _Target, step: str) -> None:
        source = self._path(local.node, local.node)
        assert source is not None, "looked at before"
        self.steps.append(Move(local.node, source, target.path, local.stat))
        self._left.add(local.node)
        self._begin(local.node, step, remote, target.parent, target.name, source, target.path)

    def _clash(self, local: Local, path: str) -> None:
        """Give our own entry a conflict name; then it is sent under that."""
        state = self.state
        name = free_name(state, local.parent, local.name, state.device, state.now_ms)
        target = _Target(local.parent, name, joined(path.rpartition("/")[0], name))
        state.tell("name_clash", path, target.path)
        self._move(local, None, target, "clash")

    def _remove(self, local: Local, remote: Remote | None, path: str) -> bool:
        for child in list(self.forest.local.children(local.node)):
            leaves = VACATES_HERE & set(self.state.plans.get(child, ()))
            if child not in self._left and not (leaves and self.add(child)):
                self.forest.block(local.node, child)
                return False
        self.steps.append(Remove(local.node, path, local.type, local.stat))
        self._left.add(local.node)
        self._begin(local.node, "remove", remote, local.parent, local.name, "", path)
        return True


# ------------------------------------------------------------------ results


def applied(state: State, event: Applied) -> None:
    """Record what was done, and react to what was not."""
    if event.last:
        state.applies -= 1
    for result in event.results:
        taking = state.taking.get(result.node)
        if taking is None:
            continue  # said twice
        del state.taking[result.node]
        state.forest.touch(result.node)
        if isinstance(result, StepDone):
            _done(state, result, taking)
        else:
            _failed(state, result, taking)
    if not state.taking and state.later:
        for path in state.later:
            state.scan(path)
        state.later.clear()


def _done(state: State, result: StepDone, taking: Taking) -> None:
    forest, node = state.forest, result.node
    local, remote = forest.local.rows.get(node), taking.remote
    state.done(node)
    if taking.step == "remove":
        for child in list(forest.local.children(node)):
            miss(state, child)  # it was not in there any more
        forest.drop_local(node)
        forest.drop_synced(node)
        state.note("deleted here", node, path=taking.path)
        return
    if result.stat is None or (taking.parent != ROOT and taking.parent not in forest.local.rows):
        state.scan(taking.path)  # its directory is not there after all: let the disk tell
        return
    if taking.step == "make":
        assert remote is not None
        _made(state, remote, taking, result.stat)
    elif local is None:
        state.scan(taking.path)
    elif taking.step == "put":
        assert remote is not None
        forest.put_local(
            replace(
                local, stat=result.stat, content_id=remote.content_id, target=remote.target,
                type=remote.type, racy=False,
            )
        )  # fmt: skip
        old = forest.synced.get(node)
        base = old or Synced(node, local.parent, local.name, remote.type)
        forest.put_synced(
            replace(
                base, content_id=remote.content_id, version=remote.version, vector=remote.vector
            )
        )
        state.note("downloaded", node)
    else:
        settle(
            state, replace(local, parent=taking.parent, name=taking.name, stat=result.stat)
        )
        if local.type is NodeType.DIRECTORY:
            state.scan(taking.path)  # what was to be looked at where it was before
        _shifted(state, node, taking)


def _made(state: State, remote: Remote, taking: Taking, stat: Stat) -> None:
    forest = state.forest
    row = Local(
        remote.node, taking.parent, taking.name, remote.type, stat, remote.content_id,
        remote.target,
    )  # fmt: skip
    settle(state, row)
    as_taken = replace(remote, parent=taking.parent, name=taking.name)
    forest.put_synced(remembered(row, as_taken, None))
    if remote.type is not NodeType.DIRECTORY:
        state.note("downloaded", remote.node)


def _shifted(state: State, node: bytes, taking: Taking) -> None:
    """A move that the journal knows moves the merge base; a conflict name is still to be sent."""
    old = state.forest.synced.get(node)
    if taking.step == "shift":
        state.yielded.discard(node)
        if old is not None:
            state.forest.put_synced(replace(old, parent=taking.parent, name=taking.name))
        state.note("renamed here", node)
    elif taking.step == "clash":
        state.note("set aside", node)


def _failed(state: State, result: StepFailed, taking: Taking) -> None:
    node, reason = result.node, result.reason
    if reason in ("changed", "missing", "exists", "not_empty"):
        for path in (taking.source, taking.path):
            if path:
                state.scan(path)
        state.after_scan.add(node)
        state.retry(node, reason)
    elif reason == "offline":
        state.after_connect.add(node)
        state.wait(node, reason, RECONNECT)
    elif reason == "disk_full":
        state.wait(node, reason, RECONNECT, floor_ms=5_000)  # the disk's trouble, not the file's
        until_ms = state.waits[node].until_ms
        state.downloads_not_before_ms = max(state.downloads_not_before_ms, until_ms)
        state.tell("disk_full", taking.path, result.detail)
    else:
        state.wait(node, f"{reason}: {result.detail}" if result.detail else reason, NODE, 1_000)
