"""Have contents read: batches of small files, large ones apart, a bounded number under way."""

from dataclasses import replace

from client_agent.core.events import Ingest, Ingested, IngestItem, Read, Unread
from client_agent.core.observing import RACY_MS
from client_agent.core.planner import Step
from client_agent.core.safety import HISTORY, STOPS_DISK
from client_agent.core.state import State
from protocol.backoff import NODE, RECONNECT, WRITER
from protocol.limits import COMMIT_CHANGES_MAX, MIB

BATCH_BYTES_MAX = 8 * MIB  # of content; a larger file is read on its own
INGESTS_MAX = 4  # under way at once
INLINE_BYTES_MAX = 64 * MIB  # sealed and not yet committed: what the adapter holds for us


def dispatch(state: State) -> None:
    """Start reading what waits for it, as far as the limits allow.

    Not before the remote tree is known: at a first link nothing may go up before that.
    """
    stopped = HISTORY in state.holds or bool(STOPS_DISK & state.holds.keys())
    if stopped or not (state.connected and state.scanned and state.caught_up):
        return
    while state.ingests < INGESTS_MAX and state.reads_bytes < INLINE_BYTES_MAX:
        items = _batch(state)
        if not items:
            return
        state.ingests += 1
        state.reading.update((item.node, item.stat) for item in items)
        state.out.append(Ingest(tuple(items)))


def _batch(state: State) -> list[IngestItem]:
    items: list[IngestItem] = []
    size_bytes = 0
    while len(items) < COMMIT_CHANGES_MAX and size_bytes < BATCH_BYTES_MAX:
        node = state.to_read.pop()
        if node is None:
            break
        row = state.forest.local.rows.get(node)
        path = state.forest.local.path(node)
        unfit = node in state.reading or node in state.taking or state.waiting(node)
        if row is None or path is None or unfit or Step.READ not in state.plans.get(node, ()):
            continue  # it comes back when what is under way ends, its wait is over or it changes
        size_bytes += row.stat.size_bytes
        fresh_ms = max(0, state.now_ms - row.stat.mtime_ns // 1_000_000)
        items.append(IngestItem(node, path, row.type, row.stat, fresh_ms))
    return items


def ingested(state: State, event: Ingested) -> None:
    """Take in what was read: content ids into the local tree, versions for the commit."""
    if event.last:
        state.ingests -= 1
    for result in event.results:
        expected = state.reading.pop(result.node, None)
        row = state.forest.local.rows.get(result.node)
        state.forest.touch(result.node)
        if row is None or expected is None:
            continue  # gone meanwhile, or said twice
        if isinstance(result, Unread):
            _unread(state, result)
        elif row.stat not in (expected, result.stat):
            continue  # the scan has seen a newer edit: read that
        else:
            _read(state, result)


def _read(state: State, read: Read) -> None:
    row = state.forest.local.rows[read.node]
    state.forget_read(read.node)
    state.reads[read.node] = read
    state.reads_bytes += read.inline_bytes
    state.forest.put_local(
        replace(row, stat=read.stat, content_id=read.content_id, racy=read.racy)
    )
    state.done(read.node)
    if read.racy:
        state.alarm(state.now_ms + RACY_MS, "racy", read.node)


def _unread(state: State, unread: Unread) -> None:
    """Try again, as late as the reason says."""
    node, reason = unread.node, unread.reason
    if reason == "offline":
        state.after_connect.add(node)
        state.wait(node, reason, RECONNECT)
    elif reason in ("vanished", "changed"):
        state.wait(node, reason, WRITER)
        state.scan(state.path(node))
    elif reason == "busy":
        state.wait(node, reason, WRITER)
    else:
        state.wait(node, unread.detail or reason, NODE, floor_ms=1_000)
