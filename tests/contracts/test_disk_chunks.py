"""The ChunkStore's contract on a disk, with and without syncfs."""

import pytest

from actors.adapters.disk import DiskChunkStore
from tests.contracts.chunk_store_contract import CONTRACT


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("syncfs", [True, False], ids=["syncfs", "fsync"])
async def test_disk_store_keeps_its_promise(promise, syncfs, tmp_path):
    store = DiskChunkStore(tmp_path / "storage")
    if not syncfs:
        store._flusher.syncfs = None
    try:
        await promise(store)
    finally:
        store.close()
