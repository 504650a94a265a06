"""No plaintext, name or key ever reaches the server (I12): a search with canaries, and a control.

After a full scenario everything the server keeps or says is read: database rows, chunk store,
exported files, cache, queues, logs. A canary counts raw, in hex, in base64 at any offset, and as
UTF-16. The control is what the server must know, found by the same search.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import asyncpg
import pytest
from redis.asyncio import Redis

from actors.roster import ROSTER
from ops.lab import PASSWORD, Device, Lab, Scaled, Standalone

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def forms(canary: bytes) -> Iterator[bytes]:
    """Yield how a canary may look."""
    yield canary
    yield canary.hex().encode()
    yield canary.hex().upper().encode()
    for shift in range(3):  # base64 of it at any offset within a longer text
        coded = base64.b64encode(bytes(shift) + canary)[shift + 1 :].rstrip(b"=")[:-1]
        yield coded
        yield coded.translate(bytes.maketrans(b"+/", b"-_"))
    if canary.isascii():
        yield canary.decode().encode("utf-16-le")


def found(haystack: bytes, canaries: dict[str, bytes]) -> set[str]:
    """Return the names of the canaries that are in the haystack in some form."""
    return {name for name, canary in canaries.items() if any(f in haystack for f in forms(canary))}


def live(lab: Lab) -> dict[str, bytes]:
    """Use everything once, with canaries everywhere; return them."""
    first = lab.device("laptop")
    second = lab.device("phone")
    canaries = {
        name: secrets.token_hex(12).encode()
        for name in ("content", "file name", "folder name", "link target", "edit", "copy")
    }
    text = {name: canary.decode() for name, canary in canaries.items()}
    folder = first.root / text["folder name"]
    folder.mkdir()
    file = folder / f"{text['file name']}.txt"
    file.write_bytes(canaries["content"] * 50)
    (first.root / "link").symlink_to(text["link target"])
    (first.root / "large.bin").write_bytes(canaries["content"] + secrets.token_bytes(3_000_000))
    lab.settle()
    (second.root / text["folder name"] / file.name).write_bytes(canaries["edit"])
    lab.settle()
    for device in lab.devices:
        device.run("pause")
    file.write_bytes(canaries["edit"] + b" here")
    (second.root / text["folder name"] / file.name).write_bytes(canaries["copy"] + b" there")
    for device in lab.devices:
        device.run("resume")
    lab.settle()
    file.unlink()
    lab.settle()
    canaries |= {"password": PASSWORD.encode(), "device name": b"laptop-very-private-name"}
    return canaries | keys(first) | keys(second)


def keys(device: Device) -> dict[str, bytes]:
    """Return the private keys of a device, and the account's recovery words if it has them."""
    held: dict[str, bytes] = {}
    kept = json.loads((device.home / "keys.json").read_bytes())
    for name in ("device", "master"):
        raw = base64.b64decode(kept[name], validate=True)
        held[f"{device.name}: {name}"] = raw
        held[f"{device.name}: last key of {name}"] = raw[-32:]
    words = device.home / "recovery.txt"
    if words.exists():
        held["recovery words"] = words.read_text().strip().encode()
    return held


def files(folder: Path) -> bytes:
    """Return all files below a folder, joined, their names included."""
    parts = [(str(p.relative_to(folder)).encode(), p.read_bytes())
             for p in sorted(folder.rglob("*")) if p.is_file()]  # fmt: skip
    return b"\n".join(b"%s\n%s" % part for part in parts)


async def database(url: str) -> bytes:
    """Return every value of every table of both schemas: text as UTF-8, bytes as they are."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables"
            " WHERE schemaname LIKE '%accounts' OR schemaname LIKE '%metadata'"
        )
        assert len(tables) > 10
        values: list[bytes] = []
        for schema, table in tables:
            for row in await connection.fetch(f'SELECT * FROM "{schema}"."{table}"'):
                for value in row.values():
                    values.append(value if isinstance(value, bytes) else str(value).encode())
        return b"\n".join(values)
    finally:
        await connection.close()


async def cache(url: str, namespace: str) -> bytes:
    """Return every key and value of this installation in Redis."""
    async with Redis.from_url(url) as redis:
        parts: list[bytes] = []
        async for key in redis.scan_iter(match=f"*{namespace}*"):
            parts += [key, await redis.dump(key) or b""]
        return b"\n".join(parts)


async def queues(url: str, namespace: str, partitions: int) -> bytes:
    """Return every message that lies in a queue or in the dead letters."""
    parts: list[bytes] = [namespace.encode()]
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        for actor in ROSTER:
            for share in [*map(str, range(partitions)), "dead"]:
                name = f"{namespace}.{actor.kind}.{share}"
                queue = await channel.declare_queue(name, passive=True)
                left = queue.declaration_result.message_count or 0
                if not left:
                    continue
                async with queue.iterator(no_ack=True, timeout=10) as messages:
                    async for message in messages:
                        parts += [message.body, repr(message.headers).encode()]
                        left -= 1
                        if not left:
                            break
    return b"\n".join(parts)


async def everything(server: Scaled) -> dict[str, bytes]:
    """Return all that a scaled-out server keeps or says, by place."""
    known = server.environment
    namespace = known["SYNCLINE_NAMESPACE"]
    for process in (*server.workers, server.relay):
        process.stop()  # so that nobody takes a message from a queue before it was looked at
    return {
        "database": await database(known["SYNCLINE_DATABASE_URL"]),
        "storage and logs": files(server.folder),
        "cache": await cache(known["SYNCLINE_REDIS_URL"], namespace),
        "queues": await queues(
            known["SYNCLINE_AMQP_URL"], namespace, int(known["SYNCLINE_PARTITIONS"])
        ),
    }


def test_the_server_never_sees_a_plaintext_a_name_or_a_key(lab: Lab) -> None:
    canaries = live(lab)
    if isinstance(lab.server, Standalone):
        lab.server.stop()
        log = lab.server.folder.parent / "server.log"
        kept = {"data folder": files(lab.server.folder), "log": log.read_bytes()}
    else:
        kept = asyncio.run(everything(lab.server))
    leaks = {place: found(haystack, canaries) for place, haystack in kept.items()}
    assert not any(leaks.values()), leaks

    known = {"user name": lab.username.encode()}
    assert any(found(haystack, known) for haystack in kept.values()), "the search finds nothing"
    file = next(lab.devices[0].root.glob("large.bin"))
    assert found(file.read_bytes(), canaries) == {"content"}, "canaries are in the plain files"
