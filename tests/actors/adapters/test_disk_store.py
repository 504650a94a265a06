"""What a disk adds to the contract of chunk stores: order of flushes, crashes, failing disks.

Planted bugs that these caught: renaming before the first flush, no flush for a chunk that is there
already, a flush per caller, directories with the umask's mode, a shorter file taken for the chunk,
removing a living process's files at the start, closing descriptors under a running flush.
"""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from actors.adapters import disk
from actors.adapters.disk import DiskChunkStore
from actors.adapters.disk_flush import FEW, Flusher, find_syncfs
from actors.ports import ChunkMismatch, StoreFull, Unreachable
from protocol.codec import sha256
from protocol.limits import MIB

MANY = 3 * FEW


@pytest.fixture
def store(tmp_path):
    opened = DiskChunkStore(tmp_path / "storage")
    yield opened
    opened.close()


@pytest.fixture(params=["syncfs", "fsync"])
def either(request, store):
    """A store with and without syncfs."""
    if request.param == "fsync":
        store._flusher.syncfs = None
    elif find_syncfs() is None:
        pytest.fail("this Linux has no syncfs that tells errors")
    return store


def names(store: DiskChunkStore) -> set[str]:
    return {path.name for path in store._content.rglob("*") if path.is_file()}


def temps(store: DiskChunkStore) -> set[str]:
    return {path.name for path in store._own.iterdir()} - {"lock"}


async def body(*pieces: bytes):
    for piece in pieces:
        yield piece


async def test_layout_and_modes(store):
    before = os.umask(0o022)
    (small,) = await store.put_many([b"small"])
    os.umask(before)
    name = small.address.hex()
    path = store._content / name[:2] / name[2:4] / name
    assert path.read_bytes() == b"small"
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (path.parent, path.parent.parent, store._content, store._own):
        assert folder.stat().st_mode & 0o777 == 0o700, folder
    assert await store.size_bytes(small.address) == 5
    assert await store.size_bytes(bytes(32)) is None


@pytest.mark.parametrize("count", [1, MANY])
async def test_bytes_are_flushed_before_the_name_and_the_name_before_the_answer(either, count):
    blobs = [os.urandom(100) for _ in range(count)]
    expected = {sha256(blob).hex() for blob in blobs}
    steps: list[str] = []
    watch(either, expected, steps)
    await either.put_many(blobs)
    assert squeezed(steps) == ["flushed bytes", "flushed names"]
    steps.clear()
    await either.put_many(blobs)
    assert squeezed(steps) == ["flushed names"], "another process may have placed them just now"
    assert not temps(either)


async def test_a_streamed_chunk_is_flushed_in_the_same_order(either):
    blob = os.urandom(2 * MIB + 5)
    steps: list[str] = []
    watch(either, {sha256(blob).hex()}, steps)
    await either.put(sha256(blob), body(blob[:MIB], blob[MIB:]))
    assert squeezed(steps) == ["flushed bytes", "flushed names"]


def watch(store: DiskChunkStore, expected: set[str], steps: list[str]) -> None:
    """Note at every flush whether bytes without names or names are there."""

    def note() -> None:
        placed = expected & names(store)
        assert placed in (set(), expected), "all names appear between two flushes"
        steps.append("flushed names" if placed else "flushed bytes")

    flusher, real = store._flusher, store._flusher.syncfs
    real_flush = Flusher._flush

    def flush(this) -> None:
        note()
        real_flush(flusher, this)

    flusher._flush = flush
    if real is None:  # then many files are flushed where they are written
        real_fsync = os.fsync

        def fsync(descriptor: int) -> None:
            note()
            real_fsync(descriptor)

        store_os = type(os)("os")
        store_os.__dict__.update(os.__dict__)
        store_os.fsync = fsync
        disk.os = store_os


@pytest.fixture(autouse=True)
def _own_os():
    yield
    disk.os = os


def squeezed(steps: list[str]) -> list[str]:
    return [step for n, step in enumerate(steps) if n == 0 or steps[n - 1] != step]


async def test_those_who_wait_at_the_same_time_share_a_flush(store):
    gate, rounds = threading.Event(), []
    real = find_syncfs()

    def slow(descriptor: int) -> None:
        rounds.append(descriptor)
        gate.wait(10)
        real(descriptor)

    store._flusher.syncfs = slow
    puts = [
        asyncio.create_task(store.put_many([os.urandom(50) for _ in range(MANY)])) for _ in range(6)
    ]
    joined = store._flusher.flush
    waiting = asyncio.Semaphore(0)

    async def counted(*args) -> None:
        waiting.release()
        await joined(*args)

    store._flusher.flush = counted
    for _ in puts:
        await waiting.acquire()
    gate.set()
    await asyncio.gather(*puts)
    assert len(rounds) <= 2 + 6, (
        "the first halves took two: one was under way, five shared the next"
    )


async def test_a_full_disk_leaves_no_trace(either, monkeypatch):
    blobs = [os.urandom(1000) for _ in range(MANY)]

    def full(descriptor: int, data: bytes) -> None:
        if len(temps(either)) > MANY // 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.write(descriptor, data)

    monkeypatch.setattr(disk, "_write_all", full)
    with pytest.raises(StoreFull):
        await either.put_many(blobs)
    assert not temps(either)
    assert not names(either)
    monkeypatch.setattr(disk, "_write_all", lambda *_: full_quota())
    with pytest.raises(StoreFull):
        await either.put(sha256(blobs[0]), body(blobs[0]))
    assert not temps(either)
    monkeypatch.undo()
    assert len(await either.put_many(blobs)) == MANY


def full_quota() -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


