"""A small world for the engine: disks, a server after SYNC.md 4, a bad network, and time.

Everything is drawn from one seed. Effects run at random times and in random order; answers and
pushes get lost; devices go offline, crash and start again from what they saved. What a user does
goes straight to a disk. The world checks as it goes: no bytes are overwritten or removed by us
that the server does not keep, and nothing lands outside what the journal says.
"""

import hashlib
import heapq
import random
from dataclasses import dataclass, field, replace

from client_agent.core import events as e
from client_agent.core.engine import Engine, Loaded
from client_agent.core.state import joined, parent_path
from client_agent.core.trees import Cursor, Stat
from protocol import vector
from protocol.codec import sha256
from protocol.entry import ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.journal import Outcome, RowKind
from protocol.names import fold
from protocol.vector import EMPTY, Order, Vector

FILE, DIRECTORY, SYMLINK = NodeType.FILE, NodeType.DIRECTORY, NodeType.SYMLINK
HISTORY = b"h" * 16


def content_id(kind, data: bytes, executable=False) -> bytes:
    return sha256(bytes([kind, executable]), data)


# ------------------------------------------------------------------ the disk


@dataclass
class Entry:
    type: NodeType
    inode: int
    data: bytes = b""
    mtime: int = 0
    ctime: int = 0
    executable: bool = False

    @property
    def stat(self) -> Stat:
        return Stat(self.inode, len(self.data), self.mtime, self.ctime, self.executable)


class Disk:
    """Paths to entries; parents always exist. Every change gives a hint, as a watcher would."""

    def __init__(self, hint=lambda path: None, number=0):
        self.entries: dict[str, Entry] = {}
        self.hint = hint
        self.clock = 1_000_000_000 + number  # no two disks have equal times by chance
        self.inodes = 0
        self.root_fault = ""
        self.unreadable: dict[str, str] = {}
        self.held: set[bytes] = set()  # ids of all contents that were ever here

    def tick(self) -> int:
        self.clock += 1_000_000
        return self.clock

    def _new(self, kind, data=b"", executable=False, mtime=None) -> Entry:
        self.inodes += 1
        now = self.tick()
        self.held.add(content_id(kind, data, executable))
        return Entry(kind, self.inodes, data, now if mtime is None else mtime, now, executable)

    def mkdir(self, path: str) -> None:
        assert path not in self.entries
        assert self.is_dir(parent_path(path)), path
        self.entries[path] = self._new(DIRECTORY)
        self.hint(path)

    def is_dir(self, path: str) -> bool:
        return path == "" or (path in self.entries and self.entries[path].type is DIRECTORY)

    def write(self, path: str, data: bytes, executable=False) -> None:
        """In place, if there is a file; else a new one."""
        assert self.is_dir(parent_path(path)), path
        old = self.entries.get(path)
        if old is not None and old.type is FILE:
            old.data, old.mtime, old.executable = data, self.tick(), executable
            old.ctime = old.mtime
            self.held.add(content_id(FILE, data, executable))
        else:
            assert old is None
            self.entries[path] = self._new(FILE, data, executable)
        self.hint(path)

    def link(self, path: str, target: str) -> None:
        assert path not in self.entries
        self.entries[path] = self._new(SYMLINK, target.encode())
        self.hint(path)

    def save_by_rename(self, path: str, data: bytes) -> None:
        """As editors save: a new file moved over the old one."""
        self.entries[path] = self._new(FILE, data)
        self.hint(path)

    def touch(self, path: str) -> None:
        entry = self.entries[path]
        entry.mtime = entry.ctime = self.tick()
        self.hint(path)

    def below(self, path: str) -> list[str]:
        top = f"{path}/" if path else ""
        return [p for p in self.entries if p.startswith(top) and p != path]

    def remove(self, path: str) -> None:
        for gone in [*self.below(path), path]:
            del self.entries[gone]
        self.hint(path)

    def rename(self, old: str, new: str) -> None:
        assert new not in self.entries or new == old
        assert not new.startswith(f"{old}/")
        assert self.is_dir(parent_path(new)), new
        moved = {new + p[len(old) :]: self.entries.pop(p) for p in [*self.below(old), old]}
        moved[new].ctime = self.tick()
        self.entries.update(moved)
        self.hint(old)
        self.hint(new)

    def swap(self, one: str, two: str) -> None:
        ones, twos = [one, *self.below(one)], [two, *self.below(two)]
        entries = {two + p[len(one) :]: self.entries[p] for p in ones}
        entries |= {one + p[len(two) :]: self.entries[p] for p in twos}
        for path in ones + twos:
            del self.entries[path]
        self.entries.update(entries)
        for path in (one, two):
            self.entries[path].ctime = self.tick()
            self.hint(path)

    def files(self) -> dict[str, bytes]:
        return {p: x.data for p, x in self.entries.items() if x.type is FILE}

    def listing(self) -> dict[str, tuple]:
        return {p: (x.type, x.data, x.executable) for p, x in self.entries.items()}

    def scan(self, effect: e.Scan, now_ms: int) -> e.Scanned:
        found: dict[str, Entry] = {}
        for scope in effect.scopes:
            if scope.path in self.entries:
                found[scope.path] = self.entries[scope.path]
            if scope.deep:
                found |= {p: self.entries[p] for p in self.below(scope.path)}
        hidden = tuple(self.unreadable)
        entries = tuple(
            e.Seen(p, x.type, x.stat, x.data.decode() if x.type is SYMLINK else "")
            for p, x in sorted(found.items())
            if not any(p == h or p.startswith(h + "/") for h in hidden)
        )
        return e.Scanned(
            effect.scopes, entries, dict(self.unreadable), now_ms, root_fault=self.root_fault
        )


