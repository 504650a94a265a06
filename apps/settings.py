"""Settings of every server process: one frozen struct, read once from `SYNCLINE_*`.

Each name also as `…_FILE` (its value is read from that file, as container secrets want). A profile
(`SYNCLINE_PROFILE`: dev, staging, prod) changes defaults only; what is set always wins. Unknown
`SYNCLINE_*` names are errors, and all errors are told at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Meta

PREFIX = "SYNCLINE_"
SECRET_NAMES = frozenset({"jwt_keys", "secret"})
URL_NAMES = frozenset({"database_url", "amqp_url", "redis_url"})
DEVICE_NAMES = frozenset({"HOME", "PASSWORD_FILE", "SERVER", "KEYSTORE", "PROFILE"})

Days = Annotated[int, Meta(ge=1, le=36_500)]
Listen = Annotated[str, Meta(pattern=r"^\S+:\d{1,5}$")]


class SettingsError(Exception):
    """Settings that cannot be used. `troubles`: one line each, for people, without secrets."""

    def __init__(self, troubles: list[str]) -> None:
        super().__init__("; ".join(troubles))
        self.troubles = troubles


class Settings(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """What a server process may be told. Times in seconds unless the name says otherwise."""

    profile: Literal["dev", "staging", "prod"] = "dev"
    listen: Listen = "127.0.0.1:8420"
    public_url: str = ""
    database_url: str = ""
    amqp_url: str = ""
    redis_url: str = ""
    storage_dir: str = ""
    namespace: Annotated[str, Meta(pattern=r"^[a-z0-9_]{0,32}$")] = ""  # several share services
    jwt_keys: str = ""  # kid:seed,… (32 bytes each, hex or base64url); the first one signs
    secret: str = ""  # pepper and refresh secret come from it: at least 32 characters
    access_ttl: Annotated[int, Meta(ge=30, le=3600)] = 600
    refresh_ttl: Annotated[int, Meta(ge=3600, le=400 * 86_400)] = 90 * 86_400
    registration: Literal["open", "closed"] = "open"
    quota_default_bytes: Annotated[int, Meta(ge=0, lt=1 << 53)] = 100 * 1024**3
    version_retention_days: Days = 90
    trash_retention_days: Days = 30
    gc_grace_hours: Annotated[int, Meta(ge=1, le=8760)] = 48
    pools: str = ""  # empty: every actor kind there is
    partitions: Annotated[int, Meta(ge=1, le=1024)] = 64  # queues per kind; never change it
    rate_limits: str = ""
    feature_flags: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    metrics_listen: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    shutdown_grace_s: Annotated[int, Meta(ge=0, le=600)] = 10

    def __repr__(self) -> str:
        return f"Settings(profile={self.profile!r})"  # never a secret in a traceback

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return parse_listen(self.listen)


PROFILES: dict[str, dict[str, str]] = {
    "dev": {"log_format": "text"},
    "staging": {},
    "prod": {"registration": "closed"},
}
FIELDS = {field.name: field for field in msgspec.structs.fields(Settings)}


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of `host:port`; an IPv6 host stands in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def parse_partitions(text: str, count: int) -> list[int] | None:
    """Read `0-31,40` out of `count`; None for an empty text: all of them. Raises ValueError."""
    if not text.strip():
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        number = first.isdigit() and (not dash or last.isdigit())
        low, high = (int(first), int(last if dash else first)) if number else (1, 0)
        if not low <= high < count:
            raise ValueError(f"{part.strip()!r} is no range within 0-{count - 1}")
        found.update(range(low, high + 1))
    return sorted(found)


def load(environ: Mapping[str, str], **told: str | None) -> Settings:
    """Read the settings; `told` are values of the command line, which win over the environment.

    Raises SettingsError with every trouble found.
    """
    troubles: list[str] = []
    raw = _gather(environ, troubles)
    raw.update({name: value for name, value in told.items() if value is not None})
    profile = raw.get("profile", "dev")
    if profile not in PROFILES:
        troubles.append(f"{PREFIX}PROFILE: must be one of {', '.join(PROFILES)}")
    values: dict[str, Any] = {}
    for name, text in (PROFILES.get(profile, {}) | raw).items():
        try:
            values[name] = msgspec.convert(text, FIELDS[name].type, strict=False)
        except msgspec.ValidationError as error:
            troubles.append(f"{PREFIX}{name.upper()}: {error}")
    troubles += _across(values)
    if troubles:
        raise SettingsError(sorted(troubles))
    return Settings(**values)


def _gather(environ: Mapping[str, str], troubles: list[str]) -> dict[str, str]:
    """Return setting -> text. A name in neither the server's nor the device's list is a trouble."""
    raw: dict[str, str] = {}
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        short = name.removeprefix(PREFIX)
        field = short.removesuffix("_FILE").lower()
        if short.lower() in FIELDS:
            raw[short.lower()] = environ[name].strip()
        elif short in DEVICE_NAMES:
            continue
        elif not short.endswith("_FILE") or field not in FIELDS:
            troubles.append(f"{name}: there is no such setting")
        elif f"{PREFIX}{field.upper()}" in environ:
            troubles.append(f"{name}: {PREFIX}{field.upper()} is set as well; keep one")
        else:
            try:
                raw[field] = Path(environ[name]).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                troubles.append(f"{name}: the file cannot be read: {type(error).__name__}")
    return {name: text for name, text in raw.items() if text}  # set but empty is not set


def _across(values: Mapping[str, Any]) -> list[str]:
    """Troubles that show only when values are seen together."""
    troubles = []
    if bool(values.get("tls_cert")) != bool(values.get("tls_key")):
        troubles.append(f"{PREFIX}TLS_CERT and {PREFIX}TLS_KEY: set both or none")
    if values.get("secret") and len(values["secret"]) < 32:
        troubles.append(f"{PREFIX}SECRET: at least 32 characters")
    return troubles


def require(settings: Settings, *names: str) -> None:
    """Raise SettingsError when a process lacks a setting that only it needs."""
    lacking = [name for name in names if not getattr(settings, name)]
    if lacking:
        raise SettingsError(
            [f"{PREFIX}{name.upper()}: must be set for this command" for name in lacking]
        )


def masked(settings: Settings) -> dict[str, Any]:
    """Return all settings with secrets and passwords replaced, for `config show`."""
    shown: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(settings).items():
        if name in SECRET_NAMES and value:
            shown[name] = "***"
        elif name in URL_NAMES and value:
            shown[name] = _mask_url(value)
        else:
            shown[name] = value
    return shown


def _mask_url(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "***" if "password" in parts.query.lower() else parts.query
    netloc = f"{name}{colon}{'***' if colon else ''}{at}{host}"
    return urlunsplit(parts._replace(netloc=netloc, query=query))
