"""The contract of Transport. Every adapter runs the very same tests."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.ports import Address, DeadLettered, Undeliverable, Unreachable
from protocol import limits
from tests.contracts.worlds import (
    HANG,
    PARTITIONS,
    Log,
    MemoryWorld,
    RabbitWorld,
    eventually,
    keys_of,
)


@pytest.fixture(
    params=["memory", pytest.param("rabbit", marks=[pytest.mark.services, pytest.mark.kills])]
)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    if request.param == "memory":
        made: Any = MemoryWorld()
    else:
        made = RabbitWorld(
            request.getfixturevalue("amqp_url"), request.getfixturevalue("namespace")
        )
    yield made
    await made.close()


def numbers(count: int) -> list[bytes]:
    return [str(n).encode() for n in range(count)]


async def test_messages_of_an_address_arrive_in_order_and_once(world):
    log, transport = Log(), await world.transport()
    await transport.consume(world.kind, log)
    for message in numbers(40):
        for key in "abc":
            await transport.send(Address(world.kind, key), message)
    await eventually(lambda: len(log.done) == 120)
    for key in "abc":
        assert log.of(key) == numbers(40)
    assert len(log.begun) == 120


async def test_an_address_is_never_entered_twice(world):
    log, transport = Log(), await world.transport()
    await transport.consume(world.kind, log)
    answers = await asyncio.gather(
        *(transport.ask(Address(world.kind, "a"), message, 20) for message in numbers(50))
    )
    assert answers == [b"answer to " + message for message in numbers(50)]
    assert log.inside_max["a"] == 1


async def test_addresses_do_not_wait_for_each_other(world):
    log, transport = Log(), await world.transport()
    log.gates[b"slow"] = asyncio.Event()
    await transport.consume(world.kind, log)
    slow = [key for share in range(PARTITIONS) for key in keys_of(share, 2)]
    for key in slow:
        await transport.send(Address(world.kind, key), b"slow")
    await eventually(lambda: sum(log.inside.values()) == len(slow))  # all at the same time
    assert await transport.ask(Address(world.kind, "other"), b"quick", 20) == b"answer to quick"
    log.gates[b"slow"].set()
    await eventually(lambda: len(log.done) == len(slow) + 1)


async def test_what_raises_is_tried_again_before_the_later_ones(world):
    log, transport = Log(), await world.transport()
    log.failures[b"1"] = [RuntimeError("planted") for _ in range(limits.DELIVERIES_MAX - 1)]
    await transport.consume(world.kind, log)
    for message in numbers(3):
        await transport.send(Address(world.kind, "a"), message)
    await eventually(lambda: len(log.done) == 3)
    assert log.of("a") == numbers(3)
    assert log.begun_of("a") == [b"0", *[b"1"] * limits.DELIVERIES_MAX, b"2"]
    assert await world.dead_letters() == []


async def test_after_the_limit_it_is_a_dead_letter_and_the_address_goes_on(world):
    log, transport = Log(), await world.transport()
    log.failures[b"0"] = [RuntimeError("planted") for _ in range(100)]
    await transport.consume(world.kind, log)
    for message in numbers(2):
        await transport.send(Address(world.kind, "a"), message)
    await eventually(lambda: log.of("a") == [b"1"])
    assert log.begun_of("a") == [*[b"0"] * limits.DELIVERIES_MAX, b"1"]
    letters: list[Any] = []
    async with asyncio.timeout(20):
        while not letters:  # the broker moves it in its own time
            letters = await world.dead_letters()
    assert letters == [(Address(world.kind, "a"), b"0")]


async def test_what_can_never_be_handled_is_a_dead_letter_at_once(world):
    log, transport = Log(), await world.transport()
    log.failures[b"garbage"] = [Undeliverable("planted") for _ in range(100)]
    await transport.consume(world.kind, log)
    with pytest.raises(DeadLettered):
        await transport.ask(Address(world.kind, "a"), b"garbage", 20)
    assert log.begun_of("a") == [b"garbage"]


async def test_an_outage_is_not_held_against_the_message(world):
    log, transport = Log(), await world.transport()
    outages = 3 * limits.DELIVERIES_MAX
    log.failures[b"x"] = [Unreachable("planted") for _ in range(outages)]
    await transport.consume(world.kind, log)
    assert await transport.ask(Address(world.kind, "a"), b"x", 20) == b"answer to x"
    assert len(log.begun) == outages + 1


async def test_ask_of_a_failing_handler_ends(world):
    log, transport = Log(), await world.transport()
    log.failures[b"x"] = [RuntimeError("planted") for _ in range(100)]
    await transport.consume(world.kind, log)
    with pytest.raises(DeadLettered):
        await transport.ask(Address(world.kind, "a"), b"x", 20)
    assert await transport.ask(Address(world.kind, "a"), b"y", 20) == b"answer to y"


async def test_ask_gives_up_in_time_but_the_turn_goes_on(world):
    log, transport = Log(), await world.transport()
    log.gates[b"slow"] = asyncio.Event()
    await transport.consume(world.kind, log)
    with pytest.raises(TimeoutError):
        await transport.ask(Address(world.kind, "a"), b"slow", 0.05)
    await eventually(lambda: log.begun_of("a") == [b"slow"])
    log.gates[b"slow"].set()
    assert await transport.ask(Address(world.kind, "a"), b"next", 20) == b"answer to next"
    assert log.of("a") == [b"slow", b"next"]


async def test_bytes_arrive_as_they_were(world):
    transport = await world.transport()
    heard: list[tuple[Address, bytes]] = []

    async def echo(to: Address, envelope: bytes) -> bytes:
        heard.append((to, envelope))
        return envelope

    await transport.consume(world.kind, echo)
    every = bytes(range(256))
    for key, body in (("a" * 32, b""), ("ключ/#.*", every), ("b", every * 8192)):
        to = Address(world.kind, key)
        assert await transport.ask(to, body, 20) == body
        assert heard.pop() == (to, body)


async def test_what_is_sent_before_there_is_a_consumer_is_kept(world):
    log, gateway = Log(), await world.transport()
    for message in numbers(3):
        await gateway.send(Address(world.kind, "a"), message)
    ask = asyncio.create_task(gateway.ask(Address(world.kind, "b"), b"asked", 20))
    await asyncio.sleep(0.01)
    worker = await world.transport()
    await worker.consume(world.kind, log)
    assert await ask == b"answer to asked"
    await eventually(lambda: log.of("a") == numbers(3))


async def test_consumers_share_by_partition(world):
    low, high = Log(), Log()
    middle = PARTITIONS // 2
    gateway, one, two = [await world.transport() for _ in range(3)]
    await one.consume(world.kind, low, range(middle))
    await two.consume(world.kind, high, range(middle, PARTITIONS))
    keys = {share: keys_of(share, 3) for share in range(PARTITIONS)}
    for own in keys.values():
        for key in own:
            assert await gateway.ask(Address(world.kind, key), b"x", 20) == b"answer to x"
    assert sorted(key for key, _ in low.done) == sorted(
        key for share in range(middle) for key in keys[share]
    )
    assert len(high.done) == 3 * (PARTITIONS - middle)


async def test_of_two_consumers_of_a_partition_one_is_active(world):
    first, second = Log(), Log()
    gateway, one, two = [await world.transport() for _ in range(3)]
    await one.consume(world.kind, first)
    await two.consume(world.kind, second)
    await asyncio.gather(*(gateway.ask(Address(world.kind, f"k{n}"), b"x", 20) for n in range(20)))
    assert (len(first.done), len(second.done)) == (20, 0)
    await one.close()
    await gateway.ask(Address(world.kind, "k0"), b"y", 20)
    assert second.done == [("k0", b"y")]


async def test_a_worker_killed_in_mid_turn_gives_its_messages_back_in_order(world):
    log = Log()
    doomed = await world.hanging_worker()
    await doomed.start()
    gateway, heir = await world.transport(), await world.transport()
    for message in (HANG, b"1", b"2"):
        await gateway.send(Address(world.kind, "a"), message)
    ask = asyncio.create_task(gateway.ask(Address(world.kind, "a"), b"3", 30))
    await doomed.hangs()
    await heir.consume(world.kind, log)
    assert log.begun == []  # it stands by
    await doomed.kill()
    assert await ask == b"answer to 3"
    assert log.of("a") == [HANG, b"1", b"2", b"3"]


async def test_close_finishes_the_turns_under_way(world):
    first, second = Log(), Log()
    first.gates[b"0"] = asyncio.Event()
    gateway, one, two = [await world.transport() for _ in range(3)]
    await one.consume(world.kind, first)
    for message in numbers(5):
        await gateway.send(Address(world.kind, "a"), message)
    await eventually(lambda: first.begun_of("a") == [b"0"])
    await two.consume(world.kind, second)
    closing = asyncio.create_task(one.close())
    await asyncio.sleep(0.02)
    assert not closing.done()
    await gateway.send(Address(world.kind, "a"), b"5")
    first.gates[b"0"].set()
    await closing
    await eventually(lambda: len(first.done) + len(second.done) == 6)
    assert first.of("a") + second.of("a") == numbers(6)  # in order, none lost, none twice
    assert b"0" in first.of("a")


async def test_close_comes_to_an_end_under_traffic_that_does_not(world):
    """And hands over without losing or repeating anything."""
    first, second = Log(), Log()
    gateway, one, two = [await world.transport() for _ in range(3)]
    await one.consume(world.kind, first)
    await two.consume(world.kind, second)
    numbered, safe = itertools.count(), set[bytes]()

    async def talk() -> None:
        for number in numbered:
            body = b"%d" % number
            await gateway.send(Address(world.kind, f"k{number % 8}"), body)
            safe.add(body)
            await asyncio.sleep(0)

    talking = [asyncio.create_task(talk()) for _ in range(4)]
    await eventually(lambda: len(first.done) > 50)
    await asyncio.wait_for(one.close(), 10)
    await eventually(lambda: len(second.done) > 50)
    for task in talking:
        task.cancel()
    await asyncio.gather(*talking, return_exceptions=True)
    await eventually(lambda: safe <= {body for _, body in first.done + second.done})
    bodies = [body for _, body in first.done + second.done]
    assert len(bodies) == len(set(bodies))


async def test_close_gives_back_what_takes_too_long(world):
    first, second = Log(), Log()
    first.gates[b"0"] = asyncio.Event()
    gateway, one = await world.transport(), await world.transport(grace_s=0.05)
    await one.consume(world.kind, first)
    for message in numbers(2):
        await gateway.send(Address(world.kind, "a"), message)
    await eventually(lambda: first.begun_of("a") == [b"0"])
    closing = asyncio.create_task(one.close())
    await asyncio.sleep(0.01)
    await gateway.send(Address(world.kind, "a"), b"2")
    await closing
    two = await world.transport()
    await two.consume(world.kind, second)
    await eventually(lambda: second.of("a") == numbers(3))


async def test_a_turn_may_speak_to_others_and_to_itself(world):
    transport = await world.transport()
    heard: list[tuple[str, bytes]] = []

    async def deliver(to: Address, envelope: bytes) -> bytes:
        heard.append((to.key, envelope))
        if envelope == b"first":
            await transport.send(to, b"to myself")
            return await transport.ask(Address(to.kind, "b"), b"second", 20)
        return b"answer"

    await transport.consume(world.kind, deliver)
    assert await transport.ask(Address(world.kind, "a"), b"first", 20) == b"answer"
    await eventually(lambda: len(heard) == 3)
    assert heard == [("a", b"first"), ("b", b"second"), ("a", b"to myself")]


async def test_asks_of_a_transport_that_closes_end(world):
    log, gateway, worker = Log(), await world.transport(), await world.transport()
    log.gates[b"slow"] = asyncio.Event()
    await worker.consume(world.kind, log)
    ask = asyncio.create_task(gateway.ask(Address(world.kind, "a"), b"slow", 60))
    await eventually(lambda: log.begun)
    await gateway.close()
    with pytest.raises(Unreachable):
        await asyncio.wait_for(ask, 5)
    log.gates[b"slow"].set()
    await eventually(lambda: log.done)


async def test_a_closed_transport_says_so(world):
    transport = await world.transport()
    await transport.close()
    await transport.close()
    to = Address(world.kind, "a")
    with pytest.raises(Unreachable):
        await transport.send(to, b"x")
    with pytest.raises(Unreachable):
        await transport.ask(to, b"x", 20)
    with pytest.raises(Unreachable):
        await transport.consume(world.kind, Log())
