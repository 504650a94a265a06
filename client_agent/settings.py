"""Where a device keeps its things, and what it was told: flag > environment > profile > default.

    SYNCLINE_HOME            folder of this device's state (several devices on one machine)
    SYNCLINE_SERVER          address of the server
    SYNCLINE_KEYSTORE        keyring | file (empty: keyring if it answers)
    SYNCLINE_PASSWORD_FILE   first line is the password of `register` and `login`
    SYNCLINE_PROFILE         name of a set of the above below the default home
    SYNCLINE_LOG_LEVEL       debug | info | warning | error

The profile file is `config.json` in the home. Imports stay light: every command reads this.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

KEYSTORES: Final = ("keyring", "file")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
DEFAULT_SERVER: Final = "http://127.0.0.1:8420"


class SettingsError(ValueError):
    """A setting has a value that it cannot have; the text says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its environment name, its default and what it may be ("" means anything)."""

    name: str
    variable: str
    default: str
    choices: tuple[str, ...] = ()
    about: str = ""


SETTINGS: Final = {
    setting.name: setting
    for setting in (
        Setting("server", "SYNCLINE_SERVER", DEFAULT_SERVER, (), "address of the server"),
        Setting("keystore", "SYNCLINE_KEYSTORE", "", ("", *KEYSTORES), "where keys are kept"),
        Setting("log_level", "SYNCLINE_LOG_LEVEL", "info", LOG_LEVELS, "how much is logged"),
    )
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run, and where each came from."""

    home: Path
    values: Mapping[str, str]
    origins: Mapping[str, str]  # setting -> flag, environment, profile or default

    @property
    def server(self) -> str:
        """Address of the server, without a slash at its end."""
        return self.values["server"].rstrip("/")

    @property
    def socket(self) -> Path:
        """The control socket of a running agent."""
        return self.home / "agent.sock"

    @property
    def log(self) -> Path:
        """Where the agent writes what it did."""
        return self.home / "agent.log"


def load(
    flags: Mapping[str, str | None] | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """Gather the settings. Raises SettingsError; makes nothing on disk."""
    where = home(environ)
    profile = read_profile(where)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        found = (
            ("flag", (flags or {}).get(name)),
            ("environment", environ.get(setting.variable)),
            ("profile", profile.get(name)),
            ("default", setting.default),
        )
        origin, value = next((o, v) for o, v in found if v is not None)
        values[name], origins[name] = checked(name, str(value)), origin
    return Settings(where, values, origins)


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of this device's state."""
    named = environ.get("SYNCLINE_HOME")
    if named:
        return Path(named).expanduser().absolute()
    import platformdirs  # only here: the common case in scripts names the home

    profile = environ.get("SYNCLINE_PROFILE") or "default"
    return Path(platformdirs.user_data_dir("syncline")) / profile


def checked(name: str, value: str) -> str:
    """Return the value if setting `name` may have it. Raises SettingsError."""
    setting = SETTINGS.get(name)
    if setting is None:
        raise SettingsError(f"there is no setting {name!r}; known: {', '.join(SETTINGS)}")
    if setting.choices and value not in setting.choices:
        raise SettingsError(f"{name} may be {', '.join(filter(None, setting.choices))}")
    return value


def read_profile(where: Path) -> dict[str, Any]:
    """Return the profile file's settings; {} if there is none. Raises SettingsError."""
    try:
        text = (where / "config.json").read_text()
    except FileNotFoundError:
        return {}
    try:
        profile = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{where / 'config.json'} is not JSON: {error}") from None
    if not isinstance(profile, dict):
        raise SettingsError(f"{where / 'config.json'} is not a JSON object")
    return profile


def write_profile(where: Path, name: str, value: str | None) -> None:
    """Set or (None) unset one setting in the profile file, atomically. Raises SettingsError."""
    profile = read_profile(where)
    profile.pop(name, None)
    if value is not None:
        profile[name] = checked(name, value)
    make_home(where)
    write_private(where / "config.json", json.dumps(profile, indent=2).encode() + b"\n")


def make_home(where: Path) -> None:
    """Make the home, for its owner only. Safe to repeat."""
    where.mkdir(parents=True, exist_ok=True)
    if where.stat().st_mode & 0o077:
        where.chmod(0o700)


def write_private(path: Path, content: bytes) -> None:
    """Put a file there for its owner only; whole and on disk, or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
