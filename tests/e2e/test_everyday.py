"""What people do every day, and what must never go wrong when they do; on both engines."""

import os
from pathlib import Path

import pytest

from ops.lab import Lab, snapshot, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def appears(path: Path, content: bytes, timeout_s: float = 30) -> None:
    """Wait until a file is there with exactly this content."""
    wait_until(
        lambda: path.is_file() and path.read_bytes() == content, timeout_s, f"{path} to appear"
    )


def test_a_days_work(lab: Lab) -> None:
    """One test, several stories: starting an engine costs more than each of them."""
    laptop, phone = lab.device("laptop"), lab.device("phone")

    # A file appears, is edited, renamed, deleted.
    (laptop.root / "a.txt").write_bytes(b"one")
    appears(phone.root / "a.txt", b"one")
    (phone.root / "a.txt").write_bytes(b"two, longer")
    appears(laptop.root / "a.txt", b"two, longer")
    (laptop.root / "a.txt").rename(laptop.root / "b.txt")
    appears(phone.root / "b.txt", b"two, longer")
    wait_until(lambda: not (phone.root / "a.txt").exists(), 30, "the old name to go")
    (phone.root / "b.txt").unlink()
    wait_until(lambda: not (laptop.root / "b.txt").exists(), 30, "the deletion")
    assert list((laptop.root / ".syncline/trash").rglob("*b.txt*")), "a deletion goes to the trash"

    # An editor saves by rename; the executable bit and a link travel.
    (laptop.root / "doc.txt").write_bytes(b"draft")
    appears(phone.root / "doc.txt", b"draft")
    (laptop.root / ".doc.swp").write_bytes(b"final")
    os.replace(laptop.root / ".doc.swp", laptop.root / "doc.txt")
    appears(phone.root / "doc.txt", b"final")
    (laptop.root / "doc.txt").chmod(0o755)
    wait_until(lambda: os.access(phone.root / "doc.txt", os.X_OK), 30, "the executable bit")
    (laptop.root / "link").symlink_to("doc.txt")
    wait_until(lambda: (phone.root / "link").is_symlink(), 30, "the link")
    lab.settle()

    # Both edit the same file while they cannot see each other: nothing is lost.
    phone.run("pause")
    laptop.run("pause")
    (laptop.root / "doc.txt").write_bytes(b"from the laptop")
    (phone.root / "doc.txt").write_bytes(b"from the phone")
    laptop.run("resume")
    phone.run("resume")
    tree = lab.settle()
    contents = {(laptop.root / p).read_bytes() for p in tree if p.startswith("doc")}
    assert contents == {b"from the laptop", b"from the phone"}
    assert len([p for p in tree if "(conflict, " in p]) == 1
    assert lab.settle() == tree, "a quiet round changes nothing"

    # The same name is made on both: both stay.
    phone.run("pause")
    laptop.run("pause")
    (laptop.root / "same.txt").write_bytes(b"L")
    (phone.root / "same.txt").write_bytes(b"P")
    (laptop.root / "folder").mkdir()
    (phone.root / "folder").mkdir()
    (laptop.root / "folder/l").write_bytes(b"l")
    (phone.root / "folder/p").write_bytes(b"p")
    laptop.run("resume")
    phone.run("resume")
    tree = lab.settle()
    same = {(laptop.root / p).read_bytes() for p in tree if p.startswith("same")}
    assert same == {b"L", b"P"}
    assert {"folder/l", "folder/p"} <= set(tree), "folders of one name become one"

    # An edit beats a deletion.
    phone.run("pause")
    (phone.root / "same.txt").write_bytes(b"edited meanwhile")
    (laptop.root / "same.txt").unlink()
    laptop.wait()
    phone.run("resume")
    tree = lab.settle()
    assert (laptop.root / "same.txt").read_bytes() == b"edited meanwhile"


def test_work_goes_on_without_the_server_and_through_restarts(lab: Lab) -> None:
    laptop, phone = lab.device("laptop"), lab.device("phone")
    (laptop.root / "before.txt").write_bytes(b"before")
    lab.settle()

    # The agent is killed, work goes on, it comes back.
    laptop.kill()
    (laptop.root / "while dead.txt").write_bytes(b"seen by the scan")
    (laptop.root / "before.txt").unlink()
    laptop.start()
    tree = lab.settle()
    assert "while dead.txt" in tree
    assert "before.txt" not in tree

    # Clean stop, edits on both sides, start.
    phone.stop()
    (phone.root / "offline.txt").write_bytes(b"queued")
    (laptop.root / "meanwhile.txt").write_bytes(b"meanwhile")
    laptop.wait()
    phone.start()
    assert {"offline.txt", "meanwhile.txt"} <= set(lab.settle())
    assert snapshot(laptop.root) == snapshot(phone.root)
