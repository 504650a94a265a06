"""What the actors need from the outside, and nothing more. Every port has a twin in memory.

    Transport   carries envelopes between gateways and actors       memory, RabbitMQ
    Feed        nudges, which may be lost                           memory, Redis
    Store       turns: transactions with inbox and outbox           memory, PostgreSQL
    ChunkStore  sealed chunks by address                            memory, disk
    Cache       facts that can be read again elsewhere              memory, Redis

One contract suite per port (tests/contracts) runs on every adapter.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import msgspec

from actors.records import (
    Batch,
    Chunk,
    Conflict,
    Space,
    StoredAnswer,
    Upload,
    View,
    Wanted,
)
from protocol.messages import Message


class Address(NamedTuple):
    """Where a message goes: one virtual actor. Always exists; activated by its first message."""

    kind: str  # "user-sync", "upload-session", "conflict-arbiter"
    key: str  # which one: the hex of a user, upload or space id


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """A message on its way. `id` is the inbox key: the same id is answered once and for all.

    `fingerprint` tells whether a repeat says the same thing; `trace` is a W3C traceparent.
    """

    id: bytes
    fingerprint: bytes
    body: bytes
    sent_ms: int = 0
    trace: str = ""


Deliver = Callable[[Address, bytes], Awaitable[bytes]]
"""Handles one encoded `Envelope`; returns the encoded answer, b"" for none. Raises: try again."""

Hear = Callable[[bytes], Awaitable[None]]


class Unreachable(Exception):
    """The broker, database or store behind a port is away. Nothing is known about the effect."""


class DeadLettered(Exception):
    """The message was tried `limits.DELIVERIES_MAX` times and lies in the dead-letter queue."""


class Undeliverable(Exception):
    """No repetition can help (garbage, an unknown tag or kind): a dead letter at once."""


class Transport(Protocol):
    """Carries envelopes at least once, and promises this much (tests/contracts):

    Messages of one address are handled one at a time, in the order of arrival. One that raises is
    tried again, before the later ones of its address, up to `DELIVERIES_MAX` times, with backoff;
    then it becomes a dead letter. Two exceptions: `Undeliverable` makes it one at once, and an
    `Unreachable` does not count, since an outage says nothing about the message. A worker that
    dies gives its unfinished messages back.
    """

    async def send(self, to: Address, envelope: bytes) -> None:
        """Hand over for delivery; returns once the message is safe. Raises Unreachable."""

    async def ask(self, to: Address, envelope: bytes, timeout_s: float) -> bytes:
        """Send and wait for the answer. Raises TimeoutError, Unreachable or DeadLettered;
        after any of them the effect is unknown: ask again with the same id.
        """

    async def consume(
        self, kind: str, deliver: Deliver, partitions: Sequence[int] | None = None
    ) -> None:
        """Start to serve an actor kind; `partitions` None means all of them."""

    async def close(self) -> None:
        """Stop taking messages, finish the turns under way, let go. Idempotent."""


class Feed(Protocol):
    """Broadcasts nudges by topic (a space or account id). May lose, double and reorder them."""

    async def publish(self, topic: bytes, body: bytes) -> None:
        """Tell every listener of the topic. Never raises: a lost nudge is healed by polling."""

    async def listen(self, topic: bytes, hear: Hear) -> Callable[[], Awaitable[None]]:
        """Hear a topic from now on; await the returned function to stop."""

    async def close(self) -> None:
        """Let go. Idempotent."""


class Cache(Protocol):
    """Remembers bytes for a while. May forget at any time; never the only place of a fact."""

    async def get(self, key: str) -> bytes | None:
        """Return what was put, or None."""

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        """Remember for `ttl_s` seconds."""

    async def count(self, key: str, window_s: int) -> int:
        """Add one to a counter that starts at 0 every `window_s` seconds; return its value."""

    async def take(self, key: str) -> bytes | None:
        """Return and forget, atomically: only one caller gets it (one-time tickets)."""

    async def close(self) -> None:
        """Let go. Idempotent."""


class StoreFull(Exception):
    """The chunk store's disk has no room."""


class ChunkMismatch(Exception):
    """The bytes are not what their address says; nothing was stored."""


