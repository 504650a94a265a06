"""Mailboxes: one queue per address, one message at a time, in the order of arrival.

The same on every transport. A busy address has one task, which ends when its queue is empty; an
idle address is nothing at all. A message that raises is tried again in its place, with backoff,
while the later ones of its address wait and other addresses do not.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from actors.ports import Address, Deliver, Undeliverable, Unreachable
from protocol import limits
from protocol.backoff import MAILBOX

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a message: its answer, or `error` and it is a dead letter."""

    answer: bytes = b""
    error: Exception | None = None


Settle = Callable[[Settled], Awaitable[None]]


@dataclass(slots=True)
class Letter:
    """A message in a mailbox. `settle` is awaited once, before the next of its address begins."""

    to: Address
    envelope: bytes
    settle: Settle


@dataclass(slots=True)
class _Mailbox:
    letters: deque[Letter] = field(default_factory=deque)
    task: "asyncio.Task[None] | None" = None


class Mailboxes:
    """The mailboxes of one consumer. Never re-entrant: an address handles one message at a time."""

    def __init__(
        self,
        deliver: Deliver,
        dice: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        deliveries_max: int = limits.DELIVERIES_MAX,
    ) -> None:
        """`dice` draws from [0, 1), `sleep` takes seconds."""
        self._deliver = deliver
        self._dice = dice
        self._sleep = sleep
        self._deliveries_max = deliveries_max
        self._boxes: dict[Address, _Mailbox] = {}

    def __len__(self) -> int:
        """How many addresses are busy."""
        return len(self._boxes)

    def put(self, letter: Letter) -> None:
        """Append to its address's queue. Call from the event loop, in the order of arrival."""
        box = self._boxes.get(letter.to)
        if box is not None:
            box.letters.append(letter)
            return
        box = self._boxes[letter.to] = _Mailbox(deque((letter,)))
        box.task = asyncio.create_task(self._serve(letter.to, box), name=letter.to.kind)

    async def idle(self) -> None:
        """Wait until nothing is left to do, what arrives meanwhile included."""
        while self._boxes:
            await asyncio.wait([box.task for box in self._boxes.values() if box.task is not None])

    def forget(self) -> list[Letter]:
        """Drop what no turn has begun, and return it; turns under way go on."""
        dropped: list[Letter] = []
        for box in self._boxes.values():
            while len(box.letters) > 1:
                dropped.append(box.letters.pop())
        dropped.reverse()
        return dropped

    async def abandon(self) -> list[Letter]:
        """Cancel everything, turns under way included; return what was not settled, in order."""
        boxes = list(self._boxes.values())
        tasks = [box.task for box in boxes if box.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._boxes.clear()
        return [letter for box in boxes for letter in box.letters]

    async def _serve(self, address: Address, box: _Mailbox) -> None:
        while box.letters:
            letter = box.letters[0]  # stays in front while it is handled: `abandon` returns it
            settled = await self._handle(letter)
            try:
                await letter.settle(settled)
            except Exception:  # a transport's error must not stop the address
                log.exception("a message could not be settled", kind=address.kind)
            box.letters.popleft()
        del self._boxes[address]  # no await since the queue was seen empty: nothing is lost

    async def _handle(self, letter: Letter) -> Settled:
        attempt = failures = 0
        while True:
            try:
                return Settled(await self._deliver(letter.to, letter.envelope))
            except Unreachable as error:  # an outage is nobody's fault, and does not count
                log.warning("turn waits", kind=letter.to.kind, error=str(error))
            except Undeliverable as error:
                log.error("dead letter", kind=letter.to.kind, error=str(error))
                return Settled(error=error)
            except Exception as error:  # whatever failed, the contract is: try again
                failures += 1
                if failures >= self._deliveries_max:
                    log.exception("dead letter", kind=letter.to.kind, deliveries=failures)
                    return Settled(error=error)
                log.warning(
                    "turn failed", kind=letter.to.kind, deliveries=failures, error=repr(error)
                )
            await self._sleep(MAILBOX.delay_ms(attempt, self._dice()) / 1000)
            attempt += 1
