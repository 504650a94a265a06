"""Bringing contents into `.syncline/tmp`: fetched by the pack, opened and verified in threads.

Chunks that the file in place already holds are taken from there: an edit of a large file fetches
what changed.
"""

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

from client_agent.adapters.placing import TMP, NotDone, Staged
from client_agent.adapters.reading import OPEN
from client_agent.adapters.root import Folders, Root
from client_agent.adapters.server import Server
from client_agent.adapters.state import Known, State
from client_agent.core.events import PutFile
from client_agent.crypto.chunks import ChunkEntry, open_chunk
from client_agent.crypto.manifest import PageEntry, manifest_content_id, open_page
from client_agent.crypto.seal import SealBroken
from client_agent.crypto.space_keys import EpochMissing, SpaceKeys
from protocol.limits import MIB, PACK_CHUNKS_MAX

FETCH_BYTES: Final = 7 * MIB  # of sealed chunks asked for at once
FETCHES_AT_ONCE: Final = 3
REUSE_FROM_BYTES: Final = 1 * MIB  # below, asking costs more than fetching
WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Piece = tuple[int, ChunkEntry]  # offset in the file


@dataclass(slots=True)
class File:
    """One file on its way: what it consists of, and where it is staged."""

    step: PutFile
    known: Known
    entries: Sequence[ChunkEntry]
    name: str = field(default_factory=lambda: secrets.token_hex(16))


