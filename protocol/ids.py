"""Identifiers: 16 raw random bytes inside, 32 lower-case hex digits in URLs and for people."""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta

ID_BYTES = 16
Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
UserId = Id
SpaceId = Id
HistoryId = Id
NodeId = Id
VersionId = Id
DeviceId = Id
UploadId = Id

Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A SHA-256 or HMAC-SHA256 value: content ids, tokens, chunk addresses, journal hashes."""

ROOT: bytes = bytes(ID_BYTES)
"""The root directory of every space: always live, never written in a journal."""

Dice = Callable[[int], bytes]
"""Gives that many random bytes, such as `os.urandom`; the simulator passes its seeded twin."""


def new_id(dice: Dice) -> bytes:
    """Return a fresh id. Never `ROOT`: all zeros is drawn again."""
    while True:
        drawn = dice(ID_BYTES)
        if drawn != ROOT:
            return drawn


def parse_hex(text: str, size_bytes: int = ID_BYTES) -> bytes | None:
    """Read an id or hash from a URL: exactly `2 * size_bytes` lower-case hex digits, else None."""
    if len(text) != 2 * size_bytes or not all(c in "0123456789abcdef" for c in text):
        return None
    return bytes.fromhex(text)
