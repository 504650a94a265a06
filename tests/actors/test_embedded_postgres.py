"""The embedded PostgreSQL starts anywhere, keeps its data, and never outlives its owner."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from actors.adapters.postgres import binaries as finding
from actors.adapters.postgres import embedded
from actors.adapters.postgres.binaries import Account, PostgresUnavailable, find_binaries
from actors.adapters.postgres.embedded import EmbeddedPostgres

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("embedded_postgres")]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
async def postgres(tmp_path: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with EmbeddedPostgres(tmp_path / "private" / "postgres") as running:
        yield running


async def fetch(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=30)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


async def test_data_survives_a_restart_and_the_secrets_stay(tmp_path: Path):
    parent = tmp_path / "private"
    parent.mkdir(mode=0o700)
    folder = parent / "postgres"
    async with EmbeddedPostgres(folder) as first:
        assert await first.start() == first.url, "a repeat changes nothing"
        await fetch(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = first.pid
        assert pid is not None
    assert not alive(pid)
    assert first.pid is None
    async with EmbeddedPostgres(folder) as second:
        assert await fetch(second.url, "SELECT answer FROM kept") == 42
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (parent, *folder.iterdir())}
    assert modes[parent] == 0o700, "nobody's folder was opened"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {modes[folder / f"{name}.secret"] for name in ("admin", "app")} == {0o600}
    assert not (folder / "initdb.secret").exists()


async def test_the_application_is_no_superuser_and_writes_are_durable(postgres: EmbeddedPostgres):
    is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    assert await fetch(postgres.url, is_superuser) is False
    assert await fetch(postgres.admin_url, is_superuser) is True
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert await fetch(postgres.url, f"SHOW {setting}") == "on"


async def test_nobody_comes_in_without_the_password(postgres: EmbeddedPostgres):
    address = postgres.url.rsplit("@", 1)[1]
    for guess in ("syncline@", "syncline:wrong@", "postgres@", "postgres:@"):
        with pytest.raises(
            (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InterfaceError)
        ):
            await fetch(f"postgresql://{guess}{address}", "SELECT 1")
    port = int(address.split(":")[1].split("/")[0])
    with socket.socket() as outside:  # another loopback address stands for any other interface
        outside.settimeout(5)
        assert outside.connect_ex(("127.0.0.2", port)) != 0


async def test_it_does_without_shared_memory_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(embedded, "_anyone_may_write", lambda folder: False)
    async with EmbeddedPostgres(tmp_path / "postgres") as postgres:
        assert await fetch(postgres.url, "SHOW dynamic_shared_memory_type") == "mmap"


async def test_a_folder_has_one_owner(postgres: EmbeddedPostgres, tmp_path: Path):
    with pytest.raises(PostgresUnavailable, match="in use by another"):
        await EmbeddedPostgres(tmp_path / "private" / "postgres").start()
    assert await fetch(postgres.url, "SELECT 1") == 1


@pytest.mark.kills
async def test_a_crashed_server_comes_back_on_the_same_port_with_its_data(
    postgres: EmbeddedPostgres,
):
    await fetch(postgres.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    url, pid = postgres.url, postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: postgres.pid not in (None, pid))
    for _ in range(200):
        try:
            assert await fetch(url, "SELECT answer FROM kept") == 42
            break
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.05)
    else:
        pytest.fail("it never answered again")


OWNER = """
import asyncio, sys
from pathlib import Path
from actors.adapters.postgres.embedded import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]))
    await postgres.start()
    print("up", postgres.pid, postgres.url, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def start_owner(folder: Path) -> tuple[subprocess.Popen[bytes], int, str]:
    """A process of its own that owns a server; answers the process, the server's pid and URL."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, folder], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    for line in owner.stdout:  # log lines may come first
        if line.startswith(b"up "):
            _, pid, url = line.decode().split()
            return owner, int(pid), url
    raise AssertionError("the owner ended without a server")


@pytest.mark.kills
async def test_no_server_outlives_a_killed_owner(tmp_path: Path):
    owner, pid, url = await asyncio.to_thread(start_owner, tmp_path / "postgres")
    with owner:
        await fetch(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        owner.kill()
    await until(lambda: not alive(pid))
    async with EmbeddedPostgres(tmp_path / "postgres") as heir:
        assert await fetch(heir.url, "SELECT answer FROM kept") == 42


@pytest.mark.kills
async def test_an_heir_does_not_wait_for_the_guard(tmp_path: Path):
    """Owner and guard killed together leave an orphan; the next owner ends it and takes over."""
    owner, pid, url = await asyncio.to_thread(start_owner, tmp_path / "postgres")
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    with owner:
        for child in map(int, children):
            if child != pid:
                os.kill(child, signal.SIGKILL)
        owner.kill()
    await fetch(url, "CREATE TABLE kept AS SELECT 42 AS answer")  # it still runs
    async with EmbeddedPostgres(tmp_path / "postgres") as heir:
        assert not alive(pid)
        assert await fetch(heir.url, "SELECT answer FROM kept") == 42


async def test_a_stale_pid_that_now_belongs_to_another_process_is_forgotten(tmp_path: Path):
    folder = tmp_path / "postgres"
    async with EmbeddedPostgres(folder):
        note = (folder / "cluster" / "postmaster.pid").read_text()
    other = note.split("\n", 1)[1]
    (folder / "cluster" / "postmaster.pid").write_text(f"{os.getppid()}\n{other}")
    async with EmbeddedPostgres(folder) as again:
        assert await fetch(again.url, "SELECT 1") == 1


async def test_an_unfinished_first_start_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "postgres"
    (folder / "cluster.new").mkdir(parents=True)
    (folder / "cluster.new" / "PG_VERSION").write_text("18\n")  # a crash in the middle of initdb
    async with EmbeddedPostgres(folder) as postgres:
        assert await fetch(postgres.url, "SELECT 1") == 1
    assert not (folder / "cluster.new").exists()


async def test_lost_secrets(tmp_path: Path):
    folder = tmp_path / "postgres"
    async with EmbeddedPostgres(folder) as first:
        before = first.url
    (folder / "app.secret").unlink()
    async with EmbeddedPostgres(folder) as second:
        assert await fetch(second.url, "SELECT 1") == 1, "the application gets a new one"
        assert second.url.split("@")[0] != before.split("@")[0]
    secret = (folder / "admin.secret").read_text()
    (folder / "admin.secret").write_text("wrong")
    with pytest.raises(PostgresUnavailable, match="do not open the data"):
        await EmbeddedPostgres(folder).start()
    (folder / "admin.secret").unlink()
    with pytest.raises(PostgresUnavailable, match="put it back"):
        await EmbeddedPostgres(folder).start()
    (folder / "admin.secret").write_text(secret)
    async with EmbeddedPostgres(folder) as third:
        assert await fetch(third.url, "SELECT 1") == 1


async def test_a_wanted_port_is_kept_to(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PostgresUnavailable, match="could not bind"):
            await EmbeddedPostgres(tmp_path / "postgres", port=port).start()
    async with EmbeddedPostgres(tmp_path / "postgres", port=port) as postgres:
        assert f":{port}/" in postgres.url


async def test_a_broken_cluster_is_an_error_with_the_log(tmp_path: Path):
    folder = tmp_path / "postgres"
    async with EmbeddedPostgres(folder):
        pass
    (folder / "cluster" / "global" / "pg_control").unlink()
    with pytest.raises(PostgresUnavailable, match=r"did not start(.|\n)*pg_control"):
        await EmbeddedPostgres(folder).start()


def test_binaries_fit_the_data():
    newest = find_binaries()[0]
    assert newest.major >= finding.MAJOR_MIN
    assert find_binaries(newest.major)[0] == newest
    with pytest.raises(
        PostgresUnavailable, match=r"PostgreSQL 9 is needed.*syncline\[standalone\]"
    ):
        find_binaries(9)


def fake_binaries(folder: Path, said: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (folder / name).write_text(f"#!/bin/sh\n{said}\n")
        (folder / name).chmod(0o755)
    return folder


def test_broken_and_foreign_binaries_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folders = [
        tmp_path / "missing",
        fake_binaries(tmp_path / "crashes", "exit 1"),
        fake_binaries(tmp_path / "old", "echo 'postgres (PostgreSQL) 9.6'"),
        fake_binaries(tmp_path / "good", "echo 'postgres (PostgreSQL) 16.1'"),
        fake_binaries(tmp_path / "newer", "echo 'postgres (PostgreSQL) 17.2 (Debian)'"),
    ]
    broken = fake_binaries(tmp_path / "foreign", "")
    (broken / "postgres").write_bytes(b"\x7fELF of another machine")
    monkeypatch.setattr(finding, "_folders", lambda: iter([*folders, broken]))
    assert [one.major for one in find_binaries()] == [17, 16]
    assert [one.major for one in find_binaries(9)] == [9]


@root_only
def test_root_without_namespaces_needs_somebody_who_can_enter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finding, "_namespaces_work", lambda: False)
    monkeypatch.setattr(finding, "_ENTER_ANYWHERE", ())
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(PostgresUnavailable, match="can enter both"):
        finding.choose(closed / "postgres" / "cluster", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(PostgresUnavailable, match="setpriv"):
        finding.choose_account(closed / "postgres" / "cluster", Path("/usr/bin"))


@root_only
@pytest.mark.parametrize("parent_mode", [0o755, 0o700])
async def test_root_without_namespaces_runs_it_as_nobody(
    monkeypatch: pytest.MonkeyPatch, parent_mode: int
):
    """Including data that an earlier start made in a namespace, and back again."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(parent_mode)
        folder = Path(name, "postgres")
        async with EmbeddedPostgres(folder) as first:
            await fetch(first.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        monkeypatch.setattr(finding, "_namespaces_work", lambda: False)
        assert finding.choose(folder / "cluster", 18)[1].uid not in (None, 0)
        async with EmbeddedPostgres(folder) as second:
            assert await fetch(second.url, "SELECT answer FROM kept") == 42
        monkeypatch.undo()
        async with EmbeddedPostgres(folder) as third:  # the data stays whose it is now
            assert await fetch(third.url, "SELECT answer FROM kept") == 42
        assert stat.S_IMODE(Path(name).stat().st_mode) == parent_mode


@root_only
async def test_nobody_makes_it_below_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finding, "_namespaces_work", lambda: False)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    async with EmbeddedPostgres(private / "postgres") as postgres:
        assert await fetch(postgres.url, "SELECT 1") == 1
    assert private.stat().st_uid == 0
    assert (private / "postgres" / "cluster").stat().st_uid != 0


def test_a_normal_user_runs_it_as_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert finding.choose_account(tmp_path / "cluster", tmp_path) == Account()
