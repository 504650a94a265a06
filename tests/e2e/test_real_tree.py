"""The main job on real input: thousands of files, both ways, a late joiner, on both engines."""

import random
from pathlib import Path

import pytest

from ops.lab import Lab
from tests.e2e.trees import big_file, oddities, standard_library

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def edit(root: Path, seed: int) -> None:
    """Do a day's work on the library below `root`: edits, moves, deletions, new files."""
    dice = random.Random(seed)
    files = sorted(p for p in (root / "python").rglob("*.py") if not p.is_symlink())
    mine = files[seed % 2 :: 2]  # the two devices work on different files
    for path in dice.sample(mine, 30):
        path.write_bytes(path.read_bytes() + b"\n# edited\n")
    for number, path in enumerate(dice.sample(mine, 15)):
        path.rename(path.with_name(f"moved {seed} {number}.py"))
    for path in dice.sample(sorted(p for p in mine if p.exists()), 15):
        path.unlink()
    (root / f"new {seed}").mkdir()
    for number in range(20):
        (root / f"new {seed}" / f"{number}.txt").write_text(f"{seed} {number}")


def test_a_real_tree_goes_both_ways_and_to_a_late_joiner(lab: Lab) -> None:
    first = lab.device("laptop")
    count = standard_library(first.root)
    oddities(first.root)
    big_file(first.root / "big.bin")
    assert count > 1_000
    second = lab.device("phone")
    before = lab.settle(240)
    assert len(before) > count

    edit(first.root, 0)
    edit(second.root, 1)
    (first.root / "python/json").rename(first.root / "json moved")
    (second.root / "odd/tool.sh").chmod(0o644)
    with (second.root / "big.bin").open("r+b") as stream:
        stream.seek(50_000_000)
        stream.write(b"one edit in the middle of a large file")
    middle = lab.settle(240)
    assert any(path.startswith("json moved/") for path in middle)
    assert "python/json" not in middle
    assert middle["odd/tool.sh"][1] is False
    assert {f"new {seed}/{n}.txt" for seed in (0, 1) for n in range(20)} <= set(middle)
    assert not [path for path in middle if "(conflict" in path]

    late = lab.device("late")
    after = lab.settle(240)
    assert after == middle
    assert late.status()["state"] == "up_to_date"
    assert late.status()["counts"]["errors"] == 0
