"""The ChunkStore in one process, for tests and the simulator. Nothing survives the process."""

from collections.abc import AsyncIterator, Sequence

from actors.ports import ChunkMismatch, StoreFull
from actors.records import Chunk
from protocol import limits
from protocol.codec import sha256

PIECE_BYTES = limits.MIB


class MemoryChunks:
    """See ChunkStore. `room_bytes` is the size of the disk it pretends to have."""

    def __init__(self, room_bytes: int = limits.GIB) -> None:
        """Begin empty."""
        self._room_bytes = room_bytes
        self._blobs: dict[bytes, bytes] = {}

    async def put(self, address: bytes, body: AsyncIterator[bytes]) -> int:
        """See ChunkStore."""
        blob = b"".join([piece async for piece in body])
        if sha256(blob) != address:
            raise ChunkMismatch(address.hex())
        self._keep(address, blob)
        return len(blob)

    async def put_many(self, blobs: Sequence[bytes]) -> list[Chunk]:
        """See ChunkStore."""
        for blob in blobs:
            self._keep(sha256(blob), blob)
        return [Chunk(sha256(blob), len(blob)) for blob in blobs]

    async def get(self, address: bytes) -> bytes | None:
        """See ChunkStore."""
        return self._blobs.get(address)

    async def get_many(self, addresses: Sequence[bytes]) -> list[bytes | None]:
        """See ChunkStore."""
        return [self._blobs.get(address) for address in addresses]

    async def stream(
        self, address: bytes, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """See ChunkStore. Raises KeyError where there is no such chunk."""
        blob = self._blobs[address][start:stop]
        for offset in range(0, len(blob), PIECE_BYTES):
            yield blob[offset : offset + PIECE_BYTES]

    async def free_bytes(self) -> int:
        """See ChunkStore."""
        return self._room_bytes - sum(map(len, self._blobs.values()))

    async def drop(self, address: bytes) -> None:
        """Lose a chunk, as a broken disk would."""
        self._blobs.pop(address, None)

    def _keep(self, address: bytes, blob: bytes) -> None:
        if address in self._blobs:
            return
        if sum(map(len, self._blobs.values())) + len(blob) > self._room_bytes:
            raise StoreFull(f"{len(blob)} bytes do not fit")
        self._blobs[address] = blob
