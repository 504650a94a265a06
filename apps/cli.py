"""`syncline-server`: what an operator types. Everything heavy is imported by the command itself."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from apps.settings import Settings, SettingsError, load, masked, require

# What the extra `server` brings.
SERVER_MODULES = frozenset(
    ("litestar", "uvicorn", "asyncpg", "piccolo", "redis", "faststream", "jwt", "websockets")
) | frozenset(("uvloop", "typer", "prometheus_client", "anyio", "httptools", "fast_depends"))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """The Syncline server."""


def main() -> None:
    """Run a command; expected trouble becomes one line and an exit code, not a traceback."""
    try:
        cli(prog_name="syncline-server")
    except SettingsError as error:
        for trouble in error.troubles:
            click.echo(f"syncline-server: {trouble}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in SERVER_MODULES:
            raise
        click.echo(
            f"syncline-server: {missing} is not installed; the server needs:"
            " pip install 'syncline[server]'",
            err=True,
        )
        sys.exit(2)


def _settings(**told: str | None) -> Settings:
    from apps.telemetry import configure

    settings = load(os.environ, **told)
    configure(settings.log_level, settings.log_format)
    return settings


def _run(work: Callable[..., Any]) -> None:
    from apps.serve import run

    try:
        run(work)
    except (OSError, _postgres_unavailable()) as error:
        raise click.ClickException(str(error)) from None


def _postgres_unavailable() -> type[Exception]:
    from actors.adapters.postgres.binaries import PostgresUnavailable

    return PostgresUnavailable


@cli.command()
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="Holds it all.")
@click.option("--host", default=None, help="Address to listen on [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="0: any free one [8420].")
def standalone(data_dir: Path, host: str | None, port: int | None) -> None:
    """Everything in one process; prints `ready URL` when it serves."""
    from apps.standalone import standalone as work

    settings = _settings(listen=_listen(host, port))
    _run(partial(work, settings, data_dir.absolute()))


def _listen(host: str | None, port: int | None) -> str | None:
    """Complete what the command line says about the address from the settings."""
    if host is None and port is None:
        return None
    told_host, told_port = load(os.environ).address
    host = told_host if host is None else host
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{told_port if port is None else port}"


@cli.command()
def gateway() -> None:
    """Devices' side of a scaled-out server."""
    from apps.gateway.process import gateway as work

    _run(partial(work, _settings()))


@cli.command()
@click.option("--pool", default="", help="Actor kinds, comma-separated [all].")
@click.option("--partitions", default="", help="Such as 0-31 [all].")
def worker(pool: str, partitions: str) -> None:
    """Actors' side of a scaled-out server."""
    from apps.worker import worker as work

    _run(partial(work, _settings(), pool, partitions))


@cli.command()
def relay() -> None:
    """Send what waits in the outbox."""
    from apps.relay import relay as work

    _run(partial(work, _settings()))


@cli.group()
def migrate() -> None:
    """The database's tables."""


def _database() -> tuple[str, str]:
    settings = _settings()
    require(settings, "database_url")
    return settings.database_url, settings.namespace


def _ask_database(work: Any) -> Any:
    import asyncio

    from actors.adapters.postgres.trouble import translated
    from actors.ports import Unreachable

    try:
        with translated():
            return asyncio.run(work)
    except Unreachable as error:
        raise click.ClickException(str(error)) from None


@migrate.command("plan")
def migrate_plan() -> None:
    """Say what `apply` would do; changes nothing."""
    from actors.adapters.postgres.migrate import plan

    for line in _ask_database(plan(*_database())) or ["nothing to do"]:
        click.echo(line)


@migrate.command("apply")
def migrate_apply() -> None:
    """Bring the tables up to date. Safe to repeat, and from several places at once."""
    from actors.adapters.postgres.migrate import migrate as apply
    from apps.wiring import now_ms

    for line in _ask_database(apply(*_database(), now_ms())) or ["nothing to do"]:
        click.echo(line)


@migrate.command("status")
def migrate_status() -> None:
    """Say which migrations were applied; exit 1 if some are pending."""
    from actors.adapters.postgres.migrate import status

    said = _ask_database(status(*_database()))
    for name in said.applied:
        click.echo(f"applied {name}")
    for name in said.pending:
        click.echo(f"pending {name}")
    if said.pending:
        sys.exit(1)


@cli.group()
def config() -> None:
    """The settings (SYNCLINE_…)."""


@config.command("check")
def config_check() -> None:
    """Read the settings; exit 2 and say why when they cannot be used."""
    load(os.environ)
    click.echo("the settings are good")


@config.command("show")
def config_show() -> None:
    """Print all settings as JSON; secrets are masked."""
    click.echo(json.dumps(masked(load(os.environ)), indent=2))


@cli.command()
@click.option("--url", default="", help="Of the gateway [as it listens].")
def health(url: str) -> None:
    """Ask a gateway whether it can serve; exit 1 if not."""
    import urllib.error
    import urllib.request

    settings = load(os.environ)
    host, port = settings.address
    asked = f"{url.rstrip('/') or settings.public_url or f'http://{host}:{port}'}/readyz"
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:
            click.echo(answer.read().decode())
    except urllib.error.HTTPError as error:
        click.echo(error.read().decode())
        sys.exit(1)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{asked}: {error}") from None


if __name__ == "__main__":
    main()
