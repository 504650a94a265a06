"""Sessions: one refresh family per sign-in of a device, rotated by every refresh.

A family's row knows the number and hash of its present token, and the hash of the one before, which
is good for `GRACE_MS` more: the answer that carried its successor may have been lost.
"""

from enum import Enum
from typing import NamedTuple

from actors.adapters.postgres.accounts import audit, insert_device
from actors.adapters.postgres.borrow import Connection, Pool, borrowed
from protocol import limits
from protocol.messages.device import DeviceKeys

GRACE_MS = 30_000


class Standing(NamedTuple):
    """What a session may do at the moment it was read."""

    account: bytes
    device: bytes
    sign: bytes  # the device's Ed25519 public key
    certified: bool
    active: bool  # the account is not suspended
    alive: bool  # neither session nor device was revoked, and it has not expired
    expires_ms: int


class NewSession(NamedTuple):
    """A family to begin."""

    family: bytes
    token_hash: bytes
    idle_expires_ms: int
    absolute_expires_ms: int


class Turned(Enum):
    """What became of a refresh token."""

    FRESH = "fresh"  # it was the present one; its successor is now
    AGAIN = "again"  # the one before, within its grace: the same successor
    REUSED = "reused"  # an old one: somebody else has it, and the family is over
    GONE = "gone"  # ended, expired or never was


class SignIn(Enum):
    """What became of a sign-in."""

    DONE = "done"
    OTHER_KEYS = "other_keys"  # the device id is known with other keys, or to another account
    REVOKED = "revoked"  # the device was revoked: it needs a new id
    TOO_MANY = "too_many"  # devices


class Sessions:
    """Queries over refresh families."""

    def __init__(self, pool: Pool) -> None:
        """Borrow connections from `pool`."""
        self._pool = pool

    async def begin(
        self, account: bytes, keys: DeviceKeys, session: NewSession, now_ms: int
    ) -> SignIn:
        """Sign a device in; a new one is inserted, uncertified."""
        async with borrowed(self._pool, transaction=True) as connection:
            # one at a time per account, so that the limit of devices holds
            await connection.execute("SELECT 1 FROM users WHERE user_id = $1 FOR UPDATE", account)
            refused = await _admit(connection, account, keys, now_ms)
            if refused is not None:
                return refused
            await connection.execute(
                "INSERT INTO refresh_families (family_id, user_id, device_id, token_hash,"
                " rotated_at, created_at, idle_expires_at, absolute_expires_at)"
                " VALUES ($1, $2, $3, $4, $5, $5, $6, $7)",
                session.family,
                account,
                keys.device,
                session.token_hash,
                now_ms,
                session.idle_expires_ms,
                session.absolute_expires_ms,
            )
            await connection.execute(
                "UPDATE users SET last_login = $2 WHERE user_id = $1", account, now_ms
            )
            await audit(connection, now_ms, "signed_in", account, keys.device)
        return SignIn.DONE

    async def standing(self, family: bytes, now_ms: int) -> Standing | None:
        """Return how a session stands, None if there is none."""
        async with borrowed(self._pool) as connection:
            row = await connection.fetchrow(
                "SELECT f.user_id, f.device_id, d.sign, d.certified,"
                " u.account_status = 'active' AS active,"
                " f.revoked_at IS NULL AND d.revoked_at IS NULL"
                " AND least(f.idle_expires_at, f.absolute_expires_at) > $2 AS alive,"
                " least(f.idle_expires_at, f.absolute_expires_at) AS expires_at"
                " FROM refresh_families f JOIN devices d USING (device_id)"
                " JOIN users u ON u.user_id = f.user_id WHERE f.family_id = $1",
                family,
                now_ms,
            )
        if row is None:
            return None
        return Standing(
            account=row["user_id"],
            device=row["device_id"],
            sign=row["sign"],
            certified=row["certified"],
            active=row["active"],
            alive=row["alive"],
            expires_ms=row["expires_at"],
        )

    async def rotate(
        self,
        family: bytes,
        n: int,
        hashes: tuple[bytes, bytes],
        idle_expires_ms: int,
        now_ms: int,
    ) -> Turned:
        """Spend token number `n`; `hashes` are its own and its successor's.

        Spending an old token ends the family.
        """
        spent, successor = hashes
        async with borrowed(self._pool, transaction=True) as connection:
            row = await connection.fetchrow(
                "SELECT * FROM refresh_families WHERE family_id = $1 FOR UPDATE", family
            )
            if row is None or row["revoked_at"] is not None:
                return Turned.GONE
            if now_ms >= min(row["idle_expires_at"], row["absolute_expires_at"]):
                return Turned.GONE
            if n == row["n"] and spent == row["token_hash"]:
                await connection.execute(
                    "UPDATE refresh_families SET n = n + 1, previous_hash = token_hash,"
                    " token_hash = $2, rotated_at = $3, idle_expires_at = $4"
                    " WHERE family_id = $1",
                    family,
                    successor,
                    now_ms,
                    idle_expires_ms,
                )
                return Turned.FRESH
            age_ms = now_ms - row["rotated_at"]
            if n == row["n"] - 1 and spent == row["previous_hash"] and age_ms <= GRACE_MS:
                return Turned.AGAIN
            await _end(connection, family, now_ms)
            await audit(
                connection, now_ms, "refresh_token_reused", row["user_id"], row["device_id"]
            )
        return Turned.REUSED

    async def end(self, family: bytes, account: bytes, device: bytes, now_ms: int) -> None:
        """End a session. Safe to repeat."""
        async with borrowed(self._pool, transaction=True) as connection:
            await _end(connection, family, now_ms)
            await audit(connection, now_ms, "signed_out", account, device)


async def _admit(
    connection: Connection, account: bytes, keys: DeviceKeys, now_ms: int
) -> SignIn | None:
    """Find or insert the device; return why not, or None."""
    known = await connection.fetchrow(
        "SELECT * FROM devices WHERE device_id = $1 FOR UPDATE", keys.device
    )
    if known is None:
        count = await connection.fetchval(
            "SELECT count(*) FROM devices WHERE user_id = $1 AND revoked_at IS NULL", account
        )
        if count >= limits.DEVICES_MAX:
            return SignIn.TOO_MANY
        await insert_device(connection, account, keys, now_ms)
        return None
    if (known["user_id"], known["sign"], known["box"]) != (account, keys.sign, keys.box):
        return SignIn.OTHER_KEYS
    return SignIn.REVOKED if known["revoked_at"] is not None else None


async def _end(connection: Connection, family: bytes, now_ms: int) -> None:
    await connection.execute(
        "UPDATE refresh_families SET revoked_at = $2 WHERE family_id = $1 AND revoked_at IS NULL",
        family,
        now_ms,
    )
