"""The service finder finds, starts, isolates and stops."""

import os
import subprocess
import sys

import asyncpg
import pytest
from redis.asyncio import Redis

from tests import services as finder

pytestmark = pytest.mark.services


async def test_each_worker_has_a_database_of_its_own(database_url: str, namespace: str):
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("SELECT current_database()") == f"syncline_{namespace}"
    finally:
        await connection.close()


async def test_redis_and_rabbit_answer(redis_url: str, amqp_url: str):
    async with Redis.from_url(redis_url) as client:
        assert await client.ping()
    await finder.PROBES["rabbit"](amqp_url)


def test_a_named_service_that_does_not_answer_is_an_error_not_a_skip(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SYNCLINE_REDIS_URL", f"redis://127.0.0.1:{finder.free_port()}/0")
    with pytest.raises(finder.ServiceMissing, match="does not answer"):
        finder.Services().url("redis")


def test_run_hands_over_the_urls_and_the_exit_code():
    code = "import os, sys; sys.exit(len([n for n in os.environ if n.startswith('SYNCLINE_')]))"
    environment = {n: v for n, v in os.environ.items() if not n.startswith("SYNCLINE_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.services", "run", "--", sys.executable, "-c", code],
        cwd=finder.ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 3


@pytest.mark.kills
@pytest.mark.parametrize("name", ["postgres", "redis", "rabbit"])
def test_a_private_instance_starts_and_ends_with_its_owner(name: str):
    own = finder.Services()
    kind = finder.KINDS[name]
    url = own._start(kind)
    try:
        assert finder.trouble(kind, url) is None
    finally:
        own.close()
    assert finder.trouble(kind, url) is not None
