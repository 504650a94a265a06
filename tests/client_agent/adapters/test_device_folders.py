"""Descriptors of folders: many are opened, few are kept, none is closed while a step holds it."""

import os
from pathlib import Path

from client_agent.adapters.placing import Placer, Staged
from client_agent.adapters.root import OPEN_MAX, Folders
from client_agent.core.events import MakeDirectory, Move, PutFile, Remove
from client_agent.core.trees import Stat
from protocol.entry import NodeType
from tests.client_agent.adapters.device_fakes import linked


def test_few_folders_stay_open(tmp_path: Path):
    root = linked(tmp_path)
    for number in range(3 * OPEN_MAX):
        (tmp_path / str(number)).mkdir()
    with Folders(root) as folders:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(3 * OPEN_MAX):
            folders.directory(str(number))
        assert len(os.listdir("/proc/self/fd")) - before <= OPEN_MAX


def staged(root: Path, text: str) -> Staged:
    path = root / ".syncline/tmp" / text.replace(" ", "-")
    path.write_text(text)
    return Staged(path.name, path.stat().st_ino)


def put(path: str) -> PutFile:
    return PutFile(b"n" * 16, path, None, b"v" * 16, b"", 0, 0, False)


def test_more_folders_than_stay_open_take_their_files_all_the_same(tmp_path: Path):
    """It failed before: the staging folder's descriptor was kept beyond its closing."""
    with Folders(linked(tmp_path)) as folders:
        placer = Placer(folders)
        for number in range(3 * OPEN_MAX):
            placer.run(MakeDirectory(b"d" * 16, f"d{number}"), None)
            placer.run(put(f"d{number}/file"), staged(tmp_path, f"content {number}"))
        placer.flush()
    for number in range(3 * OPEN_MAX):
        assert (tmp_path / f"d{number}/file").read_text() == f"content {number}"


def test_a_step_keeps_source_and_target_however_deep_they_are(tmp_path: Path):
    """Planted: closing within a step makes the move act on another folder's descriptor."""
    source = "/".join(["s"] * (OPEN_MAX + 10))
    target = "/".join(["t"] * (OPEN_MAX + 10))
    root = linked(tmp_path)
    for folder in (source, target):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / source / "file").write_text("deep")
    status = (tmp_path / source / "file").stat()
    stat = Stat(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, False)
    with Folders(root) as folders:
        placer = Placer(folders)
        moved = placer.run(Move(b"n" * 16, f"{source}/file", f"{target}/file", stat), None)
        assert moved is not None
        assert (tmp_path / target / "file").read_text() == "deep"
        placer.run(Remove(b"n" * 16, f"{target}/file", NodeType.FILE, moved), None)
        placer.flush()
    assert not (tmp_path / target / "file").exists()
    [kept] = (tmp_path / ".syncline/trash").rglob("file")
    assert kept.read_text() == "deep"
