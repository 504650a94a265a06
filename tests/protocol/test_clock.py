"""The hybrid clock: sorts like time, never runs backwards, is not dragged into the future."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.clock import COUNT_BITS, SKEW_MAX_MS, bounded, receive, stamp, tick, wall_ms

MS = st.integers(0, 1 << 42)
STAMPS = st.builds(stamp, MS, st.integers(0, (1 << COUNT_BITS) - 1))


@given(STAMPS, MS)
def test_a_tick_is_later_and_near_the_wall(last, now_ms):
    # Planted: `last` for `last + 1`.
    after = tick(last, now_ms)
    assert after > last
    assert wall_ms(after) >= now_ms
    assert after <= max(last + 1, stamp(now_ms))


@given(STAMPS, STAMPS, MS)
def test_hearing_of_an_edit_moves_the_clock_only_to_the_bound(last, remote, now_ms):
    # Planted: receive without the bound.
    after = receive(last, remote, now_ms)
    assert after >= last
    assert after >= min(remote, stamp(now_ms))
    assert after <= max(last, stamp(now_ms + SKEW_MAX_MS))


@given(STAMPS, st.lists(st.tuples(STAMPS, MS), max_size=8))
def test_an_edit_made_after_hearing_of_another_sorts_after_it(last, heard):
    # Planted: receive that returns `last`.
    for remote, now_ms in heard:
        last = receive(last, remote, now_ms)
        edit = tick(last, now_ms)
        assert edit > bounded(remote, now_ms)
        last = edit


def test_stamps_sort_by_time_then_count():
    assert stamp(1, 65_535) < stamp(2) < stamp(2, 1)
    assert wall_ms(stamp(1_795_338_245_000, 7)) == 1_795_338_245_000
    assert stamp(-5) == 0, "a clock before 1970 is the beginning"
