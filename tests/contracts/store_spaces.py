"""What every Store promises about spaces, nodes, versions and the journal."""

import asyncio

import pytest

from actors.core.admission import admit, read, wanted
from actors.core.merkle import MODULUS, bucket, leaf
from actors.ports import Address, Overtaken
from actors.records import Batch
from protocol.entry import ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.messages import Role
from tests.contracts.home import QUOTA_BYTES, home
from tests.contracts.house import House
from tests.contracts.pen import chunk, content, fresh_id, place, token


async def a_space_is_seen_with_the_role_of_who_asks(house: House):
    here = await home(house)
    guest, stranger = fresh_id("account"), fresh_id("account")
    await house.seed.add_account(guest)
    await house.seed.add_account(stranger)
    await house.seed.add_member(here.pen.space, guest, Role.VIEWER)
    space = await here.space()
    assert space.owner == here.pen.account
    assert (space.history, space.head_seq, space.head) == (here.pen.history, 0, here.pen.head)
    assert (space.role, space.policy, space.key_epoch) == (Role.OWNER, "automatic", 1)
    assert (space.suspended, space.quota_bytes, space.used_bytes) == (False, QUOTA_BYTES, 0)
    assert (await here.space(guest)).role is Role.VIEWER
    assert (await here.space(stranger)).role is None
    async with house.store.turn(here.address) as turn:
        assert await turn.space(fresh_id("space"), here.pen.account) is None


async def a_space_shows_that_its_owner_is_suspended(house: House):
    owner, space = fresh_id("account"), fresh_id("space")
    await house.seed.add_account(owner, suspended=True)
    await house.seed.add_space(space, owner, fresh_id(), bytes(32), policy="manual", key_epoch=3)
    async with house.store.turn(Address("user-sync", owner.hex())) as turn:
        seen = await turn.space(space, owner)
    assert (seen.suspended, seen.policy, seen.key_epoch) == (True, "manual", 3)


async def a_space_is_locked_until_its_turn_ends(house: House):
    here = await home(house)
    entered, order = asyncio.Event(), []
    commit = read(here.pen.commit(here.pen.mkdir("a")))

    async def first():
        async with house.store.turn(here.address) as turn:
            space = await turn.space(here.pen.space, here.pen.account)
            entered.set()
            view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
            await asyncio.sleep(0.05)
            await turn.write(admit(space, view, commit, turn.now_ms).batch)
            order.append("first")

    async def second():
        await entered.wait()
        async with house.store.turn(here.address) as turn:
            space = await turn.space(here.pen.space, here.pen.account)
            order.append("second")
            assert space.head_seq == 1

    await asyncio.gather(first(), second())
    assert order == ["first", "second"]


async def a_batch_on_an_old_head_is_overtaken(house: House):
    here = await home(house)
    commit = read(here.pen.commit(here.pen.mkdir("a")))
    async with house.store.turn(here.address) as turn:
        space = await turn.space(here.pen.space, here.pen.account)
        view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
        batch = admit(space, view, commit, turn.now_ms).batch
    await here.commit(here.pen.mkdir("b"))
    with pytest.raises(Overtaken):
        async with house.store.turn(here.address) as turn:
            await turn.write(batch)
    assert (await here.space()).head_seq == 1
    assert not (await here.look(nodes=[commit.changes[0].node])).nodes


async def nodes_are_seen_whole_with_their_ancestors(house: House):
    here = await home(house)
    pen, stored = here.pen, chunk("text")
    top, middle = pen.mkdir("top"), None
    middle = pen.mkdir("middle", top.node)
    file = pen.create("file", content("text", stored), middle.node)
    decision = await here.commit(top, middle, file, stored=[stored])
    written = {node.node: node for node in decision.batch.nodes}
    view = await here.look(nodes=[file.node, fresh_id("node")])
    assert dict(view.nodes) == written
    assert dict((await here.look(nodes=[top.node])).nodes) == {top.node: written[top.node]}


async def tokens_are_held_by_live_nodes_only(house: House):
    here = await home(house)
    pen = here.pen
    one = pen.mkdir("One")
    await here.commit(one)
    key = (ROOT, token("one"))
    view = await here.look(tokens=[key, (ROOT, token("two"))])
    assert view.holders == {key: one.node}
    assert view.nodes[one.node].place_rev == 1, "with the holder's row"
    await here.commit(pen.change(ChangeKind.DELETE, one.node, type=NodeType.DIRECTORY, place_rev=1))
    view = await here.look(tokens=[key], nodes=[one.node])
    assert not view.holders
    assert not view.nodes[one.node].alive, "tombstones stay"
    await here.commit(pen.mkdir("ONE"))
    assert (await here.look(tokens=[key])).holders != {key: one.node}


