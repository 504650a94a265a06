"""The brain of a device: `handle(event, now_ms) -> effects`, and no I/O at all.

    where it stands   when                                        what it does then
    starting          no whole scan yet, or rows not read         scans, pulls; changes nothing
    syncing           plan not empty                              reads, sends, takes
    up_to_date        plan empty, cursor at the head              nothing; wakes hourly for a scan
    offline           no server                                   observes; the queue grows
    paused            the user said so                            observes
    held              a safety stop (core/safety.py)              observes; stops what it must
    error             the journal does not extend ours            observes; talks with nobody

One event is one turn: a part takes it in (observing, reading, following, sending, taking), the
dirty nodes are planned again, what the limits allow is begun, and what changed is saved first.
A node is in at most one thing under way that changes it: a commit, or a disk step. Its newer
state waits for the answer, and is planned then.
"""

from client_agent.core import (
    choosing,
    copying,
    following,
    loading,
    observing,
    planning,
    reading,
    safety,
    saving,
    sending,
    status,
    taking,
)
from client_agent.core.events import (
    Applied,
    Apply,
    Approved,
    Choose,
    Commit,
    CommitFailed,
    Committed,
    Connected,
    Disconnected,
    Effect,
    Event,
    Hinted,
    Ingest,
    Ingested,
    Named,
    Paused,
    Pulled,
    PullFailed,
    Renew,
    Renewed,
    Rescan,
    Save,
    Scanned,
    Wake,
    Woken,
)
from client_agent.core.state import Loaded, State, Wait
from client_agent.core.trees import Conflict
from protocol.ids import Dice

RESCAN_MS = 3_600_000  # ± 25 %
ROUNDS_MAX = 4  # of planning and beginning in one turn
STALL_MS = 30_000  # doubled with each stall in a row, up to 32 times


