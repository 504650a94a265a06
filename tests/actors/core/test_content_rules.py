"""Rules for contents and conflicts: one test per sentence of SYNC.md 4."""

import pytest

from actors.core.conflict import AUTOMATIC, MANUAL, Stamp, conflict_id, decide
from protocol.clock import SKEW_MAX_MS, stamp
from protocol.codec import sha256
from protocol.entry import ChangeKind, NodeType
from protocol.faults import Code
from protocol.journal import Outcome, RowKind
from protocol.messages.conflict import ConflictFound, CopyMade, HeadChosen
from protocol.messages.sync import Accepted, Conflicted
from protocol.vector import join
from tests.actors.bench import (
    Bench,
    check_invariants,
    delete,
    modify,
    move,
    restore,
    set_head,
)
from tests.contracts.pen import chunk, content, fresh_id, place


@pytest.fixture(params=["automatic", "manual"])
def any_policy(request):
    bench = Bench(request.param)
    yield bench
    check_invariants(bench)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    check_invariants(bench)


def born(bench, pen, name="a", text="first"):
    (node,) = bench.ok(pen, pen.create(name, content(text)))
    return node


def test_a_first_content_is_version_one_and_head(bench):
    pen = bench.pen()
    stored = chunk("bytes")
    what = content("text", stored)
    (node,) = bench.ok(pen, pen.create("a", what), stored=[stored])
    version = bench.version(what.version)
    assert (node.head, node.content_id) == (what.version, what.content_id)
    assert (node.vector, node.hlc, node.device) == (
        ((pen.device, 1),),
        stamp(pen.clock_ms),
        pen.device,
    )
    assert (node.version_number, version.number) == (1, 1)
    assert (node.size_bytes, version.size_bytes) == (5, 5)
    assert node.manifest_hash == sha256(what.manifest)
    assert (version.node, version.refs, version.vector) == (node.node, what.refs, node.vector)
    assert (version.manifest, version.manifest_key_epoch) == (what.manifest, 1)
    assert (version.created_ms, version.prev) == (bench.clock.ms, None)


def test_an_edit_based_on_the_head_is_accepted(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (node,) = bench.ok(other, modify(other, node, content("second")))
    (node,) = bench.ok(pen, modify(pen, node, content("third")))
    assert dict(node.vector) == {pen.device: 2, other.device: 1}
    assert node.version_number == 3
    assert not node.conflicted


def test_equal_content_never_conflicts(any_policy):
    bench = any_policy
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (ours,) = bench.ok(pen, modify(pen, node, content("same")))
    change = modify(other, node, content("same"), hlc=stamp(1))
    decision = bench.send(other, change)
    (result,) = decision.answer.results
    joined = bench.node(node.node)
    assert result == Accepted(seq=3, place_rev=1)
    assert bench.rows()[-1].outcome is Outcome.JOINED
    assert bench.rows()[-1].head == joined.head == ours.head
    assert dict(joined.vector) == {pen.device: 2, other.device: 1}
    assert (joined.hlc, joined.device) == (ours.hlc, ours.device), "the later of both"
    assert not decision.batch.versions
    assert not decision.told


def test_equal_content_counts_as_written_by_the_later_one(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("same"), hlc=stamp(bench.clock.ms)))
    later = stamp(bench.clock.ms + 5)
    bench.ok(other, modify(other, node, content("same"), hlc=later))
    joined = bench.node(node.node)
    assert (joined.hlc, joined.device) == (later, other.device)


def test_equal_content_joins_also_what_the_server_has_not_seen(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen, text="same")
    (joined,) = bench.ok(
        other, modify(other, node, content("same"), base=join(node.vector, ((b"x" * 16, 9),)))
    )
    assert dict(joined.vector) == {pen.device: 1, b"x" * 16: 9, other.device: 1}


def test_an_edit_based_on_what_the_server_lacks_is_history_lost(bench):
    pen = bench.pen()
    node = born(bench, pen)
    (dead,) = bench.ok(pen, delete(pen, born(bench, pen, "b")))
    base = ((b"x" * 16, 9),)
    for change in (
        modify(pen, node, content("new"), base=base),
        set_head(pen, node, node.head, base=base),
        restore(pen, dead, place("b"), base=base),
        restore(pen, dead, place("b"), base=base, content=content("new")),
    ):
        assert bench.no(pen, change).code == Code.HISTORY_LOST


