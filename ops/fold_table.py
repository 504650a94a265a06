"""Writes protocol/folding.py: the frozen tables of Unicode 14.0. Run with Python 3.11 only.

    python -m ops.fold_table > protocol/folding.py

The tables are part of the protocol: tokens are made with them. They are never generated again
from a newer Unicode; this script shows where they came from.
"""

import sys
import unicodedata
from collections.abc import Iterator

HANGUL = range(0xAC00, 0xD7A4)
VERSION = "14.0.0"

HEADER = f'''"""Frozen tables of Unicode {VERSION}: decompositions, combining classes, case folding.

Made by ops/fold_table.py, never edited, never made again: name tokens depend on every entry.
Tables of tokens, all numbers hex. In the first and the last, `=X` sets the code point and `-X`
skips that many; any other token is the value of the code point, which then moves on by one:
code points joined by `+`. The other formats stand below their table.
"""
'''


def code_points() -> Iterator[int]:
    return (c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000)


def hexes(text: str) -> str:
    return "+".join(f"{ord(c):X}" for c in text)


def decompositions() -> dict[int, str]:
    """Single canonical steps; Hangul is arithmetic."""
    table = {}
    for c in code_points():
        raw = unicodedata.decomposition(chr(c))
        if raw and not raw.startswith("<") and c not in HANGUL:
            table[c] = "+".join(f"{int(x, 16):X}" for x in raw.split())
    return table


def excluded(table: dict[int, str]) -> list[int]:
    """Code points of two that never come out of composition."""
    pairs = (c for c, value in table.items() if "+" in value)
    return [c for c in pairs if unicodedata.normalize("NFC", chr(c)) != chr(c)]


def folds() -> dict[int, str]:
    return {c: hexes(chr(c).casefold()) for c in code_points() if chr(c).casefold() != chr(c)}


def text(table: dict[int, str]) -> list[str]:
    tokens, expected = [], 0
    for c, value in sorted(table.items()):
        if c != expected:
            gap = c - expected
            tokens.append(f"-{gap:X}" if 0 < gap < 0x100 else f"={c:X}")
        tokens.append(value)
        expected = c + 1
    return tokens


def classes() -> list[str]:
    """Ranges `first*count/class` of combining classes above 0."""
    runs: list[list[int]] = []
    for c in code_points():
        k = unicodedata.combining(chr(c))
        if not k:
            continue
        if runs and runs[-1][0] + runs[-1][1] == c and runs[-1][2] == k:
            runs[-1][1] += 1
        else:
            runs.append([c, 1, k])
    return [f"{c:X}*{n:X}/{k:X}" for c, n, k in runs]


def fold_runs(table: dict[int, str]) -> tuple[list[str], dict[int, str]]:
    """Split into runs `first*count/step/delta` of single values, and the rest."""
    single = {c: int(v, 16) - c for c, v in table.items() if "+" not in v}
    runs, used = [], set()
    for c in sorted(single):
        if c in used:
            continue
        best = (1, 1)
        for step in (1, 2):
            n = 1
            while single.get(c + n * step) == single[c] and c + n * step not in used:
                n += 1
            best = max(best, (n, -step))
        n, step = best[0], -best[1] if best[0] > 1 else 1
        if n < 3:
            continue
        used.update(c + i * step for i in range(n))
        delta = single[c]
        runs.append(f"{c:X}*{n:X}/{step}/{'-' if delta < 0 else ''}{abs(delta):X}")
    return runs, {c: v for c, v in table.items() if c not in used}


def show(name: str, doc: str, tokens: list[str]) -> None:
    print(f'\n{name} = """')
    line = ""
    for token in tokens:
        if line and len(line) + 1 + len(token) > 98:
            print(line)
            line = token
        else:
            line = f"{line} {token}".strip()
    print(line)
    print(f'"""\n"""{doc}"""')


def main() -> None:
    assert unicodedata.unidata_version == VERSION, "the tables are of Unicode 14.0: Python 3.11"
    table = decompositions()
    runs, rest = fold_runs(folds())
    print(HEADER, end="")
    show("DECOMPOSITIONS", "Canonical decompositions, one step each, without Hangul.", text(table))
    show("EXCLUDED", "Pairs that are never composed again.", [f"{c:X}" for c in excluded(table)])
    show("CLASSES", "Combining classes above 0: first*count/class.", classes())
    show("FOLD_RUNS", "Case folding in runs: first*count/step/delta.", runs)
    show("FOLDS", "Case folding, the rest.", text(rest))


if __name__ == "__main__":
    main()
