import pytest

from actors.memory_store import MemoryStore
from tests.contracts.store_contract import CONTRACT, Clock, Heard, House


@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_memory_store(promise):
    clock, heard = Clock(), Heard()
    store = MemoryStore(clock, heard)
    await promise(House(store, store, clock, heard))
