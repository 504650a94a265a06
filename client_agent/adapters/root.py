"""The linked folder, reached only through directory descriptors: no symlink is ever followed.

A path is relative, "/" between names. Each of its directories is opened by name inside the one
before, O_NOFOLLOW: a link in the middle, put there by whoever, is "not there".
"""

import os
import stat as stats
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final

from client_agent.adapters.link import read_marker
from client_agent.core.trees import Stat
from protocol.entry import NodeType
from protocol.names import RESERVED

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_MAX: Final = 64  # directories that one `Folders` keeps open

_KINDS: Final = {
    stats.S_IFREG: NodeType.FILE,
    stats.S_IFDIR: NodeType.DIRECTORY,
    stats.S_IFLNK: NodeType.SYMLINK,
}


class RootFault(Exception):
    """The linked folder as a whole cannot be trusted; the text says why."""


class Root:
    """Where the linked folder is, and how to tell that it still is that folder."""

    def __init__(self, path: Path, root_id: str) -> None:
        """Open nothing yet."""
        self.path = path
        self.root_id = root_id
        self._device: int | None = None  # file system it was on when first seen in this run

    def open(self) -> int:
        """Return a descriptor of the folder. Raises RootFault."""
        try:
            descriptor = os.open(self.path, DIRECTORY)
        except OSError as error:
            raise RootFault(f"missing: {error.strerror}") from None
        try:
            device = os.fstat(descriptor).st_dev
            marker = read_marker(Path(f"/proc/self/fd/{descriptor}")) or read_marker(self.path)
            if marker is None or marker.get("root") != self.root_id:
                raise RootFault(f"{RESERVED} does not say that this is the linked folder")
            if self._device not in (None, device):
                raise RootFault("another disk is mounted there")
            self._device = device
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


class Folders:
    """Directories below the root, opened once and kept for a batch of work. One thread's own."""

    def __init__(self, root: Root) -> None:
        """Open the root. Raises RootFault."""
        self.root = root.open()
        self._open: OrderedDict[str, int] = OrderedDict()
        self._in_step = False

    def __enter__(self) -> "Folders":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all of them."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self.root)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Keep every descriptor open until the end: a step has several in hand at once."""
        self._in_step = True
        try:
            yield
        finally:
            self._in_step = False
            self._trim()

    def directory(self, path: str) -> int:
        """Return the descriptor of a directory. Use it at once, or within one `step`: after that
        it may be closed, and its number be another folder's.

        Raises OSError (ENOENT, ENOTDIR, ELOOP: not there as a real directory).
        """
        if not path:
            return self.root
        descriptor = self._reach(path)
        if not self._in_step:
            self._trim()
        return descriptor

    def _trim(self) -> None:
        while len(self._open) > OPEN_MAX:
            os.close(self._open.popitem(last=False)[1])

    def _reach(self, path: str) -> int:
        found = self._open.get(path)
        if found is not None:
            self._open.move_to_end(path)
            return found
        above, _, name = path.rpartition("/")
        descriptor = os.open(name, DIRECTORY, dir_fd=self._reach(above) if above else self.root)
        self._open[path] = descriptor
        return descriptor

    def parent(self, path: str) -> tuple[int, str]:
        """Return the descriptor of the directory that holds an entry, and the entry's name."""
        above, _, name = path.rpartition("/")
        return self.directory(above), name

    def forget(self, path: str) -> None:
        """Close what was opened at or below a path: it moved or went away."""
        below = path + "/"
        for known in [p for p in self._open if p == path or p.startswith(below)]:
            os.close(self._open.pop(known))


def kind_of(mode: int) -> NodeType | None:
    """Return what an entry is; None: neither file, directory nor symlink."""
    return _KINDS.get(stats.S_IFMT(mode))


def stat_of(status: os.stat_result) -> Stat:
    """Return what the engine compares of an entry."""
    return Stat(
        status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
        bool(status.st_mode & 0o100) and stats.S_ISREG(status.st_mode),
    )


def lstat(folder: int, name: str) -> os.stat_result:
    """Stat an entry, never through a link. Raises OSError."""
    return os.stat(name, dir_fd=folder, follow_symlinks=False)
