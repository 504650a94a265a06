"""Hearing from the server: the WebSocket, its return after a loss, and the minute's heartbeat.

Waits are drawn with full jitter from a widening range, so that thousands of devices that lost
their server together do not come back together. What a push loses, the heartbeat heals.
"""

import asyncio
import random
from collections.abc import Callable

import aiohttp
import msgspec
import structlog

from client_agent.adapters.account import Identity
from client_agent.adapters.journal import Journal
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.core.events import Connected, Disconnected, Event
from client_agent.core.trees import Cursor
from protocol.backoff import RECONNECT
from protocol.codec import decode, encode
from protocol.limits import HEARTBEAT_S
from protocol.messages.feed import (
    Advanced,
    Bye,
    DeviceRevoked,
    Hello,
    Ping,
    Pong,
    ServerFrame,
    Welcome,
)
from protocol.messages.sync import Head

SILENT_PINGS = 2.5  # a server that says nothing for so many pings is gone
HELLO_S = 20.0

log = structlog.get_logger()


class Feed:
    """One device's ear. `cursor` tells how far the engine is."""

    def __init__(
        self, me: Identity, server: Server, journal: Journal, cursor: Callable[[], Cursor],
        emit: Callable[[Event], None], over: Callable[[str], None],
    ) -> None:
        """Connect to nothing yet."""
        self._me, self._server, self._journal = me, server, journal
        self._cursor, self._emit, self._over = cursor, emit, over
        self._attempt = 0
        self._up = False  # the socket is open

    async def listen(self) -> None:
        """Keep a socket open, for ever."""
        while True:
            wait_ms = 0
            try:
                wait_ms = await self._converse()
            except (Offline, ServerFault) as error:
                log.info("feed lost", error=str(error))
                if isinstance(error, ServerFault):
                    wait_ms = error.fault.retry_after_ms or 0
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                log.info("feed lost", error=f"{type(error).__name__}: {error}")
            self._up = False
            await self.beat()  # HTTP may work where sockets do not
            delay_ms = RECONNECT.delay_ms(self._attempt, random.random())
            self._attempt += 1
            await asyncio.sleep((wait_ms + delay_ms) / 1000)

    async def beats(self) -> None:
        """Ask for the cursor every minute, for ever."""
        while True:
            await asyncio.sleep(HEARTBEAT_S * (0.75 + random.random() / 2))
            await self.beat()

    async def beat(self) -> bool:
        """Ask where the journal stands; tell the engine. Says whether the server answered."""
        try:
            await self._server.refresh_if_due()
            answer = await self._server.heartbeat((self._head(),))
        except (Offline, ServerFault) as error:
            fault = error.fault.code if isinstance(error, ServerFault) else "offline"
            log.info("no heartbeat", error=str(error))
            self._emit(Disconnected(fault))
            return False
        self._heads(answer.heads)
        return True

    async def _converse(self) -> int:
        """Talk until the socket ends; how many ms the server asks to stay away."""
        async with self._server.socket() as socket:
            await socket.send_bytes(encode(Hello(cursors=(self._head(),))))
            silent_s = HELLO_S
            while True:
                message = await socket.receive(timeout=silent_s)
                if message.type is not aiohttp.WSMsgType.BINARY:
                    return 0
                self._server.count_frame("down_bytes", len(message.data))
                try:
                    frame = decode(message.data, ServerFrame)
                except msgspec.DecodeError as error:
                    log.warning("frame not understood", error=str(error))
                    continue
                if isinstance(frame, Welcome):
                    silent_s = max(frame.ping_s, 1) * SILENT_PINGS
                    self._attempt, self._up = 0, True
                    self._heads(frame.heads)
                elif isinstance(frame, Bye):
                    return frame.retry_after_ms
                elif isinstance(frame, Ping):
                    await socket.send_bytes(encode(Pong()))
                else:
                    await self._take(frame)

    async def _take(self, frame: object) -> None:
        if isinstance(frame, Advanced) and frame.space == self._me.space:
            self._emit(await self._journal.pushed(frame))
        elif isinstance(frame, DeviceRevoked) and frame.device == self._me.device:
            self._over("session_revoked")
        else:
            log.debug("frame", kind=type(frame).__name__)

    def _heads(self, heads: tuple[Head, ...]) -> None:
        for head in heads:
            if head.space == self._me.space:
                self._emit(Connected(head.seq))

    def _head(self) -> Head:
        cursor = self._cursor()
        return Head(self._me.space, cursor.history, cursor.seq, cursor.hash)

    @property
    def up(self) -> bool:
        """Whether pushes arrive."""
        return self._up
