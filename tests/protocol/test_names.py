"""Names: folding by the frozen table, what is allowed, what a conflict copy is called."""

import datetime
import functools
import hashlib
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import names
from protocol.names import check_name, conflict_name, fold, is_reserved

FROZEN = unicodedata.unidata_version == "14.0.0"
of_14_0 = pytest.mark.skipif(not FROZEN, reason="compares with Python 3.11's own tables")
# Of fold(c) of every code point, in UTF-32: the same for ever, on every Python.
ALL_FOLDED = "33741f378c89aec6f33729f8e194b9792b463c7409f66230bbdaec45fb915c54"


LAST = "\U0010ffff"  # a starter for ever, and part of nothing: it keeps its neighbours apart
CHARS = [chr(c) for c in range(0x10FFFF) if not 0xD800 <= c < 0xE000]
APART = LAST.join(CHARS)  # all code points in one text: one call instead of a million


@functools.cache
def folded() -> dict[str, str]:
    return dict(zip(CHARS, fold(APART).split(LAST), strict=True))


def official(name: str) -> str:
    def nfd(text):
        return unicodedata.normalize("NFD", text)

    return unicodedata.normalize("NFC", nfd(nfd(name).casefold()).casefold())


def test_folding_of_every_code_point_is_frozen():
    together = ("".join(folded().values()) + fold(LAST)).encode("utf-32-be")
    assert hashlib.sha256(together).hexdigest() == ALL_FOLDED


@of_14_0
def test_every_code_point_as_unicode_14_has_it():
    decomposed = unicodedata.normalize("NFD", APART)
    for ours, theirs in (
        (names._nfd(APART), decomposed),
        (names._casefold(APART), APART.casefold()),
        (names._nfc(decomposed), unicodedata.normalize("NFC", APART)),
    ):
        if ours != theirs:  # without a diff of two million characters
            pairs = zip(CHARS, ours.split(LAST), theirs.split(LAST), strict=True)
            pytest.fail(next(f"{ord(c):X}: {a!a}, not {b!a}" for c, a, b in pairs if a != b))


# Letters that combine, marks of several classes, jamo of all kinds, folds to two letters.
LETTERS = st.sampled_from("aAeEsSſßẞİıIiKÅåΩαωσςΣŉǰΐᾳﬁ가각힣か\u0958\u1e9b\u2126\u212b\u0dd9")
MARKS = st.sampled_from("\u0301\u0300\u0307\u0323\u0327\u0345\u0308\u0342\u0653\u0344\u093c\u0dca")
JAMO = st.sampled_from("\u1100\u1112\u1161\u1175\u11a7\u11a8\u11c2\uac00\uac1c")
RARE = st.sampled_from("\U0001d15e\U0001133e\U00011347\u0dcf\u0f71\u0f72\u0f74\u0f73\ufb1d")
TRICKY = st.lists(
    LETTERS | MARKS | MARKS | JAMO | JAMO | RARE | st.characters(codec="utf-8"), max_size=10
).map("".join)


@of_14_0
@settings(max_examples=500)
@given(TRICKY)
def test_folding_is_that_of_the_running_python_while_that_has_unicode_14(name):
    # Planted: `previous > combining` (marks of one class pass each other); no canonical
    # ordering; Hangul tails off by one; starter not moved on; no last NFC.
    assert fold(name) == official(name)
    assert names._nfc(names._nfd(name)) == unicodedata.normalize("NFC", name)


@given(TRICKY)
def test_folding_twice_changes_nothing_and_forms_are_one(name):
    # Planted: no NFD before the first casefold.
    assert fold(fold(name)) == fold(name)
    assert fold(names._nfd(name)) == fold(name) == fold(names._nfc(names._nfd(name)))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("README.md", "readme.MD"), ("Straße", "STRASSE"), ("é.txt", "e\u0301.txt"),
        ("Å", "Å"), ("ΟΔΟΣ", "οδος"), ("İ", "i̇"), ("각", "각"), ("ǰ", "J\u030c"),
    ],
)
def test_names_that_are_one(ours, theirs):
    assert fold(ours) == fold(theirs)


@pytest.mark.parametrize(("ours", "theirs"), [("a", "á"), ("ı", "i"), ("x²", "x2"), ("a ", "a")])
def test_names_that_are_two(ours, theirs):
    assert fold(ours) != fold(theirs)




def long_name(text: str, times: int, end: str) -> str:
    return (text * times).encode()[: 255 - len(end)].decode(errors="ignore") + end


