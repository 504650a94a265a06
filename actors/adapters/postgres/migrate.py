"""Brings a database to the newest tables: `plan`, `migrate`, `status`, and monthly partitions.

Piccolo's migrations are run here rather than by its command line, since that one records a
migration in a transaction of its own: a crash in between would run it twice. Here all pending ones
and their records are one transaction, under an advisory lock on its connection; and Piccolo need
not be imported into a server.
"""

import importlib
import re
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from actors.adapters.postgres.schemas import Schemas, schemas, server_settings

MONTHS_AHEAD = 3
_FILE = re.compile(r"syncline_(\d{4})_(\d\d)_(\d\d)t(\d\d)_(\d\d)_(\d\d)_(\d{6})\.py")

# Piccolo's own table and record, so that its tools read what was run.
_RECORDS = """
CREATE TABLE IF NOT EXISTS migration (
    id serial PRIMARY KEY,
    name varchar(200) NOT NULL DEFAULT '',
    app_name varchar(200) NOT NULL DEFAULT '',
    ran_on timestamp NOT NULL DEFAULT current_timestamp
)
"""
_RECORD = "INSERT INTO migration (name, app_name) VALUES ($1, 'syncline')"


class Status(NamedTuple):
    """Which migrations the database has, and which it lacks, oldest first."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]


async def status(dsn: str, namespace: str) -> Status:
    """Return what was run and what is missing; changes nothing. Raises OSError, PostgresError."""
    connection = await _connect(dsn, namespace)
    try:
        return await _status(connection, schemas(namespace))
    finally:
        await connection.close()


async def plan(dsn: str, namespace: str) -> list[str]:
    """Return what `migrate` would run, as `<id> <description>`."""
    pending = (await status(dsn, namespace)).pending
    return [f"{id_} {_module(id_).DESCRIPTION}" for id_ in pending]


async def migrate(dsn: str, namespace: str, now_ms: int) -> list[str]:
    """Run what is pending, make the partitions of the coming months; return the ids that were run.

    Safe to repeat, to run from several processes at once, and to kill at any moment.
    """
    ran: list[str] = []
    if (await status(dsn, namespace)).pending:
        ran = await _run(dsn, namespace)
    connection = await _connect(dsn, namespace)
    try:
        await make_partitions(connection, now_ms)
    finally:
        await connection.close()
    return ran


async def make_partitions(connection: asyncpg.Connection, now_ms: int) -> list[str]:
    """Make the journal's partitions of this month and the next ones; return the new names.

    Safe to repeat. Rows of other months go to the default partition; when their month gets its
    own at last, they are moved.
    """
    first = datetime.fromtimestamp(now_ms / 1000, UTC)
    month, made = first.year * 12 + first.month - 1, []
    async with connection.transaction():
        schema = await connection.fetchval("SELECT current_schema()")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(schema))
        for start in range(month, month + 1 + MONTHS_AHEAD):
            name = f"sync_events_{start // 12}_{start % 12 + 1:02}"
            if await connection.fetchval("SELECT to_regclass($1)", f'"{schema}".{name}') is None:
                await _make_partition(connection, name, _first_day(start), _first_day(start + 1))
                made.append(name)
    return made


async def _make_partition(
    connection: asyncpg.Connection, name: str, first: str, following: str
) -> None:
    await connection.execute(
        f"""
        CREATE TABLE {name} (LIKE sync_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
        WITH strays AS (
            DELETE FROM sync_events_default
            WHERE timestamp >= '{first}' AND timestamp < '{following}' RETURNING *
        )
        INSERT INTO {name} SELECT * FROM strays;
        ALTER TABLE sync_events ATTACH PARTITION {name}
            FOR VALUES FROM ('{first}') TO ('{following}');
        """
    )


def _first_day(month: int) -> str:
    return f"{month // 12}-{month % 12 + 1:02}-01 00:00:00+00"


def _ids() -> list[str]:
    folder = Path(__file__).parent / "migrations"
    found = (_FILE.fullmatch(path.name) for path in folder.iterdir())
    return sorted("{}-{}-{}T{}:{}:{}:{}".format(*match.groups()) for match in found if match)


def _module(id_: str) -> Any:
    name = "syncline_" + re.sub(r"[-:]", "_", id_).replace("T", "t")
    return importlib.import_module(f"actors.adapters.postgres.migrations.{name}")


async def _connect(dsn: str, namespace: str) -> asyncpg.Connection:
    settings = server_settings(namespace, name="syncline-migrate")
    return await asyncpg.connect(dsn, server_settings=settings)


async def _status(connection: asyncpg.Connection, names: Schemas) -> Status:
    applied: set[str] = set()
    table = f'"{names.metadata}".migration'
    if await connection.fetchval("SELECT to_regclass($1)", table) is not None:
        rows = await connection.fetch(f"SELECT name FROM {table}")
        applied = {row["name"] for row in rows}
    pending = tuple(id_ for id_ in _ids() if id_ not in applied)
    return Status(tuple(sorted(applied)), pending)


def _lock_key(name: str) -> int:
    return 0x53594E43 << 32 | zlib.crc32(name.encode())  # "SYNC": ours among the database's locks


async def _run(dsn: str, namespace: str) -> list[str]:
    names = schemas(namespace)
    connection = await _connect(dsn, namespace)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _lock_key(names.metadata))
            for name in names:  # an operator may have made them, and allow us no more
                if await connection.fetchval("SELECT to_regnamespace($1)", f'"{name}"') is None:
                    await connection.execute(f'CREATE SCHEMA "{name}"')
            await connection.execute(_RECORDS)
            pending = (await _status(connection, names)).pending
            for id_ in pending:
                await connection.execute(names.put_into(_module(id_).SCRIPT))
                await connection.execute(_RECORD, id_)
    finally:
        await connection.close()
    return list(pending)
