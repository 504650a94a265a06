"""The scan is the truth: everything that is there, nothing that is not ours, no link followed."""

import os
import socket

import pytest

from client_agent.adapters.root import Folders, Root
from client_agent.adapters.scanner import scan
from client_agent.core.events import Scan, Scope
from protocol.entry import NodeType
from tests.client_agent.adapters.device_fakes import linked, refuse_to_open

ALL = Scan((Scope("", True),))


def look(root: Root, *scopes: tuple[str, bool]):
    return scan(root, Scan(tuple(Scope(*scope) for scope in scopes)))


def paths(scanned) -> list[str]:
    return [seen.path for seen in scanned.entries]


def test_everything_is_seen_parents_first(tmp_path):
    root = linked(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/ü.txt").write_text("hi")
    (tmp_path / "run").write_text("#!")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "link").symlink_to("../nowhere")
    scanned = scan(root, ALL)
    found = {seen.path: seen for seen in scanned.entries}
    assert set(found) == {"a", "a/b", "a/b/ü.txt", "run", "link"}
    order = paths(scanned)
    assert order.index("a") < order.index("a/b") < order.index("a/b/ü.txt")
    assert found["run"].stat.executable
    assert not found["a/b/ü.txt"].stat.executable
    assert found["link"].type is NodeType.SYMLINK
    assert found["link"].target == "../nowhere"
    assert found["a/b/ü.txt"].stat.size_bytes == 2
    assert scanned.root_fault == ""
    assert scanned.unreadable == {}


def test_a_scope_is_one_entry_or_all_below_it(tmp_path):
    root = linked(tmp_path)
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("")
    assert paths(look(root, ("a", False))) == ["a"]
    assert paths(look(root, ("a/b", True))) == ["a/b", "a/b/c"]
    assert paths(look(root, ("a/gone", True), ("a/b/c/d", True), ("x/y/z", False))) == []


def test_a_link_in_the_middle_is_not_followed(tmp_path):
    root = linked(tmp_path / "root")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    (tmp_path / "root/link").symlink_to(outside)
    assert paths(scan(root, ALL)) == ["link"]
    assert paths(look(root, ("link/secret", True))) == []
    with Folders(root) as folders, pytest.raises(OSError, match=r"Not a directory|symbolic"):
        folders.directory("link")


def test_hostile_names_are_unknown_not_absent(tmp_path):
    root = linked(tmp_path)
    with open(os.fsencode(tmp_path) + b"/caf\xe9", "wb"):
        pass
    (tmp_path / "two\nlines").write_text("")
    (tmp_path / ".SYNCLINE").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.syncline").mkdir()
    scanned = scan(root, ALL)
    assert paths(scanned) == ["sub"]
    assert set(scanned.unreadable) == {
        "caf\\xe9", "two\nlines", ".SYNCLINE", "sub/.syncline"
    }
    "".join(scanned.unreadable).encode()  # can be written down


def test_special_files_have_no_type(tmp_path):
    root = linked(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "sock"))
        found = {seen.path: seen.type for seen in scan(root, ALL).entries}
    assert found == {"pipe": None, "sock": None}


def test_an_unreadable_folder_is_unknown(tmp_path, monkeypatch):
    root = linked(tmp_path)
    (tmp_path / "closed").mkdir()
    refuse_to_open(monkeypatch, "closed")
    scanned = scan(root, ALL)
    assert paths(scanned) == ["closed"]
    assert scanned.unreadable == {"closed": "Permission denied"}


@pytest.mark.parametrize("fault", ["missing", "unmarked", "other"])
def test_a_folder_that_is_not_ours_is_a_fault_never_empty(tmp_path, fault):
    root = linked(tmp_path / "root")
    (tmp_path / "root/file").write_text("")
    if fault == "missing":
        (tmp_path / "root").rename(tmp_path / "away")
    elif fault == "unmarked":
        (tmp_path / "root/.syncline/root.json").unlink()
    else:
        root = Root(tmp_path / "root", "00" * 16)
    scanned = scan(root, ALL)
    assert scanned.root_fault
    assert scanned.entries == ()


def test_our_own_folder_is_never_looked_at(tmp_path):
    root = linked(tmp_path)
    (tmp_path / ".syncline/tmp/x").write_text("")
    assert paths(look(root, ("", True), (".syncline/tmp/x", True), (".syncline", True))) == []
