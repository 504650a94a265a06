"""What every ChunkStore must do. An adapter's test hands a store to each function of `CONTRACT`.

The store may hold other people's chunks: contents here are drawn anew in every run.
"""

import asyncio
import os

import pytest

from actors.ports import ChunkMismatch, ChunkStore
from actors.records import Chunk
from protocol.codec import sha256
from protocol.limits import CHUNK_BYTES_MAX, MIB


async def pieces(blob: bytes, size_bytes: int = 1000):
    for offset in range(0, len(blob), size_bytes):
        await asyncio.sleep(0)
        yield blob[offset : offset + size_bytes]


async def gathered(store: ChunkStore, address: bytes, *bounds) -> bytes:
    found = []
    async for piece in store.stream(address, *bounds):
        assert 0 < len(piece) <= MIB
        found.append(bytes(piece))
    return b"".join(found)


async def what_was_put_is_got(store: ChunkStore):
    blob = os.urandom(5_500)
    address = sha256(blob)
    assert await store.get(address) is None
    assert await store.put(address, pieces(blob)) == len(blob)
    assert await store.get(address) == blob


async def a_repeat_of_a_put_changes_nothing(store: ChunkStore):
    blob = os.urandom(3_000)
    address = sha256(blob)
    for _ in range(2):
        assert await store.put(address, pieces(blob)) == len(blob)
    assert await store.put_many([blob]) == [Chunk(address, len(blob))]
    assert await store.get(address) == blob


async def bytes_that_are_not_their_address_are_not_kept(store: ChunkStore):
    blob = os.urandom(3_000)
    with pytest.raises(ChunkMismatch):
        await store.put(sha256(blob), pieces(blob[:-1]))
    with pytest.raises(ChunkMismatch):
        await store.put(sha256(blob), pieces(blob + b"x"))
    with pytest.raises(ChunkMismatch):
        await store.put(sha256(blob), pieces(b""))
    assert await store.get(sha256(blob)) is None
    await store.put(sha256(blob), pieces(blob))
    assert await store.get(sha256(blob)) == blob


async def a_body_that_breaks_off_leaves_no_trace(store: ChunkStore):
    blob = os.urandom(3_000)

    async def broken():
        yield blob[:2_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(sha256(blob), broken())
    assert await store.get(sha256(blob)) is None
    assert await store.get_many([sha256(blob)]) == [None]


async def two_puts_of_one_chunk_at_once_both_succeed(store: ChunkStore):
    blob = os.urandom(200_000)
    puts = [store.put(sha256(blob), pieces(blob)) for _ in range(4)]
    assert await asyncio.gather(*puts) == [len(blob)] * 4
    assert await store.get(sha256(blob)) == blob


async def many_are_put_and_got_in_order(store: ChunkStore):
    blobs = [os.urandom(10 * n) for n in range(1, 200)]
    blobs.append(blobs[0])
    chunks = await store.put_many(blobs)
    assert chunks == [Chunk(sha256(blob), len(blob)) for blob in blobs]
    unknown = os.urandom(32)
    addresses = [chunk.address for chunk in chunks]
    assert await store.get_many([*addresses, unknown]) == [*blobs, None]
    assert await store.get_many([unknown, addresses[7]]) == [None, blobs[7]]
    assert await store.put_many([]) == []
    assert await store.get_many([]) == []


async def a_large_chunk_is_streamed_whole_and_in_part(store: ChunkStore):
    blob = os.urandom(CHUNK_BYTES_MAX)
    address = sha256(blob)
    await store.put(address, pieces(blob, 300_000))
    assert await gathered(store, address) == blob
    assert await gathered(store, address, 5) == blob[5:]
    assert await gathered(store, address, 10, MIB + 17) == blob[10 : MIB + 17]
    assert await gathered(store, address, 10, 10) == b""
    assert await gathered(store, address, 0, len(blob) + 5) == blob


async def the_room_left_is_known(store: ChunkStore):
    assert await store.free_bytes() > 0


CONTRACT = [
    what_was_put_is_got,
    a_repeat_of_a_put_changes_nothing,
    bytes_that_are_not_their_address_are_not_kept,
    a_body_that_breaks_off_leaves_no_trace,
    two_puts_of_one_chunk_at_once_both_succeed,
    many_are_put_and_got_in_order,
    a_large_chunk_is_streamed_whole_and_in_part,
    the_room_left_is_known,
]
