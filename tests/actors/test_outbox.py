"""Goal: what a turn told is sent once it is committed, in order, and whatever breaks, later."""

import asyncio
from typing import Any

import pytest
import structlog

from actors import outbox
from actors.memory import MemoryFeed
from actors.outbox import Relay, Speaker, relay_once
from actors.ports import Address, Envelope, Outgoing, Overtaken, Unreachable
from actors.records import StoredAnswer
from actors.turn import Nudged, Words
from protocol.codec import decode, sha256
from tests.actors.lamps import Look
from tests.contracts.worlds import eventually

A, B, BROKEN = Address("k", "a"), Address("k", "b"), Address("k", "broken")


class Line:
    """A transport that can be away, per address."""

    def __init__(self) -> None:
        self.sent: list[tuple[Address, bytes]] = []
        self.away: set[Address] = set()

    async def send(self, to: Address, envelope: bytes) -> None:
        await asyncio.sleep(0)
        if to in self.away:
            raise Unreachable("planted")
        if to == BROKEN:
            raise OverflowError("planted")
        self.sent.append((to, envelope))


class Outbox:
    """The outbox part of a store."""

    def __init__(self, *rows: Outgoing) -> None:
        self.rows = {row.id: row for row in rows}
        self.away = 0
        self.asked = 0
        self.bugs: list[Exception] = []

    async def outgoing(self, limit: int, older_than_ms: int) -> list[Outgoing]:
        self.asked += 1
        if self.away:
            self.away -= 1
            raise Unreachable("planted")
        if self.bugs:
            raise self.bugs.pop()
        return list(self.rows.values())[:limit]

    async def delivered(self, ids: Any) -> None:
        if self.away:
            raise Unreachable("planted")
        if self.bugs:
            raise self.bugs.pop()
        for row in ids:
            self.rows.pop(row, None)


def row(number: int, to: Address = A) -> Outgoing:
    return Outgoing(number, to, b"%d" % number)


# --- turn: what is to be said ---


def words(message_id: bytes = b"m", now_ms: int = 1_000) -> Words:
    turn = Words(A, now_ms)
    turn.tell(B, Look())
    turn.tell(B, Look(), after_ms=500)
    turn.answer(message_id, StoredAnswer(b"f", b""))
    return turn


def test_a_turn_run_twice_tells_the_same_messages():
    first, second = words().outbox(), words().outbox()
    assert first == second
    ids = {decode(told.envelope, Envelope).id for told in first}
    assert len(ids) == 2
    other = words(b"other").outbox()
    assert not ids & {decode(told.envelope, Envelope).id for told in other}


def test_told_rows_say_when_they_are_due_and_what_they_say():
    now, later = words().outbox()
    assert (now.to, now.due_ms, later.due_ms) == (B, 1_000, 1_500)
    envelope = decode(now.envelope, Envelope)
    assert decode(envelope.body, Look) == Look()
    assert envelope.fingerprint == sha256(envelope.body)
    assert now.outgoing(7) == Outgoing(7, B, now.envelope)


def test_a_told_message_carries_the_trace_of_the_one_it_follows_from():
    assert decode(words().outbox()[0].envelope, Envelope).trace == ""
    with structlog.contextvars.bound_contextvars(trace="00-trace"):
        assert decode(words().outbox()[0].envelope, Envelope).trace == "00-trace"


def test_a_turn_answers_a_message_once():
    turn = words()
    turn.answer(b"another", StoredAnswer(b"f", b""))
    with pytest.raises(Overtaken):
        turn.answer(b"m", StoredAnswer(b"f", b""))


def test_a_turn_that_tells_must_answer():
    turn = Words(A, 0)
    assert turn.outbox() == []
    turn.tell(B, Look())
    with pytest.raises(AssertionError):
        turn.outbox()


# --- speaker: right after the commit ---


async def test_it_sends_in_order_and_marks_what_is_safe():
    line, store = Line(), Outbox(*(row(n, A if n % 2 else B) for n in range(10)))
    speaker = Speaker(line, MemoryFeed())
    rows = list(store.rows.values())
    speaker.say(rows[:4], [], store.delivered)
    speaker.say(rows[4:], [], store.delivered)
    assert line.sent == []  # in the background
    await speaker.silent()
    for to, odd in ((A, 1), (B, 0)):
        assert [body for where, body in line.sent if where == to] == [
            b"%d" % n for n in range(10) if n % 2 == odd
        ]
    assert store.rows == {}


