import os

import pytest

from actors.memory_chunks import MemoryChunks
from actors.ports import StoreFull
from protocol.codec import sha256
from tests.contracts.chunk_store_contract import CONTRACT, pieces


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_memory_chunks(promise):
    await promise(MemoryChunks())


async def test_a_full_store_says_so_and_keeps_what_it_has():
    store, blob = MemoryChunks(room_bytes=100), os.urandom(60)
    await store.put_many([blob])
    assert await store.free_bytes() == 40
    with pytest.raises(StoreFull):
        await store.put(sha256(b"x" * 41), pieces(b"x" * 41))
    assert await store.put(sha256(blob), pieces(blob)) == 60
    await store.drop(sha256(blob))
    assert await store.get(sha256(blob)) is None
    assert await store.free_bytes() == 100
