"""The laws of version vectors. Drawn over three devices and small counters, so that they meet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.vector import (
    EMPTY,
    Order,
    add,
    compare,
    counter,
    covers,
    is_canonical,
    join,
)

A, B, C = (bytes([n]) * 16 for n in (1, 2, 3))
VECTORS = st.dictionaries(st.sampled_from([A, B, C]), st.integers(1, 4)).map(
    lambda seen: tuple(sorted(seen.items()))
)
OPPOSITE = {
    Order.BEFORE: Order.AFTER,
    Order.AFTER: Order.BEFORE,
    Order.EQUAL: Order.EQUAL,
    Order.CONCURRENT: Order.CONCURRENT,
}


@given(VECTORS, VECTORS, VECTORS)
def test_join_is_a_least_upper_bound(x, y, z):
    # Planted: `min` for `max` in join; and the last of two counts instead of the greater.
    both = join(x, y)
    assert is_canonical(both)
    assert both == join(y, x)
    assert join(both, z) == join(x, join(y, z))
    assert join(x, x) == x == join(x, EMPTY)
    assert covers(both, x)
    assert covers(both, y)
    if covers(z, x) and covers(z, y):
        assert covers(z, both)


@given(VECTORS, VECTORS)
def test_compare_is_a_partial_order_that_agrees_with_join(x, y):
    # Planted: BEFORE and AFTER swapped; `>` for `>=` in covers.
    order = compare(x, y)
    assert compare(y, x) is OPPOSITE[order]
    assert (order is Order.EQUAL) == (x == y)
    assert (order in (Order.EQUAL, Order.AFTER)) == (join(x, y) == x)
    assert (order in (Order.EQUAL, Order.BEFORE)) == (join(x, y) == y)


@given(VECTORS, VECTORS, VECTORS)
def test_having_seen_is_transitive(x, y, z):
    # Planted: `any` for `all` in covers.
    if covers(x, y) and covers(y, z):
        assert covers(x, z)


@given(VECTORS, st.sampled_from([A, B, C]), st.integers(1, 3))
def test_an_edit_comes_after_its_base(base, device, step):
    # Planted: add returns the dot alone.
    count = dict(base).get(device, 0) + step
    after = add(base, (device, count))
    assert is_canonical(after)
    assert compare(after, base) is Order.AFTER
    assert dict(after)[device] == count


@given(VECTORS)
def test_two_edits_of_one_base_are_concurrent(base):
    # Planted: compare without the CONCURRENT case.
    seen = dict(base)
    ours, theirs = (add(base, (d, seen.get(d, 0) + 1)) for d in (A, B))
    assert compare(ours, theirs) is Order.CONCURRENT


def test_a_dot_is_never_reused():
    with pytest.raises(AssertionError):
        add(((A, 2),), (A, 2))


@pytest.mark.parametrize(
    "vector",
    [((B, 1), (A, 1)), ((A, 1), (A, 2)), ((A, 0),), ((A, -1),)],
    ids=["unsorted", "twice", "zero", "negative"],
)
def test_what_is_not_canonical(vector):
    assert not is_canonical(vector)


def test_counters_rise_with_the_generation():
    assert counter(0, 1) == 1
    assert counter(1, 1) > counter(0, (1 << 32) - 1)
    assert counter((1 << 20) - 1, (1 << 32) - 1) < 1 << 53
    for generation, n in ((-1, 1), (1 << 20, 1), (0, 0), (0, 1 << 32)):
        with pytest.raises(AssertionError):
            counter(generation, n)
