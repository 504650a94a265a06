"""Sums over the live nodes of a space, for finding differences in two round trips (SYNC.md 7).

65,536 buckets by the first two bytes of the node id; each is the sum mod 2^256 of its leaves, so
that a change costs one addition and no directory is a hot row.
"""

from collections.abc import Iterable, Mapping

from actors.records import Node
from protocol.codec import lp, sha256

MODULUS = 1 << 256
_NO_MANIFEST = sha256(b"")


def bucket(node: bytes) -> int:
    """Return the bucket of a node id, in [0, 65536)."""
    return int.from_bytes(node[:2], "big")


def leaf(node: Node | None) -> int:
    """Return what a node adds to its bucket: nothing while it is dead or unknown."""
    if node is None or not node.alive:
        return 0
    manifest_hash = node.manifest_hash or _NO_MANIFEST
    return int.from_bytes(sha256(lp(node.node, node.place_hash, manifest_hash)), "big")


def deltas(before: Mapping[bytes, Node], after: Iterable[Node]) -> dict[int, int]:
    """Return bucket -> amount to add (mod 2^256) when the nodes `after` replace those `before`."""
    amounts: dict[int, int] = {}
    for node in after:
        amount = leaf(node) - leaf(before.get(node.node))
        where = bucket(node.node)
        amounts[where] = (amounts.get(where, 0) + amount) % MODULUS
    return {where: amount for where, amount in amounts.items() if amount}
