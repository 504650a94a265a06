"""A route: what it takes, who may call it, what it answers; from that, handler and documentation.

@endpoint("PUT", "/auth/keyring", body=Keyring, answers=Keyring)
async def put_keyring(visit: Visit, keyring: Keyring) -> Keyring: ...
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.handlers import HTTPRouteHandler

from apps.gateway import speech
from apps.gateway.gate import Caller, Gate
from protocol import limits
from protocol.faults import Code, refuse
from protocol.ids import ID_BYTES, parse_hex

Work = Callable[..., Awaitable[Any]]


class Who(Enum):
    """Who may call."""

    ANYBODY = "anybody"
    SIGNED_IN = "signed in"  # also a device that is not certified yet
    CERTIFIED = "certified"


@dataclass(slots=True)
class Visit:
    """One request, as its route sees it."""

    gate: Gate
    request: speech.AnyRequest
    _caller: Caller | None = None

    @property
    def caller(self) -> Caller:
        """Who calls. Only for routes that ask for it."""
        assert self._caller is not None
        return self._caller

    def path_id(self, name: str, size_bytes: int = ID_BYTES) -> bytes:
        """Return an id of the path; what is none cannot be found."""
        found = parse_hex(self.request.path_params[name], size_bytes)
        if found is None:
            raise refuse(Code.NOT_FOUND)
        return found

    def maybe_id(self, name: str) -> bytes | None:
        """Return an id of the query, None if it is not given."""
        text = self.request.query_params.get(name)
        if text is None:
            return None
        found = parse_hex(text)
        if found is None:
            raise refuse(Code.BAD_REQUEST, f"{name} must be 32 lower-case hex digits")
        return found

    def id(self, name: str) -> bytes:
        """Return an id that the query must have."""
        found = self.maybe_id(name)
        if found is None:
            raise refuse(Code.BAD_REQUEST, f"{name} is missing in the query")
        return found

    def number(self, name: str, default: int, most: int, least: int = 0) -> int:
        """Return a decimal number of the query, within its bounds."""
        text = self.request.query_params.get(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit()) or len(text) > 16:
            raise refuse(Code.BAD_REQUEST, f"{name} must be a decimal number")
        if not least <= int(text) <= most:
            raise refuse(Code.BAD_REQUEST, f"{name} must be within {least} and {most}")
        return int(text)

    @property
    def peer(self) -> str:
        """The address of the other side, for counting only."""
        client = self.request.client
        return client.host if client else ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A route and all that is to be known of it."""

    method: str
    path: str
    work: Work
    who: Who
    body: Any = None  # a struct type; bytes: raw, read by the route itself; None: no body
    answers: Any = None  # a struct type; bytes: raw; None: 204
    status: int = 200
    body_bytes_max: int = limits.JSON_BODY_BYTES_MAX
    query: dict[str, str] = field(default_factory=dict)  # name -> description

    def handler(self, gate: Gate) -> HTTPRouteHandler:
        """Return the Litestar handler that serves it."""

        async def handle(request: Request[Any, Any, Any]) -> Response[Any]:
            return await self._serve(gate, request)

        return HTTPRouteHandler(
            self.path,
            http_method=self.method,  # type: ignore[arg-type]
            status_code=200,  # nominal: every answer names its own
            name=f"{self.method} {self.path}",
            request_max_body_size=self.body_bytes_max,
        )(handle)

    async def _serve(self, gate: Gate, request: speech.AnyRequest) -> Response[Any]:
        visit = Visit(gate, request)
        if self.who is not Who.ANYBODY:
            visit._caller = await admitted(gate, request)
            if self.who is Who.CERTIFIED and not visit.caller.certified:
                raise refuse(Code.FORBIDDEN, "this device is not certified yet")
        if self.body is None or self.body is bytes:
            said = await self.work(visit)
        else:
            raw = await request.body()
            asked = speech.read(request, raw, self.body, limits.JSON_BODY_BYTES_MAX)
            said = await self.work(visit, asked)
        if isinstance(said, Response):
            return said
        if said is None:
            return Response(b"", status_code=204, headers=speech.NO_STORE)
        assert isinstance(said, msgspec.Struct)
        return speech.answer(request, said, self.status)


async def admitted(gate: Gate, request: Any) -> Caller:
    """Return who calls, by the bearer token. Raises Refusal."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise refuse(Code.UNAUTHENTICATED)
    return await gate.door.admit(gate.tokens.read(token.strip()))


def endpoint(
    method: str,
    path: str,
    *,
    who: Who = Who.CERTIFIED,
    body: Any = None,
    answers: Any = None,
    body_bytes_max: int = limits.JSON_BODY_BYTES_MAX,
    query: dict[str, str] | None = None,
) -> Callable[[Work], Endpoint]:
    """Make a route of an async function of a Visit, and of the decoded body if there is one."""

    def made(work: Work) -> Endpoint:
        return Endpoint(
            method,
            path,
            work,
            who,
            body,
            answers,
            200 if answers is not None else 204,
            body_bytes_max,
            query or {},
        )

    return made
