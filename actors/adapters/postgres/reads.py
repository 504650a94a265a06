"""What devices read: journals, heads, listings, versions. No actor is asked (law 3).

Every method takes the ids of the account that asks or a space whose membership was checked, and
raises Unreachable when the database is away.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.adapters.postgres.borrow import Pool, borrowed
from actors.adapters.postgres.packing import unpack_refs, unpack_vector
from protocol.entry import ChunkRef, NodeType, Place
from protocol.journal import CommitProof
from protocol.messages import Role
from protocol.messages.device import SpaceList, SpaceRow
from protocol.messages.listing import ConflictList, ConflictRow, FileList, FileRow
from protocol.messages.sync import Head

_ROWS = """
SELECT event_id, raw, commit_hash FROM (
    SELECT event_id, raw, commit_hash,
           sum(length(raw)) OVER (ORDER BY event_id) - length(raw) AS before_bytes
    FROM (SELECT event_id, raw, commit_hash FROM sync_events
          WHERE space_id = $1 AND event_id > $2 ORDER BY event_id LIMIT $3) AS page
) AS counted
WHERE before_bytes = 0 OR before_bytes + length(raw) <= $4::bigint ORDER BY event_id
"""
_SPACES = """
SELECT s.*, m.role, u.identity_sign, s.home AND s.owner_id = m.user_id AS mine
FROM members m JOIN spaces s USING (space_id) JOIN users u ON u.user_id = s.owner_id
WHERE m.user_id = $1 ORDER BY mine DESC, s.created_at, s.space_id
"""
# A cursor never moves back in a history, and never passes what there is (I7).
_CURSORS = """
INSERT INTO device_cursors (device_id, space_id, history_id, seq, hash, updated_at)
SELECT $1, new.space_id, new.history_id, new.seq, new.hash, $7
FROM unnest($3::bytea[], $4::bytea[], $5::bigint[], $6::bytea[])
     AS new (space_id, history_id, seq, hash)
JOIN members m ON m.space_id = new.space_id AND m.user_id = $2
JOIN spaces s ON s.space_id = new.space_id
     AND s.history_id = new.history_id AND s.head_seq >= new.seq
ORDER BY new.space_id
ON CONFLICT (device_id, space_id) DO UPDATE
SET history_id = excluded.history_id, seq = excluded.seq, hash = excluded.hash,
    updated_at = excluded.updated_at
WHERE device_cursors.history_id <> excluded.history_id OR device_cursors.seq <= excluded.seq
"""
_FILES = """
SELECT f.*, v.manifest_key_epoch FROM files f
LEFT JOIN file_versions v ON v.space_id = f.space_id AND v.version_id = f.head_version
WHERE f.space_id = $1 AND f.alive AND f.file_id > $2 AND ($3::bytea IS NULL OR f.parent_id = $3)
ORDER BY f.file_id LIMIT $4
"""
_CONFLICTS = """
SELECT c.* FROM conflicts c JOIN members m ON m.space_id = c.space_id AND m.user_id = $1
WHERE c.conflict_id > $2 AND ($3::bytea IS NULL OR c.space_id = $3)
  AND ($4::text[] IS NULL OR c.state = ANY ($4))
ORDER BY c.conflict_id LIMIT $5
"""


@dataclass(frozen=True, slots=True)
class Member:
    """An account's seat in a space, and where the space stands."""

    role: Role
    owner: bytes
    history: bytes
    head_seq: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Stored:
    """A version as a download needs it. `refs` are pages if `paged`."""

    version: bytes
    manifest: bytes
    refs: tuple[ChunkRef, ...]
    paged: bool


