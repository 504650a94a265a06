"""What the user is told: computed from the trees and the plan, never kept beside them."""

from dataclasses import dataclass

from client_agent.core.events import Queued
from client_agent.core.planner import SENDS, TAKES, Step
from client_agent.core.safety import HISTORY
from client_agent.core.state import TRIES_SHOWN, State
from client_agent.core.trees import Conflict
from protocol.ids import ROOT


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of nodes; `errors` failed several times, `held` wait for an approval."""

    queued: int
    uploading: int
    downloading: int
    conflicts: int
    held: int
    errors: int
    ignored: int


@dataclass(frozen=True, slots=True)
class Status:
    """State is up_to_date, syncing, paused, offline, attention, held or error.

    `faults`: path -> reason; `holds`: kind -> detail.
    """

    state: str
    counts: Counts
    up_left_bytes: int
    down_left_bytes: int
    cursor_seq: int
    head_seq: int | None
    connected: bool
    faults: dict[str, str]
    holds: dict[str, str]
    synced_at_ms: int


def status(state: State) -> Status:
    """Return how things stand. O(plan)."""
    counts, up_bytes, down_bytes = _count(state)
    faults = _faults(state)
    return Status(
        state=_word(state, counts),
        counts=counts,
        up_left_bytes=up_bytes,
        down_left_bytes=down_bytes,
        cursor_seq=state.cursor.seq,
        head_seq=state.head_seq,
        connected=state.connected,
        faults=faults,
        holds=dict(state.holds),
        synced_at_ms=state.synced_at_ms,
    )


def _count(state: State) -> tuple[Counts, int, int]:
    up = down = up_bytes = down_bytes = held = 0
    local, remote = state.forest.local.rows, state.forest.remote.rows
    for node, steps in state.plans.items():
        held += state.held(node)
        if Step.READ in steps or SENDS & set(steps):
            up += 1
            row = local.get(node)
            up_bytes += row.stat.size_bytes if row and steps != (Step.MOVE,) else 0
        if TAKES & set(steps):
            down += 1
            if Step.MAKE in steps or Step.PUT in steps:
                down_bytes += remote[node].size_bytes
    errors = sum(w.attempts >= TRIES_SHOWN for w in state.waits.values())
    counts = Counts(
        queued=len(state.plans),
        uploading=up,
        downloading=down,
        conflicts=len(conflicts(state)),
        held=held,
        errors=errors + len(state.unreadable) + len(state.stuck),
        ignored=state.ignored,
    )
    return counts, up_bytes, down_bytes


def _word(state: State, counts: Counts) -> str:
    if state.paused:
        return "paused"
    if HISTORY in state.holds:
        return "error"
    if state.holds:
        return "held"
    if not state.connected:
        return "offline"
    if counts.errors:
        return "attention"
    if not in_sync(state):
        return "syncing"
    return "attention" if counts.conflicts else "up_to_date"


def _faults(state: State) -> dict[str, str]:
    found = dict(state.unreadable)
    for node, wait in state.waits.items():
        if wait.attempts >= TRIES_SHOWN:
            found[state.path(node)] = wait.fault
    for node, fault in state.stuck.items():
        found[state.path(node)] = fault
    return found


def idle(state: State) -> bool:
    """Say whether nothing is under way or about to be, but for time."""
    return not (
        state.scanning
        or state.scopes
        or state.scan_all
        or state.ingests
        or state.applies
        or state.pulling
        or state.pull_wanted
        or state.sending
        or state.forest.dirty
    )


def in_sync(state: State, path: str | None = None) -> bool:
    """Say whether disk and journal agree, here and accepted by the server; on one path, or all.

    Never on less than a whole scan in this run and a journal read to its known head.
    """
    looked = state.scanned and not (state.scanning or state.scopes or state.scan_all)
    heard = state.connected and state.caught_up and state.head_seq is not None
    if not (looked and heard and not state.forest.dirty and not state.pull_wanted):
        return False
    if state.head_seq is None or state.cursor.seq < state.head_seq:
        return False
    if path is None:
        return not (state.plans or state.missing or state.sending or state.taking)
    tops = {path}
    if any(_is_below(state.path(node), tops) for node in (*state.plans, *state.taking)):
        return False
    return not any(_is_below(_missing_path(state, node), tops) for node in state.missing)


def _missing_path(state: State, node: bytes) -> str:
    row, _ = state.missing[node]
    above = _missing_path(state, row.parent) if row.parent in state.missing else None
    if above is None:
        above = state.path(row.parent) if row.parent != ROOT else ""
    return f"{above}/{row.name}" if above else row.name


def _is_below(path: str, tops: set[str]) -> bool:
    return any(not top or path == top or path.startswith(f"{top}/") for top in tops)


def file_status(state: State, path: str) -> str:
    """Return one word for a path.

    synced, syncing, waiting, error, conflict, unreadable, unknown (nothing of it is known).
    """
    if path in state.unreadable:
        return "unreadable"
    node = state.forest.local.find(path)
    if node is None:
        node = next((n for n in state.plans if state.path(n) == path), None)
    if node is None:
        return "unknown"
    wait = state.waits.get(node)
    if node in state.stuck or (wait is not None and wait.attempts >= TRIES_SHOWN):
        return "error"
    if wait is not None and node in state.plans:
        return "waiting"
    if node in state.plans or state.busy(node):
        return "syncing"
    open_ones = {conflict.node for conflict in conflicts(state)}
    return "conflict" if node in open_ones else "synced"


def conflicts(state: State) -> list[Conflict]:
    """Return the open conflicts: whose copy is not there yet, or is there and lives."""
    remote = state.forest.remote
    return [
        conflict
        for conflict in state.conflicts.values()
        if not conflict.copied or remote.alive(conflict.copy)
    ]


def queued(state: State, node: bytes) -> Queued | None:
    """Return the line of the offline queue for a node; None if there is nothing to do."""
    steps = state.plans.get(node)
    if not steps:
        return None
    wait = state.waits.get(node)
    return Queued(
        node=node,
        step=steps[0].value,
        path=state.path(node),
        priority=2 if Step.DELETE in steps or Step.REMOVE in steps else 1,
        attempts=wait.attempts if wait else 0,
        not_before_ms=wait.until_ms if wait else 0,
        fault=state.stuck.get(node, wait.fault if wait else ""),
    )
