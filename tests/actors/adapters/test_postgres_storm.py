"""Several hosts on one space, connections cut at random: what must hold afterwards (SYNC.md 9).

Planted bugs that this caught: what a page lists counted for each version, a Merkle sum replaced,
the old head's mark left behind, a turn outside a transaction. And one of ours: a connection between
the server's last words and the end of its stream was no outage, but a failure.
"""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack, suppress
from random import Random

import asyncpg
import pytest

from actors.adapters.postgres.migrate import migrate
from actors.adapters.postgres.packing import node_of, unpack_refs
from actors.adapters.postgres.pool import open_pool
from actors.adapters.postgres.store import PostgresStore
from actors.core.admission import admit, read, wanted
from actors.core.merkle import MODULUS, bucket, leaf
from actors.ports import Overtaken, Unreachable
from protocol import journal
from protocol.entry import ChangeKind, NodeType
from protocol.journal import op_id
from protocol.messages.sync import StoredChunk
from tests.contracts.house import Clock, Heard, House
from tests.contracts.pen import Pen, chunk, content, ref
from tests.contracts.store_contract import Home, home, stored_answer
from tests.contracts.test_postgres_store import Seed

pytestmark = [pytest.mark.services, pytest.mark.kills]

HOSTS = 3
COMMITS = 8  # of each host's device
CUTS_MAX = 15
SEED = 20261122
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
ORDER BY random() LIMIT 1
"""


async def test_a_storm_leaves_nothing_half_done(database_url, namespace):
    await migrate(database_url, namespace, Clock().ms)
    async with AsyncExitStack() as stack:
        pools = []
        for _ in range(HOSTS + 1):
            pools.append(await open_pool(database_url, namespace, 4))
            stack.push_async_callback(pools[-1].close)
        await storm(pools)


async def storm(pools: list[asyncpg.Pool]) -> None:
    clock = Clock()
    stores = [PostgresStore(pool, Heard(), clock) for pool in pools]
    here = await home(House(stores[-1], Seed(pools[-1], clock), clock, Heard()), 1 << 40)
    genesis = here.pen.head
    pens = [Pen(here.pen.space, here.pen.account, here.pen.history, genesis) for _ in range(HOSTS)]
    done = asyncio.Event()
    cutter = asyncio.create_task(cut(pools[-1], done))
    devices = (device(stores[n], here, pen, Random(SEED + n)) for n, pen in enumerate(pens))
    await asyncio.gather(*devices)
    done.set()
    cuts = await cutter
    await check(pools[-1], here, genesis)
    assert cuts > 3, "or it was no storm"


async def cut(pool: asyncpg.Pool, done: asyncio.Event) -> int:
    """End a busy connection now and then; the count of those that were ended."""
    cuts = 0
    while not done.is_set() and cuts < CUTS_MAX:
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            cuts += len(await pool.fetch(CUT))
        with suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), 0.05)
    return cuts


async def device(store: PostgresStore, here: Home, pen: Pen, dice: Random) -> None:
    """Commit files, edits and deletions; every op until it has its answer, and never twice."""
    mine: list[tuple[bytes, tuple, int]] = []  # node, vector, place_rev
    pages: list[StoredChunk] = []
    for number in range(COMMITS):
        parts = [chunk(f"{pen.device.hex()} {number} {n}") for n in range(3)]
        page = chunk(f"page {pen.device.hex()} {number}", tuple(ref(part) for part in parts))
        shared = chunk(f"shared {dice.randrange(3)}")
        name = f"{pen.device.hex()} {number}"
        changes = [
            pen.create(name, content(name, page, paged=True)),
            pen.create(f"{name} s", content(f"{name} s", shared, parts[0])),
        ]
        if number % 3 == 2:  # the same page again: what it lists is counted once
            changes.append(pen.create(f"{name} p", content(f"{name} p", pages[-1], paged=True)))
        pages.append(page)
        made = [(change.node, ((pen.device, change.dot),), 1) for change in changes]
        if mine:
            node, vector, place_rev = mine.pop(dice.randrange(len(mine)))
            if dice.random() < 0.5:
                edit = pen.change(
                    ChangeKind.MODIFY, node, base=vector, content=content(f"{name} e", shared)
                )
                made.append((node, ((pen.device, edit.dot),), place_rev))
            else:
                edit = pen.change(ChangeKind.DELETE, node, base=vector, place_rev=place_rev)
            changes.append(edit)
        command = pen.commit(*changes, stored=(*parts, page, shared))
        for _ in range(100):
            if await settled(store, here, command):
                break
            await asyncio.sleep(dice.random() / 100)
        else:
            pytest.fail("never settled")
        mine += made


async def settled(store: PostgresStore, here: Home, command) -> bool:
    """Run a turn as a host does; False: try again, nothing is known."""
    commit = read(command)
    message_id = op_id(command.device, commit.header.op)
    try:
        async with store.turn(here.address) as turn:
            if await turn.answered(message_id):
                return True
            space = await turn.space(command.space, command.account)
            view = await turn.look(command.space, command.device, wanted(commit))
            decision = admit(space, view, commit, turn.now_ms)
            assert len(decision.batch.rows) == len(command.changes), decision.answer
            await turn.write(decision.batch)
            turn.answer(message_id, stored_answer())
    except (Overtaken, Unreachable):
        return False
    return True


async def check(pool: asyncpg.Pool, here: Home, genesis: bytes) -> None:
    space = here.pen.space
    head = await pool.fetchrow("SELECT head_seq, head_hash FROM spaces WHERE space_id = $1", space)
    rows = await pool.fetch(
        "SELECT * FROM sync_events WHERE space_id = $1 ORDER BY event_id", space
    )
    assert [row["event_id"] for row in rows] == list(range(1, head["head_seq"] + 1))
    link = genesis
    for row in rows:
        link = journal.chain(link, row["raw"])
        assert link == row["hash"]
    assert link == head["head_hash"]
    assert len({(row["client_id"], row["dot"]) for row in rows}) == len(rows), "each dot once"
    commits = await pool.fetchval("SELECT count(*) FROM commits WHERE space_id = $1", space)
    assert commits == HOSTS * COMMITS, "each op once"
    await check_nodes(pool, space)
    await check_chunks(pool, space, here.pen.account)


async def check_nodes(pool: asyncpg.Pool, space: bytes) -> None:
    files = await pool.fetch("SELECT * FROM files WHERE space_id = $1", space)
    sums: Counter[int] = Counter()
    for node in map(node_of, files):
        assert node.type is NodeType.FILE
        sums[bucket(node.node)] += leaf(node)
    buckets = await pool.fetch("SELECT bucket, sum FROM merkle_buckets WHERE space_id = $1", space)
    assert {row["bucket"]: int(row["sum"]) for row in buckets if row["sum"]} == {
        number: amount % MODULUS for number, amount in sums.items() if amount
    }
    current = await pool.fetch(
        "SELECT file_id, version_id FROM file_versions WHERE space_id = $1 AND is_current_version",
        space,
    )
    heads = {(row["file_id"], row["head_version"]) for row in files}
    assert {tuple(row) for row in current} == heads
    assert len(current) == len(heads)


async def check_chunks(pool: asyncpg.Pool, space: bytes, owner: bytes) -> None:
    versions = await pool.fetch("SELECT refs FROM file_versions WHERE space_id = $1", space)
    pages = await pool.fetch("SELECT address, refs FROM page_refs WHERE space_id = $1", space)
    listed = {row["address"]: unpack_refs(row["refs"]) for row in pages}
    expected: Counter[bytes] = Counter()
    for row in versions:
        expected.update({one.address for one in unpack_refs(row["refs"])})
    for address in [address for address in expected if address in listed]:
        expected.update({one.address for one in listed[address]})
    counted = await pool.fetch("SELECT * FROM chunk_refs WHERE space_id = $1 AND refs > 0", space)
    assert {row["address"]: row["refs"] for row in counted} == dict(expected)
    used = await pool.fetchval("SELECT used_storage FROM users WHERE user_id = $1", owner)
    assert used == sum(row["size_bytes"] for row in counted)
    named = list(expected)
    leases = "SELECT count(*) FROM leases WHERE space_id = $1 AND address = ANY ($2)"
    assert await pool.fetchval(leases, space, named) == 0
    known = await pool.fetchval("SELECT count(*) FROM chunks WHERE address = ANY ($1)", named)
    assert known == len(named)
