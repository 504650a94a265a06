"""The gateway: HTTP and WebSocket to devices, and nothing that an actor should decide.

Bodies and answers are structs of `protocol`, as `application/msgpack` (agents) or JSON (people;
bytes as base64), by Content-Type and Accept. Errors are problem documents (`faults.Problem`) in
the same two forms. Ids in URLs are 32, chunk addresses 64 lower-case hex digits. "Bearer" is an
access token in `Authorization: Bearer`; a device that is not certified yet gets only the routes
marked (u). What is not yours is 404, like what does not exist.

    route                                           body -> answer
    POST   /auth/prelogin                           Prelogin -> Kdf
    POST   /auth/register                           Register -> Session
    POST   /auth/login                              Login -> LoggedIn
    POST   /auth/refresh                            Refresh -> Session
    POST   /auth/logout              bearer (u)     -> 204
    GET    /auth/keyring             bearer (u)     -> Keyring
    PUT    /auth/keyring             bearer         Keyring (rev = read + 1) -> Keyring; 409 stale
    GET    /auth/devices             bearer (u)     -> DeviceList
    PUT    /auth/devices/{id}        bearer (u:own) CertifyDevice -> DeviceList; 409 stale
    DELETE /auth/devices/{id}        bearer         -> 204, its sessions end
    GET    /spaces                   bearer         -> SpaceList
    GET    /conflicts                bearer         ?space=&state=&after=&limit= -> ConflictList
    PUT    /chunks/{H}               bearer         ?space=&upload=  raw bytes, streamed -> 204
    GET    /chunks/{H}               bearer         ?space=  -> raw bytes (Range, ETag)
    POST   /chunks                   bearer         ?space=&upload=  list[PackItem] -> PackStored
    POST   /chunks/missing           bearer         ?space=&upload=  AskMissing -> MissingChunks
    POST   /chunks/fetch             bearer         ?space=  FetchChunks -> FetchedChunks
    POST   /files/upload             bearer         UploadRequest -> UploadOpen
    GET    /files/upload/{id}        bearer         -> UploadOpen
    DELETE /files/upload/{id}        bearer         -> UploadClosed
    POST   /sync/commit              bearer         CommitRequest -> Committed
    GET    /sync/changes             bearer         ?space=&history=&after=&limit= -> ChangesPage
    POST   /sync/heartbeat           bearer         Heartbeat -> Heartbeaten
    GET    /files/                   bearer         ?space=&parent=&after=&limit= -> FileList
    GET    /files/{id}/download      bearer         ?space=&version= -> u32 length (big-endian),
                                                    sealed manifest, then the version's blobs in
                                                    order, a page followed by its chunks (Range)
    POST   /ws/ticket                bearer         -> Ticket
    WS     /ws/sync                  ?ticket= or bearer header; frames of messages/feed.py
    GET    /livez /readyz /startupz                 -> JSON
    GET    /schema                                  -> OpenAPI 3.1 of all this
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException

from actors.ports import ChunkMismatch, DeadLettered, Overtaken, StoreFull, Unreachable
from apps.gateway import auth, chunks, devices, feed, files, health, schema, speech, sync, uploads
from apps.gateway.edge import Edge
from apps.gateway.endpoint import Endpoint
from apps.gateway.gate import Gate
from apps.gateway.hub import Hub
from apps.telemetry import TRACE_ID
from protocol.faults import Code, Fault, Refusal

MODULES: tuple[ModuleType, ...] = (auth, devices, chunks, uploads, sync, files, feed, health)
VERSION = "0.1.0"
RETRY_MS = 2_000

log = structlog.get_logger()


def endpoints(modules: Sequence[ModuleType] = MODULES) -> list[Endpoint]:
    """Return all routes of the gateway, as their modules define them."""
    return [
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, Endpoint)
    ]


def make_app(gate: Gate, hub: Hub) -> Edge:
    """Return the gateway as an ASGI application."""
    routes = endpoints()
    app = Litestar(
        [
            *(route.handler(gate) for route in routes),
            feed.socket_handler(gate, hub),
            schema.schema_handler(routes, VERSION),
        ],
        exception_handlers={Exception: _answer_no, HTTPException: _answer_no},
        openapi_config=None,
        logging_config=None,
        on_startup=[gate.passwords.warm],
    )
    tls = bool(gate.settings.tls_cert) or gate.settings.public_url.startswith("https:")
    return Edge(app, gate.figures, tls)


def _answer_no(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return speech.problem(request, fault_of(error), TRACE_ID.get())


# What an exception of a port means to a device, and when to come back.
_PORTS: dict[type[Exception], tuple[Code, int | None]] = {
    StoreFull: (Code.STORAGE_FULL, 60_000),
    ChunkMismatch: (Code.CHUNK_MISMATCH, None),
    Unreachable: (Code.UNAVAILABLE, RETRY_MS),
    Overtaken: (Code.BUSY, RETRY_MS),
    TimeoutError: (Code.BUSY, RETRY_MS),
    DeadLettered: (Code.INTERNAL, None),
}
_STATUSES = {
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    406: Code.NOT_ACCEPTABLE,
    413: Code.TOO_LARGE,
}


def fault_of(error: Exception) -> Fault:
    """Return what to say about an exception; of the unexpected, nothing but that it happened."""
    if isinstance(error, Refusal):
        return error.fault
    for kind, (code, retry_after_ms) in _PORTS.items():
        if isinstance(error, kind):
            log.warning("refused", code=code, error=str(error))
            return Fault(code=code, retry_after_ms=retry_after_ms)
    if isinstance(error, HTTPException):
        if error.status_code in _STATUSES:
            return Fault(code=_STATUSES[error.status_code])
        if error.status_code < 500 or "disconnected" in error.detail:
            return Fault(code=Code.BAD_REQUEST, about=error.detail)
    log.error("request failed", exc_info=error)
    return Fault(code=Code.INTERNAL)
