"""Backoff: full jitter below a ceiling that doubles and ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.backoff import MAILBOX, NODE, RECONNECT, WRITER, Backoff


@given(st.sampled_from([MAILBOX, NODE, RECONNECT, WRITER]),
       st.integers(0, 20) | st.integers(0, 10_000), st.floats(0.5, 1, exclude_max=True))
def test_a_delay_lies_below_the_ceiling(schedule, attempt, dice):
    # Planted: no cap; and `attempt + 1`, which skips the shortest wait.
    delay_ms = schedule.delay_ms(attempt, dice)
    ceiling = min(schedule.cap_ms, schedule.base_ms * 2 ** min(attempt, 40))
    assert delay_ms == int(ceiling * dice)


def test_the_ceiling_doubles_up_to_the_cap():
    near_one = 1 - 2**-53
    delays = [Backoff(100, 1_000).delay_ms(n, near_one) for n in range(6)]
    assert delays == [99, 199, 399, 799, 999, 999]


@pytest.mark.parametrize(("attempt", "dice"), [(-1, 0.5), (0, 1.0), (0, -0.1)])
def test_nonsense_is_a_programming_error(attempt, dice):
    with pytest.raises(AssertionError):
        NODE.delay_ms(attempt, dice)
