"""The one place that picks adapters and puts the parts of a process together.

`services` opens what all of them share; `gateway_of`, `host_of` and `Relay` are built on it. Each
function is an async context manager: what it opens it closes, in reverse order.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from actors.host import Host
from actors.memory import MemoryBroker, MemoryCache, MemoryFeed, MemoryTransport
from actors.outbox import Relay, Speaker
from actors.ports import Cache, ChunkStore, Feed, Store, Transport, Unreachable
from apps.settings import Settings
from protocol.backoff import RECONNECT
from protocol.limits import MIB

GATEWAY_CONNECTIONS_MAX = 16

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Services:
    """What a process talks to. `transport` is shared by gateway and host in standalone."""

    settings: Settings
    pool: Any
    store: Store
    transport: Transport
    feed: Feed
    cache: Cache
    relay: Relay
    embedded: bool  # broker, feed and cache are of this process


def now_ms() -> int:
    """Return the wall clock."""
    from apps.gateway.gate import wall_ms

    return wall_ms()


@asynccontextmanager
async def services(settings: Settings, embedded: bool, name: str) -> AsyncIterator[Services]:
    """Open database, broker, feed and cache; waits with backoff until the database answers.

    `embedded`: broker, feed and cache in memory.
    """
    from actors.adapters.postgres.store import PostgresStore

    async with AsyncExitStack() as stack:
        pool = await wait_for_database(settings, name)
        stack.push_async_callback(close_pool, pool)
        transport, feed, cache = await _carriers(settings, embedded)
        stack.push_async_callback(cache.close)
        stack.push_async_callback(feed.close)

        def later(due_ms: int) -> None:
            relay.wake_at(due_ms)

        speaker = Speaker(transport, feed, later)
        # in this order when it ends: the last turns finish, then their words go out
        stack.push_async_callback(speaker.silent)
        stack.push_async_callback(transport.close)
        stack.push_async_callback(speaker.silent)
        store = PostgresStore(pool, speaker, now_ms)
        relay = Relay(store, transport, now_ms, random.random)
        yield Services(settings, pool, store, transport, feed, cache, relay, embedded)


async def _carriers(settings: Settings, embedded: bool) -> tuple[Transport, Feed, Cache]:
    if embedded:
        broker = MemoryBroker(settings.partitions)
        return MemoryTransport(broker), MemoryFeed(), MemoryCache()
    from actors.adapters.rabbit import RabbitTransport
    from actors.adapters.redis import RedisCache, RedisFeed

    transport = await RabbitTransport.open(
        settings.amqp_url, settings.namespace, partitions=settings.partitions
    )
    feed = RedisFeed(settings.redis_url, settings.namespace)
    return transport, feed, RedisCache(settings.redis_url, settings.namespace)


async def wait_for_database(settings: Settings, name: str) -> Any:
    """Return a pool, once the database answers and has all the tables. Says what it waits for."""
    from actors.adapters.postgres.migrate import status
    from actors.adapters.postgres.pool import open_pool

    attempt = 0
    while True:
        try:
            pool = await open_pool(
                settings.database_url, settings.namespace, GATEWAY_CONNECTIONS_MAX, name
            )
        except Unreachable as error:
            log.warning("waiting for the database", error=str(error))
        else:
            pending = (await status(settings.database_url, settings.namespace)).pending
            if not pending:
                return pool
            await close_pool(pool)
            log.warning(
                "waiting for migrations: run `syncline-server migrate apply`", pending=len(pending)
            )
        await asyncio.sleep(RECONNECT.delay_ms(min(attempt, 4), random.random()) / 1000)
        attempt += 1


async def close_pool(pool: Any) -> None:
    """Close a pool; what still runs on it after a while is cut off."""
    try:
        await asyncio.wait_for(pool.close(), 5)
    except TimeoutError:
        pool.terminate()


@asynccontextmanager
async def hosting(
    opened: Services,
    transport: Transport,
    kinds: list[str] | None = None,
    partitions: list[int] | None = None,
) -> AsyncIterator[Host]:
    """Serve actors of these kinds (None: all) and partitions (None: all) on a transport."""
    from actors.roster import ROSTER

    host = Host(opened.store, ROSTER, now_ms)
    await host.serve(transport, kinds, partitions)
    yield host


@asynccontextmanager
async def relaying(opened: Services) -> AsyncIterator[None]:
    """Run the relay beside something else."""
    task = asyncio.create_task(opened.relay.run(), name="relay")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def gateway_of(
    opened: Services, secrets_folder: Path | None, chunks: ChunkStore | None = None
) -> AsyncIterator[Any]:
    """Put the gateway together; yields (ASGI application, hub). `chunks` None: as settings say."""
    from actors.adapters.postgres.accounts import Accounts
    from actors.adapters.postgres.leases import Leases
    from actors.adapters.postgres.reads import Reads
    from actors.adapters.postgres.sessions import Sessions
    from actors.dialer import Dialer
    from actors.roster import ROSTER
    from apps.gateway.app import make_app
    from apps.gateway.gate import Door, Gate, Seats
    from apps.gateway.hub import Hub
    from apps.gateway.passwords import Passwords
    from apps.gateway.tokens import Tokens, secrets_from

    settings = opened.settings
    secrets = secrets_from(settings.jwt_keys, settings.secret, secrets_folder)
    async with AsyncExitStack() as stack:
        fallback = None
        if not opened.embedded:  # law 7: while the broker is away, actors live here
            fallback = MemoryTransport(MemoryBroker(settings.partitions))
            stack.push_async_callback(fallback.close)
            await stack.enter_async_context(hosting(opened, fallback))
        sessions, reads = Sessions(opened.pool), Reads(opened.pool)
        chunks = chunks or await chunk_store(settings)
        figures = await stack.enter_async_context(_figures(settings))
        gate = Gate(
            settings=settings,
            accounts=Accounts(opened.pool),
            sessions=sessions,
            reads=reads,
            leases=Leases(opened.pool),
            chunks=chunks,
            dialer=Dialer(ROSTER, opened.transport, fallback, now_ms, random.random),
            feed=opened.feed,
            cache=opened.cache,
            tokens=Tokens(secrets, settings.public_url or "syncline", settings.access_ttl),
            passwords=Passwords(secrets.pepper),
            door=Door(sessions, now_ms),
            seats=Seats(reads, now_ms),
            now_ms=now_ms,
            figures=figures,
            checks=_checks(opened, reads, chunks),
        )
        hub = Hub(opened.feed)
        yield make_app(gate, hub), hub


async def chunk_store(settings: Settings) -> ChunkStore:
    """Open the chunk store."""
    from actors.adapters.disk import DiskChunkStore

    return await asyncio.to_thread(DiskChunkStore, Path(settings.storage_dir))


@asynccontextmanager
async def _figures(settings: Settings) -> AsyncIterator[Any]:
    """Serve figures on their own port, if there is one."""
    if not settings.metrics_listen:
        yield None
        return
    from apps.settings import parse_listen
    from apps.telemetry import Figures

    figures = Figures()
    server = figures.listen(*parse_listen(settings.metrics_listen))
    try:
        yield figures
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _checks(opened: Services, reads: Any, chunks: ChunkStore) -> dict[str, Any]:
    """What `/readyz` asks. Without broker or cache a gateway degrades, and stays ready."""
    from apps.gateway.gate import Check

    async def storage() -> None:
        if await chunks.free_bytes() < MIB:
            raise Unreachable("the disk of the chunk store is full")

    async def broker() -> None:
        if not getattr(opened.transport, "up", True):
            raise Unreachable("the broker is away")

    async def cache() -> None:
        await opened.cache.get("ready")

    checks: dict[str, Callable[[], Any]] = {
        "database": reads.ping,
        "storage": storage,
        "broker": broker,
        "cache": cache,
    }
    needed = ("database", "storage")
    return {name: Check(ask, name in needed) for name, ask in checks.items()}
