"""Transport, Feed and Cache in one process: standalone, tests, simulation.

The same contracts as the real ones, over the same mailboxes. (The Store's twin: memory_store.)
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from actors.core.partition import PARTITIONS, partition
from actors.ears import Ears
from actors.mailbox import Letter, Mailboxes, Settle, Settled
from actors.ports import Address, DeadLettered, Deliver, Hear, Unreachable

GRACE_S = 15.0  # how long `close` lets turns finish
DEAD_LETTERS_MAX = 1_000
ENTRIES_MAX = 100_000  # of a cache


@dataclass(slots=True, eq=False)
class _Consumer:
    mailboxes: Mailboxes
    partitions: frozenset[int]
    taking: bool = True


class MemoryBroker:
    """What transports of one process share: who consumes what, and what waits for a consumer.

    Of several consumers of a partition the first is active; the next one takes over when it
    closes or is killed.
    """

    def __init__(self, partitions: int = PARTITIONS) -> None:
        """Start empty."""
        self.partitions = partitions
        self.dead_letters: deque[tuple[Address, bytes]] = deque(maxlen=DEAD_LETTERS_MAX)
        self._consumers: dict[str, list[_Consumer]] = {}
        self._waiting: dict[str, deque[Letter]] = {}

    def route(self, letter: Letter) -> None:
        """Put a letter into its active consumer's mailbox, or keep it until there is one."""
        consumer = self._active(letter.to)
        if consumer is not None and consumer.taking:
            consumer.mailboxes.put(letter)
        else:
            self._waiting.setdefault(letter.to.kind, deque()).append(letter)

    def join(self, kind: str, consumer: _Consumer) -> None:
        """Add a consumer; it gets what waited for it."""
        self._consumers.setdefault(kind, []).append(consumer)
        self._route_again(kind, ())

    def leave(self, kind: str, consumer: _Consumer, unfinished: Sequence[Letter]) -> None:
        """Remove a consumer; what it had not finished comes first again."""
        self._consumers[kind].remove(consumer)
        self._route_again(kind, unfinished)

    def _active(self, to: Address) -> _Consumer | None:
        share = partition(to.key, self.partitions)
        for consumer in self._consumers.get(to.kind, ()):
            if share in consumer.partitions:
                return consumer
        return None

    def _route_again(self, kind: str, first: Sequence[Letter]) -> None:
        letters = [*first, *self._waiting.pop(kind, ())]
        for letter in letters:
            self.route(letter)


