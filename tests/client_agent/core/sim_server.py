"""A server in memory for the simulated world, after SYNC.md 4: a hundred lines of UserSync."""

from dataclasses import dataclass, replace

from client_agent.core import events as e
from protocol import vector
from protocol.codec import sha256
from protocol.entry import ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.journal import Outcome, RowKind
from protocol.names import fold
from protocol.vector import EMPTY, Order, Vector
from tests.client_agent.core.sim_disk import DIRECTORY, SYMLINK, content_id


@dataclass
class Content:
    version: bytes
    type: NodeType
    data: bytes
    executable: bool = False
    mtime: int = 0

    @property
    def id(self) -> bytes:
        return content_id(self.type, self.data, self.executable)


@dataclass(frozen=True)
class Node:
    node: bytes
    parent: bytes
    name: str
    type: NodeType
    place_rev: int = 1
    alive: bool = True
    version: bytes = b""
    vector: Vector = EMPTY
    stamp: tuple = (0, b"")


class Refusal(Exception):
    pass


class Server:
    """UserSync in a hundred lines: admission, conflicts, atomic groups, idempotent answers."""

    def __init__(self):
        self.nodes: dict[bytes, Node] = {}
        self.contents: dict[bytes, Content] = {}
        self.rows: list[e.RemoteChange] = []
        self.answers: dict[tuple[bytes, int], e.Committed] = {}
        self.dots: set[tuple[bytes, int]] = set()
        self.refuse: dict[bytes, str] = {}  # node -> code, planted by tests

    @property
    def head(self) -> int:
        return len(self.rows)

    def bytes_kept(self) -> set[bytes]:
        return {content.id for content in self.contents.values()}

    def commit(self, device: bytes, op: int, changes, now_ms: int) -> e.Committed:
        if (device, op) in self.answers:
            return self.answers[device, op]
        units: dict[int, list[int]] = {}
        for i, (spec, _) in enumerate(changes):
            units.setdefault(spec.group or -1 - i, []).append(i)
        results: dict[int, e.ChangeResult] = {}
        for group, members in units.items():
            nodes, count = dict(self.nodes), len(self.rows)
            for i in members:
                try:
                    results[i] = self._change(device, *changes[i], now_ms, group > 0)
                except Refusal as no:
                    self.nodes, self.rows[count:] = nodes, []
                    for j in members:
                        results[j] = e.ResultRefused("group_failed", {})
                    results[i] = e.ResultRefused(str(no), {})
                    break
            else:
                twice = self._name_twice() if group > 0 else None
                if twice is not None:
                    self.nodes, self.rows[count:] = nodes, []
                    for j in members:
                        results[j] = e.ResultRefused("name_taken", {})
        answer = e.Committed(op, tuple(results[i] for i in range(len(changes))), self.head)
        self.answers[device, op] = answer
        return answer

    def _name_twice(self):
        seen = set()
        for node in self.nodes.values():
            if node.alive:
                place = (node.parent, fold(node.name))
                if place in seen:
                    return place
                seen.add(place)
        return None

    def _change(self, device, spec: e.ChangeSpec, content, now_ms, grouped):
        if spec.node in self.refuse:
            raise Refusal(self.refuse[spec.node])
        if (device, spec.dot) in self.dots:
            raise Refusal("dot_reused")
        old = self.nodes.get(spec.node)
        kind = spec.kind
        if kind is ChangeKind.CREATE and old is not None:
            raise Refusal("node_exists")
        if kind is not ChangeKind.CREATE and old is None:
            raise Refusal("not_found")
        if kind is ChangeKind.RESTORE:
            if old.alive or spec.place_rev != old.place_rev:
                raise Refusal("stale")
        elif kind is not ChangeKind.CREATE and not old.alive:
            raise Refusal("node_dead")
        if kind in (ChangeKind.MOVE, ChangeKind.DELETE) and spec.place_rev != old.place_rev:
            raise Refusal("stale")
        if kind is ChangeKind.DELETE:
            self._may_die(spec, old)
        if spec.parent is not None:
            self._may_be_there(spec, grouped)
        if spec.copy_of is not None:
            lost = self.contents[spec.copy_of]
            content = replace(lost, version=sha256(b"copy", spec.node, lost.version)[:16])
        new = old or Node(spec.node, spec.parent, spec.name, spec.type, place_rev=0)
        if spec.parent is not None:
            new = replace(new, parent=spec.parent, name=spec.name, alive=True)
        if kind is not ChangeKind.MODIFY:
            new = replace(new, place_rev=new.place_rev + 1)
        if kind is ChangeKind.DELETE:
            new = replace(new, alive=False)
        outcome, loser, dotted = Outcome.ACCEPTED, None, EMPTY
        if kind is ChangeKind.SET_HEAD:
            if spec.base != old.vector:
                raise Refusal("stale")
            content = self.contents[spec.version]
            dotted = vector.add(spec.base, (device, spec.dot))
            new = replace(
                old, version=spec.version, vector=dotted, stamp=(spec.hlc, device)
            )
        elif content is not None:
            new, outcome, loser, dotted = self._content(device, spec, content, old, new)
        elif kind is ChangeKind.RESTORE and spec.base != old.vector:
            raise Refusal("stale")
        self.dots.add((device, spec.dot))
        self.nodes[spec.node] = new
        return self._journal(device, spec, new, content, outcome, loser, dotted, now_ms)

    def _may_die(self, spec, old):
        if spec.base != old.vector:
            raise Refusal("stale")
        if any(n.alive and n.parent == spec.node for n in self.nodes.values()):
            raise Refusal("not_empty")

    def _may_be_there(self, spec, grouped):
        parent = spec.parent
        if parent != ROOT:
            row = self.nodes.get(parent)
            if row is None:
                raise Refusal("parent_missing")
            if not row.alive:
                raise Refusal("parent_dead")
            if row.type is not DIRECTORY:
                raise Refusal("not_a_directory")
        while parent != ROOT:
            if parent == spec.node:
                raise Refusal("cycle")
            parent = self.nodes[parent].parent
        for node in () if grouped else self.nodes.values():
            same = (node.parent, fold(node.name)) == (spec.parent, fold(spec.name))
            if node.alive and same and node.node != spec.node:
                raise Refusal("name_taken")

    def _content(self, device, spec, content: Content, old, new):
        self.contents[content.version] = content
        dotted = vector.add(spec.base, (device, spec.dot))
        stamp = (spec.hlc, device)
        ours = replace(new, version=content.version, vector=dotted, stamp=stamp)
        if old is None or not old.version or spec.base == old.vector:
            return ours, Outcome.ACCEPTED, None, dotted
        assert vector.compare(dotted, old.vector) is not Order.EQUAL
        joint = vector.join(old.vector, dotted)
        if self.contents[old.version].id == content.id:
            return replace(new, vector=joint), Outcome.JOINED, None, dotted
        if stamp > old.stamp:
            return replace(ours, vector=joint), Outcome.WON, old.version, dotted
        return replace(new, vector=joint), Outcome.LOST, content.version, dotted

    def _journal(self, device, spec, new, content, outcome, loser, dotted, now_ms):
        seq = len(self.rows) + 1
        head = self.contents.get(new.version)
        shown = head if content is not None else None
        self.rows.append(
            e.RemoteChange(
                seq=seq,
                hash=seq.to_bytes(32, "big"),
                kind=RowKind.CHANGE,
                node=spec.node,
                server_ms=now_ms,
                change=spec.kind,
                type=new.type,
                device=device,
                dot=spec.dot,
                hlc=spec.hlc,
                place_rev=new.place_rev,
                place_rev_before=spec.place_rev,
                parent=spec.parent,
                name=spec.name,
                version=shown.version if shown else None,
                content_id=shown.id if shown else b"",
                vector=dotted,
                size_bytes=len(shown.data) if shown else 0,
                mtime_ns=shown.mtime if shown else 0,
                executable=shown.executable if shown else False,
                target=shown.data.decode() if shown and shown.type is SYMLINK else "",
                outcome=outcome,
                head=new.version or None,
                loser=loser,
                copy=sha256(b"copy", spec.node, loser)[:16] if loser else None,
            )
        )
        if outcome is Outcome.ACCEPTED:
            return e.ResultAccepted(seq)
        return e.ResultConflicted(seq)

    def live(self) -> dict[str, tuple]:
        """Paths to (type, data, executable), as a disk's `listing`."""
        found = {}
        for node in self.nodes.values():
            if node.alive:
                content = self.contents.get(node.version)
                data = (content.data, content.executable) if content else (b"", False)
                found[self.path(node)] = (node.type, *data)
        return found

    def path(self, node: Node) -> str:
        names = [node.name]
        while node.parent != ROOT:
            node = self.nodes[node.parent]
            assert node.alive, "I1: a live node has a live parent"
            names.append(node.name)
        return "/".join(reversed(names))
