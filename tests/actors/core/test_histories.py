"""Random histories of several devices: whatever they send, the invariants of SYNC.md 9 hold.

Method: devices with views of different age send changes, alone and in groups, right and wrong, with
and without their chunks. After each commit the space is checked against its journal: a peer that
replays the rows must arrive at the very same tree, heads and vectors (I8 by meaning, not only by
hash), and what was acknowledged must still be there (I2).

Each property caught bugs that were planted by hand (PLANTED, at the end).
"""

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import currently_in_test_context, event, given, settings
from hypothesis import strategies as st

from protocol import journal, limits
from protocol.clock import bounded
from protocol.codec import decode, sha256
from protocol.entry import Change, ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.journal import Outcome, RowKind
from protocol.messages.sync import Accepted, Conflicted, Refused
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

small = st.integers(0, 7)
CHANGE = st.tuples(st.sampled_from(KINDS), small, small, small, small, st.booleans())
STEP = st.tuples(
    st.integers(0, 2),  # device
    st.booleans(),  # does it pull first?
    st.lists(CHANGE, min_size=1, max_size=5),
    st.integers(0, 2),  # how many of the changes are grouped: none, the first two, all
    st.sampled_from([0, 1, 60_000, limits.LEASE_S * 1000]),  # ms that pass
    st.sampled_from([0, 0, 0, -10_000, 10**12]),  # how wrong its clock is
    st.sampled_from(["inline", "inline", "inline", "page", "nothing"]),
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


POLICY = st.sampled_from(["automatic", "manual"])
QUOTA_BYTES = st.sampled_from([20, 60, 1 << 40])


@settings(max_examples=250)
@given(POLICY, QUOTA_BYTES, st.lists(STEP, max_size=25))
def test_any_history_keeps_the_invariants(policy, quota_bytes, steps):
    world = World(policy, quota_bytes)
    for step in steps:
        world.step(*step)
        check_invariants(world.bench)
    world.check()
    world.check_repeats()


# A denser mix: everybody edits two files at once.
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.booleans(),
        st.sampled_from([ChangeKind.MODIFY, ChangeKind.SET_HEAD, ChangeKind.DELETE]),
        small,
        small,
        st.sampled_from([0, 0, 400_000, 10**12]),
    ),
    max_size=30,
)


@settings(max_examples=250)
@given(POLICY, EDITS)
def test_whoever_edits_at_once_loses_nothing(policy, edits):
    world = World(policy, 1 << 40)
    create = (ChangeKind.CREATE, 0, 0, 0, 1, False)
    world.step(0, True, [create], 0, 0, 0, "inline")
    world.step(0, True, [(ChangeKind.CREATE, 0, 0, 2, 2, False)], 0, 0, 0, "inline")
    for device in world.devices:
        device.nodes = world.bench.store.nodes(world.bench.space)
    for who, pulls, kind, pick, text_pick, skew_ms in edits:
        kind = ChangeKind.RESTORE if kind is ChangeKind.DELETE and text_pick < 4 else kind
        draft = (kind, pick, 0, pick % 2 * 2, text_pick, True)
        world.step(who, pulls, [draft], 0, 1, skew_ms, "inline")
    world.check()
    world.check_repeats()


@settings(max_examples=100)
@given(st.permutations(NAMES[1:]), st.data())
def test_names_can_be_permuted_in_one_group(order, data):
    """And if one of the group cannot go, none goes."""
    bench = Bench()
    pen = bench.pen()
    names = NAMES[1:]
    nodes = bench.ok(pen, *(pen.mkdir(name) for name in names))
    stale = data.draw(st.none() | st.integers(0, len(names) - 1))
    moves = [
        pen.change(
            ChangeKind.MOVE,
            node.node,
            type=NodeType.DIRECTORY,
            place=place(name),
            place_rev=node.place_rev + (index == stale),
            group=3,
        )
        for index, (node, name) in enumerate(zip(nodes, order, strict=True))
    ]
    before = bench.facts()
    results = bench.results(pen, *moves)
    if stale is None:
        assert all(isinstance(result, Accepted) for result in results)
    else:
        assert bench.facts() == before
    check_invariants(bench)


def test_the_replay_notices_a_head_that_does_not_follow_from_the_rows():
    """The checker itself, on a journal that lies: a peer must not swallow it."""
    world = World("automatic", 1 << 40)
    world.step(0, True, [(ChangeKind.CREATE, 0, 0, 0, 1, False)], 0, 0, 0, "inline")
    world.check()
    tables = world.bench.store._tables
    new = tables.rows[world.bench.space, 1]
    row = journal.decode_row(new.raw)
    fields = {name: getattr(row, name) for name in row.__struct_fields__}
    lie = journal.Row(**{**fields, "head": sha256(b"another")[:16]})
    tables.rows[world.bench.space, 1] = type(new)(
        **{name: getattr(new, name) for name in new.__dataclass_fields__}
        | {"raw": journal.encode_row(lie)}
    )
    try:
        world.check_replay()
    except AssertionError:
        return
    raise AssertionError("the lie was swallowed")


# PLANTED, each alone, and caught: settle gives a held token away · no cycle check · dead parents
# accepted · not_empty, the base of a delete or place_rev not looked at · delete keeps place_rev ·
# a conflict keeps the newcomer's vector only · a join forgets the head's · the loser is not
# stored · first writer wins · a stamp is not bounded · the manual policy is ignored · rollback
# forgets the head, the rows, the undo log or the bytes · a chunk is paid twice, or again · pages
# are not expanded · dead nodes stay in the Merkle sums · a known dot is applied again · set_head
# ignores its base, or takes a version of another node · seqs with gaps · a group falls alone ·
# equal contents conflict · children miscounted · old token kept by the store · version numbers
# reused · an edit clears the conflict flag.
