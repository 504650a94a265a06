"""Tokens and the server's secrets."""

import os
import stat
from pathlib import Path

import pytest

from apps.gateway.ranges import span_of
from apps.gateway.tokens import Access, Tokens, parse_keys, secrets_from, verified
from protocol.faults import Refusal

ACCESS = Access(bytes([1]) * 16, bytes([2]) * 16, bytes([3]) * 16)
NOW_MS = 4_000_000_000_000


def test_secrets_are_made_once_and_kept_private(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    first, second = secrets_from("", "", folder), secrets_from("", "", folder)
    assert (first.pepper, first.refresh) == (second.pepper, second.refresh)
    assert list(first.keys) == list(second.keys)
    assert len({first.pepper, first.refresh}) == 2
    mode = stat.S_IMODE((folder / "secrets.json").stat().st_mode)
    assert mode == 0o600
    assert [path.name for path in folder.iterdir()] == ["secrets.json"]
    other = secrets_from("", "", tmp_path / "other")
    assert other.pepper != first.pepper


def test_secrets_can_be_set(tmp_path: Path) -> None:
    seed = os.urandom(32).hex()
    told = secrets_from(f"a:{seed}", "s" * 40, None)
    assert list(told.keys) == ["a"]
    assert secrets_from(f"b:{seed}", "s" * 40, None).pepper == told.pepper  # keys may change
    with pytest.raises(ValueError, match="SYNCLINE_SECRET"):
        secrets_from(seed, "", None)
    kept = secrets_from(seed, "", tmp_path)  # only what is missing is made
    assert len(next(iter(kept.keys))) == 16
    for wrong in ("", "a:", "a:zz", f"a:{seed},a:{seed}", f"a:{seed[:-2]}", "a:\u00fc"):
        with pytest.raises(ValueError, match="JWT_KEYS"):
            parse_keys(wrong)


def test_a_new_key_signs_and_the_old_one_still_verifies() -> None:
    import time

    now_ms = time.time_ns() // 1_000_000
    old, new = f"old:{os.urandom(32).hex()}", f"new:{os.urandom(32).hex()}"

    def tokens(keys: str) -> Tokens:
        return Tokens(secrets_from(keys, "s" * 40, None), "syncline", 600)

    token, expires_ms = tokens(old).access(ACCESS, now_ms)
    assert 0 <= now_ms + 600_000 - expires_ms < 1000
    assert tokens(f"{new},{old}").read(token) == ACCESS
    with pytest.raises(Refusal):
        tokens(new).read(token)


def test_refresh_tokens_are_made_again_and_nobody_else_makes_them() -> None:
    keys = f"a:{os.urandom(32).hex()}"
    tokens = Tokens(secrets_from(keys, "s" * 40, None), "syncline", 600)
    other = Tokens(secrets_from(keys, "t" * 40, None), "syncline", 600)
    family = os.urandom(16)
    token = tokens.refresh(family, 7)
    assert token == tokens.refresh(family, 7)
    assert token != tokens.refresh(family, 8)
    assert tokens.read_refresh(token) == (family, 7)
    assert other.read_refresh(token) is None
    for wrong in ("", "x", token[:-1], "\u00fc" * 75, token + "AAAA", token.swapcase()):
        assert tokens.read_refresh(wrong) is None


def test_signatures_of_odd_keys_are_no() -> None:
    # Planted bug: without the list of weak keys OpenSSL takes the first of these.
    assert not verified(bytes(32), bytes(64), b"x")
    assert not verified(bytes(31) + b"\x80", bytes(64), b"x")
    assert not verified(b"\xed" + b"\xff" * 31, bytes(64), b"x")
    assert not verified(b"short", bytes(64), b"x")


def test_ranges_without_a_header() -> None:
    span = span_of(None, 10)
    assert (span.start, span.stop, span.partial) == (0, 10, False)
    assert span.headers == {"Content-Length": "10"}