class Reads:
    """Queries over the schema `metadata`."""

    def __init__(self, pool: Pool) -> None:
        """Borrow connections from `pool`."""
        self._pool = pool

    async def member(self, space: bytes, account: bytes) -> Member | None:
        """Return the account's seat in a space, None if it has none there."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT m.role, s.owner_id, s.history_id, s.head_seq, s.head_hash"
                " FROM members m JOIN spaces s USING (space_id)"
                " WHERE m.space_id = $1 AND m.user_id = $2",
                space,
                account,
            )
        if row is None:
            return None
        return Member(
            role=Role(row["role"]),
            owner=row["owner_id"],
            history=row["history_id"],
            head_seq=row["head_seq"],
            head=row["head_hash"],
        )

    async def spaces(self, account: bytes) -> SpaceList:
        """Return the spaces of an account, its home first."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_SPACES, account)
        return SpaceList(spaces=tuple(map(_space, rows)))

    async def heads(self, account: bytes) -> tuple[Head, ...]:
        """Return where the journals of an account's spaces stand."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT s.space_id, s.history_id, s.head_seq, s.head_hash"
                " FROM members m JOIN spaces s USING (space_id) WHERE m.user_id = $1",
                account,
            )
        return tuple(
            Head(row["space_id"], row["history_id"], row["head_seq"], row["head_hash"])
            for row in rows
        )

    async def changes(
        self, space: bytes, after: int, limit: int, bytes_max: int
    ) -> tuple[list[bytes], tuple[CommitProof, ...]]:
        """Return rows after `after`, without a gap, and the proofs of their commits, each once.

        At most `limit` rows; at most `bytes_max` of rows, but one row at least.
        """
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_ROWS, space, after, limit, bytes_max)
            hashes = list(dict.fromkeys(row["commit_hash"] for row in rows if row["commit_hash"]))
            proofs = await connection.fetch(
                "SELECT commit_hash, header, signature, leaves FROM commits"
                " WHERE space_id = $1 AND commit_hash = ANY ($2)",
                space,
                hashes,
            )
        by_hash = {
            row["commit_hash"]: CommitProof(row["header"], row["signature"], row["leaves"])
            for row in proofs
        }
        return [row["raw"] for row in rows], tuple(by_hash[commit] for commit in hashes)

    async def seen(
        self, account: bytes, device: bytes, cursors: Sequence[Head], now_ms: int
    ) -> None:
        """Keep how far a device has applied its journals, and that it lives. Safe to repeat."""
        once = list({cursor.space: cursor for cursor in cursors}.values())
        async with borrowed(self._pool, transaction=True, forgettable=True) as connection:
            await connection.execute(
                "UPDATE devices SET last_seen = $2 WHERE device_id = $1", device, now_ms
            )
            if once:
                await connection.execute(
                    _CURSORS,
                    device,
                    account,
                    [cursor.space for cursor in once],
                    [cursor.history for cursor in once],
                    [cursor.seq for cursor in once],
                    [cursor.hash for cursor in once],
                    now_ms,
                )

    async def files(self, space: bytes, parent: bytes | None, after: bytes, limit: int) -> FileList:
        """Return live nodes of one directory (None: of the space) with ids above `after`."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_FILES, space, after, parent, limit + 1)
        files = tuple(map(_file, rows[:limit]))
        following = files[-1].file_id if len(rows) > limit else None
        return FileList(space=space, files=files, next=following)

    async def conflicts(
        self,
        account: bytes,
        space: bytes | None,
        states: Sequence[str] | None,
        after: bytes,
        limit: int,
    ) -> ConflictList:
        """Return conflicts of the account's spaces with ids above `after`."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(_CONFLICTS, account, after, space, states, limit + 1)
        conflicts = tuple(map(_conflict, rows[:limit]))
        following = conflicts[-1].conflict if len(rows) > limit else None
        return ConflictList(conflicts=conflicts, next=following)

    async def version(self, space: bytes, file: bytes, version: bytes | None) -> Stored | None:
        """Return a version of a file; None asks for the head of a live one."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT v.version_id, v.manifest, v.refs, v.paged FROM file_versions v"
                " JOIN files f USING (space_id, file_id) WHERE space_id = $1 AND file_id = $2"
                " AND CASE WHEN $3::bytea IS NULL THEN f.alive AND v.version_id = f.head_version"
                " ELSE v.version_id = $3 END",
                space,
                file,
                version,
            )
        if row is None:
            return None
        return Stored(row["version_id"], row["manifest"], unpack_refs(row["refs"]), row["paged"])

    async def pages(
        self, space: bytes, addresses: Iterable[bytes]
    ) -> dict[bytes, tuple[ChunkRef, ...]]:
        """Return what pages of a space list, by their addresses."""
        async with borrowed(self._pool) as connection:
            rows = await connection.fetch(
                "SELECT address, refs FROM page_refs WHERE space_id = $1 AND address = ANY ($2)",
                space,
                list(addresses),
            )
        return {row["address"]: unpack_refs(row["refs"]) for row in rows}

    async def upload(self, upload: bytes) -> tuple[bytes, bytes] | None:
        """Return space and owner of an upload session."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT space_id, user_id FROM uploads WHERE upload_id = $1", upload
            )
        return None if row is None else (row["space_id"], row["user_id"])

    async def ping(self) -> None:
        """Ask the database something. Raises Unreachable."""
        async with borrowed(self._pool) as connection:
            await connection.fetchval("SELECT 1")


def _space(row: Any) -> SpaceRow:
    return SpaceRow(
        space=row["space_id"],
        owner=row["owner_id"],
        owner_identity=row["identity_sign"],
        history=row["history_id"],
        key_epoch=row["key_epoch"],
        head_seq=row["head_seq"],
        head=row["head_hash"],
        policy=row["policy"],
        role=row["role"],
        home=row["mine"],
    )


def _file(row: Any) -> FileRow:
    return FileRow(
        file_id=row["file_id"],
        type=NodeType(row["type"]),
        place=Place(row["parent_id"], row["name_token"], row["file_name"], row["name_epoch"]),
        place_rev=row["place_rev"],
        created_ms=row["created_at"],
        modified_ms=row["modified_at"],
        version=row["head_version"],
        version_number=row["version_number"],
        vector=unpack_vector(row["version_vector"]),
        content_id=row["checksum"] or None,
        key_epoch=row["manifest_key_epoch"],
        size_bytes=row["file_size"],
        conflicted=row["conflict_status"] != "none",
    )


def _conflict(row: Any) -> ConflictRow:
    return ConflictRow(
        conflict=row["conflict_id"],
        space=row["space_id"],
        node=row["file_id"],
        state=row["state"],
        policy=row["policy"],
        head=row["head"],
        loser=row["loser"],
        head_device=row["head_device"],
        loser_device=row["loser_device"],
        seq=row["seq"],
        opened_ms=row["opened_at"],
        copy=row["copy_id"],
        closed_ms=row["closed_at"],
    )
