"""The real services of the tests: found where they answer, else started privately, never skipped.

In this order for each of PostgreSQL, Redis and RabbitMQ: the URL in the environment; the standard
port with the service's default user; a private instance from installed binaries (PostgreSQL: the
wheel's, under our own supervisor); as root on Debian the same after `apt-get install`. A private
instance belongs to one keeper process that stops it as soon as its owner is gone, however the
owner ended.

    python -m tests.services run -- COMMAND   all three in its environment, stopped afterwards
    python -m tests.services up               starts what is missing, prints `export …` lines
    python -m tests.services down             stops what `up` started
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parent.parent
UP_FOLDER = ROOT / ".cache" / "services"
START_SECONDS_MAX = 120.0  # RabbitMQ's first start takes 13 s on a quiet machine
PROBE_SECONDS_MAX = 5.0


class ServiceMissing(RuntimeError):
    """A service neither answers nor can be started here; the text says what to do."""


class NotInstalled(ServiceMissing):
    """No usable binaries are here; installing a package may help."""


@dataclass(frozen=True)
class Kind:
    """One service: the variable that names it, its usual places, what to install for it."""

    name: str
    variable: str
    defaults: tuple[str, ...]
    packages: tuple[str, ...]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "postgres",
            "SYNCLINE_DATABASE_URL",
            (
                "postgresql://postgres@127.0.0.1:5432/postgres",
                "postgresql://postgres:postgres@127.0.0.1:5432/postgres",
            ),
            ("postgresql",),
        ),
        Kind("redis", "SYNCLINE_REDIS_URL", ("redis://127.0.0.1:6379/0",), ("redis-server",)),
        Kind(
            "rabbit",
            "SYNCLINE_AMQP_URL",
            ("amqp://guest:guest@127.0.0.1:5672/",),
            ("rabbitmq-server",),
        ),
    )
}


# --- does it answer? ---


async def _probe_postgres(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url, timeout=PROBE_SECONDS_MAX)
    try:
        may = await connection.fetchval(
            "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
        )
        if not may:
            raise ServiceMissing(f"the user of {url} may not create databases")
    finally:
        await connection.close()


async def _probe_redis(url: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        await client.ping()


async def _probe_rabbit(url: str) -> None:
    import aiormq

    connection = await aiormq.connect(url)
    await connection.close()


PROBES = {"postgres": _probe_postgres, "redis": _probe_redis, "rabbit": _probe_rabbit}


def trouble(kind: Kind, url: str) -> Exception | None:
    """Why the service does not answer on `url`, or None when it does."""

    async def probe() -> None:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            await PROBES[kind.name](url)

    try:
        asyncio.run(probe())
    except Exception as error:  # noqa: BLE001 - any reason not to answer is a reason
        return error
    return None


# --- private instances: this part runs in the keeper process ---


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find_binary(*candidates: str) -> str | None:
    """The first candidate (a name on PATH or a full path) that can be executed."""
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _die_with_parent(signal_number: int = signal.SIGTERM):
    """For a child: be told to end when the keeper is killed (Linux only)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def before_exec() -> None:
        libc.prctl(1, signal_number)  # PR_SET_PDEATHSIG

    return before_exec if sys.platform == "linux" else None


