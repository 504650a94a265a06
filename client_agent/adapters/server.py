"""Talking with the gateway: sessions, msgpack structs over HTTP, faults as exceptions.

No retry lives here but one: a 401 refreshes the session once and repeats the request. Whoever
asked decides when to ask again (the engine, for everything that syncs).
"""

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from protocol import limits
from protocol.codec import Reader, decode, encode
from protocol.faults import MEANINGS, Code, Fault, Problem
from protocol.messages import chunks, device, sync, upload
from protocol.messages.device import Session, refresh_to_sign
from protocol.messages.sync import PackItem

T = TypeVar("T")

MSGPACK = "application/msgpack"
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
CONNECTIONS_MAX = 8
READ_BYTES = 256 * limits.KIB
ANSWER_BYTES_MAX = 4 * limits.PACK_BYTES_MAX  # a full pack of chunks is the largest there is
REFRESH_AHEAD_MS = 60_000
_SESSION_OVER = frozenset(
    {Code.UNAUTHENTICATED, Code.SESSION_REVOKED, Code.BAD_CREDENTIALS, Code.ACCOUNT_SUSPENDED}
)


class Offline(Exception):
    """The server does not answer; the text says how that showed."""


class Insecure(Exception):
    """The address would send secrets in the clear."""


class ServerFault(Exception):
    """The server answered no."""

    def __init__(self, fault: Fault, trace_id: str = "") -> None:
        """Wrap the fault; `trace_id` finds the request in the server's log."""
        super().__init__(f"{fault.code}: {fault.about}")
        self.fault = fault
        self.trace_id = trace_id

    @property
    def code(self) -> Code:
        """The code, INTERNAL if we do not know it."""
        return self.fault.known

    @property
    def session_over(self) -> bool:
        """Whether the user has to sign in again."""
        return self.code in _SESSION_OVER


