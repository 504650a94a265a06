"""Content-defined chunking: where a file is cut (CRYPTO.md 4). FastCDC 2020, as pyfastcdc does it.

An edit moves only the cuts near it, so the chunks before and after stay the same bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from pyfastcdc import FastCDC

from protocol.limits import GIB, KIB, MIB

VERSION: Final = 1
LARGE_FROM_BYTES: Final = 16 * GIB  # larger chunks keep the lists of such files short
SEED_MAX: Final = (1 << 63) - 1  # pyfastcdc doubles the seed inside 64 bits

Readinto = Callable[[memoryview], int]
"""Fills the buffer from its start, answers how many bytes it put there; 0 is the end."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a file is cut: sizes in bytes, and the seed of the gear table."""

    min_bytes: int
    avg_bytes: int
    max_bytes: int
    seed: int


def cut_for(
    size_bytes: int, seed: int, version: int = VERSION, policy: str = "standard"
) -> Cut:
    """Return how a file of that size is cut; the same arguments always give the same answer.

    Raises ValueError: a chunker version or a space policy this device does not know.
    """
    if version != VERSION or policy != "standard":
        raise ValueError(f"unknown chunker: version {version}, policy {policy}")
    assert 0 <= seed <= SEED_MAX
    if size_bytes >= LARGE_FROM_BYTES:
        return Cut(256 * KIB, 1 * MIB, 4 * MIB, seed)
    return Cut(64 * KIB, 256 * KIB, 1 * MIB, seed)


def cut_buffer(data: bytes | memoryview, cut: Cut) -> Iterator[memoryview]:
    """Yield the chunks of a file that is in memory, in order, without copying. Empty: none."""
    for chunk in _fastcdc(cut).cut_buf(data):
        yield chunk.data


def cut_stream(readinto: Readinto, cut: Cut) -> Iterator[bytes]:
    """Yield the chunks of a file of any size, in order, holding 2 * `max_bytes` of it.

    The cuts are those of `cut_buffer`. Each chunk is a copy of its own: it may be handed to
    another thread and kept while the next one is read.
    """
    for chunk in _fastcdc(cut).cut_stream(_Reader(readinto)):
        yield bytes(chunk.data)


class _Reader:
    """The form in which pyfastcdc takes a reader."""

    def __init__(self, readinto: Readinto) -> None:
        self.readinto = readinto


def _fastcdc(cut: Cut) -> FastCDC:
    # One of its own for each cut: the object is not safe to share between threads.
    return FastCDC(
        cut.avg_bytes, min_size=cut.min_bytes, max_size=cut.max_bytes, seed=cut.seed
    )
