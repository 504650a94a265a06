"""`syncline-server worker`: hosts actors, as many partitions of them as it is told to."""

import asyncio

from apps.serve import say_ready, unless
from apps.settings import Settings, SettingsError, parse_partitions, require
from apps.wiring import hosting, services


async def worker(settings: Settings, pool: str, partitions: str, stopping: asyncio.Event) -> None:
    """Take messages until told to stop; then finish the turns under way.

    `pool`: actor kinds, comma-separated, "" for all; `partitions`: such as 0-31, "" for all.
    """
    require(settings, "database_url", "amqp_url", "redis_url")
    try:
        chosen = parse_partitions(partitions, settings.partitions)
    except ValueError as error:
        raise SettingsError([f"--partitions: {error}"]) from None
    kinds = _kinds(pool or settings.pools)
    opening = services(settings, embedded=False, name="syncline-worker")
    opened = await unless(stopping, opening.__aenter__())
    if opened is None:
        return
    try:
        async with hosting(opened, opened.transport, kinds, chosen):
            say_ready()
            await stopping.wait()
    finally:
        await opening.__aexit__(None, None, None)


def _kinds(pool: str) -> list[str] | None:
    from actors.roster import ROSTER

    known = [actor.kind for actor in ROSTER]
    wanted = [kind.strip() for kind in pool.split(",") if kind.strip()]
    unknown = [kind for kind in wanted if kind not in known]
    if unknown:
        raise SettingsError(
            [f"pool: there is no actor {kind!r}; known: {', '.join(known)}" for kind in unknown]
        )
    return wanted or None
