"""`WS /ws/sync` on a real socket."""

import asyncio
import io
import os
from typing import Any

import aiohttp
import pytest

import apps.gateway.feed
from actors.memory import MemoryFeed
from apps.gateway.hub import FRAMES_MAX, Hub, Outlet
from protocol.codec import decode, encode
from protocol.messages.feed import (
    Advanced,
    Applied,
    Bye,
    Hello,
    NeedChunk,
    Ping,
    Pong,
    ServerFrame,
    Ticket,
    Welcome,
)
from protocol.messages.sync import Head
from tests.apps.conftest import Running
from tests.apps.fake_device import FakeDevice


class Line:
    """A device's end of a socket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def say(self, message: Any) -> None:
        await self.socket.send_bytes(encode(message))

    async def hear(self) -> Any:
        message = await asyncio.wait_for(self.socket.receive(), 10)
        if message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
            return None
        assert message.type is aiohttp.WSMsgType.BINARY
        return decode(message.data, ServerFrame)

    async def welcome(self) -> Welcome:
        await self.say(Hello())
        frame = await self.hear()
        assert isinstance(frame, Welcome)
        return frame


@pytest.fixture
async def web(served: str) -> Any:
    async with aiohttp.ClientSession(served) as session:
        yield session


def bearer(device: FakeDevice) -> dict[str, str]:
    assert device.session is not None
    return {"Authorization": f"Bearer {device.session.access_token}"}


async def commit_file(device: FakeDevice) -> Any:
    blob = os.urandom(100)
    return await device.commit(device.commit_of(device.file(blob), inline=(blob,)))


async def test_a_commit_reaches_the_other_device_with_its_rows(gateway: Running, web: Any) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    await second.certify((await second.login()).devices)
    async with web.ws_connect("/ws/sync", headers=bearer(second)) as socket:
        line = Line(socket)
        welcome = await line.welcome()
        assert [head.seq for head in welcome.heads] == [0]
        done = await commit_file(first)
        frame = await line.hear()
        assert isinstance(frame, Advanced)
        assert (frame.space, frame.prev_seq, frame.seq, frame.head) == (
            first.keys.home,
            0,
            1,
            done.head,
        )
        assert frame.rows == done.rows
        assert len(frame.commits) == 1


async def test_sockets_of_other_accounts_hear_nothing(gateway: Running, web: Any) -> None:
    first, stranger = await gateway.registered(), await gateway.registered()
    async with web.ws_connect("/ws/sync", headers=bearer(stranger)) as socket:
        line = Line(socket)
        await line.welcome()
        await commit_file(first)
        await commit_file(stranger)
        frame = await line.hear()
        assert frame.space == stranger.keys.home


async def test_a_ticket_opens_one_socket(gateway: Running, web: Any) -> None:
    device = await gateway.registered()
    ticket = await device.ask("POST", "/ws/ticket", into=Ticket)
    async with web.ws_connect(f"/ws/sync?ticket={ticket.ticket}") as socket:
        await Line(socket).welcome()
    for path in (f"/ws/sync?ticket={ticket.ticket}", "/ws/sync?ticket=x", "/ws/sync"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await web.ws_connect(path)
        assert caught.value.status == 401


async def test_an_uncertified_device_hears_nothing(gateway: Running, web: Any) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    await second.login()
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await web.ws_connect("/ws/sync", headers=bearer(second))
    assert caught.value.status == 403


async def test_a_handshake_is_refused_as_any_request(gateway: Running, web: Any) -> None:
    async with web.get(
        "/ws/sync",
        headers={
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        },
    ) as answer:
        assert answer.status == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert (await answer.json(content_type=None))["code"] == "unauthenticated"


@pytest.mark.parametrize(
    "first", [b"", b"\xc1", encode(Pong()), encode(Hello(protocol=99)), "text"]
)
async def test_a_device_that_does_not_say_hello_is_sent_away(
    gateway: Running, web: Any, first: Any
) -> None:
    device = await gateway.registered()
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        await (socket.send_str(first) if isinstance(first, str) else socket.send_bytes(first))
        line = Line(socket)
        frame = await line.hear()
        assert (type(frame), frame.code) == (Bye, "bad_request")
        assert await line.hear() is None


async def test_cursors_are_kept(gateway: Running, web: Any) -> None:
    device = await gateway.registered()
    done = await commit_file(device)
    head = Head(device.keys.home, device.keys.history, 1, done.head)

    async def kept() -> list[int]:
        rows = await gateway.services.pool.fetch(
            "SELECT seq FROM device_cursors WHERE device_id = $1", device.device
        )
        return [row["seq"] for row in rows]

    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        line = Line(socket)
        await line.welcome()
        await line.say(Applied(cursors=(head,)))
        async with asyncio.timeout(5):
            while await kept() != [1]:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)


async def test_pings_and_silence(
    gateway: Running, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.gateway.feed, "PING_S", 0.05)
    monkeypatch.setattr(apps.gateway.feed, "SILENT_S", 0.3)
    device = await gateway.registered()
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        line = Line(socket)
        await line.welcome()
        for _ in range(8):  # longer than SILENT_S
            assert isinstance(await line.hear(), Ping)
            await line.say(Pong())
        while await line.hear() is not None:
            pass  # no Pong any more: the server gives up


async def test_the_socket_of_a_revoked_device_is_closed(gateway: Running, web: Any) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    await second.certify((await second.login()).devices)
    async with (
        web.ws_connect("/ws/sync", headers=bearer(second)) as theirs,
        web.ws_connect("/ws/sync", headers=bearer(first)) as ours,
    ):
        await Line(theirs).welcome()
        await Line(ours).welcome()
        await first.ask("DELETE", f"/auth/devices/{second.device.hex()}")
        frame = await Line(theirs).hear()
        assert (type(frame), frame.code) == (Bye, "session_revoked")
        assert await Line(theirs).hear() is None
        assert (await Line(ours).hear()).device == second.device


async def test_a_session_that_ended_loses_its_socket_at_the_next_ping(
    gateway: Running, web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.gateway.feed, "PING_S", 0.05)
    device = await gateway.registered()
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        line = Line(socket)
        await line.welcome()
        await device.raw("POST", "/auth/logout")
        async with asyncio.timeout(5):
            while not isinstance(frame := await line.hear(), Bye):
                assert frame is not None
        assert frame.code == "session_revoked"


async def test_nudges_that_are_too_large_come_without_rows(gateway: Running, web: Any) -> None:
    device = await gateway.registered()
    home = device.keys.home
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        line = Line(socket)
        await line.welcome()
        large = Advanced(
            space=home,
            history=device.keys.history,
            prev_seq=0,
            seq=1,
            head=bytes(32),
            rows=(os.urandom(70_000),),
        )
        await gateway.services.feed.publish(home, encode(large))
        frame = await line.hear()
        assert (frame.seq, frame.rows) == (1, ())
        need = NeedChunk(space=home, addresses=(bytes(32),))
        await gateway.services.feed.publish(home, encode(need))
        assert await line.hear() == need


async def test_a_stopping_gateway_says_when_to_come_back(gateway: Running, web: Any) -> None:
    device = await gateway.registered()
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        line = Line(socket)
        await line.welcome()
        gateway.hub.farewell()
        frame = await line.hear()
        assert isinstance(frame, Bye)
        assert frame.retry_after_ms > 0
        assert await line.hear() is None


# --- the hub ---


class CountingFeed(MemoryFeed):
    listening = 0

    async def listen(self, topic: bytes, hear: Any) -> Any:
        stop = await super().listen(topic, hear)
        self.listening += 1

        async def stopped() -> None:
            self.listening -= 1
            await stop()

        return stopped


async def test_sockets_share_one_subscription() -> None:
    feed = CountingFeed()
    hub = Hub(feed)
    outlets = [Outlet() for _ in range(5)]
    for outlet in outlets:
        await hub.join(outlet, [b"space", b"account"])
    assert feed.listening == 2
    await feed.publish(b"space", b"nudge")
    for outlet in outlets:
        assert await asyncio.wait_for(outlet.frames.get(), 5) == b"nudge"
    for outlet in outlets:
        await hub.leave(outlet, [b"space", b"account"])
        await hub.leave(outlet, [b"space", b"account"])
    assert feed.listening == 0


async def test_a_slow_reader_is_closed_and_the_others_are_not_held_up() -> None:
    feed = MemoryFeed()
    hub = Hub(feed)
    slow, quick = Outlet(), Outlet()
    for outlet in (slow, quick):
        await hub.join(outlet, [b"t"])
    for number in range(FRAMES_MAX + 1):
        await feed.publish(b"t", b"%d" % number)
        assert await asyncio.wait_for(quick.frames.get(), 5) == b"%d" % number
    assert slow.overflown.is_set()
    assert slow.frames.qsize() == FRAMES_MAX
    assert not quick.overflown.is_set()
    slow.end()  # says goodbye by being closed


async def test_a_device_that_stops_reading_is_let_go(gateway: Running, web: Any) -> None:
    device = await gateway.registered()
    home = device.keys.home
    async with web.ws_connect("/ws/sync", headers=bearer(device)) as socket:
        await Line(socket).welcome()
        large = encode(NeedChunk(space=home, addresses=(bytes(32),) * 1800))
        hub, sent = gateway.hub, 0
        async with asyncio.timeout(30):
            while hub._outlets.get(home):  # fill our side's buffers, the kernel's, the server's
                for _ in range(20):
                    await gateway.services.feed.publish(home, large)
                sent += 20
                await asyncio.sleep(0.02)
        assert sent * len(large) < 100_000_000
        assert not hub._stops


async def test_large_bodies_that_are_refused_get_their_answer_on_a_real_socket(
    gateway: Running, web: Any
) -> None:
    device = await gateway.registered()
    body = bytes(20_000_000)
    path = f"/chunks/{'ab' * 32}?space={device.keys.home.hex()}"
    async with web.put(path, data=io.BytesIO(body), headers=bearer(device)) as answer:
        assert answer.status == 413
    async with web.put(path, data=io.BytesIO(body)) as answer:
        assert answer.status == 401

    async def endless() -> Any:
        for _ in range(300):
            yield bytes(65536)

    async with web.put(path, data=endless(), headers=bearer(device)) as answer:  # no length
        assert answer.status == 413
    async with web.get("/livez") as answer:
        assert answer.status == 200
    content = gateway.services.settings.storage_dir + "/temp"
    assert [name for _, _, names in os.walk(content) for name in names if "abab" in name] == []


async def test_a_device_that_hangs_up_while_it_sends_leaves_nothing(
    gateway: Running, web: Any, caplog: Any
) -> None:
    device = await gateway.registered()
    path = f"/chunks/{'ab' * 32}?space={device.keys.home.hex()}"
    started = asyncio.Event()

    async def stuck() -> Any:
        yield bytes(65536)
        started.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(web.put(path, data=stuck(), headers=bearer(device)).__aenter__())
    await started.wait()
    await asyncio.sleep(0.1)
    task.cancel()
    content = gateway.services.settings.storage_dir + "/temp"
    async with asyncio.timeout(10):
        while [n for _, _, names in os.walk(content) for n in names if "abab" in n]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
