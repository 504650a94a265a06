"""Running Ingest: files are read, cut, sealed where unknown, and brought to the server.

Small files are read by the hundred in one thread hop and keep their sealed chunks for the commit.
Large ones are uploaded while they are read, a few packs in parallel, in bounded memory. Chunks
that the space holds already (the index by pid) are neither sealed nor sent.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import structlog

from client_agent.adapters.drafts import Draft, Drafts
from client_agent.adapters.reading import (
    NotNow,
    Reading,
    is_small,
    open_ready,
    read_link,
)
from client_agent.adapters.root import Folders, Root, RootFault
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.adapters.state import State
from client_agent.core import chunker
from client_agent.core.events import Ingest, Ingested, IngestItem, Read, Unread
from client_agent.core.trees import Stat
from client_agent.crypto.chunks import (
    COMPRESSION,
    ChunkEntry,
    SealedChunk,
    seal_chunk,
    sealed_bytes,
)
from client_agent.crypto.manifest import SealedPage, content_id, paginate
from client_agent.crypto.space_keys import SpaceKeys
from protocol.codec import sha256
from protocol.entry import ChunkRef, NodeType
from protocol.faults import MEANINGS, Code
from protocol.ids import new_id
from protocol.limits import INLINE_FILE_BYTES_MAX, MIB, PACK_BYTES_MAX, PACK_CHUNKS_MAX
from protocol.messages.sync import PackItem
from protocol.messages.upload import UploadRequest

THREADS: Final = 2
PACKS_AT_ONCE: Final = 3
LARGE_AT_ONCE: Final = 2
SMALL_FILES_MAX, SMALL_BYTES_MAX = 128, 4 * MIB  # in one thread hop
SESSION_FROM_BYTES: Final = 8 * MIB  # larger files open an upload session: quota is asked first
DENSE_PROBE: Final = 8  # of a file that does not compress only each eighth batch is tried again
FRAMING_BYTES: Final = 64  # of an item in a pack, without the refs of a page

_SESSION_ENDED = (Code.UPLOAD_EXPIRED, Code.NOT_FOUND, Code.OUT_OF_ORDER)

log = structlog.get_logger()

Done = tuple[Draft, Stat, bool]  # what was read, its stat, whether it is racy


class Ingester:
    """Reads for one linked folder. `run` may be called for several effects at once."""

    def __init__(
        self, root: Root, keys: SpaceKeys, state: State, server: Server, drafts: Drafts
    ) -> None:
        """Start the threads."""
        self._root, self._keys, self._state = root, keys, state
        self._server, self._drafts = server, drafts
        self._threads = ThreadPoolExecutor(THREADS, "ingest")
        self._packs = asyncio.Semaphore(PACKS_AT_ONCE)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        # By node: a repeat resumes its session, so that nothing is reserved twice.
        self._sessions: dict[bytes, bytes] = {}
        self._begun: set[bytes] = set()  # of these, the ones the server has heard of

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, effect: Ingest, emit: Callable[[Ingested], None]) -> None:
        """Read all items; emit results as they come, the last part marked."""
        small = [item for item in effect.items if is_small(item, INLINE_FILE_BYTES_MAX)]
        large = [item for item in effect.items if not is_small(item, INLINE_FILE_BYTES_MAX)]
        work = [self._small(batch) for batch in _batches(small)]
        work += [self._one_large(item) for item in large]
        left = len(work)
        for finished in asyncio.as_completed(work):
            results = await finished
            left -= 1
            emit(Ingested(tuple(results), last=left == 0))
        if not work:
            emit(Ingested((), last=True))

    # ------------------------------------------------------------ small files

    async def _small(self, items: Sequence[IngestItem]) -> list[Read | Unread]:
        loop = asyncio.get_running_loop()
        try:
            outcomes = await loop.run_in_executor(self._threads, self._read_small, items)
        except RootFault as fault:
            return [Unread(item.node, "unreadable", None, str(fault)) for item in items]
        except Exception as error:
            log.exception("reading failed", files=len(items))
            return [Unread(item.node, "error", None, repr(error)) for item in items]
        results: list[Read | Unread] = []
        for item, outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, NotNow):
                results.append(outcome.of(item))
            else:
                results.append(await self._kept(item, *outcome))
        return results

    def _read_small(self, items: Sequence[IngestItem]) -> list[Done | NotNow]:
        """Read, cut, look up and seal a batch; in a thread."""
        outcomes: list[Done | NotNow] = []
        cuts: list[list[memoryview]] = []
        with Folders(self._root) as folders:
            for item in items:
                try:
                    done, chunks = self._read_one(folders, item)
                except NotNow as reason:
                    outcomes.append(reason)
                    cuts.append([])
                else:
                    outcomes.append(done)
                    cuts.append(chunks)
        flat = [bytes(chunk) for chunks in cuts for chunk in chunks]
        sealed = iter(self._seal(flat))
        for outcome, chunks in zip(outcomes, cuts, strict=True):
            if not isinstance(outcome, NotNow):
                self._fill(outcome[0], [next(sealed) for _ in chunks])
        return outcomes

    def _read_one(
        self, folders: Folders, item: IngestItem
    ) -> tuple[Done, list[memoryview]]:
        if item.type is NodeType.SYMLINK:
            stat, target = read_link(folders, item)
            return (self._draft(item, stat, target), stat, False), []
        reading = open_ready(folders, item, self._keys)
        try:
            if reading.stat.size_bytes > 2 * INLINE_FILE_BYTES_MAX:
                raise NotNow("changed", "it grew", reading.stat)
            chunks = reading.whole()
        finally:
            reading.close()
        return (self._draft(item, reading.stat, None), reading.stat, reading.racy), chunks

    def _draft(self, item: IngestItem, stat: Stat, target: str | None) -> Draft:
        size = 0 if target is not None else stat.size_bytes
        executable = stat.executable and target is None
        return Draft(
            new_id(os.urandom), item.node, item.type, b"", size, stat.mtime_ns, executable,
            target, chunker.VERSION,
        )

    def _seal(
        self, plaintexts: Sequence[bytes], compression: int | None = COMPRESSION
    ) -> list[SealedChunk | ChunkEntry]:
        """Return each chunk sealed, or as the space holds it; in a thread."""
        pids = [self._keys.pid(plaintext) for plaintext in plaintexts]
        known = self._state.known_chunks(pids)
        return [
            known.get(pid) or seal_chunk(self._keys, plaintext, compression, pid)
            for plaintext, pid in zip(plaintexts, pids, strict=True)
        ]

    def _fill(self, draft: Draft, chunks: Sequence[SealedChunk | ChunkEntry]) -> None:
        entries = [c.entry if isinstance(c, SealedChunk) else c for c in chunks]
        draft.chunks = tuple(entries)
        draft.content_id = content_id(
            self._keys, draft.type, draft.executable, draft.target, draft.chunker,
            (entry.pid for entry in entries),
        )
        draft.blobs = tuple(PackItem(c.blob) for c in chunks if isinstance(c, SealedChunk))

    async def _kept(self, item: IngestItem, draft: Draft, stat: Stat, racy: bool) -> Read | Unread:
        """Keep a draft for its commit; what memory has no room for is uploaded now."""
        if draft.blobs and not self._drafts.has_room(draft.inline_bytes):
            try:
                await self._send(draft.blobs, await self._run(_refs, draft.blobs), None)
            except (Offline, ServerFault) as error:
                return _not_sent(item, error)
            draft.blobs = ()
        self._drafts.put(draft)
        return Read(
            item.node, stat, draft.content_id, draft.version, draft.size_bytes,
            draft.inline_bytes, racy,
        )

    # ------------------------------------------------------------ large files

    async def _one_large(self, item: IngestItem) -> list[Read | Unread]:
        async with self._large:
            try:
                return [await self._upload(item)]
            except NotNow as reason:
                return [reason.of(item)]
            except RootFault as fault:
                return [Unread(item.node, "unreadable", None, str(fault))]
            except (Offline, ServerFault) as error:
                if isinstance(error, ServerFault) and error.code in _SESSION_ENDED:
                    self._sessions.pop(item.node, None)
                return [_not_sent(item, error)]
            except Exception as error:
                log.exception("reading failed", size_bytes=item.stat.size_bytes)
                return [Unread(item.node, "error", None, repr(error))]

    async def _upload(self, item: IngestItem) -> Read:
        reading = await self._run(self._open, item)
        session = None
        if reading.stat.size_bytes > SESSION_FROM_BYTES:
            session = self._sessions.setdefault(item.node, new_id(os.urandom))
        parts: list[asyncio.Task[list[ChunkEntry]]] = []
        try:
            batches = reading.batches()
            while (batch := await self._run(next, batches, None)) is not None:
                await self._packs.acquire()  # so memory holds a few batches, however many files
                probe = not reading.dense or len(parts) % DENSE_PROBE == 0
                part = asyncio.create_task(self._part(reading, batch, session, probe))
                part.add_done_callback(lambda _: self._packs.release())
                parts.append(part)
                for earlier in parts:
                    if earlier.done():
                        earlier.result()  # a part that failed ends the file here
            await self._run(reading.check)
            entries = [entry for part in parts for entry in await part]
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            reading.close()
        draft = self._draft(item, reading.stat, None)
        draft.chunks = tuple(entries)
        if sum(entry.length for entry in entries) != reading.stat.size_bytes:
            raise NotNow("changed", "it has another size than its stat says", reading.stat)
        pages = await self._run(self._finish, draft)
        await self._send(
            [PackItem(page.blob, page.refs) for page in pages],
            [page.entry.ref for page in pages], session,
        )
        if session is not None and session in self._begun:
            draft.upload = session  # the commit that names it closes it
            self._begun.discard(session)
        self._drafts.put(draft)
        self._sessions.pop(item.node, None)
        return Read(
            item.node, reading.stat, draft.content_id, draft.version, draft.size_bytes, 0,
            reading.racy,
        )

    def _open(self, item: IngestItem) -> Reading:
        with Folders(self._root) as folders:
            return open_ready(folders, item, self._keys)

    def _finish(self, draft: Draft) -> list[SealedPage]:
        """Make content id and pages of a whole chunk list; in a thread."""
        pages = paginate(self._keys, draft.chunks)
        draft.pages = tuple(page.entry for page in pages)
        draft.content_id = content_id(
            self._keys, draft.type, draft.executable, None, draft.chunker,
            (entry.pid for entry in draft.chunks),
        )
        return pages

    async def _part(
        self, reading: Reading, plaintexts: list[bytes], session: bytes | None, probe: bool
    ) -> list[ChunkEntry]:
        chunks = await self._run(self._seal, plaintexts, COMPRESSION if probe else None)
        fresh = [c for c in chunks if isinstance(c, SealedChunk)]
        if probe and fresh:
            reading.dense = all(
                c.entry.sealed_bytes == sealed_bytes(c.entry.length) for c in fresh
            )
        await self._send([PackItem(c.blob) for c in fresh], [c.entry.ref for c in fresh], session)
        return [c.entry if isinstance(c, SealedChunk) else c for c in chunks]

    async def _send(
        self, items: Sequence[PackItem], refs: Sequence[ChunkRef], session: bytes | None
    ) -> None:
        """Bring chunks or pages to the server that it lacks; a repeat sends only what is left."""
        if not items:
            return
        space, addresses = self._keys.space, [ref.address for ref in refs]
        if session is None:
            lacking = frozenset(await self._server.missing(space, addresses))
        else:
            request = UploadRequest(space=space, upload=session, refs=tuple(refs))
            self._begun.add(session)
            lacking = frozenset((await self._server.begin_upload(request)).missing)
        wanted = [item for item, at in zip(items, addresses, strict=True) if at in lacking]
        for pack in packs(wanted):
            await self._server.put_pack(space, pack, session)

    async def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


def packs(items: Sequence[PackItem]) -> Iterator[list[PackItem]]:
    """Cut a list of items into packs that one request may carry."""
    pack: list[PackItem] = []
    size = FRAMING_BYTES
    for item in items:
        more = len(item.blob) + FRAMING_BYTES + 48 * len(item.refs)
        if pack and (size + more > PACK_BYTES_MAX or len(pack) == PACK_CHUNKS_MAX):
            yield pack
            pack, size = [], FRAMING_BYTES
        pack.append(item)
        size += more
    if pack:
        yield pack


def _refs(items: Sequence[PackItem]) -> list[ChunkRef]:
    return [ChunkRef(sha256(item.blob), len(item.blob)) for item in items]


def _batches(items: Sequence[IngestItem]) -> Iterator[list[IngestItem]]:
    batch: list[IngestItem] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.stat.size_bytes
        if len(batch) >= SMALL_FILES_MAX or size >= SMALL_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _not_sent(item: IngestItem, error: Offline | ServerFault) -> Unread:
    if isinstance(error, Offline):
        return Unread(item.node, "offline", None, str(error))
    if error.code in (Code.QUOTA_EXCEEDED, Code.STORAGE_FULL):
        return Unread(item.node, "quota", None, error.fault.code)
    retry = MEANINGS[error.code].retryable or error.session_over
    return Unread(item.node, "offline" if retry else "error", None, str(error))
