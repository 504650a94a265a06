"""Reading one file for the server: ready or not, whole or not (SYNC.md 3). All of it for threads.

One reading does everything: it is cut, and the cuts get the keyed ids by which they are known.
"""

import errno
import fcntl
import os
import signal
import stat as stats
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from client_agent.adapters.root import Folders, lstat, stat_of
from client_agent.core import chunker
from client_agent.core.events import IngestItem, Unread
from client_agent.core.trees import Stat
from client_agent.crypto.space_keys import SpaceKeys
from protocol.entry import NodeType
from protocol.limits import MIB

OPEN: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
RACY_NS: Final = 50_000_000  # changed so shortly before it was read: a coarse clock may hide more
STILL_MS: Final = 500  # where there are no leases, a file that stood still so long is ready
STANDING_WRITER_MS: Final = 30_000  # then a file is read although somebody has it open
BATCH_BYTES: Final = 6 * MIB  # of plaintext: sealed, one pack takes it

_NO_LEASES = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def allow_leases() -> None:
    """Ignore SIGIO: a writer that opens a file under our lease sends it, and it would kill us.

    Call in the main thread before the first reading.
    """
    signal.signal(signal.SIGIO, signal.SIG_IGN)


class NotNow(Exception):
    """The entry cannot be read now; says why as `Unread` does."""

    def __init__(self, reason: str, detail: str = "", stat: Stat | None = None) -> None:
        """Gather the facts."""
        super().__init__(reason)
        self.reason, self.detail, self.stat = reason, detail, stat

    def of(self, item: IngestItem) -> Unread:
        """Return the event's part for an item."""
        return Unread(item.node, self.reason, self.stat, self.detail)


@dataclass(slots=True)
class Reading:
    """An open file that was ready to be read when it was opened."""

    descriptor: int
    stat: Stat
    racy: bool
    cut: chunker.Cut
    dense: bool = False  # what was read so far did not compress

    def check(self) -> None:
        """Make sure that the file is what it was. Raises NotNow. Call after the last byte."""
        now = stat_of(os.fstat(self.descriptor))
        if now != self.stat:
            raise NotNow("changed", "it changed while it was read", now)

    def whole(self) -> list[memoryview]:
        """Return all chunks of a file that fits in memory. Raises NotNow."""
        size = self.stat.size_bytes
        data = bytearray()
        while len(data) <= size:  # one byte more than there should be tells that it grew
            part = os.read(self.descriptor, max(size + 1 - len(data), 1))
            if not part:
                break
            data += part
        self.check()
        if len(data) != size:
            raise NotNow("changed", "it has another size than its stat says", self.stat)
        return list(chunker.cut_buffer(bytes(data), self.cut)) if data else []

    def batches(self) -> Iterator[list[bytes]]:
        """Yield all chunks, a few megabytes at a time. The caller calls `check` at the end."""
        def readinto(buffer: memoryview) -> int:
            return os.readv(self.descriptor, [buffer])

        batch: list[bytes] = []
        size = 0
        for cut in chunker.cut_stream(readinto, self.cut):
            batch.append(cut)
            size += len(cut)
            if size >= BATCH_BYTES - chunker.cut_for(0, 0).max_bytes:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def open_ready(folders: Folders, item: IngestItem, keys: SpaceKeys) -> Reading:
    """Open a regular file if nobody is writing it. Raises NotNow."""
    started_ns = time.time_ns()
    try:
        folder, name = folders.parent(item.path)
        descriptor = os.open(name, OPEN, dir_fd=folder)
    except OSError as error:
        raise _failed(error) from None
    try:
        status = os.fstat(descriptor)
        if not stats.S_ISREG(status.st_mode):
            raise NotNow("changed", "it is no file any more", stat_of(status))
        stat = stat_of(status)
        standing = not _ready(descriptor, item, stat, started_ns)
        racy = standing or started_ns - max(stat.mtime_ns, stat.ctime_ns) < RACY_NS
        return Reading(
            descriptor, stat, racy, chunker.cut_for(stat.size_bytes, keys.gear_seed)
        )
    except BaseException:
        os.close(descriptor)
        raise


def read_link(folders: Folders, item: IngestItem) -> tuple[Stat, str]:
    """Return stat and text of a symlink. Raises NotNow."""
    try:
        folder, name = folders.parent(item.path)
        before = stat_of(lstat(folder, name))
        target = os.readlink(name, dir_fd=folder)
        after = stat_of(lstat(folder, name))
        target.encode()
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise NotNow("changed", "it is no link any more") from None
        raise _failed(error) from None
    except UnicodeEncodeError:
        raise NotNow("unreadable", "its target is not UTF-8") from None
    if before != after:
        raise NotNow("changed", "it changed while it was read", after)
    return after, target


def _ready(descriptor: int, item: IngestItem, stat: Stat, now_ns: int) -> bool:
    """Say whether nobody writes the file; False: somebody may, but it stood still for long.

    Raises NotNow: busy.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno in _NO_LEASES:
            still_ms = (now_ns - max(stat.mtime_ns, stat.ctime_ns)) // 1_000_000
            same = stat == item.stat
            if still_ms >= STILL_MS or (same and item.fresh_ms >= STILL_MS):
                return True
        elif stat == item.stat and item.fresh_ms >= STANDING_WRITER_MS:
            return False
        raise NotNow("busy", "somebody is writing it", stat) from None
    return True


def _failed(error: OSError) -> NotNow:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotNow("vanished")
    if error.errno in (errno.ELOOP, errno.ENXIO):  # a link or a pipe took its place
        return NotNow("changed", error.strerror or "")
    return NotNow("unreadable", error.strerror or str(error))


def is_small(item: IngestItem, limit_bytes: int) -> bool:
    """Say whether an entry is read in one go, with others."""
    return item.type is NodeType.SYMLINK or item.stat.size_bytes <= limit_bytes
