"""Version vectors: which edits a content has seen (Parker et al. 1983).

A vector is a tuple of (device id, counter) pairs, sorted by device id, every counter above 0.
A counter is `generation << 32 | n`, so that a device that starts a new generation goes on rising.
"""

from enum import Enum
from typing import Annotated

from msgspec import Meta

from protocol.ids import DeviceId

Counter = Annotated[int, Meta(gt=0, lt=1 << 53)]
Vector = tuple[tuple[DeviceId, Counter], ...]
Dot = tuple[DeviceId, Counter]

EMPTY: Vector = ()
GENERATION_SHIFT = 32


class Order(Enum):
    """How two vectors stand to each other, read as `compare(ours, theirs)`."""

    EQUAL = "equal"
    BEFORE = "before"
    AFTER = "after"
    CONCURRENT = "concurrent"


def counter(generation: int, n: int) -> int:
    """Return the counter of dot or op number `n` (from 1) of a device generation (from 0)."""
    assert 0 <= generation < 1 << 20
    assert 0 < n < 1 << GENERATION_SHIFT
    return generation << GENERATION_SHIFT | n


def is_canonical(vector: Vector) -> bool:
    """Say whether pairs are sorted, unique by device and counted from 1: the only legal form."""
    devices = [device for device, _ in vector]
    return devices == sorted(set(devices)) and all(count > 0 for _, count in vector)


def join(ours: Vector, theirs: Vector) -> Vector:
    """Return the least vector that has seen everything both have seen."""
    seen = dict(ours)
    for device, count in theirs:
        seen[device] = max(seen.get(device, 0), count)
    return tuple(sorted(seen.items()))


def add(base: Vector, dot: Dot) -> Vector:
    """Return `base` and one more edit. The dot must be newer than what `base` has of its device."""
    device, count = dot
    assert dict(base).get(device, 0) < count, "a dot is never reused"
    return join(base, (dot,))


def covers(ours: Vector, theirs: Vector) -> bool:
    """Say whether `ours` has seen everything that `theirs` has seen."""
    seen = dict(ours)
    return all(seen.get(device, 0) >= count for device, count in theirs)


def compare(ours: Vector, theirs: Vector) -> Order:
    """Compare two vectors; CONCURRENT means that each has seen an edit the other has not."""
    after, before = covers(ours, theirs), covers(theirs, ours)
    if after and before:
        return Order.EQUAL
    if after:
        return Order.AFTER
    return Order.BEFORE if before else Order.CONCURRENT
