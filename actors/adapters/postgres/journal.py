"""`write`: a batch of UserSync in a fixed number of statements, whatever its size.

Lists travel as arrays and are unnested in the database. Every statement keeps to one table but
`_COUNT`, which also returns the pages that the space refers to for the first time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import asyncpg

from actors.adapters.postgres.packing import pack_refs, pack_vector, unpack_refs
from actors.ports import Overtaken
from actors.records import Batch, Chunk, NewRow, Node, Version
from protocol import limits
from protocol.entry import ChunkRef

_HEAD = """
UPDATE spaces SET head_seq = $3, head_hash = $4 WHERE space_id = $1 AND head_seq = $2
"""

_NODES = """
INSERT INTO files (
    space_id, user_id, file_id, parent_id, place_rev, file_name, name_token, name_epoch, type,
    file_size, checksum, version_number, version_vector, created_at, modified_at, conflict_status,
    alive, deleted_at, head_version, head_hlc, head_device, place_hash, manifest_hash
)
SELECT $1, $2, file_id, parent_id, place_rev, file_name, name_token, name_epoch, type,
    file_size, checksum, version_number, version_vector, created_at, modified_at,
    CASE WHEN conflicted THEN 'open' ELSE 'none' END,
    alive, CASE WHEN alive THEN NULL ELSE $3::timestamptz END,
    head_version, head_hlc, head_device, place_hash, manifest_hash
FROM unnest(
    $4::bytea[], $5::bytea[], $6::bigint[], $7::bytea[], $8::bytea[], $9::integer[],
    $10::smallint[], $11::bigint[], $12::bytea[], $13::integer[], $14::bytea[],
    $15::timestamptz[], $16::timestamptz[], $17::boolean[], $18::boolean[], $19::bytea[],
    $20::bigint[], $21::bytea[], $22::bytea[], $23::bytea[]
) AS node (
    file_id, parent_id, place_rev, file_name, name_token, name_epoch,
    type, file_size, checksum, version_number, version_vector,
    created_at, modified_at, conflicted, alive, head_version,
    head_hlc, head_device, place_hash, manifest_hash
)
ON CONFLICT (space_id, file_id) DO UPDATE SET
    parent_id = excluded.parent_id, place_rev = excluded.place_rev,
    file_name = excluded.file_name, name_token = excluded.name_token,
    name_epoch = excluded.name_epoch, type = excluded.type, file_size = excluded.file_size,
    checksum = excluded.checksum, version_number = excluded.version_number,
    version_vector = excluded.version_vector, created_at = excluded.created_at,
    modified_at = excluded.modified_at, conflict_status = excluded.conflict_status,
    alive = excluded.alive,
    deleted_at = CASE WHEN excluded.alive THEN NULL
        ELSE coalesce(files.deleted_at, excluded.deleted_at) END,
    head_version = excluded.head_version, head_hlc = excluded.head_hlc,
    head_device = excluded.head_device, place_hash = excluded.place_hash,
    manifest_hash = excluded.manifest_hash
