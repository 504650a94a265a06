"""How the gateway speaks: msgpack or JSON of the same structs, and faults as problem documents."""

from functools import lru_cache
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.datastructures.headers import Accept

from protocol.codec import Reader
from protocol.faults import MEANINGS, Code, Fault, Problem, Refusal, refuse
from protocol.messages import Message

MSGPACK, JSON = "application/msgpack", "application/json"
PROBLEM_JSON, PROBLEM_MSGPACK = "application/problem+json", "application/problem+msgpack"
PACKED_TYPES = (MSGPACK, "application/vnd.msgpack", "application/x-msgpack", PROBLEM_MSGPACK)
SPOKEN_TYPES = [JSON, PROBLEM_JSON, *PACKED_TYPES]
NO_STORE = {"Cache-Control": "no-store"}

AnyRequest = Request[Any, Any, Any]


def content_type(request: AnyRequest) -> str:
    """Return the media type of the body, without its options."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def wants_packed(request: AnyRequest) -> bool | None:
    """Say whether the answer should be msgpack; None: the request accepts nothing we speak."""
    accept = request.headers.get("accept", "").strip()
    if not accept:
        return content_type(request) in PACKED_TYPES
    if accept == MSGPACK:
        return True
    best = Accept(accept).best_match(SPOKEN_TYPES)
    if best == JSON and "*/*" in accept and content_type(request) in PACKED_TYPES:
        return True  # a client that names no preference is answered as it asked
    return None if best is None else best in PACKED_TYPES


@lru_cache(maxsize=64)
def _reader(union: Any, json: bool) -> Reader[Any]:
    return Reader(union, json)


def read(request: AnyRequest, raw: bytes, union: Any, json_bytes_max: int) -> Any:
    """Decode a body as a struct of `union`. Raises Refusal: BAD_REQUEST, TOO_LARGE."""
    spoken = content_type(request)
    if spoken not in PACKED_TYPES and spoken != JSON:
        raise refuse(Code.BAD_REQUEST, f"Content-Type must be {JSON} or {MSGPACK}")
    if spoken == JSON and len(raw) > json_bytes_max:
        raise refuse(Code.TOO_LARGE, f"JSON bodies end at {json_bytes_max} bytes")
    try:
        return _reader(union, spoken == JSON).decode(raw)
    except msgspec.DecodeError as error:
        raise refuse(Code.BAD_REQUEST, f"body: {error}") from None


def answer(request: AnyRequest, message: msgspec.Struct, status: int = 200) -> Response[bytes]:
    """Encode an answer as the request wants it."""
    packed = wants_packed(request)
    if packed is None:
        raise refuse(Code.NOT_ACCEPTABLE)
    raw = msgspec.msgpack.encode(message) if packed else msgspec.json.encode(message)
    return Response(
        raw, status_code=status, media_type=MSGPACK if packed else JSON, headers=NO_STORE
    )


def problem_of(fault: Fault, trace_id: str) -> Problem:
    """Return the problem document of a fault."""
    meaning = MEANINGS[fault.known]
    return Problem(
        type=f"urn:syncline:fault:{fault.code}",
        title=meaning.title,
        status=meaning.status,
        detail=f"{fault.about}. {meaning.hint}" if fault.about else meaning.hint,
        code=fault.code,
        retryable=meaning.retryable,
        retry_after_ms=fault.retry_after_ms,
        trace_id=trace_id,
        facts=fault.facts,
    )


def problem_bytes(problem: Problem, packed: bool) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a problem's answer."""
    raw = msgspec.msgpack.encode(problem) if packed else msgspec.json.encode(problem)
    headers = {**NO_STORE, "Content-Type": PROBLEM_MSGPACK if packed else PROBLEM_JSON}
    if problem.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, -(-problem.retry_after_ms // 1000)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = f'Bearer error="{problem.code}"'
    return raw, headers


def problem(request: AnyRequest, fault: Fault, trace_id: str) -> Response[bytes]:
    """Render a fault. Never raises: what accepts nothing we speak gets JSON."""
    document = problem_of(fault, trace_id)
    raw, headers = problem_bytes(document, wants_packed(request) is True)
    media_type = headers.pop("Content-Type")
    return Response(raw, status_code=document.status, media_type=media_type, headers=headers)


def unwrap(answered: Message) -> Message:
    """Raise a Fault that an actor answered; return anything else."""
    if isinstance(answered, Fault):
        raise Refusal(answered)
    return answered