class Engine:
    """One device and one space."""

    def __init__(
        self,
        device: bytes,
        generation: int,
        loaded: Loaded,
        dice: Dice,
        device_name: str = "device",
    ) -> None:
        """Begin with what was saved. `dice` gives random bytes: node ids, jitter."""
        self._state = state = State(
            device, generation, dice, loaded.cursor, loaded.dots, loaded.ops, loaded.hlc,
            conflicts=dict(loaded.conflicts), names={device: device_name},
        )  # fmt: skip
        loading.load(state, loaded)
        for line in loaded.queue.values():
            if line.attempts:
                state.waits[line.node] = Wait(line.attempts, line.not_before_ms, line.fault)
                state.alarm(line.not_before_ms, "node", line.node)
        for conflict in loaded.conflicts.values():
            if not conflict.copied:
                wait_ms = 0 if conflict.ours else following.COPY_WAIT_MS
                state.alarm(conflict.at_ms + wait_ms, "copy", conflict.loser)
        for commit in loaded.sent:
            state.sending = sending.opened(commit, under_way=False)

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        """Take in one event; return what to do, a `Save` first if anything changed."""
        state = self._state
        state.now_ms = now_ms
        self._take_in(event)
        self._ring(now_ms)
        self._advance()
        return self._speak()

    # ------------------------------------------------------------ questions

    def status(self) -> status.Status:
        """Return how things stand."""
        return status.status(self._state)

    def in_sync(self, path: str | None = None) -> bool:
        """Say whether disk and journal agree, on one path or all: what `wait` waits for."""
        return status.in_sync(self._state, path)

    def idle(self) -> bool:
        """Say whether nothing is under way or about to be, but for time."""
        return status.idle(self._state)

    def file_status(self, path: str) -> str:
        """Return one word for a path."""
        return status.file_status(self._state, path)

    def path_of(self, node: bytes) -> str:
        """Return where a node is, on disk or else in the journal."""
        return self._state.path(node)

    def node_at(self, path: str) -> bytes | None:
        """Return the node at a path on disk."""
        return self._state.forest.local.find(path)

    def conflicts(self) -> list[Conflict]:
        """Return the open conflicts."""
        return status.conflicts(self._state)

    # ------------------------------------------------------------ one turn

    def _take_in(self, event: Event) -> None:
        state = self._state
        match event:
            case Hinted():
                observing.hinted(state, event)
            case Scanned():
                observing.scanned(state, event)
            case Ingested():
                reading.ingested(state, event)
            case Pulled():
                following.pulled(state, event)
                sending.close(state)
            case Applied():
                taking.applied(state, event)
            case Committed():
                sending.committed(state, event)
            case CommitFailed():
                sending.failed(state, event)
            case PullFailed():
                following.pull_failed(state, event)
            case Connected():
                self._connected(event.head_seq)
            case Disconnected():
                state.connected = state.caught_up = False
            case Renewed():
                sending.renewed(state, event)
            case Rescan():
                self._rescan()
            case _:
                self._told(event)

    def _told(self, event: Event) -> None:
        """Take in what the user says."""
        state = self._state
        match event:
            case Paused():
                state.paused = event.on
            case Choose():
                choosing.choose(state, event)
            case Named():
                state.names = {**event.devices, **{state.device: state.names[state.device]}}
            case Approved():
                self._approved(event.kind)
            case _:
                assert isinstance(event, Woken), event
                state.wake_at_ms = None

    def _connected(self, head_seq: int) -> None:
        state = self._state
        fresh = not state.connected
        state.connected = True
        state.caught_up = state.caught_up and not fresh
        state.head_seq = head_seq
        if fresh:
            state.pull_not_before_ms = state.sends_not_before_ms = 0
            state.pull_attempts = state.sends_attempts = 0
            for node in sorted(state.after_connect):
                state.waits.pop(node, None)
                state.forest.touch(node)
            state.after_connect.clear()
        if head_seq < state.cursor.seq:
            state.pull_wanted = True  # it shall prove that it extends what we have seen
        elif head_seq == state.cursor.seq and not state.pulling and not state.pull_wanted:
            following.caught_up(state)

    def _rescan(self) -> None:
        state = self._state
        state.scan_all = True
        share = 0.75 + state.chance() / 2
        state.rescan_at_ms = state.now_ms + int(RESCAN_MS * share)
        state.alarm(state.rescan_at_ms, "rescan")
        for waiters in list(state.forest.blocked.values()):  # a safety net: all are looked at anew
            state.forest.dirty.update(dict.fromkeys(sorted(waiters)))
        state.forest.blocked.clear()
        state.downloads_not_before_ms = state.now_ms  # room may have been made on a full disk
        for node, wait in list(state.waits.items()):
            if wait.fault == "disk_full":
                state.done(node)
                state.forest.touch(node)

    def _approved(self, kind: str) -> None:
        state = self._state
        if kind in ("", safety.EMPTIED) and state.holds.pop(safety.EMPTIED, None) is not None:
            state.emptied_is_fine = state.scan_all = True
        if kind in ("", safety.MASS_CHANGE):
            state.breaker.approve()
            state.approved |= state.destructive
        if kind in ("", safety.HISTORY) and state.holds.pop(safety.HISTORY, None) is not None:
            state.pull_wanted = True

    def _ring(self, now_ms: int) -> None:
        """Do what its time has come for."""
        state = self._state
        alarms = state.due_alarms(now_ms)
        for kind, node in alarms:
            match kind:
                case "node":
                    state.forest.touch(node)
                case "racy":
                    observing.racy(state, node)
                case "copy":
                    copying.due(state, node)
                case "scan":
                    state.scan_all = True
                case "rescan" if now_ms >= state.rescan_at_ms:
                    self._rescan()
                case "renew" if state.renewing:
                    state.out.append(Renew())
                case "stall":
                    self._stalled()
                case _:
                    pass  # "missing" and "go": the turn itself looks; or it is out of date
        observing.expire_missing(state)

    def _advance(self) -> None:
        """Plan what is dirty, then begin what the limits allow.

        Again, if beginning changed the plan: a move that was given up, or what found no room.
        """
        state = self._state
        for _ in range(ROUNDS_MAX):
            planning.run(state)
            planning.watch_mass_change(state)
            observing.dispatch(state)
            if state.paused:
                break
            following.dispatch(state)
            sending.dispatch(state)
            taking.dispatch(state)
            reading.dispatch(state)
            if not state.forest.dirty:
                break
        planning.run(state)
        if status.in_sync(state):
            state.synced_at_ms = state.now_ms
        if not state.plans:
            state.stalls = 0
        elif not state.stall_alarm and status.idle(state):
            state.stall_alarm = True
            state.alarm(state.now_ms + (STALL_MS << min(state.stalls, 5)), "stall")

    def _stalled(self) -> None:
        """A plan, and nothing under way for a while: look at all of it anew.

        Mostly it waits for something outside. Should it not, this heals a wake-up that we missed.
        """
        state = self._state
        state.stall_alarm = False
        if not state.plans or not status.idle(state):
            return
        state.stalls += 1
        for node in state.plans:
            state.forest.touch(node)
        planning.run(state)
        self._advance()
        state.missed += any(isinstance(x, Commit | Apply | Ingest) for x in state.out)

    def _speak(self) -> list[Effect]:
        """Return the effects of this turn: what changed is saved before anything is spoken."""
        state = self._state
        effects = state.out
        state.out = []
        save = saving.take(state)
        if save is not None:
            effects.insert(0, save)
        at_ms = state.alarms[0][0] if state.alarms else None
        if at_ms is not None and at_ms != state.wake_at_ms:
            state.wake_at_ms = at_ms
            effects.append(Wake(at_ms))
        return effects


__all__ = ["Engine", "Loaded", "Save"]
