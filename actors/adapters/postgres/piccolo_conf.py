"""Piccolo's configuration for its own command line, which developers use to draft migrations:

PICCOLO_CONF=actors.adapters.postgres.piccolo_conf piccolo migrations new syncline
The server runs migrations by `migrate.py` and does not read this.
"""

import os

from piccolo.conf.apps import AppRegistry
from piccolo.engine.postgres import PostgresEngine

from actors.adapters.postgres.schemas import server_settings

DB = PostgresEngine(
    config={
        "dsn": os.environ.get("SYNCLINE_DATABASE_URL", "postgresql://localhost/syncline"),
        "server_settings": server_settings(os.environ.get("SYNCLINE_NAMESPACE", "")),
    },
    extensions=(),
)

APP_REGISTRY = AppRegistry(apps=["actors.adapters.postgres.piccolo_app"])