ALLOWED = st.builds(
    long_name,
    st.text(st.characters(codec="utf-8"), max_size=30), st.integers(1, 60),
    st.sampled_from(["", ".txt", ".tar.gz"]),
).filter(lambda name: check_name(name) is None)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/", "\0", "a\nb", "\x1f", "\x7f", "\x80", "\x9f", "\ud800", "a\udfff",
     "x" * 256, "é" * 128, ".syncline", ".SYNCLINE", ".Syncline", ".ſyncline", ".syncl\u200bine",
     "\ufeff.syncline", ".syncline.", ".syncline ", ".SYNC\u00adLINE. ."],
    ids=ascii,
)
def test_names_that_are_refused(name):
    assert isinstance(check_name(name), str)


@pytest.mark.parametrize(
    "name",
    ["a", "...", ".a", " ", "x" * 255, "é" * 127, ".synclin", "syncline", ".syncline2",
     ".synclineignore", "a\\b", "a:b*?", "con", "ü" * 100, "\U0001f600", "\u00a0"],
    ids=ascii,
)
def test_names_that_are_allowed(name):
    assert check_name(name) is None


SPELLINGS = ("..", "sSſß", "yYý", "nN", "cC", "lL", "iIİı", "nN", "eEé")


@settings(max_examples=300)
@given(st.tuples(*map(st.sampled_from, SPELLINGS)).map("".join))
def test_whatever_folds_to_ours_is_ours(name):
    # Planted: is_reserved by `name.lower()`.
    assert is_reserved(name) == (official(name) == ".syncline")


def test_no_single_character_hides_ours():
    hidden = 0
    for char, letters in folded().items():
        if letters and letters in ".syncline":
            spelled = ".syncline".replace(letters, char)
            assert check_name(spelled) is not None, ascii(spelled)
            hidden += 1
    assert hidden == 16


AT_MS = 1_795_338_245_000  # 2026-11-22 09:04:05 UTC


@pytest.mark.parametrize(
    ("name", "device", "n", "expected"),
    [
        ("a.txt", "laptop", 1, "a (conflict, laptop, 2026-11-22 09.04.05).txt"),
        ("a.txt", "laptop", 2, "a (conflict, laptop, 2026-11-22 09.04.05) (2).txt"),
        ("a", "laptop", 1, "a (conflict, laptop, 2026-11-22 09.04.05)"),
        (".bashrc", "l", 1, ".bashrc (conflict, l, 2026-11-22 09.04.05)"),
        (".a.b", "l", 1, ".a (conflict, l, 2026-11-22 09.04.05).b"),
        ("a.tar.gz", "l", 1, "a (conflict, l, 2026-11-22 09.04.05).tar.gz"),
        (".tar.gz", "l", 1, ".tar (conflict, l, 2026-11-22 09.04.05).gz"),
        ("..a", "l", 1, "..a (conflict, l, 2026-11-22 09.04.05)"),
        ("a.", "l", 1, "a (conflict, l, 2026-11-22 09.04.05)."),
        ("a", "../x (1)\n", 1, "a (conflict, ..-x -1--, 2026-11-22 09.04.05)"),
        ("a", "  ", 1, "a (conflict, device, 2026-11-22 09.04.05)"),
        ("a", "\ud800", 1, "a (conflict, -, 2026-11-22 09.04.05)"),
        ("a.b (x)", "l", 1, "a.b (x) (conflict, l, 2026-11-22 09.04.05)"),
    ],
)
def test_what_a_conflict_copy_is_called(name, device, n, expected):
    assert conflict_name(name, device, AT_MS, n) == expected


@given(ALLOWED, st.text(max_size=80), st.integers(0, 253_402_300_799_999), st.integers(1, 10**6))
def test_a_conflict_name_is_a_name(name, device, at_ms, n):
    # Planted: a trim that counts characters; a device name used as it is; a trim of the whole
    # name, which loses the mark.
    copy = conflict_name(name, device, at_ms, n)
    assert check_name(copy) is None
    assert " (conflict, " in copy
    assert (f" ({n})" in copy) or n == 1


@given(ALLOWED, st.text(max_size=80), st.text(max_size=80), st.integers(1, 30))
def test_a_copy_of_a_copy_is_built_from_the_original(name, first, second, n):
    # Planted: no removal of the old mark; a pattern that misses `(2)`.
    if "(conflict, " in name:
        return
    copy = conflict_name(name, first, 5, n)
    again = conflict_name(copy, second, AT_MS)
    assert len(re.findall(r"\(conflict, ", again)) == 1
    if len(copy.encode()) < 252:  # nothing was trimmed off
        assert again == conflict_name(name, second, AT_MS)


@given(st.integers(0, 253_402_300_799_999))
def test_times_are_those_of_the_calendar(at_ms):
    # Planted: March for February's leap day; 146_096 days in an era.
    moment = datetime.datetime.fromtimestamp(at_ms // 1000, datetime.UTC)
    assert names._utc(at_ms) == f"{moment:%Y-%m-%d %H.%M.%S}"
