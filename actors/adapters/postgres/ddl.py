"""Runs the DDL of a migration on the migrating connection, in the right schemas."""

from contextvars import ContextVar

import asyncpg
from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine import engine_finder
from piccolo.engine.postgres import PostgresEngine

from actors.adapters.postgres.schemas import Schemas

APP_NAME = "syncline"

connection_in_use: ContextVar[asyncpg.Connection] = ContextVar("connection_in_use")
"""Set by `migrate`; without it Piccolo's own command line is at work, with its own transaction."""


def migration(id_: str, description: str, script: str) -> MigrationManager:
    """Return a manager that runs `script`: statements with `{accounts}` and `{metadata}` as names.

    Unqualified names of new tables are created in `metadata`.
    """
    manager = MigrationManager(migration_id=id_, app_name=APP_NAME, description=description)

    async def run() -> None:
        connection = connection_in_use.get(None) or _of_piccolo()
        metadata, accounts = await connection.fetchval("SELECT current_schemas(false)")
        names = Schemas(accounts=accounts, metadata=metadata)
        await connection.execute(
            script.replace("{accounts}", f'"{names.accounts}"').replace(
                "{metadata}", f'"{names.metadata}"'
            )
        )

    manager.add_raw(run)
    return manager


def _of_piccolo() -> asyncpg.Connection:
    engine = engine_finder()
    assert isinstance(engine, PostgresEngine)
    transaction = engine.current_transaction.get()
    assert transaction is not None, "a migration runs inside a transaction"
    connection: asyncpg.Connection = transaction.connection
    return connection
