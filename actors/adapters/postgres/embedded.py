"""A PostgreSQL of our own for the standalone server: made, started, watched and stopped here.

One folder holds everything and is private to its owner (0700): `cluster/` (the data), two
secrets, the server's log inside the cluster. The server listens on the loopback only and every
connection needs a password (SCRAM), since other users of the machine can reach the loopback too.
It never outlives this process: a guard process holds the end of a pipe and shuts the server down
when the pipe breaks, even after SIGKILL. If the server crashes, it is started again on the same
port, so that connection pools find it.
"""

import asyncio
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import stat
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import asyncpg
import structlog

from actors.adapters.postgres.binaries import (
    Account,
    Binaries,
    PostgresUnavailable,
    choose,
)
from actors.adapters.postgres.folder import lock, sync_folder, write_private
from protocol.backoff import Backoff

__all__ = ["EmbeddedPostgres", "PostgresUnavailable"]

DATABASE = "syncline"
USER = "syncline"  # owns the database, is no superuser
ADMIN = "postgres"
START_SECONDS_MAX = 120.0  # crash recovery replays at most max_wal_size
STOP_SECONDS_MAX = 30.0
PORT_TRIES_MAX = 5  # a free port can be taken between finding it and listening on it
RESTART = Backoff(base_ms=200, cap_ms=5_000)

# A small server beside one application: durable as PostgreSQL is by default, sparing with memory
# and processes.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "cluster_name": "syncline",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "min_wal_size": "64MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "on",
    "log_directory": "log",
    "log_filename": "postgresql-%a.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_file_mode": "0600",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
}
SETTINGS_SINCE_18 = {"io_method": "sync"}  # three worker processes less

# Waits for the end of its input (our life), then for a fast shutdown, then insists.
GUARD = """
read -r _
kill -INT "$1" 2>/dev/null || exit 0
i=0
while kill -0 "$1" 2>/dev/null; do
    i=$((i + 1))
    if [ "$i" -ge 300 ]; then kill -QUIT "$1"; exit 1; fi
    sleep 0.1
done
"""

log = structlog.get_logger(__name__)


