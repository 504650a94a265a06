"""Which of two concurrent edits becomes the head. The other is kept as a version either way."""

from typing import NamedTuple

from protocol.clock import bounded
from protocol.codec import lp, sha256
from protocol.ids import ID_BYTES
from protocol.journal import Outcome

AUTOMATIC, MANUAL = "automatic", "manual"


class Stamp(NamedTuple):
    """When an edit was made, and by which device. Stamps sort as the last writer wins."""

    hlc: int
    device: bytes


def decide(policy: str, head: Stamp, newcomer: Stamp, received_ms: int) -> Outcome:
    """Return WON if the newcomer becomes head, LOST if the head stays (SYNC.md 4).

    `automatic`: the last writer wins, by (min(HLC, received + 5 min), device id). The head's stamp
    was bounded when it was received. `manual`: the head stays until somebody chooses.
    """
    if policy == MANUAL:
        return Outcome.LOST
    counted = Stamp(bounded(newcomer.hlc, received_ms), newcomer.device)
    return Outcome.WON if counted > head else Outcome.LOST


def conflict_id(space: bytes, node: bytes, loser: bytes) -> bytes:
    """Return the id of the conflict that `loser` lost: a version loses at most once."""
    return sha256(lp("sl1/conflict", space, node, loser))[:ID_BYTES]
