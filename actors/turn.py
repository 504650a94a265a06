"""What a turn has to say once it is committed, the same for every store (save, then speak).

A store's turn inherits `Words`; at its commit it writes `outbox()` in the same transaction, and
afterwards hands the rows that are due, with their ids, and the nudges to the `Speaker`.
"""

from typing import NamedTuple

from structlog.contextvars import get_contextvars

from actors.ports import Address, Envelope, Outgoing, Overtaken
from actors.records import StoredAnswer
from protocol.codec import encode, lp, sha256
from protocol.ids import ID_BYTES
from protocol.messages import Message


class Told(NamedTuple):
    """An outbox row to write."""

    to: Address
    envelope: bytes
    due_ms: int  # at or before the turn's `now_ms`: to be sent right after the commit

    def outgoing(self, row: int) -> Outgoing:
        """Return it as the row that it became."""
        return Outgoing(id=row, to=self.to, envelope=self.envelope)


class Nudged(NamedTuple):
    """A nudge to broadcast."""

    topic: bytes
    body: bytes


class Words:
    """Buffers what one turn answers, tells and nudges until its commit.

    The ids of told messages are derived from the address, the message that is answered and their
    order, so that a turn which is run twice tells duplicates, and no second message.
    """

    def __init__(self, address: Address, now_ms: int) -> None:
        """Begin the turn of `address`; `now_ms` is its one and only time."""
        self.address = address
        self.now_ms = now_ms
        self.answers: list[tuple[bytes, StoredAnswer]] = []
        self.nudges: list[Nudged] = []
        self._told: list[tuple[Address, Message, int]] = []

    def answer(self, message_id: bytes, stored: StoredAnswer) -> None:
        """Keep the answer for the commit. A second one for the same id raises Overtaken."""
        if any(known == message_id for known, _ in self.answers):
            raise Overtaken(f"{self.address.kind} was answered already")
        self.answers.append((message_id, stored))

    def tell(self, to: Address, message: Message, after_ms: int = 0) -> None:
        """Keep a message for the outbox."""
        assert after_ms >= 0
        self._told.append((to, message, after_ms))

    def nudge(self, topic: bytes, message: Message) -> None:
        """Keep a nudge until after the commit."""
        self.nudges.append(Nudged(topic, encode(message)))

    def outbox(self) -> list[Told]:
        """Return the rows to write with the commit. The turn must have answered before."""
        assert self.answers or not self._told, "a turn that tells must answer, be it with nothing"
        return [self._row(index, *told) for index, told in enumerate(self._told)]

    def _row(self, index: int, to: Address, message: Message, after_ms: int) -> Told:
        body = encode(message)
        envelope = Envelope(
            id=told_id(self.address, self.answers[0][0], index),
            fingerprint=sha256(body),
            body=body,
            sent_ms=self.now_ms,
            trace=str(get_contextvars().get("trace", "")),  # of the message it follows from
        )
        return Told(to, encode(envelope), self.now_ms + after_ms)


def told_id(teller: Address, message_id: bytes, index: int) -> bytes:
    """Return the id of the message number `index` that a turn tells while it answers another."""
    return sha256(lp("sl1/told", teller.kind, teller.key, message_id, index))[:ID_BYTES]
