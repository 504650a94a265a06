"""What only a real database can be asked: kills in mid turn, two hosts, outages, plans.

Planted bugs that these caught: the head written without comparing, an upload replaced that another
host has just made (reserved twice), the role read before the lock, a look-up that may scan.
"""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator

import asyncpg
import pytest

from actors.adapters.postgres import journal as journal_sql
from actors.adapters.postgres import mailbox, trouble, view
from actors.adapters.postgres.migrate import migrate
from actors.adapters.postgres.pool import open_pool
from actors.adapters.postgres.store import PostgresStore
from actors.core.admission import admit, read, wanted
from actors.ports import Address, Overtaken, Unreachable
from actors.records import Chunk
from protocol.codec import encode
from protocol.entry import ChangeKind
from protocol.messages import Role
from protocol.messages.upload import ExpireUpload
from tests.contracts.pen import chunk, content, fresh_id, ref
from tests.contracts.store_contract import Clock, Heard, Home, House, home, stored_answer, upload
from tests.contracts.test_postgres_store import Seed

pytestmark = pytest.mark.services


@pytest.fixture
async def house(database_url: str, namespace: str) -> AsyncIterator[House]:
    await migrate(database_url, namespace, Clock().ms)
    pool = await open_pool(database_url, namespace)
    clock, heard = Clock(), Heard()
    await pool.execute("DELETE FROM outbox")
    yield House(PostgresStore(pool, heard, clock), Seed(pool, clock), clock, heard)
    await pool.close()


async def take_turn(here: Home, command, before_end=None):
    """Run a commit with its answer, as UserSync does."""
    commit = read(command)
    async with here.house.store.turn(here.address) as turn:
        space = await turn.space(command.space, command.account)
        view = await turn.look(command.space, command.device, wanted(commit))
        batch = admit(space, view, commit, turn.now_ms).batch
        await turn.write(batch)
        turn.answer(command.device + commit.header.op.to_bytes(8, "big"), stored_answer())
        turn.tell(here.address, ExpireUpload(upload=fresh_id()))
        if before_end:
            await before_end()
    return batch


# -- a process dies ------------------------------------------------------------------------------


@pytest.mark.kills
async def test_killed_in_mid_turn_leaves_nothing_half_written(house, database_url, namespace):
    here = await home(house)
    stored = chunk("hello")
    command = here.pen.commit(here.pen.create("a", content("a", stored)), stored=(stored,))
    code = f"""
import asyncio, msgspec
from actors.adapters.postgres.pool import open_pool
from actors.adapters.postgres.store import PostgresStore
from actors.core.admission import admit, read, wanted
from actors.ports import Address
from actors.records import StoredAnswer
from protocol.messages.sync import CommitChanges
async def main():
    pool = await open_pool({database_url!r}, {namespace!r})
    store = PostgresStore(pool, None, lambda: 1_700_000_000_000)
    command = msgspec.msgpack.decode({encode(command)!r}, type=CommitChanges)
    commit = read(command)
    async with store.turn(Address("user-sync", {here.address.key!r})) as turn:
        space = await turn.space(command.space, command.account)
        view = await turn.look(command.space, command.device, wanted(commit))
        await turn.write(admit(space, view, commit, turn.now_ms).batch)
        turn.answer(b"m", StoredAnswer(b"", b""))
        await turn.finish()
        print("written", flush=True)
        await asyncio.sleep(100)
asyncio.run(main())
"""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    assert await child.stdout.readline() == b"written\n"
    child.send_signal(signal.SIGKILL)
    await child.wait()
    space = await here.space()  # waits for the lock until the server has noticed
    assert (space.head_seq, space.used_bytes) == (0, 0)
    assert not (await here.look(nodes=[read(command).changes[0].node])).nodes
    async with house.store.turn(here.address) as turn:
        assert await turn.answered(b"m") is None
    assert await house.seed.merkle(here.pen.space) == {}
    await take_turn(here, command)
    assert (await here.space()).head_seq == 1


# -- two hosts -----------------------------------------------------------------------------------


