"""What every Store must do. An adapter's test hands its factory to each function of `CONTRACT`.

    @pytest.mark.parametrize("promise", CONTRACT, ids=lambda f: f.__name__)
    async def test_store(promise):
        await promise(await make_house())

A promise may run on a store with other people's rows in it: it makes its own accounts and spaces.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Protocol

import pytest

from actors.core.admission import admit, read, wanted
from actors.core.merkle import MODULUS, bucket, leaf
from actors.ports import Address, Outgoing, Overtaken, Store
from actors.records import Batch, Chunk, Conflict, StoredAnswer, Upload, Wanted
from protocol import journal, limits
from protocol.codec import decode, sha256
from protocol.entry import ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.journal import op_id
from protocol.messages import Role
from protocol.messages.feed import Noticed
from protocol.messages.upload import ExpireUpload
from tests.contracts.pen import Pen, chunk, content, fresh_id, place, ref, token

QUOTA_BYTES = 1_000
HOUR_MS = 3_600_000


@dataclass
class Clock:
    """The store's `now_ms`."""

    ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Heard:
    """Stands for the Speaker, and sends nothing."""

    rows: list[Outgoing] = field(default_factory=list)
    nudges: list[tuple[bytes, bytes]] = field(default_factory=list)
    due_ms: list[int] = field(default_factory=list)

    def say(self, rows, nudges, delivered, next_due_ms=None):
        self.rows += rows
        self.nudges += nudges
        if next_due_ms is not None:
            self.due_ms.append(next_due_ms)


class Seed(Protocol):
    """What happens beside the actors, in transactions of its own."""

    async def add_account(
        self, account: bytes, quota_bytes: int = ..., suspended: bool = False
    ) -> None: ...

    async def add_space(
        self,
        space: bytes,
        owner: bytes,
        history: bytes,
        head: bytes,
        policy: str = "automatic",
        key_epoch: int = 1,
    ) -> None:
        """An empty space; its owner becomes a member with role OWNER."""

    async def add_member(self, space: bytes, account: bytes, role: Role) -> None: ...

    async def lease(self, space: bytes, chunks: list[Chunk]) -> None:
        """The gateway stored these: held for limits.LEASE_S from `clock()` on."""

    async def merkle(self, space: bytes) -> dict[int, int]:
        """Bucket -> sum, those that are 0 left out."""


@dataclass
class House:
    """A store to be tested. It was given `clock` as its time and `heard` as its speaker."""

    store: Store
    seed: Seed
    clock: Clock
    heard: Heard


@dataclass
class Home:
    """An account with a space, and one of its devices."""

    house: House
    pen: Pen
    address: Address

    async def commit(self, *changes, stored=(), answered=0):
        """Run one commit as UserSync does; returns its decision."""
        command = self.pen.commit(*changes, stored=tuple(stored), answered=answered)
        commit = read(command)
        async with self.house.store.turn(self.address) as turn:
            space = await turn.space(command.space, command.account)
            view = await turn.look(command.space, command.device, wanted(commit))
            decision = admit(space, view, commit, turn.now_ms)
            if decision.batch:
                await turn.write(decision.batch)
        self.pen.head_seq, self.pen.head = decision.answer.head_seq, decision.answer.head
        return decision

    async def look(self, device: bytes | None = None, **keys):
        async with self.house.store.turn(self.address) as turn:
            what = Wanted(**{name: frozenset(found) for name, found in keys.items()})
            return await turn.look(self.pen.space, device or self.pen.device, what)

    async def space(self, account: bytes | None = None):
        async with self.house.store.turn(self.address) as turn:
            return await turn.space(self.pen.space, account or self.pen.account)


async def home(house: House, quota_bytes: int = QUOTA_BYTES, **more) -> Home:
    account, space, history = fresh_id("account"), fresh_id("space"), fresh_id("history")
    head = journal.genesis(space, history, bytes(32))
    await house.seed.add_account(account, quota_bytes=quota_bytes)
    await house.seed.add_space(space, account, history, head, **more)
    pen = Pen(space, account, history, head)
    return Home(house, pen, Address("user-sync", account.hex()))


def stored_answer(text: bytes = b"answer") -> StoredAnswer:
    return StoredAnswer(sha256(text), text)


async def say_yes(house: House, address: Address, message_id: bytes, text: bytes = b"answer"):
    async with house.store.turn(address) as turn:
        turn.answer(message_id, stored_answer(text))


async def answered(house: House, address: Address, message_id: bytes):
    async with house.store.turn(address) as turn:
        return await turn.answered(message_id)


