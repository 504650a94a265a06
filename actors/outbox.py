"""Outbox: what a turn told is sent after its commit; what a crash left is sent by the relay."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import groupby

import structlog

from actors.ports import Feed, Outgoing, Store, Transport, Unreachable
from actors.turn import Nudged
from protocol.backoff import RECONNECT

LEFT_MS = 5_000  # a row this old was not sent by the turn that wrote it
IDLE_S = 30.0
BATCH_MAX = 256

log = structlog.get_logger()

Delivered = Callable[[Sequence[int]], Awaitable[None]]


class Speaker:
    """Sends what a committed turn told and nudged, at once and in the background.

    Given to a Store at its construction. What cannot be sent now stays in the outbox, for the
    relay. `later(due_ms)` is called for what is to be sent later, so that a relay in the same
    process knows when to wake.
    """

    def __init__(
        self, transport: Transport, feed: Feed, later: Callable[[int], None] | None = None
    ) -> None:
        """Speak through these two."""
        self._transport = transport
        self._feed = feed
        self._later = later
        self._rows: deque[tuple[Outgoing, Delivered]] = deque()
        self._nudges: deque[Nudged] = deque()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def say(
        self,
        rows: Sequence[Outgoing],
        nudges: Sequence[Nudged],
        delivered: Delivered,
        next_due_ms: int | None = None,
    ) -> None:
        """Call after the commit, from the event loop; returns at once, never raises.

        `rows` are the outbox rows that are due now, `delivered` the store's own method;
        `next_due_ms` is when the earliest row that is not due will be, if there is one.
        """
        if nudges:
            self._nudges.extend(nudges)
            self._start("nudges", self._broadcast)
        if rows:
            self._rows.extend((row, delivered) for row in rows)
            self._start("rows", self._send)
        if next_due_ms is not None and self._later is not None:
            self._later(next_due_ms)

    async def silent(self) -> None:
        """Wait until everything said so far is sent, or left to the relay."""
        while tasks := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.gather(*tasks)

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        if name not in self._tasks:
            task = asyncio.ensure_future(work())
            self._tasks[name] = task
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def _broadcast(self) -> None:
        while self._nudges:
            await self._feed.publish(*self._nudges.popleft())

    async def _send(self) -> None:
        while self._rows:
            batch = [self._rows.popleft() for _ in range(min(BATCH_MAX, len(self._rows)))]
            sent = set(await send_all(self._transport, [row for row, _ in batch]))
            for delivered, pairs in groupby(batch, key=lambda pair: pair[1]):
                ids = [row.id for row, _ in pairs if row.id in sent]
                if ids:
                    await _forget(delivered, ids)
            if len(sent) < len(batch) and self._later is not None:
                self._later(0)


async def send_all(transport: Transport, rows: Iterable[Outgoing]) -> list[int]:
    """Send rows, those of one address in order, and return the ids of those that are safe."""
    by_address: dict[tuple[str, str], list[Outgoing]] = {}
    for row in rows:
        by_address.setdefault(row.to, []).append(row)
    sent: list[int] = []

    async def send_in_order(queue: list[Outgoing]) -> None:
        for row in queue:
            try:
                await transport.send(row.to, row.envelope)
            except Unreachable as error:
                log.info("message waits in the outbox", kind=row.to.kind, error=str(error))
                return
            except Exception:  # a row that cannot be sent must not keep others from it
                log.exception("message stays in the outbox", kind=row.to.kind)
                return
            sent.append(row.id)

    async with asyncio.TaskGroup() as group:
        for queue in by_address.values():
            group.create_task(send_in_order(queue))
    return sent


async def _forget(delivered: Delivered, ids: Sequence[int]) -> None:
    try:
        await delivered(ids)
    except Unreachable as error:  # they will be sent twice, which is harmless
        log.info("outbox rows stay though they were sent", rows=len(ids), error=str(error))
    except Exception:  # as when the pool was closed meanwhile: a duplicate later, and no more
        log.exception("outbox rows stay though they were sent", rows=len(ids))


async def relay_once(
    store: Store, transport: Transport, limit: int = BATCH_MAX, older_than_ms: int = LEFT_MS
) -> tuple[int, int]:
    """Send what lies in the outbox and is due; return how many rows were claimed and sent.

    Safe at any time, by any number of relays. Raises Unreachable when the store is away.
    """
    rows = await store.outgoing(limit, older_than_ms)
    if not rows:
        return 0, 0
    sent = await send_all(transport, rows)
    if sent:
        await store.delivered(sent)
    return len(rows), len(sent)


class Relay:
    """Sends what is due later and what a crash left. Wakes by `wake_at`, else every 30 s."""

    def __init__(
        self,
        store: Store,
        transport: Transport,
        now_ms: Callable[[], int],
        dice: Callable[[], float],
        idle_s: float = IDLE_S,
        left_ms: int = LEFT_MS,
    ) -> None:
        """`now_ms` is the wall clock, `dice` draws from [0, 1)."""
        self._store = store
        self._transport = transport
        self._now_ms = now_ms
        self._dice = dice
        self._idle_s = idle_s
        self._left_ms = left_ms
        self._due_ms: int | None = None
        self._changed = asyncio.Event()

    def wake_at(self, due_ms: int) -> None:
        """Something will be due then, or (0) failed just now. Not before it counts as left."""
        due_ms = max(due_ms, self._now_ms() + self._left_ms)
        if self._due_ms is None or due_ms < self._due_ms:
            self._due_ms = due_ms
            self._changed.set()

    async def run(self) -> None:
        """Relay until cancelled. Outlives any outage and any bug of the store or the broker."""
        failures = 0
        while True:
            self._due_ms = None
            try:
                claimed, sent = await relay_once(
                    self._store, self._transport, BATCH_MAX, self._left_ms
                )
            except Unreachable as error:
                log.warning("relay waits", error=str(error))
                claimed, sent = 1, 0
            except Exception:
                log.exception("relay failed, and goes on")
                claimed, sent = 1, 0
            failures = failures + 1 if sent < claimed else 0
            if failures:
                await asyncio.sleep(RECONNECT.delay_ms(failures, self._dice()) / 1000)
            elif claimed < BATCH_MAX:
                await self._rest()

    async def _rest(self) -> None:
        end_ms = self._now_ms() + int(self._idle_s * 1000)
        while (wait_ms := min(end_ms, self._due_ms or end_ms) - self._now_ms()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    await self._changed.wait()
            except TimeoutError:
                return
