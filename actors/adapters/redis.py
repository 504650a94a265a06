"""Feed and Cache over Redis. Both go on without it: nudges are lost, facts are kept locally."""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from actors.ears import Ears
from actors.memory import MemoryCache
from actors.ports import Hear
from protocol.backoff import RECONNECT, Backoff
from protocol.codec import sha256

BUCKETS = 256  # channels; a gateway subscribes to those of its devices' spaces
BATCH_MAX = 256  # nudges in one pipeline
PENDING_MAX = 10_000  # nudges that wait for Redis; the oldest are lost then
TIMEOUT_S = 2.0  # a Redis that takes longer counts as away
AWAY_S = 1.0  # how long the cache does not ask again after a failure

AWAY = (RedisError, OSError, TimeoutError)

T = TypeVar("T")

log = structlog.get_logger()


def connect(url: str) -> Redis:
    """Return a client that gives up quickly and never tries again by itself: we do."""
    return Redis.from_url(
        url,
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


class RedisFeed:
    """See Feed. Topics share channels by hash bucket; the topic is in the body.

    Body: 1 byte length of the topic, the topic, the nudge.
    """

    def __init__(
        self,
        url: str,
        namespace: str = "",
        dice: Callable[[], float] = random.random,
        backoff: Backoff = RECONNECT,
    ) -> None:
        """Nothing is connected before the first nudge or listener."""
        self._prefix = f"{namespace}.feed." if namespace else "feed."
        self._dice = dice
        self._backoff = backoff
        self._client = connect(url)
        self._pubsub: Any = None
        self._ears = Ears()
        self._wanted: dict[str, int] = {}  # channel -> listeners
        self._pending: deque[tuple[str, bytes]] = deque(maxlen=PENDING_MAX)
        self._publisher: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._saying = asyncio.Lock()
        self.lost = 0  # nudges that were not published since the start

    async def publish(self, topic: bytes, body: bytes) -> None:
        """See Feed. Returns at once; what piles up meanwhile travels in one batch."""
        if len(self._pending) == PENDING_MAX:
            self.lost += 1
        self._pending.append((self._channel(topic), bytes([len(topic)]) + topic + body))
        if self._publisher is None:
            self._publisher = asyncio.create_task(self._publish(), name="feed-publisher")

    async def listen(self, topic: bytes, hear: Hear) -> Callable[[], Awaitable[None]]:
        """See Feed. Returns when Redis has confirmed, or after 2 s if it is away."""
        leave = self._ears.add(topic, hear)
        channel = self._channel(topic)
        self._wanted[channel] = self._wanted.get(channel, 0) + 1
        if self._wanted[channel] == 1:
            await self._subscribe(channel)
        stopped = False

        async def stop() -> None:
            nonlocal stopped
            if stopped:
                return
            stopped = True
            leave()
            self._wanted[channel] -= 1
            if not self._wanted[channel]:
                del self._wanted[channel]
                await self._unsubscribe(channel)

        return stop

    async def close(self) -> None:
        """See Feed."""
        tasks = [task for task in (self._publisher, self._reader) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._wanted.clear()
        await self._ears.close()
        if self._pubsub is not None:
            await self._pubsub.aclose()
        await self._client.aclose()

    def _channel(self, topic: bytes) -> str:
        return f"{self._prefix}{sha256(topic)[0] % BUCKETS}"

    async def _publish(self) -> None:
        try:
            while self._pending:
                count = min(BATCH_MAX, len(self._pending))
                batch = [self._pending.popleft() for _ in range(count)]
                try:
                    async with self._client.pipeline(transaction=False) as pipeline:
                        for channel, body in batch:
                            pipeline.publish(channel, body)
                        await pipeline.execute()
                except AWAY as error:
                    self.lost += count
                    log.warning("nudges lost", count=count, error=repr(error))
        finally:
            self._publisher = None

    async def _subscribe(self, channel: str) -> None:
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(channel, []).append(confirmed)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="feed-reader")
        else:
            await self._say("subscribe", channel)
        await asyncio.wait([confirmed], timeout=TIMEOUT_S)

    async def _unsubscribe(self, channel: str) -> None:
        await self._say("unsubscribe", channel)

    async def _say(self, command: str, channel: str) -> None:
        async with self._saying:
            if self._pubsub is None:
                return  # the reader subscribes to all that is wanted when it is connected
            try:
                await getattr(self._pubsub, command)(channel)
            except AWAY as error:  # the reader finds out too, and subscribes again
                log.info("feed not reached", command=command, error=repr(error))

    async def _read(self) -> None:
        attempt = 0
        while self._wanted:
            try:
                async with self._saying:
                    self._pubsub = self._client.pubsub()
                    await self._pubsub.subscribe(*self._wanted)
                while True:
                    message = await self._pubsub.get_message(timeout=None)
                    if message is not None:
                        attempt = 0
                        self._hear(message)
            except AWAY as error:
                log.warning("feed lost", error=repr(error))
            lost, self._pubsub = self._pubsub, None
            await lost.aclose()
            await asyncio.sleep(self._backoff.delay_ms(attempt, self._dice()) / 1000)
            attempt += 1
        self._reader = None  # nobody listens; whoever does next starts it again

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "subscribe":
            for confirmed in self._waiting.pop(message["channel"].decode(), ()):
                if not confirmed.done():
                    confirmed.set_result(None)
        elif message["type"] == "message":
            raw = message["data"]
            end = 1 + int.from_bytes(raw[:1], "big")
            self._ears.hear(raw[1:end], raw[end:])


class RedisCache:
    """See Cache. While Redis is away this process remembers by itself, and says so once."""

    def __init__(self, url: str, namespace: str = "") -> None:
        """Nothing is connected before the first call."""
        self._prefix = f"{namespace}.cache." if namespace else "cache."
        self._client = connect(url)
        self._local = MemoryCache()
        self._away = False
        self._try_again_s = 0.0

    async def get(self, key: str) -> bytes | None:
        """See Cache."""
        name = self._prefix + key

        async def get() -> bytes | None:
            return _raw(await self._client.get(name))

        return await self._or_locally(get, lambda: self._local.get(key))

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """See Cache."""
        name = self._prefix + key

        async def put() -> None:
            await self._client.set(name, value, ex=ttl_s)

        await self._or_locally(put, lambda: self._local.put(key, value, ttl_s))

    async def count(self, key: str, window_s: int) -> int:
        """See Cache. One round trip, atomic."""

        async def count() -> int:
            name = f"{self._prefix}n.{key}"
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.set(name, 0, ex=window_s, nx=True)
                pipeline.incr(name)  # keeps the time to live
                answers = await pipeline.execute()
            return int(answers[1])

        return await self._or_locally(count, lambda: self._local.count(key, window_s))

    async def take(self, key: str) -> bytes | None:
        """See Cache."""
        name = self._prefix + key

        async def take() -> bytes | None:
            return _raw(await self._client.getdel(name))

        return await self._or_locally(take, lambda: self._local.take(key))

    async def close(self) -> None:
        """See Cache."""
        await self._client.aclose()
        await self._local.close()

    async def _or_locally(
        self, remote: Callable[[], Awaitable[T]], local: Callable[[], Awaitable[T]]
    ) -> T:
        now_s = asyncio.get_running_loop().time()
        if self._away and now_s < self._try_again_s:
            return await local()
        try:
            answer = await remote()
        except AWAY as error:
            if not self._away:
                log.warning("cache away, remembering locally", error=repr(error))
            self._away, self._try_again_s = True, now_s + AWAY_S
            return await local()
        if self._away:
            log.info("cache is back")
            self._away = False
        return answer


def _raw(value: bytes | str | None) -> bytes | None:
    assert not isinstance(value, str)  # the client does not decode
    return value
