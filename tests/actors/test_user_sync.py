"""UserSync on a store: one turn per commit, repeats answered alike, others told afterwards."""

import asyncio

import pytest

from protocol import limits
from protocol.codec import sha256
from protocol.faults import Code, Fault
from protocol.journal import decode_header, op_id
from protocol.messages import Role
from protocol.messages.feed import Advanced
from protocol.messages.sync import Accepted, Committed, Refused
from protocol.messages.upload import BeginUpload, UploadOpen
from tests.actors.bench import check_invariants, delete, modify
from tests.actors.stage import Stage
from tests.contracts.pen import chunk, content, fresh_id, ref


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    check_invariants(stage)


async def test_a_commit_is_written_and_answered(stage):
    pen = stage.pen()
    stored = chunk("text")
    answer = await stage.commit(
        pen, pen.mkdir("a"), pen.create("b", content("b", stored)), stored=[stored]
    )
    assert isinstance(answer, Committed)
    assert answer.results == (Accepted(seq=1, place_rev=1), Accepted(seq=2, place_rev=1))
    assert stage.store.head(stage.space) == (stage.history, 2, answer.head)
    assert answer.rows == tuple(row.raw for row in stage.store.rows(stage.space))
    assert stage.store.used_bytes(stage.owner) == 4


async def test_every_device_of_the_space_is_nudged_with_the_rows_and_their_proof(stage):
    pen = stage.pen()
    answer = await stage.commit(pen, pen.mkdir("a"))
    ((topic, nudge),) = stage.nudges()
    assert topic == stage.space
    assert isinstance(nudge, Advanced)
    assert (nudge.prev_seq, nudge.seq, nudge.head) == (0, 1, answer.head)
    assert nudge.rows == answer.rows
    (proof,) = nudge.commits
    assert proof.hash == stage.rows()[0].commit
    assert proof.leaf(0) == proof.leaves


async def test_a_large_nudge_carries_no_rows(stage):
    pen = stage.pen()
    changes = [pen.mkdir("x" * 1_000 + str(n)) for n in range(60)]
    await stage.commit(pen, *changes)
    ((_, nudge),) = stage.nudges()
    assert (nudge.prev_seq, nudge.seq, nudge.rows, nudge.commits) == (0, 60, (), ())
    assert sum(len(row.change) for row in stage.rows()) > limits.PUSH_ROWS_BYTES_MAX


async def test_a_commit_without_rows_nudges_nobody(stage):
    pen = stage.pen()
    answer = await stage.commit(pen, pen.mkdir("a", fresh_id("node")), stored=[chunk("x")])
    assert isinstance(answer.results[0], Refused)
    assert not stage.nudges()
    assert not await stage.settle()


async def test_a_repeat_of_the_message_is_answered_from_the_inbox(stage):
    pen = stage.pen()
    command = pen.commit(pen.mkdir("a"), pen.mkdir("a"))
    first = await stage.repeat(command)
    stage.nudges()
    again = [await stage.repeat(command) for _ in range(3)]
    assert again == [first] * 3
    assert not stage.nudges()
    assert len(stage.rows()) == 1


async def test_the_same_op_with_another_body_is_key_reused(stage):
    pen = stage.pen()
    await stage.commit(pen, pen.mkdir("a"))
    pen.op -= 1
    answer = await stage.commit(pen, pen.mkdir("b"))
    assert (type(answer), answer.code) == (Fault, Code.KEY_REUSED)


async def test_read_answers_leave_the_inbox(stage):
    pen = stage.pen()
    for name in "abc":
        await stage.commit(pen, pen.mkdir(name))
    await stage.commit(pen, pen.mkdir("d"), answered=2)

    async def kept(turn):
        return [await turn.answered(op_id(pen.device, op)) for op in range(1, 5)]

    async with stage.store.turn(stage.address) as turn:
        assert [found is not None for found in await kept(turn)] == [False, False, True, True]


async def test_a_late_duplicate_of_a_forgotten_commit_does_nothing(stage):
    pen = stage.pen()
    (holder,) = stage.ok(pen, pen.mkdir("a"))
    late = pen.commit(pen.mkdir("a"))
    refused = await stage.repeat(late)
    assert refused.results[0].code == Code.NAME_TAKEN
    await stage.commit(pen, delete(pen, holder), answered=pen.op)
    answer = await stage.repeat(late)
    assert (type(answer), answer.code) == (Fault, Code.OUT_OF_ORDER)
    assert len(stage.rows()) == 2


async def test_a_space_that_is_not_here_is_not_found(stage):
    pen = stage.pen()
    command = pen.commit(pen.mkdir("a"))
    for owner, space in (
        (stage.owner, fresh_id("space")),
        (fresh_id("another"), stage.space),
    ):
        pen.space = space
        command = pen.commit(pen.mkdir("a"))
        answer = await stage.ask("user-sync", owner, command)
        assert (type(answer), answer.code) == (Fault, Code.NOT_FOUND)


async def test_a_stranger_is_told_as_little_as_about_nothing(stage):
    stranger, nobody = stage.pen(account=fresh_id("account")), stage.pen()
    nobody.space = fresh_id("space")
    answers = [await stage.commit(pen, pen.mkdir("a")) for pen in (stranger, nobody)]
    assert answers[0] == answers[1]
    assert answers[0].code == Code.NOT_FOUND


