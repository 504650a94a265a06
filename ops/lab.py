"""A laboratory: real servers and devices as processes, for demo, benchmarks and tests.

Everything goes through the two commands that users have, `syncline` and `syncline-server`;
only the names of the queues to sweep up are taken from inside. A `Lab` owns a folder and stops
all that it started.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import aio_pika

from actors.roster import ROSTER

PASSWORD = "correct horse battery staple"
START_S = 60.0


class LabError(Exception):
    """A process did not do what it should; the message carries what it printed."""


def command(name: str) -> list[str]:
    """Return the argument list of one of our scripts, in the environment that runs this."""
    module = {"syncline": "client_agent.cli", "syncline-server": "apps.cli"}[name]
    return [sys.executable, "-c", f"from {module} import main; main()"]


def _die_with_parent() -> None:
    """Leave no server behind when the laboratory itself is killed (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Process:
    """A server process: its log in a file, its stdout read for a line that says it is ready."""

    def __init__(
        self, name: str, arguments: list[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it; `wait_for` tells when it serves."""
        self.name, self.log = name, log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("ab")
        self._lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [*command("syncline-server"), *arguments],
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for raw in self.process.stdout:
            with self._news:
                self._lines.append(raw.decode(errors="replace").strip())
                self._news.notify_all()
        with self._news:
            self._lines.append("")
            self._news.notify_all()

    def wait_for(self, prefix: str, timeout_s: float = START_S) -> str:
        """Return the rest of the first stdout line that starts with `prefix`."""

        def line() -> str | None:
            return next((text for text in self._lines if text.startswith(prefix)), None)

        with self._news:
            self._news.wait_for(
                lambda: line() is not None or self.process.poll() is not None, timeout_s
            )
            found = line()
        if found is None:
            raise LabError(f"{self.name} did not say {prefix!r}; its log ends:\n{tail(self.log)}")
        return found[len(prefix) :].strip()

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 20) -> int:
        """Send a signal, wait, return the exit code; SIGKILL what does not end."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise LabError(f"{self.name} did not stop on {how.name}:\n{tail(self.log)}") from None
        finally:
            self._log.close()
        return code


def tail(path: Path, lines: int = 25) -> str:
    """Return the end of a text file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Standalone:
    """`syncline-server standalone` on a folder."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Start it and wait until it serves."""
        self.folder, self.port = folder, port or free_port()
        self.process = self._start()

    def _start(self) -> Process:
        process = Process(
            "standalone",
            ["standalone", "--data-dir", str(self.folder), "--port", str(self.port)],
            self.folder.parent / "server.log",
            {},
        )
        self.url = process.wait_for("ready ")
        return process

    @property
    def urls(self) -> list[str]:
        """The one address, for every device."""
        return [self.url]

    def restart(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it in the given way, and start it again on the same folder and port."""
        self.process.stop(how)
        self.process = self._start()

    def stop(self) -> None:
        """Stop it."""
        self.process.stop()


class Scaled:
    """Two gateways, two workers with half the partitions each, and a relay, on given services."""

    def __init__(
        self, folder: Path, database_url: str, amqp_url: str, redis_url: str, partitions: int = 8
    ) -> None:
        """Migrate, start everything and wait until both gateways serve.

        Few partitions: a broker on its default limit of 1024 open files holds about 500 queues.
        """
        self.folder = folder
        half = partitions // 2
        self.environment = {
            "SYNCLINE_DATABASE_URL": database_url,
            "SYNCLINE_AMQP_URL": amqp_url,
            "SYNCLINE_REDIS_URL": redis_url,
            "SYNCLINE_STORAGE_DIR": str(folder / "storage"),
            "SYNCLINE_NAMESPACE": f"lab{secrets.token_hex(4)}",
            "SYNCLINE_JWT_KEYS": secrets.token_hex(32),
            "SYNCLINE_PARTITIONS": str(partitions),
        }
        applied = subprocess.run(
            [*command("syncline-server"), "migrate", "apply"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if applied.returncode:
            raise LabError(f"migrate apply failed:\n{applied.stdout}{applied.stderr}")
        self.gateways = [self.gateway(), self.gateway()]
        self.workers = [
            self.worker(f"0-{half - 1}"),
            self.worker(f"{half}-{partitions - 1}"),
        ]
        self.relay = Process("relay", ["relay"], folder / "relay.log", self.environment)
        try:
            self.urls = [gateway.wait_for("ready ") for gateway in self.gateways]
            for process in (*self.workers, self.relay):
                process.wait_for("ready")
        except LabError:
            self.stop()
            raise

    def gateway(self) -> Process:
        """Start one more gateway."""
        port = free_port()
        return Process(
            "gateway",
            ["gateway"],
            self.folder / f"gateway-{port}.log",
            {**self.environment, "SYNCLINE_LISTEN": f"127.0.0.1:{port}"},
        )

    def worker(self, partitions: str) -> Process:
        """Start one more worker for a range of partitions."""
        pool = "user-sync,upload-session,conflict-arbiter"
        return Process(
            f"worker {partitions}",
            ["worker", "--pool", pool, "--partitions", partitions],
            self.folder / f"worker-{partitions}-{secrets.token_hex(2)}.log",
            self.environment,
        )

    def stop(self) -> None:
        """Stop all of it."""
        with contextlib.ExitStack() as all_of_them:
            all_of_them.callback(asyncio.run, self._forget_queues())
            for process in (*self.gateways, *self.workers, self.relay):
                all_of_them.callback(process.stop)

    async def _forget_queues(self) -> None:
        """Delete what this installation declared; queues outlive their processes by design."""
        namespace = self.environment["SYNCLINE_NAMESPACE"]
        tails = [*map(str, range(int(self.environment["SYNCLINE_PARTITIONS"]))), "dead"]
        connection = await aio_pika.connect(self.environment["SYNCLINE_AMQP_URL"])
        async with connection, connection.channel() as channel:
            for actor in ROSTER:
                for tail_ in tails:
                    await channel.queue_delete(f"{namespace}.{actor.kind}.{tail_}")
                await channel.exchange_delete(f"{namespace}.{actor.kind}")
            await channel.exchange_delete(f"{namespace}.dead")


Server = Standalone | Scaled


class Device:
    """One device: a home for its state, a folder to sync, and the `syncline` command."""

    def __init__(self, name: str, folder: Path, server: str, username: str) -> None:
        """Only remember; `register` or `login` makes it real."""
        self.name, self.server, self.username = name, server, username
        self.home, self.root = folder / f".home-{name}", folder / name
        self.home.mkdir(parents=True, exist_ok=True)

    def run(self, *arguments: str, password: bool = False, timeout_s: float = 300) -> Any:
        """Run `syncline … --json`; return its data. Raises LabError if the exit is not 0 or 6."""
        done = self.call(*arguments, "--json", password=password, timeout_s=timeout_s)
        answer = json.loads(done.stdout) if done.stdout.strip() else {"ok": True, "data": None}
        if done.returncode not in (0, 6) or not answer["ok"]:
            raise LabError(
                f"{self.name}: syncline {' '.join(arguments)} -> {done.returncode}\n"
                f"{done.stdout}{done.stderr}\n{self.log_tail()}"
            )
        return answer["data"]

    def call(
        self, *arguments: str, password: bool = False, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `syncline` with these arguments, whatever comes of it."""
        return subprocess.run(
            [*command("syncline"), *arguments, *(["--password-stdin"] if password else [])],
            env=self.environment,
            input=PASSWORD + "\n" if password else "",
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    @property
    def environment(self) -> dict[str, str]:
        """What its processes run with."""
        return {**os.environ, "SYNCLINE_HOME": str(self.home), "SYNCLINE_KEYSTORE": "file"}

    def register(self) -> None:
        """Make the account with this as its first device."""
        email = f"{self.username}@example.org"
        self.run(
            *("register", "--server", self.server, "--username", self.username),
            *("--email", email, "--device", self.name),
            *("--recovery-file", str(self.home / "recovery.txt")),
            password=True,
        )

    def login(self) -> None:
        """Sign in to the account as one more device."""
        self.run(
            *("login", "--server", self.server, "--username", self.username),
            *("--device", self.name),
            password=True,
        )

    def link(self) -> None:
        """Link the folder."""
        self.run("link", str(self.root))

    def start(self) -> None:
        """Start the agent in the background."""
        self.run("start")

    def stop(self) -> None:
        """Stop the agent; it need not run."""
        self.call("stop")

    def kill(self) -> None:
        """SIGKILL the agent."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), 10, f"agent of {self.name} to die")

    @property
    def pid(self) -> int:
        """Process id of the agent."""
        return int(self.status()["pid"])

    def wait(self, timeout_s: float = 120) -> None:
        """Return when everything is in sync here and accepted by the server."""
        self.run("wait", "--timeout", str(timeout_s), timeout_s=timeout_s + 30)

    def status(self) -> Any:
        """Return the data of `status`."""
        return self.run("status")

    def log_tail(self) -> str:
        """Return the end of the agent's log."""
        logs = sorted(self.home.rglob("agent.log"))
        return tail(logs[0]) if logs else "(the agent has no log)"


def alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(met: Callable[[], bool], timeout_s: float, what: str, step_s: float = 0.02) -> float:
    """Poll until `met`; return the seconds it took. Raises LabError."""
    begun = time.monotonic()
    while not met():
        if time.monotonic() - begun > timeout_s:
            raise LabError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(step_s)
    return time.monotonic() - begun


Snapshot = dict[str, tuple[str, bool, str]]


def snapshot(root: Path) -> Snapshot:
    """Return path -> (type, executable, SHA-256 or link target) of all below, `.syncline` apart."""
    seen: Snapshot = {}
    for folder, names, files in os.walk(root):
        here = Path(folder)
        if here == root and ".syncline" in names:
            names.remove(".syncline")
        for name in (*names, *files):
            path = here / name
            seen[path.relative_to(root).as_posix()] = _described(path)
    return seen


def _described(path: Path) -> tuple[str, bool, str]:
    if path.is_symlink():
        return "symlink", False, str(path.readlink())
    if path.is_dir():
        return "directory", False, ""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return "file", bool(path.stat().st_mode & 0o100), digest


def difference(ours: Snapshot, theirs: Snapshot, most: int = 12) -> str:
    """Return "" if equal, else what differs, for people."""
    lines = [
        f"{path}: {ours.get(path)} != {theirs.get(path)}"
        for path in sorted({*ours, *theirs})
        if ours.get(path) != theirs.get(path)
    ]
    more = [f"… and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)


class Lab:
    """A folder, a server, devices; a context manager that stops everything."""

    def __init__(self, folder: Path, server: Callable[[Path], Server]) -> None:
        """Start the server in `folder`."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.server = server(folder / "server")
        self.username = f"u{secrets.token_hex(4)}"
        self.devices: list[Device] = []

    def device(self, name: str) -> Device:
        """Make, sign in, link and start a device; the first one registers the account."""
        urls = self.server.urls
        device = Device(name, self.folder, urls[len(self.devices) % len(urls)], self.username)
        if self.devices:
            device.login()
        else:
            device.register()
        self.devices.append(device)
        device.link()
        device.start()
        return device

    def settle(self, timeout_s: float = 120) -> Snapshot:
        """Wait until all devices hold the same tree and say so; return it."""
        deadline = time.monotonic() + timeout_s
        while True:
            for device in self.devices:
                device.wait(max(deadline - time.monotonic(), 1))
            trees = [snapshot(device.root) for device in self.devices]
            differences = [difference(trees[0], tree) for tree in trees[1:]]
            if not any(differences):
                return trees[0]
            if time.monotonic() > deadline:
                logs = "\n".join(f"{d.name}:\n{d.log_tail()}" for d in self.devices)
                raise LabError("trees differ:\n" + "\n".join(differences) + "\n" + logs)
            time.sleep(0.1)

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop devices, then the server."""
        with contextlib.ExitStack() as everything:
            everything.callback(self.server.stop)
            for device in self.devices:
                everything.callback(device.stop)


def processes_below(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants (Linux)."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from processes_below(int(child))
