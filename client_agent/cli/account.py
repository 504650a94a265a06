"""Commands about the account and the folder: register, login, logout, whoami, link, devices."""

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from client_agent.adapters import profile as profiles
from client_agent.adapters.profile import Profile
from client_agent.cli import control
from client_agent.cli.commands import command
from client_agent.cli.output import Answer, CliError, Exit
from client_agent.settings import Settings, load, write_private
from protocol.limits import DEVICE_NAME_MAX

T = TypeVar("T")


def server_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--server`."""
    return click.option("--server", help="Address of the server.", metavar="URL")(command)


def sign_in_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what register and login have in common."""
    for option in (
        click.option("--keystore", help="keyring or file.", metavar="KIND"),
        click.option("--password-stdin", is_flag=True, help="Read the password from stdin."),
        click.option("--device", help="Name of this device.", metavar="NAME"),
        click.option("--username", required=True, metavar="U"),
    ):
        command = option(command)
    return server_option(command)


@command(
    "register", sign_in_options,
    click.option("--email", required=True, metavar="E"),
    click.option(
        "--recovery-file", type=click.Path(dir_okay=False, path_type=Path),
        help="Write the recovery words there instead of showing them.",
    ),
)
def register_command(
    server: str | None, username: str, email: str, device: str | None, password_stdin: bool,
    keystore: str | None, recovery_file: Path | None,
) -> Answer:
    """Make an account; this becomes its first device. Shows the recovery words once."""
    from client_agent.adapters import account
    from client_agent.adapters.server import Server

    settings = load({"server": server, "keystore": keystore})
    _free_to_sign_in(settings)
    if profiles.read(settings.home) is not None:
        raise CliError(
            "signed_in", "This device has an account already",
            "Nothing was changed.", "Run `syncline logout` first, or set another SYNCLINE_HOME.",
        )
    if recovery_file is not None and recovery_file.exists():
        raise CliError("usage", f"{recovery_file} exists already", exit=Exit.USAGE)
    password = _password(settings, password_stdin, twice=True)
    store, warning = _keystore(settings)
    shown: list[str] = []

    def show(words: str) -> None:
        shown.append(words)
        if recovery_file is not None:
            write_private(recovery_file, words.encode() + b"\n")

    async def work() -> Profile:
        async with Server(settings.server) as gateway:
            return await account.register(
                gateway, settings.home, store, username, email, device_name(device), password,
                show,
            )

    try:
        profile = asked(work, settings.server)
    except BaseException:
        if recovery_file is not None:
            recovery_file.unlink(missing_ok=True)  # words of an account that does not exist
        raise
    data = facts(profile)
    text = f"Registered {username} with this device, {profile.device_name}."
    if recovery_file is None:
        data["recovery_words"] = shown[0]
        text += (
            "\n\nRecovery words. Write them down: they are shown only now, and they alone open"
            f" your files\nif you forget the password.\n\n{_columns(shown[0])}\n"
        )
    else:
        data["recovery_file"] = str(recovery_file)
        text += f" The recovery words are in {recovery_file}."
    return Answer(data, f"{text}\nNext: syncline link DIR", [warning] if warning else [])


@command("login", sign_in_options)
def login_command(
    server: str | None, username: str, device: str | None, password_stdin: bool,
    keystore: str | None,
) -> Answer:
    """Sign this device in to an account."""
    from client_agent.adapters import account
    from client_agent.adapters.server import Server
    from client_agent.adapters.state import set_aside

    settings = load({"server": server, "keystore": keystore})
    _free_to_sign_in(settings)
    before = profiles.read(settings.home)
    name = device or (before.device_name if before else None)
    password = _password(settings, password_stdin, twice=False)
    store, warning = _keystore(settings)

    async def work() -> Profile:
        async with Server(settings.server) as gateway:
            return await account.login(
                gateway, settings.home, store, username, device_name(name), password
            )

    profile = asked(work, settings.server)
    if before is not None and (before.device, before.space) != (profile.device, profile.space):
        set_aside(settings.home, "other-account")
    following = "syncline start" if profile.root else "syncline link DIR"
    text = f"Signed in as {username} on this device, {profile.device_name}.\nNext: {following}"
    return Answer(facts(profile), text, [warning] if warning else [])


@command("logout")
def logout_command() -> Answer:
    """End the session and forget the keys on this device. Files stay where they are."""
    from client_agent.adapters import account
    from client_agent.adapters.secrets import KeystoreLocked, open_keystore
    from client_agent.adapters.server import Offline, Server, ServerFault
    from client_agent.adapters.state import set_aside

    settings = load()
    profile = signed_in(settings)
    _free_to_sign_in(settings)
    store = open_keystore(profile.keystore, settings.home)
    warnings = []

    async def work() -> None:
        me = account.load_identity(settings.home, profile, store)
        async with Server(
            profile.server, me.session, me.secrets.sign, account.session_keeper(store)
        ) as gateway:
            await gateway.logout()

    try:
        asyncio.run(work())
    except (Offline, ServerFault, KeystoreLocked, account.SignedOut) as error:
        warnings.append(f"the server was not told: {error}")
    store.wipe()
    set_aside(settings.home, "signed-out")
    (settings.home / account.KEYRING_FILE).unlink(missing_ok=True)
    profiles.remove(settings.home)
    return Answer({"username": profile.username}, f"Signed out {profile.username}.", warnings)


@command("whoami")
def whoami_command() -> Answer:
    """Show account, device and folder."""
    profile = signed_in(load())
    lines = (
        ("account", f"{profile.username} at {profile.server}"),
        ("device", f"{profile.device_name} ({profile.device})"),
        ("folder", profile.root or "none; run: syncline link DIR"),
        ("keys", f"in {'a file' if profile.keystore == 'file' else 'the keyring'}"),
    )
    text = "\n".join(f"{name:8} {value}" for name, value in lines)
    return Answer(facts(profile), text, keystore_warnings(profile))


@command(
    "link", click.argument("folder", type=click.Path(path_type=Path)),
    click.option("--space", default="home", help="Only `home` so far.", metavar="NAME"),
)
def link_command(folder: Path, space: str) -> Answer:
    """Link a folder; it is made if missing. What is in it is merged, never replaced."""
    from client_agent.adapters.link import LinkRefused, link

    settings = load()
    profile = signed_in(settings)
    if space != "home":
        raise CliError("usage", f"There is no space {space!r} to link", exit=Exit.USAGE)
    if control.is_running(settings.socket):
        raise CliError("running", "The agent is running", "", "Run: syncline stop")
    try:
        linked = link(settings.home, profile, folder)
    except LinkRefused as error:
        raise CliError("link_refused", str(error), "Nothing was changed.", error.hint) from None
    text = f"Linked {linked.root}.\nNext: syncline start"
    return Answer(facts(linked), text, keystore_warnings(linked))


@command("devices", click.argument("what", type=click.Choice(["list"]), default="list"))
def devices_command(what: str) -> Answer:
    """List the account's devices."""
    from client_agent.adapters import account, devices
    from client_agent.adapters.secrets import open_keystore
    from client_agent.adapters.server import Server

    settings = load()
    profile = signed_in(settings)
    if control.is_running(settings.socket):  # one process alone uses the session
        rows = control.ask(settings.socket, "devices")["devices"]
        return Answer({"devices": rows}, _device_lines(rows))
    store = open_keystore(profile.keystore, settings.home)

    async def work() -> list[dict[str, Any]]:
        me = account.load_identity(settings.home, profile, store)
        async with Server(
            profile.server, me.session, me.secrets.sign, account.session_keeper(store)
        ) as gateway:
            return devices.listing(await gateway.devices(), me)

    rows = asked(work, profile.server)
    return Answer({"devices": rows}, _device_lines(rows))


def _device_lines(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{'*' if row['current'] else ' '} {row['name']:24} {row['id'][:8]}  "
        f"last seen {row['last_seen']}"
        + ("  revoked" if row["revoked"] else "")
        + ("" if row["certified"] else "  not certified")
        for row in rows
    )


# -------------------------------------------------------------------- for all commands


def signed_in(settings: Settings) -> Profile:
    """Return the profile. Raises CliError: nobody is signed in here."""
    profile = profiles.read(settings.home)
    if profile is None:
        raise CliError(
            "signed_out", "Nobody is signed in on this device", "No files are synchronised.",
            "Run: syncline register, or syncline login", Exit.SIGNED_OUT,
        )
    return profile


def facts(profile: Profile) -> dict[str, Any]:
    """Return what `whoami --json` and its like say of a profile."""
    return {
        "username": profile.username, "email": profile.email, "server": profile.server,
        "account": profile.account, "device": profile.device,
        "device_name": profile.device_name, "space": profile.space,
        "folder": profile.root or None, "keystore": profile.keystore,
    }


def keystore_warnings(profile: Profile) -> list[str]:
    """Return the standing warning of a keystore that is only as safe as the disk."""
    if profile.keystore != "file":
        return []
    return ["keys are kept in a file that only you can read; encrypt the disk it is on"]


def asked(work: Callable[[], Coroutine[Any, Any, T]], server: str) -> T:
    """Run something that talks with the server; its failures as errors for people."""
    from client_agent.cli.faults import explained

    with explained(server):
        return asyncio.run(work())


def device_name(wanted: str | None) -> str:
    """Return a name for this device: the one wanted, else the machine's."""
    name = (wanted or socket.gethostname().partition(".")[0] or "device").strip()
    return name[:DEVICE_NAME_MAX]


def _free_to_sign_in(settings: Settings) -> None:
    if control.is_running(settings.socket):
        raise CliError(
            "running", "The agent is running", "It uses the present account.",
            "Run: syncline stop",
        )


def _keystore(settings: Settings) -> tuple[Any, str]:
    from client_agent.adapters.secrets import KeystoreLocked, choose_keystore

    try:
        return choose_keystore(settings.values["keystore"], settings.home)
    except KeystoreLocked as error:
        raise CliError(
            "keystore_locked", "The keystore does not answer", str(error),
            "Unlock it, or use --keystore file", Exit.SIGNED_OUT,
        ) from None


def _password(settings: Settings, from_stdin: bool, twice: bool) -> str:
    """Read the password: from stdin, a file or a prompt; never from an argument."""
    named = os.environ.get("SYNCLINE_PASSWORD_FILE")
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif named:
        try:
            password = Path(named).read_text().partition("\n")[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise CliError("usage", f"The password file: {error}", exit=Exit.USAGE) from None
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=twice, err=True)
    else:
        raise CliError(
            "usage", "No password was given", "There is no terminal to ask on.",
            "Use --password-stdin or SYNCLINE_PASSWORD_FILE", Exit.USAGE,
        )
    if not password:
        raise CliError("usage", "The password is empty", exit=Exit.USAGE)
    return password


def _columns(words: str) -> str:
    numbered = [f"{n:2} {word:10}" for n, word in enumerate(words.split(), 1)]
    return "\n".join("  ".join(numbered[row::6]) for row in range(6))