async def test_a_fault_is_stored_like_any_answer(stage):
    viewer = stage.member(Role.VIEWER)
    command = viewer.commit(viewer.mkdir("a"))
    first = await stage.repeat(command)
    assert first.code == Code.FORBIDDEN
    await stage.store.add_member(stage.space, viewer.account, Role.EDITOR)
    assert await stage.repeat(command) == first
    assert isinstance(await stage.commit(viewer, viewer.mkdir("a")), Committed)


async def test_a_broken_commit_is_a_bad_request(stage):
    pen = stage.pen()
    pen.op = 5
    answer = await stage.commit(pen, pen.mkdir("a"), format=99)
    assert (answer.code, answer.about) == (Code.BAD_REQUEST, "header: format")


async def test_a_commit_closes_the_upload_session_it_names(stage):
    await stage.store.add_account(stage.owner, quota_bytes=10)
    pen, upload = stage.pen(), fresh_id("upload")
    stored = chunk("0123456789")
    begin = BeginUpload(
        space=stage.space,
        owner=stage.owner,
        device=pen.device,
        upload=upload,
        refs=(ref(stored),),
    )
    opened = await stage.ask("upload-session", upload, begin)
    assert isinstance(opened, UploadOpen)
    assert stage.store.used_bytes(stage.owner) == 10
    refused = await stage.commit(pen, pen.mkdir("x", fresh_id("node")), upload=upload)
    assert refused.results[0].code == Code.PARENT_MISSING
    assert not await stage.settle(), "nothing used it yet"
    another = await stage.commit(pen, pen.create("a", content("a", stored)), stored=[stored])
    assert another.results[0].code == Code.QUOTA_EXCEEDED, "the room is the session's"
    done = await stage.commit(pen, pen.create("b", content("b", stored)), upload=upload)
    assert done.results == (Accepted(seq=1, place_rev=1),)
    assert [kind for kind, _ in await stage.settle()] == ["upload-session"]
    assert stage.store.used_bytes(stage.owner) == 10


async def test_only_an_open_session_of_this_space_is_credit(stage):
    await stage.store.add_account(stage.owner, quota_bytes=10)
    stored, pen = chunk("0123456789"), stage.pen()
    other_space = fresh_id("space")
    await stage.store.add_space(other_space, stage.owner, fresh_id(), bytes(32))
    upload = fresh_id("upload")
    begin = BeginUpload(
        space=other_space,
        owner=stage.owner,
        device=pen.device,
        upload=upload,
        refs=(ref(stored),),
    )
    await stage.ask("upload-session", upload, begin)
    for named in (upload, fresh_id("unknown")):
        answer = await stage.commit(
            pen, pen.create("a", content("a", stored)), stored=[stored], upload=named
        )
        assert answer.results[0].code == Code.QUOTA_EXCEEDED


async def test_nobody_ends_the_upload_session_of_another_space(stage):
    stored, pen = chunk("0123456789"), stage.pen()
    other_space, upload = fresh_id("space"), fresh_id("upload")
    await stage.store.add_space(other_space, stage.owner, fresh_id(), bytes(32))
    begin = BeginUpload(
        space=other_space,
        owner=stage.owner,
        device=pen.device,
        upload=upload,
        refs=(ref(stored),),
    )
    await stage.ask("upload-session", upload, begin)
    answer = await stage.commit(
        pen, pen.create("a", content("a", stored)), stored=[stored], upload=upload
    )
    assert answer.results == (Accepted(seq=1, place_rev=1),)
    assert not await stage.settle(), "the session was not told of it"


async def test_commits_at_once_are_put_in_one_order(stage):
    """Two hosts may hold one address for a moment: the database decides."""
    pens = [stage.pen() for _ in range(8)]
    answers = await asyncio.gather(*(stage.commit(pen, pen.mkdir("same")) for pen in pens))
    codes = sorted(getattr(answer.results[0], "code", "ok") for answer in answers)
    assert codes == ["name_taken"] * 7 + ["ok"]
    assert len(stage.rows()) == 1


async def test_doubled_deliveries_at_once_make_one_row(stage):
    pen = stage.pen()
    command = pen.commit(pen.mkdir("a"))
    answers = await asyncio.gather(*(stage.repeat(command) for _ in range(5)))
    assert answers == [answers[0]] * 5
    assert len(stage.rows()) == 1


async def test_the_arbiter_hears_of_conflicts_in_order(stage):
    pen, other = stage.pen(), stage.pen()
    (node,) = stage.ok(pen, pen.create("a", content("a")))
    await stage.commit(pen, modify(pen, node, content("b")))
    await stage.commit(other, modify(other, node, content("c")))
    (row,) = stage.heard.rows
    assert (row.to.kind, row.to.key) == ("conflict-arbiter", stage.space.hex())
    ((kind, answer),) = await stage.settle()
    assert (kind, answer.open) == ("conflict-arbiter", 1)


def test_the_key_of_a_commit_sorts_by_device_and_op():
    pen = Stage().pen()
    assert decode_header(pen.commit(pen.mkdir("a")).header).op == 1
    low, high = op_id(b"a" * 16, 2**40), op_id(b"b" * 16, 1)
    assert low < high
    assert op_id(b"a" * 16, 255) < op_id(b"a" * 16, 256)
    assert len(low) == 24 != len(sha256(b""))
