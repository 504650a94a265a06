"""Ids: 16 random bytes, never the root, one spelling in hex."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ID_BYTES, ROOT, new_id, parse_hex


def test_a_new_id_is_never_the_root():
    draws = iter([ROOT, ROOT, b"\x07" * ID_BYTES])
    assert new_id(lambda size: next(draws)[:size]) == b"\x07" * 16


@given(st.binary(min_size=16, max_size=16))
def test_hex_reads_back(raw):
    # Planted: `[::-1]` on the way back.
    assert parse_hex(raw.hex()) == raw


@given(st.text(max_size=40) | st.text("0123456789abcdefABCDEF", min_size=30, max_size=34))
def test_only_one_spelling_is_an_id(text):
    # Planted: isalnum() instead of the digits; and no check of the length.
    parsed = parse_hex(text)
    assert parsed is None or (parsed.hex() == text and len(parsed) == ID_BYTES)


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 30 + "0x", " " + "0" * 31]
)
def test_what_is_no_id(text):
    assert parse_hex(text) is None


def test_hashes_are_longer():
    assert parse_hex("ab" * 32, 32) == b"\xab" * 32
    assert parse_hex("ab" * 16, 32) is None