# ------------------------------------------------------------------ the server


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
        if content is not None:
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


# ------------------------------------------------------------------ a device


@dataclass
class Saved:
    """What SQLite would hold."""

    loaded: Loaded
    generation: int = 0
    outbox: dict[int, list] = field(default_factory=dict)

    def write(self, save: e.Save) -> None:
        for name in ("local", "remote", "synced", "conflicts", "queue"):
            table = getattr(self.loaded, name)
            for key, row in getattr(save, name).items():
                if row is None:
                    table.pop(key, None)
                else:
                    table[key] = row
        for name in ("cursor", "dots", "ops", "hlc", "sent"):
            value = getattr(save, name)
            if value is not None:
                setattr(self.loaded, name, value)
        if save.generation is not None:
            self.generation = save.generation


class Device:
    """An engine with its simulated adapters."""

    def __init__(self, world: "World", number: int):
        self.world, self.number = world, number
        self.id = bytes([number + 1]) * 16
        self.disk = Disk(self._hint, number)
        self.saved = Saved(Loaded(Cursor(HISTORY, 0, b"")))
        self.online = True
        self.life = 0  # counts restarts: answers to an earlier life are lost
        self.hints: set[str] = set()
        self.ingested: dict[bytes, Content] = {}  # by version
        self.sealed_log: list[bytes] = []
        self.told: list[e.Tell] = []
        self.run_log: list[e.Effect] = []
        # planted by tests: path -> reason of Unread or StepFailed; faults of whole requests
        self.read_faults: dict[str, str] = {}
        self.step_faults: dict[str, str] = {}
        self.commit_faults: list[e.CommitFailed] = []
        self.pull_faults: list[str] = []
        self.generations = [1, 2, 3]
        self.start()

    def start(self) -> None:
        """Begin anew from what was saved, as after a crash."""
        self.life += 1
        self.ingested.clear()
        loaded = self.saved.loaded
        copy = Loaded(
            loaded.cursor, dict(loaded.local), dict(loaded.remote), dict(loaded.synced),
            dict(loaded.conflicts), dict(loaded.queue), loaded.dots, loaded.ops, loaded.hlc,
            loaded.sent,
        )  # fmt: skip
        self.engine = Engine(
            self.id, self.saved.generation, copy, self.world.dice, f"device-{self.number}"
        )
        names = {bytes([n + 1]) * 16: f"device-{n}" for n in range(9)}
        self.feed(e.Named(names))
        self.feed(e.Rescan())
        if self.online:
            self.feed(e.Connected(self.world.server.head))

    def _hint(self, path: str) -> None:
        if not self.hints:
            self.world.later(self.world.random.randint(1, 40), self, self._flush_hints)
        self.hints.add(path)

    @property
    def state(self):
        return self.engine._state

    def node(self, path: str) -> bytes:
        found = self.engine.node_at(path)
        assert found is not None, path
        return found

    def commits(self) -> list[e.Commit]:
        return [x for x in self.run_log if isinstance(x, e.Commit)]

    def kinds(self) -> list[str]:
        """What was sent, as `create a`, in order; first attempts only."""
        seen: dict[int, e.Commit] = {c.op: c for c in self.commits()}
        return [f"{s.kind} {s.name or ''}".strip() for c in seen.values() for s in c.changes]

    def clear(self) -> None:
        self.run_log.clear()
        self.told.clear()

    def go_offline(self) -> None:
        self.online = False
        self.feed(e.Disconnected())

    def go_online(self) -> None:
        self.online = True
        self.feed(e.Connected(self.world.server.head))

    def _flush_hints(self) -> None:
        hints, self.hints = frozenset(self.hints), set()
        if hints:
            self.feed(e.Hinted(hints))

    def feed(self, event: e.Event) -> None:
        effects = self.engine.handle(event, self.world.now_ms)
        if self.world.paranoid:
            self.world.check_local_tree(self, event)
        for index, effect in enumerate(effects):
            if isinstance(effect, e.Save):
                assert index == 0, "save, then speak"
                self.saved.write(effect)
                if self.world.crashes_now():
                    self.life += 1
                    self.world.later(1, self, self.start)
                    self.hints.clear()
                    return
                continue
            self.world.count(effect)
            self._run(effect)

    def _run(self, effect: e.Effect) -> None:
        world = self.world
        self.run_log.append(effect)
        match effect:
            case e.Tell():
                self.told.append(effect)
            case e.Wake():
                world.later(max(0, effect.at_ms - world.now_ms), self, lambda: self._woken(effect))
                self.wake = effect
            case e.Renew():
                generation = self.generations.pop(0)
                world.soon(self, lambda: self.feed(e.Renewed(generation)))
            case e.Commit():
                self._seal(effect)
                world.soon(self, lambda: self._commit(effect))
            case e.Scan():
                world.soon(self, lambda: self._scan(effect))
            case e.Ingest():
                world.soon(self, lambda: self._ingest(effect))
            case e.Apply():
                world.soon(self, lambda: self._apply(effect))
            case e.Pull():
                world.soon(self, lambda: self._pull(effect))

    def _woken(self, wake: e.Wake) -> None:
        if wake is self.wake:
            self.feed(e.Woken())

    def _reply(self, event: e.Event) -> None:
        self.world.soon(self, lambda: self.feed(event))

    def _scan(self, effect: e.Scan) -> None:
        self._reply(self.disk.scan(effect, self.world.now_ms))

    # ------------------------------------------------------------ reading and sending

    def _ingest(self, effect: e.Ingest) -> None:
        results = []
        for item in effect.items:
            entry = self.disk.entries.get(item.path)
            if not self.online:
                results.append(e.Unread(item.node, "offline"))
            elif item.path in self.read_faults:
                results.append(e.Unread(item.node, self.read_faults[item.path]))
            elif entry is None:
                results.append(e.Unread(item.node, "vanished"))
            elif entry.type is not item.type or self.world.chance(0.03):
                results.append(e.Unread(item.node, "busy"))
            else:
                version = self.world.dice(16)
                content = Content(
                    version, entry.type, entry.data, entry.executable, entry.mtime
                )
                self.ingested[version] = content
                size = len(entry.data)
                results.append(
                    e.Read(item.node, entry.stat, content.id, version, size, size,
                           racy=self.world.chance(0.05))
                )  # fmt: skip
        cut = self.world.random.randint(0, len(results))
        if cut:
            self._replies([e.Ingested(tuple(results[:cut]), last=False)])
        self._reply_after(e.Ingested(tuple(results[cut:])))

    def _replies(self, events) -> None:
        for event in events:
            self._reply_after(event)

    def _reply_after(self, event) -> None:
        """Answers of one effect come in their order."""
        self.world.later(self.world.delay_max_ms, self, lambda: self.feed(event))

    def _seal(self, commit: e.Commit) -> None:
        if commit.op in self.saved.outbox:
            return
        sealed = []
        for spec in commit.changes:
            if spec.version is not None and spec.version not in self.ingested:
                return  # a crash between saving and sealing: their contents are not at hand
            sealed.append((spec, self.ingested.get(spec.version) if spec.version else None))
        self.saved.outbox = {commit.op: sealed}

    def _commit(self, commit: e.Commit) -> None:
        world = self.world
        if commit.op not in self.saved.outbox:
            nodes = frozenset(spec.node for spec in commit.changes)
            self._reply(e.CommitFailed(commit.op, "chunks_missing", retry=False, unread=nodes))
            return
        if self.commit_faults:
            self._reply(replace(self.commit_faults.pop(0), op=commit.op))
            return
        if not self.online or world.chance(world.loss):
            self._reply(e.CommitFailed(commit.op, "offline", retry=True))
            return
        before = world.server.head
        changes = self.saved.outbox[commit.op]
        self._overwrites_only_what_was_here(changes)
        answer = world.server.commit(self.id, commit.op, changes, world.now_ms)
        world.push(before)
        if world.chance(world.loss):
            self._reply(e.CommitFailed(commit.op, "offline", retry=True))
        else:
            self._reply(answer)

    def _overwrites_only_what_was_here(self, changes) -> None:
        """No silent overwriting: whoever claims to have seen a content had it on its disk."""
        server = self.world.server
        for spec, content in changes:
            node = server.nodes.get(spec.node)
            met = content is not None and node is not None and node.version
            if met and vector.covers(spec.base, node.vector):
                assert server.contents[node.version].id in self.disk.held, "a lost update"

    def _pull(self, pull: e.Pull) -> None:
        if self.pull_faults:
            self._reply(e.PullFailed(self.pull_faults.pop(0)))
            return
        if not self.online or self.world.chance(self.world.loss):
            self._reply(e.PullFailed("offline"))
            return
        rows = self.world.server.rows[pull.after.seq : pull.after.seq + self.world.page]
        more = pull.after.seq + len(rows) < self.world.server.head
        self._reply(self._pulled(pull.after.seq, rows, more=more, asked=True))

    def _pulled(self, prev_seq, rows, **more) -> e.Pulled:
        mine = tuple(replace(row, own=row.device == self.id) for row in rows)
        return e.Pulled(HISTORY, prev_seq, mine, self.world.server.head, **more)

    def pushed(self, before: int) -> None:
        rows = self.world.server.rows[before:]
        self._reply(self._pulled(before, rows, asked=False))

    # ------------------------------------------------------------ taking

    def _apply(self, effect: e.Apply) -> None:
        results = []
        for step in effect.steps:
            try:
                results.append(self._step(step))
            except Refusal as no:
                results.append(e.StepFailed(step.node, str(no)))
        self._reply(e.Applied(tuple(results)))

    def _step(self, step: e.DiskStep) -> e.StepDone:
        disk, path = self.disk, step.path
        if path in self.step_faults:
            raise Refusal(self.step_faults[path])
        if not disk.is_dir(parent_path(path)):
            raise Refusal("missing")
        match step:
            case e.MakeDirectory():
                if path in disk.entries:
                    raise Refusal("exists")
                disk.mkdir(path)
            case e.PutFile() | e.PutLink():
                self._place(step)
            case e.Move():
                self._move(step)
            case e.Remove():
                self._expect(step)
                if step.type is DIRECTORY and disk.below(path):
                    raise Refusal("not_empty")
                self._must_be_kept(path)
                disk.remove(path)
                return e.StepDone(step.node, None)
        return e.StepDone(step.node, disk.entries[path].stat)

    def _expect(self, step) -> None:
        entry = self.disk.entries.get(step.path)
        if entry is None:
            raise Refusal("missing")
        if entry.type is DIRECTORY:
            if entry.inode != step.expect.inode:
                raise Refusal("changed")
        elif entry.stat != step.expect:
            raise Refusal("changed")

    def _must_be_kept(self, path: str) -> None:
        """I2 and I13: what we take from the disk is on the server."""
        entry = self.disk.entries[path]
        if entry.type is not DIRECTORY:
            kept = self.world.server.bytes_kept()
            assert content_id(entry.type, entry.data, entry.executable) in kept, "I13: lost bytes"

    def _place(self, step) -> None:
        disk, path = self.disk, step.path
        if step.expect is None:
            if path in disk.entries:
                raise Refusal("exists")
        else:
            self._expect(step)
            if disk.entries[path].type is DIRECTORY:
                raise Refusal("changed")
            self._must_be_kept(path)
        if not self.online:
            raise Refusal("offline")
        if isinstance(step, e.PutLink):
            entry = disk._new(SYMLINK, step.target.encode())
        else:
            content = self.world.server.contents[step.version]
            assert content.id == step.content_id, "I10: bytes that nobody wrote"
            entry = disk._new(FILE, content.data, content.executable, step.mtime_ns)
        disk.entries[path] = entry
        disk.hint(path)

    def _move(self, step: e.Move) -> None:
        disk = self.disk
        entry = disk.entries.get(step.source)
        if entry is None:
            raise Refusal("missing")
        same = entry.inode == step.expect.inode if entry.type is DIRECTORY else (
            entry.stat == step.expect
        )
        if not same:
            raise Refusal("changed")
        if step.path in disk.entries or step.path.startswith(f"{step.source}/"):
            raise Refusal("exists")
        disk.rename(step.source, step.path)


