"""`syncline-server` as an operator runs it: real processes."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from apps.cli import cli
from ops.lab import LabError, Process, Standalone

COMMAND = [sys.executable, "-c", "from apps.cli import main; main()"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SYNCLINE_")}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=ours | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- one process for everything ---


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    server = Standalone(tmp_path / "server")
    yield server
    if server.process.process.poll() is None:
        server.stop()


def get(url: str) -> tuple[int, dict[str, object]]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, json.loads(answer.read())


def test_standalone_serves_stops_cleanly_and_keeps_its_data(standalone: Standalone) -> None:
    assert get(f"{standalone.url}/readyz")[1]["ready"] is True
    assert standalone.folder.stat().st_mode & 0o777 == 0o700
    secrets = (standalone.folder / "secrets.json").read_text()

    second = Process(
        "second",
        ["standalone", "--data-dir", str(standalone.folder), "--port", "0"],
        standalone.folder.parent / "second.log",
        {},
    )
    with pytest.raises(LabError):
        second.wait_for("ready ", 30)
    assert second.process.wait(20) == 1
    assert "Traceback" not in second.log.read_text()
    assert get(f"{standalone.url}/livez")[0] == 200  # the first one does not care

    assert standalone.process.stop() == 0
    standalone.process = standalone._start()
    assert get(f"{standalone.url}/readyz")[1]["ready"] is True
    assert (standalone.folder / "secrets.json").read_text() == secrets
    assert "Traceback" not in standalone.process.log.read_text()
    assert standalone.process.stop(signal.SIGINT) == 0


def test_a_taken_port_is_told_in_one_line(standalone: Standalone, tmp_path: Path) -> None:
    port = standalone.url.rpartition(":")[2]
    said = run("standalone", "--data-dir", str(tmp_path / "other"), "--port", port)
    assert said.returncode == 1
    assert "in use" in said.stderr
    assert "Traceback" not in said.stderr


# --- settings ---


def test_config(tmp_path: Path) -> None:
    good = {"SYNCLINE_DATABASE_URL": "postgresql://a:hidden@b/c", "SYNCLINE_HOME": "x"}
    runner = CliRunner()
    assert runner.invoke(cli, ["config", "check"], env=good).output == "the settings are good\n"
    shown = runner.invoke(cli, ["config", "show"], env=good)
    assert json.loads(shown.output)["database_url"] == "postgresql://a:***@b/c"

    said = run("config", "check", SYNCLINE_NONSENSE="1", SYNCLINE_ACCESS_TTL="x")
    assert said.returncode == 2
    assert [line.split(":")[1].strip() for line in said.stderr.splitlines()] == [
        "SYNCLINE_ACCESS_TTL",
        "SYNCLINE_NONSENSE",
    ]


@pytest.mark.parametrize("command", ["gateway", "worker", "relay"])
def test_scaled_out_processes_name_what_they_lack(command: str) -> None:
    said = run(command, SYNCLINE_DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert said.returncode == 2
    assert "SYNCLINE_AMQP_URL" in said.stderr
    assert "SYNCLINE_REDIS_URL" in said.stderr


def test_a_worker_knows_its_pools_and_partitions() -> None:
    urls = {
        "SYNCLINE_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "SYNCLINE_AMQP_URL": "amqp://127.0.0.1:1/",
        "SYNCLINE_REDIS_URL": "redis://127.0.0.1:1/",
    }
    said = run("worker", "--pool", "user-sync,nobody", **urls)
    assert (said.returncode, "'nobody'" in said.stderr) == (2, True)
    said = run("worker", "--partitions", "60-64", **urls)
    assert (said.returncode, "0-63" in said.stderr) == (2, True)


def test_a_process_waits_for_its_database_and_can_be_stopped(tmp_path: Path) -> None:
    urls = {
        "SYNCLINE_DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "SYNCLINE_AMQP_URL": "amqp://127.0.0.1:1/",
        "SYNCLINE_REDIS_URL": "redis://127.0.0.1:1/",
        "SYNCLINE_STORAGE_DIR": str(tmp_path / "storage"),
    }
    gateway = Process("gateway", ["gateway"], tmp_path / "gateway.log", urls)
    with pytest.raises(LabError, match="waiting for the database"):
        gateway.wait_for("ready", 4)
    assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()


# --- migrations ---


def test_migrations(postgres_url: str, namespace: str) -> None:
    where = {
        "SYNCLINE_DATABASE_URL": postgres_url,
        "SYNCLINE_NAMESPACE": f"{namespace}_cli",
    }
    runner = CliRunner()
    try:
        status = runner.invoke(cli, ["migrate", "status"], env=where)
        assert status.exit_code == 1
        assert status.output.startswith("pending ")
        planned = runner.invoke(cli, ["migrate", "plan"], env=where)
        assert len(planned.output.splitlines()) == len(status.output.splitlines())
        applied = runner.invoke(cli, ["migrate", "apply"], env=where)
        assert applied.exit_code == 0, applied.output
        assert runner.invoke(cli, ["migrate", "apply"], env=where).output == "nothing to do\n"
        status = runner.invoke(cli, ["migrate", "status"], env=where)
        assert (status.exit_code, "pending" in status.output) == (0, False)
    finally:
        from tests.conftest import _execute, in_thread

        for schema in ("accounts", "metadata"):
            drop = f'DROP SCHEMA IF EXISTS "{namespace}_cli_{schema}" CASCADE'
            in_thread(_execute(postgres_url, drop))
    away = run("migrate", "status", SYNCLINE_DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert away.returncode == 1
    assert "database:" in away.stderr
    assert "Traceback" not in away.stderr


def test_health_of_nobody() -> None:
    said = run("health", "--url", "http://127.0.0.1:1")
    assert (said.returncode, "127.0.0.1:1/readyz" in said.stderr) == (1, True)


def test_a_device_only_installation_is_told_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "sys.argv = ['syncline-server', 'standalone', '--data-dir', 'x']\n"
        "from apps.cli import main\n"
        "main()\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 2
    assert "pip install 'syncline[server]'" in said.stderr
    assert "Traceback" not in said.stderr


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from apps.cli import cli\n"
        "from click.testing import CliRunner\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        "heavy = {'litestar', 'uvicorn', 'asyncpg', 'faststream', 'redis', 'piccolo'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
