"""Hands the script of a migration to Piccolo's own command line.

The server runs the same scripts by itself (`migrate.py`) and imports no Piccolo for it.
"""

from piccolo.apps.migrations.auto.migration_manager import MigrationManager
from piccolo.engine import engine_finder
from piccolo.engine.postgres import PostgresEngine

from actors.adapters.postgres.schemas import Schemas

APP_NAME = "syncline"


def migration(id_: str, description: str, script: str) -> MigrationManager:
    """Return a manager that runs `script` on the connection of Piccolo's transaction."""
    manager = MigrationManager(migration_id=id_, app_name=APP_NAME, description=description)

    async def run() -> None:
        engine = engine_finder()
        assert isinstance(engine, PostgresEngine)
        transaction = engine.current_transaction.get()
        assert transaction is not None, "a migration runs inside a transaction"
        connection = transaction.connection
        metadata, accounts = await connection.fetchval("SELECT current_schemas(false)")
        await connection.execute(Schemas(accounts=accounts, metadata=metadata).put_into(script))

    manager.add_raw(run)
    return manager