async def test_two_hosts_on_one_address_one_rolls_back(house, database_url, namespace):
    """Both have read before either writes, as if the lock of the space were not there."""
    here = await home(house)
    other_pool = await open_pool(database_url, namespace)
    # Their clocks differ, so that no row collides with a row: the head alone decides.
    stores = (house.store, PostgresStore(other_pool, Heard(), lambda: house.clock.ms + 1))
    commands = [here.pen.commit(here.pen.mkdir(name)) for name in "ab"]
    space = await here.space()
    both_have_read = asyncio.Barrier(2)

    async def host(store, command):
        commit = read(command)
        async with store.turn(here.address) as turn:
            seen = await turn.look(command.space, command.device, wanted(commit))
            await both_have_read.wait()
            await turn.write(admit(space, seen, commit, turn.now_ms).batch)
            turn.answer(bytes([commit.header.op]), stored_answer())

    ends = await asyncio.gather(*map(host, stores, commands), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", "Overtaken"]
    assert (await here.space()).head_seq == 1
    count = await house.seed.pool.fetchval(
        "SELECT count(*) FROM sync_events WHERE space_id = $1", here.pen.space
    )
    assert count == 1
    await other_pool.close()


async def test_two_hosts_of_one_upload_reserve_once(house):
    here = await home(house)
    session = upload(here)
    both = asyncio.Barrier(2)

    async def host():
        async with house.store.turn(Address("upload-session", session.upload.hex())) as turn:
            assert await turn.upload(session.upload) is None
            await both.wait()
            assert await turn.put_upload(session, 10)

    ends = await asyncio.gather(host(), host(), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", "Overtaken"]
    assert (await here.space()).used_bytes == 10


async def test_a_role_that_changes_while_a_turn_waits_counts(house):
    here = await home(house)
    guest = fresh_id("account")
    await house.seed.add_account(guest)
    await house.seed.add_member(here.pen.space, guest, Role.EDITOR)
    pool = house.seed.pool
    async with pool.acquire() as connection:
        async with connection.transaction():
            await connection.execute(
                "SELECT FROM spaces WHERE space_id = $1 FOR UPDATE", here.pen.space
            )
            waiting = asyncio.create_task(here.space(guest))
            await until_somebody_waits(pool)
            await connection.execute(
                "UPDATE members SET role = 1 WHERE space_id = $1 AND user_id = $2",
                here.pen.space,
                guest,
            )
            await connection.execute(
                "UPDATE users SET used_storage = 5 WHERE user_id = $1", here.pen.account
            )
        space = await waiting
    assert (space.role, space.used_bytes) == (Role.VIEWER, 5)


async def until_somebody_waits(pool: asyncpg.Pool) -> None:
    for _ in range(1000):
        if await pool.fetchval(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
            " WHERE NOT l.granted AND a.datname = current_database()"
        ):
            return
        await asyncio.sleep(0.01)
    pytest.fail("nobody waits")


async def test_a_deadlock_is_run_again(house):
    one, two = await home(house), await home(house)
    met = asyncio.Barrier(2)

    async def host(first: Home, second: Home):
        async with house.store.turn(first.address) as turn:
            await turn.space(first.pen.space, first.pen.account)
            await met.wait()
            await turn.space(second.pen.space, second.pen.account)

    ends = await asyncio.gather(host(one, two), host(two, one), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", "Overtaken"]


async def test_two_relays_claim_different_rows(house, database_url, namespace):
    here = await home(house)
    async with house.store.turn(here.address) as turn:
        for _ in range(40):
            turn.tell(here.address, ExpireUpload(upload=fresh_id()))
        turn.answer(b"m", stored_answer())
    claims = await asyncio.gather(*(house.store.outgoing(10, 0) for _ in range(4)))
    house.clock.ms += 1
    ids = [row.id for claim in claims for row in claim]
    assert len(ids) == len(set(ids)) or len(set(ids)) < 40, "skipped, or claimed one after another"
    left = await house.store.outgoing(100, 0)
    await house.store.delivered([row.id for row in left])
    assert sorted(row.id for row in left) == sorted({row.id for row in house.heard.rows})
    assert not await house.store.outgoing(100, 0)


# -- outages -------------------------------------------------------------------------------------


async def test_a_lost_connection_is_unreachable_and_the_next_turn_works(house):
    here = await home(house)
    command = here.pen.commit(here.pen.mkdir("a"))
    killer = house.seed.pool

    async def cut():
        await killer.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    with pytest.raises(Unreachable):
        await take_turn(here, command, before_end=cut)
    assert not house.heard.rows, "nothing was said"
    await take_turn(here, command)
    assert (await here.space()).head_seq == 1


async def test_no_database_is_unreachable(house, database_url, namespace):
    with pytest.raises(Unreachable):
        await open_pool("postgresql://postgres@127.0.0.1:1/x", namespace)
    pool = await open_pool(database_url, namespace)
    store = PostgresStore(pool, None, house.clock)
    await pool.close()
    for attempt in (store.outgoing(1, 0), store.delivered([1]), _open(store)):
        with pytest.raises(Unreachable):
            await attempt


async def _open(store: PostgresStore) -> None:
    async with store.turn(Address("user-sync", "a")):
        pass


async def test_a_statement_that_takes_too_long_is_unreachable(house):
    here = await home(house)
    with pytest.raises(Unreachable):
        async with house.store.turn(here.address) as turn:
            await turn._connection.execute("SELECT pg_sleep(10)", timeout=0.1)
    assert await here.space(), "the connection is fit for use, or was replaced"


async def test_bugs_are_not_taken_for_outages(house):
    here = await home(house)
    for statement in ("SELECT 1/0", "SELECT nothing", "SELECT $1"):
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            async with house.store.turn(here.address) as turn:
                await turn._connection.fetch(statement)
    with pytest.raises(Overtaken), trouble.translated():
        raise asyncpg.SerializationError("could not serialize access")
    with pytest.raises(Unreachable), trouble.translated():
        raise asyncpg.DiskFullError("could not extend file")


async def test_a_cancelled_turn_gives_its_lock_back(house):
    here = await home(house)
    entered = asyncio.Event()

    async def forever():
        async with house.store.turn(here.address) as turn:
            await turn.space(here.pen.space, here.pen.account)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await here.space()


# -- rows ----------------------------------------------------------------------------------------


async def test_rows_read_as_the_handbook_says(house):
    here = await home(house)
    pen, pool = here.pen, house.seed.pool
    old, new = chunk("old one"), chunk("new one")
    file = pen.create("file", content("old", old))
    await take_turn(here, pen.commit(file, stored=(old,)))
    pen.head_seq, pen.head = (s := await here.space()).head_seq, s.head
    modify = pen.change(
        ChangeKind.MODIFY, file.node, base=((pen.device, 1),), content=content("new", new)
    )
    await take_turn(here, pen.commit(modify, stored=(new,)))
    row = await pool.fetchrow("SELECT * FROM files WHERE file_id = $1", file.node)
    assert row["file_path"] == f"{file.place.parent.hex()}/{file.place.token.hex()}"
    assert (row["user_id"], row["version_number"]) == (pen.account, 2)
    assert row["checksum"] == modify.content.content_id
    versions = await pool.fetch(
        "SELECT version_id, is_current_version, storage_path, encode(sha256(manifest), 'hex') AS h"
        " FROM file_versions WHERE file_id = $1 ORDER BY version_number",
        file.node,
    )
    assert [(v["version_id"], v["is_current_version"]) for v in versions] == [
        (file.content.version, False),
        (modify.content.version, True),
    ]
    assert all(v["storage_path"] == v["h"] for v in versions)
    back = pen.change(
        ChangeKind.SET_HEAD,
        file.node,
        base=((pen.device, 2),),
        version=file.content.version,
    )
    pen.head_seq, pen.head = (s := await here.space()).head_seq, s.head
    batch = await take_turn(here, pen.commit(back))
    assert batch.rows
    current = await pool.fetch(
        "SELECT version_id FROM file_versions WHERE file_id = $1 AND is_current_version", file.node
    )
    assert [v["version_id"] for v in current] == [file.content.version]
    events = await pool.fetch(
        "SELECT event_id, event_type, client_id, timestamp, sync_status FROM sync_events"
        " WHERE space_id = $1 ORDER BY event_id",
        pen.space,
    )
    assert [tuple(e) for e in events] == [
        (n, kind, pen.device, house.clock.ms, "completed")
        for n, kind in ((1, "create"), (2, "modify"), (3, "set_head"))
    ]


async def test_references_are_counted_once_for_each_that_names_them(house):
    here = await home(house)
    part, other = chunk(fresh_id().hex()), chunk(fresh_id().hex())
    page = chunk(fresh_id().hex(), (ref(part), ref(part), ref(other)))
    first = here.pen.create("a", content("a", page, paged=True))
    second = here.pen.create("b", content("b", page, paged=True))
    third = here.pen.create("c", content("c", part, part))
    await take_turn(here, here.pen.commit(first, second, third, stored=(page, part, other)))
    rows = await house.seed.pool.fetch(
        "SELECT address, refs FROM chunk_refs WHERE space_id = $1", here.pen.space
    )
    assert {row["address"]: row["refs"] for row in rows} == {
        page.address: 2,
        part.address: 2,
        other.address: 1,
    }


async def test_a_commit_ends_the_leases_of_what_it_names(house):
    here = await home(house)
    stored, spare = chunk(fresh_id().hex()), chunk(fresh_id().hex())
    chunks = [Chunk(one.address, one.size_bytes) for one in (stored, spare)]
    await house.seed.lease(here.pen.space, chunks)
    await take_turn(here, here.pen.commit(here.pen.create("a", content("a", stored))))
    rows = await house.seed.pool.fetch(
        "SELECT address FROM leases WHERE space_id = $1", here.pen.space
    )
    assert [row["address"] for row in rows] == [spare.address]


async def test_an_expired_page_may_be_declared_anew(house):
    here = await home(house)
    part = chunk(fresh_id().hex())
    blob = fresh_id().hex()
    unfit = here.pen.mkdir("a", parent=fresh_id("node"))
    await here.commit(unfit, stored=[chunk(blob, (ref(part), ref(chunk("x"))))])
    house.clock.ms += 25 * 3_600_000
    unfit = here.pen.mkdir("b", parent=fresh_id("node"))
    await here.commit(unfit, stored=[chunk(blob, (ref(part),))])
    address = chunk(blob).address
    assert (await here.look(chunks=[address])).held[address].refs == (ref(part),)


# -- cost ----------------------------------------------------------------------------------------


async def test_a_commit_is_a_fixed_number_of_statements(house):
    here = await home(house, quota_bytes=1 << 40)
    counts = []
    for size in (2, 1, 300):  # the first one makes asyncpg look at the types
        stored = [chunk(fresh_id().hex()) for _ in range(size)]
        files = [here.pen.create(f"{size}-{n}", content(f"{n}", s)) for n, s in enumerate(stored)]
        command = here.pen.commit(*files, stored=stored)
        statements: list[str] = []
        async with house.seed.pool.acquire() as connection:
            inner = connection._con
        inner.add_query_logger(lambda record, seen=statements: seen.append(record.query))
        await take_turn(here, command)
        inner._query_loggers.clear()
        space = await here.space()
        here.pen.head_seq, here.pen.head = space.head_seq, space.head
        counts.append(len(statements))
    assert counts[1] == counts[2] <= 20


def sql_of(*modules) -> list[tuple[str, str]]:
    return [
        (name, text)
        for module in modules
        for name, text in vars(module).items()
        if name.startswith("_")
        and isinstance(text, str)
        and re.match(r"\s*(WITH|SELECT|INS|UPD|DEL)", text)
    ]


@pytest.mark.parametrize(
    ("name", "sql"),
    [pytest.param(*one, id=one[0]) for one in sql_of(view, journal_sql, mailbox)],
)
async def test_no_statement_may_scan_a_table_or_a_space(house, name, sql):
    """On empty tables too, where the planner likes scans most: plans outlive the emptiness."""
    async with house.seed.pool.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE looked AS {sql}")
        holes = ", ".join(["NULL"] * max((int(n) for n in re.findall(r"\$(\d+)", sql)), default=0))
        rows = await connection.fetch(f"EXPLAIN (FORMAT TEXT) EXECUTE looked ({holes})")
        await connection.execute("DEALLOCATE looked")
    lines = [row[0] for row in rows]
    assert not [line for line in lines if "Seq Scan" in line]
    if name != "_HEAD":  # the one table that has a row for each space
        assert not [line for line in lines if line.endswith("Index Cond: (space_id = $1)")], lines
