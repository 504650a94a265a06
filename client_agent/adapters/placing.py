"""Changing what is on the disk, one step at a time, never through a link. For a thread.

A new content is staged in `.syncline/tmp` and comes to its place by `renameat2`: NOREPLACE where
nothing may be, EXCHANGE where something known is. What an exchange brings out is looked at again:
if it is not what was expected it goes back, so an edit made at that very moment is never lost.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import stat as stats
import time
from dataclasses import dataclass
from typing import Final

from client_agent.adapters.reading import OPEN
from client_agent.adapters.root import Folders, lstat, stat_of
from client_agent.core.events import DiskStep, MakeDirectory, Move, PutFile, PutLink, Remove
from client_agent.core.trees import Stat
from protocol.entry import NodeType
from protocol.names import RESERVED, check_name, conflict_name

TMP: Final = f"{RESERVED}/tmp"
TRASH: Final = f"{RESERVED}/trash"
NOREPLACE, EXCHANGE = 1, 2
SYNC_EACH_MAX: Final = 4  # more flushes than this are slower than one of the whole file system
NO_SWAP: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
_syncfs = getattr(_libc, "syncfs", None)

_REASONS: Final = {
    errno.ENOENT: "missing", errno.ENOTDIR: "missing", errno.ELOOP: "missing",
    errno.EEXIST: "exists", errno.EISDIR: "exists", errno.ENOTEMPTY: "not_empty",
    errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.EFBIG: "disk_full",
    errno.EACCES: "unreadable", errno.EPERM: "unreadable", errno.EROFS: "unreadable",
    errno.ENAMETOOLONG: "name", errno.EILSEQ: "name",
}


class NotDone(Exception):
    """A step was not done, and nothing of it remains; `reason` as in StepFailed."""

    def __init__(self, reason: str, detail: str = "") -> None:
        """Gather the facts."""
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail

    @classmethod
    def of(cls, error: OSError) -> "NotDone":
        """Say what a refusal of the system means for a step."""
        return cls(_REASONS.get(error.errno or 0, "error"), error.strerror or str(error))


@dataclass(frozen=True, slots=True)
class Staged:
    """A content that waits in `.syncline/tmp`."""

    name: str
    inode: int


def swap(from_folder: int, source: str, to_folder: int, target: str, flags: int) -> None:
    """Rename with NOREPLACE or EXCHANGE. Raises OSError; ENOSYS where there is no such call."""
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    failed = _renameat2(
        from_folder, os.fsencode(source), to_folder, os.fsencode(target), ctypes.c_uint(flags)
    )
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def sync_file_system(descriptor: int) -> bool:
    """Flush the file system that a descriptor is on; False where there is no such call."""
    return _syncfs is not None and _syncfs(descriptor) == 0


def sync_all(descriptors: list[int]) -> None:
    """Bring what was written to the disk: a few one by one, many in one flush of all."""
    if len(descriptors) > SYNC_EACH_MAX and sync_file_system(descriptors[0]):
        return
    for descriptor in descriptors:
        os.fsync(descriptor)


class Placer:
    """Runs the steps of one batch and remembers which directories have to be flushed."""

    def __init__(self, folders: Folders) -> None:
        """Use the batch's open directories."""
        self._folders = folders
        self._touched: set[str] = set()

    def run(self, step: DiskStep, staged: Staged | None) -> Stat | None:
        """Do one step; the stat of what is there now, None after a Remove. Raises NotDone."""
        check_path(step.path)
        try:
            with self._folders.step():
                return self._run(step, staged)
        except OSError as error:
            raise NotDone.of(error) from None

    def _run(self, step: DiskStep, staged: Staged | None) -> Stat | None:
        if isinstance(step, MakeDirectory):
            return self._make(step)
        if isinstance(step, PutFile | PutLink):
            assert staged is not None
            return self._put(step, staged)
        if isinstance(step, Move):
            return self._move(step)
        self._remove(step)
        return None

    def flush(self) -> None:
        """Bring the names to the disk."""
        found = []
        for path in self._touched:
            try:
                found.append(os.dup(self._folders.directory(path)))
            except OSError:
                continue  # removed by a later step; its parent is in the list
        try:
            sync_all(found)
        finally:
            for descriptor in found:
                os.close(descriptor)

    @property
    def _tmp(self) -> int:
        return self._folders.directory(TMP)

    def _parent(self, path: str) -> tuple[int, str]:
        self._touched.add(path.rpartition("/")[0])
        return self._folders.parent(path)

    def _make(self, step: MakeDirectory) -> Stat:
        folder, name = self._parent(step.path)
        os.mkdir(name, 0o777, dir_fd=folder)
        return stat_of(lstat(folder, name))

    # ------------------------------------------------------------ files and links

    def _put(self, step: PutFile | PutLink, staged: Staged) -> Stat:
        folder, name = self._parent(step.path)
        written = lstat(self._tmp, staged.name)
        if step.expect is None:
            self._place(staged.name, folder, name)
        else:
            self._replace(step.expect, staged, folder, name)
        now = lstat(folder, name)
        same = (now.st_ino, now.st_size, now.st_mtime_ns) == (
            written.st_ino, written.st_size, written.st_mtime_ns
        )
        # If somebody has changed it by now, the older stat makes the next scan read it.
        return stat_of(now if same else written)

    def _place(self, staged: str, folder: int, name: str) -> None:
        """Rename to where nothing is. Raises FileExistsError."""
        try:
            swap(self._tmp, staged, folder, name, NOREPLACE)
        except OSError as error:
            if error.errno not in NO_SWAP:
                raise
            os.link(
                staged, name, src_dir_fd=self._tmp, dst_dir_fd=folder, follow_symlinks=False
            )
            os.unlink(staged, dir_fd=self._tmp)

    def _replace(self, expect: Stat, staged: Staged, folder: int, name: str) -> None:
        """Put the staged entry in the place of the expected one."""
        there = self._expected(expect, folder, name)
        if stats.S_ISREG(there.st_mode):
            self._keep_mode(staged, there.st_mode)
        try:
            swap(self._tmp, staged.name, folder, name, EXCHANGE)
        except OSError as error:
            if error.errno not in NO_SWAP:
                raise
            os.rename(staged.name, name, src_dir_fd=self._tmp, dst_dir_fd=folder)
            return
        out = lstat(self._tmp, staged.name)
        if not _same_content(stat_of(out), expect):
            self._put_back(staged, folder, name)
            raise NotDone("changed", "it was changed at this very moment")
        self._discard(staged.name, name, out)

    def _expected(self, expect: Stat, folder: int, name: str) -> os.stat_result:
        try:
            there = lstat(folder, name)
        except FileNotFoundError:
            raise NotDone("changed", "it is gone") from None
        if stat_of(there) != expect:
            raise NotDone("changed", "it is not what it was")
        return there

    def _keep_mode(self, staged: Staged, old: int) -> None:
        """Give the new content the old one's permissions; only the x bits are ours to say."""
        new = lstat(self._tmp, staged.name).st_mode
        if not stats.S_ISREG(new):
            return  # a mode set on a link would be set on what it points to
        mode = old & 0o666 | (0o600 if not old & 0o600 else 0)
        if new & 0o100:
            mode |= (mode & 0o444) >> 2
        os.chmod(staged.name, mode, dir_fd=self._tmp)

    def _put_back(self, staged: Staged, folder: int, name: str) -> None:
        """Undo an exchange; whatever else turns up meanwhile is kept under another name."""
        swap(self._tmp, staged.name, folder, name, EXCHANGE)
        if lstat(self._tmp, staged.name).st_ino != staged.inode:
            kept = conflict_name(name, "recovered", time.time_ns() // 1_000_000)
            self._place(staged.name, folder, kept)

    def _discard(self, staged: str, name: str, out: os.stat_result) -> None:
        """Drop the older content; if somebody still writes into it, it goes to the trash."""
        if stats.S_ISREG(out.st_mode) and self._has_writer(staged):
            self._to_trash(self._tmp, staged, name)
        else:
            os.unlink(staged, dir_fd=self._tmp)

    def _has_writer(self, staged: str) -> bool:
        try:
            descriptor = os.open(staged, OPEN, dir_fd=self._tmp)
        except OSError:
            return True  # not ours to look at: keep it
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        finally:
            os.close(descriptor)
        return False

    # ------------------------------------------------------------ moves and removals

    def _move(self, step: Move) -> Stat:
        check_path(step.source)
        from_folder, source = self._parent(step.source)
        there = lstat(from_folder, source)
        is_folder = stats.S_ISDIR(there.st_mode)
        if there.st_ino != step.expect.inode or not (is_folder or stat_of(there) == step.expect):
            raise NotDone("changed", "it is not what it was")
        to_folder, name = self._parent(step.path)
        try:
            swap(from_folder, source, to_folder, name, NOREPLACE)
        except OSError as error:
            same = error.errno == errno.EEXIST and lstat(to_folder, name).st_ino == there.st_ino
            if error.errno not in NO_SWAP and not same:
                raise
            if error.errno in NO_SWAP and _exists(to_folder, name):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
            os.rename(source, name, src_dir_fd=from_folder, dst_dir_fd=to_folder)
        if is_folder:
            self._folders.forget(step.source)
        now = lstat(to_folder, name)
        if now.st_ino != there.st_ino:
            swap(to_folder, name, from_folder, source, NOREPLACE)
            raise NotDone("changed", "another entry took its place")
        return stat_of(now)

    def _remove(self, step: Remove) -> None:
        folder, name = self._parent(step.path)
        there = lstat(folder, name)
        if step.type is NodeType.DIRECTORY:
            if not stats.S_ISDIR(there.st_mode) or there.st_ino != step.expect.inode:
                raise NotDone("changed", "it is not what it was")
            os.rmdir(name, dir_fd=folder)
            self._folders.forget(step.path)
            return
        if stat_of(there) != step.expect:
            raise NotDone("changed", "it is not what it was")
        parent, kept = self._to_trash(folder, name, step.path)
        if not _same_content(stat_of(lstat(parent, kept)), step.expect):
            swap(parent, kept, folder, name, NOREPLACE)
            raise NotDone("changed", "it was changed at this very moment")

    def _to_trash(self, folder: int, name: str, path: str) -> tuple[int, str]:
        """Rename an entry to `.syncline/trash/<date>/<path>`; where it is now."""
        above, _, last = path.rpartition("/")
        where = f"{TRASH}/{time.strftime('%Y-%m-%d', time.gmtime())}"
        for part in ("", *filter(None, above.split("/"))):
            where = f"{where}/{part}" if part else where
            holder, part_name = self._folders.parent(where)
            try:
                os.mkdir(part_name, 0o700, dir_fd=holder)
            except FileExistsError:
                continue
        parent = self._folders.directory(where)
        kept = last
        while True:
            try:
                swap(folder, name, parent, kept, NOREPLACE)
            except FileExistsError:
                kept = f"{last[:200]}.{secrets.token_hex(4)}"
                continue
            except OSError as error:
                if error.errno not in NO_SWAP:
                    raise
                kept = f"{last[:200]}.{secrets.token_hex(8)}"
                os.rename(name, kept, src_dir_fd=folder, dst_dir_fd=parent)
            self._touched.add(where)
            return parent, kept


def check_path(path: str) -> None:
    """Make sure that a path stays inside the root and out of our own folder. Raises NotDone."""
    for name in path.split("/"):
        reason = check_name(name)
        if reason is not None:
            raise NotDone("name", reason)


def _same_content(now: Stat, expect: Stat) -> bool:
    # A rename changes ctime, so it cannot be compared any more.
    return (now.inode, now.size_bytes, now.mtime_ns, now.executable) == (
        expect.inode, expect.size_bytes, expect.mtime_ns, expect.executable
    )


def _exists(folder: int, name: str) -> bool:
    try:
        lstat(folder, name)
    except FileNotFoundError:
        return False
    return True
