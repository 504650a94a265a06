"""The roster over the transport, feed and store in memory: what one actor tells, another hears."""

import pytest

from actors.host import Host
from actors.memory import MemoryFeed, MemoryTransport
from actors.outbox import Speaker, relay_once
from actors.ports import Address, Envelope
from actors.roster import ROSTER
from protocol.codec import decode, encode, sha256
from protocol.faults import Fault
from protocol.journal import decode_header, op_id
from protocol.messages.conflict import ConflictNoted
from protocol.messages.feed import Advanced, Noticed, Nudge
from protocol.messages.sync import Committed, Conflicted
from protocol.messages.upload import BeginUpload, LookUpload, UploadClosed, UploadOpen
from tests.actors.bench import Bench, check_invariants, modify
from tests.contracts.pen import chunk, content, fresh_id, ref

Answer = Committed | UploadOpen | UploadClosed | ConflictNoted | Fault


class House(Bench):
    """A bench whose actors run as in standalone mode."""

    def __init__(self, **more):
        super().__init__(**more)
        self.transport, self.feed = MemoryTransport(), MemoryFeed()
        self.speaker = Speaker(self.transport, self.feed)
        self.store.speaker = self.speaker
        self.heard = []

    async def open(self):
        async def hear(body):
            self.heard.append(decode(body, Nudge))

        await self.feed.listen(self.space, hear)
        await Host(self.store, ROSTER, self.clock).serve(self.transport)

    async def ask(self, kind, key, message, message_id=None):
        body = encode(message)
        envelope = encode(Envelope(message_id or fresh_id(), sha256(body), body))
        return decode(await self.transport.ask(Address(kind, key.hex()), envelope, 5.0), Answer)

    async def commit(self, pen, *changes, stored=(), upload=None):
        command = pen.commit(*changes, stored=tuple(stored), upload=upload)
        key = op_id(pen.device, decode_header(command.header).op)
        return await self.ask("user-sync", self.owner, command, key)

    async def quiet(self):
        for _ in range(5):
            await self.speaker.silent()
            for consumer in self.transport._consumers:
                await consumer[1].mailboxes.idle()


@pytest.fixture
async def house():
    house = House()
    await house.open()
    yield house
    await house.transport.close()
    await house.feed.close()
    check_invariants(house)


async def test_a_conflict_reaches_the_arbiter_and_every_device(house):
    pen, other = house.pen(), house.pen()
    (node,) = house.ok(pen, pen.create("a", content("first")))
    await house.commit(pen, modify(pen, node, content("ours")))
    answer = await house.commit(other, modify(other, node, content("theirs")))
    (met,) = answer.results
    assert isinstance(met, Conflicted)
    await house.commit(other, other.create("copy", content("copy"), copy_of=met.loser))
    await house.quiet()
    async with house.store.turn(house.address) as turn:
        (record,) = await turn.conflicts(house.space, node.node)
    assert record.state == "copied"
    seqs = [nudge.seq for nudge in house.heard if isinstance(nudge, Advanced)]
    assert seqs == [2, 4, 5]
    kinds = [nudge.kind for nudge in house.heard if isinstance(nudge, Noticed)]
    assert kinds == ["conflict_opened", "conflict_copied"]
    assert not house.store._outbox, "I14: the outbox drains"


async def test_a_session_ends_with_its_commit(house):
    pen, upload, stored = house.pen(), fresh_id("upload"), chunk("text")
    begin = BeginUpload(
        space=house.space,
        owner=house.owner,
        device=pen.device,
        upload=upload,
        refs=(ref(stored),),
    )
    assert isinstance(await house.ask("upload-session", upload, begin), UploadOpen)
    await house.commit(pen, pen.create("a", content("a", stored)), stored=[stored], upload=upload)
    await house.quiet()
    look = LookUpload(owner=house.owner, upload=upload)
    answer = await house.ask("upload-session", upload, look)
    assert answer == UploadClosed(upload=upload, state="committed")


async def test_what_a_crash_left_is_told_by_the_relay(house):
    """The worker died between its commit and its first word."""
    house.store.speaker = None
    pen, other = house.pen(), house.pen()
    (node,) = house.ok(pen, pen.create("a", content("first")))
    await house.commit(pen, modify(pen, node, content("ours")))
    await house.commit(other, modify(other, node, content("theirs")))
    house.store.speaker = house.speaker
    house.clock.ms += 60_000
    assert await relay_once(house.store, house.transport) == (1, 1)
    await house.quiet()
    async with house.store.turn(house.address) as turn:
        assert await turn.open_conflicts(house.space) == 1
    assert await relay_once(house.store, house.transport) == (0, 0)
