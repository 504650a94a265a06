"""Names of files: which are allowed, which are the same to us, and what a conflict copy is called.

Folding uses the frozen tables of `protocol.folding`, never those of the running Python: two
devices must agree on every token, whatever they run on.
"""

import re
from functools import cache
from typing import NamedTuple

from protocol import folding, limits

RESERVED = ".syncline"  # our own folder in the root of every space

_HANGUL, _LEAD, _VOWEL, _TAIL = 0xAC00, 0x1100, 0x1161, 0x11A7
_LEADS, _VOWELS, _TAILS = 19, 21, 28
_SYLLABLES = _LEADS * _VOWELS * _TAILS


def fold(name: str) -> str:
    """Return NFC(casefold(NFD(casefold(NFD(name))))): equal for names that we hold for the same."""
    if name.isascii():
        return name.lower()
    return _nfc(_casefold(_nfd(_casefold(_nfd(name)))))


class _Tables(NamedTuple):
    decompositions: dict[int, str]  # full ones, canonically ordered
    compositions: dict[tuple[str, str], str]
    classes: dict[str, int]  # combining class, where it is not 0
    folds: dict[int, str]


@cache
def _tables() -> _Tables:
    steps = _read(folding.DECOMPOSITIONS)
    excluded = {int(token, 16) for token in folding.EXCLUDED.split()}
    pairs = {c: pair for c, pair in steps.items() if len(pair) == 2 and c not in excluded}
    full = {c: "".join(_expand(char, steps) for char in value) for c, value in steps.items()}
    classes: dict[str, int] = {}
    for token in folding.CLASSES.split():
        first, count, combining = (int(x, 16) for x in re.split("[*/]", token))
        classes.update((chr(first + i), combining) for i in range(count))
    folds = _read(folding.FOLDS)
    for token in folding.FOLD_RUNS.split():
        first, count, step, delta = (int(x, 16) for x in re.split("[*/]", token))
        run = range(first, first + count * step, step)
        folds.update((c, chr(c + delta)) for c in run)
    return _Tables(full, {(p[0], p[1]): chr(c) for c, p in pairs.items()}, classes, folds)


def _read(table: str) -> dict[int, str]:
    values: dict[int, str] = {}
    at = 0
    for token in table.split():
        if token[0] == "=":
            at = int(token[1:], 16)
        elif token[0] == "-":
            at += int(token[1:], 16)
        else:
            values[at] = "".join(chr(int(x, 16)) for x in token.split("+"))
            at += 1
    return values


def _expand(char: str, steps: dict[int, str]) -> str:
    step = steps.get(ord(char))
    return char if step is None else "".join(_expand(c, steps) for c in step)


def _casefold(text: str) -> str:
    return text.translate(_tables().folds)


def _nfd(text: str) -> str:
    tables = _tables()
    chars = text.translate(tables.decompositions)
    if not chars.isascii():
        chars = "".join(_jamo(c) if 0 <= ord(c) - _HANGUL < _SYLLABLES else c for c in chars)
    return _ordered(chars, tables.classes)


def _jamo(char: str) -> str:
    index = ord(char) - _HANGUL
    lead, vowel, tail = (
        index // (_VOWELS * _TAILS), index // _TAILS % _VOWELS, index % _TAILS
    )
    jamo = chr(_LEAD + lead) + chr(_VOWEL + vowel)
    return jamo + chr(_TAIL + tail) if tail else jamo


def _ordered(text: str, classes: dict[str, int]) -> str:
    """Sort each run of combining characters by class, stably."""
    out: list[str] = []
    run: list[str] = []
    for char in text:
        if char in classes:
            run.append(char)
            continue
        out += sorted(run, key=classes.__getitem__)
        run.clear()
        out.append(char)
    return "".join(out + sorted(run, key=classes.__getitem__))


def _nfc(text: str) -> str:
    """Compose a text that is decomposed and ordered (Unicode Standard, D117)."""
    tables = _tables()
    out: list[str] = []
    starter = -1  # where in `out` the last starter is
    previous = 0  # combining class of the last char of `out`, if it is after the starter
    for char in text:
        combining = tables.classes.get(char, 0)
        blocked = starter < 0 or (len(out) - 1 > starter and previous >= combining)
        joined = None if blocked else _pair(out[starter], char, tables)
        if joined is not None:
            out[starter] = joined
            continue
        if combining == 0:
            starter = len(out)
        previous = combining
        out.append(char)
    return "".join(out)


