"""Goal: a key never moves. These values are for ever: queues of old installations know them."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.core.partition import PARTITIONS, partition


@pytest.mark.parametrize(
    ("key", "expected"),
    [("", 20), ("0" * 32, 52), ("a", 10), ("ключ", 32)],
)
def test_golden_values_never_change(key: str, expected: int):
    assert partition(key) == expected


@given(st.text(), st.integers(1, 1000))
def test_always_in_range(key: str, count: int):
    assert 0 <= partition(key, count) < count


def test_keys_spread_evenly():
    shares = Counter(partition(f"{n:032x}") for n in range(64_000))
    assert len(shares) == PARTITIONS
    assert 800 < min(shares.values()) <= max(shares.values()) < 1200
