"""Hybrid logical clock (Kulkarni et al. 2014): 47 bits of milliseconds, 16 bits of counter.

A stamp is one int, `ms << 16 | count`: it sorts by time, never runs backwards on a device, and
stays near the wall clock. It labels edits and breaks ties; it never decides what is newer than
what (vectors do).
"""

from typing import Annotated

from msgspec import Meta

Hlc = Annotated[int, Meta(ge=0, lt=(1 << 63) - 1)]

COUNT_BITS = 16
SKEW_MAX_MS = 5 * 60 * 1000  # a stamp further ahead than this counts as `receive time + 5 min`


def stamp(ms: int, count: int = 0) -> int:
    """Make a stamp from milliseconds since the Unix epoch and a count within them."""
    return max(ms, 0) << COUNT_BITS | count


def wall_ms(hlc: int) -> int:
    """Return the milliseconds part of a stamp."""
    return hlc >> COUNT_BITS


def tick(last: int, now_ms: int) -> int:
    """Return the stamp of a local edit: after `last`, and not before the wall clock."""
    return max(last + 1, stamp(now_ms))


def receive(last: int, remote: int, now_ms: int) -> int:
    """Return our clock after seeing `remote`. One that is too far ahead moves us only to the bound.

    A device with a broken clock thus cannot drag the others into the future.
    """
    return max(last, bounded(remote, now_ms))


def bounded(hlc: int, received_ms: int) -> int:
    """Return the stamp as it counts in a decision: at most `SKEW_MAX_MS` after it was received."""
    return min(hlc, stamp(received_ms + SKEW_MAX_MS))