@pytest.mark.parametrize("newcomer_is_later", [True, False])
def test_of_concurrent_edits_the_last_writer_wins(bench, newcomer_is_later):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (first,) = bench.ok(pen, modify(pen, node, content("first edit")))
    late, early = stamp(bench.clock.ms + 1), stamp(bench.clock.ms - 1)
    second = content("second edit")
    change = modify(other, node, second, hlc=late if newcomer_is_later else early)
    decision = bench.send(other, change)
    after = bench.node(node.node)
    winner, loser = second.version, first.head
    devices = {"head_device": other.device, "loser_device": pen.device}
    if not newcomer_is_later:
        winner, loser = loser, winner
        devices = {"head_device": pen.device, "loser_device": other.device}
    assert decision.answer.results == (Conflicted(seq=3, head=winner, loser=loser, place_rev=1),)
    assert (after.head, after.conflicted, after.version_number) == (winner, True, 3)
    assert after.content_id == bench.version(winner).content_id
    assert dict(after.vector) == {pen.device: 2, other.device: 1}, "the join of both"
    assert dict(bench.version(second.version).vector) == {pen.device: 1, other.device: 1}
    row, opened = bench.rows()[2:]
    assert row.outcome is (Outcome.WON if newcomer_is_later else Outcome.LOST)
    assert (row.head, row.loser) == (winner, loser)
    assert (opened.kind, opened.seq) == (RowKind.CONFLICT_OPENED, 4)
    assert (opened.node, opened.head, opened.loser) == (node.node, winner, loser)
    assert (opened.commit, opened.change) == (None, b"")
    assert decision.told == (
        ConflictFound(
            space=bench.space,
            conflict=conflict_id(bench.space, node.node, loser),
            node=node.node,
            seq=3,
            policy="automatic",
            head=winner,
            loser=loser,
            at_ms=bench.clock.ms,
            **devices,
        ),
    )


def test_under_the_manual_policy_the_head_stays(bench):
    bench = Bench("manual")
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (first,) = bench.ok(pen, modify(pen, node, content("first edit")))
    second = content("second edit")
    late = stamp(bench.clock.ms + 1)
    result = bench.conflict(other, modify(other, node, second, hlc=late))
    assert (result.head, result.loser) == (first.head, second.version)
    assert dict(bench.node(node.node).vector) == {pen.device: 2, other.device: 1}
    check_invariants(bench)


def test_both_contents_of_a_conflict_are_versions(any_policy):
    bench = any_policy
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    one, two = content("one"), content("two")
    bench.ok(pen, modify(pen, node, one))
    bench.conflict(other, modify(other, node, two))
    assert bench.version(one.version).content_id == one.content_id
    assert bench.version(two.version).content_id == two.content_id


def test_a_content_that_has_seen_both_sides_is_no_conflict(any_policy):
    bench = any_policy
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("one")))
    bench.conflict(other, modify(other, node, content("two")))
    (merged,) = bench.ok(pen, modify(pen, bench.node(node.node), content("merged")))
    assert merged.conflicted, "only a chosen head resolves"


def test_the_head_counts_with_the_time_it_was_received(bench):
    """A device whose clock runs ahead does not win for ever."""
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("from the future"), hlc=stamp(bench.clock.ms * 2)))
    bench.clock.ms += SKEW_MAX_MS + 1
    later = content("later")
    result = bench.conflict(other, modify(other, node, later, hlc=stamp(bench.clock.ms)))
    assert result.head == later.version


