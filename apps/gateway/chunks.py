"""Chunks: in and out as sealed bytes, present only in the space that holds them."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import cast

import structlog
from litestar import Response
from litestar.response import Stream

from actors.records import Chunk
from apps.gateway.endpoint import Visit, endpoint
from apps.gateway.ranges import Span, span_of
from apps.gateway.speech import AnyRequest
from protocol import limits
from protocol.faults import Code, refuse
from protocol.messages import Role
from protocol.messages.chunks import (
    AskMissing,
    FetchChunks,
    FetchedChunks,
    MissingChunks,
    Pack,
    PackStored,
)
from protocol.messages.sync import PackItem

FRAMING_BYTES_MAX = 256 * limits.KIB  # of a full pack: its items' headers and lists
NOTHING = sha256(b"").digest()
SPACE = {"space": "the space that holds, or is to hold, the chunks"}
UPLOAD = {**SPACE, "upload": "the upload session they belong to"}

log = structlog.get_logger()


@endpoint(
    "PUT",
    "/chunks/{address:str}",
    body=bytes,
    body_bytes_max=limits.CHUNK_BYTES_MAX,
    query=UPLOAD,
)
async def put_chunk(visit: Visit) -> None:
    """Store one chunk while it streams in, and lease it for 24 h. Safe to repeat."""
    address, space, upload = (
        visit.path_id("address", 32),
        visit.id("space"),
        visit.maybe_id("upload"),
    )
    await visit.gate.member(space, visit.caller, Role.EDITOR)
    if address == NOTHING:
        raise refuse(Code.BAD_REQUEST, "a chunk has at least one byte")
    size_bytes = await visit.gate.chunks.put(address, visit.request.stream())
    await lease(visit, space, upload, [Chunk(address, size_bytes)])


@endpoint(
    "POST",
    "/chunks",
    body=Pack,
    answers=PackStored,
    body_bytes_max=limits.PACK_BYTES_MAX + FRAMING_BYTES_MAX,
    query=UPLOAD,
)
async def put_pack(visit: Visit, pack: Sequence[PackItem]) -> PackStored:
    """Store many small chunks and pages under one sync, and lease them. Safe to repeat."""
    space, upload = visit.id("space"), visit.maybe_id("upload")
    await visit.gate.member(space, visit.caller, Role.EDITOR)
    stored = await store_items(visit, space, pack)
    await lease(visit, space, upload, stored)
    return PackStored(addresses=tuple(chunk.address for chunk in stored))


@endpoint(
    "POST",
    "/chunks/missing",
    body=AskMissing,
    answers=MissingChunks,
    body_bytes_max=512 * limits.KIB,
    query=UPLOAD,
)
async def ask_missing(visit: Visit, asked: AskMissing) -> MissingChunks:
    """Say which chunks the space lacks; those that it has are leased for 24 h."""
    gate, space, upload = visit.gate, visit.id("space"), visit.maybe_id("upload")
    await gate.member(space, visit.caller, Role.EDITOR)
    now_ms = gate.now_ms()
    have = await gate.leases.extend(
        space,
        (visit.caller.device, upload),
        asked.addresses,
        now_ms,
        now_ms + limits.LEASE_S * 1000,
    )
    missing = dict.fromkeys(a for a in asked.addresses if a not in have)
    return MissingChunks(missing=tuple(missing))


@endpoint("GET", "/chunks/{address:str}", answers=bytes, query=SPACE)
async def get_chunk(visit: Visit) -> Response[bytes] | Stream:
    """Return a chunk that the space holds. Immutable; ranges and ETags are honoured."""
    address, space = visit.path_id("address", 32), visit.id("space")
    await visit.gate.member(space, visit.caller)
    held = await visit.gate.leases.held(space, [address], visit.gate.now_ms())
    if address not in held:
        raise refuse(Code.NOT_FOUND)
    headers = {
        "ETag": f'"{address.hex()}"',
        "Cache-Control": "private, max-age=31536000, immutable",
        "Accept-Ranges": "bytes",
    }
    if headers["ETag"] in visit.request.headers.get("if-none-match", ""):
        return Response(b"", status_code=304, headers=headers)
    span = span_of(visit.request.headers.get("range"), held[address])
    pieces = visit.gate.chunks.stream(address, span.start, span.stop)
    return await streamed(visit.request, span, pieces, headers)


@endpoint(
    "POST",
    "/chunks/fetch",
    body=FetchChunks,
    answers=FetchedChunks,
    body_bytes_max=limits.JSON_BODY_BYTES_MAX,
    query=SPACE,
)
async def fetch(visit: Visit, asked: FetchChunks) -> FetchedChunks:
    """Return many chunks in one answer, up to 8 MiB; ask again for what was left off."""
    space = visit.id("space")
    await visit.gate.member(space, visit.caller)
    held = await visit.gate.leases.held(space, asked.addresses, visit.gate.now_ms())
    wanted: list[bytes] = []
    room_bytes = limits.PACK_BYTES_MAX
    for address in asked.addresses:
        room_bytes -= held.get(address, 0)
        if room_bytes < 0 and wanted:
            break
        wanted.append(address)
    known = [address for address in wanted if address in held]
    blobs = dict(zip(known, await visit.gate.chunks.get_many(known), strict=True))
    lost = [address for address, blob in blobs.items() if blob is None]
    if lost:
        log.error("chunks are not on the disk", count=len(lost), first=lost[0])
    return FetchedChunks(blobs=tuple(blobs.get(address) for address in wanted))


async def store_items(visit: Visit, space: bytes, items: Sequence[PackItem]) -> list[Chunk]:
    """Make items durable; return them with their addresses, in order.

    Pages may name only what the space holds, or what comes with them.
    Raises Refusal: TOO_LARGE, CHUNKS_MISSING, BAD_REQUEST; then nothing is leased.
    """
    if sum(len(item.blob) for item in items) > limits.PACK_BYTES_MAX:
        raise refuse(Code.TOO_LARGE, f"chunks of one request end at {limits.PACK_BYTES_MAX} bytes")
    stored = await visit.gate.chunks.put_many([item.blob for item in items])
    chunks = [
        Chunk(chunk.address, chunk.size_bytes, item.refs)
        for chunk, item in zip(stored, items, strict=True)
    ]
    named = {ref.address: ref.size_bytes for item in items for ref in item.refs}
    if named:
        sizes = {chunk.address: chunk.size_bytes for chunk in chunks}
        elsewhere = [address for address in named if address not in sizes]
        if elsewhere:
            sizes |= await visit.gate.leases.held(space, elsewhere, visit.gate.now_ms())
        if any(address not in sizes for address in named):
            raise refuse(Code.CHUNKS_MISSING, "a page names chunks that the space does not hold")
        if any(sizes[ref.address] != ref.size_bytes for item in items for ref in item.refs):
            raise refuse(Code.BAD_REQUEST, "a page names chunks with a wrong size")
    return chunks


async def lease(visit: Visit, space: bytes, upload: bytes | None, chunks: Sequence[Chunk]) -> None:
    """Lease durable chunks for 24 h, in a transaction of its own."""
    now_ms = visit.gate.now_ms()
    by = (visit.caller.device, upload)
    await visit.gate.leases.take(space, by, chunks, now_ms, now_ms + limits.LEASE_S * 1000)


async def streamed(
    request: AnyRequest, span: Span, source: AsyncIterator[bytes], headers: dict[str, str]
) -> Stream:
    """Answer with the bytes of a span. The first piece is read before the answer begins, so that a
    lost chunk is still an honest fault.
    """
    pieces = cast(AsyncGenerator[bytes, None], source)
    try:
        first = await anext(pieces, b"")
    except (FileNotFoundError, KeyError):
        log.error("a chunk is not on the disk", route=request.scope.get("path_template"))
        raise refuse(Code.NOT_FOUND, "the server has lost this chunk") from None

    async def all_pieces() -> AsyncIterator[bytes]:
        async with aclosing(pieces):  # whoever hangs up leaves no open file
            yield first
            async for piece in pieces:
                yield piece

    return Stream(
        all_pieces(),
        status_code=206 if span.partial else 200,
        media_type="application/octet-stream",
        headers={**headers, **span.headers},
    )