def checked_url(url: str) -> str:
    """Return the address without a slash at its end. Raises Insecure, ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{url!r} is not the address of a server, such as https://example.org")
    if parts.scheme == "http" and not _is_loopback(host):
        raise Insecure(f"{url} is not encrypted; plain http is only for this machine itself")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Server:
    """One gateway, as one device sees it. Use inside `async with`.

    Args: `sign` makes the device's signature of a refresh; `keep` stores a new session before it
    is used, so that a crash never leaves a token that was used already; `count` gets the bytes
    on the wire above TLS, "up_bytes" and "down_bytes"; `over` hears that the user has to sign in
    again.
    """

    def __init__(
        self,
        url: str,
        session: Session | None = None,
        sign: Callable[[bytes], bytes] | None = None,
        keep: Callable[[Session], Awaitable[None]] | None = None,
        count: Callable[[str, int], Any] | None = None,
        over: Callable[[ServerFault], None] | None = None,
    ) -> None:
        """Open nothing yet. Raises Insecure, ValueError."""
        self.url = checked_url(url)
        self.session = session
        self._sign, self._keep = sign, keep
        self._count = count or (lambda name, more: None)
        self._over = over or (lambda fault: None)
        self._refreshing = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Server":
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=75),
            timeout=TIMEOUT,
            headers={"Accept": MSGPACK, "User-Agent": "syncline-device/1"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._http is not None:
            await self._http.close()

    # ------------------------------------------------------------ requests

    async def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        message: msgspec.Struct | None = None,
        raw: bytes | None = None,
        bearer: bool = True,
        query: dict[str, str] | None = None,
    ) -> T:
        """Send one request; answer with the struct that came back.

        Raises Offline, ServerFault.
        """
        body = encode(message) if message is not None else raw
        query = query or {}
        if not bearer:
            return await self._once(method, path, answer, body, None, query)
        try:
            token = await self._token()
            try:
                return await self._once(method, path, answer, body, token, query)
            except ServerFault as fault:
                if fault.code not in (Code.TOKEN_EXPIRED, Code.UNAUTHENTICATED):
                    raise
            token = await self._token(unlike=token)
            return await self._once(method, path, answer, body, token, query)
        except ServerFault as fault:
            if fault.session_over:
                self._over(fault)
            raise

    async def _once(
        self, method: str, path: str, answer: type[T], body: bytes | None, token: str | None,
        query: dict[str, str],
    ) -> T:
        assert self._http is not None
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if body is not None:
            headers["Content-Type"] = MSGPACK
        try:
            async with self._http.request(
                method, self.url + path, params=query, data=body, headers=headers,
                allow_redirects=False,
            ) as response:
                got = await _read(response)
                self._weigh(response, len(body or b""), len(got))
                status, kind = response.status, response.content_type
                wait = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Offline(f"{type(error).__name__}: {error}") from None
        if status >= 300:
            raise _fault_of(status, kind, got, wait)
        if answer is type(None):
            return answer()
        try:
            understood: T = decode(got, answer)
            return understood
        except msgspec.DecodeError as error:
            raise Offline(f"the answer to {path} is not understood: {error}") from None

    def _weigh(self, response: aiohttp.ClientResponse, up_bytes: int, down_bytes: int) -> None:
        """Count what a request and its answer weighed, bodies and headers."""
        asked = response.request_info.headers.items()
        self._count("up_bytes", up_bytes + sum(len(n) + len(v) + 4 for n, v in asked))
        told = response.raw_headers
        self._count("down_bytes", down_bytes + sum(len(n) + len(v) + 4 for n, v in told))

    def count_frame(self, name: str, size_bytes: int) -> None:
        """Count a frame of the feed, "up_bytes" or "down_bytes"."""
        self._count(name, size_bytes)

    # ------------------------------------------------------------ session

    async def _token(self, unlike: str = "") -> str:
        """Return an access token that is good for a while, and not `unlike`."""
        if self.session is None:
            raise ServerFault(Fault(code=Code.UNAUTHENTICATED))
        if self._fresh(self.session, unlike):
            return self.session.access_token
        async with self._refreshing:
            if not self._fresh(self.session, unlike):
                await self._refresh(self.session)
            return self.session.access_token

    @staticmethod
    def _fresh(session: Session, unlike: str) -> bool:
        ahead = session.access_expires_ms - time.time() * 1000
        return ahead > REFRESH_AHEAD_MS / 2 and session.access_token != unlike

    async def _refresh(self, session: Session) -> None:
        assert self._sign is not None
        at_ms = time.time_ns() // 1_000_000
        signature = self._sign(refresh_to_sign(session.refresh_token, at_ms))
        message = device.Refresh(
            refresh_token=session.refresh_token, at_ms=at_ms, signature=signature
        )
        fresh = await self.ask("POST", "/auth/refresh", Session, message, bearer=False)
        if self._keep is not None:
            await self._keep(fresh)
        self.session = fresh

    async def refresh_if_due(self) -> None:
        """Refresh ahead of time, so that no request has to wait for it. Raises as `ask`."""
        session = self.session
        if session and session.access_expires_ms - time.time() * 1000 < REFRESH_AHEAD_MS:
            await self._token()

    # ------------------------------------------------------------ account

    async def prelogin(self, username: str) -> device.Kdf:
        """Ask how the password of an account becomes keys."""
        message = device.Prelogin(username=username)
        return await self.ask("POST", "/auth/prelogin", device.Kdf, message, bearer=False)

    async def register(self, message: device.Register) -> Session:
        """Make an account. Safe to repeat with the same message."""
        return await self.ask("POST", "/auth/register", Session, message, bearer=False)

    async def login(self, message: device.Login) -> device.LoggedIn:
        """Sign in; the session in the answer is the one used from now on."""
        answer = await self.ask(
            "POST", "/auth/login", device.LoggedIn, message, bearer=False
        )
        self.session = answer.session
        return answer

    async def certify(self, message: device.CertifyDevice, own: bytes) -> device.DeviceList:
        """Put this device on the account's list. Fault STALE: the list grew meanwhile."""
        return await self.ask("PUT", f"/auth/devices/{own.hex()}", device.DeviceList, message)

    async def devices(self) -> device.DeviceList:
        """Read the device list; the caller verifies its chain."""
        return await self.ask("GET", "/auth/devices", device.DeviceList)

    async def keyring(self) -> device.Keyring:
        """Read the sealed keyring."""
        return await self.ask("GET", "/auth/keyring", device.Keyring)

    async def spaces(self) -> device.SpaceList:
        """Read the account's spaces."""
        return await self.ask("GET", "/spaces", device.SpaceList)

    async def logout(self) -> None:
        """End the session at the server."""
        await self.ask("POST", "/auth/logout", type(None))

    # ------------------------------------------------------------ chunks

    async def missing(self, space: bytes, addresses: Sequence[bytes]) -> tuple[bytes, ...]:
        """Ask which chunks the space lacks; those it has are leased from now on."""
        message = chunks.AskMissing(addresses=tuple(addresses))
        answer = await self.ask(
            "POST", "/chunks/missing", chunks.MissingChunks, message, query={"space": space.hex()}
        )
        return answer.missing

    async def put_pack(
        self, space: bytes, items: Sequence[PackItem], upload: bytes | None = None
    ) -> None:
        """Store chunks, at most `PACK_BYTES_MAX` of them; durable and leased when it returns."""
        query = {"space": space.hex()} | ({"upload": upload.hex()} if upload else {})
        raw = msgspec.msgpack.encode(items)
        await self.ask("POST", "/chunks", chunks.PackStored, raw=raw, query=query)

    async def fetch(
        self, space: bytes, addresses: Sequence[bytes]
    ) -> tuple[bytes | None, ...]:
        """Fetch the first few of the chunks: at least one, at most `PACK_BYTES_MAX` of them."""
        message = chunks.FetchChunks(addresses=tuple(addresses))
        answer = await self.ask(
            "POST", "/chunks/fetch", chunks.FetchedChunks, message, query={"space": space.hex()}
        )
        return answer.blobs

    async def begin_upload(self, message: upload.UploadRequest) -> upload.UploadOpen:
        """Open or resume an upload session; the answer says what is missing."""
        return await self.ask("POST", "/files/upload", upload.UploadOpen, message)

    async def cancel_upload(self, upload_id: bytes) -> None:
        """Give up a session; what a commit has used stays."""
        await self.ask("DELETE", f"/files/upload/{upload_id.hex()}", upload.UploadClosed)

    # ------------------------------------------------------------ sync

    async def commit(self, message: sync.CommitRequest) -> sync.Committed:
        """Commit changes. Repeating it gets the first answer again."""
        return await self.ask("POST", "/sync/commit", sync.Committed, message)

    async def changes(
        self, space: bytes, history: bytes, after: int, limit: int
    ) -> sync.ChangesPage:
        """Read journal rows after a seq."""
        return await self.ask(
            "GET", "/sync/changes", sync.ChangesPage,
            query={
                "space": space.hex(), "history": history.hex(), "after": str(after),
                "limit": str(limit),
            },
        )

    async def heartbeat(self, cursors: tuple[sync.Head, ...]) -> sync.Heartbeaten:
        """Say how far this device has come, and learn where the journals stand."""
        message = sync.Heartbeat(cursors=cursors)
        return await self.ask("POST", "/sync/heartbeat", sync.Heartbeaten, message)

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open the feed's WebSocket. Raises Offline, ServerFault."""
        assert self._http is not None
        token = await self._token()
        try:
            socket = await self._http.ws_connect(
                f"{self.url}/ws/sync", headers={"Authorization": f"Bearer {token}"},
                max_msg_size=1 << 20, autoping=True, heartbeat=None,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                await self._token(unlike=token)
            raise Offline(f"the feed answers {error.status}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Offline(f"{type(error).__name__}: {error}") from None
        try:
            yield socket
        finally:
            await socket.close()


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return an answer's body, never more than any honest one has. Raises ClientError."""
    got = bytearray()
    async for piece in response.content.iter_chunked(READ_BYTES):
        got += piece
        if len(got) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of over {ANSWER_BYTES_MAX} bytes")
    return bytes(got)


def _fault_of(status: int, kind: str, body: bytes, wait: str) -> Exception:
    """Return what a refusal means: the server's own fault, or a proxy's page in between."""
    try:
        problem: Problem = Reader(Problem, json="msgpack" not in kind).decode(body)
    except msgspec.DecodeError:
        retry = int(wait) * 1000 if wait.isdigit() else None
        if status in (408, 425, 429) or status >= 500:
            code = Code.RATE_LIMITED if status == 429 else Code.UNAVAILABLE
            return ServerFault(Fault(code=code, about=f"HTTP {status}", retry_after_ms=retry))
        return Offline(f"HTTP {status}, and not from a Syncline server")
    fault = Fault(
        code=problem.code, about=_about(problem), facts=problem.facts,
        retry_after_ms=problem.retry_after_ms,
    )
    return ServerFault(fault, problem.trace_id)


def _about(problem: Problem) -> str:
    """Return the part of the detail that is not the code's own hint."""
    known = Fault(code=problem.code).known
    return problem.detail.removesuffix(MEANINGS[known].hint).rstrip().removesuffix(".")
