"""One connection to RabbitMQ through FastStream that comes back by itself, and our names there.

    exchange  <namespace>.<kind>              direct, durable; routing key = partition
    queue     <namespace>.<kind>.<partition>  quorum, single active consumer, delivery limit
    exchange  <namespace>.dead                direct, durable; routing key = kind
    queue     <namespace>.<kind>.dead         quorum: the kind's dead letters

No user, file or device is ever named in a queue, routing key or header.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import structlog
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from faststream.rabbit import (
    Channel,
    ExchangeType,
    QueueType,
    RabbitBroker,
    RabbitExchange,
    RabbitQueue,
)
from yarl import URL

from actors.ports import Unreachable
from protocol import limits

REPLIES = "amq.rabbitmq.reply-to"  # direct reply-to: a pseudo queue, no declaration, no disk
HEARTBEAT_S = 10  # a hung peer is given up after about twice as long
CONNECT_S = 5.0
CRASHES_MAX = 4 * limits.DELIVERIES_MAX  # deliveries that ended with the worker's death

AWAY = (TimeoutError, *CONNECTION_EXCEPTIONS)
"""What FastStream, aio-pika and aiormq raise when the broker is away, or goes away meanwhile."""

log = structlog.get_logger()


class Names:
    """What a namespace calls its exchanges and queues."""

    def __init__(self, namespace: str) -> None:
        """Prefix everything with `namespace`, unless it is empty."""
        self._prefix = f"{namespace}." if namespace else ""

    def exchange(self, kind: str) -> RabbitExchange:
        """The exchange of an actor kind."""
        return RabbitExchange(f"{self._prefix}{kind}", type=ExchangeType.DIRECT, durable=True)

    def queue(self, kind: str, share: int) -> RabbitQueue:
        """The queue of one partition."""
        return RabbitQueue(
            f"{self._prefix}{kind}.{share}",
            queue_type=QueueType.QUORUM,
            durable=True,
            routing_key=str(share),
            arguments={
                "x-single-active-consumer": True,
                "x-delivery-limit": CRASHES_MAX,
                "x-dead-letter-exchange": self.dead_exchange().name,
                "x-dead-letter-routing-key": kind,
            },
        )

    def dead_exchange(self) -> RabbitExchange:
        """Where rejected messages go."""
        return RabbitExchange(f"{self._prefix}dead", type=ExchangeType.DIRECT, durable=True)

    def dead_queue(self, kind: str) -> RabbitQueue:
        """The dead letters of a kind."""
        return RabbitQueue(
            f"{self._prefix}{kind}.dead",
            queue_type=QueueType.QUORUM,
            durable=True,
            routing_key=kind,
        )


class RawCodec:
    """Bytes out as they are; what comes in is given to the handler whole, to settle it later."""

    async def decode(self, msg: Any) -> Any:
        """Return the message itself."""
        return msg

    async def encode(self, msg: Any, serializer: Any = None) -> tuple[bytes, str | None]:
        """Return the bytes themselves."""
        return msg, None


class Link:
    """A FastStream broker that connects in the background, for ever, and knows whether it is up."""

    def __init__(
        self,
        url: str,
        channel: Channel,
        reconnect_s: float,
        lost: Callable[[], None],
        middlewares: Sequence[Any] = (),
    ) -> None:
        """`lost` is called whenever the connection breaks; `channel` is the default channel."""
        quiet()
        self._lost = lost
        self._reached = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._connection: Any = None
        self._reconnect_s = reconnect_s
        address = URL(url)
        if "heartbeat" not in address.query:
            address = address.update_query(heartbeat=HEARTBEAT_S)
        self.broker = RabbitBroker(
            str(address),
            timeout=CONNECT_S,
            fail_fast=True,
            reconnect_interval=reconnect_s,
            on_close=[self._on_close],
            on_reconnected=[self._on_reconnected],
            default_channel=channel,
            codec=RawCodec(),
            middlewares=middlewares,
            logger=None,
            apply_types=False,  # no injection: 0.1 ms a message
        )

    @property
    def up(self) -> bool:
        """Whether the broker is connected, and all that was declared and consumed is back."""
        return self._reached.is_set() and not self._closing.is_set()

    def start(self) -> None:
        """Begin to connect, unless begun."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start(), name="rabbit-link")

    async def wait(self) -> None:
        """Wait until the broker is connected. Raises Unreachable when the link is closed."""
        self.start()
        await self._reached.wait()
        if self._closing.is_set():
            raise Unreachable("this transport is closed")

    async def close(self) -> None:
        """Disconnect. What was not acknowledged goes back to its queue.

        Not by `broker.stop`: where the broker is away that raises before it has closed anything,
        and aio-pika goes on connecting.
        """
        self._closing.set()
        self._reached.set()  # whoever waits learns that it is over
        if self._starting is not None:  # never cancelled: aio-pika would go on connecting for ever
            await asyncio.wait([self._starting])
        if self._connection is None:
            return
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._connection.close()
        except AWAY as error:
            log.info("rabbit connection did not close in order", error=repr(error))

    async def _start(self) -> None:
        while not self._closing.is_set():
            try:
                self._connection = await self.broker.connect()
                await self.broker.start()
            except AWAY as error:
                log.info("broker not reached yet", error=repr(error))
                await self._pause()
            else:
                self._reached.set()
                return

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._reconnect_s):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _on_close(self, _: Any, error: BaseException | None = None) -> None:
        if self._closing.is_set():
            return
        if self.up:
            log.warning("broker lost", error=repr(error))
        self._reached.clear()
        self._lost()

    def _on_reconnected(self, _: Any) -> None:
        if not self._closing.is_set():
            self._reached.set()
            log.info("broker is back")


@contextmanager
def unreachable() -> Iterator[None]:
    """Turn whatever says that the broker is away into Unreachable.

    A connection that breaks cancels the futures of its channels; that is no cancellation of ours.
    """
    try:
        yield
    except AWAY as error:
        raise Unreachable(f"RabbitMQ: {error!r}") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Unreachable("RabbitMQ: the connection broke") from error


def quiet() -> None:
    """Keep aiormq and aio-pika from logging every broken connection with its traceback."""
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