class EmbeddedPostgres:
    """One PostgreSQL below `folder`, made at the first start; data survives, one owner at a time.

    Use `start` and `stop`, or `async with`. All methods belong to one event loop. Between the
    two, `url` and `admin_url` answer even while a crashed server is being started again
    (connections then fail for a moment).
    """

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        """`folder` is made if missing (0700); `port` None means any free one at each start."""
        self._folder = folder.absolute()
        self._cluster = self._folder / "cluster"
        self._wanted_port = port
        self._port = 0
        self._secrets: dict[str, str] = {}
        self._binaries: Binaries
        self._account: Account
        self._process: asyncio.subprocess.Process | None = None
        self._guard: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """For the application, with the password: owner of its database, no superuser."""
        return self._url(USER, DATABASE)

    @property
    def admin_url(self) -> str:
        """For maintenance, with the password: the superuser."""
        return self._url(ADMIN, "postgres")

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> str:
        """Answer the application's URL once the server accepts connections; safe to repeat.

        Raises PostgresUnavailable when there are no fitting binaries, no way to run them, another
        owner of the folder, or a server that does not come up (with the end of its log).
        """
        if self._watcher is not None:
            return self.url
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = lock(self._folder / "lock")
        try:
            self._binaries, self._account = await asyncio.to_thread(
                choose, self._cluster, _major_of(self._cluster)
            )
            self._give_to_account(self._folder)
            await self._retire_orphan()
            fresh = not self._cluster.exists()
            if fresh:
                await self._initialise()
            await self._bring_up()
            await self._prepare_database()
        except BaseException:
            await self._end()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="embedded-postgres")
        log.info("postgres_ready", port=self._port, major=self._binaries.major, made=fresh)
        return self.url

    async def stop(self) -> None:
        """Shut down cleanly (open transactions roll back), let the folder go; safe to repeat."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None
        await self._end()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    # --- making ---

    async def _initialise(self) -> None:
        """Makes the cluster beside its place and moves it there when it is whole, so that a crash
        leaves none.
        """
        unfinished = self._folder / "cluster.new"
        password_file = self._folder / "initdb.secret"
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        password_file.unlink(missing_ok=True)
        write_private(password_file, self._secret("admin"))
        self._give_to_account(password_file)
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C")
        command = [
            *self._account.prefix,
            str(self._binaries.folder / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={ADMIN}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--data-checksums",
            *(locale if self._binaries.major >= 17 else ("--locale=C",)),
        ]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
            said, _ = await process.communicate()
        finally:
            password_file.unlink(missing_ok=True)
        if process.returncode != 0:
            raise PostgresUnavailable(f"initdb failed:\n{said.decode(errors='replace')[-2000:]}")
        unfinished.rename(self._cluster)
        sync_folder(self._folder)

    def _give_to_account(self, path: Path) -> None:
        """Makes the account PostgreSQL runs as the owner of everything below, if it is not us."""
        uid, gid = self._account.uid, self._account.gid
        if uid is None or gid is None or path.stat().st_uid == uid:
            return
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), uid, gid, follow_symlinks=False)
        os.chown(path, uid, gid)  # last: its owner says that the rest is done

    async def _prepare_database(self) -> None:
        """Makes the application's role and database where they are missing; sets the password it
        knows.
        """
        password = self._secret("app")
        connection = await asyncpg.connect(self.admin_url)
        try:
            exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", USER)
            verb = "ALTER" if exists else "CREATE"
            await connection.execute(f"{verb} ROLE {USER} LOGIN CREATEROLE PASSWORD '{password}'")
            database = "SELECT 1 FROM pg_database WHERE datname = $1"
            if not await connection.fetchval(database, DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
                await connection.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        finally:
            await connection.close()

    def _secret(self, name: str) -> str:
        """A random password kept beside the data, readable by the owner only; letters, digits, -
        and _.
        """
        if name not in self._secrets:
            path = self._folder / f"{name}.secret"
            if not path.exists():
                if name == "admin" and self._cluster.exists():
                    raise PostgresUnavailable(
                        f"{path} is gone, and without it the data in {self._cluster} cannot be "
                        "opened: put it back from a backup."
                    )
                write_private(path, secrets.token_urlsafe(32))
            self._secrets[name] = path.read_text()
        return self._secrets[name]

    def _url(self, user: str, database: str) -> str:
        password = self._secret("admin" if user == ADMIN else "app")
        return f"postgresql://{user}:{password}@127.0.0.1:{self._port}/{database}"

    # --- running ---

    async def _bring_up(self) -> None:
        """Starts the server on a port of its own and returns when it answers."""
        for tries_left in reversed(range(PORT_TRIES_MAX)):
            self._port = self._wanted_port or _free_port()
            try:
                await self._launch()
                return
            except PostgresUnavailable as error:
                taken = "could not bind" in str(error) and self._wanted_port is None
                if not (taken and tries_left):
                    raise

    async def _launch(self) -> None:
        """One attempt on `self._port`. Raises PostgresUnavailable with the end of the log when it
        fails.
        """
        memory = "posix" if _anyone_may_write(Path("/dev/shm")) else "mmap"
        settings = {**SETTINGS, "port": str(self._port), "dynamic_shared_memory_type": memory}
        if self._binaries.major >= 18:
            settings |= SETTINGS_SINCE_18
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        first_words = self._folder / "start.log"  # until the server's own log is open
        with first_words.open("wb") as out:
            first_words.chmod(0o600)
            self._process = await asyncio.create_subprocess_exec(
                *self._account.prefix,
                str(self._binaries.folder / "postgres"),
                "-D",
                str(self._cluster),
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C at our terminal is ours to handle
            )
        self._guard = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            GUARD,
            "syncline-postgres-guard",
            str(self._process.pid),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_SECONDS_MAX):
                await self._until_it_answers(self._process)
        except TimeoutError:
            await self._end_process()
            raise PostgresUnavailable(
                f"PostgreSQL did not answer within {START_SECONDS_MAX:.0f} s:\n{self._log_tail()}"
            ) from None

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        while True:
            if process.returncode is not None:
                await self._end_process()
                raise PostgresUnavailable(f"PostgreSQL did not start:\n{self._log_tail()}")
            try:
                connection = await asyncpg.connect(self.admin_url, timeout=2)
            except asyncpg.InvalidAuthorizationSpecificationError as error:
                await self._end_process()
                raise PostgresUnavailable(
                    f"the secrets in {self._folder} do not open the data beside them: {error}"
                ) from error
            except (OSError, TimeoutError, asyncpg.PostgresError):
                await asyncio.sleep(0.02)  # not listening yet, or still recovering
            else:
                await connection.close()
                return

    async def _watch(self) -> None:
        """Starts a crashed server again, for ever, in ever longer intervals while it does not
        come up.
        """
        attempt = 0
        while True:
            assert self._process is not None
            code = await self._process.wait()
            log.error("postgres_ended", code=code, port=self._port, log=self._log_tail())
            await self._end_process()
            await asyncio.sleep(RESTART.delay_ms(attempt, random.random()) / 1000)
            try:
                await self._retire_orphan()
                await self._launch()
            except (PostgresUnavailable, OSError) as error:
                attempt += 1
                log.error("postgres_restart_failed", attempt=attempt, error=str(error))
            else:
                attempt = 0
                log.warning("postgres_restarted", port=self._port)

    # --- ending ---

    async def _end(self) -> None:
        await self._end_process()
        if self._lock is not None:
            self._lock.close()  # and with it the lock
            self._lock = None

    async def _end_process(self) -> None:
        """Fast shutdown, then immediate, then SIGKILL; afterwards neither server nor guard is
        left.
        """
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if process is not None:
            for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                if process.returncode is not None:
                    break
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(how)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        if guard is not None and guard.stdin is not None:
            with contextlib.suppress(ProcessLookupError):
                guard.kill()  # before its pipe closes: the pid it knows may soon be somebody else's
            await guard.wait()
            guard.stdin.close()

    async def _retire_orphan(self) -> None:
        """Deals with what an earlier owner left: ends a server that still runs, forgets a dead one.

        PostgreSQL takes any living process with the pid in `postmaster.pid` for itself, and after a
        restart of the machine or container that number often belongs to something else. The note
        may only go once nobody works in the cluster any more: backends can outlive a killed
        postmaster.
        """
        note = self._cluster / "postmaster.pid"
        if not note.exists() or not Path("/proc/self").exists():
            return
        for how in (signal.SIGINT, signal.SIGQUIT):
            pid = _pid_in(note)
            if pid is not None and _works_in(pid, self._cluster):
                log.warning("postgres_orphan", pid=pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
            if await self._deserted():
                note.unlink(missing_ok=True)
                return
        raise PostgresUnavailable(f"an earlier PostgreSQL still runs on {self._cluster}")

    async def _deserted(self) -> bool:
        """Whether every process that works in the cluster is gone, within STOP_SECONDS_MAX."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + STOP_SECONDS_MAX
        while clock.time() < deadline:
            if not any(_works_in(int(p.name), self._cluster) for p in Path("/proc").glob("[0-9]*")):
                return True
            await asyncio.sleep(0.05)
        return False

    def _log_tail(self) -> str:
        logs = [self._folder / "start.log", *(self._cluster / "log").glob("*.log")]
        there = sorted((path for path in logs if path.exists()), key=lambda p: p.stat().st_mtime)
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in there[-2:])


def _major_of(cluster: Path) -> int | None:
    """The major version that made the data; None when there is none yet."""
    try:
        return int((cluster / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def _pid_in(note: Path) -> int | None:
    try:
        return int(note.read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _works_in(pid: int, folder: Path) -> bool:
    """Whether a live process has `folder` as its working folder, as every PostgreSQL has its
    data.
    """
    try:
        return Path(f"/proc/{pid}/cwd").samefile(folder)
    except OSError:
        return False


def _anyone_may_write(folder: Path) -> bool:
    """False in a bare container or chroot, where nothing is mounted there."""
    return folder.is_dir() and bool(folder.stat().st_mode & stat.S_IWOTH)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment() -> dict[str, str]:
    """Ours without what PostgreSQL would take as settings."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**ours, "LC_ALL": "C"}
