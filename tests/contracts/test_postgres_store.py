"""The Store's contract on a real PostgreSQL."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest

from actors.adapters.postgres.leases import Leases
from actors.adapters.postgres.migrate import migrate
from actors.adapters.postgres.pool import open_pool
from actors.adapters.postgres.store import PostgresStore
from actors.records import Chunk
from protocol import limits
from protocol.messages import Role
from tests.contracts.store_contract import CONTRACT, Clock, Heard, House

USER = """
INSERT INTO users (
    user_id, username, email, auth_hash, kdf_salt_seed, kdf_memory_kib, kdf_time, kdf_lanes, wraps,
    identity_sign, keyring, created_at, storage_quota, account_status
) VALUES ($1, $2, $2 || '@example.org', '', '', 0, 0, 0, '', $3, '', $4, $5, $6)
"""
SPACE = """
INSERT INTO spaces (space_id, owner_id, history_id, key_epoch, head_hash, policy, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
MEMBER = "INSERT INTO members (space_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)"


@dataclass
class Seed:
    """What the gateway would do."""

    pool: asyncpg.Pool
    clock: Clock

    async def add_account(self, account, quota_bytes=1 << 40, suspended=False):
        status = "suspended" if suspended else "active"
        await self.pool.execute(
            USER, account, account.hex(), bytes(32), self.clock(), quota_bytes, status
        )

    async def add_space(self, space, owner, history, head, policy="automatic", key_epoch=1):
        await self.pool.execute(SPACE, space, owner, history, key_epoch, head, policy, self.clock())
        await self.add_member(space, owner, Role.OWNER)

    async def add_member(self, space, account, role):
        await self.pool.execute(MEMBER, space, account, role, self.clock())

    async def lease(self, space: bytes, chunks: list[Chunk]):
        until_ms = self.clock() + limits.LEASE_S * 1000
        await Leases(self.pool).take(space, (bytes(16), None), chunks, self.clock(), until_ms)

    async def merkle(self, space):
        rows = await self.pool.fetch(
            "SELECT bucket, sum FROM merkle_buckets WHERE space_id = $1 AND sum > 0", space
        )
        return {row["bucket"]: int(row["sum"]) for row in rows}


@pytest.fixture
async def house(database_url: str, namespace: str) -> AsyncIterator[House]:
    await migrate(database_url, namespace, Clock().ms)
    pool = await open_pool(database_url, namespace)
    clock, heard = Clock(), Heard()
    await pool.execute("DELETE FROM outbox")  # which the relay's promises look at as a whole
    yield House(PostgresStore(pool, heard, clock), Seed(pool, clock), clock, heard)
    await pool.close()


@pytest.mark.services
@pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
async def test_postgres_store_keeps_its_promise(promise, house):
    await promise(house)
