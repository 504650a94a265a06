"""Inbox and outbox: what an address answered, and what is still to be sent."""

from collections.abc import Sequence

import asyncpg

from actors.ports import Address, Outgoing
from actors.records import StoredAnswer
from actors.turn import Told
from protocol.journal import op_id

_ANSWERED = """
SELECT fingerprint, answer FROM inbox WHERE kind = $1 AND key = $2 AND message_id = $3
"""

_ANSWER = """
INSERT INTO inbox (kind, key, message_id, fingerprint, answer, answered_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""

_FORGET = """
WITH read AS (
    DELETE FROM inbox WHERE kind = $1 AND key = $2 AND message_id BETWEEN $4 AND $5
)
INSERT INTO answered_ops (kind, key, device_id, upto_op) VALUES ($1, $2, $3, $6)
ON CONFLICT (kind, key, device_id) DO UPDATE SET upto_op = excluded.upto_op
    WHERE answered_ops.upto_op < excluded.upto_op
"""

_TELL = """
INSERT INTO outbox (kind, key, envelope, written_at, due_at)
SELECT told.kind, told.key, told.envelope, $4, told.due_at
FROM unnest($1::text[], $2::text[], $3::bytea[], $5::timestamptz[])
    WITH ORDINALITY AS told (kind, key, envelope, due_at, n)
ORDER BY n
RETURNING id
"""

_CLAIM = """
UPDATE outbox SET written_at = $1
WHERE id IN (
    SELECT id FROM outbox WHERE due_at <= $1 AND written_at <= $2
    ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING id, kind, key, envelope
"""


async def answered(
    connection: asyncpg.Connection, address: Address, message_id: bytes
) -> StoredAnswer | None:
    """Return what this address answered to the message, if it did."""
    row = await connection.fetchrow(_ANSWERED, *address, message_id)
    return None if row is None else StoredAnswer(row["fingerprint"], row["answer"])


async def write_answers(
    connection: asyncpg.Connection,
    address: Address,
    answers: Sequence[tuple[bytes, StoredAnswer]],
    now_ms: int,
) -> None:
    """Insert inbox rows. A unique violation means that another host has answered meanwhile."""
    for message_id, stored in answers:  # one, in practice
        await connection.execute(
            _ANSWER, *address, message_id, stored.fingerprint, stored.answer, now_ms
        )


async def forget(
    connection: asyncpg.Connection, address: Address, device: bytes, upto_op: int
) -> None:
    """Drop the inbox rows of a device's ops up to `upto_op`, and remember the greatest."""
    first, last = op_id(device, 0), op_id(device, upto_op)
    await connection.execute(_FORGET, *address, device, first, last, upto_op)


async def write_told(
    connection: asyncpg.Connection, told: Sequence[Told], now_ms: int
) -> list[int]:
    """Insert outbox rows; return their ids in the same order."""
    rows = await connection.fetch(
        _TELL,
        [row.to.kind for row in told],
        [row.to.key for row in told],
        [row.envelope for row in told],
        now_ms,
        [row.due_ms for row in told],
    )
    return [row["id"] for row in rows]


async def claim(
    connection: asyncpg.Connection, now_ms: int, limit: int, older_than_ms: int
) -> list[Outgoing]:
    """Take rows that are due and this old, oldest first. A claimed row counts as new again."""
    rows = await connection.fetch(_CLAIM, now_ms, now_ms - older_than_ms, limit)
    found = [Outgoing(row["id"], Address(row["kind"], row["key"]), row["envelope"]) for row in rows]
    return sorted(found, key=lambda row: row.id)


async def delivered(connection: asyncpg.Connection, ids: Sequence[int]) -> None:
    """Remove outbox rows."""
    await connection.execute("DELETE FROM outbox WHERE id = ANY($1::bigint[])", list(ids))
