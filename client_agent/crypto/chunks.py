"""Chunks and pages: sealed so that equal plaintext in a space gives equal bytes (CRYPTO.md 3).

    pt'   = flag (0 raw, 1 zstd) || u32 length of the body || body || zeros up to Padme's size
    aad   = LP("chunk" or "page", space, key_epoch, suite = 1, pad = 1)
    blob  = seal(K_chunk, aad, pt', r)         address H = SHA-256(blob)
    r     = raw: HMAC(K_siv, LP("raw", aad, pid))     zstd: HMAC(K_siv, LP("zstd", aad) || pt')

Suite 1 is SHA-256 with zstd, pad 1 is Padme (Nikitin et al. 2019); they stand in the aad as
integers and are implied by the seal's format 01: another suite comes with another format byte.
Pages are never compressed (they are hashes), so any two devices make the same page of a list.
"""

import hashlib
import hmac
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from client_agent.crypto.seal import SEAL_BYTES, Buffer, SealBroken, open_sealed, seal, sealed_r
from client_agent.crypto.space_keys import SpaceKeys
from protocol import limits
from protocol.codec import lp
from protocol.entry import ChunkRef, KeyEpoch, SizeBytes
from protocol.ids import Hash
from protocol.messages import Part

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SUITE: Final = 1
PAD_PADME: Final = 1
RAW, ZSTD = 0, 1
COMPRESSION: Final = 3  # zstd level: about 2.5 on text at 150 MiB/s and core
WINDOW_LOG_MAX: Final = 23  # 8 MiB: no frame may make us hold more
_HEAD: Final = struct.Struct(">BI")
PLAIN_BYTES_MAX: Final = 4 * limits.MIB  # the largest cut


class ChunkEntry(Part, frozen=True):
    """One chunk of a file: where its sealed bytes are, and what must come out of them.

    `length` is of the plaintext, `sealed_bytes` of the blob; `pid` is the plaintext's keyed id.
    """

    address: Hash
    key_epoch: KeyEpoch
    length: SizeBytes
    pid: Hash
    sealed_bytes: SizeBytes

    @property
    def ref(self) -> ChunkRef:
        """What the server is told of it."""
        return ChunkRef(self.address, self.sealed_bytes)


class SealedChunk(NamedTuple):
    """A chunk ready to upload: `SHA-256(blob)` is `entry.address`."""

    entry: ChunkEntry
    blob: bytes


class Opened(NamedTuple):
    """A body out of its seal, padding gone; `proven` says whether its `r` fits a pid."""

    flag: int
    body: memoryview
    proven: Callable[[bytes], bool]


def padme(size_bytes: int) -> int:
    """Return the padded size: at most 12 % more, and only O(log log) bits of it remain visible."""
    if size_bytes < 2:
        return size_bytes
    exponent = size_bytes.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (size_bytes + mask) & ~mask


def sealed_bytes(body_bytes: int) -> int:
    """Return how long the blob of a body is."""
    return padme(_HEAD.size + body_bytes) + SEAL_BYTES


def seal_chunk(
    keys: SpaceKeys, plaintext: Buffer, compression: int | None = COMPRESSION,
    pid: bytes | None = None, epoch: int | None = None,
) -> SealedChunk:
    """Seal one chunk (1 byte to 4 MiB). Repeating it gives the same bytes.

    Args: `compression` is a zstd level, None for contents known to be dense; `pid` must be
    `keys.pid(plaintext)` and spares computing it again; `epoch` defaults to the newest.
    """
    if not isinstance(plaintext, bytes):
        # A view of a file that is being written could change between hashing and sealing: two
        # plaintexts would share one r, and the server could subtract one from the other.
        plaintext, pid = bytes(plaintext), None
    size = len(plaintext)
    assert 0 < size <= PLAIN_BYTES_MAX
    epoch = keys.epoch if epoch is None else epoch
    pid = keys.pid(plaintext) if pid is None else pid
    squeezed = None if compression is None else _compress(plaintext, compression)
    if squeezed is None:
        blob = seal_body(keys, "chunk", epoch, RAW, plaintext, pid)
    else:
        blob = seal_body(keys, "chunk", epoch, ZSTD, squeezed, pid)
    address = hashlib.sha256(blob).digest()
    return SealedChunk(ChunkEntry(address, epoch, size, pid, len(blob)), blob)


