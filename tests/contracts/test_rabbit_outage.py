"""Goal: a broker that goes away is noticed at once, loses nothing, and is found again."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import pytest

from actors.adapters import rabbit
from actors.adapters.rabbit import RabbitTransport
from actors.ports import Address, Unreachable
from tests.contracts.proxy import Proxy
from tests.contracts.worlds import PARTITIONS, Log, RabbitWorld, eventually, no_dice

pytestmark = [pytest.mark.services, pytest.mark.kills]


@pytest.fixture
async def world(
    amqp_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RabbitWorld]:
    monkeypatch.setattr(rabbit, "RECONNECT_S", (0.05, 0.05))
    made = RabbitWorld(amqp_url, namespace)
    yield made
    await made.close()


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    made = Proxy(amqp_url, 5672)
    await made.mend()
    yield made
    await made.cut()


async def through(proxy: Proxy, world: RabbitWorld, **options) -> RabbitTransport:
    options = {"partitions": PARTITIONS, "dice": no_dice} | options
    transport = await RabbitTransport.open(proxy.url, world.namespace, **options)
    world._transports.append(transport)
    return transport


async def test_asks_under_way_fail_at_once_and_later_ones_too(world, proxy):
    log, gateway, worker = Log(), await through(proxy, world), await world.transport()
    log.gates[b"slow"] = asyncio.Event()
    await worker.consume(world.kind, log)
    ask = asyncio.create_task(gateway.ask(Address(world.kind, "a"), b"slow", 60))
    await eventually(lambda: log.begun)
    await proxy.cut()
    with pytest.raises(Unreachable):
        await asyncio.wait_for(ask, 5)
    await eventually(lambda: not gateway.up)
    for _ in range(3):
        with pytest.raises(Unreachable):
            await asyncio.wait_for(gateway.ask(Address(world.kind, "a"), b"x", 60), 1)
        with pytest.raises(Unreachable):
            await asyncio.wait_for(gateway.send(Address(world.kind, "a"), b"x"), 1)
    log.gates[b"slow"].set()
    await proxy.mend()
    await eventually(lambda: gateway.up)
    assert await gateway.ask(Address(world.kind, "a"), b"back", 20) == b"answer to back"
    assert log.of("a") == [b"slow", b"back"]


async def test_a_worker_that_was_cut_off_serves_again(world, proxy):
    log, gateway, worker = Log(), await world.transport(), await through(proxy, world)
    await worker.consume(world.kind, log)
    await gateway.ask(Address(world.kind, "a"), b"before", 20)
    for n in range(3):
        await proxy.cut()
        await gateway.send(Address(world.kind, "a"), b"kept %d" % n)
        await proxy.mend()
        assert await gateway.ask(Address(world.kind, "a"), b"%d" % n, 20) == b"answer to %d" % n
    assert log.of("a") == [
        b"before",
        *(body for n in range(3) for body in (b"kept %d" % n, b"%d" % n)),
    ]


async def test_what_was_under_way_in_a_worker_that_is_cut_off_comes_again_in_order(world, proxy):
    log, gateway, worker = Log(), await world.transport(), await through(proxy, world)
    log.gates[b"0"] = asyncio.Event()
    await worker.consume(world.kind, log)
    for n in range(4):
        await gateway.send(Address(world.kind, "a"), b"%d" % n)
    await eventually(lambda: log.begun_of("a") == [b"0"])
    await proxy.cut()
    await proxy.mend()
    await asyncio.sleep(0.3)  # it is connected again and has 0..3 once more
    log.gates[b"0"].set()
    await eventually(lambda: log.done[-1:] == [("a", b"3")])
    assert log.of("a") == [b"0", b"0", b"1", b"2", b"3"]  # the repeat of 0 is the inbox's business
    assert log.inside_max["a"] == 1


async def test_it_opens_while_the_broker_is_away_and_finds_it_later(world, proxy, monkeypatch):
    monkeypatch.setattr(rabbit, "CONFIRM_S", 0.2)
    await proxy.cut()
    log, gateway, worker = Log(), await through(proxy, world), await through(proxy, world)
    assert not gateway.up
    with pytest.raises(Unreachable):
        await gateway.send(Address(world.kind, "a"), b"x")
    consuming = asyncio.create_task(worker.consume(world.kind, log))
    await asyncio.sleep(0.1)
    assert not consuming.done()
    await proxy.mend()
    await asyncio.wait_for(consuming, 20)
    await eventually(lambda: gateway.up)
    monkeypatch.undo()
    assert await gateway.ask(Address(world.kind, "a"), b"x", 20) == b"answer to x"


async def test_it_closes_while_the_broker_is_away(world, proxy):
    log, worker = Log(), await through(proxy, world, grace_s=0.1)
    await worker.consume(world.kind, log)
    await proxy.cut()
    await eventually(lambda: not worker.up)
    await asyncio.wait_for(worker.close(), 10)
    never = RabbitTransport(proxy.url, world.namespace)
    await never.close()


async def test_who_stops_while_it_opens_or_closes_leaves_nothing_behind(world, proxy):
    """aio-pika's reconnecting task cannot be cancelled: left behind, it would never let us exit."""
    before = asyncio.all_tasks()
    await proxy.cut()
    opening = asyncio.create_task(through(proxy, world))
    await asyncio.sleep(0.1)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await proxy.mend()
    log, worker = (
        Log(),
        await RabbitTransport.open(proxy.url, world.namespace, partitions=PARTITIONS),
    )
    log.gates[b"hangs"] = asyncio.Event()
    await worker.consume(world.kind, log)
    await worker.send(Address(world.kind, "a"), b"hangs")
    await eventually(lambda: log.begun)
    closing = asyncio.create_task(worker.close())
    await asyncio.sleep(0.1)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    for box in worker._mailboxes:
        await box.abandon()
    await eventually(lambda: not left_of(before))


