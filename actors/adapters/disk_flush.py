"""Group commit for files: callers that wait for the disk at the same time share one flush.

Linux's `syncfs` makes a whole file system durable in one call; few files are cheaper one by one,
and do not wait for what other programs have written.
"""

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

FEW = 8  # descriptors that are flushed one by one
_SYNCFS_TELLS_ERRORS_SINCE = (5, 8)  # the first Linux whose syncfs reports failed writes

T = TypeVar("T")
Sync = Callable[[int], None]


def find_syncfs() -> Sync | None:
    """Return a function that flushes the file system of a descriptor, None if we cannot trust one.

    It raises OSError, also for writes that failed in the background since the descriptor's last
    call (so keep one descriptor open for good).
    """
    if sys.platform != "linux":
        return None
    major, minor, *_ = (int(digits) for digits in os.uname().release.split("-")[0].split("."))
    libc = ctypes.CDLL(None, use_errno=True)
    if (major, minor) < _SYNCFS_TELLS_ERRORS_SINCE or not hasattr(libc, "syncfs"):
        return None

    def syncfs(descriptor: int) -> None:
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    return syncfs


@dataclass(slots=True)
class _Round:
    done: "asyncio.Future[None]"
    descriptors: list[int] = field(default_factory=list)
    everything: bool = False


class Flusher:
    """Flushes in rounds. Whoever comes while one is under way joins the next."""

    def __init__(self, root: int, syncfs: Sync | None, threads: Executor) -> None:
        """`root` is a descriptor on the file system, open for as long as this lives."""
        self.syncfs = syncfs
        self._root = root
        self._threads = threads
        self._next: _Round | None = None
        self._task: asyncio.Task[None] | None = None

    async def flush(self, descriptors: Sequence[int] = (), everything: bool = False) -> None:
        """Return when these open files and directories, or everything, survive a power cut.

        `everything` needs `syncfs`. Raises OSError: then nothing is known of any of them. The
        descriptors stay the caller's, who must not close them before this returns or raises.
        """
        assert self.syncfs is not None or not everything
        if self._next is None:
            self._next = _Round(asyncio.get_running_loop().create_future())
            if self._task is None:
                self._task = asyncio.create_task(self._run(), name="flush")
        joined = self._next
        joined.descriptors += descriptors
        joined.everything |= everything
        await settled(joined.done)

    async def _run(self) -> None:
        while self._next is not None:
            this, self._next = self._next, None
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(self._threads, self._flush, this)
            except OSError as error:
                this.done.set_exception(error)
            else:
                this.done.set_result(None)
        self._task = None

    def _flush(self, this: _Round) -> None:
        if self.syncfs and (this.everything or len(this.descriptors) > FEW):
            self.syncfs(self._root)
        else:
            for descriptor in this.descriptors:
                os.fsync(descriptor)


async def settled(future: "asyncio.Future[T]") -> T:
    """Wait for work that cannot be interrupted: a cancellation is raised when it has ended."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        if not future.cancelled():
            await asyncio.wait([future])
            future.exception()  # seen, as far as asyncio is concerned
        raise