class Fetcher:
    """Stages contents for one linked folder."""

    def __init__(
        self, root: Root, keys: SpaceKeys, state: State, server: Server, threads: Executor,
        umask: int,
    ) -> None:
        """Use the threads of the one who asks."""
        self._root, self._keys, self._state, self._server = root, keys, state, server
        self._threads, self._umask = threads, umask
        self._fetches = asyncio.Semaphore(FETCHES_AT_ONCE)

    # ------------------------------------------------------------ many small files

    async def stage_small(self, steps: Sequence[PutFile]) -> list[Staged | NotDone]:
        """Stage files whose contents together fit in memory. Raises Offline, ServerFault."""
        contents = await self._run(self._contents, steps)
        files = [
            await self._file(step, known) for step, known in zip(steps, contents, strict=True)
        ]
        wanted = {
            entry.address: entry
            for file in files
            if isinstance(file, File)
            for entry in file.entries
        }
        got: dict[bytes, bytes | None] = {}
        parts = [self._fetch(part) for part in _parts(list(enumerate(wanted.values())))]
        for blobs in await _all(parts):
            got |= blobs
        staged: list[Staged | NotDone] = await self._run(self._write_small, files, got)
        return staged

    def _write_small(
        self, files: Sequence[File | NotDone], got: dict[bytes, bytes | None]
    ) -> list[Staged | NotDone]:
        staged: list[Staged | NotDone] = []
        with Folders(self._root) as folders:
            tmp = folders.directory(TMP)
            for file in files:
                if isinstance(file, NotDone):
                    staged.append(file)
                    continue
                try:
                    staged.append(self._write_one(tmp, file, got))
                except NotDone as error:
                    staged.append(error)
        return staged

    def _write_one(self, tmp: int, file: File, got: dict[bytes, bytes | None]) -> Staged:
        data = b"".join(self._opened(entry, got.get(entry.address)) for entry in file.entries)
        try:
            descriptor = os.open(file.name, WRITE, 0o600, dir_fd=tmp)
            try:
                _write_at(descriptor, data, 0)
                return self._finish(descriptor, file)
            except BaseException:
                os.unlink(file.name, dir_fd=tmp)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise NotDone.of(error) from None

    # ------------------------------------------------------------ one large file

    async def stage_large(self, step: PutFile) -> Staged | NotDone:
        """Stage a file of any size in bounded memory. Raises Offline, ServerFault."""
        [known] = await self._run(self._contents, [step])
        file = await self._file(step, known)
        if isinstance(file, NotDone):
            return file
        try:
            descriptor = await self._run(self._create, file)
        except OSError as error:
            return NotDone.of(error)
        done = False
        try:
            pieces = await self._reuse(file, descriptor)
            parts = [self._piece(descriptor, part) for part in _parts(pieces)]
            await _all(parts)
            staged: Staged = await self._run(self._finish, descriptor, file)
            done = True
            return staged
        except NotDone as error:
            return error
        except OSError as error:
            return NotDone.of(error)
        finally:
            os.close(descriptor)
            if not done:
                await self._run(self.drop, file.name)

    def _create(self, file: File) -> int:
        with Folders(self._root) as folders:
            return os.open(file.name, WRITE, 0o600, dir_fd=folders.directory(TMP))

    def drop(self, name: str) -> None:
        """Remove a staged file. Safe to repeat."""
        with Folders(self._root) as folders:
            try:
                os.unlink(name, dir_fd=folders.directory(TMP))
            except FileNotFoundError:
                return

    async def _piece(self, descriptor: int, part: Sequence[Piece]) -> None:
        async with self._fetches:  # held until written: memory holds this many parts
            got = await self._ask([entry for _, entry in part])
            await self._run(self._write_pieces, descriptor, part, got)

    def _write_pieces(
        self, descriptor: int, part: Sequence[Piece], got: dict[bytes, bytes | None]
    ) -> None:
        for offset, entry in part:
            _write_at(descriptor, self._opened(entry, got.get(entry.address)), offset)

    async def _reuse(self, file: File, descriptor: int) -> list[Piece]:
        """Write what the file in place holds already; answer what has to be fetched."""
        pieces = list(_pieces(file.entries))
        expect = file.step.expect
        if expect is None or expect.size_bytes < REUSE_FROM_BYTES:
            return pieces
        known = await self._run(self._state.contents_of, file.step.node)
        for older in known:
            manifest = older.manifest
            if (manifest.size_bytes, manifest.mtime_ns) == (expect.size_bytes, expect.mtime_ns):
                try:
                    entries = await self._entries(older)
                except (NotDone, SealBroken, EpochMissing):
                    return pieces  # an old list that is gone or damaged keeps nothing back
                return list(
                    await self._run(self._copy_pieces, file, descriptor, pieces, entries)
                )
        return pieces

    def _copy_pieces(
        self, file: File, descriptor: int, pieces: Sequence[Piece], older: Sequence[ChunkEntry]
    ) -> list[Piece]:
        there = {entry.pid: (offset, entry.length) for offset, entry in _pieces(older)}
        if not any(entry.pid in there for _, entry in pieces):
            return list(pieces)
        with Folders(self._root) as folders:
            try:
                folder, name = folders.parent(file.step.path)
                source = os.open(name, OPEN, dir_fd=folder)
            except OSError:
                return list(pieces)
        left = []
        try:
            for offset, entry in pieces:
                at = there.get(entry.pid)
                data = os.pread(source, at[1], at[0]) if at else b""
                if len(data) == entry.length and self._keys.pid(data) == entry.pid:
                    _write_at(descriptor, data, offset)
                else:
                    left.append((offset, entry))
        finally:
            os.close(source)
        return left

    # ------------------------------------------------------------ both

    def _contents(self, steps: Sequence[PutFile]) -> list[Known | None]:
        return [self._state.content(step.version) for step in steps]

    async def _file(self, step: PutFile, known: Known | None) -> File | NotDone:
        if known is None or known.content_id != step.content_id:
            return NotDone("broken", "the manifest of this version is not known here")
        try:
            entries = await self._entries(known)
        except (SealBroken, EpochMissing) as error:
            return NotDone("broken", str(error))
        except NotDone as error:
            return error
        if known.manifest.pages:
            content_id = manifest_content_id(self._keys, known.manifest, entries)
            if content_id != step.content_id:
                return NotDone("broken", "the content id does not fit")
        return File(step, known, entries)

    async def _entries(self, known: Known) -> Sequence[ChunkEntry]:
        """Return the chunk list of a version, from its pages if it has some."""
        pages = known.manifest.pages
        if not pages:
            return known.manifest.chunks
        got = await self._ask(pages)
        entries: list[ChunkEntry] = await self._run(self._open_pages, pages, got)
        return entries

    def _open_pages(
        self, pages: Sequence[PageEntry], got: dict[bytes, bytes | None]
    ) -> list[ChunkEntry]:
        entries: list[ChunkEntry] = []
        for page in pages:
            blob = got.get(page.address)
            if blob is None:
                raise NotDone("broken", "the server lacks a page")
            entries += open_page(self._keys, page, blob)
        return entries

    def _opened(self, entry: ChunkEntry, blob: bytes | None) -> bytes:
        if blob is None:
            raise NotDone("broken", "the server lacks a chunk")
        try:
            return open_chunk(self._keys, entry, blob)
        except (SealBroken, EpochMissing) as error:
            raise NotDone("broken", str(error)) from None

    def _finish(self, descriptor: int, file: File) -> Staged:
        """Give a staged file its size, mode and time; checked once more."""
        status = os.fstat(descriptor)
        if status.st_size != file.step.size_bytes:
            raise NotDone("broken", "it has another size than its version")
        os.fchmod(descriptor, (0o777 if file.step.executable else 0o666) & ~self._umask | 0o600)
        os.utime(descriptor, ns=(file.step.mtime_ns, file.step.mtime_ns))
        return Staged(file.name, status.st_ino)

    async def _fetch(self, part: Sequence[Piece]) -> dict[bytes, bytes | None]:
        async with self._fetches:
            return await self._ask([entry for _, entry in part])

    async def _ask(
        self, entries: Sequence[ChunkEntry | PageEntry]
    ) -> dict[bytes, bytes | None]:
        """Fetch blobs by address; None: the server has no such chunk."""
        left = list(dict.fromkeys(entry.address for entry in entries))
        got: dict[bytes, bytes | None] = {}
        while left:
            blobs = await self._server.fetch(self._keys.space, left[:PACK_CHUNKS_MAX])
            got.update(zip(left, blobs, strict=False))
            left = left[len(blobs) :] if blobs else []
        return got

    async def _run(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)


async def _all(work: Sequence[Any]) -> list[Any]:
    """Run coroutines side by side; the first failure ends the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _pieces(entries: Sequence[ChunkEntry]) -> Iterator[Piece]:
    offset = 0
    for entry in entries:
        yield offset, entry
        offset += entry.length


def _parts(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Cut a list into parts that one request may fetch."""
    part: list[Piece] = []
    size = 0
    for piece in pieces:
        more = piece[1].sealed_bytes
        if part and (size + more > FETCH_BYTES or len(part) == PACK_CHUNKS_MAX):
            yield part
            part, size = [], 0
        part.append(piece)
        size += more
    if part:
        yield part


def _write_at(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count