def open_chunk(keys: SpaceKeys, entry: ChunkEntry, blob: Buffer) -> bytes:
    """Return the plaintext of a chunk, everything about it checked.

    Raises:
        SealBroken: address, commitment, r, padding, length or pid do not fit.
        EpochMissing: it is sealed under an epoch we do not hold.
    """
    if len(blob) != entry.sealed_bytes or entry.length > PLAIN_BYTES_MAX:
        raise SealBroken("the chunk has another size")
    if not hmac.compare_digest(hashlib.sha256(blob).digest(), entry.address):
        raise SealBroken("the chunk is not what its address says")
    opened = open_body(keys, "chunk", entry.key_epoch, blob)
    if opened.flag == ZSTD:
        plaintext = _decompress(opened.body, entry.length)
    else:
        plaintext = bytes(opened.body)
    if len(plaintext) != entry.length:
        raise SealBroken("the chunk has another length")
    if not hmac.compare_digest(keys.pid(plaintext), entry.pid):
        raise SealBroken("the chunk has another content")
    if not opened.proven(entry.pid):
        raise SealBroken("the chunk's r does not follow from its content")
    return plaintext


def seal_chunks(
    keys: SpaceKeys, plaintexts: Iterable[Buffer], compression: int | None = COMPRESSION
) -> list[SealedChunk]:
    """Seal several, in order: one hop to a thread for a small file or a batch of them."""
    return [seal_chunk(keys, plaintext, compression) for plaintext in plaintexts]


def open_chunks(
    keys: SpaceKeys, entries: Sequence[ChunkEntry], blobs: Sequence[Buffer]
) -> list[bytes]:
    """Open several, in order. Raises as `open_chunk`, for the first that is broken."""
    return [open_chunk(keys, entry, blob) for entry, blob in zip(entries, blobs, strict=True)]


def _aad(keys: SpaceKeys, kind: str, epoch: int) -> bytes:
    return lp(kind, keys.space, epoch, SUITE, PAD_PADME)


def seal_body(
    keys: SpaceKeys, kind: str, epoch: int, flag: int, body: Buffer, pid: bytes
) -> bytes:
    """Seal a body of `kind` "chunk" or "page" with the `r` that follows from it."""
    aad = _aad(keys, kind, epoch)
    size = _HEAD.size + len(body)
    padded = b"".join((_HEAD.pack(flag, len(body)), body, bytes(padme(size) - size)))
    return seal(keys.chunk_key(epoch), aad, padded, _r(keys, aad, flag, padded, pid))


def _r(keys: SpaceKeys, aad: bytes, flag: int, padded: bytes, pid: bytes) -> bytes:
    if flag == RAW:
        return keys.siv(lp("raw", aad, pid))
    # Over the exact bytes that are encrypted: from the plaintext it would reuse a key stream
    # once the compressor changes.
    return keys.siv(lp("zstd", aad), padded)


def open_body(keys: SpaceKeys, kind: str, epoch: int, blob: Buffer) -> Opened:
    """Open a sealed body and take its padding off; the caller asks `proven` with the pid.

    Raises SealBroken (also for any other than the one legal padding) or EpochMissing.
    """
    aad = _aad(keys, kind, epoch)
    padded = open_sealed(keys.chunk_key(epoch), aad, blob)
    if len(padded) < _HEAD.size:
        raise SealBroken("too short for a chunk")
    flag, length = _HEAD.unpack_from(padded)
    end = _HEAD.size + length
    if flag not in (RAW, ZSTD) or len(padded) != padme(end) or any(padded[end:]):
        raise SealBroken("not the form of a chunk")

    def proven(pid: bytes) -> bool:
        return hmac.compare_digest(_r(keys, aad, flag, padded, pid), sealed_r(blob))

    return Opened(flag, memoryview(padded)[_HEAD.size : end], proven)


_own = threading.local()  # a compressor shared by two threads would mix their frames


def _compress(plaintext: Buffer, level: int) -> bytes | None:
    """Return one zstd frame, or None unless it saves 5 %."""
    compressors: dict[int, Any] = _own.__dict__.setdefault("compressors", {})
    compressor = compressors.pop(level, None) or zstd.ZstdCompressor(level=level)
    frame: bytes = compressor.compress(plaintext, zstd.ZstdCompressor.FLUSH_FRAME)
    compressors[level] = compressor  # only now: one that raised half-way is dropped
    return frame if len(frame) * 20 <= len(plaintext) * 19 else None


def _decompress(frame: memoryview, length: int) -> bytes:
    """Return what one whole frame holds, never more than `length + 1` bytes of it."""
    options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG_MAX}
    decompressor = zstd.ZstdDecompressor(options=options)
    try:
        plaintext: bytes = decompressor.decompress(frame, max_length=length + 1)
    except zstd.ZstdError:
        raise SealBroken("the compressed bytes are damaged") from None
    if not decompressor.eof or decompressor.unused_data:
        raise SealBroken("not one compressed frame of that length")
    return plaintext
