"""The outermost layer: trace id, security headers and a last resort, on every answer there is."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from typing import Any

import structlog
from litestar import Litestar

from apps.gateway.speech import problem_bytes, problem_of
from apps.telemetry import TRACE_ID, Figures, trace_of
from protocol.faults import Code, Fault

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

log = structlog.get_logger()

# Nothing here is a page: no script, frame, image or connection is ever needed.
SECURITY_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


class Edge:
    """The whole gateway as one ASGI application."""

    def __init__(self, app: Litestar, figures: Figures | None, hsts: bool) -> None:
        """Wrap the application; `hsts` when devices reach us by TLS."""
        self._app: Any = app
        self._figures = figures
        self._headers = (*SECURITY_HEADERS, *((HSTS,) if hsts else ()))
        self._date = (0, b"")

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        """Start and stop without a server around, as tests do."""
        lifespan: AbstractAsyncContextManager[None] = self._app.lifespan()
        return lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        trace = trace_of(headers.get(b"traceparent", b"").decode("latin-1"))
        token = TRACE_ID.set(trace)
        started, status = time.perf_counter(), 0

        async def dressed(event: Any) -> None:
            nonlocal status
            if event["type"] in ("http.response.start", "websocket.http.response.start"):
                status = event["status"]
                event["headers"] = [
                    *event.get("headers", ()),
                    *self._headers,
                    (b"date", self._now()),
                    (b"x-trace-id", trace.encode()),
                ]
            await send(event)

        try:
            await self._app(scope, receive, dressed)
        except Exception:
            log.exception("request failed", route=_route(scope))
            if status or scope["type"] != "http":
                raise  # the answer has begun: only a broken connection tells the truth now
            await _last_resort(dressed, trace)
        finally:
            if self._figures is not None and scope["type"] == "http":
                self._figures.answered(_route(scope), status, started)
            log.debug("answered", route=_route(scope), status=status)
            TRACE_ID.reset(token)

    def _now(self) -> bytes:
        """The Date header; our server has no clock that ticks for it."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode())
        return self._date[1]


def _route(scope: Scope) -> str:
    return f"{scope.get('method', 'WS')} {scope.get('path_template') or 'unrouted'}"


async def _last_resort(send: Send, trace: str) -> None:
    raw, headers = problem_bytes(problem_of(Fault(code=Code.INTERNAL), trace), packed=False)
    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 500, "headers": encoded})
    await send({"type": "http.response.body", "body": raw})
