"""What the server tells its operator: log lines and figures, without names, paths or secrets.

Logs go to stderr as JSON lines (or text for people). Every line of a request carries its trace id;
ids of accounts, spaces and devices are allowed, sealed bytes and URLs with queries are not.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog

TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
_SECRET_KEYS = frozenset(["password", "secret", "token", "authorization", "ticket", "url"])
_HEX = frozenset("0123456789abcdef")


def configure(level: str, form: str) -> None:
    """Send all logs of this process, ours and the libraries', to stderr in one form."""
    shared: list[Any] = [
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _scrub,
    ]
    render: Any = structlog.processors.JSONRenderer()
    if form == "text":
        # plain: the pretty traceback shows local variables, and those hold secrets
        plain = structlog.dev.plain_traceback
        render = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=plain
        )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([structlog.processors.format_exc_info] if form == "json" else []),
            render,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiormq", "aio_pika", "asyncio", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        cache_logger_on_first_use=False,
    )


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if trace := TRACE_ID.get():
        event["trace_id"] = trace
    return event


def _scrub(_: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Hide what must not be logged, whoever logs it; raw ids become hex."""
    for key, value in event.items():
        if key in _SECRET_KEYS:
            event[key] = "***"
        elif isinstance(value, bytes):
            event[key] = value.hex() if len(value) <= 32 else f"<{len(value)} bytes>"
    return event


def trace_of(traceparent: str) -> str:
    """Return the trace id of a W3C traceparent, or a new one: 32 hex digits."""
    parts = traceparent.split("-")
    if len(parts) >= 4 and len(parts[1]) == 32 and set(parts[1]) <= _HEX and set(parts[1]) != {"0"}:
        return parts[1]
    return os.urandom(16).hex()


def traceparent() -> str:
    """Return the header value that carries the present trace to the next room, or ""."""
    trace = TRACE_ID.get()
    return f"00-{trace}-{os.urandom(8).hex()}-01" if trace else ""


class Figures:
    """Counters of this process for Prometheus. Labels hold routes and codes, never an id."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "syncline_http_requests", "Answers", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "syncline_http_seconds", "Time to the end", ["route"], registry=self.registry
        )
        self.sockets = Gauge("syncline_sockets", "Open WebSockets", registry=self.registry)

    def answered(self, route: str, status: int, started: float) -> None:
        """Count one answer; `started` is of `time.perf_counter`."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(time.perf_counter() - started)

    def listen(self, host: str, port: int) -> Any:
        """Serve the figures on a port of their own; returns the server, to be shut down."""
        from prometheus_client import start_http_server

        server, _ = start_http_server(port, host, self.registry)
        return server
