"""A small world for the engine: disks, a server after SYNC.md 4, a bad network, and time.

Everything is drawn from one seed. Effects run at random times and in random order; answers and
pushes get lost; devices go offline, crash and start again from what they saved. What a user does
goes straight to a disk. The world checks as it goes: no bytes are overwritten or removed by us
that the server does not keep, and nothing lands outside what the journal says.
"""

import heapq
import random
from dataclasses import dataclass, field, replace

from client_agent.core import events as e
from client_agent.core.engine import Engine, Loaded
from client_agent.core.state import joined, parent_path
from client_agent.core.trees import Cursor
from protocol import vector
from protocol.entry import ChangeKind
from protocol.ids import ROOT
from tests.client_agent.core.sim_disk import DIRECTORY, FILE, SYMLINK, Disk, content_id
from tests.client_agent.core.sim_server import Content, Refusal, Server

HISTORY = b"h" * 16

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
            if spec.kind is ChangeKind.SET_HEAD:
                sealed.append((spec, None))
                continue
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

    def __init__(
        self, seed: int, devices: int = 2, *, loss=0.0, crash=0.0, delay_max_ms=20, server=None
    ):
        self.random = random.Random(seed)
        self.loss, self.crash, self.delay_max_ms = loss, crash, delay_max_ms
        self.page = 1000
        self.renewals = False  # a test wants them
        self.paranoid = False  # look at the local trees after each event: slow
        self.now_ms = 1_700_000_000_000
        self.queue: list = []
        self.order = 0
        self.server = server or Server()
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


__all__ = ["DIRECTORY", "FILE", "SYMLINK", "Device", "Disk", "Server", "World", "joined"]