@contextlib.contextmanager
def _child(
    folder: Path, name: str, command: list[str], env: dict[str, str] | None = None
) -> Iterator:
    """A daemon in a session of its own, its output in a file, ended politely and then surely."""
    with (folder / f"{name}.out").open("ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
            start_new_session=True,
            preexec_fn=_die_with_parent(),
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_answers(kind: Kind, url: str, process: subprocess.Popen, out: Path) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while (error := trouble(kind, url)) is not None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceMissing(f"{kind.name} did not start: {error!r}\n{out.read_text()[-2000:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def private_redis(folder: Path) -> Iterator[str]:
    """A Redis that keeps nothing on disk."""
    binary = find_binary("redis-server", "valkey-server")
    if binary is None:
        raise NotInstalled("no redis-server is installed")
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    command = [
        binary,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    with _child(folder, "redis", [*command, "--dir", str(folder)]) as process:
        _wait_until_it_answers(KINDS["redis"], url, process, folder / "redis.out")
        yield url


@contextlib.contextmanager
def private_rabbit(folder: Path) -> Iterator[str]:
    """A RabbitMQ node beside any other: own name, ports, cookie, port mapper and folders."""
    server = find_binary(
        "/usr/lib/rabbitmq/bin/rabbitmq-server",  # not the wrapper on PATH, which changes the user
        "/opt/homebrew/sbin/rabbitmq-server",
    )
    epmd = find_binary("epmd", "/usr/lib/erlang/bin/epmd")
    if server is None or epmd is None:
        raise NotInstalled("no rabbitmq-server is installed")
    port, dist_port, epmd_port = free_port(), free_port(), free_port()
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nvm_memory_high_watermark.absolute = 1GB\n"
        "disk_free_limit.absolute = 50MB\n"
    )
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")},
        "HOME": str(folder),  # the Erlang cookie is made here
        "RABBITMQ_NODENAME": f"syncline{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist_port),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
    }
    url = f"amqp://guest:guest@127.0.0.1:{port}/"
    mapper = [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"]
    with (
        _child(folder, "epmd", mapper, env),
        _child(folder, "rabbit", [server], env) as process,
    ):
        _wait_until_it_answers(KINDS["rabbit"], url, process, folder / "rabbit.out")
        yield url


@contextlib.contextmanager
def private_postgres(folder: Path) -> Iterator[str]:
    """The embedded PostgreSQL of the product itself."""
    from actors.adapters.postgres.embedded import EmbeddedPostgres, PostgresUnavailable

    with asyncio.Runner() as runner:
        postgres = EmbeddedPostgres(folder / "postgres")
        try:
            runner.run(postgres.start())
        except PostgresUnavailable as error:
            raise NotInstalled(str(error)) from error
        try:
            yield postgres.admin_url  # the tests make databases and roles
        finally:
            runner.run(postgres.stop())


PRIVATE = {"postgres": private_postgres, "redis": private_redis, "rabbit": private_rabbit}


def _install(kind: Kind) -> None:
    """Installs the service's Debian package without starting it; only root on Debian can."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise ServiceMissing(
            f"{kind.name} does not answer and is not installed: set {kind.variable}, or install "
            f"{' '.join(kind.packages)} (Debian: apt-get install {' '.join(kind.packages)})"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # 1: start no daemon
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    print(f"services: apt-get install {' '.join(kind.packages)}", file=sys.stderr, flush=True)
    with Path(tempfile.gettempdir(), "syncline-apt.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # `update` does not wait for another one
        for command in (
            [apt, *wait, "-qq", "update"],
            [apt, *wait, "-qq", "install", "--yes", "--no-install-recommends", *kind.packages],
        ):
            done = subprocess.run(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise ServiceMissing(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def keep(name: str) -> int:
    """Body of the keeper: starts the instance, prints its URL, stops it when its owner ends."""
    kind = KINDS[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not the answer
    with tempfile.TemporaryDirectory(
        prefix=f"syncline-{name}-", ignore_cleanup_errors=True
    ) as folder:
        try:
            return _serve(name, Path(folder), answer)
        except NotInstalled as error:
            print(f"services: {error}", file=sys.stderr, flush=True)
            _install(kind)
            return _serve(name, Path(folder), answer)


def _serve(name: str, folder: Path, answer: TextIO) -> int:
    with PRIVATE[name](folder) as url:
        print(url, file=answer, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            sys.stdin.buffer.read()  # ends when the owner closes it, or dies
    return 0


# --- finding and owning ---


@dataclass
class Services:
    """Finds or starts services on demand; `close` stops those it started. Use one per process."""

    found: dict[str, str] = field(default_factory=dict)
    keepers: list[subprocess.Popen] = field(default_factory=list)

    def url(self, name: str) -> str:
        """The URL on which the service answers, started if need be. Raises ServiceMissing."""
        if name not in self.found:
            self.found[name] = self._find(KINDS[name]) or self._start(KINDS[name])
        return self.found[name]

    def environment(self) -> dict[str, str]:
        """The URLs of all three, under the names that the server reads."""
        return {kind.variable: self.url(kind.name) for kind in KINDS.values()}

    def _find(self, kind: Kind) -> str | None:
        named = os.environ.get(kind.variable)
        if named:
            if (error := trouble(kind, named)) is not None:
                raise ServiceMissing(
                    f"{kind.variable} is set, but {kind.name} does not answer: {error!r}"
                )
            return named
        return next((url for url in kind.defaults if trouble(kind, url) is None), None)

    def _start(self, kind: Kind, *, owned: bool = True) -> str:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.services", "keep", kind.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        assert keeper.stdout is not None
        url = keeper.stdout.readline().decode().strip()
        if not url:
            keeper.wait()
            raise ServiceMissing(f"{kind.name} is not there and could not be started; see above")
        self.keepers.append(keeper)
        return url

    def close(self) -> None:
        """Stops what was started here, all at once."""
        for keeper in self.keepers:
            assert keeper.stdin is not None
            keeper.stdin.close()
        for keeper in self.keepers:
            keeper.wait(60)
            assert keeper.stdout is not None
            keeper.stdout.close()
        self.keepers.clear()
        self.found.clear()


# --- commands ---


def run(command: list[str]) -> int:
    """Runs a command with the services in its environment; its exit code is ours."""
    services = Services()
    try:
        environment = services.environment()
        private = len(services.keepers)
        print(
            f"services: {3 - private} found, {private} started privately",
            file=sys.stderr,
            flush=True,
        )
        process = subprocess.Popen(command, env={**os.environ, **environment})
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue  # the command got it too, and ends in its own way
    finally:
        services.close()


def up() -> int:
    """Leaves one holder behind that owns what had to be started; prints the export lines."""
    down()
    UP_FOLDER.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.services", "hold"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        start_new_session=True,
        text=True,
    )
    assert holder.stdout is not None
    lines = holder.stdout.read()  # the holder closes its output when everything answers
    if not lines:
        return holder.wait() or 1
    (UP_FOLDER / "holder.pid").write_text(str(holder.pid))
    print(lines, end="")
    return 0


def hold() -> int:
    """Body of the process behind `up`: owns private instances until it is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    services = Services()
    try:
        for variable, url in services.environment().items():
            print(f"export {variable}='{url}'", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if services.keepers:
            signal.pause()
    finally:
        services.close()
    return 0


def down() -> int:
    """Ends the holder of an earlier `up`, and with it whatever it started."""
    note = UP_FOLDER / "holder.pid"
    if note.exists():
        pid = int(note.read_text())
        command = Path(f"/proc/{pid}/cmdline")
        if not command.parent.parent.exists() or (
            command.exists() and b"tests.services" in command.read_bytes()
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        note.unlink()
    return 0


def main(arguments: list[str]) -> int:
    """The three commands of the module docstring; `keep` and `hold` are theirs."""
    logging.getLogger("aiormq").propagate = False  # it shouts while a broker is still starting
    logging.getLogger("aiormq").addHandler(logging.NullHandler())
    try:
        match arguments:
            case ["run", "--", *command] if command:
                return run(command)
            case ["up"]:
                return up()
            case ["down"]:
                return down()
            case ["hold"]:
                return hold()
            case ["keep", name] if name in KINDS:
                return keep(name)
    except ServiceMissing as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
