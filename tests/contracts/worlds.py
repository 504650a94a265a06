"""What the contract suites run in: a broker, its transports, and a worker that can be killed."""

import asyncio
import itertools
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aio_pika

from actors.adapters.rabbit import RabbitTransport
from actors.core.partition import partition
from actors.memory import MemoryBroker, MemoryTransport
from actors.ports import Address, Transport

ROOT = Path(__file__).parent.parent.parent
PARTITIONS = 4  # few, so that a queue for each is declared quickly
HANG = b"hang"
_numbers = itertools.count()


def no_dice() -> float:
    """Retries without a wait."""
    return 0.0


async def eventually(condition: Callable[[], Any], seconds_max: float = 20.0) -> None:
    """Waits until the condition holds; fails if it never does."""
    async with asyncio.timeout(seconds_max):
        while not condition():  # noqa: ASYNC110 - the suites know no event to wait for
            await asyncio.sleep(0.002)


def address(key: str, kind: str) -> Address:
    return Address(kind, key)


class Log:
    """A handler that notes begins and ends, and does what the message says."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, bytes]] = []
        self.done: list[tuple[str, bytes]] = []
        self.inside = Counter[str]()
        self.inside_max = Counter[str]()
        self.failures: dict[bytes, list[Exception]] = {}
        self.gates: dict[bytes, asyncio.Event] = {}

    async def __call__(self, to: Address, envelope: bytes) -> bytes:
        self.begun.append((to.key, envelope))
        self.inside[to.key] += 1
        self.inside_max[to.key] = max(self.inside_max[to.key], self.inside[to.key])
        try:
            await asyncio.sleep(0)
            if envelope in self.gates:
                await self.gates[envelope].wait()
            if self.failures.get(envelope):
                raise self.failures[envelope].pop()
            self.done.append((to.key, envelope))
            return b"answer to " + envelope
        finally:
            self.inside[to.key] -= 1

    def of(self, key: str) -> list[bytes]:
        """What was done for one address, in order."""
        return [envelope for done, envelope in self.done if done == key]

    def begun_of(self, key: str) -> list[bytes]:
        return [envelope for begun, envelope in self.begun if begun == key]


class MemoryWorld:
    """Transports of one process on one broker."""

    def __init__(self) -> None:
        self.kind = f"kind{next(_numbers)}"
        self.broker = MemoryBroker(PARTITIONS)
        self._transports: list[MemoryTransport] = []

    async def transport(self, **options: Any) -> Transport:
        transport = MemoryTransport(self.broker, dice=no_dice, **options)
        self._transports.append(transport)
        return transport

    async def dead_letters(self) -> list[tuple[Address, bytes]]:
        return list(self.broker.dead_letters)

    async def hanging_worker(self) -> "MemoryWorker":
        return MemoryWorker(self)

    async def close(self) -> None:
        for transport in self._transports:
            await transport.kill()


class MemoryWorker:
    """A worker that never finishes a message `HANG`."""

    def __init__(self, world: MemoryWorld) -> None:
        self._world = world
        self.log = Log()
        self.log.gates[HANG] = asyncio.Event()

    async def start(self) -> None:
        self._transport = await self._world.transport()
        await self._transport.consume(self._world.kind, self.log)

    async def hangs(self) -> None:
        await eventually(lambda: HANG in self.log.begun_of("a"))

    async def kill(self) -> None:
        await self._transport.kill()


class RabbitWorld:
    """Transports with connections of their own to a real broker."""

    def __init__(self, url: str, namespace: str) -> None:
        self.url, self.namespace = url, namespace
        self.kind = f"kind{next(_numbers)}{secrets.token_hex(2)}"
        self._transports: list[RabbitTransport] = []
        self._workers: list[RabbitWorker] = []

    async def transport(self, **options: Any) -> RabbitTransport:
        options = {"partitions": PARTITIONS, "dice": no_dice} | options
        transport = await RabbitTransport.open(self.url, self.namespace, **options)
        self._transports.append(transport)
        return transport

    async def dead_letters(self) -> list[tuple[Address, bytes]]:
        found = []
        connection = await aio_pika.connect(self.url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.get_queue(f"{self.namespace}.{self.kind}.dead", ensure=False)
            while (message := await queue.get(fail=False)) is not None:
                end = 2 + int.from_bytes(message.body[:2], "big")
                found.append((Address(self.kind, message.body[2:end].decode()), message.body[end:]))
                await message.ack()
        return found

    async def hanging_worker(self) -> "RabbitWorker":
        worker = RabbitWorker(self)
        self._workers.append(worker)
        return worker

    async def close(self) -> None:
        for worker in self._workers:
            await worker.kill()
        for transport in self._transports:
            await transport.close()
        connection = await aio_pika.connect(self.url)
        async with connection:
            channel = await connection.channel()
            for tail in (*range(PARTITIONS), "dead"):
                await channel.queue_delete(f"{self.namespace}.{self.kind}.{tail}")
            await channel.exchange_delete(f"{self.namespace}.{self.kind}")
            await channel.exchange_delete(f"{self.namespace}.dead")


class RabbitWorker:
    """The same in a process of its own, killed by SIGKILL."""

    def __init__(self, world: RabbitWorld) -> None:
        self._world = world

    async def start(self) -> None:
        world = self._world
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.contracts.worlds", world.url, world.namespace, world.kind),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        await self._line(b"ready\n")

    async def hangs(self) -> None:
        await self._line(HANG + b"\n")

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def _line(self, expected: bytes) -> None:
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()) != expected:
            assert line, "the worker ended early"


async def work(url: str, namespace: str, kind: str) -> None:
    """Body of the worker process: says what it begins, and never finishes `HANG`."""

    async def deliver(to: Address, envelope: bytes) -> bytes:
        print(envelope.decode(), flush=True)
        if envelope == HANG:
            await asyncio.Event().wait()
        return b""

    transport = await RabbitTransport.open(url, namespace, partitions=PARTITIONS)
    await transport.consume(kind, deliver)
    print("ready", flush=True)
    await asyncio.Event().wait()


def keys_of(share: int, count: int) -> list[str]:
    """Some keys of one partition."""
    keys = (f"key{n}" for n in itertools.count())
    return list(itertools.islice((k for k in keys if partition(k, PARTITIONS) == share), count))


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
