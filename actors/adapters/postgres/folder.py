"""The folder of an embedded server: one owner at a time, secrets for the owner's eyes, durable."""

import fcntl
import os
from pathlib import Path
from typing import IO

from actors.adapters.postgres.binaries import PostgresUnavailable


def lock(path: Path) -> IO[str]:
    """Holds the folder for this process until the file is closed.

    Raises PostgresUnavailable if another process has it.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise PostgresUnavailable(
            f"{path.parent} is in use by another Syncline server (process {owner})"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def write_private(path: Path, text: str) -> None:
    """Writes a new file that only its owner may read, durably.

    Raises FileExistsError if it exists.
    """
    with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
