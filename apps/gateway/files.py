"""Listings, and the one stream that is a whole file: length, manifest, blobs in order."""

from collections.abc import AsyncIterator, Sequence

from litestar.response import Stream

from actors.adapters.postgres.reads import Reads, Stored
from actors.ports import ChunkStore
from apps.gateway.chunks import streamed
from apps.gateway.endpoint import Visit, endpoint
from apps.gateway.ranges import span_of
from protocol import limits
from protocol.entry import ChunkRef
from protocol.faults import Code, refuse
from protocol.messages.device import SpaceList
from protocol.messages.listing import ConflictList, FileList

PAGES_AT_ONCE = 64  # lists of pages read in one query
STATES = ("open", "copied", "resolved")
PAGING = {"after": "the `next` of the page before", "limit": f"up to {limits.LIST_MAX}"}


@endpoint(
    "GET",
    "/files/",
    answers=FileList,
    query={"space": "the space", "parent": "one directory of it; none: all", **PAGING},
)
async def list_files(visit: Visit) -> FileList:
    """List live nodes by rising id."""
    space, parent = visit.id("space"), visit.maybe_id("parent")
    after = visit.maybe_id("after") or b""
    limit = visit.number("limit", limits.LIST_MAX, limits.LIST_MAX, least=1)
    await visit.gate.member(space, visit.caller)
    return await visit.gate.reads.files(space, parent, after, limit)


@endpoint("GET", "/spaces", answers=SpaceList)
async def list_spaces(visit: Visit) -> SpaceList:
    """List the account's spaces, its home first."""
    return await visit.gate.reads.spaces(visit.caller.account)


@endpoint(
    "GET",
    "/conflicts",
    answers=ConflictList,
    query={"space": "one space; none: all", "state": "|".join(STATES), **PAGING},
)
async def list_conflicts(visit: Visit) -> ConflictList:
    """List conflicts of the account's spaces by rising id; without a state, unresolved ones."""
    space, after = visit.maybe_id("space"), visit.maybe_id("after") or b""
    limit = visit.number("limit", limits.LIST_MAX, limits.LIST_MAX, least=1)
    state = visit.request.query_params.get("state")
    if state is not None and state not in STATES:
        raise refuse(Code.BAD_REQUEST, f"state must be one of {', '.join(STATES)}")
    if space is not None:
        await visit.gate.member(space, visit.caller)
    states = ["open", "copied"] if state is None else [state]
    return await visit.gate.reads.conflicts(visit.caller.account, space, states, after, limit)


@endpoint(
    "GET",
    "/files/{file_id:str}/download",
    answers=bytes,
    query={"space": "the file's space", "version": "which; none: the head of a live file"},
)
async def download(visit: Visit) -> Stream:
    """Stream a version: u32 length, sealed manifest, blobs in order. Ranges are honoured."""
    gate, file, space = visit.gate, visit.path_id("file_id"), visit.id("space")
    wanted = visit.maybe_id("version")
    await gate.member(space, visit.caller)
    version = await gate.reads.version(space, file, wanted)
    if version is None:
        raise refuse(Code.NOT_FOUND)
    whole = Whole(gate.reads, gate.chunks, space, version)
    span = span_of(visit.request.headers.get("range"), await whole.size_bytes())
    headers = {
        "ETag": f'"{version.version.hex()}"',
        "Cache-Control": "private, no-cache",
        "Accept-Ranges": "bytes",
    }
    return await streamed(visit.request, span, whole.pieces(span.start, span.stop), headers)


class Whole:
    """A version as one stream. A page is followed by the chunks that it lists.

    Keeps the sizes of pages only, so that a file of any size costs little memory.
    """

    def __init__(self, reads: Reads, chunks: ChunkStore, space: bytes, version: Stored) -> None:
        """Stream `version` out of `chunks`."""
        self._reads = reads
        self._chunks = chunks
        self._space = space
        self._refs = version.refs
        self._paged = version.paged
        self._head = len(version.manifest).to_bytes(4, "big") + version.manifest
        self._listed: dict[bytes, int] = {}  # page -> bytes of the chunks that it lists

    async def size_bytes(self) -> int:
        """Return the length of the stream. Call it before `pieces`."""
        if self._paged:
            for start in range(0, len(self._refs), PAGES_AT_ONCE):
                lists = await self._lists(self._refs[start : start + PAGES_AT_ONCE])
                for page, refs in lists.items():
                    self._listed[page] = sum(ref.size_bytes for ref in refs)
        return len(self._head) + sum(
            ref.size_bytes + self._listed.get(ref.address, 0) for ref in self._refs
        )

    async def pieces(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) of the stream."""
        if start < len(self._head):
            yield self._head[start:stop]
        offset = len(self._head)
        for ref in self._refs:
            if offset >= stop:
                return
            listed_bytes = self._listed.get(ref.address, 0)
            end = offset + ref.size_bytes + listed_bytes
            if end > start:
                refs: Sequence[ChunkRef] = (ref,)
                if self._paged:
                    refs = (ref, *(await self._lists(refs)).get(ref.address, ()))
                async for piece in self._run(refs, start - offset, stop - offset):
                    yield piece
            offset = end

    async def _run(self, refs: Sequence[ChunkRef], start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) of some blobs in a row."""
        offset = 0
        for ref in refs:
            first, last = max(0, start - offset), min(ref.size_bytes, stop - offset)
            if first < last:
                async for piece in self._chunks.stream(ref.address, first, last):
                    yield piece
            offset += ref.size_bytes

    async def _lists(self, pages: Sequence[ChunkRef]) -> dict[bytes, tuple[ChunkRef, ...]]:
        return await self._reads.pages(self._space, [page.address for page in pages])
