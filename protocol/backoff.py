"""When to try again: exponential backoff with full jitter (Brooker, AWS Architecture Blog 2015).

The one schedule of the project; the device's engine, the mailboxes and the relay all ask here.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A schedule: the first wait is drawn from 0..base_ms, later ones from ever wider ranges."""

    base_ms: int
    cap_ms: int

    def delay_ms(self, attempt: int, dice: float) -> int:
        """Return the wait before try `attempt` + 1 (attempt counts from 0); `dice` is in [0, 1)."""
        assert attempt >= 0
        assert 0 <= dice < 1
        ceiling = min(self.cap_ms, self.base_ms << min(attempt, 30))
        return int(ceiling * dice)


RECONNECT = Backoff(base_ms=500, cap_ms=60_000)  # a device that lost its server
NODE = Backoff(base_ms=1_000, cap_ms=15 * 60_000)  # one file that cannot be synced now
MAILBOX = Backoff(base_ms=50, cap_ms=2_000)  # a turn that raised
WRITER = Backoff(base_ms=50, cap_ms=30_000)  # a file that somebody is still writing
