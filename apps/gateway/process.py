"""`syncline-server gateway`: devices on one side, broker, database and cache on the other."""

import asyncio
from pathlib import Path

from apps.serve import serve, unless
from apps.settings import Settings, require
from apps.wiring import gateway_of, services


async def gateway(settings: Settings, stopping: asyncio.Event) -> None:
    """Serve until told to stop."""
    require(settings, "database_url", "amqp_url", "redis_url", "storage_dir")
    opening = services(settings, embedded=False, name="syncline-gateway")
    opened = await unless(stopping, opening.__aenter__())
    if opened is None:
        return
    try:
        async with gateway_of(opened, Path(settings.storage_dir)) as (app, hub):
            await serve(app, settings, stopping, hub.farewell)
    finally:
        await opening.__aexit__(None, None, None)
