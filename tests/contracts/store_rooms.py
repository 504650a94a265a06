"""What every Store promises about chunks, quota, uploads and conflicts."""

import asyncio
from dataclasses import replace

from actors.ports import Address
from actors.records import Chunk, Conflict, Upload
from protocol import limits
from protocol.codec import sha256
from tests.contracts.home import HOUR_MS, Home, home
from tests.contracts.house import House
from tests.contracts.pen import chunk, content, fresh_id, ref


async def a_space_holds_what_it_leased_while_the_lease_runs(house: House):
    here, there = await home(house), await home(house)
    one = Chunk(sha256(fresh_id()), 7)
    assert (await here.look(chunks=[one.address])).missing == {one.address}
    await house.seed.lease(here.pen.space, [one])
    view = await here.look(chunks=[one.address])
    assert not view.missing
    held = view.held[one.address]
    assert (held.size_bytes, held.referenced, held.refs) == (7, False, ())
    assert (await there.look(chunks=[one.address])).missing == {one.address}, "per space"
    house.clock.ms += limits.LEASE_S * 1000 - 1
    assert await missing(here, one.address) == set()
    house.clock.ms += 1
    assert await missing(here, one.address) == {one.address}
    assert (await here.look(chunks=[one.address])).missing == {one.address}
    await house.seed.lease(here.pen.space, [one])
    assert await missing(here, one.address) == set()


async def what_a_version_refers_to_is_held_for_good(house: House):
    here = await home(house)
    stored, spare = chunk(fresh_id().hex()), chunk(fresh_id().hex())
    await here.commit(here.pen.create("a", content("a", stored)), stored=[stored, spare])
    house.clock.ms += limits.LEASE_S * 1000
    assert await missing(here, stored.address, spare.address) == {spare.address}
    view = await here.look(chunks=[stored.address, spare.address])
    assert view.held[stored.address].referenced
    assert view.missing == {spare.address}
    assert (await here.space()).used_bytes == stored.size_bytes


async def a_page_brings_what_it_lists(house: House):
    here = await home(house)
    parts = [chunk(fresh_id().hex()) for _ in range(3)]
    page = chunk(fresh_id().hex(), tuple(ref(part) for part in parts))
    await house.seed.lease(here.pen.space, [Chunk(page.address, page.size_bytes, page.refs)])
    view = await here.look(chunks=[page.address])
    assert view.held[page.address].refs == page.refs
    assert view.missing == {part.address for part in parts}
    file = here.pen.create("a", content("a", page, paged=True))
    decision = await here.commit(file, stored=parts)
    assert decision.batch.rows
    everything = [page, *parts]
    house.clock.ms += limits.LEASE_S * 1000
    view = await here.look(chunks=[page.address])
    assert {address for address, held in view.held.items() if held.referenced} == {
        one.address for one in everything
    }
    assert (await here.space()).used_bytes == sum(one.size_bytes for one in everything)


async def what_a_page_was_first_said_to_list_stays(house: House):
    here = await home(house)
    part, page = chunk(fresh_id().hex()), chunk(fresh_id().hex())
    listed = Chunk(page.address, page.size_bytes, (ref(part),))
    await house.seed.lease(here.pen.space, [listed])
    await house.seed.lease(here.pen.space, [Chunk(page.address, page.size_bytes)])
    assert (await here.look(chunks=[page.address])).held[page.address].refs == (ref(part),)


async def a_batch_without_rows_makes_chunks_known(house: House):
    here = await home(house)
    stored = chunk(fresh_id().hex())
    unfit = here.pen.mkdir("a", parent=fresh_id("node"))
    decision = await here.commit(unfit, stored=[stored])
    assert not decision.batch.rows
    assert await missing(here, stored.address) == set()
    assert (await here.space()).head_seq == 0


async def missing(here: Home, *addresses: bytes) -> set[bytes]:
    async with here.house.store.turn(here.address) as turn:
        return set(await turn.missing(here.pen.space, list(addresses)))


def upload(here: Home, **more) -> Upload:
    said = {
        "upload": fresh_id("upload"),
        "owner": here.pen.account,
        "space": here.pen.space,
        "device": here.pen.device,
        "state": "open",
        "refs": (ref(chunk("a")), ref(chunk("b"))),
        "reserved_bytes": 10,
        "expires_ms": here.house.clock.ms + HOUR_MS,
    }
    return Upload(**{**said, **more})


