"""Is the process alive, has it started, can it serve? For load balancers and orchestrators."""

import asyncio
import time
from collections.abc import Mapping

import msgspec
import structlog
from litestar import Response

from apps.gateway.endpoint import Visit, Who, endpoint
from apps.gateway.gate import Check
from apps.gateway.speech import JSON, NO_STORE

BUDGET_S = 1.0

log = structlog.get_logger()


class Health(msgspec.Struct, frozen=True):
    """What `/readyz` says. Never more than a word per check: it is open to anybody."""

    ready: bool
    checks: dict[str, str]  # name -> "ok", "away" or "slow"
    took_ms: int


@endpoint("GET", "/livez", who=Who.ANYBODY, answers=Health)
async def livez(visit: Visit) -> Health:
    """The event loop turns."""
    return Health(ready=True, checks={}, took_ms=0)


@endpoint("GET", "/startupz", who=Who.ANYBODY, answers=Health)
async def startupz(visit: Visit) -> Health:
    """Whoever gets this answer knows that the start is over."""
    return Health(ready=True, checks={}, took_ms=0)


@endpoint("GET", "/readyz", who=Who.ANYBODY, answers=Health)
async def readyz(visit: Visit) -> Response[bytes]:
    """Ask everything that the gateway leans on; 503 when it cannot serve."""
    health = await examine(visit.gate.checks)
    return Response(
        msgspec.json.encode(health),
        status_code=200 if health.ready else 503,
        media_type=JSON,
        headers=NO_STORE,
    )


async def examine(checks: Mapping[str, Check]) -> Health:
    """Run all checks at once, within one budget."""
    started = time.monotonic()
    words = await asyncio.gather(*(_word(name, check) for name, check in checks.items()))
    said = dict(zip(checks, words, strict=True))
    return Health(
        ready=all(said[name] == "ok" for name, check in checks.items() if check.needs),
        checks=said,
        took_ms=int((time.monotonic() - started) * 1000),
    )


async def _word(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(BUDGET_S):
            await check.ask()
    except TimeoutError:
        return "slow"
    except Exception as error:  # noqa: BLE001 - whatever it is, the thing is not usable
        log.warning("not ready", check=name, error=str(error))
        return "away"
    return "ok"