# -- turns, inbox, outbox -----------------------------------------------------------------------


async def an_answer_is_kept_for_its_address(house: House):
    address, other = Address("user-sync", fresh_id().hex()), Address("user-sync", fresh_id().hex())
    assert await answered(house, address, b"m1") is None
    await say_yes(house, address, b"m1")
    assert await answered(house, address, b"m1") == stored_answer()
    assert await answered(house, other, b"m1") is None
    assert await answered(house, Address("conflict-arbiter", address.key), b"m1") is None


async def a_second_answer_to_the_same_message_is_overtaken(house: House):
    address = Address("user-sync", fresh_id().hex())
    await say_yes(house, address, b"m1")
    with pytest.raises(Overtaken):
        await say_yes(house, address, b"m1", b"another")
    assert await answered(house, address, b"m1") == stored_answer()


async def of_two_turns_that_answer_at_once_one_is_overtaken(house: House):
    address = Address("user-sync", fresh_id().hex())
    both = asyncio.Barrier(2)

    async def run(text: bytes):
        async with house.store.turn(address) as turn:
            assert await turn.answered(b"m1") is None
            await both.wait()
            turn.answer(b"m1", stored_answer(text))

    ends = await asyncio.gather(run(b"one"), run(b"two"), return_exceptions=True)
    assert sorted(type(end).__name__ for end in ends) == ["NoneType", "Overtaken"]