# ------------------------------------------------------------------ the world


class World:
    """Time, dice and network for some devices and one server."""

    def __init__(self, seed: int, devices: int = 2, *, loss=0.0, crash=0.0, delay_max_ms=20):
        self.random = random.Random(seed)
        self.loss, self.crash, self.delay_max_ms = loss, crash, delay_max_ms
        self.page = 1000
        self.renewals = False  # a test wants them
        self.paranoid = False  # look at the local trees after each event: slow
        self.now_ms = 1_700_000_000_000
        self.queue: list = []
        self.order = 0
        self.server = Server()
        self.effects: dict[str, int] = {}
        self.devices: list[Device] = []
        for number in range(devices):
            self.devices.append(Device(self, number))

    def dice(self, count: int) -> bytes:
        return self.random.randbytes(count)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def crashes_now(self) -> bool:
        return self.crash > 0 and self.chance(self.crash)

    def count(self, effect: e.Effect) -> None:
        name = type(effect).__name__
        self.effects[name] = self.effects.get(name, 0) + 1

    def later(self, delay_ms: int, device: Device, action) -> None:
        self.order += 1
        life = getattr(device, "life", 0)
        heapq.heappush(self.queue, (self.now_ms + delay_ms, self.order, device, life, action))

    def soon(self, device: Device, action) -> None:
        self.later(self.random.randint(0, self.delay_max_ms), device, action)

    def push(self, before: int) -> None:
        if self.server.head == before:
            return
        for device in self.devices:
            if device.online and not self.chance(self.loss):
                device.pushed(before)

    def run(self, for_ms: int) -> None:
        """Let that much time pass."""
        until_ms = self.now_ms + for_ms
        while self.queue and self.queue[0][0] <= until_ms:
            at_ms, _, device, life, action = heapq.heappop(self.queue)
            self.now_ms = max(self.now_ms, at_ms)
            if device.life == life:
                action()
        self.now_ms = until_ms

    def settle(self, rounds: int = 60) -> None:
        """Everybody online, nothing lost any more; run until all is in sync."""
        self.loss = self.crash = 0.0
        for device in self.devices:
            if not device.online:
                device.online = True
            device.feed(e.Connected(self.server.head))
            device.feed(e.Rescan())
        for _ in range(rounds):
            self.run(61_000)
            for device in self.devices:
                device.feed(e.Connected(self.server.head))  # the heartbeat
            self.run(3_000)
            if all(d.engine.in_sync() and d.engine.idle() for d in self.devices):
                return
        raise AssertionError(self.report())

    def report(self) -> str:
        lines = ["not in sync"]
        for device in self.devices:
            state = device.engine._state
            lines.append(f"device {device.number}: {device.engine.status()}")
            lines += [f"   plan {state.path(n)}: {s} {state.waits.get(n)}" for n, s in
                      state.plans.items()]  # fmt: skip
            lines.append(f"   disk {sorted(device.disk.entries)}")
        lines.append(f"   server {sorted(self.server.live())}")
        return "\n".join(lines)

    def check(self) -> None:
        """I1, I3, I4: all trees equal; one more round does nothing."""
        live = self.server.live()
        assert self.server._name_twice() is None
        for device in self.devices:
            assert device.disk.listing() == live, self.report()
            assert device.engine._state.missed == 0, "a wake-up was missed"
            assert device.saved.generation == 0 or self.renewals, "a number was used twice"
        self.effects.clear()
        head = self.server.head
        for device in self.devices:
            device.feed(e.Rescan())
        self.run(10_000)
        assert self.server.head == head, self.report()
        for name in ("Commit", "Apply"):
            assert name not in self.effects, (name, self.effects)
        for device in self.devices:
            assert device.engine.in_sync()
            self._matches_what_was_saved(device)

    def check_local_tree(self, device: Device, event: e.Event) -> None:
        local = device.engine._state.forest.local
        for row in local.rows.values():
            assert row.parent == ROOT or row.parent in local.rows, (row, event)
            assert local.at(row.parent, row.name) == row.node, (row, event)

    def _matches_what_was_saved(self, device: Device) -> None:
        forest = device.engine._state.forest
        loaded = device.saved.loaded
        assert loaded.remote == forest.remote.rows
        assert loaded.synced == forest.synced
        assert loaded.local == forest.local.rows


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


__all__ = ["DIRECTORY", "FILE", "SYMLINK", "Device", "Disk", "Server", "World", "joined"]
