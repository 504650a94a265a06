"""The hub: one ear per topic and process, however many sockets listen."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from actors.ports import Feed

FRAMES_MAX = 64  # waiting for one socket; a reader that is slower than this is closed


class Outlet:
    """What waits to be written to one socket. Bounded: a slow reader is closed, not buffered."""

    def __init__(self) -> None:
        """Start empty and open."""
        self.frames: asyncio.Queue[bytes | None] = asyncio.Queue(FRAMES_MAX)
        self.overflown = asyncio.Event()

    async def hear(self, body: bytes) -> None:
        """Take a nudge; never waits."""
        try:
            self.frames.put_nowait(body)
        except asyncio.QueueFull:
            self.overflown.set()

    def end(self) -> None:
        """Ask the socket to say goodbye after what is waiting."""
        try:
            self.frames.put_nowait(None)
        except asyncio.QueueFull:
            self.overflown.set()


class Hub:
    """Shares one subscription per topic among the sockets of this process."""

    def __init__(self, feed: Feed) -> None:
        """Listen on `feed`."""
        self._feed = feed
        self._outlets: dict[bytes, set[Outlet]] = {}
        self._stops: dict[bytes, Callable[[], Awaitable[None]]] = {}
        self._turn = asyncio.Lock()  # one change of subscriptions at a time
        self.closing = False

    async def join(self, outlet: Outlet, topics: Iterable[bytes]) -> None:
        """Let an outlet hear these topics from now on."""
        async with self._turn:
            for topic in topics:
                self._outlets.setdefault(topic, set()).add(outlet)
                if topic not in self._stops:
                    self._stops[topic] = await self._feed.listen(topic, self._to(topic))

    async def leave(self, outlet: Outlet, topics: Iterable[bytes]) -> None:
        """Let it hear them no more. Safe to repeat."""
        async with self._turn:
            for topic in topics:
                outlets = self._outlets.get(topic, set())
                outlets.discard(outlet)
                if not outlets and topic in self._stops:
                    del self._outlets[topic]
                    await self._stops.pop(topic)()

    def farewell(self) -> None:
        """Ask all sockets to say goodbye: the process stops."""
        self.closing = True
        for outlet in {outlet for outlets in self._outlets.values() for outlet in outlets}:
            outlet.end()

    def _to(self, topic: bytes) -> Callable[[bytes], Awaitable[None]]:
        async def hear(body: bytes) -> None:
            for outlet in tuple(self._outlets.get(topic, ())):
                await outlet.hear(body)

        return hear
