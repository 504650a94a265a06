"""The chunk store on a disk: `content/aa/bb/H`, H = SHA-256 of the bytes, in hex.

Why a chunk survives a power cut once a put has returned, and why no name ever has wrong bytes:

    write   temp/…/H.n             hashed on the way, in threads
    flush                          the bytes are durable, the name is not there yet
    rename  content/aa/bb/H        making the two directories if they are missing
    flush                          name and directories are durable

Two flushes, however many chunks there are, and each shared with whoever waits at that moment: under
load one flush serves the second half of one put and the first half of the next. A crash leaves
files in `temp` (removed at the next start) or names that nobody was told of. A chunk that is there
already is not written again, but its name is flushed: another process may have placed it just now.
After a failed flush the temporary file is removed and nothing is tried again on its descriptor.
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import ParamSpec, TypeVar

from actors.adapters.disk_flush import FEW, Flusher, find_syncfs, settled
from actors.ports import ChunkMismatch, StoreFull, Unreachable
from actors.records import Chunk
from protocol.limits import MIB

PIECE_BYTES = MIB  # read or written in one go, off the event loop
THREADS_MAX = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class _Temp:
    """A file that is being written, or one that need not be (`path` None: the chunk is there)."""

    address: bytes
    size_bytes: int = 0
    path: str | None = None
    descriptor: int | None = None  # open while it may still be flushed by itself

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def discard(self) -> None:
        self.close()
        if self.path is not None:
            with suppress(FileNotFoundError):
                os.unlink(self.path)
            self.path = None


@dataclass(slots=True)
class _Hand:
    """A chunk that is streaming in."""

    temp: _Temp
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, pieces: Sequence[bytes]) -> None:
        assert self.temp.descriptor is not None
        for piece in pieces:
            self.digest.update(piece)
            _write_all(self.temp.descriptor, piece)
            self.temp.size_bytes += len(piece)


class DiskChunkStore:
    """See ChunkStore. Several processes may share one root, also over a network file system."""

    def __init__(self, root: Path) -> None:
        """Open the store, made if it is missing; remove what dead processes left in `temp`.

        Raises OSError when the folder cannot be used.
        """
        self._content = root / "content"
        root.parent.mkdir(parents=True, exist_ok=True)
        for folder in (root, self._content, root / "temp"):
            folder.mkdir(mode=0o700, exist_ok=True)
        with suppress(PermissionError):  # a parent that we may not read is not ours to have made
            _sync_folders(root.parent)
        _sync_folders(root, self._content)
        self._own, self._lock = _own_folder(root / "temp")
        self._numbers = count()
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="chunks")
        self._root = os.open(self._content, os.O_RDONLY | os.O_DIRECTORY)
        self._flusher = Flusher(self._root, find_syncfs(), self._threads)
        self._durable_folders = bytearray(1 << 16)  # by aa, bb: known to survive a power cut

    async def put(self, address: bytes, body: AsyncIterator[bytes]) -> int:
        """See ChunkStore. Raises Unreachable when the disk fails."""
        hand = _Hand(_Temp(address))
        pieces: list[bytes] = []
        waiting_bytes = 0
        try:
            async for piece in body:
                pieces.append(bytes(piece))
                waiting_bytes += len(piece)
                if waiting_bytes >= PIECE_BYTES:
                    await self._in_thread(self._write, hand, pieces)
                    pieces, waiting_bytes = [], 0
            await self._in_thread(self._write, hand, pieces)
            if hand.digest.digest() != address:
                raise ChunkMismatch(f"the bytes are not those of {address.hex()}")
            await self._make_durable([hand.temp])
        finally:
            await self._discard([hand.temp])
        return hand.temp.size_bytes

    async def put_many(self, blobs: Sequence[bytes]) -> list[Chunk]:
        """See ChunkStore. Raises StoreFull, or Unreachable when the disk fails: then some of the
        chunks may be there, none is promised.
        """
        temps: dict[bytes, _Temp] = {}
        try:
            chunks = await self._in_thread(self._write_many, blobs, temps)
            await self._make_durable(list(temps.values()))
        finally:
            await self._discard(temps.values())
        return chunks

    async def get(self, address: bytes) -> bytes | None:
        """See ChunkStore. Not verified: whoever reads knows the size, and opens the seal."""
        return await self._in_thread(self._read, address)

    async def get_many(self, addresses: Sequence[bytes]) -> list[bytes | None]:
        """See ChunkStore. Not verified, as `get`."""
        return await self._in_thread(lambda: [self._read(address) for address in addresses])

    async def stream(
        self, address: bytes, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ChunkStore. Raises KeyError when the chunk is not there.

        The next piece is read while the present one is being sent.
        """
        descriptor, end = await self._in_thread(self._open, address, stop)
        following: asyncio.Future[bytes] | None = None
        try:
            if start < end:
                following = self._start(_piece, descriptor, start, end)
            while following is not None:
                piece = await self._result(following)
                start += len(piece)
                following = self._start(_piece, descriptor, start, end) if start < end else None
                yield piece
        finally:
            if following is not None:  # nobody reads on, but the thread still does
                await asyncio.wait([following])
                following.exception()
            os.close(descriptor)

    async def free_bytes(self) -> int:
        """See ChunkStore."""
        found = await self._in_thread(os.statvfs, self._content)
        return found.f_bavail * found.f_frsize

    async def size_bytes(self, address: bytes) -> int | None:
        """Return the size of a chunk's file, None if there is none."""
        return await self._in_thread(_size_bytes, self._path(address))

    def close(self) -> None:
        """Let go of folder and threads, once nothing is under way. Idempotent."""
        if self._own.exists():
            self._threads.shutdown()
            shutil.rmtree(self._own)
            os.close(self._lock)
            os.close(self._root)

    # -- durability -------------------------------------------------------------------------------

    async def _make_durable(self, temps: list[_Temp]) -> None:
        """Flush what was written, give it its names, flush these."""
        if not temps:
            return
        fresh = [temp for temp in temps if temp.path is not None]
        if fresh:
            open_ones = [temp.descriptor for temp in fresh if temp.descriptor is not None]
            await self._flush(open_ones, closed=len(open_ones) < len(fresh))
        folders: list[int] = []
        try:
            await self._in_thread(self._place, temps, folders)
            await self._flush(folders, closed=not folders)
        finally:
            for folder in folders:
                os.close(folder)
        for temp in temps:
            self._durable_folders[_folder_number(temp.address)] = 1

    async def _flush(self, descriptors: list[int], closed: bool) -> None:
        """Flush these, and what was closed unflushed; without syncfs nothing ever is."""
        everything = closed and self._flusher.syncfs is not None
        if descriptors or everything:
            with _failures():
                await self._flusher.flush(descriptors, everything)

    async def _discard(self, temps: Iterable[_Temp]) -> None:
        left = [temp for temp in temps if temp.path is not None]
        if left:
            await self._in_thread(_discard, left)

    # -- in threads -------------------------------------------------------------------------------

    def _write(self, hand: _Hand, pieces: Sequence[bytes]) -> None:
        if hand.temp.descriptor is None:
            self._create(hand.temp)
        hand.write(pieces)

    def _write_many(self, blobs: Sequence[bytes], temps: dict[bytes, _Temp]) -> list[Chunk]:
        """Write what is not there. Many files are closed at once: descriptors are scarce."""
        chunks: list[Chunk] = []
        few = len(blobs) <= FEW
        for blob in blobs:
            chunk = Chunk(hashlib.sha256(blob).digest(), len(blob))
            chunks.append(chunk)
            if chunk.address in temps:
                continue
            temps[chunk.address] = temp = _Temp(chunk.address, chunk.size_bytes)
            if self._is_there(temp):
                continue
            self._create(temp)
            assert temp.descriptor is not None
            _write_all(temp.descriptor, blob)
            if few:
                continue
            if self._flusher.syncfs is None:
                os.fsync(temp.descriptor)
            temp.close()
        return chunks

    def _create(self, temp: _Temp) -> None:
        path = f"{self._own}/{temp.address.hex()}.{next(self._numbers)}"
        temp.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        temp.path = path

    def _place(self, temps: Iterable[_Temp], folders: list[int]) -> None:
        """Rename into place. Directories to be flushed are left open in `folders`, if they are
        few; many are left to syncfs, or flushed here.
        """
        touched: dict[str, None] = {}
        for temp in temps:
            path = self._path(temp.address)
            known = self._durable_folders[_folder_number(temp.address)]
            if temp.path is not None and self._is_there(temp):
                temp.discard()
            elif temp.path is not None:
                temp.close()
                known &= _rename(temp.path, path)
                temp.path = None
            leaf = os.path.dirname(path)
            touched[leaf] = None
            if not known:
                touched[os.path.dirname(leaf)] = None
                touched[str(self._content)] = None
        if len(touched) <= FEW:
            folders += (os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in touched)
        elif self._flusher.syncfs is None:
            _sync_folders(*touched)

    def _is_there(self, temp: _Temp) -> bool:
        """Say whether the chunk is there, whole. A damaged file is replaced, not acknowledged:
        whoever sends the chunk may hold the only good copy. Reads it, so only for a thread.
        """
        path = self._path(temp.address)
        if _size_bytes(path) != temp.size_bytes:
            return False
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").digest() == temp.address
        except OSError:
            return False

    def _read(self, address: bytes) -> bytes | None:
        try:
            return Path(self._path(address)).read_bytes()
        except FileNotFoundError:
            return None

    def _open(self, address: bytes, stop: int | None) -> tuple[int, int]:
        try:
            descriptor = os.open(self._path(address), os.O_RDONLY)
        except FileNotFoundError:
            raise KeyError(address.hex()) from None
        size_bytes = os.fstat(descriptor).st_size
        return descriptor, size_bytes if stop is None else min(stop, size_bytes)

    def _path(self, address: bytes) -> str:
        name = address.hex()
        return f"{self._content}/{name[:2]}/{name[2:4]}/{name}"

    def _start(
        self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[R]":
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._threads, lambda: work(*args, **kwargs))

    async def _in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._result(self._start(work, *args, **kwargs))

    async def _result(self, future: "asyncio.Future[R]") -> R:
        with _failures():
            return await settled(future)


