"""The contract of Feed. Every adapter runs the very same tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from actors.adapters import redis
from actors.adapters.redis import RedisFeed
from actors.ears import PENDING_MAX
from actors.memory import MemoryFeed
from actors.ports import Feed, Hear
from protocol.backoff import Backoff
from tests.contracts.proxy import Proxy
from tests.contracts.worlds import eventually

Make = Callable[[], Feed]
SPACE, OTHER = b"s" * 16, b"o" * 16
TIDE = b"until it is heard"


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.services)])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes feeds that hear each other, as gateways and workers have them."""
    feeds: list[Feed] = []
    if request.param == "memory":
        feeds.append(MemoryFeed())
        yield lambda: feeds[0]
    else:
        url, namespace = (request.getfixturevalue(n) for n in ("redis_url", "namespace"))

        def new() -> Feed:
            feeds.append(RedisFeed(url, namespace))
            return feeds[-1]

        yield new
    for feed in feeds:
        await feed.close()
        await feed.close()


def into(heard: list[bytes]) -> Hear:
    async def hear(body: bytes) -> None:
        heard.append(body)

    return hear


async def test_every_listener_of_a_topic_hears_it(make: Make):
    speaker, one, two = make(), make(), make()
    heard: list[list[bytes]] = [[], [], [], []]
    await one.listen(SPACE, into(heard[0]))
    await one.listen(SPACE, into(heard[1]))
    await two.listen(SPACE, into(heard[2]))
    await two.listen(OTHER, into(heard[3]))
    await speaker.publish(SPACE, b"1")
    await speaker.publish(OTHER, b"x")
    await speaker.publish(SPACE, b"2")
    await eventually(lambda: heard == [[b"1", b"2"]] * 3 + [[b"x"]])


async def test_topics_that_share_a_channel_are_told_apart(make: Make):
    feed, heard = make(), dict[bytes, list[bytes]]()
    topics = [bytes([n]) * 16 for n in range(200)]  # more than a few share one of 256 buckets
    for topic in topics:
        await feed.listen(topic, into(heard.setdefault(topic, [])))
    for topic in topics:
        await feed.publish(topic, topic[:1])
    await eventually(lambda: all(heard.values()))
    assert heard == {topic: [topic[:1]] for topic in topics}


async def test_who_has_stopped_hears_nothing_and_others_do(make: Make):
    feed, gone, stays = make(), list[bytes](), list[bytes]()
    stop: Callable[[], Awaitable[None]] = await feed.listen(SPACE, into(gone))
    await feed.listen(SPACE, into(stays))
    await stop()
    await stop()
    await feed.publish(SPACE, b"x")
    await eventually(lambda: stays == [b"x"])
    assert gone == []
    again: list[bytes] = []
    await feed.listen(SPACE, into(again))
    await feed.publish(SPACE, b"y")
    await eventually(lambda: again == [b"y"])


async def test_the_last_one_may_stop_and_come_back(make: Make):
    feed, heard = make(), list[bytes]()
    stop = await feed.listen(SPACE, into(heard))
    await stop()
    await feed.listen(SPACE, into(heard))
    await feed.publish(SPACE, b"x")
    await eventually(lambda: heard == [b"x"])


async def test_a_slow_or_broken_listener_holds_up_nobody(make: Make):
    feed, heard, gate = make(), list[bytes](), asyncio.Event()

    async def slow(_: bytes) -> None:
        await gate.wait()

    async def broken(_: bytes) -> None:
        raise RuntimeError("planted")

    for hear in (slow, broken, into(heard)):
        await feed.listen(SPACE, hear)
    for body in (b"1", b"2", b"3"):
        await feed.publish(SPACE, body)
    await eventually(lambda: heard == [b"1", b"2", b"3"])
    gate.set()


async def test_a_listener_far_behind_loses_the_oldest():
    feed, heard, gate = MemoryFeed(), list[bytes](), asyncio.Event()

    async def slow(body: bytes) -> None:
        await gate.wait()
        heard.append(body)

    await feed.listen(SPACE, slow)
    for n in range(PENDING_MAX + 50):
        await feed.publish(SPACE, b"%d" % n)
        if n == 0:
            await asyncio.sleep(0)  # the first one is being heard
    gate.set()
    await eventually(lambda: heard[-1:] == [b"%d" % (PENDING_MAX + 49)])
    assert len(heard) == PENDING_MAX + 1
    await feed.close()


@pytest.mark.services
async def test_redis_away_loses_nudges_and_heals_by_itself(redis_url: str, namespace: str):
    proxy, heard = Proxy(redis_url, 6379), list[bytes]()
    await proxy.mend()
    listener = RedisFeed(proxy.url, namespace, backoff=Backoff(base_ms=5, cap_ms=5))
    speaker = RedisFeed(proxy.url, namespace)
    await listener.listen(SPACE, into(heard))
    await speaker.publish(SPACE, b"before")
    await eventually(lambda: heard == [b"before"])
    await proxy.cut()
    await speaker.publish(SPACE, b"lost")
    await eventually(lambda: speaker.lost == 1)
    await proxy.mend()

    async def until_heard() -> None:
        while TIDE not in heard:
            await speaker.publish(SPACE, TIDE)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_heard(), 20)
    assert b"lost" not in heard
    for feed in (listener, speaker):
        await feed.close()
    await proxy.cut()


@pytest.mark.services
async def test_who_listens_while_redis_is_away_hears_later(
    redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(redis, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(redis, "PENDING_MAX", 5)
    proxy, heard, more = Proxy(redis_url, 6379), list[bytes](), list[bytes]()
    await proxy.mend()
    await proxy.cut()
    feed = RedisFeed(proxy.url, namespace, backoff=Backoff(base_ms=5, cap_ms=5))
    await feed.listen(SPACE, into(heard))
    stop = await feed.listen(OTHER, into(more))  # while the reader tries to connect
    await stop()
    for n in range(7):
        await feed.publish(SPACE, b"%d" % n)
    await eventually(lambda: feed.lost == 7)
    await proxy.mend()

    async def until_heard() -> None:
        while TIDE not in heard:
            await feed.publish(SPACE, TIDE)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(until_heard(), 20)
    await feed.close()
    await proxy.cut()


@pytest.mark.services
async def test_foreign_bytes_on_a_channel_disturb_nobody(redis_url: str, namespace: str):
    feed, heard = RedisFeed(redis_url, namespace), list[bytes]()
    await feed.listen(SPACE, into(heard))
    for raw in (b"", b"\xff", b"\x00", b"\x10short"):
        await feed._client.publish(feed._channel(SPACE), raw)
    await feed.publish(SPACE, b"x")
    await eventually(lambda: heard == [b"x"])
    await feed.close()