async def a_turn_that_raises_leaves_nothing(house: House):
    here = await home(house)
    stored = chunk("hello")
    commit = read(here.pen.commit(here.pen.create("a", content("a", stored)), stored=(stored,)))
    node = commit.changes[0].node
    before = await here.space()

    async def fail():
        async with house.store.turn(here.address) as turn:
            space = await turn.space(here.pen.space, here.pen.account)
            view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
            await turn.write(admit(space, view, commit, turn.now_ms).batch)
            await turn.put_upload(upload(here), 10)
            turn.answer(b"m1", stored_answer())
            turn.tell(here.address, ExpireUpload(upload=fresh_id()))
            turn.nudge(here.pen.space, Noticed(space=here.pen.space, kind="x", at_ms=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await here.space() == before
    view = await here.look(nodes=[node], chunks=[stored.address], dots=[1])
    assert not view.nodes
    assert not view.dots
    assert view.missing == {stored.address}
    assert await answered(house, here.address, b"m1") is None
    assert await house.seed.merkle(here.pen.space) == {}
    assert not house.heard.rows
    assert not house.heard.nudges


async def a_turn_reads_its_own_writes(house: House):
    here = await home(house)
    stored = chunk("hello")
    commit = read(here.pen.commit(here.pen.create("a", content("a", stored)), stored=(stored,)))
    node = commit.changes[0].node
    async with house.store.turn(here.address) as turn:
        space = await turn.space(here.pen.space, here.pen.account)
        view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
        decision = admit(space, view, commit, turn.now_ms)
        await turn.write(decision.batch)
        view = await turn.look(here.pen.space, here.pen.device, wanted(commit))
        assert view.nodes[node].content_id == commit.changes[0].content.content_id
        assert view.dots == {1: decision.batch.rows[0].raw}
        assert view.held[stored.address].referenced
        space = await turn.space(here.pen.space, here.pen.account)
        assert (space.head_seq, space.head) == (1, decision.batch.head)
        assert space.used_bytes == len("hello")


async def what_is_told_is_said_after_the_commit_in_order(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    first, second = fresh_id(), fresh_id()
    async with house.store.turn(address) as turn:
        turn.tell(to, ExpireUpload(upload=first))
        turn.tell(to, ExpireUpload(upload=second))
        turn.nudge(b"topic", Noticed(space=first, kind="x", at_ms=1))
        turn.answer(b"m1", stored_answer())
        assert not house.heard.rows
    assert [row.to for row in house.heard.rows] == [to, to]
    bodies = [decode(told(row).body, ExpireUpload) for row in house.heard.rows]
    assert bodies == [ExpireUpload(upload=first), ExpireUpload(upload=second)]
    assert len({told(row).id for row in house.heard.rows}) == 2
    ((topic, body),) = house.heard.nudges
    assert (topic, decode(body, Noticed)) == (b"topic", Noticed(space=first, kind="x", at_ms=1))


async def what_was_not_delivered_is_left_to_the_relay(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    async with house.store.turn(address) as turn:
        for _ in range(3):
            turn.tell(to, ExpireUpload(upload=fresh_id()))
        turn.answer(b"m1", stored_answer())
    first, second, third = house.heard.rows
    assert first not in await outgoing(house, to, 5_000), "the turn's own speaker is still at it"
    await house.store.delivered([second.id])
    house.clock.ms += 5_000
    assert await outgoing(house, to, 5_000) == [first, third]
    assert not await outgoing(house, to, 5_000), "claimed by one relay at a time"
    await house.store.delivered([first.id, first.id, second.id])
    house.clock.ms += 5_000
    assert await outgoing(house, to, 5_000) == [third], "not delivered: another try"
    await house.store.delivered([third.id])
    house.clock.ms += 5_000
    assert not await outgoing(house, to, 5_000)


async def what_is_told_for_later_waits_until_it_is_due(house: House):
    address, to = (
        Address("user-sync", fresh_id().hex()),
        Address("upload-session", fresh_id().hex()),
    )
    async with house.store.turn(address) as turn:
        turn.tell(to, ExpireUpload(upload=fresh_id()), after_ms=2 * HOUR_MS)
        turn.tell(to, ExpireUpload(upload=fresh_id()), after_ms=HOUR_MS)
        turn.answer(b"m1", stored_answer())
    assert not house.heard.rows
    assert house.heard.due_ms == [house.clock.ms + HOUR_MS]
    house.clock.ms += HOUR_MS - 1
    assert not await outgoing(house, to, 0)
    house.clock.ms += 1
    (row,) = await outgoing(house, to, 0)
    await house.store.delivered([row.id])
    house.clock.ms += HOUR_MS
    (row,) = await outgoing(house, to, 5_000)
    await house.store.delivered([row.id])


async def read_answers_are_forgotten_and_remembered_as_read(house: House):
    here = await home(house)
    device, other = fresh_id("device"), fresh_id("device")
    ids = [op_id(device, op) for op in (1, 2, 3)] + [op_id(other, 1), b"not an op"]
    for message_id in ids:
        await say_yes(house, here.address, message_id)
    assert (await here.look(device)).answered_op == 0
    async with house.store.turn(here.address) as turn:
        await turn.forget_answers(device, 2)
    kept = [await answered(house, here.address, message_id) is not None for message_id in ids]
    assert kept == [False, False, True, True, True]
    assert (await here.look(device)).answered_op == 2
    assert (await here.look(other)).answered_op == 0
    async with house.store.turn(here.address) as turn:
        await turn.forget_answers(device, 1)
    assert (await here.look(device)).answered_op == 2, "never back"


def told(row: Outgoing):
    from actors.ports import Envelope

    return decode(row.envelope, Envelope)


async def outgoing(house: House, to: Address, older_than_ms: int) -> list[Outgoing]:
    return [row for row in await house.store.outgoing(1_000, older_than_ms) if row.to == to]


# -- spaces and batches -------------------------------------------------------------------------


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


# -- chunks and quota ---------------------------------------------------------------------------


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


# -- conflicts ----------------------------------------------------------------------------------


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


# -- a whole commit -----------------------------------------------------------------------------


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


CONTRACT = [
    an_answer_is_kept_for_its_address,
    a_second_answer_to_the_same_message_is_overtaken,
    of_two_turns_that_answer_at_once_one_is_overtaken,
    a_turn_that_raises_leaves_nothing,
    a_turn_reads_its_own_writes,
    what_is_told_is_said_after_the_commit_in_order,
    what_was_not_delivered_is_left_to_the_relay,
    what_is_told_for_later_waits_until_it_is_due,
    read_answers_are_forgotten_and_remembered_as_read,
    a_space_is_seen_with_the_role_of_who_asks,
    a_space_shows_that_its_owner_is_suspended,
    a_space_is_locked_until_its_turn_ends,
    a_batch_on_an_old_head_is_overtaken,
    nodes_are_seen_whole_with_their_ancestors,
    tokens_are_held_by_live_nodes_only,
    names_are_swapped_in_one_batch,
    children_are_the_live_ones,
    versions_are_kept_whole,
    dots_lead_to_the_rows_of_their_device_in_this_space,
    buckets_sum_the_leaves_of_live_nodes,
    a_space_holds_what_it_leased_while_the_lease_runs,
    what_a_version_refers_to_is_held_for_good,
    a_page_brings_what_it_lists,
    what_a_page_was_first_said_to_list_stays,
    a_batch_without_rows_makes_chunks_known,
    an_upload_is_kept_with_its_reservation,
    a_reservation_beyond_the_quota_writes_nothing,
    of_two_reservations_at_once_only_what_fits_is_made,
    conflicts_are_kept_and_flag_their_node,
    a_thousand_changes_are_one_batch,
]
