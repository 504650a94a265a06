"""Transport over RabbitMQ, through FastStream. Patterns and figures: reference/stack.md 4.

Two connections: one speaks (publishes with confirms, hears replies), one serves (consumes), so
that the broker's flow control on publishers never holds up an acknowledgement. A consumer only
puts into the mailboxes, in the order of arrival, and settles when the turn is done.

Body: 2 bytes length of the actor's key, the key in UTF-8, the envelope. Reply: one byte, 0 for an
answer and 1 for a dead letter, and the answer.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from aio_pika.exceptions import DeliveryError
from aiormq import spec
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitMessage, RabbitQueue

from actors.adapters.rabbit_link import AWAY, REPLIES, Link, Names, unreachable
from actors.core.partition import PARTITIONS, partition
from actors.mailbox import Letter, Mailboxes, Settle, Settled
from actors.ports import Address, DeadLettered, Deliver, Unreachable

PREFETCH = 32  # messages of one partition under way in a worker
CONFIRM_S = 5.0  # a broker that takes longer to keep a message counts as away
GRACE_S = 15.0  # how long `close` lets turns finish
RECONNECT_S = (0.5, 1.5)  # drawn once per process, so that a fleet does not come back in step
ANSWER, DEAD = b"\x00", b"\x01"

log = structlog.get_logger()


class RabbitTransport:
    """See Transport. Make it with `open`."""

    def __init__(
        self,
        url: str,
        namespace: str = "",
        partitions: int = PARTITIONS,
        prefetch: int = PREFETCH,
        dice: Callable[[], float] = random.random,
        grace_s: float = GRACE_S,
        middlewares: Sequence[Any] = (),
    ) -> None:
        """Prepare; nothing is connected yet. `middlewares` are FastStream's, for telemetry."""
        self._names = Names(namespace)
        self._partitions = partitions
        self._prefetch = prefetch
        self._dice = dice
        self._grace_s = grace_s
        self._asks: dict[str, asyncio.Future[bytes]] = {}
        self._numbers = itertools.count()
        self._exchanges: dict[str, asyncio.Lock] = {}
        self._ready: set[str] = set()
        self._mailboxes: list[Mailboxes] = []
        self._subscribers: list[Any] = []
        self._held: list[Callable[[], Any]] | None = None  # acks, while closing
        self._closed = False
        low, high = RECONNECT_S
        self._reconnect_s = low + (high - low) * dice()
        self._speaking = Link(
            url,
            Channel(publisher_confirms=True, on_return_raises=True),
            self._reconnect_s,
            self._speaking_lost,
            middlewares,
        )
        self._serving = Link(
            url,
            Channel(publisher_confirms=False),
            self._reconnect_s,
            self._serving_lost,
            middlewares,
        )
        self._speaking.broker.subscriber(
            RabbitQueue(REPLIES, declare=False), ack_policy=AckPolicy.ACK_FIRST, no_reply=True
        )(self._hear_reply)

    @classmethod
    async def open(cls, url: str, namespace: str = "", **options: Any) -> "RabbitTransport":
        """Connect. Returns after a few seconds even if the broker is away: it is tried for ever,
        and until it answers `send` and `ask` raise Unreachable.
        """
        transport = cls(url, namespace, **options)
        try:
            async with asyncio.timeout(CONFIRM_S):
                await transport._speaking.wait()
        except TimeoutError:
            log.warning("broker unreachable, still trying")
        except asyncio.CancelledError:  # aio-pika would go on connecting, and never let exit
            await transport.close()
            raise
        return transport

    @property
    def up(self) -> bool:
        """Whether the broker can be spoken to now."""
        return self._speaking.up

    async def send(self, to: Address, envelope: bytes) -> None:
        """See Transport. Safe: on the disk of a majority of the queue's nodes."""
        await self._publish(to, envelope)

    async def ask(self, to: Address, envelope: bytes, timeout_s: float) -> bytes:
        """See Transport."""
        number = str(next(self._numbers))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asks[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await self._publish(to, envelope, reply_to=REPLIES, correlation_id=number)
                return await answer
        finally:
            del self._asks[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # read it, or asyncio complains that nobody did

    async def consume(
        self, kind: str, deliver: Deliver, partitions: Sequence[int] | None = None
    ) -> None:
        """See Transport. Waits until the broker can be reached."""
        mailboxes = Mailboxes(deliver, self._dice)
        self._mailboxes.append(mailboxes)
        channel = Channel(prefetch_count=self._prefetch, publisher_confirms=False)
        broker = self._serving.broker
        await self._persist(lambda: self._declare_dead_letters(broker, kind))
        for share in range(self._partitions) if partitions is None else partitions:
            subscriber = broker.subscriber(
                self._names.queue(kind, share),
                self._names.exchange(kind),
                channel=channel,
                ack_policy=AckPolicy.MANUAL,
                no_reply=True,
            )
            subscriber(self._taker(kind, mailboxes))
            # FastStream drops, without an ack, what arrives before `start` returns.
            subscriber.running = True
            await self._persist(subscriber.start)
            self._subscribers.append(subscriber)

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, again after each outage. Raises Unreachable when the transport is closed."""
        while True:
            await self._serving.wait()
            try:
                with unreachable():
                    await work()
            except Unreachable as error:
                log.info("not consuming yet", error=str(error))
                await asyncio.sleep(self._reconnect_s)
            else:
                return

    async def close(self) -> None:
        """See Transport. What is not finished within the grace goes back to its queue.

        While turns finish, acknowledgements are held back: the prefetch window then fills, and
        no later message of an address can reach another worker before ours are done.
        """
        if self._closed:
            return
        self._closed, self._held = True, []
        try:
            await self._drain()
        finally:
            await self._serving.close()
            await self._speaking.close()
            self._speaking_lost()

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._grace_s):
                for mailboxes in self._mailboxes:
                    await mailboxes.idle()
        except TimeoutError:
            log.warning("turns are given back unfinished")
        if self._serving.up:
            await asyncio.gather(
                *(subscriber.stop() for subscriber in self._subscribers), return_exceptions=True
            )
        for mailboxes in self._mailboxes:
            await mailboxes.abandon()
        held, self._held = self._held or [], None
        for settle in held:
            await settle()

    # --- speaking ---

    async def _publish(self, to: Address, envelope: bytes, **options: Any) -> None:
        if not self._speaking.up:
            raise Unreachable("RabbitMQ is away")
        key = to.key.encode()
        body = len(key).to_bytes(2, "big") + key + envelope
        share = partition(to.key, self._partitions)
        with unreachable():
            async with asyncio.timeout(CONFIRM_S):
                await self._prepare(to.kind)
                try:
                    await self._publish_once(to.kind, share, body, options)
                except DeliveryError:  # nobody has consumed this partition yet
                    await self._declare_queue(to.kind, share)
                    await self._publish_once(to.kind, share, body, options)

    async def _publish_once(
        self, kind: str, share: int, body: bytes, options: dict[str, Any]
    ) -> None:
        await self._speaking.broker.publish(
            body,
            exchange=self._names.exchange(kind),
            routing_key=str(share),
            persist=True,
            **options,
        )

    async def _prepare(self, kind: str) -> None:
        """Make sure of the exchange: to publish to one that is not there closes the channel."""
        if kind in self._ready:
            return
        async with self._exchanges.setdefault(kind, asyncio.Lock()):
            if kind not in self._ready:
                await self._declare_dead_letters(self._speaking.broker, kind)
                await self._speaking.broker.declare_exchange(self._names.exchange(kind))
                self._ready.add(kind)

    async def _declare_queue(self, kind: str, share: int) -> None:
        broker = self._speaking.broker
        description = self._names.queue(kind, share)
        description.robust = False  # declared once, when it was missing; not at each reconnect
        queue = await broker.declare_queue(description)
        await queue.declare()  # FastStream remembers it; it may have been deleted since
        exchange = await broker.declare_exchange(self._names.exchange(kind))
        await queue.bind(exchange, str(share), robust=False)

    async def _declare_dead_letters(self, broker: Any, kind: str) -> None:
        exchange = await broker.declare_exchange(self._names.dead_exchange())
        queue = await broker.declare_queue(self._names.dead_queue(kind))
        await queue.bind(exchange, kind)

    async def _hear_reply(self, message: RabbitMessage) -> None:
        answer = self._asks.get(message.correlation_id)
        if answer is None or answer.done():
            return  # too late: whoever asked has given up
        if message.body[:1] == ANSWER:
            answer.set_result(message.body[1:])
        else:
            answer.set_exception(DeadLettered("see the dead-letter queue"))

    def _speaking_lost(self) -> None:
        for answer in self._asks.values():
            if not answer.done():
                answer.set_exception(Unreachable("RabbitMQ went away"))

    # --- serving ---

    def _taker(self, kind: str, mailboxes: Mailboxes) -> Callable[[RabbitMessage], Any]:
        async def take(message: RabbitMessage) -> None:
            """Puts into the mailbox and returns: no await, so the order of arrival is kept."""
            body = message.body
            end = 2 + int.from_bytes(body[:2], "big")
            key = body[2:end].decode(errors="replace")
            mailboxes.put(Letter(Address(kind, key), body[end:], self._settler(message)))

        return take

    def _settler(self, message: RabbitMessage) -> Settle:
        async def settle(settled: Settled) -> None:
            if message.reply_to:
                await self._reply(message, settled)
            if self._held is None:
                await finish(settled)
            else:
                self._held.append(lambda: finish(settled))

        async def finish(settled: Settled) -> None:
            try:
                if settled.error is None:
                    await message.ack()
                else:
                    await message.reject(requeue=False)
            except AWAY as error:  # it comes again, and is answered from the inbox
                log.debug("not acknowledged", error=repr(error))

        return settle

    async def _reply(self, message: RabbitMessage, settled: Settled) -> None:
        """Answer on the channel that the question came on: it is there as soon as questions are,
        while FastStream's own may still be on its way back after an outage.
        """
        channel = message.raw_message.channel
        properties = spec.Basic.Properties(correlation_id=message.correlation_id)
        body = DEAD if settled.error is not None else ANSWER + settled.answer
        try:
            await channel.basic_publish(body, routing_key=message.reply_to, properties=properties)
        except AWAY as error:  # they ask again, and are answered from the inbox
            log.debug("answer lost", error=repr(error))

    def _serving_lost(self) -> None:
        for mailboxes in self._mailboxes:
            mailboxes.forget()  # RabbitMQ delivers them again, here or elsewhere
