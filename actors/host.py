"""Host: runs turns. One message in, one transaction, one answer out, however often it arrives."""

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import structlog

from actors.actor import Actor, Roster
from actors.ports import Address, Envelope, Overtaken, Store, Transport, Undeliverable
from actors.records import StoredAnswer
from protocol import limits
from protocol.codec import decode, encode
from protocol.faults import Code, Fault, Refusal
from protocol.messages import Message

OVERTAKEN_MAX = 10  # runs of one delivery; each means that somebody else got on meanwhile

log = structlog.get_logger()


class Host:
    """Gives every message of the roster's actors its turn.

    Safe with any number of hosts on one store: the database decides (law 2), a host that lost
    runs the turn again and then finds the answer of the other.
    """

    def __init__(
        self,
        store: Store,
        roster: Roster,
        now_ms: Callable[[], int],
        turn_timeout_s: float = limits.TURN_TIMEOUT_S,
        heard: Callable[[str, str, int], None] | None = None,
    ) -> None:
        """Host the actors of `roster`.

        `heard(kind, tag, waited_ms)` is told of every delivery (for metrics); `waited_ms` runs
        from the sender's clock to ours.
        """
        self.roster: dict[str, type[Actor]] = {actor.kind: actor for actor in roster}
        self._store = store
        self._now_ms = now_ms
        self._turn_timeout_s = turn_timeout_s
        self._heard = heard

    async def deliver(self, address: Address, raw: bytes) -> bytes:
        """Handle one encoded envelope; return the encoded answer, b"" for none.

        A repeat (same id, same fingerprint) gets the stored answer, another message under a known
        id the fault KEY_REUSED, which is not stored.
        Raises Undeliverable for what can never be handled; any other exception: try again.
        """
        actor, envelope, message = self._read(address, raw)
        if self._heard is not None:
            waited_ms = max(0, self._now_ms() - envelope.sent_ms) if envelope.sent_ms else 0
            self._heard(address.kind, str(type(message).__struct_config__.tag), waited_ms)
        with structlog.contextvars.bound_contextvars(kind=address.kind, trace=envelope.trace):
            async with asyncio.timeout(self._turn_timeout_s):
                return await self._until_settled(actor, address, envelope, message)

    async def serve(
        self,
        transport: Transport,
        kinds: Sequence[str] | None = None,
        partitions: Sequence[int] | None = None,
    ) -> None:
        """Consume the kinds (None: the whole roster) of these partitions (None: all)."""
        for kind in self.roster if kinds is None else kinds:
            if kind not in self.roster:
                raise ValueError(f"no actor is called {kind!r}; known: {', '.join(self.roster)}")
            await transport.consume(kind, self.deliver, partitions)

    def _read(self, address: Address, raw: bytes) -> tuple[type[Actor], Envelope, Message]:
        actor = self.roster.get(address.kind)
        if actor is None:
            raise Undeliverable(f"no actor is called {address.kind!r}")
        try:
            envelope: Envelope = decode(raw, Envelope)
            return actor, envelope, decode(envelope.body, actor.accepts)
        except msgspec.DecodeError as error:
            raise Undeliverable(f"{address.kind} cannot read it: {error}") from error

    async def _until_settled(
        self, actor: type[Actor], address: Address, envelope: Envelope, message: Message
    ) -> bytes:
        for _ in range(OVERTAKEN_MAX - 1):
            try:
                return await self._turn(actor, address, envelope, message)
            except Overtaken as error:
                log.debug("overtaken", about=str(error))
        return await self._turn(actor, address, envelope, message)

    async def _turn(
        self, actor: type[Actor], address: Address, envelope: Envelope, message: Message
    ) -> bytes:
        try:
            async with self._store.turn(address) as turn:
                before = await turn.answered(envelope.id)
                if before is not None:
                    return _again(before, envelope)
                answer = await actor(address).receive(message, turn)
                raw = b"" if answer is None else encode(answer)
                turn.answer(envelope.id, StoredAnswer(envelope.fingerprint, raw))
                return raw
        except Refusal as refusal:
            fault = refusal.fault
        # The refused turn was rolled back, whatever it had written. The fault gets its own.
        async with self._store.turn(address) as turn:
            before = await turn.answered(envelope.id)
            if before is not None:
                return _again(before, envelope)
            raw = encode(fault)
            turn.answer(envelope.id, StoredAnswer(envelope.fingerprint, raw))
            return raw


def _again(before: StoredAnswer, envelope: Envelope) -> bytes:
    if before.fingerprint == envelope.fingerprint:
        return before.answer
    return encode(Fault(code=Code.KEY_REUSED))
