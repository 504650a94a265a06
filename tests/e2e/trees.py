"""Real trees for the end-to-end tests: this interpreter's own library, and what breaks tools."""

import os
import random
import shutil
import sysconfig
from pathlib import Path

MIB = 1024 * 1024


def standard_library(root: Path) -> int:
    """Copy the running interpreter's standard library below `root`; return the number of files."""
    source = Path(sysconfig.get_paths()["stdlib"])
    ignore = shutil.ignore_patterns("__pycache__", "site-packages", "*.so", "*.a", "lib-dynload")
    shutil.copytree(source, root / "python", ignore=ignore, symlinks=True, dirs_exist_ok=True)
    return sum(len(files) for _, _, files in os.walk(root / "python"))


def oddities(root: Path) -> None:
    """Add what real folders hold besides: empty, Unicode, deep, linked, executable, long names."""
    odd = root / "odd"
    odd.mkdir(parents=True)
    (odd / "empty").write_bytes(b"")
    (odd / "Grüße ☃ 日本語 😀.txt").write_text("hello")
    (odd / "e\u0301 decomposed").write_text("NFD stays NFD")
    (odd / ("n" * 255)).write_text("the longest name")
    (odd / " leading and trailing ").write_text("spaces")
    (odd / "new\\slash").write_text("a backslash")
    deep = odd.joinpath(*(f"level {n}" for n in range(40)))
    deep.mkdir(parents=True)
    (deep / "bottom.txt").write_text("deep")
    (odd / "empty folder").mkdir()
    (odd / "link").symlink_to("empty")
    (odd / "dangling").symlink_to("../nowhere/at all")
    (odd / "tool.sh").write_text("#!/bin/sh\n")
    (odd / "tool.sh").chmod(0o755)


def big_file(path: Path, size_bytes: int = 100 * MIB, seed: int = 7) -> None:
    """Write one large incompressible file."""
    dice = random.Random(seed)
    with path.open("wb") as stream:
        for _ in range(size_bytes // MIB):
            stream.write(dice.randbytes(MIB))
