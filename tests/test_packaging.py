"""What is installed: four rooms with their data files, two commands, no ops, no tests."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from ops.coverage import incomplete, is_pure

ROOT = Path(__file__).parent.parent
ROOMS = ("protocol", "actors", "apps", "client_agent")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that no build folder appears in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in (*ROOMS, "ops", "tests"):
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--wheel-dir", source / "dist", source],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )
    return zipfile.ZipFile(next((source / "dist").glob("syncline-*.whl")))


def test_every_file_of_a_room_is_installed_and_nothing_else(wheel: zipfile.ZipFile):
    installed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert installed == there


def test_the_commands_and_the_licence(wheel: zipfile.ZipFile):
    info = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    commands = wheel.read(info).decode()
    assert "syncline = client_agent.cli:main" in commands
    assert "syncline-server = apps.cli:main" in commands
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_device_needs_nothing_of_the_server():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[\[<>=;!]", word)[0] for word in project["dependencies"]}
    server = {
        re.split(r"[\[<>=;!]", word)[0] for word in project["optional-dependencies"]["server"]
    }
    assert not base & server


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-server.lock"])
def test_every_line_of_a_lock_is_exact_and_hashed(name: str):
    entries = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", entry), entry[:60]
        assert "--hash=sha256:" in entry, entry[:60]


def test_the_coverage_gate_names_the_hole():
    whole = {"missing_lines": [], "missing_branches": []}
    hole = {"missing_lines": [7], "missing_branches": [[3, 7]]}
    report = {"protocol/ids.py": whole, "actors/core/quota.py": hole, "apps/cli.py": hole}
    assert incomplete(report) == ["actors/core/quota.py: lines [7], branches ['3->7']"]
    assert is_pure("client_agent/core/planner.py")
    assert not is_pure("client_agent/core.py")