class ChunkStore(Protocol):
    """Sealed chunks by address H = SHA-256(bytes). Immutable; a repeat of a put is free.

    When a put returns, the bytes survive a power cut. Presence here says nothing about who may
    read them: that is decided per space, in the Store.
    """

    async def put(self, address: bytes, body: AsyncIterator[bytes]) -> int:
        """Store one chunk while it streams in; return its size.

        Raises ChunkMismatch, StoreFull, and whatever `body` raises; then no trace is left.
        """

    async def put_many(self, blobs: Sequence[bytes]) -> list[Chunk]:
        """Store many small chunks under one group of fsyncs; return their addresses in order."""

    async def get(self, address: bytes) -> bytes | None:
        """Return a chunk, or None."""

    async def get_many(self, addresses: Sequence[bytes]) -> list[bytes | None]:
        """Return chunks in order, None where there is none."""

    def stream(
        self, address: bytes, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) of a chunk in pieces of 1 MiB or less."""

    async def free_bytes(self) -> int:
        """Return the room left."""


class Overtaken(Exception):
    """Somebody else moved the state this turn was based on: roll back, try again."""


class Turn(Protocol):
    """The handling of one message: one transaction on one connection.

    Reads see the transaction. Everything written, told and nudged becomes real together when the
    turn ends without an exception, and not at all otherwise; telling and nudging happen after the
    commit (save, then speak).
    """

    now_ms: int

    async def answered(self, message_id: bytes) -> StoredAnswer | None:
        """Return what this address answered to the message before, if it did."""

    def answer(self, message_id: bytes, stored: StoredAnswer) -> None:
        """Store the answer with the effect. A second one for the same id raises Overtaken."""

    def tell(self, to: Address, message: Message, after_ms: int = 0) -> None:
        """Put a message into the outbox; it is sent after the commit, or `after_ms` later."""

    def nudge(self, topic: bytes, message: Message) -> None:
        """Broadcast after the commit. May be lost."""

    async def space(self, space: bytes, account: bytes) -> Space | None:
        """Return a space, locked until the turn ends."""

    async def look(self, space: bytes, device: bytes, wanted: Wanted) -> View:
        """Return all that is known of what is wanted, in a fixed number of queries."""

    async def write(self, batch: Batch) -> None:
        """Write a batch. Raises Overtaken when the space's head has moved."""

    async def forget_answers(self, device: bytes, upto_op: int) -> None:
        """Drop inbox rows of this address whose op the device has read the answer of: those with
        an id from `op_id(device, 0)` to `op_id(device, upto_op)` (protocol.journal). Remembers the
        greatest `upto_op` per address and device, for `View.answered_op`.
        """

    async def missing(self, space: bytes, addresses: Iterable[bytes]) -> frozenset[bytes]:
        """Return which chunks the space neither refers to nor leases."""

    async def upload(self, upload: bytes) -> Upload | None:
        """Return an upload session, locked until the turn ends."""

    async def put_upload(self, upload: Upload, reserve_delta_bytes: int) -> bool:
        """Insert or replace it, and change the owner's reservation by so much.

        False: the owner's quota is short; nothing was written.
        """

    async def conflicts(self, space: bytes, node: bytes) -> list[Conflict]:
        """Return the records of a node's conflicts that are not resolved, by seq."""

    async def conflict(self, conflict: bytes) -> Conflict | None:
        """Return one record."""

    async def put_conflict(self, conflict: Conflict) -> None:
        """Insert or replace a record, and the node's flag with it (true while it has any that is
        not resolved). Locks the space, since UserSync writes nodes whole.
        """

    async def open_conflicts(self, space: bytes) -> int:
        """Return how many are not resolved."""


class Outgoing(NamedTuple):
    """An outbox row: due now, not known to be delivered."""

    id: int
    to: Address
    envelope: bytes


class Store(Protocol):
    """Opens turns, and keeps what they told until it is delivered."""

    def turn(self, address: Address) -> AbstractAsyncContextManager[Turn]:
        """Open a transaction for one message of this address. Raises Unreachable."""

    async def outgoing(self, limit: int, older_than_ms: int) -> list[Outgoing]:
        """Claim due outbox rows written at least so long ago (a crash may have left them)."""

    async def delivered(self, ids: Sequence[int]) -> None:
        """Remove outbox rows."""
