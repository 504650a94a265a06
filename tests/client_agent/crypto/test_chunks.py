"""Chunks: deterministic, padded, checked in every respect when they are opened."""

import hashlib
import hmac
import math
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client_agent.crypto import chunks
from client_agent.crypto.chunks import (
    RAW,
    ZSTD,
    ChunkEntry,
    open_chunk,
    open_chunks,
    padme,
    seal_body,
    seal_chunk,
    seal_chunks,
    sealed_bytes,
)
from client_agent.crypto.seal import SealBroken, open_sealed, seal, sealed_r
from client_agent.crypto.space_keys import EpochMissing, SpaceKeys, new_secret
from protocol import limits
from protocol.codec import lp
from protocol.entry import ChunkRef
from tests.golden.crypto import fixed, world

KEYS = world().keys
PLAIN = st.binary(min_size=1, max_size=400) | st.builds(
    lambda word, n: (word * n)[:5000], st.binary(min_size=1, max_size=9), st.integers(1, 600)
)
LEVELS = st.sampled_from([None, 1, 3, 9])


def forged(keys, body, *, flag=RAW, length=None, pid=None, epoch=1) -> chunks.SealedChunk:
    """A chunk as a hostile member with all keys can make it."""
    pid = keys.pid(body) if pid is None else pid
    blob = seal_body(keys, "chunk", epoch, flag, body, pid)
    address = hashlib.sha256(blob).digest()
    size = len(body) if length is None else length
    return chunks.SealedChunk(ChunkEntry(address, epoch, size, pid, len(blob)), blob)


@given(PLAIN, LEVELS, st.sampled_from([1, 2, None]))
@example(b"x", 3, None)
def test_what_is_sealed_opens(plaintext, level, epoch):
    # Planted: length of the compressed body for that of the plaintext in the entry.
    entry, blob = seal_chunk(KEYS, plaintext, level, epoch=epoch)
    assert open_chunk(KEYS, entry, blob) == plaintext
    assert entry.key_epoch == (epoch or 2)
    assert entry.length == len(plaintext)
    assert entry.ref == ChunkRef(hashlib.sha256(blob).digest(), len(blob))


@given(PLAIN, LEVELS, st.sampled_from([1, 2]))
def test_sealing_is_a_function_of_the_content(plaintext, level, epoch):
    # Planted: a random r; pid under the epoch's own secret.
    ours = seal_chunk(KEYS, plaintext, level, epoch=epoch)
    twin = SpaceKeys(KEYS.space, dict(KEYS.secrets))
    assert seal_chunk(twin, bytearray(plaintext), level, epoch=epoch) == ours
    assert seal_chunk(twin, plaintext, level, twin.pid(plaintext), epoch) == ours
    other = seal_chunk(KEYS, plaintext, level, epoch=3 - epoch)
    assert other.blob != ours.blob
    assert other.entry.pid == ours.entry.pid, "pids do not change with the epoch"


@given(PLAIN)
def test_a_raw_chunk_is_what_the_design_says(plaintext):
    # Planted: pid for r; a length of 8 bytes; pad and suite exchanged by 2 and 1.
    one = (1).to_bytes(8, "big")
    aad = b"".join(
        len(f).to_bytes(4, "big") + f for f in (b"chunk", KEYS.space, one, one, one)
    )
    head = b"\x00" + len(plaintext).to_bytes(4, "big")
    padded = (head + plaintext).ljust(padme(len(plaintext) + 5), b"\0")
    pid = hmac.digest(KEYS.pid_key, plaintext, "sha256")
    r = hmac.digest(KEYS.siv_key, lp("raw", aad, pid), "sha256")
    assert seal_chunk(KEYS, plaintext, None, epoch=1).blob == seal(
        KEYS.chunk_key(1), aad, padded, r
    )


def test_a_compressed_chunk_takes_its_r_from_the_compressed_bytes():
    plaintext = b" ".join(fixed(str(n % 64), n % 13 + 3) for n in fixed("order", 900))
    blobs = [seal_chunk(KEYS, plaintext, level, epoch=1).blob for level in (1, 19)]
    for blob in blobs:
        aad = lp("chunk", KEYS.space, 1, 1, 1)
        padded = open_sealed(KEYS.chunk_key(1), aad, blob)
        assert padded[0] == ZSTD
        r = hmac.digest(KEYS.siv_key, lp("zstd", aad) + padded, "sha256")
        assert sealed_r(blob) == r
    assert blobs[0] != blobs[1]
    assert sealed_r(blobs[0]) != sealed_r(blobs[1]), "or two frames would share a key stream"


