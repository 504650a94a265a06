"""Which partition an address belongs to: the same on every machine, in every version, for ever.

A key moves only when the number of partitions changes, which means new queues. The ring of
RabbitMQ's consistent-hash exchange is not used: it moves keys when the broker restarts.
"""

from collections.abc import Sequence

from protocol.codec import sha256

PARTITIONS = 64  # so many workers can share a kind; each is one queue


def partition(key: str, count: int = PARTITIONS) -> int:
    """Return the partition of a key, in [0, count): first 8 bytes of its SHA-256, modulo."""
    assert count > 0
    return int.from_bytes(sha256(key.encode())[:8], "big") % count


def parse(text: str, count: int = PARTITIONS) -> Sequence[int]:
    """Read a worker's share, such as `0-31` or `0-7,16,40-47`: sorted, each once.

    Raises:
        ValueError: not of this form, or outside [0, count).
    """
    shares: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.partition("-")
        first = int(low)
        last = int(high) if dash else first
        if not 0 <= first <= last < count:
            raise ValueError(f"partitions {part!r} are not within 0-{count - 1}")
        shares.update(range(first, last + 1))
    return sorted(shares)