async def names_are_swapped_in_one_batch(house: House):
    here = await home(house)
    pen = here.pen
    a, b = pen.mkdir("a"), pen.mkdir("b")
    await here.commit(a, b)
    moves = [
        pen.change(
            ChangeKind.MOVE,
            one.node,
            type=NodeType.DIRECTORY,
            place=place(name),
            place_rev=1,
            group=1,
        )
        for one, name in ((a, "b"), (b, "a"))
    ]
    await here.commit(*moves)
    keys = [(ROOT, token("a")), (ROOT, token("b"))]
    assert (await here.look(tokens=keys)).holders == dict(zip(keys, (b.node, a.node), strict=True))


async def children_are_the_live_ones(house: House):
    here = await home(house)
    pen = here.pen
    top = pen.mkdir("top")
    kids = [pen.mkdir(name, top.node) for name in "abc"]
    await here.commit(top, *kids)
    gone = pen.change(ChangeKind.DELETE, kids[0].node, type=NodeType.DIRECTORY, place_rev=1)
    moved = pen.change(
        ChangeKind.MOVE, kids[1].node, type=NodeType.DIRECTORY, place=place("b"), place_rev=1
    )
    await here.commit(gone, moved)
    view = await here.look(emptied=[top.node, kids[2].node])
    assert {node: set(found) for node, found in view.children.items() if found} == {
        top.node: {kids[2].node}
    }


async def versions_are_kept_whole(house: House):
    here = await home(house)
    pen = here.pen
    old, new = chunk("old"), chunk("new")
    file = pen.create("file", content("old", old))
    first = await here.commit(file, stored=[old])
    modify = pen.change(
        ChangeKind.MODIFY,
        file.node,
        base=((pen.device, 1),),
        content=content("new", new),
    )
    second = await here.commit(modify, stored=[new])
    written = [*first.batch.versions, *second.batch.versions]
    ids = [version.version for version in written]
    assert dict((await here.look(versions=[*ids, fresh_id()])).versions) == dict(
        zip(ids, written, strict=True)
    )


async def dots_lead_to_the_rows_of_their_device_in_this_space(house: House):
    here, there = await home(house), await home(house)
    rows = (await here.commit(here.pen.mkdir("a"), here.pen.mkdir("b"))).batch.rows
    await there.commit(there.pen.mkdir("a"))
    assert (await here.look(dots=[1, 2, 3])).dots == {1: rows[0].raw, 2: rows[1].raw}
    assert not (await here.look(device=fresh_id("device"), dots=[1, 2])).dots
    assert not (await there.look(device=here.pen.device, dots=[1])).dots


async def buckets_sum_the_leaves_of_live_nodes(house: House):
    here = await home(house)
    pen = here.pen
    ids = [bytes((0xAB, 0xCD)) + fresh_id()[2:] for _ in range(5)]
    decision = await here.commit(
        *(pen.mkdir(f"d{n}", node=node) for n, node in enumerate(ids)), pen.mkdir("other")
    )
    nodes = {node.node: node for node in decision.batch.nodes}
    sums = await house.seed.merkle(here.pen.space)
    assert sums[0xABCD] == sum(leaf(nodes[node]) for node in ids) % MODULUS
    assert set(sums) == {bucket(node) for node in nodes}
    await here.commit(
        *(
            pen.change(ChangeKind.DELETE, node, type=NodeType.DIRECTORY, place_rev=1)
            for node in nodes
        )
    )
    assert await house.seed.merkle(here.pen.space) == {}


async def a_thousand_changes_are_one_batch(house: House):
    here = await home(house, quota_bytes=1 << 40)
    pen = here.pen
    folders = [pen.mkdir(f"folder {n}") for n in range(10)]
    stored = [chunk(f"{fresh_id().hex()} {n}") for n in range(990)]
    files = [
        pen.create(f"file {n}", content(f"text {n}", one), folders[n % 10].node)
        for n, one in enumerate(stored)
    ]
    decision = await here.commit(*folders, *files, stored=stored)
    assert isinstance(decision.batch, Batch)
    space = await here.space()
    assert (space.head_seq, space.head) == (1000, decision.batch.head)
    assert space.used_bytes == sum(one.size_bytes for one in stored)
    sums = await house.seed.merkle(pen.space)
    leaves = sum(leaf(node) for node in decision.batch.nodes)
    assert sum(sums.values()) % MODULUS == leaves % MODULUS