async def an_upload_is_kept_with_its_reservation(house: House):
    here = await home(house)
    session = upload(here)
    async with house.store.turn(here.address) as turn:
        assert await turn.upload(session.upload) is None
        assert await turn.put_upload(session, 10)
        assert await turn.upload(session.upload) == session
    assert (await here.space()).used_bytes == 10
    closed = replace(session, state="committed", reserved_bytes=0, refs=())
    async with house.store.turn(here.address) as turn:
        assert await turn.upload(session.upload) == session
        assert await turn.put_upload(closed, -10)
    assert (await here.space()).used_bytes == 0
    async with house.store.turn(here.address) as turn:
        assert await turn.upload(session.upload) == closed


async def a_reservation_beyond_the_quota_writes_nothing(house: House):
    here = await home(house, quota_bytes=100)
    big, small = upload(here, reserved_bytes=101), upload(here, reserved_bytes=100)
    async with house.store.turn(here.address) as turn:
        assert not await turn.put_upload(big, 101)
        assert await turn.upload(big.upload) is None
        assert await turn.put_upload(small, 100), "the turn goes on"
    assert (await here.space()).used_bytes == 100
    async with house.store.turn(here.address) as turn:
        assert not await turn.put_upload(big, 1)
        assert await turn.put_upload(replace(small, reserved_bytes=90), -10)
        assert await turn.put_upload(replace(small, expires_ms=5), 0), "nothing more is asked for"


async def of_two_reservations_at_once_only_what_fits_is_made(house: House):
    here = await home(house, quota_bytes=100)

    async def reserve() -> bool:
        session = upload(here, reserved_bytes=60)
        async with house.store.turn(Address("upload-session", session.upload.hex())) as turn:
            assert await turn.upload(session.upload) is None
            done = await turn.put_upload(session, 60)
            await asyncio.sleep(0.01)
            return done

    assert sorted(await asyncio.gather(reserve(), reserve())) == [False, True]
    assert (await here.space()).used_bytes == 60


async def conflicts_are_kept_and_flag_their_node(house: House):
    here = await home(house)
    file = here.pen.create("a", content("a"))
    await here.commit(file)
    first, second = conflict(here, file.node, 5), conflict(here, file.node, 7)
    elsewhere = conflict(here, fresh_id("node"), 6)
    async with house.store.turn(here.address) as turn:
        for record in (second, first, elsewhere):
            await turn.put_conflict(record)
        assert await turn.conflicts(here.pen.space, file.node) == [first, second]
    async with house.store.turn(here.address) as turn:
        assert await turn.conflict(first.conflict) == first
        assert await turn.conflict(fresh_id()) is None
        assert await turn.open_conflicts(here.pen.space) == 3
        assert await turn.open_conflicts(fresh_id("space")) == 0
    assert (await here.look(nodes=[file.node])).nodes[file.node].conflicted
    copied = replace(first, state="copied", copy=fresh_id("node"))
    resolved = replace(second, state="resolved", closed_ms=house.clock.ms)
    async with house.store.turn(here.address) as turn:
        await turn.put_conflict(copied)
        await turn.put_conflict(resolved)
        assert await turn.conflicts(here.pen.space, file.node) == [copied]
        assert await turn.conflict(second.conflict) == resolved
        assert await turn.open_conflicts(here.pen.space) == 2
    assert (await here.look(nodes=[file.node])).nodes[file.node].conflicted
    async with house.store.turn(here.address) as turn:
        await turn.put_conflict(replace(copied, state="resolved", closed_ms=1))
    assert not (await here.look(nodes=[file.node])).nodes[file.node].conflicted


def conflict(here: Home, node: bytes, seq: int) -> Conflict:
    return Conflict(
        conflict=fresh_id("conflict"),
        space=here.pen.space,
        node=node,
        state="open",
        policy="automatic",
        head=fresh_id("version"),
        loser=fresh_id("version"),
        head_device=fresh_id("device"),
        loser_device=fresh_id("device"),
        seq=seq,
        opened_ms=here.house.clock.ms + seq,
    )