async def test_what_cannot_be_sent_stays_in_the_outbox_and_the_relay_is_told():
    line, store, due = Line(), Outbox(row(1), row(2), row(3, B)), list[int]()
    line.away = {A}
    speaker = Speaker(line, MemoryFeed(), due.append)
    speaker.say(list(store.rows.values()), [], store.delivered, next_due_ms=99)
    await speaker.silent()
    assert line.sent == [(B, b"3")]
    assert list(store.rows) == [1, 2]
    assert due == [99, 0]


async def test_a_store_that_goes_away_after_the_send_means_a_duplicate_and_no_more():
    line, store = Line(), Outbox(row(1))
    store.away = 1
    speaker = Speaker(line, MemoryFeed())
    speaker.say([row(1)], [], store.delivered)
    await speaker.silent()
    assert line.sent == [(A, b"1")]
    assert list(store.rows) == [1]


async def test_a_bug_on_the_way_costs_its_own_row_only():
    line, store = Line(), Outbox(row(1, BROKEN), row(2), row(3, BROKEN))
    speaker = Speaker(line, MemoryFeed())
    speaker.say(list(store.rows.values()), [], store.delivered)
    await speaker.silent()
    assert list(store.rows) == [1, 3]
    store.bugs = [RuntimeError("planted")]
    speaker.say([row(4)], [], store.delivered)
    await speaker.silent()
    assert line.sent == [(A, b"2"), (A, b"4")]


async def test_nudges_are_broadcast_in_order_and_do_not_wait_for_messages():
    line, feed, heard = Line(), MemoryFeed(), list[bytes]()

    async def hear(body: bytes) -> None:
        heard.append(body)

    await feed.listen(b"t", hear)
    speaker = Speaker(line, feed)
    speaker.say([], [Nudged(b"t", b"1"), Nudged(b"t", b"2")], Outbox().delivered)
    speaker.say([], [Nudged(b"t", b"3")], Outbox().delivered)
    await speaker.silent()
    await eventually(lambda: heard == [b"1", b"2", b"3"])


# --- relay: what was left ---


async def test_one_pass_sends_what_is_left():
    line, store = Line(), Outbox(row(1), row(2, B))
    assert await relay_once(store, line) == (2, 2)
    assert store.rows == {}
    assert await relay_once(store, line) == (0, 0)
    store = Outbox(row(1), row(2, B), row(3))
    line.away = {A}
    assert await relay_once(store, line) == (3, 1)
    assert list(store.rows) == [1, 3]
    line.away = {A, B}
    assert await relay_once(store, line) == (2, 0)


async def test_it_outlives_outages_of_store_and_broker():
    line, store = Line(), Outbox(row(1))
    store.away, line.away, store.bugs = 2, {A}, [RuntimeError("planted")]
    relay = Relay(store, line, now_ms=lambda: 0, dice=lambda: 0.0)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: store.asked > 5)
    assert line.sent == []
    line.away = set()
    await eventually(lambda: not store.rows)
    assert line.sent == [(A, b"1")]
    running.cancel()


async def test_it_takes_full_batches_without_a_rest(monkeypatch):
    monkeypatch.setattr(outbox, "BATCH_MAX", 2)
    line, store = Line(), Outbox(*(row(n) for n in range(7)))
    running = asyncio.create_task(Relay(store, line, lambda: 0, lambda: 0.0).run())
    await eventually(lambda: not store.rows)
    running.cancel()


async def test_it_sleeps_until_something_is_due():
    line, store = Line(), Outbox()
    clock = asyncio.get_running_loop().time
    begin_s = clock()
    relay = Relay(
        store,
        line,
        now_ms=lambda: int((clock() - begin_s) * 1000),
        dice=lambda: 0.0,
        left_ms=20,
    )
    running = asyncio.create_task(relay.run())
    await eventually(lambda: store.asked == 1)
    store.rows[1] = row(1)
    relay.wake_at(60)
    relay.wake_at(3_600_000)  # what is due later does not put it off
    await eventually(lambda: line.sent)
    assert (clock() - begin_s) >= 0.06
    assert store.asked == 2
    store.rows[2] = row(2)
    relay.wake_at(0)
    await eventually(lambda: len(line.sent) == 2)
    running.cancel()


async def test_it_looks_again_after_a_while_by_itself():
    store = Outbox()
    clock = asyncio.get_running_loop().time
    relay = Relay(store, Line(), lambda: int(clock() * 1000), lambda: 0.0, idle_s=0.01)
    running = asyncio.create_task(relay.run())
    await eventually(lambda: store.asked >= 3)
    running.cancel()