@given(st.integers(0, 1 << 23))
def test_padding_shows_little_and_costs_little(size):
    # Planted: rounding down; one bit more of mantissa.
    padded = padme(size)
    assert size <= padded <= size * 1.12 + 1
    assert padme(padded) == padded
    if size >= 2:
        exponent = int(math.log2(size))
        zeros = exponent - (int(math.log2(exponent)) + 1 if exponent else 0)
        assert padded % (1 << zeros) == 0
        assert padded - size < 1 << zeros


def test_the_largest_chunk_fits_the_protocol():
    assert sealed_bytes(chunks.PLAIN_BYTES_MAX) <= limits.CHUNK_BYTES_MAX
    assert len(seal_chunk(KEYS, b"x", None).blob) == sealed_bytes(1)
    for plaintext in (b"", bytes(chunks.PLAIN_BYTES_MAX + 1)):
        with pytest.raises(AssertionError):
            seal_chunk(KEYS, plaintext)


def test_compression_is_used_only_where_it_saves():
    for plaintext, flag in ((bytes(100_000), ZSTD), (fixed("dense", 100_000), RAW)):
        blob = seal_chunk(KEYS, plaintext).blob
        padded = open_sealed(KEYS.chunk_key(2), lp("chunk", KEYS.space, 2, 1, 1), blob)
        assert padded[0] == flag
    assert chunks._compress(fixed("dense", 94_500) + bytes(5_500), 3) is not None
    assert chunks._compress(fixed("dense", 96_000) + bytes(4_000), 3) is None


def test_a_compressor_that_failed_is_not_used_again(monkeypatch):
    """Half a frame must not go in front of the next chunk."""
    class Failing:
        def compress(self, *_):
            raise MemoryError

    own = threading.local()
    monkeypatch.setattr(chunks, "_own", own)
    own.compressors = {3: Failing()}
    with pytest.raises(MemoryError):
        seal_chunk(KEYS, bytes(1000))
    assert open_chunk(KEYS, *seal_chunk(KEYS, bytes(1000))) == bytes(1000)


def test_many_threads_seal_and_open_what_one_does():
    plaintexts = [bytes([n % 7]) * (n * 50 + 1) + fixed(str(n), n) for n in range(200)]
    alone = seal_chunks(KEYS, plaintexts)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda p: seal_chunk(KEYS, p), plaintexts)) == alone
        opened = list(pool.map(lambda c: open_chunk(KEYS, *c), alone))
    assert opened == plaintexts
    entries, blobs = zip(*alone, strict=True)
    assert open_chunks(KEYS, entries, blobs) == plaintexts
    with pytest.raises(ValueError, match="zip"):
        open_chunks(KEYS, entries, blobs[:-1])


def test_a_view_that_changes_under_our_hands_is_copied_first():
    """A stale pid of a file being written must not lead to one r for two plaintexts."""
    stale = KEYS.pid(b"before")
    view = memoryview(bytearray(b"after!"))
    assert seal_chunk(KEYS, view, None, stale) == seal_chunk(KEYS, b"after!", None)


OTHERS = {"address": fixed("x"), "key_epoch": 1, "length": 999, "pid": fixed("x"),
          "sealed_bytes": 1}


@pytest.mark.parametrize("field", OTHERS)
@pytest.mark.parametrize("level", [None, 3])
def test_a_reference_that_lies_is_refused(field, level):
    entry, blob = seal_chunk(KEYS, b"content " * 200, level)
    lying = msgspec.structs.replace(entry, **{field: OTHERS[field]})
    with pytest.raises(SealBroken):
        open_chunk(KEYS, lying, blob)


def test_another_space_or_kind_or_epoch_is_refused():
    entry, blob = seal_chunk(KEYS, b"content", None)
    with pytest.raises(SealBroken, match="commitment"):
        open_chunk(SpaceKeys(fixed("other", 16), KEYS.secrets), entry, blob)
    page = seal_body(KEYS, "page", 2, RAW, b"content", KEYS.pid(b"content"))
    as_chunk = msgspec.structs.replace(entry, address=hashlib.sha256(page).digest())
    with pytest.raises(SealBroken, match="commitment"):
        open_chunk(KEYS, as_chunk, page)
    with pytest.raises(EpochMissing):
        open_chunk(SpaceKeys(KEYS.space, {1: KEYS.secrets[1]}), entry, blob)


