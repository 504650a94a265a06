"""Migrations on a real PostgreSQL, and the tables they leave behind.

Planted bugs that these caught: a commit after each migration (killed), no lock (parallel), a column
of another type in the migration than in `tables.py`.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from actors.adapters.postgres import migrate as migrations
from actors.adapters.postgres.migrate import make_partitions, migrate, plan, status
from actors.adapters.postgres.pool import open_pool
from actors.adapters.postgres.schemas import schemas, server_settings

pytestmark = pytest.mark.services

NOVEMBER_MS = 1_795_000_000_000  # 2026-11-18
DECEMBER_MS = NOVEMBER_MS + 30 * 86_400_000
SEEDS_INDEXES = {
    "idx_users_email",
    "idx_users_username",
    "idx_files_user_path",
    "idx_files_checksum",
    "idx_files_modified",
    "idx_sync_events_user_time",
}


@pytest.fixture
async def empty(database_url: str, namespace: str) -> AsyncIterator[str]:
    """A namespace nobody has used; its schemas are dropped afterwards."""
    name = f"{namespace}_m"
    connection = await asyncpg.connect(database_url)
    drop = "".join(f'DROP SCHEMA IF EXISTS "{schema}" CASCADE;' for schema in schemas(name))
    await connection.execute(drop)
    yield name
    await connection.execute(drop)
    await connection.close()


async def tables(url: str, namespace: str) -> set[str]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "SELECT schemaname || '.' || tablename AS name FROM pg_tables WHERE schemaname = ANY ($1)",
        list(schemas(namespace)),
    )
    await connection.close()
    return {row["name"].removeprefix(f"{namespace}_") for row in rows}


async def test_up_from_nothing_and_again(database_url, empty):
    assert not await tables(database_url, empty)
    before = await status(database_url, empty)
    assert not before.applied
    assert len(await plan(database_url, empty)) == len(before.pending) >= 2
    assert await migrate(database_url, empty, NOVEMBER_MS) == list(before.pending)
    made = await tables(database_url, empty)
    assert {"accounts.users", "metadata.files", "metadata.sync_events_2026_11"} <= made
    assert (await status(database_url, empty)) == (before.pending, ())
    assert await migrate(database_url, empty, NOVEMBER_MS) == []
    assert await plan(database_url, empty) == []
    assert await tables(database_url, empty) == made


async def test_without_a_namespace_the_schemas_are_those_of_the_handbook(database_url):
    await migrate(database_url, "", NOVEMBER_MS)
    connection = await asyncpg.connect(database_url)
    names = {
        row["indexname"]
        for row in await connection.fetch(
            "SELECT indexname FROM pg_indexes WHERE schemaname IN ('accounts', 'metadata')"
        )
    }
    await connection.close()
    assert names >= SEEDS_INDEXES


async def test_many_at_once_run_each_migration_once(database_url, empty):
    runs = await asyncio.gather(*(migrate(database_url, empty, NOVEMBER_MS) for _ in range(6)))
    pending = list((await status(database_url, empty)).applied)
    assert sorted(runs) == [[]] * 5 + [pending]


async def test_two_namespaces_live_side_by_side(database_url, empty):
    other = f"{empty}2"
    await migrate(database_url, empty, NOVEMBER_MS)
    assert not (await status(database_url, other)).applied
    await migrate(database_url, other, NOVEMBER_MS)
    assert await tables(database_url, empty) == await tables(database_url, other)
    connection = await asyncpg.connect(database_url)
    for schema in schemas(other):
        await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
    await connection.close()
    assert await tables(database_url, empty)


@pytest.mark.kills
async def test_killed_in_the_middle_leaves_nothing_and_the_next_run_succeeds(database_url, empty):
    code = f"""
import asyncio
from actors.adapters.postgres import migrate
real = migrate._module
def slow(id_):
    module = real(id_)
    if module.DESCRIPTION == "metadata":
        module.SCRIPT += "; SELECT pg_sleep(100)"
        print("sleeping", flush=True)
    return module
migrate._module = slow
asyncio.run(migrate.migrate({database_url!r}, {empty!r}, {NOVEMBER_MS}))
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert await child.stdout.readline() == b"sleeping\n"
    assert not await tables(database_url, empty), "the first migration is not committed alone"
    child.send_signal(signal.SIGKILL)
    await child.wait()
    connection = await asyncpg.connect(database_url)
    await connection.execute(  # the server only notices a dead client when it has slept
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'syncline-migrate'"
    )
    await connection.close()
    assert await migrate(database_url, empty, NOVEMBER_MS)
    assert "metadata.outbox" in await tables(database_url, empty)


