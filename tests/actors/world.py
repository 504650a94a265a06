"""Devices that send random changes to one space, and a checker that trusts only the journal.

What a step does is said by small numbers, so that any source of them will do: hypothesis, which
shrinks them, or a seeded generator.
"""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import currently_in_test_context, event

from protocol.clock import bounded
from protocol.codec import decode
from protocol.entry import Change, ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.journal import Outcome, RowKind
from protocol.messages.sync import Conflicted, Refused
from protocol.vector import EMPTY, add, covers, join
from tests.actors.bench import Bench, check_invariants
from tests.contracts.pen import chunk, content, fresh_id, place, ref

NAMES = ("a", "A", "b", "c")
TEXTS = ("", "one", "twofold", "three times three")
KINDS = (
    *ChangeKind,
    ChangeKind.CREATE,
    ChangeKind.MODIFY,
    ChangeKind.MOVE,
)


@dataclass
class Device:
    """A pen and what its device last pulled."""

    pen: object
    nodes: dict = field(default_factory=dict)


class World:
    """A space, three devices, and a list of all that was acknowledged."""

    def __init__(self, policy, quota_bytes):
        self.bench = Bench(policy, quota_bytes)
        self.devices = [Device(self.bench.pen()) for _ in range(3)]
        self.acknowledged = []  # (change, result)
        self.sent = []

    def step(self, who, pulls, drafts, grouped, passes_ms, skew_ms, how):
        device = self.devices[who]
        self.bench.clock.ms += passes_ms
        device.pen.clock_ms = max(0, self.bench.clock.ms + skew_ms)
        if pulls:
            device.nodes = self.bench.store.nodes(self.bench.space)
        group_of = {0: lambda n: 0, 1: lambda n: int(n < 2), 2: lambda n: 1}[grouped]
        stored = {}
        changes = [
            self.change(device, draft, group_of(n), how, stored) for n, draft in enumerate(drafts)
        ]
        before = self.bench.facts()
        decision = self.bench.send(device.pen, *changes, stored=tuple(stored.values()))
        self.check_results(before, changes, decision)
        self.sent.append((device, changes, decision.answer.results))

    def change(self, device, draft, group, how, stored):
        kind, pick, parent_pick, name_pick, text_pick, flag = draft
        pen = device.pen
        known = sorted(device.nodes.values(), key=lambda node: (node.created_ms, node.node))
        node = known[pick % len(known)] if known else None
        folders = [ROOT, *(one.node for one in known if one.type is NodeType.DIRECTORY)]
        where = place(NAMES[name_pick % len(NAMES)], folders[parent_pick % len(folders)])
        text = TEXTS[text_pick % len(TEXTS)]
        what = self.content(text, how, stored)
        if kind is ChangeKind.CREATE or node is None:
            if flag:
                return pen.change(
                    ChangeKind.CREATE,
                    fresh_id("node"),
                    type=NodeType.DIRECTORY,
                    place=where,
                    group=group,
                )
            taken = node.node if node and pick == 7 else fresh_id("node")
            return pen.change(ChangeKind.CREATE, taken, place=where, content=what, group=group)
        is_file = node.type is NodeType.FILE
        if not is_file and kind in (ChangeKind.MODIFY, ChangeKind.SET_HEAD):
            kind = ChangeKind.MOVE
        fields = {
            ChangeKind.MODIFY: {"content": what},
            ChangeKind.MOVE: {"place": where},
            ChangeKind.DELETE: {},
            ChangeKind.RESTORE: {"place": where, "content": what if is_file and flag else None},
            ChangeKind.SET_HEAD: {"version": self.some_version(node, text_pick)},
        }[kind]
        return pen.change(
            kind,
            node.node,
            type=node.type,
            base=node.vector,
            place_rev=node.place_rev,
            group=group,
            **fields,
        )

    def content(self, text, how, stored):
        parts = [chunk(text[at : at + 5]) for at in range(0, len(text), 5)]
        page = chunk(f"page of {text}", tuple(ref(part) for part in parts))
        paged = how == "page" and bool(parts)
        if how != "nothing":
            stored |= {one.address: one for one in (*parts, *([page] if paged else []))}
        return content(text, *([page] if paged else parts), paged=paged)

    def some_version(self, node, pick):
        versions = self.bench.store.versions(self.bench.space)
        own = sorted(one.version for one in versions.values() if one.node == node.node)
        anybodys = sorted(versions)
        if pick == 7 and anybodys:
            return anybodys[0]
        return own[pick % len(own)] if own else fresh_id("version")

    def check_results(self, before, changes, decision):
        results = decision.answer.results
        assert len(results) == len(changes)
        refused = [isinstance(result, Refused) for result in results]
        groups = {}
        for change, no in zip(changes, refused, strict=True):
            if change.group:
                groups.setdefault(change.group, set()).add(no)
        assert all(len(ends) == 1 for ends in groups.values()), "groups are all or none"
        if all(refused):
            assert self.bench.facts() == before
        rows = {row.seq: row for row in self.bench.rows()}
        for change, result in zip(changes, results, strict=True):
            if currently_in_test_context():
                event(f"{change.kind} {getattr(result, 'code', type(result).__name__)}")
            if not isinstance(result, Refused):
                assert decode(rows[result.seq].change, Change) == change, "I9"
                assert rows[result.seq].place_rev == result.place_rev
                self.acknowledged.append((change, result))

    def check(self):
        check_invariants(self.bench)
        self.check_replay()
        self.check_nothing_lost()

    def check_nothing_lost(self):
        """I2: every acknowledged content is a version; a head has seen all of its node's."""
        versions = self.bench.store.versions(self.bench.space)
        by_content = {(one.node, one.content_id) for one in versions.values()}
        for change, result in self.acknowledged:
            if change.content:
                assert (change.node, change.content.content_id) in by_content
            if isinstance(result, Conflicted):
                assert {result.head, result.loser} <= set(versions)
        nodes = self.bench.store.nodes(self.bench.space)
        for version in versions.values():
            assert covers(nodes[version.node].vector, version.vector)
        numbers = Counter((one.node, one.number) for one in versions.values())
        assert not versions or max(numbers.values()) == 1

    def check_replay(self):
        replayed = replay(self.bench)
        for node in self.bench.store.nodes(self.bench.space).values():
            assert replayed.pop(node.node) == Peer(
                parent=node.parent,
                token=node.token,
                place_rev=node.place_rev,
                alive=node.alive,
                head=node.head,
                vector=node.vector,
                content_id=node.content_id,
                stamp=(node.hlc, node.device),
                conflicted=node.conflicted,
            )
        assert not replayed

    def check_repeats(self):
        """The changes of any commit, sent again under another op: made once, answered alike."""
        facts = self.bench.facts()
        for device, changes, results in self.sent:
            kept = [n for n, one in enumerate(results) if not isinstance(one, Refused)]
            if kept:
                again = self.bench.results(device.pen, *(changes[n] for n in kept))
                assert again == tuple(results[n] for n in kept)
        assert self.bench.facts() == facts


