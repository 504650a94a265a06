"""The shell around the engine: one queue of events in, effects out, everything else beside it.

    event -> engine.handle -> Save (finished first) -> the other effects, each a task
                                                       whose result is an event again

A task that crashes is logged with a trace id and ends in its failure event: never in silence.
"""

import asyncio
import os
import resource
import secrets
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from client_agent.adapters import profile as profiles
from client_agent.adapters.account import Identity, load_identity, session_keeper
from client_agent.adapters.devices import DeviceBook
from client_agent.adapters.disk import Disk
from client_agent.adapters.drafts import Drafts
from client_agent.adapters.feed import Feed
from client_agent.adapters.ingest import Ingester
from client_agent.adapters.journal import Journal
from client_agent.adapters.link import LOCK
from client_agent.adapters.reading import allow_leases
from client_agent.adapters.root import Root, RootFault
from client_agent.adapters.scanner import scan
from client_agent.adapters.secrets import open_keystore
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.adapters.state import State, lock_file
from client_agent.adapters.watcher import Watcher
from client_agent.core.engine import Engine, Loaded
from client_agent.core.events import (
    Applied,
    Apply,
    Commit,
    CommitFailed,
    Connected,
    Disconnected,
    DiskStep,
    Effect,
    Event,
    Ingest,
    Ingested,
    Named,
    Paused,
    Pull,
    PullFailed,
    Renew,
    Renewed,
    Rescan,
    Save,
    Scan,
    Scanned,
    StepFailed,
    Tell,
    Unread,
    Wake,
    Woken,
)
from client_agent.core.trees import Cursor
from client_agent.crypto.devices import DeviceListBroken
from client_agent.settings import Settings
from protocol.journal import genesis
from protocol.names import RESERVED

EVENTS_AT_ONCE = 64  # handled before their effects run, so that one Save serves them all
NOTICES_MAX = 200
DAY_S = 24 * 3600
FILES_MAX = 65_536  # more are never open, and some systems name no limit

log = structlog.get_logger()


