"""Put changes together to a commit: parents first, deletions children first, and what takes
another's name in one atomic group with that other's leaving.

A change whose preconditions are not met is left out, and its node waits for the one that is in
its way. Nothing here changes a tree; `sending` does the rest.
"""

from dataclasses import replace

from client_agent.core.events import ChangeSpec
from client_agent.core.planner import SENDS, VACATES_THERE, Step, base_of
from client_agent.core.state import State
from client_agent.core.trees import Local, Remote
from protocol.entry import ChangeKind, NodeType
from protocol.limits import COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX, PACK_BYTES_MAX
from protocol.names import fold
from protocol.vector import EMPTY

CHANGE_BYTES = 800  # of a place, its seal, vector and ids, generously
CHUNK_REF_BYTES = 140  # in a manifest and beside it
CHUNK_BYTES = 256 * 1024  # the smallest that contents are cut into, but for their ends
NEST_MAX = 100  # deeper chains of preconditions wait for the next commit
_KINDS = (
    (Step.CREATE, ChangeKind.CREATE),
    (Step.RESTORE, ChangeKind.RESTORE),
    (Step.MOVE, ChangeKind.MOVE),
    (Step.MODIFY, ChangeKind.MODIFY),
    (Step.DELETE, ChangeKind.DELETE),
)
_PLACED = frozenset({Step.CREATE, Step.RESTORE, Step.MOVE})
Place = tuple[bytes, str]  # parent, folded name


