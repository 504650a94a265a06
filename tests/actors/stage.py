"""All actors of the roster on the store in memory; messages are carried by hand."""

from actors.host import Host
from actors.memory_store import MemoryStore
from actors.ports import Address, Envelope
from actors.roster import ROSTER
from protocol.codec import decode, encode, sha256
from protocol.faults import Fault
from protocol.journal import decode_header, op_id
from protocol.messages.conflict import ConflictAnswer
from protocol.messages.feed import Nudge
from protocol.messages.sync import SyncAnswer
from protocol.messages.upload import UploadAnswer
from tests.actors.bench import Bench
from tests.contracts.house import Heard
from tests.contracts.pen import fresh_id

Answer = SyncAnswer | UploadAnswer | ConflictAnswer | Fault


class Stage(Bench):
    """A bench with actors."""

    def __init__(self, **more):
        super().__init__(**more)
        self.heard = Heard()
        self.store = self._with_speaker(self.store)
        self.host = Host(self.store, ROSTER, self.clock)

    def _with_speaker(self, store: MemoryStore) -> MemoryStore:
        store.speaker = self.heard
        return store

    async def ask(self, kind: str, key: bytes, message, message_id: bytes | None = None):
        """Deliver a message and return its answer."""
        body = encode(message)
        envelope = Envelope(message_id or fresh_id("message"), sha256(body), body)
        raw = await self.host.deliver(Address(kind, key.hex()), encode(envelope))
        return decode(raw, Answer)

    async def commit(self, pen, *changes, stored=(), upload=None, answered=0, **header):
        """Ask UserSync as the gateway does, its inbox key made from device and op."""
        command = pen.commit(
            *changes, stored=tuple(stored), upload=upload, answered=answered, **header
        )
        return await self.repeat(command)

    async def repeat(self, command):
        """Ask UserSync again, or for the first time."""
        op = decode_header(command.header).op
        return await self.ask("user-sync", self.owner, command, op_id(command.device, op))

    async def settle(self) -> list[tuple[str, object]]:
        """Carry what is due to its actors until nothing is left; return who answered what."""
        answers = []
        while rows := await self.store.outgoing(100, 0):
            for row in rows:
                raw = await self.host.deliver(row.to, row.envelope)
                answers.append((row.to.kind, decode(raw, Answer)))
            await self.store.delivered([row.id for row in rows])
        return answers

    def nudges(self):
        """Take what was broadcast so far."""
        taken, self.heard.nudges = self.heard.nudges, []
        return [(topic, decode(body, Nudge)) for topic, body in taken]

    async def turn(self, act):
        """Run `act(turn)` in a turn of its own."""
        async with self.store.turn(Address("test", "")) as turn:
            return await act(turn)
