"""`WS /ws/sync`: nudges to devices. May lose anything; devices heal themselves (messages/feed.py).

A socket belongs to one session. It is closed when the session ends (checked with every ping, and at
once on DeviceRevoked), when its reader is too slow, and when the gateway stops.
"""

import asyncio
import secrets
import time
from typing import Any

import msgspec
import structlog
from litestar import WebSocket
from litestar.handlers import WebsocketRouteHandler, websocket

from apps.gateway.endpoint import Visit, admitted, endpoint
from apps.gateway.gate import Caller, Gate
from apps.gateway.hub import Hub, Outlet
from apps.gateway.speech import problem_bytes, problem_of
from apps.gateway.tokens import Access
from apps.telemetry import TRACE_ID
from protocol import limits
from protocol.codec import decode, encode, sha256
from protocol.faults import Code, Fault, Refusal, refuse
from protocol.messages.feed import (
    PROTOCOL,
    Advanced,
    Applied,
    Bye,
    DeviceFrame,
    DeviceRevoked,
    Hello,
    Nudge,
    Ping,
    Ticket,
    Welcome,
)

TICKET_S = 30
HELLO_S = 10.0
PING_S = 30.0
SILENT_S = 3 * PING_S  # a device that is not heard for so long is gone
SEND_S = 20.0  # one frame that cannot be written in this time: the reader is too slow
RETURN_MS = 1_000  # a stopping gateway asks devices to come back after this and their jitter

_REVOKED = b"device_revoked"  # the tag comes first: nudges are not decoded one by one

log = structlog.get_logger()
Socket = WebSocket[Any, Any, Any]


@endpoint("POST", "/ws/ticket", answers=Ticket)
async def ticket(visit: Visit) -> Ticket:
    """Return a ticket for one WebSocket, good for 30 s."""
    caller, made = visit.caller, secrets.token_urlsafe(32)
    raw = caller.account + caller.device + caller.family
    await visit.gate.cache.put(_ticket_key(made), raw, TICKET_S)
    return Ticket(ticket=made, expires_ms=visit.gate.now_ms() + TICKET_S * 1000)


def _ticket_key(made: str) -> str:
    return f"ticket:{sha256(made.encode()).hex()}"


def socket_handler(gate: Gate, hub: Hub) -> WebsocketRouteHandler:
    """Return the handler of `WS /ws/sync`."""

    async def handle(socket: Socket) -> None:
        try:
            caller = await _caller(gate, socket)
        except Refusal as refusal:
            await _deny(socket, refusal.fault)
            return
        await socket.accept()
        if gate.figures is not None:
            gate.figures.sockets.inc()
        try:
            await Line(gate, hub, socket, caller).run()
        finally:
            if gate.figures is not None:
                gate.figures.sockets.dec()

    return websocket("/ws/sync")(handle)


async def _caller(gate: Gate, socket: Socket) -> Caller:
    """Return who opens a socket. Raises Refusal."""
    shown = socket.query_params.get("ticket")
    if shown is None:
        caller = await admitted(gate, socket)
    else:
        raw = await gate.cache.take(_ticket_key(shown))
        if raw is None or len(raw) != 48:
            raise refuse(Code.UNAUTHENTICATED, "the ticket was used or has expired")
        caller = await gate.door.admit(Access(raw[:16], raw[16:32], raw[32:]))
    if not caller.certified:
        raise refuse(Code.FORBIDDEN, "this device is not certified yet")
    return caller


async def _deny(socket: Socket, fault: Fault) -> None:
    """Answer the handshake with a problem document, as any other request."""
    problem = problem_of(fault, TRACE_ID.get())
    raw, headers = problem_bytes(problem, packed=False)
    if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
        await socket.close(code=1008, reason=fault.code)
        return
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    start = {"type": "websocket.http.response.start", "status": problem.status, "headers": encoded}
    await socket.send(start)  # type: ignore[arg-type]
    await socket.send({"type": "websocket.http.response.body", "body": raw})  # type: ignore[arg-type]


