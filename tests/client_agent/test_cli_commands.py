"""The command line as scripts know it: documents, exit codes, files left as they were."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client_agent.adapters import profile as profiles
from client_agent.cli.commands import run
from client_agent.cli.output import Exit
from ops.lab import Standalone

PASSWORD = "correct horse battery staple"


class Device:
    """One SYNCLINE_HOME, driven in this process; its agent is a process of its own."""

    def __init__(self, home: Path, server: str, capsys, monkeypatch) -> None:
        self.home, self.server, self.capsys, self.monkeypatch = home, server, capsys, monkeypatch
        self.password = home.parent / f"{home.name}.password"
        self.password.write_text(f"{PASSWORD}\nsecond line\n")
        self.err = ""

    def __call__(self, *arguments: str, exit: int = Exit.DONE) -> str:
        """Run a command for people; return stdout."""
        self.monkeypatch.setenv("SYNCLINE_HOME", str(self.home))
        self.monkeypatch.setenv("SYNCLINE_PASSWORD_FILE", str(self.password))
        self.capsys.readouterr()
        code = run(arguments)
        out, self.err = self.capsys.readouterr()
        assert code == exit, (arguments, code, out, self.err)
        return out

    def json(self, *arguments: str, exit: int = Exit.DONE) -> dict:
        """Run a command for scripts; return `data`, or `error` if it failed."""
        document = json.loads(self(*arguments, "--json", exit=exit))
        if document["ok"]:
            assert set(document) == {"ok", "schema", "data", "warnings"}
            assert document["schema"] == f"syncline.{arguments[0]}/1"
            return document["data"]
        assert set(document["error"]) == {
            "code", "title", "detail", "hint", "retryable", "trace_id"
        }
        return document["error"]

    def register(self, username: str) -> dict:
        return self.json(
            "register", "--server", self.server, "--username", username, "--email",
            f"{username}@example.org", "--device", "laptop", "--keystore", "file",
        )

    def login(self, username: str, exit: int = Exit.DONE) -> dict:
        return self.json(
            "login", "--server", self.server, "--username", username, "--device", "phone",
            "--keystore", "file", exit=exit,
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    made = Standalone(tmp_path_factory.mktemp("server") / "data")
    yield made
    made.stop()


@pytest.fixture
def devices(tmp_path, server, capsys, monkeypatch):
    made: list[Device] = []

    def make(name: str) -> Device:
        device = Device(tmp_path / name, server.url, capsys, monkeypatch)
        made.append(device)
        return device

    yield make
    for device in made:
        device.monkeypatch.setenv("SYNCLINE_HOME", str(device.home))
        run(["stop"])


@pytest.fixture
def device(devices):
    return devices("home")


@pytest.fixture
def username(request):
    import secrets

    return f"u{secrets.token_hex(4)}"


# ------------------------------------------------------------------ without an account


@pytest.mark.parametrize("command", ["status", "whoami", "start", "run", "sync", "logout"])
def test_without_an_account_the_code_is_4(device, command):
    error = device.json(command, exit=Exit.SIGNED_OUT)
    assert error["code"] == "signed_out"
    assert "syncline" in error["hint"]
    assert not device.home.exists(), "looking makes nothing"


@pytest.mark.parametrize(
    "arguments", [["bogus"], ["link"], ["status", "--nonsense"], ["config", "get", "x"], []]
)
def test_wrong_use_is_2(device, arguments):
    assert device(*arguments, exit=Exit.USAGE) == ""
    assert device.err


def test_wrong_use_in_json(device):
    assert device.json("status", "--nonsense", exit=Exit.USAGE)["code"] == "usage"


def test_help_and_version_are_on_stdout(device):
    assert "register" in device("--help")
    assert "syncline" in device("--version")
    assert "--recovery-file" in device("register", "--help")


def test_settings_know_where_they_come_from(device):
    device("config", "set", "server", "https://one.example")
    assert device.json("config", "get", "server")["origin"] == "profile"
    device.monkeypatch.setenv("SYNCLINE_SERVER", "https://two.example")
    assert device.json("config")["settings"]["server"] == {
        "value": "https://two.example", "origin": "environment"
    }
    device.monkeypatch.delenv("SYNCLINE_SERVER")
    device("config", "unset", "server")
    assert device.json("config", "get", "server")["origin"] == "default"
    device("config", "set", "log_level", "loud", exit=Exit.USAGE)
    device("config", "set", "server", exit=Exit.USAGE)
    device("config", "set", "nonsense", "1", exit=Exit.USAGE)


# ------------------------------------------------------------------ register and login


def test_register_shows_the_words_once_and_keeps_no_password(device, username, tmp_path):
    data = device.register(username)
    assert len(data["recovery_words"].split()) == 24
    assert data["username"] == username
    assert "recovery_words" not in device.json("whoami")
    kept = [path.read_bytes() for path in device.home.iterdir()]
    assert not any(PASSWORD.encode() in content for content in kept)
    assert not any(data["recovery_words"].encode() in content for content in kept)
    assert device.home.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in device.home.iterdir())
    error = device.json(
        "register", "--server", device.server, "--username", "x", "--email", "x@y", exit=1
    )
    assert error["code"] == "signed_in"


def test_the_words_may_go_to_a_file(devices, username, tmp_path):
    device, words = devices("home"), tmp_path / "words"
    arguments = (
        "register", "--server", device.server, "--username", username,
        "--email", f"{username}@x.org", "--keystore", "file",
        "--recovery-file", str(words),
    )
    out = device(*arguments)
    assert len(words.read_text().split()) == 24
    assert words.read_text().split()[0] not in out.split()
    assert words.stat().st_mode & 0o077 == 0
    other = devices("other")
    other(*arguments, exit=Exit.USAGE)  # the file is never overwritten
    left = tmp_path / "left"
    error = other.json(*arguments[:-1], str(left), exit=Exit.FAILED)
    assert error["code"] == "name_in_use"
    assert not left.exists(), "no words of an account that does not exist"


def test_wrong_password_and_unknown_user_get_the_same_answer(devices, username):
    devices("home").register(username)
    other = devices("other")
    other.password.write_text("wrong")
    wrong = other.login(username, exit=Exit.SIGNED_OUT)
    unknown = other.login(f"{username}x", exit=Exit.SIGNED_OUT)
    for error in (wrong, unknown):
        error.pop("trace_id")
    assert wrong == unknown
    assert wrong["code"] == "bad_credentials"
    assert not other.home.exists() or profiles.read(other.home) is None


def test_the_password_comes_from_stdin_too(device, username):
    import io

    device.monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    device(
        "register", "--server", device.server, "--username", username,
        "--email", f"{username}@x.org", "--keystore", "file",
        "--password-stdin",
    )
    device.monkeypatch.delenv("SYNCLINE_PASSWORD_FILE")
    device.password.write_text("")
    device("logout")
    assert device.login(username, exit=Exit.USAGE)["title"] == "The password is empty"


def test_no_password_at_all_is_wrong_use(device, monkeypatch):
    device.password.unlink()
    assert device.login("somebody", exit=Exit.USAGE)["code"] == "usage"


@pytest.mark.parametrize(
    ("url", "exit", "code"),
    [
        ("http://127.0.0.1:9", Exit.TEMPORARY, "offline"),
        ("http://example.org", Exit.FATAL, "insecure"),
        ("nonsense", Exit.USAGE, "usage"),
    ],
)
def test_servers_that_cannot_be_used(device, url, exit, code):
    device.server = url
    error = device.login("somebody", exit=exit)
    assert error["code"] == code


def test_logout_forgets_keys_and_keeps_files(device, username, tmp_path):
    device.register(username)
    device("link", str(tmp_path / "folder"))
    (tmp_path / "folder/file").write_text("mine")
    device("logout")
    assert (tmp_path / "folder/file").read_text() == "mine"
    assert not (device.home / "keys.json").exists()
    device.json("whoami", exit=Exit.SIGNED_OUT)
    device.login(username)
    device("link", str(tmp_path / "folder"))
    assert device.json("sync")["state"] == "up_to_date"
    assert len([d for d in device.json("devices")["devices"] if d["certified"]]) == 2


def test_signing_in_again_keeps_device_and_folder(device, username, tmp_path):
    before = device.register(username)
    device("link", str(tmp_path / "folder"))
    after = device.login(username)
    assert (after["device"], after["folder"]) == (before["device"], str(tmp_path / "folder"))


# ------------------------------------------------------------------ link


def test_link_makes_marks_and_repeats(device, username, tmp_path):
    device.register(username)
    device.json("start", exit=Exit.FAILED)
    folder = tmp_path / "new/folder"
    assert device.json("link", str(folder))["folder"] == str(folder)
    assert (folder / ".syncline").stat().st_mode & 0o777 == 0o700
    marker = (folder / ".syncline/root.json").read_text()
    device("link", str(folder))
    assert (folder / ".syncline/root.json").read_text() == marker


def test_link_refuses_what_would_go_wrong(devices, username, tmp_path):
    device = devices("home")
    device.register(username)
    (tmp_path / "file").write_text("")
    folder = tmp_path / "folder"
    device.json("link", str(tmp_path / "file"), exit=Exit.FAILED)
    device.json("link", str(tmp_path), exit=Exit.FAILED)  # it holds the home
    device.json("link", str(device.home / "inside"), exit=Exit.FAILED)
    device.json("link", str(folder), "--space", "other", exit=Exit.USAGE)
    device("link", str(folder))
    device.json("link", str(tmp_path / "second"), exit=Exit.FAILED)
    other = devices("other")
    other.register(f"{username}b")
    assert "another account" in other.json("link", str(folder), exit=1)["title"]
    assert "lies in" in other.json("link", str(folder / "below"), exit=1)["title"]
    (tmp_path / "up").mkdir()
    folder.rename(tmp_path / "up/folder")
    assert "contains" in other.json("link", str(tmp_path / "up"), exit=1)["title"]


# ------------------------------------------------------------------ the agent


@pytest.fixture
def running(device, username, tmp_path):
    device.register(username)
    device("link", str(tmp_path / "folder"))
    assert device.json("start") == {"state": "running", "started": True}
    device.folder = tmp_path / "folder"
    return device


def test_a_day_with_the_agent(running, tmp_path):
    folder = running.folder
    assert running.json("start")["started"] is False
    (folder / "a.txt").write_text("hello")
    waited = running.json("wait", str(folder / "a.txt"), "--timeout", "60")
    assert waited["cursor"] == 1
    status = running.json("status")
    assert status["state"] == "up_to_date"
    assert set(status["counts"]) == {
        "queued", "uploading", "downloading", "conflicts", "held", "errors", "ignored"
    }
    assert {"up_left", "down_left", "up_total", "down_total"} <= set(status["bytes"])
    assert status["server"]["reachable"] is True
    assert "Up to date" in running("status")
    files = running.json("filestatus", str(folder / "a.txt"), str(folder / "none"))["files"]
    assert [row["status"] for row in files] == ["synced", "unknown"]
    running.json("filestatus", str(tmp_path / "outside"), exit=Exit.USAGE)
    assert running.json("history")["history"][0]["path"] == "a.txt"
    assert "uploaded" in running("history", str(folder / "a.txt"))
    assert running.json("activity")["counts"]["queued"] == 0
    assert running.json("conflicts") == {"conflicts": []}
    assert running.json("hold") == {"held": []}
    [only] = running.json("devices")["devices"]
    assert (only["name"], only["current"], only["certified"]) == ("laptop", True, True)
    checks = {check["name"]: check["state"] for check in running.json("doctor")["checks"]}
    assert checks["agent"] == checks["server"] == checks["folder"] == "ok"
    running("rescan")
    for command in ("link", "login", "logout"):
        extra = {"link": [str(folder)], "login": ["--username", "x"], "logout": []}[command]
        assert running.json(command, *extra, exit=Exit.FAILED)["code"] == "running"
    running("run", exit=Exit.FAILED)
    assert running.json("stop")["stopped"] is True
    assert running.json("stop")["stopped"] is False
    assert running.json("status", exit=Exit.NOT_RUNNING)["code"] == "not_running"


def test_a_pause_can_end_by_itself_even_over_a_restart(running):
    assert running.json("pause", "--for", "2h")["paused_until"] is not None
    running.json("stop")
    running.json("start")
    assert running.json("status")["state"] == "paused", "remembered"
    assert running.json("pause", "--for", "1s")["state"] == "paused"
    (running.folder / "meanwhile.txt").write_text("waits for the end of the pause")
    deadline = time.monotonic() + 30
    while running.json("status")["state"] == "paused":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.json("wait", "--timeout", "30")
    error = running.json("pause", "--for", "ever", exit=Exit.USAGE)
    assert "no span" in error["title"]


def test_pause_holds_changes_back(running):
    running("wait", "--timeout", "60")
    assert running.json("pause")["state"] == "paused"
    (running.folder / "later").write_text("x")
    assert running.json("wait", "--timeout", "5", exit=Exit.ATTENTION)["code"] == "paused"
    running("stop")
    running("start")
    assert running.json("status")["state"] == "paused", "remembered"
    running("resume")
    assert running.json("wait", "--timeout", "60")["cursor"] == 1


def test_check_says_it_by_the_exit_code(running):
    running("wait", "--timeout", "60")
    running.monkeypatch.setenv("SYNCLINE_HOME", str(running.home))
    for command, code in (("resume", Exit.DONE), ("pause", Exit.NOT_YET)):
        running(command)
        done = subprocess.run(
            [sys.executable, "-m", "client_agent.cli", "status", "--check"],
            capture_output=True, check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_a_watched_status_is_a_document_per_line(running, monkeypatch):
    def stop(_seconds: float) -> None:
        raise KeyboardInterrupt

    running("wait", "--timeout", "60")
    for arguments in (("status", "--watch", "--json"), ("--json", "status", "--watch")):
        with monkeypatch.context() as patch:
            patch.setattr("time.sleep", stop)
            [line] = running(*arguments, exit=Exit.INTERRUPTED).splitlines()
        assert json.loads(line)["schema"] == "syncline.status/1"
    with monkeypatch.context() as patch:
        patch.setattr("time.sleep", stop)
        assert "Up to date" in running("status", "--watch", exit=Exit.INTERRUPTED)


@pytest.mark.kills
def test_a_killed_agent_starts_again_and_loses_nothing(running):
    (running.folder / "one").write_text("1")
    running("wait", "--timeout", "60")
    pid = running.json("status")["pid"]
    os.kill(pid, signal.SIGKILL)
    (running.folder / "two").write_text("2")
    while Path(f"/proc/{pid}").exists():
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            break
    assert running.json("status", exit=Exit.NOT_RUNNING)["code"] == "not_running"
    running("start")
    assert running.json("wait", "--timeout", "60")["cursor"] == 2


def test_a_damaged_database_is_rebuilt_and_nothing_is_sent_twice(running):
    (running.folder / "one").write_text("1")
    running("wait", "--timeout", "60")
    running("stop")
    (running.home / "state.db").write_bytes(b"\0" * 5000)
    (running.home / "state.db-wal").unlink(missing_ok=True)
    running("start")
    assert running.json("wait", "--timeout", "60")["cursor"] == 1
    assert list(running.home.glob("state.db.damaged-*"))
    (running.folder / "two").write_text("2")
    assert running.json("wait", "--timeout", "60")["cursor"] == 2
    assert profiles.read(running.home).generation == 1


def test_a_folder_that_went_away_deletes_nothing(running, tmp_path):
    (running.folder / "one").write_text("1")
    (running.folder / "two").write_text("2")
    running("wait", "--timeout", "60")
    running.folder.rename(tmp_path / "away")
    error = running.json("wait", "--timeout", "30", exit=Exit.ATTENTION)
    assert error["code"] == "held"
    assert running.json("hold")["held"]
    (tmp_path / "away").rename(running.folder)
    running("stop")
    running("start")
    assert running.json("wait", "--timeout", "60")["cursor"] == 2


def test_sync_is_one_shot(devices, username, tmp_path):
    one, two = devices("one"), devices("two")
    one.register(username)
    one("link", str(tmp_path / "1"))
    (tmp_path / "1/file").write_text("both")
    assert one.json("sync")["state"] == "up_to_date"
    one.json("status", exit=Exit.NOT_RUNNING)
    two.login(username)
    two("link", str(tmp_path / "2"))
    two("sync")
    assert (tmp_path / "2/file").read_text() == "both"
    assert two.json("whoami")["device_name"] == "phone"


def test_a_home_of_any_length_has_a_socket(devices, username, tmp_path):
    deep = tmp_path / ("long" * 20) / ("name" * 20)
    deep.mkdir(parents=True)
    device = devices(str(deep.relative_to(tmp_path) / "home"))
    device.register(username)
    device("link", str(tmp_path / "folder"))
    device("start")
    assert device.json("status")["folder"] == str(tmp_path / "folder")


def test_an_agent_that_cannot_start_says_why(running):
    running("stop")
    keys = running.home / "keys.json"
    kept = keys.read_bytes()
    keys.unlink()
    error = running.json("start", exit=Exit.SIGNED_OUT)
    assert error["code"] == "not_started"
    assert "keys" in error["detail"]
    keys.write_bytes(kept)
    running("start")


def test_nonsense_on_the_socket_is_answered(running):
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(running.home / "agent.sock"))
        line.sendall(b"nonsense\n")
        answer = json.loads(line.makefile().readline())
    assert answer["error"]["code"] == "internal"
    assert answer["error"]["trace_id"]
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(running.home / "agent.sock"))
        line.sendall(b'{"do": "dance"}\n')
        assert json.loads(line.makefile().readline())["error"]["code"] == "usage"
