"""`syncline-server relay`: sends what waits in the outbox. Any number may run at once."""

import asyncio

from apps.serve import say_ready, unless
from apps.settings import Settings, require
from apps.wiring import relaying, services


async def relay(settings: Settings, stopping: asyncio.Event) -> None:
    """Relay until told to stop."""
    require(settings, "database_url", "amqp_url", "redis_url")
    opening = services(settings, embedded=False, name="syncline-relay")
    opened = await unless(stopping, opening.__aenter__())
    if opened is None:
        return
    try:
        async with relaying(opened):
            say_ready()
            await stopping.wait()
    finally:
        await opening.__aexit__(None, None, None)