def left_of(before: set[asyncio.Task]) -> list[asyncio.Task]:
    """What of aio-pika still runs (the proxy's own tasks do not count)."""
    return [
        task
        for task in asyncio.all_tasks() - before
        if "aio_pika" in repr(task.get_coro()) or "Robust" in repr(task.get_coro())
    ]


async def test_a_queue_that_vanished_is_declared_again(world, amqp_url):
    gateway, log = await world.transport(), Log()
    to = Address(world.kind, "a")
    for _ in range(2):
        await gateway.send(to, b"lost with its queue")
        connection = await aio_pika.connect(amqp_url)
        async with connection:
            channel = await connection.channel()
            for share in range(PARTITIONS):
                await channel.queue_delete(f"{world.namespace}.{world.kind}.{share}")
    await gateway.send(to, b"kept")
    worker = await world.transport()
    await worker.consume(world.kind, log)
    await eventually(lambda: log.of("a") == [b"kept"])


async def test_a_broker_that_does_not_answer_counts_as_away(world, amqp_url, monkeypatch):
    """A hung broker accepts connections and bytes, and says nothing."""
    monkeypatch.setattr(rabbit, "CONFIRM_S", 0.2)
    gateway = await world.transport()
    await gateway.send(Address(world.kind, "a"), b"x")

    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(gateway._speaking.broker, "publish", hang)
    with pytest.raises(Unreachable):
        await asyncio.wait_for(gateway.send(Address(world.kind, "a"), b"x"), 5)


async def test_many_first_messages_at_once_find_their_queues(world):
    gateways = [await world.transport() for _ in range(3)]
    await asyncio.gather(
        *(
            gateway.send(Address(world.kind, f"key{n}"), b"%d" % n)
            for n in range(40)
            for gateway in gateways
        )
    )
    log, worker = Log(), await world.transport()
    await worker.consume(world.kind, log)
    await eventually(lambda: len(log.done) == 120)