async def test_a_failed_flush_is_no_answer_and_no_name(store):
    calls = []

    def broken(this) -> None:
        calls.append(this)
        raise OSError(errno.EIO, "Input/output error")

    real, store._flusher._flush = store._flusher._flush, broken
    blob = os.urandom(100)
    with pytest.raises(Unreachable):
        await store.put_many([blob])
    with pytest.raises(Unreachable):
        await store.put(sha256(blob), body(blob))
    assert len(calls) == 2, "never tried again by itself"
    assert not names(store)
    assert not temps(store)
    store._flusher._flush = real
    await store.put_many([blob])
    assert await store.get(sha256(blob)) == blob


async def test_a_mismatch_leaves_no_file(store):
    with pytest.raises(ChunkMismatch):
        await store.put(sha256(b"a"), body(b"b"))
    assert not temps(store)
    assert not names(store)


async def test_a_cancelled_put_leaves_no_file(store):
    started = asyncio.Event()

    async def endless():
        yield bytes(2 * MIB)
        started.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(store.put(sha256(b"a"), endless()))
    await started.wait()
    assert temps(store)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not temps(store)


async def test_a_put_cancelled_in_mid_flush_waits_for_it(store):
    entered, gate = threading.Event(), threading.Event()
    real = store._flusher._flush

    def slow(this) -> None:
        entered.set()
        gate.wait(10)
        real(this)

    store._flusher._flush = slow
    task = asyncio.create_task(store.put_many([b"cancelled"]))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done(), "its descriptors are still in use"
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not temps(store)


async def test_a_damaged_chunk_shows_by_its_size_and_heals(store):
    blob = os.urandom(5000)
    await store.put_many([blob])
    path = Path(store._path(sha256(blob)))
    os.truncate(path, 100)
    assert len(await store.get(sha256(blob))) == 100
    assert await store.size_bytes(sha256(blob)) == 100
    await store.put_many([blob])
    assert await store.get(sha256(blob)) == blob
    os.truncate(path, 0)
    await store.put(sha256(blob), body(blob))
    assert await store.get(sha256(blob)) == blob


async def test_a_rotten_chunk_of_the_right_size_is_replaced_not_acknowledged(store):
    """Whoever sends it again may hold the only good copy. It failed when only sizes were seen."""
    blob = os.urandom(5_000)
    address = sha256(blob)
    await store.put_many([blob])
    path = Path(store._path(address))
    for again in (lambda: store.put_many([blob]), lambda: store.put(address, body(blob))):
        path.write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
        await again()
        assert await store.get(address) == blob


async def test_a_stream_that_becomes_shorter_raises(store):
    blob = os.urandom(3 * MIB)
    await store.put_many([blob])
    stream = store.stream(sha256(blob))
    assert await anext(stream) == blob[:MIB]
    os.truncate(store._path(sha256(blob)), MIB + 1)
    with pytest.raises(Unreachable):
        async for _ in stream:
            pass


async def test_a_stream_left_early_lets_go(store):
    blob = os.urandom(3 * MIB)
    await store.put_many([blob])
    before = len(os.listdir("/proc/self/fd"))
    stream = store.stream(sha256(blob))
    await anext(stream)
    await stream.aclose()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_stream_of_nothing_is_a_key_error(store):
    with pytest.raises(KeyError):
        await anext(store.stream(bytes(32)))


async def test_no_descriptor_is_left_open(either):
    before = len(os.listdir("/proc/self/fd"))
    await either.put_many([os.urandom(10)])
    await either.put_many([os.urandom(10) for _ in range(MANY)])
    blob = os.urandom(3000)
    await either.put(sha256(blob), body(blob))
    await either.put(sha256(blob), body(blob))
    with pytest.raises(ChunkMismatch):
        await either.put(sha256(b""), body(blob))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_starting_removes_what_the_dead_left_and_nothing_of_the_living(tmp_path):
    root = tmp_path / "storage"
    living = DiskChunkStore(root)
    (living._own / "half").write_bytes(b"written just now")
    code = f"""
import os, signal
from pathlib import Path
from actors.adapters.disk import DiskChunkStore
store = DiskChunkStore(Path({str(root)!r}))
(store._own / "left").write_bytes(b"x")
print(store._own, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=False
    )
    assert child.returncode == -signal.SIGKILL
    dead = Path(child.stdout.strip())
    assert (dead / "left").exists()
    DiskChunkStore(root).close()
    assert not dead.exists()
    assert (living._own / "half").exists()
    living.close()
    living.close()


@pytest.mark.kills
async def test_what_was_acknowledged_survives_a_kill(tmp_path):
    code = f"""
import asyncio, os
from pathlib import Path
from actors.adapters.disk import DiskChunkStore
async def main():
    store = DiskChunkStore(Path({str(tmp_path / "storage")!r}))
    async def put(size):
        while True:
            for chunk in await store.put_many([os.urandom(500) for _ in range(size)]):
                print(chunk.address.hex(), flush=False)
            print(flush=True)
    await asyncio.gather(*(put(size) for size in (1, 5, 50)))
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    lines = [await child.stdout.readline() for _ in range(500)]
    child.kill()
    lines.append(await child.stdout.read())
    await child.wait()
    known = b"".join(lines).decode().split("\n")[:-1]
    store = DiskChunkStore(tmp_path / "storage")
    addresses = [bytes.fromhex(line) for line in known if len(line) == 64]
    assert len(addresses) > 400
    for address, blob in zip(addresses, await store.get_many(addresses), strict=True):
        assert sha256(blob) == address
    for name in names(store):
        assert sha256(await store.get(bytes.fromhex(name))).hex() == name, "whole or not there"
    assert [path.name for path in store._own.parent.iterdir() if path.is_dir()] == [store._own.name]
    store.close()