@contextmanager
def _failures() -> Iterator[None]:
    """Raise StoreFull or Unreachable for what the disk raises."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(str(error)) from error
        raise Unreachable(f"chunk store: {error}") from error


def _folder_number(address: bytes) -> int:
    return int.from_bytes(address[:2], "big")


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a write may be short, before it fails with a full disk
        rest = rest[os.write(descriptor, rest) :]


def _piece(descriptor: int, offset: int, end: int) -> bytes:
    wanted = min(PIECE_BYTES, end - offset)
    piece = os.pread(descriptor, wanted, offset)
    if len(piece) < wanted:
        raise OSError(errno.EIO, "the file became shorter while it was read")
    return piece


def _discard(temps: Iterable[_Temp]) -> None:
    for temp in temps:
        temp.discard()


def _size_bytes(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _rename(temp: str, path: str) -> bool:
    """Rename, and say whether the directories were there already."""
    try:
        os.rename(temp, path)
    except FileNotFoundError:
        leaf = os.path.dirname(path)
        for folder in (os.path.dirname(leaf), leaf):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        os.rename(temp, path)
        return False
    return True


def _sync_folders(*folders: str | Path) -> None:
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _own_folder(temp: Path) -> tuple[Path, int]:
    """Make a folder of our own below `temp`, and remove those of the dead.

    Its lock is held while its process lives; whoever holds the lock of `temp` looks and makes.
    """
    with _locked(temp / "lock"):
        for folder in [entry for entry in temp.iterdir() if entry.is_dir()]:
            with (
                suppress(FileNotFoundError, BlockingIOError),
                _locked(folder / "lock", fcntl.LOCK_NB),
            ):
                shutil.rmtree(folder)
        own = temp / secrets.token_hex(8)
        own.mkdir(mode=0o700)
        lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return own, lock


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | flags)
        yield
    finally:
        os.close(lock)
