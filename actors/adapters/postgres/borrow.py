"""A connection for one read or one small transaction of the gateway, and outages by one name."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from actors.ports import Unreachable

ACQUIRE_S = 5.0  # waiting longer means that the pool is exhausted: better to say so

Pool = Any  # asyncpg ships no types
Connection = Any


@asynccontextmanager
async def borrowed(pool: Pool, transaction: bool = False) -> AsyncIterator[Connection]:
    """Lend a connection, in a transaction if asked. Raises Unreachable: the database is away."""
    try:
        async with pool.acquire(timeout=ACQUIRE_S) as connection:
            if transaction:
                async with connection.transaction():
                    yield connection
            else:
                yield connection
    except (
        OSError,  # and TimeoutError, which is one
        asyncpg.PostgresConnectionError,
        asyncpg.InterfaceError,
        asyncpg.CannotConnectNowError,
        asyncpg.TooManyConnectionsError,
        asyncpg.AdminShutdownError,
    ) as error:
        raise Unreachable(f"database: {type(error).__name__}") from error
