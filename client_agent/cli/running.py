"""Commands about the agent: run, start, stop, pause, resume, sync, wait, rescan."""

import asyncio
import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from client_agent.cli import control
from client_agent.cli.commands import command
from client_agent.cli.look import absolute
from client_agent.cli.output import PASSING, Answer, CliError, Exit, note
from client_agent.settings import Settings, load

START_S = 60.0


@command(
    "run",
    click.option("--ready-fd", type=int, hidden=True),
    click.option("--log-file", is_flag=True, help="Log to agent.log in the home."),
)
def run_command(ready_fd: int | None, log_file: bool) -> Answer:
    """Synchronise in the foreground, until Ctrl-C or `syncline stop`."""
    from client_agent import agent, logs
    from client_agent.adapters.state import StateBusy, StateTooNew
    from client_agent.cli.faults import explained

    settings = load()
    profile = _linked(settings)
    logs.set_up(settings, log_file)

    def ready() -> None:
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)
        else:
            note(f"Synchronising {profile.root}. Ctrl-C stops.")

    try:
        with explained(profile.server):
            asyncio.run(agent.serve(settings, ready))
    except StateBusy as error:
        raise CliError(
            "running", "Another agent has this folder or this home", str(error),
            "See: syncline status",
        ) from None
    except StateTooNew as error:
        raise CliError(
            "too_new", "A newer Syncline was used here", str(error),
            "Nothing was changed. Install the newer version again.", Exit.FATAL,
        ) from None
    return Answer({"state": "stopped"})


@command("start")
def start_command() -> Answer:
    """Synchronise in the background; returns when the agent answers."""
    settings = load()
    _linked(settings)
    if control.is_running(settings.socket):
        return Answer({"state": "running", "started": False}, "The agent is running already.")
    _spawn(settings)
    return Answer({"state": "running", "started": True}, "The agent is running.")


def _spawn(settings: Settings) -> None:
    ours, theirs = os.pipe()
    out = settings.home / "agent.out"
    with open(out, "wb") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "client_agent.cli", "run", "--log-file", "--ready-fd",
             str(theirs)],
            stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True,
            pass_fds=(theirs,), env=_environment(settings), cwd=settings.home,
        )
    os.close(theirs)
    said = _read_ready(ours)
    if said != b"ready\n":
        code = child.wait()
        detail = out.read_text(errors="replace").strip()
        raise CliError(
            "not_started", "The agent did not start", detail[-2000:],
            f"Its log is {settings.log}", code if code > 0 else Exit.FAILED,
        )
    child.returncode = 0  # it lives on without us; nobody waits for it


def _environment(settings: Settings) -> dict[str, str]:
    """Return the agent's environment: ours, and the folder this package was imported from."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "SYNCLINE_HOME": str(settings.home), "PYTHONPATH": os.pathsep.join(paths)
    }


def _read_ready(descriptor: int) -> bytes:
    """Return what the agent says when it is ready; less if it ended before."""
    import select

    said = b""
    with open(descriptor, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], START_S)[0]:
            part = pipe.read(16)
            if not part:
                break
            said += part
            if said.endswith(b"\n"):
                break
    return said


@command("stop")
def stop_command() -> Answer:
    """Stop the agent cleanly; returns when it has ended."""
    settings = load()
    try:
        control.ask(settings.socket, "stop")
    except CliError as error:
        if error.code != "not_running":
            raise
        return Answer({"state": "stopped", "stopped": False}, "The agent is not running.")
    _until_unlocked(settings.home / "agent.lock")
    return Answer({"state": "stopped", "stopped": True}, "The agent has stopped.")


def _until_unlocked(lock: Path) -> None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the agent holds it as long as it lives
    finally:
        os.close(descriptor)


@command(
    "pause",
    click.option("--for", "span", metavar="SPAN", help="End it after so long: 90s, 30m, 2h, 1d."),
)
def pause_command(span: str | None) -> Answer:
    """Stop sending and fetching until `syncline resume`. Files stay as they are."""
    arguments = {"for_s": span_s(span)} if span else {}
    data = control.ask(load().socket, "pause", **arguments)
    end = f" It ends by itself after {span}." if span else ""
    return Answer(data, f"Paused. Resume with: syncline resume.{end}")


def span_s(text: str) -> int:
    """Return the seconds of a span such as 90s, 30m, 2h or 1d, at most a year."""
    found = re.fullmatch(r"([0-9]{1,8})([smhd])", text.strip())
    seconds = int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]] if found else 0
    if not 0 < seconds <= 366 * 86_400:
        raise CliError(
            "usage", f"{text!r} is no span of time", "Nothing was changed.",
            "Say, for example: syncline pause --for 2h", Exit.USAGE,
        )
    return seconds


@command("resume")
def resume_command() -> Answer:
    """Go on after a pause."""
    return Answer(control.ask(load().socket, "resume"), "Resumed.")


@command("rescan")
def rescan_command() -> Answer:
    """Look at the whole folder again."""
    return Answer(control.ask(load().socket, "rescan"), "Looking at everything again.")


def _timeout(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--timeout", type=float, metavar="S", help="Give up after so long.")(
        command
    )


@command("sync", _timeout)
def sync_command(timeout: float | None) -> Answer:
    """Bring everything into agreement, once; starts the agent if need be."""
    settings = load()
    _linked(settings)
    started = not control.is_running(settings.socket)
    if started:
        _spawn(settings)
    try:
        data = control.ask(settings.socket, "wait", timeout_s=timeout, patient=False)
    finally:
        if started:
            control.ask(settings.socket, "stop")
            _until_unlocked(settings.home / "agent.lock")
    return _agreed(data)


@command("wait", click.argument("paths", nargs=-1, type=click.Path()), _timeout)
def wait_command(paths: tuple[str, ...], timeout: float | None) -> Answer:
    """Return when everything, or each PATH, is in sync here and accepted by the server."""
    settings = load()
    named = [absolute(path) for path in paths]
    return _agreed(control.ask(settings.socket, "wait", paths=named, timeout_s=timeout))


def _agreed(data: dict[str, Any]) -> Answer:
    lasting = {path: why for path, why in data["faults"].items() if why not in PASSING}
    warnings = [f"{path}: {fault}" for path, fault in lasting.items()]
    if data["counts"]["conflicts"]:
        warnings.append(f"{data['counts']['conflicts']} conflicts; see: syncline conflicts")
    exit = Exit.ATTENTION if lasting else Exit.DONE
    return Answer(data, "In sync.", warnings, exit)


def _linked(settings: Settings) -> Any:
    from client_agent.adapters import profile as profiles

    profile = profiles.read(settings.home)
    if profile is None:
        raise CliError(
            "signed_out", "Nobody is signed in on this device", "No files are synchronised.",
            "Run: syncline register, or syncline login", Exit.SIGNED_OUT,
        )
    if not profile.root:
        raise CliError(
            "not_linked", "No folder is linked", "No files are synchronised.",
            "Run: syncline link DIR",
        )
    return profile
