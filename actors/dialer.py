"""Dialer: how a gateway asks an actor, and gets an answer or a fault, whatever is broken.

The broker carries the question; while it is away the gateway hosts the actor in its own process
(law 7). Law 2 keeps that safe: the database decides if two hosts hold one address.
"""

from collections.abc import Callable

import structlog

from actors.actor import Roster
from actors.ports import Address, DeadLettered, Envelope, Transport, Unreachable
from protocol import limits
from protocol.backoff import RECONNECT
from protocol.codec import decode, encode
from protocol.faults import Code, Fault
from protocol.messages import Message

BUSY_RETRY_MS = 2_000

log = structlog.get_logger()


class Breaker:
    """Remembers that a dependency is away, so that nobody waits to find it out again.

    Open for a while after `failures_max` failures in a row, then lets one caller try; that time
    grows with full jitter as long as it fails. Pure: takes the time and the dice.
    """

    def __init__(self, failures_max: int = 3) -> None:
        """Start closed."""
        self._failures_max = failures_max
        self._failures = 0
        self._open_until_ms = 0

    def allows(self, now_ms: int) -> bool:
        """Say whether to try. True at most once per interval while open."""
        if self._failures < self._failures_max:
            return True
        if now_ms < self._open_until_ms:
            return False
        self._open_until_ms = now_ms + RECONNECT.base_ms  # one caller tries, the others do not
        return True

    def succeeded(self) -> None:
        """Close."""
        self._failures = 0

    def failed(self, now_ms: int, dice: float) -> None:
        """Count a failure; `dice` is in [0, 1)."""
        self._failures += 1
        attempt = max(0, self._failures - self._failures_max)
        self._open_until_ms = now_ms + RECONNECT.base_ms + RECONNECT.delay_ms(attempt, dice)


class Dialer:
    """Asks actors through a transport, and through `fallback` while that is unreachable.

    `fallback` is a `MemoryTransport` on which a `Host` of the same roster serves; None: there is
    none, and an unreachable broker is answered UNAVAILABLE.
    """

    def __init__(
        self,
        roster: Roster,
        transport: Transport,
        fallback: Transport | None,
        now_ms: Callable[[], int],
        dice: Callable[[], float],
    ) -> None:
        """`now_ms` is the wall clock, `dice` draws from [0, 1)."""
        self._answers = {
            actor.kind: Fault if actor.answers is None else actor.answers | Fault
            for actor in roster
        }
        self._transport = transport
        self._fallback = fallback
        self._now_ms = now_ms
        self._dice = dice
        self._breaker = Breaker()

    async def ask(
        self,
        address: Address,
        message: Message,
        message_id: bytes,
        fingerprint: bytes,
        timeout_s: float = limits.TURN_TIMEOUT_S,
        trace: str = "",
    ) -> Message | None:
        """Ask, and return the decoded answer: one of the actor's, a Fault, or None for none.

        Safe to repeat with the same `message_id`; the effect happens once. Faults made here and
        never stored: BUSY (no answer in time), UNAVAILABLE (nobody to ask), INTERNAL (the message
        is a dead letter). After these the effect is unknown until it is asked again.
        Never raises for what a broker or an actor does.
        """
        envelope = Envelope(message_id, fingerprint, encode(message), self._now_ms(), trace)
        try:
            raw = await self._carry(address, encode(envelope), timeout_s)
        except TimeoutError:
            return Fault(code=Code.BUSY, retry_after_ms=BUSY_RETRY_MS)
        except Unreachable:
            return Fault(code=Code.UNAVAILABLE, retry_after_ms=BUSY_RETRY_MS)
        except DeadLettered:
            return Fault(code=Code.INTERNAL)
        return decode(raw, self._answers[address.kind]) if raw else None

    async def _carry(self, address: Address, envelope: bytes, timeout_s: float) -> bytes:
        if self._breaker.allows(self._now_ms()):
            try:
                raw = await self._transport.ask(address, envelope, timeout_s)
            except Unreachable as error:
                self._breaker.failed(self._now_ms(), self._dice())
                log.warning("broker unreachable", kind=address.kind, error=str(error))
            else:
                self._breaker.succeeded()
                return raw
        if self._fallback is None:
            raise Unreachable("the broker is away, and this process hosts no actors")
        return await self._fallback.ask(address, envelope, timeout_s)
