"""The machine's own limits, taken in the same run: what no synchroniser can beat."""

import hashlib
import os
import shutil
import time
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIB = 1024 * 1024


def copy_with_fsync(tree: Path, to: Path) -> float:
    """Copy a tree file by file, then flush once; return seconds."""
    begun = time.monotonic()
    shutil.copytree(tree, to)
    os.sync()
    return time.monotonic() - begun


def disk_write_mib_s(folder: Path, size_mib: int = 256) -> float:
    """Write and fsync one file; return MiB/s."""
    block = os.urandom(MIB)
    path = folder / "write.probe"
    begun = time.monotonic()
    with path.open("wb") as stream:
        for _ in range(size_mib):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    seconds = time.monotonic() - begun
    path.unlink()
    return size_mib / seconds


def create_fsync_ms(folder: Path, count: int = 100) -> float:
    """Create and fsync small files one by one; return ms for one."""
    begun = time.monotonic()
    for number in range(count):
        path = folder / f"create.{number}"
        with path.open("wb") as stream:
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
    seconds = time.monotonic() - begun
    for number in range(count):
        (folder / f"create.{number}").unlink()
    return seconds / count * 1000


def aes_gcm_mib_s(size_mib: int = 256) -> float:
    """Encrypt blocks of 1 MiB; return MiB/s."""
    cipher, block = AESGCM(os.urandom(32)), os.urandom(MIB)
    begun = time.monotonic()
    for _ in range(size_mib):
        cipher.encrypt(bytes(12), block, b"")
    return size_mib / (time.monotonic() - begun)


def sha256_mib_s(size_mib: int = 256) -> float:
    """Hash blocks of 1 MiB; return MiB/s."""
    block = os.urandom(MIB)
    begun = time.monotonic()
    for _ in range(size_mib):
        hashlib.sha256(block).digest()
    return size_mib / (time.monotonic() - begun)


def limits(folder: Path) -> dict[str, float]:
    """Return all of them."""
    return {
        "disk_write_mib_s": round(disk_write_mib_s(folder), 1),
        "create_fsync_ms": round(create_fsync_ms(folder), 3),
        "aes_gcm_mib_s": round(aes_gcm_mib_s(), 1),
        "sha256_mib_s": round(sha256_mib_s(), 1),
    }
