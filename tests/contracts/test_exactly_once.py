"""Goal: whatever breaks on the way, an op that is asked for until it is answered has one effect.

A gateway and two workers share a store. A worker's and the gateway's line to the broker are cut
again and again, a third worker comes and is killed, and commits fail at random; while the broker
is away the gateway hosts the actors itself.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from actors.adapters import rabbit
from actors.adapters.rabbit import RabbitTransport
from actors.dialer import Dialer
from actors.host import Host
from actors.memory import MemoryFeed, MemoryTransport
from actors.outbox import Speaker
from actors.ports import Address, Envelope, Overtaken, Unreachable
from protocol.codec import decode, encode, sha256
from protocol.faults import Fault
from tests.actors.lamps import Lamp, LampStore, Seen, SwitchOff, SwitchOn
from tests.contracts.proxy import Proxy
from tests.contracts.worlds import PARTITIONS, RabbitWorld, eventually

pytestmark = [pytest.mark.services, pytest.mark.kills]
LAMPS, SWITCHES = 4, 150
TROUBLES = [Overtaken, Unreachable, ConnectionError, RuntimeError]


class LampWorld(RabbitWorld):
    """The broker's corner of this test: the kind is the lamps'."""

    def __init__(self, url: str, namespace: str) -> None:
        super().__init__(url, namespace)
        self.kind = "lamp"


@pytest.fixture
async def world(amqp_url: str, namespace: str) -> AsyncIterator[LampWorld]:
    made = LampWorld(amqp_url, namespace)
    yield made
    await made.close()


class Counting:
    """The gateway's line, and how many answers came over it."""

    def __init__(self, transport: RabbitTransport) -> None:
        self._transport = transport
        self.answers = self.troubles = 0

    async def ask(self, to: Address, envelope: bytes, timeout_s: float) -> bytes:
        self.troubles += 1
        answer = await self._transport.ask(to, envelope, timeout_s)
        self.troubles -= 1
        self.answers += 1
        return answer


@pytest.fixture
async def proxies(amqp_url: str) -> AsyncIterator[list[Proxy]]:
    made = [Proxy(amqp_url, 5672) for _ in range(2)]
    for proxy in made:
        await proxy.mend()
    yield made
    for proxy in made:
        await proxy.cut()


async def harass(
    proxies: list[Proxy], dice: random.Random, worker: Callable[[], Awaitable[RabbitTransport]]
) -> None:
    """Cut lines at random, and let workers come and go, until cancelled."""
    while True:
        await asyncio.sleep(dice.random() * 0.2)
        proxy = dice.choice(proxies)
        await proxy.cut()
        await asyncio.sleep(dice.random() * 0.1)
        await proxy.mend()
        if dice.random() < 0.3:
            short = await worker()
            await asyncio.sleep(dice.random() * 0.05)
            await short.close()


async def test_every_switch_switches_once(amqp_url, namespace, world, proxies, monkeypatch):
    monkeypatch.setattr(rabbit, "RECONNECT_S", (0.02, 0.02))
    dice = random.Random(7)
    feed, metered, fallback = MemoryFeed(), list[bytes](), MemoryTransport()
    told = MemoryTransport()

    async def meter(_: Address, raw: bytes) -> bytes:
        metered.append(decode(raw, Envelope).id)
        return b""

    await told.consume("meter", meter)
    speaker = Speaker(told, feed)
    store = LampStore(speaker)
    host = Host(store, [Lamp], lambda: 0)

    async def worker(url: str) -> RabbitTransport:
        transport = await RabbitTransport.open(url, namespace, partitions=PARTITIONS, grace_s=1)
        world._transports.append(transport)
        await host.serve(transport)
        return transport

    gateway = await RabbitTransport.open(proxies[0].url, namespace, partitions=PARTITIONS)
    world._transports.append(gateway)
    await worker(proxies[1].url)
    await worker(amqp_url)
    await host.serve(fallback)
    clock = asyncio.get_running_loop().time
    line = Counting(gateway)
    dialer = Dialer([Lamp], line, fallback, lambda: int(clock() * 1000), lambda: 0.0)

    async def switch(lamp: str) -> None:
        to = Address("lamp", lamp)
        for n in range(SWITCHES):
            message = SwitchOff() if n % 2 else SwitchOn()
            answer, op = None, b"%d" % n
            while not isinstance(answer, Seen):
                answer = await dialer.ask(to, message, op, sha256(encode(message)), timeout_s=0.5)
                assert isinstance(answer, Seen | Fault)
                if isinstance(answer, Fault):
                    assert answer.code in ("busy", "unavailable", "internal"), answer
            assert answer.times == n + 1
            if dice.random() < 0.3:
                store.trouble.append(dice.choice(TROUBLES)("planted"))

    harassing = asyncio.create_task(harass(proxies, dice, lambda: worker(amqp_url)))
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for lamp in range(LAMPS):
                group.create_task(switch(f"lamp{lamp}"))
    finally:
        harassing.cancel()
        await asyncio.gather(harassing, return_exceptions=True)
    for lamp in range(LAMPS):
        assert store.states[Address("lamp", f"lamp{lamp}")][1] == SWITCHES
    await speaker.silent()
    await eventually(lambda: len(set(metered)) == LAMPS * SWITCHES)  # each told of
    assert {told.due_ms for told in store.rows.values()} == {61_000}  # but for what is not due
    assert line.answers, "nothing went over the broker"
    assert line.troubles, "nothing went wrong"
    for transport in (fallback, told):
        await transport.close()
