"""The agent in bad times: no server, full disk, hostile names, a second agent; nothing is lost."""

import os
import secrets
import shutil
import signal
import subprocess
import time

import pytest

from client_agent.cli.output import Exit
from ops.lab import Standalone
from tests.client_agent.test_cli_commands import Device


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Standalone(tmp_path_factory.mktemp("server") / "data")
    yield made
    made.stop()


@pytest.fixture
def devices(tmp_path, server, capsys, monkeypatch):
    made: list[Device] = []
    username = f"u{secrets.token_hex(4)}"

    def make(name: str) -> Device:
        device = Device(tmp_path / name, server.url, capsys, monkeypatch)
        device.folder = tmp_path / f"{name}-folder"
        if made:
            device.login(username)
        else:
            device.register(username)
        device("link", str(device.folder))
        device("start")
        made.append(device)
        return device

    yield make
    for device in made:
        device("stop")


def until(device: Device, state: str) -> dict:
    """Return the status once it says so."""
    for _ in range(600):
        status = device.json("status")
        if status["state"] == state:
            return status
        time.sleep(0.1)
    raise AssertionError(status)


@pytest.mark.kills
def test_changes_wait_while_the_server_is_away(devices, server):
    one, two = devices("one"), devices("two")
    (one.folder / "before").write_text("1")
    one("wait", "--timeout", "60")
    two("wait", "--timeout", "60")

    server.process.stop(signal.SIGKILL)
    until(one, "offline")
    (one.folder / "during").write_text("2")
    os.rename(one.folder / "before", one.folder / "renamed")
    assert one.json("wait", "--timeout", "1", exit=Exit.NOT_YET)["retryable"]
    assert one.json("status", exit=Exit.DONE)["server"]["reachable"] is False
    one("stop")
    one("start")  # without a server, too
    assert one.json("status")["state"] == "offline"
    (one.folder / "big").write_bytes(os.urandom(3_000_000))

    server.process = server._start()
    one("wait", "--timeout", "90")
    two("wait", "--timeout", "90")
    assert sorted(p.name for p in two.folder.iterdir()) == [
        ".syncline", "big", "during", "renamed"
    ]
    assert (two.folder / "big").read_bytes() == (one.folder / "big").read_bytes()


def test_one_bad_entry_stops_nothing_else(devices):
    one, two = devices("one"), devices("two")
    with open(os.fsencode(one.folder) + b"/caf\xe9", "wb") as file:
        file.write(b"not UTF-8")
    os.mkfifo(one.folder / "pipe")
    (one.folder / "new\nline").write_text("control character")
    (one.folder / "fine").write_text("fine")
    one("wait", "--timeout", "60", exit=Exit.ATTENTION)
    two("wait", "--timeout", "60")
    assert (two.folder / "fine").read_text() == "fine"
    status = one.json("status")
    assert status["state"] == "attention"
    assert {"caf\\xe9", "new\nline"} <= set(status["faults"])
    assert sorted(p.name for p in two.folder.iterdir()) == [".syncline", "fine"]
    assert one.json("filestatus", str(one.folder / "fine"))["files"][0]["status"] == "synced"


def test_two_agents_never_share_a_folder(devices, tmp_path):
    one = devices("one")
    copied = tmp_path / "copied"
    shutil.copytree(one.home, copied, ignore=shutil.ignore_patterns("agent.*"))
    other = Device(copied, one.server, one.capsys, one.monkeypatch)
    error = other.json("run", exit=Exit.FAILED)
    assert error["code"] == "running"


def test_no_folder_is_taken_from_a_running_agent(devices, tmp_path):
    one, two = devices("one"), devices("two")
    two("stop")
    shutil.rmtree(two.folder)
    error = two.json("link", str(one.folder), exit=Exit.FAILED)
    assert error["code"] == "link_refused"
    assert "agent" in error["title"]
    (one.folder / "f").write_text("still kept")
    one("wait", "--timeout", "60")
    one("stop")
    assert two.json("link", str(one.folder))["folder"] == str(one.folder)


def test_a_folder_that_takes_no_marker_is_refused(devices):
    one = devices("one")
    one("stop")
    shutil.rmtree(one.folder)
    error = one.json("link", "/proc", exit=Exit.FAILED)
    assert error["code"] == "link_refused"


def test_a_name_commands_no_terminal(devices):
    one = devices("one")
    (one.folder / "a\x1b[2Jb").write_text("")
    one("wait", "--timeout", "60", exit=Exit.ATTENTION)
    assert "\x1b" not in one.err
    assert "a\\x1b[2Jb" in one.err
    out = one("status")
    assert "\x1b" not in out
    assert "a\\x1b[2Jb" in out


def test_a_disk_with_no_room_at_all_ends_a_wait(devices, tiny):
    one = devices("one")
    subprocess.run(["mount", "-o", "remount,size=20m", str(tiny)], check=True)
    for number in range(1500):
        (one.folder / f"f{number}").write_text(f"{number}")
    one("wait", "--timeout", "60")
    two = devices("two")
    assert two.json("wait", exit=Exit.FULL)["code"] == "disk_full"


def test_both_edited_and_both_are_kept(devices):
    one, two = devices("one"), devices("two")
    (one.folder / "f.txt").write_text("base")
    one("wait", "--timeout", "60")
    two("wait", "--timeout", "60")
    one("stop")
    two("stop")
    (one.folder / "f.txt").write_text("from one")
    (two.folder / "f.txt").write_text("from two")
    one("sync", "--timeout", "60")
    two("sync", "--timeout", "60")
    one("start")
    two("start")
    one("wait", "--timeout", "60")
    two("wait", "--timeout", "60")
    for device in (one, two):
        contents = {p.read_text() for p in device.folder.iterdir() if p.is_file()}
        assert contents == {"from one", "from two"}
    [conflict] = two.json("conflicts")["conflicts"]
    assert conflict["path"] == "f.txt"
    assert conflict["mine"]["device"] != conflict["theirs"]["device"]
    assert "conflict" in conflict["copies"][0]
    assert "kept as" in two("conflicts")


@pytest.fixture
def tiny(tmp_path):
    """A file system of 70 MB: the device stops downloads at 50 MB free."""
    folder = tmp_path / "two-folder"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems may not be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_waits_and_goes_on_by_itself(devices, tiny):
    one = devices("one")
    (one.folder / "small").write_text("small")
    (one.folder / "large").write_bytes(os.urandom(30_000_000))
    one("wait", "--timeout", "60")
    two = devices("two")
    error = two.json("wait", "--timeout", "60", exit=Exit.FULL)
    assert error["code"] == "disk_full"
    assert "large" in error["detail"]
    assert not (two.folder / "large").exists()
    assert (two.folder / "small").read_text() == "small"
    subprocess.run(["mount", "-o", "remount,size=200m", str(tiny)], check=True)
    two("rescan")
    two("stop")
    two("start")
    assert until(two, "up_to_date")["counts"]["errors"] == 0
    assert (two.folder / "large").read_bytes() == (one.folder / "large").read_bytes()
