"""Goal: one message has one effect and one answer, whatever is repeated, refused or overtaken."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.host import OVERTAKEN_MAX, Host
from actors.memory import MemoryFeed, MemoryTransport
from actors.outbox import Speaker
from actors.ports import Address, Envelope, Overtaken, Undeliverable
from protocol.codec import decode, encode
from protocol.faults import Code, Fault
from tests.actors.lamps import (
    Lamp,
    LampStore,
    Look,
    Seen,
    Status,
    SwitchOff,
    SwitchOn,
    envelope,
)
from tests.contracts.worlds import eventually

KITCHEN = Address("lamp", "kitchen")
LIT = encode(Seen(status="lit", times=1))


def host(store: LampStore, **options) -> Host:
    return Host(store, [Lamp], now_ms=lambda: 5_000, **options)


async def test_a_repeat_is_answered_again_and_does_nothing():
    store = LampStore()
    answers = [await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"1")) for _ in range(3)]
    assert answers == [LIT] * 3
    assert store.states[KITCHEN] == (Status.LIT, 1)
    assert len(store.rows) == 2  # told once


async def test_another_message_under_a_known_id_is_refused_and_not_stored():
    store = LampStore()
    await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"1"))
    raw = await host(store).deliver(KITCHEN, envelope(SwitchOff(), b"1"))
    assert decode(raw, Fault).code == Code.KEY_REUSED
    assert store.states[KITCHEN] == (Status.LIT, 1)
    assert await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"1")) == LIT


async def test_a_refusal_is_stored_as_the_answer_and_nothing_else_is_kept():
    store = LampStore()
    for _ in range(2):
        raw = await host(store).deliver(KITCHEN, envelope(SwitchOn(watts=1000), b"1"))
        assert decode(raw, Fault) == Fault(code=Code.QUOTA_EXCEEDED, about="the fuse")
    assert store.states == {}
    assert store.rows == {}
    assert store.commits == 1


async def test_out_of_order_is_stored_too():
    store = LampStore()
    raw = await host(store).deliver(KITCHEN, envelope(SwitchOff(), b"1"))
    await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"2"))
    assert decode(raw, Fault).code == Code.OUT_OF_ORDER
    assert await host(store).deliver(KITCHEN, envelope(SwitchOff(), b"1")) == raw


async def test_a_bug_rolls_back_and_is_raised():
    store = LampStore()
    with pytest.raises(RuntimeError, match="a bug"):
        await host(store).deliver(KITCHEN, envelope(SwitchOn(watts=-1), b"1"))
    assert (store.states, store.rows, store.inbox) == ({}, {}, {})


async def test_who_is_overtaken_runs_again_at_once():
    store = LampStore()
    store.trouble = [Overtaken("planted")] * (OVERTAKEN_MAX - 1)
    assert await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"1")) == LIT


async def test_who_is_overtaken_for_ever_gives_the_message_back():
    store = LampStore()
    store.trouble = [Overtaken("planted")] * 1000
    with pytest.raises(Overtaken):
        await host(store).deliver(KITCHEN, envelope(SwitchOn(), b"1"))
    assert len(store.trouble) == 1000 - OVERTAKEN_MAX


async def test_a_refusal_that_was_answered_meanwhile_is_answered_as_it_was():
    store, first = LampStore(), asyncio.Event()

    class Slow(Lamp):
        async def receive(self, message, turn):
            try:
                return await super().receive(message, turn)
            finally:
                await first.wait()

    raw = envelope(SwitchOn(watts=1000), b"1")
    late = asyncio.create_task(Host(store, [Slow], lambda: 0).deliver(KITCHEN, raw))
    await asyncio.sleep(0.01)
    answer = await host(store).deliver(KITCHEN, raw)
    first.set()
    assert await late == answer
    assert store.commits == 1


async def test_what_is_refused_twice_at_the_same_time_is_answered_once():
    store = LampStore()
    raw = envelope(SwitchOn(watts=1000), b"1")
    one, two = await asyncio.gather(*(host(store).deliver(KITCHEN, raw) for _ in range(2)))
    assert one == two
    assert store.commits == 1


# Caught the bug planted: the host did not look into the inbox again after it was overtaken.
@given(
    st.lists(st.sampled_from([SwitchOn(), SwitchOff(), Look(), SwitchOn(watts=500)]), max_size=6),
    st.integers(1, 4),
)
def test_hosts_that_hold_one_address_act_as_one(messages, hosts):
    store = LampStore()
    several = [host(store) for _ in range(hosts)]

    async def run():
        return await asyncio.gather(
            *(
                one.deliver(KITCHEN, envelope(message, b"%d" % n))
                for n, message in enumerate(messages)
                for one in several
            )
        )

    answers = asyncio.run(run())
    for n in range(len(messages)):
        assert len(set(answers[n * hosts : (n + 1) * hosts])) == 1
    assert len(store.inbox) == len(messages)
    seen = [decode(answers[n * hosts], Seen | Fault) for n in range(len(messages))]
    switched = [
        answer
        for message, answer in zip(messages, seen, strict=True)
        if isinstance(answer, Seen) and not isinstance(message, Look)
    ]
    assert sorted(answer.times for answer in switched) == list(range(1, len(switched) + 1))
    assert store.states.get(KITCHEN, (Status.DARK, 0))[1] == len(switched)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        encode(Envelope(b"1", b"f", b"")),
        encode(Envelope(b"1", b"f", b"\x81\xa1t\xa7unknown")),
    ],
)
async def test_garbage_is_undeliverable(raw: bytes):
    with pytest.raises(Undeliverable):
        await host(LampStore()).deliver(KITCHEN, raw)


async def test_an_unknown_kind_is_undeliverable():
    with pytest.raises(Undeliverable, match="piano"):
        await host(LampStore()).deliver(Address("piano", "x"), envelope(Look(), b"1"))
    with pytest.raises(ValueError, match="known: lamp"):
        await host(LampStore()).serve(MemoryTransport(), ["piano"])


async def test_a_turn_that_hangs_is_ended():
    class Hanging(LampStore):
        @asynccontextmanager
        async def turn(self, address):
            await asyncio.Event().wait()
            yield

    with pytest.raises(TimeoutError):
        await host(Hanging(), turn_timeout_s=0.01).deliver(KITCHEN, envelope(Look(), b"1"))


async def test_deliveries_are_heard_of_with_their_age():
    heard: list[tuple[str, str, int]] = []
    one = host(LampStore(), heard=lambda *facts: heard.append(facts))
    await one.deliver(KITCHEN, envelope(Look(), b"1", sent_ms=4_900))
    await one.deliver(KITCHEN, envelope(Look(), b"2"))
    await one.deliver(KITCHEN, envelope(Look(), b"3", sent_ms=9_000))  # their clock is ahead
    assert heard == [("lamp", "lamp.look", 100), ("lamp", "lamp.look", 0), ("lamp", "lamp.look", 0)]


async def test_it_serves_a_transport_and_speaks_after_the_commit():
    transport, feed, metered, watched = MemoryTransport(), MemoryFeed(), [], []

    async def meter(to: Address, raw: bytes) -> bytes:
        metered.append(decode(raw, Envelope))
        return b""

    async def watch(body: bytes) -> None:
        watched.append(decode(body, Seen))

    await transport.consume("meter", meter)
    await feed.listen(b"watchers", watch)
    speaker = Speaker(transport, feed)
    store = LampStore(speaker)
    await host(store).serve(transport)
    assert await transport.ask(KITCHEN, envelope(SwitchOn(), b"1"), 20) == LIT
    await speaker.silent()
    await eventually(lambda: metered and watched)
    assert watched == [Seen(status="lit", times=1)]
    assert [decode(one.body, Look) for one in metered] == [Look()]
    assert [one.trace for one in metered] == ["00-trace"]
    assert [told.due_ms for told in store.rows.values()] == [61_000]  # waits for the relay
    await transport.close()
