"""Commands about the device itself: doctor, config."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from client_agent.adapters import profile as profiles
from client_agent.adapters.profile import Profile
from client_agent.cli import control
from client_agent.cli.commands import command
from client_agent.cli.output import Answer, CliError, Exit
from client_agent.settings import SETTINGS, Settings, load, write_profile

CLOCK_SKEW_MAX_S = 120
FREE_BYTES_MIN = 50_000_000
WATCHES_FILE = Path("/proc/sys/fs/inotify/max_user_watches")

Check = dict[str, str]  # name, state (ok, warning, error), detail, hint


@command("doctor")
def doctor_command() -> Answer:
    """Check server, clock, disk, folder, watches and keys; say what to do."""
    settings = load()
    profile = profiles.read(settings.home)
    checks = [_python(), _agent(settings), _account(profile)]
    if profile is not None:
        checks += [_server(profile), _keys(settings, profile)]
        if profile.root:
            checks += [_folder(profile), _disk(profile), _watches(profile)]
    bad = [check for check in checks if check["state"] != "ok"]
    marks = {"ok": "ok     ", "warning": "warning", "error": "error  "}
    lines = []
    for check in checks:
        lines.append(f"{marks[check['state']]} {check['name']:10} {check['detail']}")
        if check["hint"]:
            lines.append(f"{'':19}{check['hint']}")
    exit = Exit.ATTENTION if any(c["state"] == "error" for c in bad) else Exit.DONE
    return Answer({"checks": checks}, "\n".join(lines), exit=exit)


def _check(name: str, state: str, detail: str, hint: str = "") -> Check:
    return {"name": name, "state": state, "detail": detail, "hint": hint}


def _python() -> Check:
    import sqlite3

    return _check("versions", "ok", f"Python {sys.version.split()[0]}, SQLite "
                  f"{sqlite3.sqlite_version}")


def _agent(settings: Settings) -> Check:
    if control.is_running(settings.socket):
        mode = control.ask(settings.socket, "status")["watch"]["mode"]
        return _check("agent", "ok", f"running; watching by {mode}")
    return _check("agent", "warning", "not running", "Run: syncline start")


def _account(profile: Profile | None) -> Check:
    if profile is None:
        return _check("account", "error", "nobody is signed in", "Run: syncline login")
    return _check("account", "ok", f"{profile.username}, device {profile.device_name}")


def _server(profile: Profile) -> Check:
    import urllib.error
    import urllib.request
    from email.utils import parsedate_to_datetime

    from client_agent.adapters.server import Insecure, checked_url

    try:
        url = checked_url(profile.server)
        with urllib.request.urlopen(f"{url}/livez", timeout=10) as answer:
            date = answer.headers.get("Date")
    except Insecure as error:
        return _check("server", "error", str(error), "Use an https:// address.")
    except (OSError, ValueError, urllib.error.URLError) as error:
        return _check("server", "error", f"{profile.server}: {error}", "Changes wait here.")
    if date:
        import time

        skew_s = abs(time.time() - parsedate_to_datetime(date).timestamp())
        if skew_s > CLOCK_SKEW_MAX_S:
            return _check(
                "server", "warning", f"the clocks differ by {skew_s:.0f} s",
                "Set this device's clock: it decides which of two edits is newer.",
            )
    return _check("server", "ok", f"{profile.server} answers")


def _keys(settings: Settings, profile: Profile) -> Check:
    from client_agent.adapters.secrets import DEVICE, KeystoreLocked, open_keystore

    try:
        found = open_keystore(profile.keystore, settings.home).get(DEVICE)
    except KeystoreLocked as error:
        return _check("keys", "error", str(error), "Unlock the keystore.")
    if found is None:
        return _check("keys", "error", "the keystore holds no keys", "Run: syncline login")
    if profile.keystore == "file":
        return _check("keys", "warning", "kept in a file only you can read",
                      "Encrypt the disk it is on.")
    return _check("keys", "ok", "in the system's keyring")


def _folder(profile: Profile) -> Check:
    from client_agent.adapters.root import Root, RootFault

    try:
        os.close(Root(Path(profile.root), profile.root_id).open())
    except RootFault as fault:
        return _check("folder", "error", f"{profile.root}: {fault}",
                      "Nothing is deleted anywhere while it is away.")
    return _check("folder", "ok", profile.root)


def _disk(profile: Profile) -> Check:
    try:
        disk = os.statvfs(profile.root)
    except OSError as error:
        return _check("disk", "error", str(error))
    free = disk.f_bavail * disk.f_frsize
    if free < max(FREE_BYTES_MIN, disk.f_blocks * disk.f_frsize // 100):
        return _check("disk", "error", f"{free // 1_000_000} MB free",
                      "Downloads wait until there is room.")
    return _check("disk", "ok", f"{free // 1_000_000} MB free")


def _watches(profile: Profile) -> Check:
    try:
        limit = int(WATCHES_FILE.read_text())
    except (OSError, ValueError):
        return _check("watches", "ok", "no limit is known on this system")
    folders = sum(1 for _ in os.walk(profile.root))
    if folders > limit * 9 // 10:
        return _check("watches", "warning", f"{folders} folders, {limit} watches allowed",
                      "Raise fs.inotify.max_user_watches.")
    return _check("watches", "ok", f"{folders} folders, {limit} watches allowed")


@command(
    "config",
    click.argument("what", type=click.Choice(["list", "get", "set", "unset"]), default="list"),
    click.argument("name", required=False), click.argument("value", required=False),
)
def config_command(what: str, name: str | None, value: str | None) -> Answer:
    """Show or change settings; a change holds from the agent's next start."""
    settings = load()
    if what == "list":
        rows = {
            key: {"value": settings.values[key], "origin": settings.origins[key]}
            for key in SETTINGS
        }
        text = "\n".join(
            f"{key:10} {row['value'] or '-':30} ({row['origin']})" for key, row in rows.items()
        )
        return Answer({"settings": rows, "home": str(settings.home)}, text)
    if name not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise CliError("usage", f"Name a setting: {known}", exit=Exit.USAGE)
    if what == "get":
        return Answer(_setting(settings, name), settings.values[name])
    if what == "set" and value is None:
        raise CliError("usage", "Say which value", exit=Exit.USAGE)
    write_profile(settings.home, name, value if what == "set" else None)
    return Answer(_setting(load(), name), f"{name} is {load().values[name] or 'unset'} now.")


def _setting(settings: Settings, name: str) -> dict[str, Any]:
    return {"name": name, "value": settings.values[name], "origin": settings.origins[name]}
