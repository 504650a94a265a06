"""ConflictArbiter on a store: open, copied, resolved, and told twice without harm."""

from itertools import permutations

import pytest

from actors.conflict_arbiter import WAIT_MS, WAITED_MS_MAX
from actors.core.conflict import conflict_id
from protocol.messages.conflict import ConflictFound, ConflictNoted, CopyMade, HeadChosen
from protocol.messages.feed import Noticed
from tests.actors.bench import modify, set_head
from tests.actors.stage import Stage
from tests.contracts.pen import content, fresh_id


@pytest.fixture
def stage():
    return Stage()


async def meet(stage, text="theirs"):
    """Two devices edit one file; returns the node and the conflict's answer."""
    pen, other = stage.pen(), stage.pen()
    (node,) = stage.ok(pen, pen.create(text, content("first")))
    await stage.commit(pen, modify(pen, node, content("ours")))
    answer = await stage.commit(other, modify(other, node, content(text)))
    await stage.settle()
    return node, answer.results[0]


async def record(stage, node, loser):
    async with stage.store.turn(stage.address) as turn:
        return await turn.conflict(conflict_id(stage.space, node.node, loser))


def notices(stage):
    return [nudge.kind for _, nudge in stage.nudges() if isinstance(nudge, Noticed)]


async def test_a_conflict_is_kept_and_noticed(stage):
    node, met = await meet(stage)
    kept = await record(stage, node, met.loser)
    assert (kept.state, kept.policy, kept.head, kept.loser, kept.seq) == (
        "open",
        "automatic",
        met.head,
        met.loser,
        met.seq,
    )
    assert (kept.node, kept.space, kept.opened_ms) == (node.node, stage.space, stage.clock.ms)
    assert {kept.head_device, kept.loser_device} == {row.device for row in stage_versions(stage)}
    assert stage.node(node.node).conflicted
    assert notices(stage) == ["conflict_opened"]


def stage_versions(stage):
    return [version for version in stage.store.versions(stage.space).values() if version.number > 1]


async def test_a_copy_is_noted(stage):
    node, met = await meet(stage)
    pen = stage.pen()
    copy = pen.create("copy", content("ours"), copy_of=met.loser)
    await stage.commit(pen, copy)
    assert await stage.settle() == [("conflict-arbiter", ConflictNoted(open=1))]
    kept = await record(stage, node, met.loser)
    assert (kept.state, kept.copy) == ("copied", copy.node)
    assert notices(stage) == ["conflict_opened", "conflict_copied"]
    assert stage.node(node.node).conflicted


@pytest.mark.parametrize("copied", [False, True])
async def test_a_chosen_head_resolves_all_conflicts_of_its_node(stage, copied):
    node, met = await meet(stage)
    pen, stale = stage.pen(), stage.node(node.node)
    if copied:
        await stage.commit(pen, pen.create("copy", content("ours"), copy_of=met.loser))
    late = stage.pen()
    second = await stage.commit(late, modify(late, node, content("third")))
    await stage.settle()
    elsewhere, other_met = await meet(stage, "elsewhere")
    stage.clock.ms += 5
    await stage.commit(pen, set_head(pen, stage.node(node.node), met.loser))
    assert await stage.settle() == [("conflict-arbiter", ConflictNoted(open=1))]
    for loser in (met.loser, second.results[0].loser):
        kept = await record(stage, node, loser)
        assert (kept.state, kept.closed_ms) == ("resolved", stage.clock.ms)
    assert (await record(stage, elsewhere, other_met.loser)).state == "open"
    assert stale.conflicted
    assert not stage.node(node.node).conflicted
    assert notices(stage)[-1] == "conflict_resolved"


def messages(stage):
    node, loser, copy = fresh_id("node"), fresh_id("version"), fresh_id("copy")
    common = {"space": stage.space, "node": node, "at_ms": stage.clock.ms}
    found = ConflictFound(
        conflict=conflict_id(stage.space, node, loser),
        seq=7,
        policy="manual",
        head=fresh_id("version"),
        loser=loser,
        head_device=fresh_id("device"),
        loser_device=fresh_id("device"),
        **common,
    )
    copied = CopyMade(loser=loser, copy=copy, **common)
    chosen = HeadChosen(head=loser, device=fresh_id("device"), **common)
    return found, copied, chosen


async def tell(stage, message):
    return await stage.ask("conflict-arbiter", stage.space, message)


async def state(stage, found):
    async with stage.store.turn(stage.address) as turn:
        kept = await turn.conflict(found.conflict)
    return kept.state if kept else None


async def test_whatever_is_told_twice_changes_nothing(stage):
    found, copied, chosen = messages(stage)
    expected = {found: "open", copied: "copied", chosen: "resolved"}
    said = []
    for message in (found, copied, chosen):
        said.append(message)
        await tell(stage, message)
        stage.nudges()
        for again in said:
            await tell(stage, again)
            assert await state(stage, found) == expected[message]
        assert not stage.nudges()
    assert (await tell(stage, found)).open == 0


async def test_a_head_chosen_without_a_copy_resolves_too(stage):
    found, copied, chosen = messages(stage)
    for message in (found, chosen, copied):
        await tell(stage, message)
    assert await state(stage, found) == "resolved"


async def test_a_copy_that_overtook_its_conflict_waits_for_it(stage):
    found, copied, _ = messages(stage)
    assert await tell(stage, copied) == ConflictNoted(open=0)
    assert not await stage.settle()
    await tell(stage, found)
    stage.clock.ms += WAIT_MS
    assert await stage.settle() == [("conflict-arbiter", ConflictNoted(open=1))]
    assert await state(stage, found) == "copied"


async def test_a_copy_of_no_known_conflict_is_given_up_after_a_day(stage):
    _, copied, _ = messages(stage)
    await tell(stage, copied)
    rounds = 0
    while stage.store._outbox:
        stage.clock.ms += WAIT_MS
        rounds += len(await stage.settle())
    assert rounds == WAITED_MS_MAX // WAIT_MS


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_in_any_order_a_conflict_never_reopens(stage, order):
    told = messages(stage)
    seen = []
    for index in order:
        await tell(stage, told[index])
        seen.append(await state(stage, told[0]))
    ranks = {None: 0, "open": 1, "copied": 2, "resolved": 3}
    assert [ranks[one] for one in seen] == sorted(ranks[one] for one in seen)
