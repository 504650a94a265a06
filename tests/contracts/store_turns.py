"""What every Store promises about turns: all or nothing, answered once, then said."""

import asyncio

import pytest

from actors.core.admission import admit, read, wanted
from actors.ports import Address, Envelope, Outgoing, Overtaken
from actors.records import StoredAnswer
from protocol.codec import decode, sha256
from protocol.journal import op_id
from protocol.messages.feed import Noticed
from protocol.messages.upload import ExpireUpload
from tests.contracts.home import HOUR_MS, home
from tests.contracts.house import House
from tests.contracts.pen import chunk, content, fresh_id
from tests.contracts.store_rooms import upload


def stored_answer(text: bytes = b"answer") -> StoredAnswer:
    return StoredAnswer(sha256(text), text)


async def say_yes(house: House, address: Address, message_id: bytes, text: bytes = b"answer"):
    async with house.store.turn(address) as turn:
        turn.answer(message_id, stored_answer(text))


async def answered(house: House, address: Address, message_id: bytes):
    async with house.store.turn(address) as turn:
        return await turn.answered(message_id)


async def an_answer_is_kept_for_its_address(house: House):
    address, other = Address("user-sync", fresh_id().hex()), Address("user-sync", fresh_id().hex())
    assert await answered(house, address, b"m1") is None
    await say_yes(house, address, b"m1")
    assert await answered(house, address, b"m1") == stored_answer()
    assert await answered(house, other, b"m1") is None
    assert await answered(house, Address("conflict-arbiter", address.key), b"m1") is None


async def a_second_answer_to_the_same_message_is_overtaken(house: House):
    address = Address("user-sync", fresh_id().hex())
    await say_yes(house, address, b"m1")
    with pytest.raises(Overtaken):
        await say_yes(house, address, b"m1", b"another")
    assert await answered(house, address, b"m1") == stored_answer()


