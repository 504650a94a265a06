"""Fixtures every test may ask for: real services, and a corner of them that nobody else uses.

One database for each worker process of the test run, dropped at its end; one `namespace` for
exchanges, queues, channels and schemas, so that test runs side by side never meet.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.services import Services

# Slow machines and coverage make single examples slow, not wrong; `long` runs look further.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("default"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Plain lines: the default renderer draws every traceback in colours, at 10 ms each.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """What a test makes of the log (a command's set-up, a captured stderr) ends with the test."""
    logs, handlers, level = structlog.get_config(), logging.root.handlers[:], logging.root.level
    yield
    structlog.configure(**logs)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asyncio only: the product runs on nothing else."""
    return "asyncio"


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """The finder; what it has to start is stopped at the end of the run."""
    finder = Services()
    yield finder
    finder.close()


@pytest.fixture(scope="session")
def namespace() -> str:
    """A prefix that no other worker or run uses: letters, digits, underscore, at most 16."""
    return f"t{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')[2:]}_{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def redis_url(services: Services) -> str:
    """A Redis that answers; shared, so keys and channels begin with `namespace`."""
    return in_thread(_found(services, "redis"))


@pytest.fixture(scope="session")
def amqp_url(services: Services) -> str:
    """A RabbitMQ that answers; shared, so queues and exchanges begin with `namespace`."""
    return in_thread(_found(services, "rabbit"))


@pytest.fixture(scope="session")
def postgres_url(services: Services) -> str:
    """The server itself, as a user who may create databases; most tests want `database_url`."""
    return in_thread(_found(services, "postgres"))


@pytest.fixture(scope="session")
def database_url(postgres_url: str, namespace: str) -> Iterator[str]:
    """An empty database of this worker's own, dropped at the end of the run."""
    name = f"syncline_{namespace}"
    in_thread(
        _execute(postgres_url, f"CREATE DATABASE \"{name}\" TEMPLATE template0 ENCODING 'UTF8'")
    )
    yield urlunsplit(urlsplit(postgres_url)._replace(path=f"/{name}"))
    in_thread(_execute(postgres_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))


def in_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine on a loop of its own, whatever loop the calling test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _found(services: Services, name: str) -> str:
    return await asyncio.to_thread(services.url, name)


async def _execute(url: str, statement: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