async def test_piccolo_sees_the_columns_that_there_are(database_url, empty, monkeypatch):
    monkeypatch.setenv("PICCOLO_CONF", "actors.adapters.postgres.piccolo_conf")
    monkeypatch.setenv("SYNCLINE_DATABASE_URL", database_url)
    from actors.adapters.postgres.tables import TABLES

    await migrate(database_url, empty, NOVEMBER_MS)
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(
        "SELECT c.table_name, c.column_name, c.is_nullable = 'YES' AS empty, c.data_type"
        " FROM information_schema.columns c"
        " JOIN pg_class k ON k.oid = format('%I.%I', c.table_schema, c.table_name)::regclass"
        " WHERE c.table_schema = ANY ($1) AND NOT k.relispartition AND c.table_name <> 'migration'",
        list(schemas(empty)),
    )
    await connection.close()
    there: dict[str, dict[str, tuple[str, bool]]] = {}
    for row in rows:
        columns = there.setdefault(row["table_name"], {})
        columns[row["column_name"]] = (row["data_type"].upper(), row["empty"])
    for table in TABLES:
        seen = {
            column._meta.db_column_name: (plain(column.column_type), column._meta.null)
            for column in table._meta.columns
        }
        assert there.pop(table._meta.tablename) == seen, table._meta.tablename
    assert not there, "tables that Piccolo does not know"


@pytest.fixture
async def own_database(database_url, empty) -> AsyncIterator[str]:
    connection = await asyncpg.connect(database_url)
    await connection.execute(f'CREATE DATABASE "syncline_{empty}" TEMPLATE template0')
    yield urlsplit(database_url)._replace(path=f"/syncline_{empty}").geturl()
    await connection.execute(f'DROP DATABASE "syncline_{empty}" WITH (FORCE)')
    await connection.close()


async def test_piccolos_own_command_line_runs_them_too(own_database, empty):
    """In a database of its own: Piccolo takes any schema's `migration` table for this one's."""
    connection = await asyncpg.connect(own_database)
    for schema in schemas(empty):
        await connection.execute(f'CREATE SCHEMA "{schema}"')
    await connection.close()
    said = {
        "PICCOLO_CONF": "actors.adapters.postgres.piccolo_conf",
        "SYNCLINE_DATABASE_URL": own_database,
        "SYNCLINE_NAMESPACE": empty,
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "piccolo.main", "migrations", "forwards", "syncline"),
        env={**os.environ, **said},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
    assert not (await status(own_database, empty)).pending, output.decode()
    assert await migrate(own_database, empty, NOVEMBER_MS) == []


def plain(column_type: str) -> str:
    """Piccolo's name of a type as the information schema has it."""
    name = column_type.upper().split("(")[0]
    return {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}.get(name, name)


async def test_partitions_follow_the_months(database_url, empty):
    await migrate(database_url, empty, NOVEMBER_MS)
    connection = await asyncpg.connect(database_url, server_settings=server_settings(empty))
    assert await make_partitions(connection, NOVEMBER_MS) == []
    assert await make_partitions(connection, DECEMBER_MS) == ["sync_events_2027_03"]
    both = await asyncio.gather(
        *(make_partitions_alone(database_url, empty, DECEMBER_MS + 31 * 86_400_000) for _ in "ab")
    )
    assert sorted(both) == [[], ["sync_events_2027_04"]]
    await connection.close()
    pool = await open_pool(database_url, empty)
    for ms in (NOVEMBER_MS, DECEMBER_MS, 0):
        await pool.execute(
            "INSERT INTO sync_events (space_id, event_id, user_id, file_id, event_type, timestamp,"
            " client_id, dot, kind, raw, hash) VALUES ('', 1, '', '', '', $1, '', 0, '', '', '')",
            ms,
        )
    rows = await pool.fetch(
        "SELECT replace(tableoid::regclass::text, '\"', '') AS home, timestamp AS ms"
        " FROM sync_events ORDER BY ms"
    )
    assert [(row["home"].split(".")[-1], row["ms"]) for row in rows] == [
        ("sync_events_default", 0),
        ("sync_events_2026_11", NOVEMBER_MS),
        ("sync_events_2026_12", DECEMBER_MS),
    ]
    assert len(await make_partitions_alone(database_url, empty, 0)) == 4, "with a row to be moved"
    homes = await pool.fetch("SELECT tableoid::regclass::text AS home, timestamp FROM sync_events")
    assert {row["timestamp"]: row["home"].split(".")[-1] for row in homes}[0] == (
        "sync_events_1970_01"
    )
    assert not await pool.fetchval("SELECT count(*) FROM sync_events_default")
    indexes = await pool.fetch(
        "SELECT tablename, count(*) AS n FROM pg_indexes WHERE schemaname = current_schema()"
        " AND tablename IN ('sync_events_1970_01', 'sync_events_default') GROUP BY tablename"
    )
    assert [row["n"] for row in indexes] == [3, 3], "indexes come with being attached"
    await pool.close()