def test_a_conflict_of_a_restored_node_is_decided_like_any_other(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (edited,) = bench.ok(pen, modify(pen, node, content("edited")))
    (dead,) = bench.ok(pen, delete(pen, edited))
    ours = content("ours")
    later = stamp(bench.clock.ms + 1)
    result = bench.conflict(
        other, restore(other, dead, place("a"), base=node.vector, content=ours, hlc=later)
    )
    after = bench.node(node.node)
    assert (result.head, result.loser) == (ours.version, edited.head)
    assert (after.alive, after.head, after.place_rev) == (True, ours.version, 3)
    assert result.place_rev == 3


def test_a_restore_may_bring_a_newer_content(bench):
    pen = bench.pen()
    (dead,) = bench.ok(pen, delete(pen, born(bench, pen)))
    ours = content("newer")
    (back,) = bench.ok(pen, restore(pen, dead, place("a"), content=ours))
    assert (back.head, back.version_number) == (ours.version, 2)


def test_a_device_that_repeats_a_number_is_told(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    pen.dot = 6
    (node,) = bench.ok(pen, modify(pen, node, content("seven")))
    (node,) = bench.ok(other, modify(other, node, content("other")))
    old = {"dot": 5}
    for change in (
        modify(pen, node, content("five"), **old),
        modify(pen, node, content("five"), base=((pen.device, 1),), **old),
        set_head(pen, node, node.head, **old),
    ):
        refused = bench.no(pen, change)
        assert (refused.code, refused.facts) == (Code.DOT_REUSED, {"seen": 7})
    for seen in (8, 9):
        ahead = tuple(sorted(((pen.device, seen), (other.device, 1))))
        refused = bench.no(pen, modify(pen, node, content("8"), base=ahead, dot=8))
        assert (refused.code, refused.facts) == (Code.DOT_REUSED, {"seen": seen})


def test_a_version_id_is_given_once(bench):
    pen = bench.pen()
    node, other = born(bench, pen), born(bench, pen, "b", "other")
    taken = node.head
    for change in (
        modify(pen, node, content("new", version=taken)),
        modify(pen, other, content("first", version=taken)),
        pen.create("c", content("first", version=taken)),
    ):
        assert bench.no(pen, change).code == Code.KEY_REUSED


def test_a_version_that_is_offered_again_is_not_stored_twice(bench):
    """After a restore from backup devices offer what they had: same ids, same contents."""
    pen = bench.pen()
    node = born(bench, pen)
    (edited,) = bench.ok(pen, modify(pen, node, content("edited")))
    (again,) = bench.ok(pen, modify(pen, edited, content("first", version=node.head)))
    assert (again.head, again.version_number) == (node.head, 2)
    assert len(bench.store.versions(bench.space)) == 2


# -- set_head -----------------------------------------------------------------------------------


def test_a_revert_is_an_edit_of_its_own(bench):
    pen = bench.pen()
    node = born(bench, pen)
    (edited,) = bench.ok(pen, modify(pen, node, content("edited")))
    decision = bench.send(pen, set_head(pen, edited, node.head))
    back = bench.node(node.node)
    assert (back.head, back.content_id) == (node.head, node.content_id)
    assert (back.manifest_hash, back.size_bytes) == (node.manifest_hash, node.size_bytes)
    assert dict(back.vector) == {pen.device: 3}
    assert back.version_number == 2
    assert not decision.told, "there was no conflict to resolve"
    assert bench.rows()[-1].head == node.head


def test_only_versions_of_the_node_can_be_head(bench):
    pen = bench.pen()
    node, other = born(bench, pen), born(bench, pen, "b", "other")
    for version in (fresh_id(), other.head):
        assert bench.no(pen, set_head(pen, node, version)).code == Code.VERSION_UNKNOWN


def test_a_choice_made_without_seeing_the_newest_edit_is_stale(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(other, modify(other, node, content("edited")))
    assert bench.no(pen, set_head(pen, node, node.head)).code == Code.STALE


def test_a_chosen_head_resolves_the_conflict(any_policy):
    bench = any_policy
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("one")))
    result = bench.conflict(other, modify(other, node, content("two")))
    decision = bench.send(pen, set_head(pen, bench.node(node.node), result.loser))
    after = bench.node(node.node)
    assert (after.head, after.conflicted) == (result.loser, False)
    assert decision.told == (
        HeadChosen(
            space=bench.space,
            node=node.node,
            head=result.loser,
            device=pen.device,
            at_ms=bench.clock.ms,
        ),
    )
    row = bench.rows()[-1]
    assert (row.kind, row.node, row.head, row.loser) == (
        RowKind.CONFLICT_RESOLVED,
        node.node,
        result.loser,
        None,
    )
    assert decision.answer.head_seq == row.seq


def test_a_version_made_in_the_same_commit_can_be_chosen(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("one")))
    bench.conflict(other, modify(other, node, content("two")))
    merged = content("merged")
    edit = modify(pen, bench.node(node.node), merged)
    after_edit = join(edit.base, ((pen.device, edit.dot),))
    choice = pen.change(ChangeKind.SET_HEAD, node.node, base=after_edit, version=merged.version)
    (_, after) = bench.ok(pen, edit, choice)
    assert (after.head, after.conflicted) == (merged.version, False)


