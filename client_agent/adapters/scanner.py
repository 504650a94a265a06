"""Looking at the disk: names and stats, no file is read. The scan is the truth (SYNC.md 3)."""

import errno
import os
import stat as stats
import time
from dataclasses import dataclass, field
from functools import lru_cache

from client_agent.adapters.root import DIRECTORY, Folders, Root, RootFault, kind_of, stat_of
from client_agent.core.events import Scan, Scanned, Scope, Seen
from client_agent.core.trees import Stat
from protocol.entry import NodeType
from protocol.limits import SYMLINK_BYTES_MAX, TREE_DEPTH_MAX
from protocol.names import RESERVED, check_name

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@dataclass(slots=True)
class _Sight:
    """What was seen so far."""

    device: int
    entries: list[Seen] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def scan(root: Root, effect: Scan) -> Scanned:
    """Run a Scan; for a thread. Never raises for what is on the disk."""
    started_ms = time.time_ns() // 1_000_000
    try:
        with Folders(root) as folders:
            sight = _Sight(os.fstat(folders.root).st_dev)
            for scope in effect.scopes:
                _scope(folders, scope, sight)
    except RootFault as fault:
        return Scanned(effect.scopes, (), {}, started_ms, str(fault))
    return Scanned(effect.scopes, tuple(sight.entries), sight.unreadable, started_ms)


def _scope(folders: Folders, scope: Scope, sight: _Sight) -> None:
    path = scope.path
    if not path:
        if scope.deep:
            _list(folders.root, "", 0, sight)
        return
    if any(_refused(name) for name in path.split("/")):
        return  # a hint at a name of ours, or one that never enters the tree
    try:
        folder, name = folders.parent(path)
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _ABSENT:
            sight.unreadable[path] = error.strerror or str(error)
        return
    kind = _seen(folder, name, path, status, sight)
    if kind is NodeType.DIRECTORY and scope.deep:
        _enter(folder, name, path, path.count("/") + 1, sight)


def _seen(
    folder: int, name: str, path: str, status: os.stat_result, sight: _Sight
) -> NodeType | None:
    """Note an entry; answer what it is. Also None: it was not noted."""
    kind = kind_of(status.st_mode)
    target = ""
    if status.st_dev != sight.device:
        sight.unreadable[path] = "it is on another file system"
        return None
    if kind is NodeType.SYMLINK:
        try:
            target = os.readlink(name, dir_fd=folder)
            if len(target.encode()) > SYMLINK_BYTES_MAX:
                raise ValueError("its target is too long")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # UnicodeEncodeError: a target that is not UTF-8
            sight.unreadable[path] = f"link: {error}"
            return None
    sight.entries.append(Seen(path, kind, stat_of(status), target))
    return kind


def _enter(folder: int, name: str, path: str, depth: int, sight: _Sight) -> None:
    if depth > TREE_DEPTH_MAX:
        sight.unreadable[path] = "the folders are nested too deeply"
        return
    try:
        descriptor = os.open(name, DIRECTORY, dir_fd=folder)
    except OSError as error:
        if error.errno not in _ABSENT:
            sight.unreadable[path] = error.strerror or str(error)
        return
    try:
        _list(descriptor, path + "/", depth, sight)
    finally:
        os.close(descriptor)


def _list(folder: int, prefix: str, depth: int, sight: _Sight) -> None:
    """Note everything below an open directory."""
    below: list[tuple[str, str]] = []
    noted, regular = sight.entries.append, stats.S_ISREG
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                name = entry.name
                refused = _refused(name)
                if refused:
                    if prefix or name != RESERVED:
                        sight.unreadable[prefix + shown(name)] = refused
                    continue
                path = prefix + name
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if regular(status.st_mode) and status.st_dev == sight.device:
                    # the common case, without a call
                    noted(Seen(path, NodeType.FILE, Stat(
                        status.st_ino, status.st_size, status.st_mtime_ns,
                        status.st_ctime_ns, bool(status.st_mode & 0o100),
                    )))
                elif _seen(folder, name, path, status, sight) is NodeType.DIRECTORY:
                    below.append((name, path))
    except OSError as error:
        # What was listed before the fault stays; the rest is unknown, not absent.
        sight.unreadable[prefix.rstrip("/")] = error.strerror or str(error)
        return
    for name, path in below:
        _enter(folder, name, path, depth + 1, sight)


def _refused(name: str) -> str | None:
    """Return why an entry of that name is never synchronised, None if it may be."""
    if name.isascii() and name.isprintable() and name[0] != "." and len(name) < 256:
        return None
    return _checked(name)


@lru_cache(maxsize=20_000)
def _checked(name: str) -> str | None:
    return check_name(name)


def shown(name: str) -> str:
    """Return a name that is not Unicode in a form that can be written down."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
