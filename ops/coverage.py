"""Reads the coverage that a test run left and says whether it is enough.

Two floors: 80 % of everything (branches counted), and every line and branch of `protocol` and of
each `core`, per file, so that a well-tested neighbour cannot hide an untested rule. Exit code 1
and a list when a floor is broken.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

TOTAL_PERCENT_MIN = 80.0


def is_pure(path: str) -> bool:
    """Whether a file stands where every branch must be covered."""
    parts = Path(path).parts
    return parts[0] == "protocol" or "core" in parts[:-1]


def incomplete(files: dict[str, dict]) -> list[str]:
    """One line for each pure file of a coverage report that has uncovered lines or branches."""
    broken = []
    for path, facts in sorted(files.items()):
        if not is_pure(path):
            continue
        lines = facts["missing_lines"]
        branches = [f"{a}->{b}" for a, b in facts.get("missing_branches", ())]
        if lines or branches:
            broken.append(f"{path}: lines {lines}, branches {branches}")
    return broken


def main() -> int:
    """Prints the table and the verdict on both floors."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "report"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "coverage.json")
        subprocess.run([*coverage, "json", "--quiet", "-o", target], check=True)
        report = json.loads(target.read_text())
    total = report["totals"]["percent_covered"]
    broken = incomplete(report["files"])
    for line in broken:
        print(f"not fully covered: {line}")
    print(
        f"coverage: {total:.1f} % overall (at least {TOTAL_PERCENT_MIN:.0f} %), "
        f"{len(broken)} files of protocol and core below 100 %"
    )
    return 1 if broken or total < TOTAL_PERCENT_MIN else 0


if __name__ == "__main__":
    sys.exit(main())
