"""Which partition an address belongs to: the same on every machine, in every version, for ever.

A key moves only when the number of partitions changes, which means new queues. The ring of
RabbitMQ's consistent-hash exchange is not used: it moves keys when the broker restarts.
"""

from protocol.codec import sha256

PARTITIONS = 64  # so many workers can share a kind; each is one queue


def partition(key: str, count: int = PARTITIONS) -> int:
    """Return the partition of a key, in [0, count): first 8 bytes of its SHA-256, modulo."""
    assert count > 0
    return int.from_bytes(sha256(key.encode())[:8], "big") % count
