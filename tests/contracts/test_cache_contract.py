"""The contract of Cache. Every adapter runs the very same tests."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.adapters.redis import RedisCache
from actors.memory import MemoryCache
from actors.ports import Cache
from tests.contracts.proxy import Proxy

_numbers = itertools.count()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    if request.param == "memory":
        made: Any = MemoryCache()
    else:
        url, namespace = (request.getfixturevalue(n) for n in ("redis_url", "namespace"))
        made = RedisCache(url, f"{namespace}.{next(_numbers)}")
    yield made
    await made.close()


async def test_what_was_put_is_there_until_its_time_is_over(cache: Cache):
    assert await cache.get("a") is None
    await cache.put("a", b"\x00\xff", 60)
    await cache.put("b", b"", 60)
    assert (await cache.get("a"), await cache.get("b")) == (b"\x00\xff", b"")
    await cache.put("a", b"new", 1)
    assert await cache.get("a") == b"new"

    async def until_gone() -> None:
        while await cache.get("a") is not None:  # noqa: ASYNC110 - only the clock ends it
            await asyncio.sleep(0.05)

    await asyncio.wait_for(until_gone(), 20)
    assert await cache.get("b") == b""


async def test_only_one_of_many_takes_a_ticket(cache: Cache):
    await cache.put("ticket", b"x", 60)
    taken = await asyncio.gather(*(cache.take("ticket") for _ in range(20)))
    assert sorted(taken, key=lambda value: value is None) == [b"x", *[None] * 19]
    assert await cache.get("ticket") is None


async def test_counters_count_everybody_within_their_window(cache: Cache):
    counts = await asyncio.gather(*(cache.count("rate", 60) for _ in range(20)))
    assert sorted(counts) == list(range(1, 21))
    assert await cache.count("other", 60) == 1
    assert await cache.get("rate") is None  # a name of its own
    assert await cache.count("short", 1) == 1

    async def until_it_starts_again() -> None:
        while await cache.count("short", 1) != 1:  # noqa: ASYNC110 - only the clock ends it
            await asyncio.sleep(0.05)

    await asyncio.wait_for(until_it_starts_again(), 20)


async def test_the_memory_cache_drops_what_is_oldest_when_full():
    time_s = 0.0
    cache = MemoryCache(lambda: time_s, entries_max=3)
    await cache.put("short", b"", 1)
    for name in "ab":
        await cache.put(name, name.encode(), 100)
    time_s = 2.0
    await cache.put("c", b"c", 100)  # what has run out goes first
    assert [await cache.get(name) for name in "abc"] == [b"a", b"b", b"c"]
    await cache.put("a", b"a", 100)
    await cache.put("d", b"d", 100)
    assert [await cache.get(name) for name in "abcd"] == [b"a", None, b"c", b"d"]
    for name in "efgh":
        await cache.count(name, 100)
    assert await cache.count("e", 100) == 1
    assert await cache.count("h", 100) == 2


@pytest.mark.services
async def test_redis_away_is_answered_locally(redis_url: str, namespace: str):
    proxy = Proxy(redis_url, 6379)
    await proxy.mend()
    cache = RedisCache(proxy.url, f"{namespace}.{next(_numbers)}")
    await cache.put("a", b"remote", 60)
    await proxy.cut()
    assert await cache.get("a") is None  # a cache may forget
    await cache.put("a", b"local", 60)
    assert await cache.get("a") == b"local"
    assert [await cache.count("n", 60) for _ in range(3)] == [1, 2, 3]
    assert (await cache.take("a"), await cache.take("a")) == (b"local", None)
    await proxy.mend()
    seen: list[bytes | None] = []

    async def until_back() -> None:
        while b"remote" not in seen:
            seen.append(await cache.get("a"))
            await asyncio.sleep(0.05)

    await asyncio.wait_for(until_back(), 20)
    await cache.close()
    await proxy.cut()