@dataclass
class Peer:
    """A node as a device knows it that has read the journal and nothing else."""

    parent: bytes = ROOT
    token: bytes = b""
    place_rev: int = 0
    alive: bool = False
    head: bytes | None = None
    vector: tuple = EMPTY
    content_id: bytes = b""
    stamp: tuple = (0, b"")
    conflicted: bool = False


def replay(bench) -> dict[bytes, Peer]:
    """Rebuild the tree from the rows, deciding every outcome anew, as a distrustful peer does."""
    peers: dict[bytes, Peer] = {}
    contents: dict[tuple[bytes, bytes], bytes] = {}
    devices = {new.seq: new.device for new in bench.store.rows(bench.space)}
    for row in bench.rows():
        peer = peers.setdefault(row.node, Peer())
        if row.kind is RowKind.CONFLICT_OPENED:
            assert peer.conflicted
            continue
        if row.kind is RowKind.CONFLICT_RESOLVED:
            assert not peer.conflicted
            continue
        change = decode(row.change, Change)
        assert (change.kind is ChangeKind.CREATE) == (peer.place_rev == 0)
        if change.place:
            peer.parent, peer.token, peer.alive = change.place.parent, change.place.token, True
        if change.kind is ChangeKind.DELETE:
            assert change.base == peer.vector, "nobody deletes what he has not seen"
            peer.alive = False
        if change.place or change.kind is ChangeKind.DELETE:
            assert change.place_rev == peer.place_rev, "compare-and-set"
            peer.place_rev += 1
        assert row.place_rev == peer.place_rev
        device = devices[row.seq]
        if change.content or change.version:
            replay_content(bench, row, change, peer, contents, device)
        assert row.head == peer.head
    return peers


def replay_content(bench, row, change, peer, contents, device):
    new = add(change.base, (device, change.dot))
    at = (bounded(change.hlc, row.server_ms), device)
    if change.version:
        assert change.base == peer.vector
        peer.head, peer.content_id = change.version, contents[row.node, change.version]
        peer.vector, peer.stamp, peer.conflicted = new, at, False
        return
    version, content_id = change.content.version, change.content.content_id
    concurrent = peer.head is not None and change.base != peer.vector
    loses = concurrent and (bench_policy(bench) == "manual" or at <= peer.stamp)
    if concurrent and content_id == peer.content_id:
        expected, peer.stamp = Outcome.JOINED, max(peer.stamp, at)
    else:
        contents[row.node, version] = content_id
        expected = Outcome.LOST if loses else Outcome.WON if concurrent else Outcome.ACCEPTED
        losers = {Outcome.LOST: version, Outcome.WON: peer.head}
        assert row.loser == losers.get(expected)
        if not loses:
            peer.head, peer.content_id, peer.stamp = version, content_id, at
        peer.conflicted = peer.conflicted or concurrent
    assert row.outcome is expected
    peer.vector = join(peer.vector, new)


def bench_policy(bench):
    return bench.store._tables.spaces[bench.space].policy