async def of_two_turns_that_answer_at_once_one_is_overtaken(house: House):
    address = Address("user-sync", fresh_id().hex())
    both = asyncio.Barrier(2)

    async def run(text: bytes):
        async with house.store.turn(address) as turn:
            assert await turn.answered(b"m1") is None
            await both.wait()
            turn.answer(b"m1", stored_answer(text))

    ends = await asyncio.gather(run(b"one"), run(b"two"), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", "Overtaken"]


async def a_turn_that_raises_leaves_nothing(house: House):
    here = await home(house)
    stored = chunk("hello")
    commit = read(here.pen.commit(here.pen.create("a", content("a", stored)), stored=(stored,)))
    node = commit.changes[0].node
    before = await here.space()

    async def fail():
        async with house.store.turn(here.address) as turn:
            space = await turn.space(here.pen.space, here.pen.account)
            view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
            await turn.write(admit(space, view, commit, turn.now_ms).batch)
            await turn.put_upload(upload(here), 10)
            turn.answer(b"m1", stored_answer())
            turn.tell(here.address, ExpireUpload(upload=fresh_id()))
            turn.nudge(here.pen.space, Noticed(space=here.pen.space, kind="x", at_ms=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await here.space() == before
    view = await here.look(nodes=[node], chunks=[stored.address], dots=[1])
    assert not view.nodes
    assert not view.dots
    assert view.missing == {stored.address}
    assert await answered(house, here.address, b"m1") is None
    assert await house.seed.merkle(here.pen.space) == {}
    assert not house.heard.rows
    assert not house.heard.nudges


async def a_turn_reads_its_own_writes(house: House):
    here = await home(house)
    stored = chunk("hello")
    commit = read(here.pen.commit(here.pen.create("a", content("a", stored)), stored=(stored,)))
    node = commit.changes[0].node
    async with house.store.turn(here.address) as turn:
        space = await turn.space(here.pen.space, here.pen.account)
        view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
        decision = admit(space, view, commit, turn.now_ms)
        await turn.write(decision.batch)
        view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
        assert view.nodes[node].content_id == commit.changes[0].content.content_id
        assert view.dots == {1: decision.batch.rows[0].raw}
        assert view.held[stored.address].referenced
        space = await turn.space(here.pen.space, here.pen.account)
        assert (space.head_seq, space.head) == (1, decision.batch.head)
        assert space.used_bytes == len("hello")


async def what_is_told_is_said_after_the_commit_in_order(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    first, second = fresh_id(), fresh_id()
    async with house.store.turn(address) as turn:
        turn.tell(to, ExpireUpload(upload=first))
        turn.tell(to, ExpireUpload(upload=second))
        turn.nudge(b"topic", Noticed(space=first, kind="x", at_ms=1))
        turn.answer(b"m1", stored_answer())
        assert not house.heard.rows
    assert [row.to for row in house.heard.rows] == [to, to]
    bodies = [decode(told(row).body, ExpireUpload) for row in house.heard.rows]
    assert bodies == [ExpireUpload(upload=first), ExpireUpload(upload=second)]
    assert len({told(row).id for row in house.heard.rows}) == 2
    ((topic, body),) = house.heard.nudges
    assert (topic, decode(body, Noticed)) == (b"topic", Noticed(space=first, kind="x", at_ms=1))


async def what_was_not_delivered_is_left_to_the_relay(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    async with house.store.turn(address) as turn:
        for _ in range(3):
            turn.tell(to, ExpireUpload(upload=fresh_id()))
        turn.answer(b"m1", stored_answer())
    first, second, third = house.heard.rows
    assert first not in await outgoing(house, to, 5_000), "the turn's own speaker is still at it"
    await house.store.delivered([second.id])
    house.clock.ms += 5_000
    assert await outgoing(house, to, 5_000) == [first, third]
    assert not await outgoing(house, to, 5_000), "claimed by one relay at a time"
    await house.store.delivered([first.id, first.id, second.id])
    house.clock.ms += 5_000
    assert await outgoing(house, to, 5_000) == [third], "not delivered: another try"
    await house.store.delivered([third.id])
    house.clock.ms += 5_000
    assert not await outgoing(house, to, 5_000)


async def what_is_told_for_later_waits_until_it_is_due(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    async with house.store.turn(address) as turn:
        turn.tell(to, ExpireUpload(upload=fresh_id()), after_ms=2 * HOUR_MS)
        turn.tell(to, ExpireUpload(upload=fresh_id()), after_ms=HOUR_MS)
        turn.answer(b"m1", stored_answer())
    assert not house.heard.rows
    assert house.heard.due_ms == [house.clock.ms + HOUR_MS]
    house.clock.ms += HOUR_MS - 1
    assert not await outgoing(house, to, 0)
    house.clock.ms += 1
    (row,) = await outgoing(house, to, 0)
    await house.store.delivered([row.id])
    house.clock.ms += HOUR_MS
    (row,) = await outgoing(house, to, 5_000)
    await house.store.delivered([row.id])


async def read_answers_are_forgotten_and_remembered_as_read(house: House):
    here = await home(house)
    device, other = fresh_id("device"), fresh_id("device")
    ids = [op_id(device, op) for op in (1, 2, 3)] + [op_id(other, 1), b"not an op"]
    for message_id in ids:
        await say_yes(house, here.address, message_id)
    assert (await here.look(device)).answered_op == 0
    async with house.store.turn(here.address) as turn:
        await turn.forget_answers(device, 2)
    kept = [await answered(house, here.address, message_id) is not None for message_id in ids]
    assert kept == [False, False, True, True, True]
    assert (await here.look(device)).answered_op == 2
    assert (await here.look(other)).answered_op == 0
    async with house.store.turn(here.address) as turn:
        await turn.forget_answers(device, 1)
    assert (await here.look(device)).answered_op == 2, "never back"


def told(row: Outgoing):
    return decode(row.envelope, Envelope)


async def outgoing(house: House, to: Address, older_than_ms: int) -> list[Outgoing]:
    return [row for row in await house.store.outgoing(1_000, older_than_ms) if row.to == to]
