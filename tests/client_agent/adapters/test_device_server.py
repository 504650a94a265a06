"""The line to the gateway: sessions refreshed once, faults as faults, nothing in the clear."""

import time

import msgspec
import pytest
from aiohttp import web

from client_agent.adapters.server import Insecure, Offline, Server, ServerFault, checked_url
from protocol.codec import encode
from protocol.faults import Code, Problem
from protocol.messages.chunks import MissingChunks
from protocol.messages.device import Refresh, Session, refresh_to_sign
from protocol.messages.sync import Head, Heartbeaten

ACCOUNT, DEVICE, SPACE = (bytes([n]) * 16 for n in (1, 2, 3))


def session(token: str, lives_s: float = 600) -> Session:
    expires = int((time.time() + lives_s) * 1000)
    return Session(
        account=ACCOUNT, device=DEVICE, access_token=token, access_expires_ms=expires,
        refresh_token=f"refresh-{token}", refresh_expires_ms=expires,
    )


def problem(code: Code, status: int, packed: bool = True, **facts) -> web.Response:
    document = Problem(
        type=f"urn:syncline:fault:{code}", title="t", status=status, detail="about it. hint",
        code=str(code), retryable=True, trace_id="abc", **facts,
    )
    if packed:
        kind, body = "application/problem+msgpack", msgspec.msgpack.encode(document)
    else:
        kind, body = "application/problem+json", msgspec.json.encode(document)
    return web.Response(status=status, body=body, content_type=kind)


class Gateway:
    """Answers heartbeats for one token, and gives out the next one at a refresh."""

    def __init__(self) -> None:
        self.token, self.refreshes, self.heartbeats = "first", 0, 0
        self.answer: web.Response | None = None
        self.signed: list[Refresh] = []

    async def refresh(self, request):
        message = msgspec.msgpack.decode(await request.read(), type=Refresh)
        self.refreshes += 1
        self.signed.append(message)
        self.token = f"token-{self.refreshes}"
        return web.Response(body=encode(session(self.token)), content_type="application/msgpack")

    async def nonsense(self, request):
        return web.Response(body=b"not msgpack")

    async def heartbeat(self, request):
        self.heartbeats += 1
        if self.answer is not None:
            return self.answer
        if request.headers["Authorization"] != f"Bearer {self.token}":
            return problem(Code.TOKEN_EXPIRED, 401)
        body = encode(Heartbeaten(server_ms=1, heads=(Head(SPACE, SPACE, 7, bytes(32)),)))
        return web.Response(body=body, content_type="application/msgpack")


@pytest.fixture
async def gateway():
    made = Gateway()
    app = web.Application()
    app.router.add_post("/auth/refresh", made.refresh)
    app.router.add_post("/sync/heartbeat", made.heartbeat)
    app.router.add_post("/chunks/missing", made.nonsense)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def device(gateway, held: Session | None, **more) -> Server:
    return Server(gateway.url, held, lambda message: message[-64:].rjust(64), **more)


async def test_a_good_session_is_just_used(gateway):
    counts: dict[str, int] = {}

    def count(name, more):
        counts[name] = counts.get(name, 0) + more

    async with device(gateway, session("first"), count=count) as server:
        answer = await server.heartbeat(())
    assert answer.heads[0].seq == 7
    assert gateway.refreshes == 0
    assert counts["up_bytes"] > 0
    assert counts["down_bytes"] > 0


async def test_a_refused_token_is_refreshed_once_and_the_request_repeated(gateway):
    kept = []

    async def keep(fresh):
        kept.append(fresh.access_token)

    async with device(gateway, session("stale"), keep=keep) as server:
        await server.heartbeat(())
        assert server.session.access_token == "token-1"
    assert (gateway.refreshes, gateway.heartbeats) == (1, 2)
    assert kept == ["token-1"], "kept before it was used"
    [message] = gateway.signed
    assert message.refresh_token == "refresh-stale"
    wanted = refresh_to_sign(message.refresh_token, message.at_ms)[-64:].rjust(64)
    assert message.signature == wanted