class Composer:
    """One commit in the making. A unit is a change with what has to come before it."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.specs: list[ChangeSpec] = []
        self.nodes: dict[bytes, None] = {}
        self.overflowed: list[bytes] = []  # nothing wrong with them, but there was no room
        self._places: dict[bytes, Place | None] = {}  # after this commit; None: dead
        self._comers: dict[Place, bytes] = {}  # who comes to a name in this commit
        self._active: list[bytes] = []  # being added, outermost first
        self._bytes = self._inline_bytes = 0
        self._grouped = self._no_room = False
        self._groups = 0

    def full(self) -> bool:
        """Say whether another change might be one too many."""
        return (
            len(self.specs) >= self.state.commit_changes_max
            or self._bytes > COMMIT_BYTES_MAX * 3 // 4
            or self._inline_bytes > PACK_BYTES_MAX * 3 // 4
        )

    def add(self, node: bytes) -> None:
        """Add a node's changes and what they need, all of it or nothing."""
        if node in self.nodes:
            return
        mark = len(self.specs)
        self._grouped = self._no_room = False
        if not self._add(node):
            for spec in self.specs[mark:]:
                self.nodes.pop(spec.node, None)
                place = self._places.pop(spec.node, None)
                if place is not None:
                    self._comers.pop(place, None)
            del self.specs[mark:]
            if self._no_room:
                self.overflowed.append(node)
        else:
            unit = sorted(self.specs[mark:], key=self._order)
            if self._grouped:
                self._groups += 1
                unit = [replace(spec, group=self._groups) for spec in unit]
            self.specs[mark:] = unit

    def _order(self, spec: ChangeSpec) -> tuple[int, int]:
        """Directories come before what goes into them, and die after what leaves them."""
        depth = self.state.forest.depth(spec.node)
        if spec.kind is ChangeKind.DELETE:
            return (2, -depth)
        makes = spec.type is NodeType.DIRECTORY and spec.kind is not ChangeKind.MOVE
        return (0 if makes else 1, depth)

    def _add(self, node: bytes) -> bool:
        if node in self.nodes or node in self._active:
            return True
        state = self.state
        steps = [s for s in state.plans.get(node, ()) if s in SENDS]
        if not steps or node in state.after_pull or not state.free(node):
            return False
        crowded = len(self.specs) + len(self._active) >= COMMIT_CHANGES_MAX - 1
        if crowded or len(self._active) >= NEST_MAX:
            self._no_room = True
            return False
        self._active.append(node)
        ready = self._ready(node, steps)
        self._active.pop()
        if ready:
            self._write(node, steps)
        return ready

    def _ready(self, node: bytes, steps: list[Step]) -> bool:
        if Step.DELETE in steps:
            return self._is_empty(node)
        local = self.state.forest.local.rows[node]
        if not _PLACED & set(steps):
            return True
        return self._parent_lives(local) and self._no_cycle(local) and self._name_is_free(local)

    def _is_empty(self, node: bytes) -> bool:
        """See to it that nothing live is left in a directory when the unit is done."""
        state, forest = self.state, self.state.forest
        for child in forest.remote.children(node):
            if child in self._places:
                continue
            if not (VACATES_THERE & set(state.plans.get(child, ())) and self._add(child)):
                forest.block(node, child)
                return False
        return True

    def _parent_lives(self, local: Local) -> bool:
        forest = self.state.forest
        gone = local.parent in self._places and self._places[local.parent] is None
        if not gone and (forest.remote.alive(local.parent) or self._add(local.parent)):
            return True
        forest.block(local.node, local.parent)
        return False

    def _no_cycle(self, local: Local) -> bool:
        """See to it that a directory does not move into itself; its move is undone if it would."""
        if local.type is not NodeType.DIRECTORY:
            return True
        state, forest, above = self.state, self.state.forest, local.parent
        movers: list[bytes] = []  # they would open the ring, if they went first
        while above != local.node:
            coming, row = self._places.get(above), forest.remote.rows.get(above)
            if above in self._active:
                above = forest.local.rows[above].parent
            elif coming is not None:
                above = coming[0]
            elif row is not None:
                if Step.MOVE in state.plans.get(above, ()):
                    movers.append(above)
                above = row.parent
            else:
                return True
        if not movers:
            state.yield_place(local.node)
            return False
        if self._add(movers[0]):
            return self._no_cycle(local)
        forest.block(local.node, movers[0])
        return False

    def _name_is_free(self, local: Local) -> bool:
        """See to it that no other live node holds the name when the unit is done."""
        state, forest = self.state, self.state.forest
        place = (local.parent, fold(local.name))
        holder = self._comers.get(place)
        if holder is None:
            holder = forest.remote.holder(*place)
            if holder is None or holder == local.node or holder in self._places:
                return True
            if VACATES_THERE & set(state.plans.get(holder, ())) and self._add(holder):
                self._grouped = True
                return True
        forest.block(local.node, holder)
        return False

    def _write(self, node: bytes, steps: list[Step]) -> None:
        forest = self.state.forest
        local, remote = forest.local.rows.get(node), forest.remote.rows.get(node)
        for step, kind in _KINDS:
            if step in steps:
                self.specs.append(self._spec(kind, node, local, remote))
                self._bytes += CHANGE_BYTES
        self.nodes[node] = None
        if Step.DELETE in steps:
            self._places[node] = None
        elif local is not None and _PLACED & set(steps):
            place = (local.parent, fold(local.name))
            self._places[node] = place
            self._comers[place] = node

    def _spec(
        self, kind: ChangeKind, node: bytes, local: Local | None, remote: Remote | None
    ) -> ChangeSpec:
        row = local or remote
        assert row is not None
        base, version, prev, content = EMPTY, None, None, b""
        if local is None:
            assert remote is not None
            base = remote.vector
        elif kind is not ChangeKind.MOVE:
            if remote is not None:
                base = base_of(remote, self.state.forest.synced.get(node))
            if kind is ChangeKind.RESTORE and remote and remote.content_id == local.content_id:
                base = remote.vector
            elif local.type is not NodeType.DIRECTORY:
                read = self.state.reads[node]
                version, content = read.version, read.content_id
                prev = (remote.version or None) if remote else None
                self._inline_bytes += read.inline_bytes
                self._bytes += CHUNK_REF_BYTES * (1 + read.size_bytes // CHUNK_BYTES)
        placed = local is not None and kind is not ChangeKind.MODIFY
        return ChangeSpec(
            kind=kind,
            node=node,
            type=row.type,
            dot=0,  # given out when the commit is complete
            hlc=local.hlc if local else self.state.stamp(),
            place_rev=remote.place_rev if remote else 0,
            base=base,
            parent=row.parent if placed else None,
            name=row.name if placed else None,
            version=version,
            prev=prev,
            content_id=content,
        )
