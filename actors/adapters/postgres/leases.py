"""Which chunks a space holds, and for how long it may count on them without a commit.

A space holds a chunk while a version or page of it refers to it, or a lease lasts. Another space's
chunks do not exist here: no oracle, no theft by hash. A lease that a crash forgets makes its chunk
missing, and the device sends it again.
"""

from collections.abc import Iterable, Sequence

from actors.adapters.postgres.borrow import Pool, borrowed
from actors.adapters.postgres.packing import pack_refs
from actors.records import Chunk

_HELD = """
held AS (
    SELECT a.address, coalesce(r.size_bytes, l.size_bytes) AS size_bytes
    FROM (SELECT DISTINCT unnest($2::bytea[]) AS address) a
    LEFT JOIN chunk_refs r ON r.space_id = $1 AND r.address = a.address AND r.refs > 0
    LEFT JOIN leases l ON l.space_id = $1 AND l.address = a.address AND l.expires_at > $3
    WHERE r.address IS NOT NULL OR l.address IS NOT NULL
)
"""
# In the order of addresses, so that two devices that lease the same chunks cannot deadlock.
_LEASE_HELD = f"""
WITH {_HELD}, leased AS (
    INSERT INTO leases (space_id, address, size_bytes, upload_id, device_id, expires_at)
    SELECT $1, address, size_bytes, $4, $5, $6 FROM held ORDER BY address
    ON CONFLICT (space_id, address) DO UPDATE
    SET expires_at = greatest(leases.expires_at, excluded.expires_at),
        upload_id = coalesce(excluded.upload_id, leases.upload_id)
)
SELECT address, size_bytes FROM held
"""
_TAKE = """
INSERT INTO leases (space_id, address, size_bytes, upload_id, device_id, expires_at)
SELECT $1, address, size_bytes, $4, $5, $6
FROM unnest($2::bytea[], $3::bigint[]) AS new (address, size_bytes) ORDER BY address
ON CONFLICT (space_id, address) DO UPDATE
SET expires_at = greatest(leases.expires_at, excluded.expires_at),
    upload_id = coalesce(excluded.upload_id, leases.upload_id)
"""
_KNOW = """
INSERT INTO chunks (address, size_bytes, created_at)
SELECT address, size_bytes, $3
FROM unnest($1::bytea[], $2::bigint[]) AS new (address, size_bytes) ORDER BY address
ON CONFLICT DO NOTHING
"""
_DECLARE = """
INSERT INTO page_refs (space_id, address, refs, created_at)
SELECT $1, address, refs, $4
FROM unnest($2::bytea[], $3::bytea[]) AS new (address, refs) ORDER BY address
ON CONFLICT DO NOTHING
"""


class Leases:
    """Queries over leases and references, each one short transaction. Raises Unreachable."""

    def __init__(self, pool: Pool) -> None:
        """Borrow connections from `pool`."""
        self._pool = pool

    async def take(
        self,
        space: bytes,
        by: tuple[bytes, bytes | None],
        chunks: Sequence[Chunk],
        now_ms: int,
        expires_ms: int,
    ) -> None:
        """Lease chunks that are durable now; a page's list is kept with it. Safe to repeat.

        `by` is the device, and its upload session if there is one.
        """
        device, upload = by
        once = {chunk.address: chunk for chunk in chunks}
        addresses = list(once)
        sizes = [chunk.size_bytes for chunk in once.values()]
        pages = [chunk for chunk in once.values() if chunk.refs]
        async with borrowed(self._pool, transaction=True, forgettable=True) as connection:
            await connection.execute(_KNOW, addresses, sizes, now_ms)
            if pages:
                declared = [pack_refs(page.refs) for page in pages]
                named = [page.address for page in pages]
                await connection.execute(_DECLARE, space, named, declared, now_ms)
            await connection.execute(_TAKE, space, addresses, sizes, upload, device, expires_ms)

    async def extend(
        self,
        space: bytes,
        by: tuple[bytes, bytes | None],
        addresses: Iterable[bytes],
        now_ms: int,
        expires_ms: int,
    ) -> dict[bytes, int]:
        """Lease those that the space holds already; return their sizes in bytes by address."""
        device, upload = by
        async with borrowed(self._pool, transaction=True, forgettable=True) as connection:
            rows = await connection.fetch(
                _LEASE_HELD, space, list(addresses), now_ms, upload, device, expires_ms
            )
        return {row["address"]: row["size_bytes"] for row in rows}

    async def held(self, space: bytes, addresses: Iterable[bytes], now_ms: int) -> dict[bytes, int]:
        """Return the sizes in bytes of those that the space holds."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(
                f"WITH {_HELD} SELECT address, size_bytes FROM held", space, list(addresses), now_ms
            )
        return {row["address"]: row["size_bytes"] for row in rows}
