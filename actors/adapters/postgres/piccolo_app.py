"""Piccolo's view of our tables: `piccolo migrations new syncline` looks here."""

from pathlib import Path

from piccolo.conf.apps import AppConfig

from actors.adapters.postgres.ddl import APP_NAME
from actors.adapters.postgres.tables import TABLES

APP_CONFIG = AppConfig(
    app_name=APP_NAME,
    migrations_folder_path=str(Path(__file__).parent / "migrations"),
    table_classes=list(TABLES),
    migration_dependencies=[],
    commands=[],
)
