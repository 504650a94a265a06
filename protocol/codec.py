"""Bytes in and out: msgpack of tagged structs, and `LP`, the framing that is hashed and signed."""

import hashlib
from functools import lru_cache
from typing import Any, Generic, TypeVar

import msgspec

from protocol.vector import Vector

Field = bytes | int | str | Vector


def lp(*fields: Field) -> bytes:
    """Return `LP(fields)`: each with a 4-byte big-endian length before it (CRYPTO.md 1).

    Integers are 8 bytes big-endian, text UTF-8, vectors their sorted (16-byte device, 8-byte
    counter) pairs. Injective for a known list of types, so hashes over it cannot be confused.
    """
    parts: list[bytes] = []
    for field in fields:
        raw = _raw(field)
        parts += (len(raw).to_bytes(4, "big"), raw)
    return b"".join(parts)


def _raw(field: Field) -> bytes:
    if isinstance(field, bytes):
        return field
    if isinstance(field, int):
        return field.to_bytes(8, "big")
    if isinstance(field, str):
        return field.encode()
    return b"".join(device + count.to_bytes(8, "big") for device, count in field)


def sha256(*parts: bytes) -> bytes:
    """Return the SHA-256 of the parts, joined."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


_encoder = msgspec.msgpack.Encoder()


def encode(message: msgspec.Struct) -> bytes:
    """Return the msgpack bytes of a struct."""
    return _encoder.encode(message)


T = TypeVar("T")


class Reader(Generic[T]):
    """Reads msgpack (or JSON) bytes as one type. Keeps its decoder: make it once, use it often.

    Bytes of a stranger can also make msgspec raise UnicodeDecodeError (text that is not UTF-8)
    and RecursionError (arrays in arrays in arrays). Here every refusal is a `DecodeError`, so
    that no caller takes hostile bytes for a bug of ours.
    """

    def __init__(self, type: Any, json: bool = False) -> None:
        """Make a reader of `type`: a struct, a union of tagged ones, or anything msgspec reads."""
        module = msgspec.json if json else msgspec.msgpack
        self._decoder = module.Decoder(type)

    def decode(self, raw: bytes | bytearray | memoryview) -> T:
        """Return the value.

        Raises:
            msgspec.DecodeError: not msgpack, an unknown tag, a missing field or a broken bound.
        """
        try:
            value: T = self._decoder.decode(raw)
        except UnicodeDecodeError:
            raise msgspec.DecodeError("Text is not UTF-8") from None
        except RecursionError:
            raise msgspec.DecodeError("Nested too deeply") from None
        return value


@lru_cache(maxsize=256)
def _reader(union: Any) -> Reader[Any]:
    return Reader(union)


def decode(raw: bytes, union: Any) -> Any:
    """Read msgpack bytes as one of the structs of `union`.

    Raises:
        msgspec.DecodeError: not msgpack, an unknown tag, a missing field or a broken bound.
    """
    return _reader(union).decode(raw)