"""

_VERSIONS = """
INSERT INTO file_versions (
    space_id, version_id, file_id, version_number, checksum, created_at, is_current_version,
    manifest, manifest_key_epoch, refs, paged, size_bytes, version_vector, device_id, hlc,
    prev_version
)
SELECT $1, version.* FROM unnest(
    $2::bytea[], $3::bytea[], $4::integer[], $5::bytea[], $6::timestamptz[], $7::boolean[],
    $8::bytea[], $9::integer[], $10::bytea[], $11::boolean[], $12::bigint[], $13::bytea[],
    $14::bytea[], $15::bigint[], $16::bytea[]
) AS version
"""

# Turns the marks that are wrong. (By ctid, since a join could read the whole space: see view.py.)
_CURRENT = """
UPDATE file_versions SET is_current_version = NOT is_current_version
WHERE ctid = ANY (ARRAY(
    SELECT wrong.ctid FROM unnest($2::bytea[], $3::bytea[]) AS node (file_id, head_version)
    CROSS JOIN LATERAL (
        SELECT v.ctid FROM file_versions v
        WHERE v.file_id = node.file_id AND v.space_id IS NOT DISTINCT FROM $1
            AND v.is_current_version <> (v.version_id = node.head_version)
        OFFSET 0
    ) AS wrong
))
"""

_ROWS = """
INSERT INTO sync_events (
    space_id, user_id, timestamp, event_id, file_id, event_type, client_id, dot, kind,
    commit_hash, raw, hash
)
SELECT $1, $2, $3, line.* FROM unnest(
    $4::bigint[], $5::bytea[], $6::text[], $7::bytea[], $8::bigint[], $9::text[],
    $10::bytea[], $11::bytea[], $12::bytea[]
) AS line
"""

_PROOF = """
INSERT INTO commits (
    space_id, commit_hash, header, signature, leaves, device_id, op, created_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""

_CHUNKS = """
INSERT INTO chunks (address, size_bytes, created_at)
SELECT address, size_bytes, $3 FROM unnest($1::bytea[], $2::bigint[]) AS chunk (address, size_bytes)
ON CONFLICT (address) DO NOTHING
"""

# While the space holds a page, a later declaration of what it lists changes nothing.
_PAGES = """
INSERT INTO page_refs AS known (space_id, address, refs, created_at)
SELECT $1, address, refs, $4 FROM unnest($2::bytea[], $3::bytea[]) AS page (address, refs)
ON CONFLICT (space_id, address) DO UPDATE SET refs = excluded.refs WHERE NOT EXISTS (
    SELECT FROM chunk_refs counted
    WHERE counted.space_id = $1 AND counted.address = known.address AND counted.refs > 0
) AND NOT EXISTS (
    SELECT FROM leases leased
    WHERE leased.space_id = $1 AND leased.address = known.address
        AND leased.expires_at > $4
)
"""

_LEASE = """
INSERT INTO leases (space_id, address, size_bytes, device_id, expires_at)
SELECT $1, address, size_bytes, $4, $5
FROM unnest($2::bytea[], $3::bigint[]) AS chunk (address, size_bytes)
WHERE (
    SELECT true FROM chunk_refs c
    WHERE c.space_id = $1 AND c.address = chunk.address AND c.refs > 0 LIMIT 1
) IS NULL
ON CONFLICT (space_id, address) DO UPDATE SET expires_at = excluded.expires_at
    WHERE leases.expires_at < excluded.expires_at
"""

# Leases that a device extends at this moment are skipped (no deadlock): they end by themselves.
_COUNT = """
WITH counted AS (
    INSERT INTO chunk_refs (space_id, address, size_bytes, refs)
    SELECT $1, address, size_bytes, refs
    FROM unnest($2::bytea[], $3::bigint[], $4::integer[]) AS named (address, size_bytes, refs)
    ON CONFLICT (space_id, address) DO UPDATE SET refs = chunk_refs.refs + excluded.refs
    RETURNING address, refs
), released AS (
    DELETE FROM leases WHERE ctid = ANY (ARRAY(
        SELECT lease.ctid FROM unnest($2::bytea[]) AS named (address)
        CROSS JOIN LATERAL (
            SELECT l.ctid FROM leases l
            WHERE l.space_id = $1 AND l.address = named.address LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS lease
    ))
)
SELECT page.refs
FROM unnest($2::bytea[], $4::integer[]) AS named (address, refs)
JOIN counted ON counted.address = named.address AND counted.refs = named.refs
CROSS JOIN LATERAL (
    SELECT p.refs FROM page_refs p WHERE p.space_id = $1 AND p.address = named.address LIMIT 1
) AS page
"""

_MERKLE = """
INSERT INTO merkle_buckets AS known (space_id, bucket, sum)
SELECT $1, bucket, amount::numeric FROM unnest($2::integer[], $3::text[]) AS delta (bucket, amount)
ON CONFLICT (space_id, bucket) DO UPDATE
    SET sum = mod(known.sum + excluded.sum, 2::numeric ^ 256)
"""

_USED = "UPDATE users SET used_storage = used_storage + $2 WHERE user_id = $1"


async def write(connection: asyncpg.Connection, batch: Batch) -> None:
    """Write a batch; see `Turn.write`. Raises Overtaken when the space's head has moved."""
    moved = await connection.execute(_HEAD, batch.space, batch.prev_seq, batch.head_seq, batch.head)
    if moved != "UPDATE 1":
        raise Overtaken(f"the journal no longer stands at {batch.prev_seq}")
    if batch.nodes:
        await _write_nodes(connection, batch)
    if batch.versions:
        await _write_versions(connection, batch)
    await _mark_current(connection, batch)
    if batch.rows:
        await _write_rows(connection, batch)
    if batch.chunks:
        await _write_chunks(connection, batch)
    if batch.versions:
        await _count(connection, batch.space, _named(batch.versions))
    if batch.merkle:
        amounts = [str(amount % (1 << 256)) for amount in batch.merkle.values()]
        await connection.execute(_MERKLE, batch.space, list(batch.merkle), amounts)
    if batch.used_delta_bytes:
        await connection.execute(_USED, batch.owner, batch.used_delta_bytes)


def _columns(records: Sequence[Any], *names: str) -> list[list[Any]]:
    return [[getattr(record, name) for record in records] for name in names]


async def _write_nodes(connection: asyncpg.Connection, batch: Batch) -> None:
    nodes: tuple[Node, ...] = batch.nodes
    await connection.execute(
        _NODES,
        batch.space,
        batch.owner,
        batch.at_ms,
        *_columns(nodes, "node", "parent", "place_rev", "sealed_name", "token", "name_epoch"),
        *_columns(nodes, "type", "size_bytes", "content_id", "version_number"),
        [pack_vector(node.vector) for node in nodes],
        *_columns(nodes, "created_ms", "modified_ms", "conflicted", "alive", "head"),
        *_columns(nodes, "hlc", "device", "place_hash", "manifest_hash"),
    )


async def _write_versions(connection: asyncpg.Connection, batch: Batch) -> None:
    versions: tuple[Version, ...] = batch.versions
    heads = {node.head for node in batch.nodes}
    await connection.execute(
        _VERSIONS,
        batch.space,
        *_columns(versions, "version", "node", "number", "content_id", "created_ms"),
        [version.version in heads for version in versions],
        *_columns(versions, "manifest", "manifest_key_epoch"),
        [pack_refs(version.refs) for version in versions],
        *_columns(versions, "paged", "size_bytes"),
        [pack_vector(version.vector) for version in versions],
        *_columns(versions, "device", "hlc", "prev"),
    )


async def _mark_current(connection: asyncpg.Connection, batch: Batch) -> None:
    """Move the mark of nodes that had a head before: any but those with their first version."""
    first = {version.version for version in batch.versions if version.number == 1}
    nodes = [node for node in batch.nodes if node.head is not None and node.head not in first]
    if nodes:
        await connection.execute(_CURRENT, batch.space, *_columns(nodes, "node", "head"))


async def _write_rows(connection: asyncpg.Connection, batch: Batch) -> None:
    rows: tuple[NewRow, ...] = batch.rows
    await connection.execute(
        _ROWS,
        batch.space,
        batch.owner,
        batch.at_ms,
        *_columns(rows, "seq", "node", "event", "device", "dot", "kind", "commit", "raw", "hash"),
    )
    proof = batch.proof
    if proof is not None:
        await connection.execute(
            _PROOF,
            batch.space,
            proof.commit,
            proof.header,
            proof.signature,
            proof.leaves,
            proof.device,
            proof.op,
            batch.at_ms,
        )


async def _write_chunks(connection: asyncpg.Connection, batch: Batch) -> None:
    """Make chunks known that were stored with the commit; lease those that nothing refers to.

    In the order of addresses, so that two commits that bring the same chunks cannot deadlock.
    """
    in_order = sorted(batch.chunks, key=lambda chunk: chunk.address)
    chunks: dict[bytes, Chunk] = {chunk.address: chunk for chunk in in_order}
    addresses, sizes = _columns(list(chunks.values()), "address", "size_bytes")
    await connection.execute(_CHUNKS, addresses, sizes, batch.at_ms)
    pages = [chunk for chunk in chunks.values() if chunk.refs]
    if pages:
        lists = [pack_refs(page.refs) for page in pages]
        await connection.execute(
            _PAGES, batch.space, [page.address for page in pages], lists, batch.at_ms
        )
    named = _named(batch.versions)
    waiting = [chunk for chunk in chunks.values() if chunk.address not in named]
    if waiting:
        device = batch.proof.device if batch.proof else b""
        expires_ms = batch.at_ms + limits.LEASE_S * 1000
        leased = _columns(waiting, "address", "size_bytes")
        await connection.execute(_LEASE, batch.space, *leased, device, expires_ms)


Named = Mapping[bytes, tuple[int, int]]  # address -> (size in bytes, how many name it)


def _named(holders: Iterable[Version]) -> Named:
    return _tally({ref.address: ref for ref in version.refs} for version in holders)


def _tally(lists: Iterable[Mapping[bytes, ChunkRef]]) -> Named:
    """Count by how many lists each chunk is named; once per list, however often it stands there."""
    named: dict[bytes, tuple[int, int]] = {}
    for refs in lists:
        for address, ref in refs.items():
            size_bytes, count = named.get(address, (ref.size_bytes, 0))
            named[address] = size_bytes, count + 1
    return named


async def _count(connection: asyncpg.Connection, space: bytes, named: Named) -> None:
    """Count references; what pages list is counted when the page itself is referred to first."""
    pages = await _add(connection, space, named)
    if pages:
        lists = [{ref.address: ref for ref in unpack_refs(page)} for page in pages]
        await _add(connection, space, _tally(lists))


async def _add(connection: asyncpg.Connection, space: bytes, named: Named) -> list[bytes]:
    if not named:
        return []
    addresses = sorted(named)
    sizes = [named[address][0] for address in addresses]
    counts = [named[address][1] for address in addresses]
    rows = await connection.fetch(_COUNT, space, addresses, sizes, counts)
    return [row["refs"] for row in rows]