def _pair(first: str, second: str, tables: _Tables) -> str | None:
    """Return what two characters compose to, if anything."""
    lead, vowel = ord(first) - _LEAD, ord(second) - _VOWEL
    if 0 <= lead < _LEADS and 0 <= vowel < _VOWELS:
        return chr(_HANGUL + (lead * _VOWELS + vowel) * _TAILS)
    syllable, tail = ord(first) - _HANGUL, ord(second) - _TAIL
    if 0 <= syllable < _SYLLABLES and syllable % _TAILS == 0 and 0 < tail < _TAILS:
        return chr(ord(first) + tail)
    return tables.compositions.get((first, second))


# Characters that some file systems leave out when they compare names (as HFS+ does).
_IGNORED = dict.fromkeys(
    [*range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xAD]
)


def check_name(name: str) -> str | None:
    """Return why no file of ours may have that name, or None if it may.

    Asked before a name is sealed and after it is opened, so that no peer can place a file outside
    the root or in our own folder.
    """
    if name in ("", ".", ".."):
        return "it is empty, or stands for a folder"
    if any(c == "/" or c < " " or "\x7f" <= c <= "\x9f" for c in name):
        return "it has a slash or a control character"
    if any("\ud800" <= c <= "\udfff" for c in name):
        return "it is not Unicode text"
    if len(name.encode()) > limits.NAME_BYTES_MAX:
        return f"it is longer than {limits.NAME_BYTES_MAX} bytes"
    if is_reserved(name):
        return f"{RESERVED} is ours"
    return None


def is_reserved(name: str) -> bool:
    """Say whether a name is ours on some file system: other case, look-alike, trailing dots."""
    return fold(name.translate(_IGNORED)).rstrip(". ") == RESERVED


_CONFLICT = re.compile(
    r" \(conflict, [^()]*, \d{4}-\d\d-\d\d \d\d\.\d\d\.\d\d\)( \([0-9]+\))?"
)
_DEVICE_BYTES_MAX = 64
_EXTENSION_BYTES_MAX = 32  # longer ones are no extensions


def conflict_name(name: str, device_name: str, at_ms: int, n: int = 1) -> str:
    """Return `stem (conflict, <device>, 2026-11-22 09.04.05).ext`, in UTC; `n` above 1 adds `(n)`.

    Built from the original stem: the conflict copy of a conflict copy is not nested. Allowed by
    `check_name` if `name` is, and never `name` itself unless the mark is the same.
    """
    stem, extension = _split(_CONFLICT.sub("", name))
    device = _trim(_harmless(device_name), _DEVICE_BYTES_MAX).strip() or "device"
    again = f" ({n})" if n > 1 else ""
    mark = f" (conflict, {device}, {_utc(at_ms)}){again}{extension}"
    return _trim(stem, limits.NAME_BYTES_MAX - len(mark.encode())) + mark


def _split(name: str) -> tuple[str, str]:
    """Return stem and extension; the dot of a hidden file begins none."""
    stem, dot, last = name.rpartition(".")
    if not stem.strip(".") or len(last.encode()) >= _EXTENSION_BYTES_MAX or " " in last:
        return name, ""
    if stem.endswith(".tar") and stem != ".tar":
        return stem[:-4], f".tar{dot}{last}"
    return stem, dot + last


def _harmless(text: str) -> str:
    unwanted = frozenset('/\\()<>:"|?*')
    return "".join(
        "-" if c in unwanted or c < " " or "\x7f" <= c <= "\x9f" or "\ud800" <= c <= "\udfff" else c
        for c in text
    )


def _trim(text: str, size_bytes: int) -> str:
    """Cut a text to at most that many bytes, between characters."""
    return text.encode()[:size_bytes].decode(errors="ignore")


def _utc(ms: int) -> str:
    """Return a time as a file name may show it (civil from days: Hinnant 2013)."""
    days, seconds = divmod(ms // 1000, 86_400)
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    march = (5 * day_of_year + 2) // 153  # months since March
    day = day_of_year - (153 * march + 2) // 5 + 1
    month = march + 3 if march < 10 else march - 9
    year = year_of_era + era * 400 + (month <= 2)
    clock = f"{seconds // 3600:02}.{seconds // 60 % 60:02}.{seconds % 60:02}"
    return f"{year:04}-{month:02}-{day:02} {clock}"
