"""`syncline-server standalone`: everything in one process. PostgreSQL is real, broker and cache are
in memory. One folder holds it all; a second server on it is refused.

    postgres/   the database       storage/   sealed chunks       secrets.json   keys of tokens
"""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from apps.serve import serve, unless
from apps.settings import Settings
from apps.wiring import gateway_of, hosting, now_ms, relaying, services


async def standalone(settings: Settings, data_dir: Path, stopping: asyncio.Event) -> None:
    """Serve until told to stop. Raises PostgresUnavailable, OSError."""
    from actors.adapters.postgres.embedded import EmbeddedPostgres
    from actors.adapters.postgres.migrate import migrate

    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        postgres = EmbeddedPostgres(data_dir / "postgres")
        stack.push_async_callback(postgres.stop)
        url = await unless(stopping, postgres.start())
        if url is None:
            return
        settings = msgspec.structs.replace(
            settings,
            database_url=url,
            storage_dir=str(data_dir / "storage"),
            amqp_url="",
            redis_url="",
        )
        await migrate(url, settings.namespace, now_ms())
        opened = await stack.enter_async_context(
            services(settings, embedded=True, name="syncline-standalone")
        )
        await stack.enter_async_context(hosting(opened, opened.transport))
        await stack.enter_async_context(relaying(opened))
        app, hub = await stack.enter_async_context(gateway_of(opened, data_dir))
        await serve(app, settings, stopping, hub.farewell)
