"""Asking the running agent: JSON lines over the Unix socket in the home. Standard library only."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client_agent.cli.output import CliError, Exit

PATH_BYTES_MAX = 100  # of a Unix socket's name; Linux has 108


def not_running() -> CliError:
    """Return the error that says that no agent answers here."""
    return CliError(
        "not_running", "The agent is not running", "Files are not being synchronised.",
        "Run: syncline start", Exit.NOT_RUNNING,
    )


def connect(path: Path, timeout_s: float | None = None) -> socket.socket:
    """Connect to the agent. Raises CliError: nobody answers."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    folder = None
    try:
        name = str(path)
        if len(os.fsencode(name)) > PATH_BYTES_MAX:
            folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
            name = f"/proc/self/fd/{folder}/{path.name}"
        connection.connect(name)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise not_running() from None
    finally:
        if folder is not None:
            os.close(folder)
    return connection


def is_running(path: Path) -> bool:
    """Say whether an agent answers there."""
    try:
        connect(path).close()
    except CliError:
        return False
    return True


def ask(where: Path, do: str, /, **arguments: Any) -> dict[str, Any]:
    """Ask one thing; answer the document's `data`. Raises CliError."""
    for document in stream(where, do, **arguments):
        return document
    raise CliError(
        "not_running", "The agent ended while it was asked", "", "Run: syncline start",
        Exit.NOT_RUNNING,
    )


def stream(where: Path, do: str, /, **arguments: Any) -> Iterator[dict[str, Any]]:
    """Ask one thing; yield `data` of each document until the agent is done. Raises CliError."""
    try:
        with connect(where) as connection:
            connection.sendall(json.dumps({"do": do, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    document = json.loads(line)
                    if not document.get("ok"):
                        raise CliError.of(document.get("error") or {})
                    yield document["data"]
    except (ConnectionResetError, BrokenPipeError):
        raise not_running() from None  # it was just ending