class Line:
    """One open socket."""

    def __init__(self, gate: Gate, hub: Hub, socket: Socket, caller: Caller) -> None:
        """Serve `socket` for `caller`."""
        self._gate = gate
        self._hub = hub
        self._socket = socket
        self._caller = caller
        self._outlet = Outlet()
        self._heard = time.monotonic()

    async def run(self) -> None:
        """Say Welcome, then speak and listen until either side ends it."""
        try:
            async with asyncio.timeout(HELLO_S):
                hello = await self._receive()
        except TimeoutError:
            hello = None
        if not isinstance(hello, Hello) or hello.protocol != PROTOCOL:
            await self._goodbye(Code.BAD_REQUEST)
            return
        heads = await self._gate.reads.heads(self._caller.account)
        topics = [self._caller.account, *(head.space for head in heads)]
        try:
            await self._hub.join(self._outlet, topics)
            await self._seen(hello.cursors)
            await self._welcome()
            await self._converse()
        finally:
            await self._hub.leave(self._outlet, topics)

    async def _welcome(self) -> None:
        # Read after joining: what happens from here on is in these heads or in a nudge.
        heads = await self._gate.reads.heads(self._caller.account)
        now_ms = self._gate.now_ms()
        ping_s = max(1, int(PING_S))
        await self._send(Welcome(protocol=PROTOCOL, server_ms=now_ms, heads=heads, ping_s=ping_s))

    async def _converse(self) -> None:
        tasks = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._speak()),
            asyncio.create_task(self._outlet.overflown.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, ended, strict=True):
            if task in done and isinstance(result, Exception):
                log.info("socket ended", error=type(result).__name__)

    async def _listen(self) -> None:
        while (frame := await self._receive()) is not None:
            self._heard = time.monotonic()
            if isinstance(frame, Applied):
                await self._seen(frame.cursors)

    async def _seen(self, cursors: tuple[Any, ...]) -> None:
        caller = self._caller
        await self._gate.reads.seen(caller.account, caller.device, cursors, self._gate.now_ms())

    async def _speak(self) -> None:
        """Write nudges as they come, and a ping every PING_S."""
        due = time.monotonic() + PING_S
        while True:
            try:
                async with asyncio.timeout(due - time.monotonic()):
                    body = await self._outlet.frames.get()
            except TimeoutError:
                due = time.monotonic() + PING_S
                if not await self._still_welcome():
                    return
                await self._send(Ping())
                continue
            if body is None:
                await self._goodbye(Code.UNAVAILABLE, RETURN_MS)
                return
            frame = self._fitting(body)
            if frame is None:
                await self._goodbye(Code.SESSION_REVOKED)
                return
            await self._write(frame)

    async def _still_welcome(self) -> bool:
        if time.monotonic() - self._heard > SILENT_S:
            return False
        access = Access(self._caller.account, self._caller.device, self._caller.family)
        try:
            await self._gate.door.admit(access)
        except Refusal as refusal:
            await self._goodbye(refusal.fault.known)
            return False
        return True

    def _fitting(self, body: bytes) -> bytes | None:
        """Return the frame of a nudge, None if it ends this session."""
        if len(body) <= limits.FRAME_BYTES_MAX and _REVOKED not in body[:24]:
            return body
        nudge = decode(body, Nudge)
        if isinstance(nudge, DeviceRevoked) and nudge.device == self._caller.device:
            self._gate.door.forget()
            return None
        if isinstance(nudge, Advanced):  # too large with its rows: the device fetches them
            nudge = msgspec.structs.replace(nudge, rows=(), commits=())
        return encode(nudge)

    async def _receive(self) -> Any:
        """Return the next frame; None at the end, or for what is none of ours."""
        event: Any = await self._socket.receive()
        if event["type"] != "websocket.receive" or event.get("bytes") is None:
            return None
        try:
            return decode(event["bytes"], DeviceFrame)
        except msgspec.DecodeError:
            return None

    async def _send(self, message: msgspec.Struct) -> None:
        await self._write(encode(message))

    async def _write(self, frame: bytes) -> None:
        async with asyncio.timeout(SEND_S):
            await self._socket.send_data(frame, mode="binary")

    async def _goodbye(self, code: Code, retry_after_ms: int = 0) -> None:
        await self._send(Bye(code=code, retry_after_ms=retry_after_ms))
        await self._socket.close(code=1001 if retry_after_ms else 1008)