async def make_partitions_alone(url: str, namespace: str, now_ms: int) -> list[str]:
    connection = await asyncpg.connect(url, server_settings=server_settings(namespace))
    try:
        return await make_partitions(connection, now_ms)
    finally:
        await connection.close()


async def test_the_audit_log_is_append_only(database_url, empty):
    await migrate(database_url, empty, NOVEMBER_MS)
    pool = await open_pool(database_url, empty)
    await pool.execute(
        "INSERT INTO audit_log (seq, at, event, prev_hash, hash) VALUES (1, $2, 'x', $1, $1)",
        bytes(32),
        NOVEMBER_MS,
    )
    for statement in (
        "UPDATE audit_log SET event = 'y'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
    assert await pool.fetchval("SELECT event FROM audit_log") == "x"
    await pool.close()


async def test_another_role_sees_one_account_only(database_url, empty):
    await migrate(database_url, empty, NOVEMBER_MS)
    pool = await open_pool(database_url, empty)
    role = f"{empty}_reader"
    mine, theirs = b"m" * 16, b"t" * 16
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(f'CREATE ROLE "{role}"')
        for schema in schemas(empty):
            await connection.execute(f'GRANT USAGE ON SCHEMA "{schema}" TO "{role}"')
            await connection.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA "{schema}" TO "{role}"')
        for account in (mine, theirs):
            await connection.execute(
                "INSERT INTO users (user_id, username, email, auth_hash, kdf_salt_seed,"
                " kdf_memory_kib, kdf_time, kdf_lanes, wraps, identity_sign, keyring, created_at,"
                " storage_quota) VALUES ($1, $2, $2, '', '', 0, 0, 0, '', $3, '', $4, 0)",
                account,
                account.decode(),
                bytes(32),
                NOVEMBER_MS,
            )
            await connection.execute(
                "INSERT INTO spaces (space_id, owner_id, history_id, head_hash, created_at)"
                " VALUES ($1, $1, $1, $2, $3)",
                account,
                bytes(32),
                NOVEMBER_MS,
            )
            await connection.execute(
                "INSERT INTO members (space_id, user_id, role, created_at) VALUES ($1, $1, 3, $2)",
                account,
                NOVEMBER_MS,
            )
        await connection.execute(f'SET LOCAL ROLE "{role}"')
        assert await connection.fetch("SELECT * FROM users") == []
        await connection.execute(f"SET LOCAL syncline.user_id = '{mine.hex()}'")
        assert [row["user_id"] for row in await connection.fetch("SELECT * FROM users")] == [mine]
        assert [row["space_id"] for row in await connection.fetch("SELECT * FROM spaces")] == [mine]
        assert await connection.fetch("SELECT * FROM outbox") == []
        await connection.execute("RESET ROLE")
        await connection.execute(f'DROP OWNED BY "{role}"')
        await connection.execute(f'DROP ROLE "{role}"')
    await pool.close()


def test_names_of_schemas():
    assert schemas("") == ("accounts", "metadata")
    assert schemas("t1") == ("t1_accounts", "t1_metadata")
    for wrong in ('a"b', "A", "x" * 41, "a b", "a-b"):
        with pytest.raises(ValueError, match="namespace"):
            schemas(wrong)


def test_the_hot_path_does_not_import_piccolo():
    import subprocess

    code = (
        "import sys, actors.adapters.postgres.store, actors.adapters.postgres.pool,"
        " actors.adapters.postgres.migrate as migrate;"
        " [migrate._module(id_) for id_ in migrate._ids()]; sys.exit('piccolo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert migrations._ids() == sorted(migrations._ids())