# -- copies -------------------------------------------------------------------------------------


def test_a_conflict_copy_is_told_to_the_arbiter(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, modify(pen, node, content("one")))
    result = bench.conflict(other, modify(other, node, content("two")))
    copy = other.create("a (conflict)", content("copied"), copy_of=result.loser)
    decision = bench.send(other, copy)
    assert decision.told == (
        CopyMade(
            space=bench.space,
            node=node.node,
            loser=result.loser,
            copy=copy.node,
            at_ms=bench.clock.ms,
        ),
    )


def test_a_copy_of_a_version_that_is_gone_is_just_a_file(bench):
    pen = bench.pen()
    copy = pen.create("a (conflict)", content("copied"), copy_of=fresh_id("version"))
    assert not bench.send(pen, copy).told


def test_of_two_makers_of_a_copy_the_second_finds_it(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    copy_id = fresh_id("copy")
    more = {"node": copy_id, "copy_of": node.head}
    bench.ok(pen, pen.create("a (conflict)", content("copied"), **more))
    refused = bench.no(other, other.create("a (conflict)", content("copied"), **more))
    assert refused.code == Code.NODE_EXISTS


def test_a_concurrent_edit_of_a_copy_conflicts_like_any_other(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    (copy,) = bench.ok(pen, pen.create("copy", content("copied"), copy_of=node.head))
    bench.ok(pen, modify(pen, copy, content("one")))
    bench.conflict(other, modify(other, copy, content("two")))


# -- both facets --------------------------------------------------------------------------------


def test_a_move_and_a_concurrent_edit_both_apply(bench):
    pen, other = bench.pen(), bench.pen()
    node = born(bench, pen)
    bench.ok(pen, move(pen, node, place("b")))
    edit = content("edited")
    (after,) = bench.ok(other, modify(other, node, edit))
    assert (after.sealed_name, after.head) == (place("b").sealed, edit.version)
    assert after.place_rev == 2


def test_a_directory_has_no_content_and_no_vector(bench):
    pen = bench.pen()
    (node,) = bench.ok(pen, pen.mkdir("a"))
    assert (node.head, node.vector, node.content_id, node.manifest_hash) == (None, (), b"", b"")
    assert node.type is NodeType.DIRECTORY


# -- the pure decision --------------------------------------------------------------------------

NOW_MS = 1_000_000_000
A, B = b"a" * 16, b"b" * 16


@pytest.mark.parametrize(
    ("head", "newcomer", "automatic"),
    [
        (Stamp(stamp(5), A), Stamp(stamp(6), A), Outcome.WON),
        (Stamp(stamp(6), A), Stamp(stamp(5), B), Outcome.LOST),
        (Stamp(stamp(5, 1), A), Stamp(stamp(5, 2), A), Outcome.WON),
        (Stamp(stamp(5), A), Stamp(stamp(5), B), Outcome.WON),
        (Stamp(stamp(5), B), Stamp(stamp(5), A), Outcome.LOST),
        (Stamp(stamp(5), A), Stamp(stamp(5), A), Outcome.LOST),
        (  # far ahead counts as received + 5 min, so the device id decides
            Stamp(stamp(NOW_MS + SKEW_MAX_MS), B),
            Stamp(stamp(NOW_MS + 2 * SKEW_MAX_MS), A),
            Outcome.LOST,
        ),
        (
            Stamp(stamp(NOW_MS + SKEW_MAX_MS), A),
            Stamp(stamp(NOW_MS + 2 * SKEW_MAX_MS), B),
            Outcome.WON,
        ),
    ],
)
def test_decide(head, newcomer, automatic):
    assert decide(AUTOMATIC, head, newcomer, NOW_MS) is automatic
    assert decide(MANUAL, head, newcomer, NOW_MS) is Outcome.LOST