def frame(content: bytes) -> bytes:
    return chunks.zstd.compress(content, 3)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (frame(bytes(4 << 20)), 1000),  # a bomb: opens to more than it says
        (frame(bytes(1000)), 1001),
        (frame(bytes(1000)), 999),
        (frame(bytes(1000))[:-3], 1000),
        (frame(bytes(1000)) + b"tail", 1000),
        (frame(bytes(1000)) + frame(b""), 1000),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + frame(bytes(1000)), 1000),
        (b"no frame at all", 1000),
        (b"", 1000),
        (b"", 0),
    ],
)
def test_a_frame_that_lies_is_refused(body, length):
    made = forged(KEYS, body, flag=ZSTD, length=length, pid=KEYS.pid(bytes(length)))
    with pytest.raises(SealBroken):
        open_chunk(KEYS, *made)


def test_a_bomb_is_never_unpacked(monkeypatch):
    given_out = []
    real = chunks.zstd.ZstdDecompressor

    class Watched:
        def __init__(self, options):
            assert options == {int(chunks.zstd.DecompressionParameter.window_log_max): 23}
            self.real = real(options=options)

        def decompress(self, data, max_length):
            given_out.append(self.real.decompress(data, max_length=max_length))
            return given_out[-1]

        def __getattr__(self, name):
            return getattr(self.real, name)

    bomb = forged(KEYS, frame(bytes(64 << 20)), flag=ZSTD, length=10, pid=KEYS.pid(bytes(10)))
    monkeypatch.setattr(chunks.zstd, "ZstdDecompressor", Watched)
    with pytest.raises(SealBroken):
        open_chunk(KEYS, *bomb)
    assert [len(out) for out in given_out] == [11]


def test_a_window_of_more_than_8_mib_is_refused():
    parameter = chunks.zstd.CompressionParameter.window_log
    compressor = chunks.zstd.ZstdCompressor(options={parameter: 24})
    wide = compressor.compress(bytes(500)) + compressor.compress(bytes(500)) + compressor.flush()
    made = forged(KEYS, wide, flag=ZSTD, length=1000, pid=KEYS.pid(bytes(1000)))
    with pytest.raises(SealBroken, match="damaged"):
        open_chunk(KEYS, *made)


def test_a_member_cannot_make_two_forms_of_one_content():
    """Wrong padding, flag, r, length: whoever has all keys still makes only the one form."""
    aad, content, pid = lp("chunk", KEYS.space, 1, 1, 1), b"content", KEYS.pid(b"content")
    r = KEYS.siv(lp("raw", aad, pid))
    good = b"\0\0\0\0\x07content"
    for padded in (
        good + b"\0\0\0", good[:-1], good + b"\1", b"\0\0\0", b"", b"\2" + good[1:],
        b"\0\0\0\0\x08content", b"\0\0\0\0\x06content", b"\0\xff\xff\xff\xffcontent",
    ):
        blob = seal(KEYS.chunk_key(1), aad, padded, r)
        entry = ChunkEntry(hashlib.sha256(blob).digest(), 1, 7, pid, len(blob))
        with pytest.raises(SealBroken):
            open_chunk(KEYS, entry, blob)
    for other_r in (fixed("r"), KEYS.siv(lp("zstd", aad), good)):
        blob = seal(KEYS.chunk_key(1), aad, good, other_r)
        entry = ChunkEntry(hashlib.sha256(blob).digest(), 1, 7, pid, len(blob))
        with pytest.raises(SealBroken, match="r does not follow"):
            open_chunk(KEYS, entry, blob)
    made = forged(KEYS, content, pid=fixed("another's pid"))
    with pytest.raises(SealBroken, match="another content"):
        open_chunk(KEYS, *made)


def test_space_keys_need_every_epoch():
    secrets = {n: new_secret() for n in (1, 2, 3)}
    assert SpaceKeys(b"s" * 16, secrets).epoch == 3
    for held in ({}, {2: secrets[2]}, {1: secrets[1], 3: secrets[3]}):
        with pytest.raises(EpochMissing):
            SpaceKeys(b"s" * 16, held)
    assert "secret" not in repr(SpaceKeys(b"s" * 16, secrets)), "no key in a log"


def test_all_keys_of_a_space_differ():
    keys = SpaceKeys(b"s" * 16, {1: fixed("same"), 2: fixed("same")})
    drawn = [keys.pid_key, keys.siv_key, keys.cdc_key, keys.token_key, keys.filehash_key]
    for epoch in (1, 2):
        drawn += [keys.chunk_key(epoch), keys.name_key(epoch), keys.manifest_key(epoch)]
    assert len(set(drawn)) == len(drawn)
    other = SpaceKeys(b"t" * 16, {1: fixed("same"), 2: fixed("same")})
    assert other.pid_key != keys.pid_key
    assert 0 <= keys.gear_seed < 1 << 63
    for n in (0, 3):
        for find in (keys.chunk_key, keys.name_key, keys.manifest_key):
            with pytest.raises(EpochMissing):
                find(n)
