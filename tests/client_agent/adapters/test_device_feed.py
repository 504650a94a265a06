"""The ear: pushes, pings, the way back after a loss, the heartbeat where sockets do not work."""

import asyncio

import pytest
from aiohttp import WSMsgType, web

from client_agent.adapters import feed as feed_module
from client_agent.adapters.feed import Feed
from client_agent.adapters.server import Server
from client_agent.core.events import Connected, Disconnected, Pulled
from client_agent.core.trees import Cursor
from protocol.backoff import Backoff
from protocol.codec import decode, encode
from protocol.messages.feed import (
    Advanced,
    Applied,
    Bye,
    DeviceFrame,
    DeviceRevoked,
    Hello,
    Noticed,
    Ping,
    Pong,
    Welcome,
)
from protocol.messages.sync import Head, Heartbeaten
from tests.client_agent.adapters.test_device_server import session

SPACE, HISTORY, DEVICE = (bytes([n]) * 16 for n in (3, 4, 2))
HASH = bytes(32)
WAIT_S = 20


class Gateway:
    """Says what the test puts into `say`; keeps what it hears."""

    def __init__(self) -> None:
        self.say: asyncio.Queue = asyncio.Queue()
        self.heard: asyncio.Queue = asyncio.Queue()
        self.sockets = self.heartbeats = 0
        self.refuse = False

    async def socket(self, request):
        if self.refuse:
            return web.Response(status=503)
        self.sockets += 1
        line = web.WebSocketResponse()
        await line.prepare(request)
        listening = asyncio.create_task(self.listen(line))
        while not line.closed:
            frame = await self.say.get()
            if frame is None:
                break
            await line.send_bytes(frame if isinstance(frame, bytes) else encode(frame))
        await line.close()
        listening.cancel()
        return line

    async def listen(self, line):
        async for message in line:
            if message.type is WSMsgType.BINARY:
                await self.heard.put(decode(message.data, DeviceFrame))

    async def heartbeat(self, request):
        self.heartbeats += 1
        if self.refuse == "all":
            return web.Response(status=503)
        body = encode(Heartbeaten(server_ms=1, heads=(Head(SPACE, HISTORY, 9, HASH),)))
        return web.Response(body=body, content_type="application/msgpack")


class Journal:
    async def pushed(self, frame):
        return Pulled(frame.history, frame.prev_seq, (), frame.seq, asked=False)


class Me:
    space, device = SPACE, DEVICE


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(feed_module, "RECONNECT", Backoff(base_ms=1, cap_ms=5))
    gateway = Gateway()
    app = web.Application()
    app.router.add_get("/ws/sync", gateway.socket)
    app.router.add_post("/sync/heartbeat", gateway.heartbeat)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    gateway.events = asyncio.Queue()
    async with Server(url, session("first")) as server:
        gateway.feed = Feed(
            Me(), server, Journal(), lambda: Cursor(HISTORY, 5, HASH),
            gateway.events.put_nowait, gateway.events.put_nowait,
        )
        listening = asyncio.create_task(gateway.feed.listen())
        yield gateway
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    await gateway.say.put(None)
    await runner.cleanup()


async def event(world):
    async with asyncio.timeout(WAIT_S):
        return await world.events.get()


def welcome(seq: int, ping_s: int = 30) -> Welcome:
    heads = (Head(SPACE, HISTORY, seq, HASH), Head(DEVICE, HISTORY, 1, HASH))
    return Welcome(protocol=1, server_ms=1, heads=heads, ping_s=ping_s)


async def test_hello_welcome_and_pushes(world):
    await world.say.put(welcome(6))
    assert await event(world) == Connected(6)
    hello = await world.heard.get()
    assert isinstance(hello, Hello)
    assert hello.cursors == (Head(SPACE, HISTORY, 5, HASH),)
    await world.say.put(Advanced(space=SPACE, history=HISTORY, prev_seq=6, seq=7, head=HASH))
    assert (await event(world)).head_seq == 7
    await world.say.put(Advanced(space=DEVICE, history=HISTORY, prev_seq=6, seq=7, head=HASH))
    await world.say.put(b"nonsense")
    await world.say.put(Noticed(space=SPACE, kind="conflict", at_ms=1))
    await world.say.put(Ping())
    assert isinstance(await world.heard.get(), Pong | Applied)
    assert world.events.empty(), "other spaces and nonsense change nothing"
    assert world.feed.up


async def test_it_comes_back_after_bye_and_after_a_loss(world):
    await world.say.put(welcome(6))
    assert await event(world) == Connected(6)
    await world.say.put(Bye(code="busy", retry_after_ms=1))
    await world.say.put(None)
    assert await event(world) == Connected(9), "the heartbeat, meanwhile"
    await world.say.put(welcome(10))
    while await event(world) != Connected(10):
        pass
    assert world.sockets >= 2


async def test_where_sockets_do_not_work_heartbeats_do(world):
    world.refuse = True
    await world.say.put(None)
    assert await event(world) == Connected(9)
    assert await event(world) == Connected(9)
    assert not world.feed.up
    world.refuse = "all"
    while not isinstance(await event(world), Disconnected):
        pass


async def test_a_server_that_falls_silent_is_left(world, monkeypatch):
    monkeypatch.setattr(feed_module, "SILENT_PINGS", 0.05)
    await world.say.put(welcome(6, ping_s=1))
    assert await event(world) == Connected(6)
    await asyncio.sleep(0.2)  # silence is what is tested
    await world.say.put(None)
    assert await event(world) == Connected(9)


async def test_a_revoked_device_hears_it_at_once(world):
    await world.say.put(DeviceRevoked(account=SPACE, device=HISTORY))
    await world.say.put(DeviceRevoked(account=SPACE, device=DEVICE))
    assert (await event(world)) == "session_revoked"


async def test_the_minute_beats_with_jitter(world, monkeypatch):
    waits = []

    class Clock:
        @staticmethod
        async def sleep(seconds):
            waits.append(seconds)
            if len(waits) > 20:
                raise asyncio.CancelledError

    monkeypatch.setattr(feed_module, "asyncio", Clock)
    with pytest.raises(asyncio.CancelledError):
        await world.feed.beats()
    assert min(waits) >= 45
    assert max(waits) <= 75
    assert len(set(waits)) > 15
