"""Random histories of several devices: whatever they send, the invariants of SYNC.md 9 hold.

Method: devices with views of different age send changes, alone and in groups, right and wrong, with
and without their chunks. After each commit the space is checked against its journal: a peer that
replays the rows must arrive at the very same tree, heads and vectors (I8 by meaning, not only by
hash), and what was acknowledged must still be there (I2).

Each property caught bugs that were planted by hand (PLANTED, at the end).
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import journal, limits
from protocol.codec import sha256
from protocol.entry import ChangeKind, NodeType
from protocol.messages.sync import Accepted
from tests.actors.bench import Bench, check_invariants
from tests.actors.world import KINDS, NAMES, World
from tests.contracts.pen import place

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
