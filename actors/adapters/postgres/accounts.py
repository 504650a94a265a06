"""Accounts and devices, as the gateway reads and writes them: no actor owns them.

Every method is one statement or one short transaction, and raises Unreachable when the database is
away. What concerns security leaves a row in the hash-chained audit log, in the same transaction.
"""

import json
from dataclasses import dataclass
from typing import Any

import asyncpg

from actors.adapters.postgres.borrow import Connection, Pool, borrowed
from actors.ports import Overtaken
from protocol.codec import decode, encode, lp, sha256
from protocol.journal import genesis
from protocol.messages import Role
from protocol.messages.device import (
    CertifyDevice,
    DeviceKeys,
    DeviceList,
    DeviceRow,
    Kdf,
    Keyring,
    Register,
    SignedEntry,
    Wraps,
    entry_hash,
)
from protocol.messages.sync import Head

_AUDIT_START = bytes(32)
_TAKEN = {
    "idx_users_username": "username",
    "idx_users_email": "email",
    "users_pkey": "account",
    "devices_pkey": "device",
    "spaces_pkey": "space",
}


class Taken(Exception):
    """Something that must be unique is not: `what` is username, email, account, device, space."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True, slots=True)
class Account:
    """An account's row, whole."""

    account: bytes
    username: str
    email: str
    auth_hash: str
    kdf: Kdf
    wraps: Wraps
    keyring: Keyring
    active: bool


