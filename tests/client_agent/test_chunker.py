"""The chunker: frozen cuts, bounded memory, the same from a stream as from a buffer."""

import hashlib
import io
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client_agent.core.chunker import (
    LARGE_FROM_BYTES,
    SEED_MAX,
    Cut,
    cut_buffer,
    cut_for,
    cut_stream,
)
from protocol.limits import KIB, MIB
from tests.golden.crypto import fixed, world

SEED = world().keys.gear_seed
SMALL = Cut(64, 256, 1024, SEED)  # the same algorithm, with more cuts in fewer bytes


def lengths(data, cut):
    return [len(chunk) for chunk in cut_buffer(data, cut)]


def test_the_cuts_of_version_1_are_frozen():
    """Another pyfastcdc that cuts elsewhere would end deduplication with everything stored."""
    data = fixed("file", 5 * MIB)
    assert lengths(data, cut_for(len(data), SEED)) == FROZEN
    frozen_small = hashlib.sha256(repr(lengths(data[:MIB], SMALL)).encode()).hexdigest()
    assert frozen_small == FROZEN_SMALL
    assert lengths(data[: 3 * MIB], cut_for(LARGE_FROM_BYTES, SEED)) == FROZEN_LARGE


FROZEN = [
    321915, 719087, 197668, 283541, 105166, 86550, 316862, 75551, 758282, 411024, 106084,
    193210, 304023, 407224, 413531, 330394, 212768,
]
FROZEN_SMALL = "7d696198bc37b9a39c856b2fa8cab5aaf4217cce936585fa16cb4f47f8c43cbb"
FROZEN_LARGE = [1106580, 1758042, 281106]


def test_sizes_are_a_function_of_the_size():
    small, large = Cut(64 * KIB, 256 * KIB, MIB, 7), Cut(256 * KIB, MIB, 4 * MIB, 7)
    for size, cut in ((0, small), (LARGE_FROM_BYTES - 1, small), (LARGE_FROM_BYTES, large),
                      (1 << 50, large)):
        assert cut_for(size, 7) == cut
    for unknown in ({"version": 2}, {"policy": "strict"}):
        with pytest.raises(ValueError, match="unknown chunker"):
            cut_for(1, 7, **unknown)
    with pytest.raises(AssertionError):
        cut_for(1, SEED_MAX + 1)
    assert list(cut_buffer(bytes(10), cut_for(10, SEED_MAX))) == [bytes(10)]


def test_small_files_are_one_chunk_and_empty_ones_none():
    for size in (0, 1, 64 * KIB - 1, 64 * KIB):
        data = fixed("small", size)
        cut = cut_for(size, SEED)
        expected = [data] if data else []
        assert [bytes(c) for c in cut_buffer(data, cut)] == expected
        assert list(cut_stream(io.BytesIO(data).readinto, cut)) == expected


def test_the_seed_moves_the_cuts():
    data = fixed("file", MIB)
    assert lengths(data, SMALL) != lengths(data, Cut(64, 256, 1024, SEED ^ 1))


FILES = st.builds(
    lambda pieces: b"".join(fixed(name, size) if name else bytes(size) for name, size in pieces),
    st.lists(st.tuples(st.sampled_from(["", "a", "b", "c"]), st.integers(0, 5000)), max_size=6),
)


@given(FILES)
def test_chunks_are_the_file_within_their_bounds(data):
    # Planted: the last chunk left out; chunks without their first byte.
    chunks = list(cut_buffer(memoryview(data), SMALL))
    assert b"".join(chunks) == data
    assert all(len(c) <= 1024 for c in chunks)
    assert all(len(c) >= 64 for c in chunks[:-1])


class Dribble:
    """A reader that gives as little as the system may give."""

    def __init__(self, data, steps):
        self.data, self.steps, self.at = data, steps, 0

    def readinto(self, buffer):
        step = self.steps[self.at % len(self.steps)] if self.steps else len(buffer)
        piece = self.data[self.at : self.at + min(step, len(buffer))]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


@given(FILES, st.lists(st.integers(1, 3000), max_size=4))
def test_a_stream_is_cut_where_the_whole_is(data, steps):
    # Planted: a chunk handed out without being copied.
    streamed = list(cut_stream(Dribble(data, steps).readinto, SMALL))
    assert streamed == [bytes(c) for c in cut_buffer(data, SMALL)]


@settings(max_examples=10)
@given(st.integers(0, 3 * MIB), st.sampled_from(["", "x"]))
@example(3 * MIB, "x")  # has chunks above twice the average; drawn sizes are mostly too small
@example(3 * MIB, "")
def test_a_stream_is_cut_where_the_whole_is_at_full_size(size, name):
    # Planted: a stream whose chunks end at twice the average; it lived before the examples.
    data = fixed(name, size) if name else bytes(size)
    cut = cut_for(size, SEED)
    streamed = list(cut_stream(io.BytesIO(data).readinto, cut))
    assert streamed == [bytes(c) for c in cut_buffer(data, cut)]


@given(FILES, st.integers(0, 20_000), st.binary(min_size=1, max_size=40))
def test_an_edit_moves_only_the_cuts_near_it(data, at, inserted):
    # Planted: cuts at fixed sizes.
    data += fixed("tail", 20_000)
    at %= len(data)
    before = [bytes(c) for c in cut_buffer(data, SMALL)]
    after = [bytes(c) for c in cut_buffer(data[:at] + inserted + data[at:], SMALL)]
    shared = len(set(before) & set(after))
    distinct = len(set(before))
    assert distinct - shared <= 40, f"{distinct - shared} of {distinct} chunks changed"


def test_a_large_file_is_cut_in_little_memory():
    """1 GiB is read in 4 MiB: the buffer is all that is held besides the chunk itself."""
    class Zeros:
        left = 64 * MIB

        def readinto(self, buffer):
            size = min(len(buffer), self.left)
            buffer[:size] = bytes(size)
            self.left -= size
            return size

    cut = cut_for(64 * MIB, SEED)
    tracemalloc.start()
    try:
        total = sum(len(chunk) for chunk in cut_stream(Zeros().readinto, cut))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 64 * MIB
    assert peak_bytes < 8 * MIB
