"""`look`: all that a turn must know before it decides, in at most seven queries whatever it is."""

from collections.abc import Iterable

import asyncpg

from actors.adapters.postgres.packing import node_of, unpack_refs, version_of
from actors.ports import Address
from actors.records import Held, Node, Version, View, Wanted
from protocol import limits

# Plans must not depend on statistics: those of a young table make PostgreSQL read a whole space for
# each key. So keys are looked up one by one (`LATERAL (… LIMIT 1)` cannot become another join), and
# one index fits each look-up: where it is not the primary key, the space is compared with `IS NOT
# DISTINCT FROM`, which no index serves. (Other ids are random: they alone are selective enough.)

# UNION, not UNION ALL: a directory that many wanted nodes share is walked once.
_NODES = """
WITH RECURSIVE found (file_id, parent_id) AS (
    (
        SELECT node.* FROM unnest($2::bytea[]) AS wanted (file_id)
        CROSS JOIN LATERAL (
            SELECT f.file_id, f.parent_id FROM files f
            WHERE f.space_id = $1 AND f.file_id = wanted.file_id LIMIT 1
        ) AS node
        UNION
        SELECT node.* FROM unnest($3::bytea[], $4::bytea[]) AS wanted (parent_id, name_token)
        CROSS JOIN LATERAL (
            SELECT f.file_id, f.parent_id FROM files f
            WHERE f.parent_id = wanted.parent_id AND f.name_token = wanted.name_token
                AND f.alive AND f.space_id IS NOT DISTINCT FROM $1 LIMIT 1
        ) AS node
    )
    UNION
    SELECT node.* FROM found
    CROSS JOIN LATERAL (
        SELECT f.file_id, f.parent_id FROM files f
        WHERE f.space_id = $1 AND f.file_id = found.parent_id LIMIT 1
    ) AS node
)
SELECT node.* FROM found
CROSS JOIN LATERAL (
    SELECT * FROM files f WHERE f.space_id = $1 AND f.file_id = found.file_id LIMIT 1
) AS node
"""

# A commit cannot delete more than COMMIT_CHANGES_MAX children: one more says "not empty" for sure.
_CHILDREN = """
SELECT emptied.parent_id, child.file_id
FROM unnest($2::bytea[]) AS emptied (parent_id)
CROSS JOIN LATERAL (
    SELECT f.file_id FROM files f
    WHERE f.parent_id = emptied.parent_id AND f.alive AND f.space_id IS NOT DISTINCT FROM $1
    LIMIT $3
) AS child
"""

_VERSIONS = """
SELECT version.* FROM unnest($2::bytea[]) AS wanted (version_id)
CROSS JOIN LATERAL (
    SELECT * FROM file_versions v
    WHERE v.space_id = $1 AND v.version_id = wanted.version_id LIMIT 1
) AS version
"""

_HELD = """
SELECT wanted.address, counted.refs AS counted, page.refs AS listed,
    coalesce(counted.size_bytes, CASE WHEN leased.expires_at > $3 THEN leased.size_bytes END)
        AS size_bytes
FROM unnest($2::bytea[]) AS wanted (address)
LEFT JOIN LATERAL (
    SELECT c.size_bytes, c.refs FROM chunk_refs c
    WHERE c.space_id = $1 AND c.address = wanted.address AND c.refs > 0 LIMIT 1
) AS counted ON true
LEFT JOIN LATERAL (
    SELECT l.size_bytes, l.expires_at FROM leases l
    WHERE l.space_id = $1 AND l.address = wanted.address LIMIT 1
) AS leased ON true
LEFT JOIN LATERAL (
    SELECT p.refs FROM page_refs p WHERE p.space_id = $1 AND p.address = wanted.address LIMIT 1
) AS page ON true
"""

_MISSING = """
SELECT wanted.address FROM unnest($2::bytea[]) AS wanted (address)
WHERE (
    SELECT true FROM chunk_refs c
    WHERE c.space_id = $1 AND c.address = wanted.address AND c.refs > 0 LIMIT 1
) IS NULL AND (
    SELECT l.expires_at > $3 FROM leases l
    WHERE l.space_id = $1 AND l.address = wanted.address LIMIT 1
) IS NOT TRUE
"""