class MemoryTransport:
    """One worker's or gateway's connection to a broker in this process."""

    def __init__(
        self,
        broker: MemoryBroker | None = None,
        dice: Callable[[], float] = random.random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        grace_s: float = GRACE_S,
    ) -> None:
        """Connect to `broker`, by default to one of its own; `dice` and `sleep` drive retries."""
        self.broker = broker or MemoryBroker()
        self._dice = dice
        self._sleep = sleep
        self._grace_s = grace_s
        self._consumers: list[tuple[str, _Consumer]] = []
        self._asks: set[asyncio.Future[bytes]] = set()
        self._closed = False

    async def send(self, to: Address, envelope: bytes) -> None:
        """See Transport. Safe as long as the process lives: no more can be had in memory."""
        self._route(to, envelope, self._settle_send(to, envelope))

    async def ask(self, to: Address, envelope: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._route(to, envelope, self._settle_ask(to, envelope, answer))
        self._asks.add(answer)
        try:
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            self._asks.discard(answer)

    async def consume(
        self, kind: str, deliver: Deliver, partitions: Sequence[int] | None = None
    ) -> None:
        """See Transport."""
        if self._closed:
            raise Unreachable("this transport is closed")
        share = frozenset(range(self.broker.partitions) if partitions is None else partitions)
        consumer = _Consumer(Mailboxes(deliver, self._dice, self._sleep), share)
        self._consumers.append((kind, consumer))
        self.broker.join(kind, consumer)

    async def close(self) -> None:
        """See Transport. Turns that last longer than the grace are given back."""
        for _, consumer in self._consumers:
            consumer.taking = False
        try:
            async with asyncio.timeout(self._grace_s):
                for _, consumer in self._consumers:
                    await consumer.mailboxes.idle()
        except TimeoutError:
            pass  # `kill` gives back what is left
        await self.kill()

    async def kill(self) -> None:
        """End as a killed process does: in mid turn. Others take over what was not finished."""
        self._closed = True
        consumers, self._consumers = self._consumers, []
        for _, consumer in consumers:
            consumer.taking = False
        for kind, consumer in consumers:
            self.broker.leave(kind, consumer, await consumer.mailboxes.abandon())
        for ask in self._asks:
            if not ask.done():
                ask.set_exception(Unreachable("this transport was closed"))

    def _route(self, to: Address, envelope: bytes, settle: Settle) -> None:
        if self._closed:
            raise Unreachable("this transport is closed")
        self.broker.route(Letter(to, envelope, settle))

    def _settle_send(self, to: Address, envelope: bytes) -> Settle:
        async def settle(settled: Settled) -> None:
            if settled.error is not None:
                self.broker.dead_letters.append((to, envelope))

        return settle

    def _settle_ask(self, to: Address, envelope: bytes, answer: "asyncio.Future[bytes]") -> Settle:
        async def settle(settled: Settled) -> None:
            if settled.error is not None:
                self.broker.dead_letters.append((to, envelope))
            if answer.done():
                return  # nobody waits any more
            if settled.error is None:
                answer.set_result(settled.answer)
            else:
                answer.set_exception(DeadLettered(repr(settled.error)))

        return settle


class MemoryFeed:
    """Nudges within one process."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._ears = Ears()

    async def publish(self, topic: bytes, body: bytes) -> None:
        """See Feed."""
        self._ears.hear(topic, body)

    async def listen(self, topic: bytes, hear: Hear) -> Callable[[], Awaitable[None]]:
        """See Feed."""
        leave = self._ears.add(topic, hear)

        async def stop() -> None:
            leave()

        return stop

    async def close(self) -> None:
        """See Feed."""
        await self._ears.close()


class MemoryCache:
    """Facts of one process. Forgets what is oldest when it is full."""

    def __init__(
        self, now_s: Callable[[], float] = time.monotonic, entries_max: int = ENTRIES_MAX
    ) -> None:
        """`now_s` is any clock that never runs backwards."""
        self._now_s = now_s
        self._entries_max = entries_max
        self._entries: dict[str, tuple[bytes, float]] = {}
        self._counts: dict[str, tuple[int, float]] = {}

    async def get(self, key: str) -> bytes | None:
        """See Cache."""
        value, end_s = self._entries.get(key, (None, 0.0))
        return value if self._now_s() < end_s else None

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """See Cache."""
        self._entries.pop(key, None)  # the newest are last
        self._entries[key] = value, self._now_s() + ttl_s
        self._make_room(self._entries)

    async def count(self, key: str, window_s: int) -> int:
        """See Cache."""
        count, end_s = self._counts.get(key, (0, 0.0))
        if self._now_s() >= end_s:
            self._counts.pop(key, None)
            count, end_s = 0, self._now_s() + window_s
        self._counts[key] = count + 1, end_s
        self._make_room(self._counts)
        return count + 1

    async def take(self, key: str) -> bytes | None:
        """See Cache."""
        value = await self.get(key)
        self._entries.pop(key, None)
        return value

    async def close(self) -> None:
        """See Cache."""
        self._entries.clear()
        self._counts.clear()

    def _make_room(
        self, entries: dict[str, tuple[bytes, float]] | dict[str, tuple[int, float]]
    ) -> None:
        if len(entries) <= self._entries_max:
            return
        now_s = self._now_s()
        for key in [key for key, (_, end_s) in entries.items() if end_s <= now_s]:
            del entries[key]
        while len(entries) > self._entries_max:
            del entries[next(iter(entries))]
