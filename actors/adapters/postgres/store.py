"""The Store on PostgreSQL: one turn is one transaction on one connection (law 1)."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import asyncpg

from actors.adapters.postgres import journal, mailbox, view
from actors.adapters.postgres.packing import conflict_of, pack_refs, upload_of
from actors.adapters.postgres.trouble import translated
from actors.outbox import Speaker
from actors.ports import Address, Outgoing
from actors.records import Batch, Conflict, Space, StoredAnswer, Upload, View, Wanted
from actors.turn import Words
from protocol.messages import Role

ACQUIRE_TIMEOUT_S = 5.0  # for a free connection of the pool; then the store counts as away

# Locks the owner's row too: his used bytes stay as read until the turn has added its own.
_SPACE = """
SELECT s.*, u.account_status, u.storage_quota, u.used_storage
FROM spaces s JOIN users u ON u.user_id = s.owner_id
WHERE s.space_id = $1
FOR NO KEY UPDATE OF s, u
"""

_ROLE = "SELECT role FROM members WHERE space_id = $1 AND user_id = $2"

_LOCK_SPACE = "SELECT FROM spaces WHERE space_id = $1 FOR NO KEY UPDATE"

_UPLOAD = "SELECT * FROM uploads WHERE upload_id = $1 FOR UPDATE"

_RESERVE = """
UPDATE users SET used_storage = used_storage + $2
WHERE user_id = $1 AND ($2::bigint <= 0 OR used_storage + $2 <= storage_quota)
"""

_PUT_UPLOAD = """
INSERT INTO uploads AS known (
    upload_id, user_id, space_id, device_id, state, refs, reserved_bytes, expires_at, created_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

_REPLACE_UPLOAD = """
ON CONFLICT (upload_id) DO UPDATE SET
    user_id = excluded.user_id, space_id = excluded.space_id, device_id = excluded.device_id,
    state = excluded.state, refs = excluded.refs, reserved_bytes = excluded.reserved_bytes,
    expires_at = excluded.expires_at
"""

_CONFLICTS = """
SELECT * FROM conflicts WHERE space_id = $1 AND file_id = $2 AND state <> 'resolved'
ORDER BY seq, conflict_id
"""

_CONFLICT = "SELECT * FROM conflicts WHERE conflict_id = $1"

_PUT_CONFLICT = """
INSERT INTO conflicts (
    conflict_id, space_id, file_id, state, policy, head, loser, head_device, loser_device, seq,
    opened_at, copy_id, closed_at
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (conflict_id) DO UPDATE SET
    state = excluded.state, policy = excluded.policy, head = excluded.head,
    loser = excluded.loser, head_device = excluded.head_device,
    loser_device = excluded.loser_device, seq = excluded.seq, opened_at = excluded.opened_at,
    copy_id = excluded.copy_id, closed_at = excluded.closed_at
"""

_FLAG = """
UPDATE files SET conflict_status = CASE WHEN EXISTS (
    SELECT FROM conflicts c WHERE c.space_id = $1 AND c.file_id = $2 AND c.state <> 'resolved'
) THEN 'open' ELSE 'none' END
WHERE space_id = $1 AND file_id = $2
"""

_OPEN = "SELECT count(*) FROM conflicts WHERE space_id = $1 AND state <> 'resolved'"


class PostgresTurn(Words):
    """A turn on its connection; see `Turn`. Its statements run one after the other."""

    def __init__(self, address: Address, now_ms: int, connection: asyncpg.Connection) -> None:
        """Begin the turn in the transaction that is open on `connection`."""
        super().__init__(address, now_ms)
        self._connection = connection
        self._new_uploads: set[bytes] = set()

    async def answered(self, message_id: bytes) -> StoredAnswer | None:
        """See Turn."""
        for known, stored in self.answers:
            if known == message_id:
                return stored
        return await mailbox.answered(self._connection, self.address, message_id)

    async def forget_answers(self, device: bytes, upto_op: int) -> None:
        """See Turn."""
        await mailbox.forget(self._connection, self.address, device, upto_op)

    async def space(self, space: bytes, account: bytes) -> Space | None:
        """See Turn. The lock is the database's: it holds against every other host."""
        row = await self._connection.fetchrow(_SPACE, space)
        if row is None:
            return None
        role: Role | None = Role.OWNER
        if account != row["owner_id"]:
            # Asked when the lock is held: a role that changed while we waited counts.
            found = await self._connection.fetchval(_ROLE, space, account)
            role = None if found is None else Role(found)
        return Space(
            space=space,
            owner=row["owner_id"],
            history=row["history_id"],
            key_epoch=row["key_epoch"],
            head_seq=row["head_seq"],
            head=row["head_hash"],
            policy=row["policy"],
            role=role,
            suspended=row["account_status"] == "suspended",
            quota_bytes=row["storage_quota"],
            used_bytes=row["used_storage"],
        )

    async def look(self, space: bytes, device: bytes, wanted: Wanted) -> View:
        """See Turn."""
        return await view.look(self._connection, self.address, space, device, wanted, self.now_ms)

    async def write(self, batch: Batch) -> None:
        """See Turn."""
        await journal.write(self._connection, batch)

    async def missing(self, space: bytes, addresses: Iterable[bytes]) -> frozenset[bytes]:
        """See Turn."""
        return await view.missing_chunks(self._connection, space, addresses, self.now_ms)

    async def upload(self, upload: bytes) -> Upload | None:
        """See Turn."""
        row = await self._connection.fetchrow(_UPLOAD, upload)
        if row is None:
            self._new_uploads.add(upload)
            return None
        return upload_of(row)

    async def put_upload(self, upload: Upload, reserve_delta_bytes: int) -> bool:
        """See Turn."""
        if reserve_delta_bytes:
            paid = await self._connection.execute(_RESERVE, upload.owner, reserve_delta_bytes)
            if paid != "UPDATE 1":
                return False
        # One that was not there must still not be there: else two hosts would both reserve.
        new = upload.upload in self._new_uploads
        self._new_uploads.discard(upload.upload)
        await self._connection.execute(
            _PUT_UPLOAD if new else _PUT_UPLOAD + _REPLACE_UPLOAD,
            upload.upload,
            upload.owner,
            upload.space,
            upload.device,
            upload.state,
            pack_refs(upload.refs),
            upload.reserved_bytes,
            upload.expires_ms,
            self.now_ms,
        )
        return True

    async def conflicts(self, space: bytes, node: bytes) -> list[Conflict]:
        """See Turn. Locks the space, so that nobody else resolves one meanwhile."""
        await self._connection.execute(_LOCK_SPACE, space)
        rows = await self._connection.fetch(_CONFLICTS, space, node)
        return [conflict_of(row) for row in rows]

    async def conflict(self, conflict: bytes) -> Conflict | None:
        """See Turn. Locks the conflict's space."""
        row = await self._connection.fetchrow(_CONFLICT, conflict)
        if row is None:
            return None
        await self._connection.execute(_LOCK_SPACE, row["space_id"])
        row = await self._connection.fetchrow(_CONFLICT, conflict)
        return None if row is None else conflict_of(row)

    async def put_conflict(self, conflict: Conflict) -> None:
        """See Turn."""
        await self._connection.execute(_LOCK_SPACE, conflict.space)
        await self._connection.execute(
            _PUT_CONFLICT,
            conflict.conflict,
            conflict.space,
            conflict.node,
            conflict.state,
            conflict.policy,
            conflict.head,
            conflict.loser,
            conflict.head_device,
            conflict.loser_device,
            conflict.seq,
            conflict.opened_ms,
            conflict.copy,
            conflict.closed_ms,
        )
        await self._connection.execute(_FLAG, conflict.space, conflict.node)

    async def open_conflicts(self, space: bytes) -> int:
        """See Turn."""
        count: int = await self._connection.fetchval(_OPEN, space)
        return count

    async def finish(self) -> list[Outgoing]:
        """Write what was answered and told; return the rows that are due. Last before commit."""
        told = self.outbox()
        await mailbox.write_answers(self._connection, self.address, self.answers, self.now_ms)
        if not told:
            return []
        ids = await mailbox.write_told(self._connection, told, self.now_ms)
        return [
            row.outgoing(id_)
            for id_, row in zip(ids, told, strict=True)
            if row.due_ms <= self.now_ms
        ]


class PostgresStore:
    """See Store. Safe to share between all the hosts of a process."""

    def __init__(
        self, pool: asyncpg.Pool, speaker: Speaker | None, now_ms: Callable[[], int]
    ) -> None:
        """`pool` comes from `open_pool`, and so the namespace; `now_ms` is the wall clock.

        `speaker` None: nothing is sent, messages stay in the outbox for a relay.
        """
        self._pool = pool
        self._speaker = speaker
        self._now_ms = now_ms

    @asynccontextmanager
    async def turn(self, address: Address) -> AsyncIterator[PostgresTurn]:
        """See Store."""
        with translated():
            async with (
                self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection,
                connection.transaction(),
            ):
                turn = PostgresTurn(address, self._now_ms(), connection)
                yield turn
                due = await turn.finish()
        later = [row.due_ms for row in turn.outbox() if row.due_ms > turn.now_ms]
        if self._speaker is not None and (due or later or turn.nudges):
            self._speaker.say(due, turn.nudges, self.delivered, min(later, default=None))

    async def outgoing(self, limit: int, older_than_ms: int) -> list[Outgoing]:
        """See Store. A row that is not delivered comes again `older_than_ms` after its claim."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                return await mailbox.claim(connection, self._now_ms(), limit, older_than_ms)

    async def delivered(self, ids: Sequence[int]) -> None:
        """See Store. Safe to repeat."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                await mailbox.delivered(connection, ids)
