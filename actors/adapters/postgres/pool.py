"""The connection pool: our schemas on the search path, and times as milliseconds.

On these connections a timestamptz goes in and comes out as an int, milliseconds since the Unix
epoch, also in arrays: no query converts times.
"""

import asyncpg

from actors.adapters.postgres.schemas import server_settings
from actors.ports import Unreachable

CONNECTIONS_MAX = 10
CONNECT_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 15  # below limits.TURN_TIMEOUT_S: a stuck turn ends before its asker gives up

_POSTGRES_EPOCH_MS = 946_684_800_000  # 2000-01-01, from which PostgreSQL counts microseconds


async def open_pool(
    dsn: str, namespace: str, connections_max: int = CONNECTIONS_MAX, name: str = "syncline"
) -> asyncpg.Pool:
    """Open a pool; connections are made when they are needed. Close it with `await pool.close()`.

    Raises Unreachable when the database does not answer.
    """
    try:
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=connections_max,
            init=_introduce,
            reset=_leave_as_it_is,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=STATEMENT_TIMEOUT_S,
            max_cached_statement_lifetime=0,  # our statements never change: prepare them once
            server_settings=server_settings(namespace, name),
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unreachable(f"database: {error}") from error


# asyncpg asks the server about every array type it meets: better once for all than in a turn.
_ARRAYS = """
SELECT $1::bytea[], $2::bigint[], $3::text[], $4::timestamptz[], $5::boolean[], $6::integer[],
    $7::smallint[]
"""


async def _introduce(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "timestamptz", schema="pg_catalog", format="tuple", encoder=_encode_ms, decoder=_decode_ms
    )
    await connection.prepare(_ARRAYS)


async def _leave_as_it_is(connection: asyncpg.Connection) -> None:
    """Skips asyncpg's RESET ALL, a round trip per use: we never set session state.

    An open transaction is rolled back before this is called.
    """


def _encode_ms(ms: int) -> tuple[int]:
    return ((ms - _POSTGRES_EPOCH_MS) * 1000,)


def _decode_ms(raw: tuple[int]) -> int:
    return raw[0] // 1000 + _POSTGRES_EPOCH_MS
