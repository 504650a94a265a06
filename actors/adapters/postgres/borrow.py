"""A connection for one read or one small transaction of the gateway."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from actors.adapters.postgres.trouble import translated

ACQUIRE_S = 5.0  # waiting longer means that the pool is exhausted: better to say so

Pool = Any  # asyncpg ships no types
Connection = Any


@asynccontextmanager
async def borrowed(
    pool: Pool, transaction: bool = False, forgettable: bool = False
) -> AsyncIterator[Connection]:
    """Lend a connection, in a transaction if asked. Raises Unreachable and Overtaken.

    `forgettable`: nobody waits for the disk. A crash of the database may undo the last half
    second of such transactions, but never one that a later, durable transaction has seen.
    """
    with translated():
        async with pool.acquire(timeout=ACQUIRE_S) as connection:
            if transaction:
                async with connection.transaction():
                    if forgettable:
                        await connection.execute("SET LOCAL synchronous_commit TO off")
                    yield connection
            else:
                yield connection