class Accounts:
    """Queries over the schema `accounts`."""

    def __init__(self, pool: Pool) -> None:
        """Borrow connections from `pool`."""
        self._pool = pool

    async def kdf(self, username: str) -> Kdf | None:
        """Return how an account derives its keys."""
        sql = (
            "SELECT kdf_salt_seed, kdf_memory_kib, kdf_time, kdf_lanes"
            " FROM users WHERE username = $1"
        )
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(sql, username)
        return None if row is None else _kdf(row)

    async def by_name(self, username: str) -> Account | None:
        """Return the account of a name."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow("SELECT * FROM users WHERE username = $1", username)
        return None if row is None else _account(row)

    async def by_id(self, account: bytes) -> Account | None:
        """Return an account."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow("SELECT * FROM users WHERE user_id = $1", account)
        return None if row is None else _account(row)

    async def register(
        self, asked: Register, auth_hash: str, quota_bytes: int, now_ms: int
    ) -> None:
        """Make account, device, device entry, home space, membership and keyring, or nothing.

        Raises Taken. The caller has checked the entry.
        """
        try:
            async with borrowed(self._pool, transaction=True) as connection:
                await _insert_account(connection, asked, auth_hash, quota_bytes, now_ms)
                await insert_device(connection, asked.account, asked.device, now_ms)
                await _append_entry(
                    connection, asked.account, asked.device.device, 1, asked.entry, now_ms
                )
                await connection.execute(
                    "UPDATE devices SET mk_for_device = $2 WHERE device_id = $1",
                    asked.device.device,
                    asked.mk_for_device,
                )
                await _insert_home(connection, asked, now_ms)
                await audit(connection, now_ms, "account_made", asked.account, asked.device.device)
        except Overtaken as error:
            if not isinstance(error.__cause__, asyncpg.UniqueViolationError):
                raise
            raise Taken(_TAKEN.get(error.__cause__.constraint_name or "", "account")) from None

    async def device_keys(self, device: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Return (account, sign, box) of a device, whosever it is."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT user_id, sign, box FROM devices WHERE device_id = $1", device
            )
        return None if row is None else (row["user_id"], row["sign"], row["box"])

    async def rehash(self, account: bytes, auth_hash: str) -> None:
        """Replace the stored proof of the password by one with today's costs."""
        async with borrowed(self._pool) as connection:
            await connection.execute(
                "UPDATE users SET auth_hash = $2 WHERE user_id = $1", account, auth_hash
            )

    async def keyring(self, account: bytes) -> Keyring:
        """Return the account's sealed keyring."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT keyring_rev, keyring FROM users WHERE user_id = $1", account
            )
        return Keyring(rev=row["keyring_rev"], sealed=row["keyring"])

    async def put_keyring(self, account: bytes, keyring: Keyring) -> bool:
        """Replace revision `rev - 1`; False if that is not the present one.

        Repeating what is already there is True: the first answer was lost.
        """
        sql = (
            "UPDATE users SET keyring_rev = $2, keyring = $3 WHERE user_id = $1"
            " AND (keyring_rev = $2::bigint - 1 OR (keyring_rev = $2 AND keyring = $3)) RETURNING 1"
        )
        async with borrowed(self._pool) as connection:
            done = await connection.fetchval(sql, account, keyring.rev, keyring.sealed)
        return done is not None

    async def devices(self, account: bytes, current: bytes) -> DeviceList:
        """Return the account's device list; `current` is the device that asks."""
        async with borrowed(self._pool, transaction=True) as connection:
            entries = await connection.fetch(
                "SELECT entry, signature FROM device_entries WHERE user_id = $1 ORDER BY n",
                account,
            )
            devices = await connection.fetch(
                "SELECT * FROM devices WHERE user_id = $1 ORDER BY created_at, device_id", account
            )
            cursors = await connection.fetch(
                "SELECT c.* FROM device_cursors c JOIN devices d USING (device_id)"
                " WHERE d.user_id = $1 ORDER BY c.space_id",
                account,
            )
        by_device: dict[bytes, list[Head]] = {}
        for row in cursors:
            head = Head(row["space_id"], row["history_id"], row["seq"], row["hash"])
            by_device.setdefault(row["device_id"], []).append(head)
        return DeviceList(
            entries=tuple(SignedEntry(row["entry"], row["signature"]) for row in entries),
            devices=tuple(
                _device(row, current, tuple(by_device.get(row["device_id"], ()))) for row in devices
            ),
        )

    async def certify(
        self, account: bytes, device: bytes, n: int, prev: bytes, asked: CertifyDevice, now_ms: int
    ) -> bool:
        """Append the entry that adds `device`; False if the list's head is not (n - 1, prev).

        True also if exactly this entry is its number n already. The caller has verified it.
        """
        async with borrowed(self._pool, transaction=True) as connection:
            head = await connection.fetchrow(
                "SELECT device_list_n, device_list_hash FROM users WHERE user_id = $1 FOR UPDATE",
                account,
            )
            if head["device_list_n"] != n - 1 or head["device_list_hash"] != prev:
                same = await connection.fetchval(
                    "SELECT entry = $3 AND signature = $4 FROM device_entries"
                    " WHERE user_id = $1 AND n = $2",
                    account,
                    n,
                    asked.entry.entry,
                    asked.entry.signature,
                )
                return bool(same)
            await _append_entry(connection, account, device, n, asked.entry, now_ms)
            await connection.execute(
                "UPDATE devices SET mk_for_device = $2, sealed_name = $3 WHERE device_id = $1",
                device,
                asked.mk_for_device,
                asked.sealed_name,
            )
            await audit(connection, now_ms, "device_certified", account, device)
        return True

    async def revoke_device(self, account: bytes, device: bytes, by: bytes, now_ms: int) -> bool:
        """Bar a device and end its sessions; False if the account has no such device."""
        async with borrowed(self._pool, transaction=True) as connection:
            found = await connection.fetchval(
                "UPDATE devices SET revoked_at = coalesce(revoked_at, $3)"
                " WHERE user_id = $1 AND device_id = $2 RETURNING 1",
                account,
                device,
                now_ms,
            )
            if found is None:
                return False
            await connection.execute(
                "UPDATE refresh_families SET revoked_at = $2"
                " WHERE device_id = $1 AND revoked_at IS NULL",
                device,
                now_ms,
            )
            await audit(connection, now_ms, "device_revoked", account, by, revoked=device.hex())
        return True

    async def note(
        self, now_ms: int, event: str, account: bytes | None, device: bytes | None, **facts: Any
    ) -> None:
        """Write one row of the audit log on its own."""
        async with borrowed(self._pool, transaction=True) as connection:
            await audit(connection, now_ms, event, account, device, **facts)


async def insert_device(
    connection: Connection, account: bytes, keys: DeviceKeys, now_ms: int
) -> None:
    """Insert a device that is not certified yet. Raises UniqueViolationError."""
    await connection.execute(
        "INSERT INTO devices (device_id, user_id, sign, box, sealed_name, created_at, last_seen)"
        " VALUES ($1, $2, $3, $4, $5, $6, $6)",
        keys.device,
        account,
        keys.sign,
        keys.box,
        keys.sealed_name or b"",
        now_ms,
    )