class Agent:
    """One running device. `run` returns when it was asked to stop."""

    def __init__(self, settings: Settings, me: Identity, state: State) -> None:
        """Put the parts together; nothing runs yet. `state` is open."""
        self.settings, self.me, self.state = settings, me, state
        self.notices: deque[tuple[int, Tell]] = deque(maxlen=NOTICES_MAX)
        self._turned = asyncio.Event()  # set after every turn: waiters look again
        self.signed_out = ""
        self.watch_mode = "starting"
        self.started_ms = _now_ms()
        self.stopping = asyncio.Event()
        self.profile = me.profile
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake: asyncio.TimerHandle | None = None
        self._pause_end: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.cursor, self.engine = self._engine()
        keystore = open_keystore(me.profile.keystore, settings.home)
        self.server = Server(
            me.profile.server, me.session, me.secrets.sign, session_keeper(keystore),
            state.count, lambda fault: self.sign_out(fault.fault.code),
        )
        self.root = Root(Path(me.profile.root), me.profile.root_id)
        drafts = Drafts()
        self.book = DeviceBook(me, self.server, state)
        self.journal = Journal(me, state, self.server, drafts, self.book)
        self.journal.tip = self.cursor
        self._ingester = Ingester(self.root, me.keys, state, self.server, drafts)
        self._disk = Disk(self.root, me.keys, state, self.server)
        self.feed = Feed(
            me, self.server, self.journal, lambda: self.cursor, self.emit, self.sign_out
        )
        self._watcher = Watcher(self.root.path, self.emit_soon, self._watching)

    def _engine(self) -> tuple[Cursor, Engine]:
        me = self.me
        memory = self.state.load(me.profile.generation)
        if memory.generation != me.profile.generation:
            self._keep_profile(generation=memory.generation)
        history = bytes.fromhex(me.profile.history)
        owner = bytes.fromhex(me.profile.owner_identity)
        cursor = memory.cursor or Cursor(history, 0, genesis(me.space, history, owner))
        loaded = Loaded(
            cursor, memory.local, memory.remote, memory.synced, memory.conflicts, memory.queue,
            memory.dots, memory.ops, memory.hlc, memory.sent,
        )
        return cursor, Engine(
            me.device, memory.generation, loaded, os.urandom, me.profile.device_name
        )

    # ------------------------------------------------------------ life

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until `stopping` is set. `ready` is called once events are taken."""
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.server)
                self._lock_root(stack)
                await self._clean()
                if self.profile.paused:
                    await self.pause(True, self.profile.paused_until_ms)
                self._watcher.start()
                stack.callback(self._watcher.stop)
                self.emit(Rescan())
                beside = [
                    asyncio.create_task(work)
                    for work in (
                        self._think(), self.feed.listen(), self.feed.beats(), self._daily()
                    )
                ]
                ready()
                await self._until_stopped(beside)
        finally:
            self._ingester.close()
            self._disk.close()

    async def _until_stopped(self, beside: list[asyncio.Task[None]]) -> None:
        asked = asyncio.create_task(self.stopping.wait())
        try:
            done, _ = await asyncio.wait(
                (asked, *beside), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done - {asked}:
                log.error("agent ends", trace_id=secrets.token_hex(8), exc_info=task.exception())
                task.result()  # these never end by themselves: this raises what ended it
        finally:
            every = [asked, *beside, *self._tasks]
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)
            for timer in (self._wake, self._pause_end):
                if timer is not None:
                    timer.cancel()

    def _lock_root(self, stack: AsyncExitStack) -> None:
        """See to it that no other agent has the folder. Raises StateBusy."""
        try:
            lock = lock_file(self.root.path / RESERVED / LOCK)
        except OSError as error:
            log.warning("folder not locked", error=str(error))  # missing: the scan says so
            return
        stack.callback(os.close, lock)

    async def _clean(self) -> None:
        try:
            await asyncio.to_thread(self._disk.clean)
        except Exception as error:  # noqa: BLE001 - whatever it is, the scan says so
            log.warning("staging folder not cleaned", error=str(error))

    async def _daily(self) -> None:
        while True:
            try:
                today = datetime.now(UTC).date()
                await asyncio.to_thread(self._disk.empty_trash, today)
            except (OSError, RootFault) as error:
                log.warning("trash not emptied", error=str(error))
            await asyncio.sleep(DAY_S)

    def sign_out(self, code: str) -> None:
        """The server ended the session: go on observing, and say so."""
        if not self.signed_out:
            log.error("signed out", code=code)
        self.signed_out = code
        self.emit(Disconnected(code))

    async def pause(self, on: bool, until_ms: int = 0) -> None:
        """Stop or resume sending and taking; remembered over restarts.

        `until_ms` (wall clock) ends a pause by itself; 0: it lasts until it is resumed.
        """
        if self._pause_end is not None:
            self._pause_end.cancel()
            self._pause_end = None
        self._keep_profile(paused=on, paused_until_ms=until_ms if on else 0)
        self.emit(Paused(on))
        if on and until_ms:
            wait_s = max(0, until_ms - _now_ms()) / 1000
            self._pause_end = self._loop.call_later(wait_s, self._end_pause)

    def _end_pause(self) -> None:
        self._pause_end = None
        self._keep_profile(paused=False, paused_until_ms=0)
        self.emit(Paused(False))

    def _keep_profile(self, **facts: object) -> None:
        stored = profiles.read(self.settings.home) or self.me.profile
        self.profile = stored.change(**facts)
        profiles.write(self.settings.home, self.profile)

    # ------------------------------------------------------------ turns

    def emit(self, event: Event) -> None:
        """Put an event in the queue; on the loop."""
        self._events.put_nowait(event)

    def emit_soon(self, event: Event) -> None:
        """Put an event in the queue, from another thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.emit, event)

    def _watching(self, mode: str) -> None:
        self.watch_mode = mode
        log.info("watching", mode=mode)

    async def _think(self) -> None:
        while True:
            events = [await self._events.get()]
            while not self._events.empty() and len(events) < EVENTS_AT_ONCE:
                events.append(self._events.get_nowait())
            saves: list[Save] = []
            effects: list[Effect] = []
            for event in events:
                if isinstance(event, Connected) and self.signed_out:
                    continue  # a late answer
                for effect in self.engine.handle(event, _now_ms()):
                    if isinstance(effect, Save):
                        saves.append(effect)
                    else:
                        effects.append(effect)
            if saves:
                save = merged(saves)
                await self.state.save(save)
                self.cursor = save.cursor or self.cursor
            for effect in effects:
                self._begin(effect)
            if any(isinstance(event, Connected) for event in events):
                self._names()
            self._turned.set()
            self._turned = asyncio.Event()

    async def next_turn(self) -> None:
        """Return after the next turn."""
        await self._turned.wait()

    def now_ms(self) -> int:
        """Return the wall clock."""
        return _now_ms()

    def _begin(self, effect: Effect) -> None:
        match effect:
            case Wake():
                self._wake_at(effect.at_ms)
            case Tell():
                log.info("tell", kind=effect.kind, path=effect.path, detail=effect.detail)
                self.notices.append((_now_ms(), effect))
            case Scan():
                self._start(self._scan(effect), lambda error: self._scan_failed(effect, error))
            case Ingest():
                left = {item.node for item in effect.items}
                self._start(
                    self._ingester.run(effect, lambda event: self._ingested(event, left)),
                    lambda error: self._ingest_failed(left, error),
                )
            case Apply():
                steps = deque(effect.steps)
                self._start(
                    self._disk.run(effect, lambda event: self._applied(event, steps)),
                    lambda error: self._apply_failed(steps, error),
                )
            case Commit():
                self._start(
                    self.journal.commit(effect, self.emit),
                    lambda _: self.emit(CommitFailed(effect.op, "internal", retry=False)),
                )
            case Pull():
                self._start(
                    self.journal.pull(effect, self.emit),
                    lambda _: self.emit(PullFailed("internal")),
                )
            case Renew():
                self._start(self._renew(), lambda _: self.emit(Renewed(None)))
            case _:
                raise AssertionError(effect)

    def _start(
        self, work: Awaitable[None], failed: Callable[[BaseException], None]
    ) -> None:
        """Run an effect; if it crashes, say so and let the engine know."""
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                log.exception("effect crashed", trace_id=secrets.token_hex(8))
                failed(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ------------------------------------------------------------ effects

    async def _scan(self, effect: Scan) -> None:
        self.emit(await asyncio.to_thread(scan, self.root, effect))

    def _scan_failed(self, effect: Scan, error: BaseException) -> None:
        self.emit(Scanned(effect.scopes, (), {}, _now_ms(), f"the scan failed: {error!r}"))

    def _ingested(self, event: Ingested, left: set[bytes]) -> None:
        left.difference_update(result.node for result in event.results)
        self.emit(event)

    def _ingest_failed(self, left: Iterable[bytes], error: BaseException) -> None:
        failed = tuple(Unread(node, "error", None, repr(error)) for node in left)
        self.emit(Ingested(failed, last=True))

    def _applied(self, event: Applied, steps: deque[DiskStep]) -> None:
        for _ in event.results:
            steps.popleft()
        self.emit(event)

    def _apply_failed(self, steps: deque[DiskStep], error: BaseException) -> None:
        failed = tuple(StepFailed(step.node, "error", repr(error)) for step in steps)
        self.emit(Applied(failed, last=True))

    async def _renew(self) -> None:
        generation = self.profile.generation + 1
        self._keep_profile(generation=generation)  # before any number of it is given out
        self.emit(Renewed(generation))

    def _wake_at(self, at_ms: int) -> None:
        if self._wake is not None:
            self._wake.cancel()
        delay_s = max(at_ms - _now_ms(), 0) / 1000
        self._wake = self._loop.call_later(delay_s, self.emit, Woken())

    def _names(self) -> None:
        """Fetch the names of the devices when the server is there again."""
        if len(self.book.names) > 1:
            return

        async def work() -> None:
            try:
                await self.book.refresh()
            except (Offline, ServerFault, DeviceListBroken) as error:
                log.warning("device list not read", error=str(error))
            else:
                self.emit(Named(dict(self.book.names)))

        self._start(work(), lambda _: None)


def merged(saves: list[Save]) -> Save:
    """Return one Save with the effect of several in a row."""
    first, *rest = saves
    for later in rest:
        newer = {
            name: getattr(later, name) if getattr(later, name) is not None
            else getattr(first, name)
            for name in ("cursor", "dots", "ops", "hlc", "sent", "generation")
        }
        first = replace(
            first, local=first.local | later.local, remote=first.remote | later.remote,
            synced=first.synced | later.synced, conflicts=first.conflicts | later.conflicts,
            queue=first.queue | later.queue, history=first.history + later.history, **newer,
        )
    return first


async def serve(settings: Settings, ready: Callable[[], None]) -> None:
    """Run the agent of a home until SIGTERM, SIGINT or `syncline stop`.

    Raises StateBusy, StateTooNew, SignedOut, KeystoreLocked, SealBroken.
    """
    from client_agent.adapters.control import serving
    from client_agent.service import Service

    allow_leases()
    _allow_files()
    profile = profiles.read(settings.home)
    assert profile is not None, "the command checks it"
    keystore = open_keystore(profile.keystore, settings.home)
    me = load_identity(settings.home, profile, keystore)
    state = State.open(settings.home)
    try:
        agent = Agent(settings, me, state)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, agent.stopping.set)
        if state.moved_aside is not None:
            log.error("database was damaged", kept=str(state.moved_aside))
        async with serving(settings.socket, Service(agent).answer):
            await agent.run(ready)
    finally:
        await state.close()  # last: with it goes the lock that others wait for


def _allow_files() -> None:
    """Let this process open as many files as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