# A device's dots rise: their range is one short look per partition, also when there are many
# partitions; `+ 0` keeps the list itself out of the index condition.
_DOTS = """
SELECT upto_op AS number, NULL AS raw FROM answered_ops
WHERE kind = $6 AND key = $7 AND device_id = $2
UNION ALL
SELECT dot, raw FROM sync_events
WHERE client_id = $2 AND dot > 0 AND dot BETWEEN $3 AND $4 AND dot + 0 = ANY($5::bigint[])
    AND space_id IS NOT DISTINCT FROM $1
"""


async def look(
    connection: asyncpg.Connection,
    address: Address,
    space: bytes,
    device: bytes,
    wanted: Wanted,
    now_ms: int,
) -> View:
    """Return what the store knows of `wanted`; see `Turn.look`."""
    nodes = await _nodes(connection, space, wanted)
    held, missing = await _held(connection, space, wanted.chunks, now_ms)
    answered_op, dots = await _dots(connection, address, space, device, wanted.dots)
    return View(
        nodes=nodes,
        holders={
            (node.parent, node.token): node.node
            for node in nodes.values()
            if node.alive and (node.parent, node.token) in wanted.tokens
        },
        children=await _children(connection, space, wanted.emptied),
        versions=await _versions(connection, space, wanted.versions),
        held=held,
        missing=missing,
        dots=dots,
        answered_op=answered_op,
    )


async def missing_chunks(
    connection: asyncpg.Connection, space: bytes, addresses: Iterable[bytes], now_ms: int
) -> frozenset[bytes]:
    """Return which chunks the space neither refers to nor leases."""
    rows = await connection.fetch(_MISSING, space, list(addresses), now_ms)
    return frozenset(row["address"] for row in rows)


async def _nodes(connection: asyncpg.Connection, space: bytes, wanted: Wanted) -> dict[bytes, Node]:
    if not (wanted.nodes or wanted.tokens):
        return {}
    tokens = list(wanted.tokens)
    rows = await connection.fetch(
        _NODES,
        space,
        list(wanted.nodes),
        [parent for parent, _ in tokens],
        [token for _, token in tokens],
    )
    return {row["file_id"]: node_of(row) for row in rows}


async def _children(
    connection: asyncpg.Connection, space: bytes, emptied: frozenset[bytes]
) -> dict[bytes, frozenset[bytes]]:
    if not emptied:
        return {}
    children: dict[bytes, set[bytes]] = {parent: set() for parent in emptied}
    rows = await connection.fetch(_CHILDREN, space, list(emptied), limits.COMMIT_CHANGES_MAX + 1)
    for row in rows:
        children[row["parent_id"]].add(row["file_id"])
    return {parent: frozenset(found) for parent, found in children.items()}


async def _versions(
    connection: asyncpg.Connection, space: bytes, versions: frozenset[bytes]
) -> dict[bytes, Version]:
    if not versions:
        return {}
    rows = await connection.fetch(_VERSIONS, space, list(versions))
    return {row["version_id"]: version_of(row) for row in rows}


async def _held(
    connection: asyncpg.Connection, space: bytes, chunks: Iterable[bytes], now_ms: int
) -> tuple[dict[bytes, Held], frozenset[bytes]]:
    held: dict[bytes, Held] = {}
    missing: set[bytes] = set()
    pending = set(chunks)
    for _ in range(2):  # what is wanted, then what the pages among it list; pages list no pages
        if not pending:
            break
        listed: set[bytes] = set()
        for row in await connection.fetch(_HELD, space, list(pending), now_ms):
            address, size_bytes = row["address"], row["size_bytes"]
            if size_bytes is None:
                missing.add(address)
                continue
            refs = unpack_refs(row["listed"] or b"")
            held[address] = Held(size_bytes, row["counted"] is not None, refs)
            listed.update(ref.address for ref in refs)
        pending = listed - held.keys() - missing
    return held, frozenset(missing)


async def _dots(
    connection: asyncpg.Connection,
    address: Address,
    space: bytes,
    device: bytes,
    dots: frozenset[int],
) -> tuple[int, dict[int, bytes]]:
    first, last = (min(dots), max(dots)) if dots else (1, 0)
    rows = await connection.fetch(_DOTS, space, device, first, last, list(dots), *address)
    answered_op = max((row["number"] for row in rows if row["raw"] is None), default=0)
    return answered_op, {row["number"]: row["raw"] for row in rows if row["raw"] is not None}