async def test_a_token_about_to_end_is_refreshed_ahead(gateway):
    async with device(gateway, session("first", lives_s=20)) as server:
        await server.heartbeat(())
        await server.refresh_if_due()
    assert (gateway.refreshes, gateway.heartbeats) == (1, 1)


async def test_requests_side_by_side_share_one_refresh(gateway):
    import asyncio

    async with device(gateway, session("stale")) as server:
        await asyncio.gather(*(server.heartbeat(()) for _ in range(5)))
    assert gateway.refreshes == 1


async def test_a_session_that_is_over_is_said_once_asked(gateway):
    over = []
    gateway.answer = problem(Code.SESSION_REVOKED, 401)
    async with device(gateway, session("first"), over=over.append) as server:
        with pytest.raises(ServerFault) as caught:
            await server.heartbeat(())
    assert caught.value.session_over
    assert caught.value.trace_id == "abc"
    assert [fault.code for fault in over] == [Code.SESSION_REVOKED]


async def test_without_a_session_nothing_is_asked(gateway):
    async with device(gateway, None) as server:
        with pytest.raises(ServerFault, match="unauthenticated"):
            await server.heartbeat(())
    assert gateway.heartbeats == 0


@pytest.mark.parametrize("packed", [True, False])
async def test_faults_keep_their_facts_in_both_forms(gateway, packed):
    gateway.answer = problem(
        Code.RATE_LIMITED, 429, packed, retry_after_ms=1234, facts={"chunks": "ab"}
    )
    async with device(gateway, session("first")) as server:
        with pytest.raises(ServerFault) as caught:
            await server.heartbeat(())
    assert caught.value.fault.retry_after_ms == 1234
    assert caught.value.fault.facts == {"chunks": "ab"}


@pytest.mark.parametrize(
    ("status", "expected"), [(502, Code.UNAVAILABLE), (429, Code.RATE_LIMITED)]
)
async def test_a_proxys_own_page_is_a_server_that_is_away(gateway, status, expected):
    gateway.answer = web.Response(
        status=status, text="<html>", content_type="text/html", headers={"Retry-After": "7"}
    )
    async with device(gateway, session("first")) as server:
        with pytest.raises(ServerFault) as caught:
            await server.heartbeat(())
    assert (caught.value.code, caught.value.fault.retry_after_ms) == (expected, 7000)


async def test_what_is_no_server_of_ours_is_offline(gateway):
    gateway.answer = web.Response(status=404, text="nothing", content_type="text/html")
    async with device(gateway, session("first")) as server:
        with pytest.raises(Offline, match="not from a Syncline server"):
            await server.heartbeat(())
        with pytest.raises(Offline, match="not understood"):
            await server.ask("POST", "/chunks/missing", MissingChunks)


async def test_nobody_at_the_address_is_offline():
    async with Server("http://127.0.0.1:9", session("first")) as server:
        with pytest.raises(Offline):
            await server.heartbeat(())
        with pytest.raises(Offline):
            async with server.socket():
                raise AssertionError


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", "http://[::1]:1", "http://localhost", "https://example.org"]
)
def test_addresses_that_keep_secrets(url):
    assert checked_url(url) == url.rstrip("/")


@pytest.mark.parametrize("url", ["http://example.org", "http://10.0.0.1", "http://127.0.0.1.org"])
def test_addresses_that_would_not(url):
    with pytest.raises(Insecure):
        checked_url(url)


@pytest.mark.parametrize("url", ["ftp://example.org", "example.org", "http://", ""])
def test_addresses_that_are_none(url):
    with pytest.raises(ValueError, match="not the address"):
        checked_url(url)


async def test_an_endless_answer_does_not_fill_the_memory(gateway, monkeypatch):
    monkeypatch.setattr("client_agent.adapters.server.ANSWER_BYTES_MAX", 1 << 16)
    gateway.answer = web.Response(body=bytes(1 << 22))
    gateway.answer.enable_compression(web.ContentCoding.gzip)  # 4 KiB on the wire
    async with device(gateway, session("first")) as server:
        with pytest.raises(Offline, match="an answer of over"):
            await server.heartbeat(())
