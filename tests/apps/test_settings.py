"""Settings: all troubles at once, secrets never shown."""

import json
from pathlib import Path

import pytest

from apps.settings import (
    Settings,
    SettingsError,
    load,
    masked,
    parse_listen,
    parse_partitions,
    require,
)


def test_defaults_and_values() -> None:
    settings = load({})
    assert (settings.profile, settings.address) == ("dev", ("127.0.0.1", 8420))
    assert (settings.registration, settings.log_format) == ("open", "text")
    settings = load({"SYNCLINE_PROFILE": "prod", "SYNCLINE_LISTEN": "[::1]:80", "PATH": "/bin"})
    assert (settings.registration, settings.log_format) == ("closed", "json")
    assert settings.address == ("::1", 80)
    settings = load({"SYNCLINE_PROFILE": "prod", "SYNCLINE_REGISTRATION": "open"})
    assert settings.registration == "open"
    settings = load({"SYNCLINE_ACCESS_TTL": "60", "SYNCLINE_SHUTDOWN_GRACE_S": "0"})
    assert (settings.access_ttl, settings.shutdown_grace_s) == (60, 0)
    assert load({"SYNCLINE_LISTEN": ""}).listen == "127.0.0.1:8420"  # set but empty is not set
    assert load({"SYNCLINE_LISTEN": "1.2.3.4:5"}, listen="0.0.0.0:6").listen == "0.0.0.0:6"


def test_all_troubles_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load(
            {
                "SYNCLINE_DATABASE_ULR": "x",
                "SYNCLINE_NO_SUCH_FILE": "x",
                "SYNCLINE_ACCESS_TTL": "soon",
                "SYNCLINE_REGISTRATION": "invite",
                "SYNCLINE_TLS_CERT": "/a",
                "SYNCLINE_SECRET": "short",
                "SYNCLINE_NAMESPACE": "Upper",
                "SYNCLINE_PROFILE": "work",
                "SYNCLINE_HOME": "/x",
                "SYNCLINE_PASSWORD_FILE": "/x",
            }
        )
    names = [trouble.partition(":")[0] for trouble in caught.value.troubles]
    assert names == [
        "SYNCLINE_ACCESS_TTL",
        "SYNCLINE_DATABASE_ULR",
        "SYNCLINE_NAMESPACE",
        "SYNCLINE_NO_SUCH_FILE",
        "SYNCLINE_PROFILE",
        "SYNCLINE_PROFILE",
        "SYNCLINE_REGISTRATION",
        "SYNCLINE_SECRET",
        "SYNCLINE_TLS_CERT and SYNCLINE_TLS_KEY",
    ]


def test_values_from_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x" * 40 + "\n")
    assert load({"SYNCLINE_SECRET_FILE": str(file)}).secret == "x" * 40
    with pytest.raises(SettingsError, match="keep one"):
        load({"SYNCLINE_SECRET_FILE": str(file), "SYNCLINE_SECRET": "y" * 40})
    with pytest.raises(SettingsError, match="cannot be read: FileNotFoundError"):
        load({"SYNCLINE_SECRET_FILE": str(tmp_path / "none")})


def test_what_is_shown_holds_no_secret() -> None:
    secrets = ("pass-word", "key-of-tokens", "p" * 40)
    settings = Settings(
        database_url=f"postgresql://me:{secrets[0]}@db.example:5432/x",
        amqp_url=f"amqp://guest:{secrets[0]}@mq:5672/",
        redis_url=f"redis://h:6379/0?password={secrets[0]}",
        jwt_keys=f"k1:{secrets[1]}",
        secret=secrets[2],
    )
    shown = json.dumps(masked(settings)) + repr(settings)
    assert not any(secret in shown for secret in secrets)
    assert masked(settings)["database_url"] == "postgresql://me:***@db.example:5432/x"
    assert masked(Settings())["jwt_keys"] == ""


def test_partitions() -> None:
    assert parse_partitions("", 64) is None
    assert parse_partitions("0-2, 5,7-7", 64) == [0, 1, 2, 5, 7]
    for wrong in ("64", "3-1", "a", "1-", "-1", "1-x", ",", "0-64"):
        with pytest.raises(ValueError, match="no range within 0-63"):
            parse_partitions(wrong, 64)


def test_required_settings_are_named() -> None:
    with pytest.raises(SettingsError) as caught:
        require(Settings(database_url="x"), "database_url", "amqp_url", "redis_url")
    assert [trouble.partition(":")[0] for trouble in caught.value.troubles] == [
        "SYNCLINE_AMQP_URL",
        "SYNCLINE_REDIS_URL",
    ]
    assert parse_listen("h:1") == ("h", 1)
