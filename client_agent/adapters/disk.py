"""Running Apply: contents are staged ahead, placed in order, and flushed together (SYNC.md 5).

Steps go in windows. While one window is placed, the next one's contents are fetched and staged;
a window costs one flush for its contents and one for its names, however many files it has.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any, Final

import structlog

from client_agent.adapters.fetching import Fetcher
from client_agent.adapters.placing import (
    SYNC_EACH_MAX,
    TMP,
    TRASH,
    NotDone,
    Placer,
    Staged,
    check_path,
    sync_file_system,
)
from client_agent.adapters.root import Folders, Root, RootFault, lstat
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.adapters.state import State
from client_agent.core.events import (
    Applied,
    Apply,
    DiskStep,
    PutFile,
    PutLink,
    StepDone,
    StepFailed,
)
from client_agent.crypto.space_keys import SpaceKeys
from protocol.limits import MIB

THREADS: Final = 2
WINDOW_STEPS_MAX, WINDOW_BYTES_MAX = 500, 16 * MIB
LARGE_FROM_BYTES: Final = 8 * MIB
TRASH_DAYS: Final = 30
FREE_BYTES_MIN, FREE_SHARE_MIN = 50_000_000, 0.01  # less free space stops downloads

log = structlog.get_logger()
Result = StepDone | StepFailed
Found = Staged | NotDone | None


class Disk:
    """Changes one linked folder. `run` may be called for several effects at once."""

    def __init__(self, root: Root, keys: SpaceKeys, state: State, server: Server) -> None:
        """Start the threads: two that open and stage, one that places."""
        self._root = root
        mask = os.umask(0o077)
        os.umask(mask)
        self._threads = ThreadPoolExecutor(THREADS, "fetch")
        self._hand = ThreadPoolExecutor(1, "place")
        self._fetcher = Fetcher(root, keys, state, server, self._threads, mask)

    def close(self) -> None:
        """End the threads; a step under way is finished."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._hand.shutdown(wait=True)

    async def run(self, effect: Apply, emit: Callable[[Applied], None]) -> None:
        """Do all steps; emit results window by window, in order, the last part marked."""
        windows = list(_windows(effect.steps))
        ahead: asyncio.Task[list[Found]] | None = None
        try:
            for number, window in enumerate(windows):
                staging = ahead or asyncio.create_task(self._stage(window))
                found = await staging
                more = number + 1 < len(windows)
                ahead = asyncio.create_task(self._stage(windows[number + 1])) if more else None
                results = await asyncio.get_running_loop().run_in_executor(
                    self._hand, self._place, window, found
                )
                emit(Applied(tuple(results), last=not more))
            if not windows:
                emit(Applied((), last=True))
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    def empty_trash(self, today: date) -> None:
        """Remove what has been in the trash for longer than it is kept; for a thread."""
        with Folders(self._root) as folders:
            trash = folders.directory(TRASH)
            for name in os.listdir(trash):
                try:
                    old = (today - date.fromisoformat(name)).days > TRASH_DAYS
                except ValueError:
                    continue  # not a day of ours
                if old:
                    shutil.rmtree(name, dir_fd=trash, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a crash left in the staging folder; for a thread, before the first `run`."""
        with Folders(self._root) as folders:
            tmp = folders.directory(TMP)
            for name in os.listdir(tmp):
                try:
                    os.unlink(name, dir_fd=tmp)
                except OSError as error:
                    log.warning("staging folder not clean", error=str(error))

    # ------------------------------------------------------------ staging

    async def _stage(self, window: Sequence[DiskStep]) -> list[Found]:
        """Return for each step what is staged for it. Never raises but to be cancelled."""
        puts = [step for step in window if isinstance(step, PutFile)]
        found: dict[int, Found] = {}
        try:
            await self._in_thread(self._check_room, sum(step.size_bytes for step in puts))
            staged = await self._staged(puts)
            found = {id(step): each for step, each in zip(puts, staged, strict=True)}
        except (Offline, ServerFault) as error:
            found = dict.fromkeys(map(id, puts), NotDone("offline", str(error)))
        except NotDone as error:
            found = dict.fromkeys(map(id, puts), error)
        except RootFault as error:
            found = dict.fromkeys(map(id, puts), NotDone("unreadable", str(error)))
        except Exception as error:
            log.exception("staging failed", files=len(puts))
            found = dict.fromkeys(map(id, puts), NotDone("error", repr(error)))
        return [found.get(id(step)) for step in window]

    async def _staged(self, puts: Sequence[PutFile]) -> list[Staged | NotDone]:
        if len(puts) == 1 and puts[0].size_bytes >= LARGE_FROM_BYTES:
            return [await self._fetcher.stage_large(puts[0])]
        return await self._fetcher.stage_small(puts)

    def _check_room(self, wanted_bytes: int) -> None:
        if not wanted_bytes:
            return
        with Folders(self._root) as folders:
            disk = os.fstatvfs(folders.root)
        free = disk.f_bavail * disk.f_frsize - wanted_bytes
        if free < max(FREE_BYTES_MIN, FREE_SHARE_MIN * disk.f_blocks * disk.f_frsize):
            raise NotDone("disk_full", "the disk is nearly full")

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    # ------------------------------------------------------------ placing

    def _place(self, window: Sequence[DiskStep], found: Sequence[Found]) -> list[Result]:
        """Flush what is staged, do the steps in order, flush the names; in the placing thread."""
        try:
            with Folders(self._root) as folders:
                self._flush_staged(folders, found)
                placer = Placer(folders)
                results = [
                    self._one(folders, placer, step, staged)
                    for step, staged in zip(window, found, strict=True)
                ]
                placer.flush()
                return results
        except (RootFault, OSError) as error:
            log.error("window not placed", error=str(error), steps=len(window))
            return [StepFailed(step.node, "unreadable", str(error)) for step in window]
        except Exception as error:
            log.exception("window not placed", steps=len(window))
            return [StepFailed(step.node, "error", repr(error)) for step in window]

    def _flush_staged(self, folders: Folders, found: Sequence[Found]) -> None:
        tmp = folders.directory(TMP)
        opened: list[int] = []
        try:
            staged = [each for each in found if isinstance(each, Staged)]
            if len(staged) > SYNC_EACH_MAX and sync_file_system(tmp):
                return
            for each in staged:
                opened.append(os.open(each.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=tmp))
                os.fsync(opened[-1])
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _one(
        self, folders: Folders, placer: Placer, step: DiskStep, staged: Found
    ) -> Result:
        try:
            if isinstance(staged, NotDone):
                raise staged
            if isinstance(step, PutLink):
                check_path(step.path)
                staged = self._stage_link(folders, step)
            return StepDone(step.node, placer.run(step, staged))
        except NotDone as error:
            if isinstance(staged, Staged):
                self._unstage(folders, staged)
            return StepFailed(step.node, error.reason, error.detail)

    def _stage_link(self, folders: Folders, step: PutLink) -> Staged:
        tmp, name = folders.directory(TMP), secrets.token_hex(16)
        try:
            os.symlink(step.target, name, dir_fd=tmp)
        except OSError as error:
            raise NotDone.of(error) from None
        except ValueError as error:  # a target with a NUL
            raise NotDone("name", str(error)) from None
        return Staged(name, lstat(tmp, name).st_ino)

    def _unstage(self, folders: Folders, staged: Staged) -> None:
        tmp = folders.directory(TMP)
        try:
            if lstat(tmp, staged.name).st_ino == staged.inode:
                os.unlink(staged.name, dir_fd=tmp)
        except FileNotFoundError:
            return  # it has come to its place


def _windows(steps: Sequence[DiskStep]) -> Iterator[list[DiskStep]]:
    """Cut the steps into windows; a large file has one of its own."""
    window: list[DiskStep] = []
    size = 0
    for step in steps:
        more = step.size_bytes if isinstance(step, PutFile) else 0
        alone = more >= LARGE_FROM_BYTES
        if window and (alone or len(window) >= WINDOW_STEPS_MAX or size + more > WINDOW_BYTES_MAX):
            yield window
            window, size = [], 0
        if alone:
            yield [step]
            continue
        window.append(step)
        size += more
    if window:
        yield window