async def audit(
    connection: Connection,
    now_ms: int,
    event: str,
    account: bytes | None,
    device: bytes | None,
    **facts: Any,
) -> None:
    """Append to the audit log, chained to the row before; call last in a transaction.

    hash = SHA-256(LP("sl1/audit", prev, seq, ms, account, device, event, facts as JSON)).
    """
    await connection.execute("SELECT pg_advisory_xact_lock('audit_log'::regclass::oid::bigint)")
    last = await connection.fetchrow("SELECT seq, hash FROM audit_log ORDER BY seq DESC LIMIT 1")
    seq, prev = (last["seq"] + 1, last["hash"]) if last else (1, _AUDIT_START)
    said = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    chained = sha256(lp("sl1/audit", prev, seq, now_ms, account or b"", device or b"", event, said))
    await connection.execute(
        "INSERT INTO audit_log (seq, at, user_id, device_id, event, facts, prev_hash, hash)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        seq,
        now_ms,
        account,
        device,
        event,
        said,
        prev,
        chained,
    )


async def _insert_account(
    connection: Connection, asked: Register, auth_hash: str, quota_bytes: int, now_ms: int
) -> None:
    await connection.execute(
        "INSERT INTO users (user_id, username, email, auth_hash, kdf_salt_seed, kdf_memory_kib,"
        " kdf_time, kdf_lanes, wraps, identity_sign, keyring, created_at, last_login,"
        " storage_quota) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12, $13)",
        asked.account,
        asked.username,
        asked.email.lower(),
        auth_hash,
        asked.kdf.salt_seed,
        asked.kdf.memory_kib,
        asked.kdf.time,
        asked.kdf.lanes,
        encode(asked.wraps),
        asked.wraps.identity_sign,
        asked.keyring,
        now_ms,
        quota_bytes,
    )


async def _insert_home(connection: Connection, asked: Register, now_ms: int) -> None:
    await connection.execute(
        "INSERT INTO spaces (space_id, owner_id, history_id, head_hash, home, created_at)"
        " VALUES ($1, $2, $3, $4, true, $5)",
        asked.home,
        asked.account,
        asked.history,
        genesis(asked.home, asked.history, asked.wraps.identity_sign),
        now_ms,
    )
    await connection.execute(
        "INSERT INTO members (space_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)",
        asked.home,
        asked.account,
        int(Role.OWNER),
        now_ms,
    )


async def _append_entry(
    connection: Connection,
    account: bytes,
    device: bytes,
    n: int,
    signed: SignedEntry,
    now_ms: int,
) -> None:
    await connection.execute(
        "INSERT INTO device_entries (user_id, n, entry, signature, created_at)"
        " VALUES ($1, $2, $3, $4, $5)",
        account,
        n,
        signed.entry,
        signed.signature,
        now_ms,
    )
    await connection.execute(
        "UPDATE users SET device_list_n = $2, device_list_hash = $3 WHERE user_id = $1",
        account,
        n,
        entry_hash(signed),
    )
    await connection.execute(
        "UPDATE devices SET certified = true, entry_n = $2, entry = $3, signature = $4"
        " WHERE device_id = $1",
        device,
        n,
        signed.entry,
        signed.signature,
    )


def _kdf(row: Any) -> Kdf:
    return Kdf(
        salt_seed=row["kdf_salt_seed"],
        memory_kib=row["kdf_memory_kib"],
        time=row["kdf_time"],
        lanes=row["kdf_lanes"],
    )


def _account(row: Any) -> Account:
    return Account(
        account=row["user_id"],
        username=row["username"],
        email=row["email"],
        auth_hash=row["auth_hash"],
        kdf=_kdf(row),
        wraps=decode(row["wraps"], Wraps),
        keyring=Keyring(rev=row["keyring_rev"], sealed=row["keyring"]),
        active=row["account_status"] == "active",
    )


def _device(row: Any, current: bytes, cursors: tuple[Head, ...]) -> DeviceRow:
    signed = None if row["entry"] is None else SignedEntry(row["entry"], row["signature"])
    return DeviceRow(
        device=row["device_id"],
        sign=row["sign"],
        box=row["box"],
        sealed_name=row["sealed_name"],
        signed=signed,
        created_ms=row["created_at"],
        last_seen_ms=row["last_seen"],
        revoked=row["revoked_at"] is not None,
        current=row["device_id"] == current,
        cursors=cursors,
    )
