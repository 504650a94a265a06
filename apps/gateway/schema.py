"""The OpenAPI document of all routes, made of the routes and their structs."""

import inspect
import re
from collections.abc import Iterable
from typing import Any, get_args

import msgspec
from litestar import Response
from litestar.handlers import HTTPRouteHandler, get

from apps.gateway.endpoint import Endpoint, Who
from apps.gateway.speech import JSON, MSGPACK, PROBLEM_JSON, PROBLEM_MSGPACK
from protocol.faults import MEANINGS, Problem
from protocol.messages.feed import DeviceFrame, ServerFrame

RAW = "application/octet-stream"
_PARAMETER = re.compile(r"\{(\w+):str\}")
_FAULTS = sorted({meaning.status for meaning in MEANINGS.values()})


def schema_handler(endpoints: Iterable[Endpoint], version: str) -> HTTPRouteHandler:
    """Return the handler of `/schema`; the document is made when first asked for."""
    kept: list[bytes] = []

    async def handle() -> Response[bytes]:
        if not kept:
            kept.append(msgspec.json.encode(document(endpoints, version)))
        headers = {"Cache-Control": "public, max-age=300"}
        return Response(kept[0], media_type="application/vnd.oai.openapi+json", headers=headers)

    return get(["/schema", "/schema/openapi.json"], name="GET /schema")(handle)


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    routes = sorted(endpoints, key=lambda route: (route.path, route.method))
    structs: list[Any] = [Problem, *get_args(DeviceFrame), *get_args(ServerFrame)]
    structs += [kind for r in routes for kind in (r.body, r.answers) if _is_struct(kind)]
    structs = list(dict.fromkeys(structs))
    schemas, components = msgspec.json.schema_components(
        structs, ref_template="#/components/schemas/{name}"
    )
    by_kind = dict(zip(map(id, structs), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, by_kind)
    paths["/ws/sync"] = {"get": _socket()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Syncline",
            "version": version,
            "description": "End-to-end encrypted file synchroniser. Bytes are base64 in JSON.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
            },
        },
    }


def _is_struct(kind: Any) -> bool:
    return kind is not None and kind is not bytes


def _content(kind: Any, by_kind: dict[int, Any]) -> dict[str, Any]:
    if kind is bytes:
        return {RAW: {"schema": {"type": "string", "format": "binary"}}}
    schema = {"schema": by_kind[id(kind)]}
    return {JSON: schema, MSGPACK: schema}


def _operation(route: Endpoint, by_kind: dict[int, Any]) -> dict[str, Any]:
    said = inspect.getdoc(route.work) or ""
    problem = {"schema": by_kind[id(Problem)]}
    answer: dict[str, Any] = {"description": "Done"}
    if route.answers is not None:
        answer["content"] = _content(route.answers, by_kind)
    responses = {str(route.status): answer}
    if route.answers is bytes:
        responses["206"] = {**answer, "description": "The range that was asked for"}
        responses["304"] = {"description": "Not modified"}
    responses["default"] = {
        "description": f"A problem document; status one of {', '.join(map(str, _FAULTS))}",
        "content": {PROBLEM_JSON: problem, PROBLEM_MSGPACK: problem},
    }
    operation: dict[str, Any] = {
        "operationId": route.work.__name__,
        "summary": said.partition("\n")[0],
        "description": said,
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": responses,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, by_kind)}
    if route.who is not Who.ANYBODY:
        operation["security"] = [{"bearer": []}]
    return operation


def _path_parameters(route: Endpoint) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {
                "type": "string",
                "pattern": f"^[0-9a-f]{{{64 if name == 'address' else 32}}}$",
            },
        }
        for name in _PARAMETER.findall(route.path)
    ]


def _query_parameters(route: Endpoint) -> list[dict[str, Any]]:
    numbers = {"limit", "after"} if route.path == "/sync/changes" else {"limit"}
    return [
        {
            "name": name,
            "in": "query",
            "required": name == "space" and route.path != "/conflicts",
            "description": text,
            "schema": {"type": "integer", "minimum": 0} if name in numbers else {"type": "string"},
        }
        for name, text in route.query.items()
    ]


def _socket() -> dict[str, Any]:
    return {
        "operationId": "ws_sync",
        "summary": "WebSocket: nudges to a device.",
        "description": "Upgrade with a bearer header, or with `?ticket=` of POST /ws/ticket. "
        "Frames are msgpack of the components Hello, Welcome, Advanced, …",
        "parameters": [{"name": "ticket", "in": "query", "schema": {"type": "string"}}],
        "responses": {"101": {"description": "Switching protocols"}},
        "security": [{"bearer": []}, {}],
    }
