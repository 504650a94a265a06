"""Follow the journal: its rows into the remote tree, in order and without a gap.

A row of our own commit also moves the merge base: what was sent is what both sides agree on now,
whatever the disk has become since. Vectors: an accepted content has its base and its dot; where
two edits met, the node has the join of both (SYNC.md 4).
"""

from dataclasses import replace

from client_agent.core.events import ChangeSpec, Pull, Pulled, PullFailed, RemoteChange
from client_agent.core.safety import HISTORY
from client_agent.core.state import State
from client_agent.core.trees import Conflict, Cursor, Remote, Synced
from protocol import clock, vector
from protocol.backoff import RECONNECT
from protocol.entry import ChangeKind
from protocol.journal import Outcome, RowKind

COPY_WAIT_MS = 60_000  # after which any device makes the copy that its maker did not
_PLACING = frozenset(
    {ChangeKind.CREATE, ChangeKind.MOVE, ChangeKind.DELETE, ChangeKind.RESTORE}
)
_STOPS = frozenset({"bad_head", "history_lost", "history_changed", "bad_signature"})


def dispatch(state: State) -> None:
    """Fetch rows if there are some that we have not seen."""
    if state.pulling or not state.connected or HISTORY in state.holds:
        return
    behind = state.head_seq is not None and state.head_seq > state.cursor.seq
    if (behind or state.pull_wanted) and state.now_ms >= state.pull_not_before_ms:
        state.pulling = True
        state.pull_wanted = False
        state.out.append(Pull(state.cursor))


def pulled(state: State, event: Pulled) -> None:
    """Take in rows, if they continue what we have."""
    if event.asked:
        state.pulling = False
    if event.history != state.cursor.history:
        if event.asked:
            state.hold(HISTORY, "history_changed")
        return
    state.head_seq = max(state.head_seq or 0, event.head_seq)
    if event.prev_seq > state.cursor.seq:
        state.pull_wanted = True
        return
    for row in event.rows:
        if row.seq == state.cursor.seq + 1:
            if not _follows(state.forest.remote.rows.get(row.node), row):
                state.hold(HISTORY, "bad_head")
                return
            _take_in(state, row)
    if event.asked:
        _pace(state, event)
    if event.more:
        state.pull_wanted = True
    elif event.asked:
        caught_up(state)


def _pace(state: State, event: Pulled) -> None:
    """Do not ask in a circle a server that promises rows and shows none.

    Once is no lie: a push may overtake the answer.
    """
    behind = event.more or (state.head_seq or 0) > state.cursor.seq
    if event.rows or not behind:
        state.pull_attempts = 0
    elif state.pull_attempts:
        _pull_later(state, 0)
    else:
        state.pull_attempts = 1


def _follows(old: Remote | None, row: RemoteChange) -> bool:
    """Say whether a change may come after what we know of its node.

    Its author signed it, but the server says when: it could show an old one again, and so undo
    what came later. The server's own rules refuse all of this (actors/core), so an honest journal
    never holds it.
    """
    if row.kind is not RowKind.CHANGE:
        return True
    place_rev, seen = (old.place_rev, old.vector) if old else (0, vector.EMPTY)
    if row.change in _PLACING:
        if row.place_rev_before != place_rev or row.place_rev != place_rev + 1:
            return False
    elif row.place_rev not in (0, place_rev):
        return False
    if row.version is None:
        return True
    dot = (row.device, row.dot)
    if dict(seen).get(row.device, 0) >= row.dot:
        return False
    accepted = row.outcome is Outcome.ACCEPTED
    return not accepted or vector.join(seen, (dot,)) == row.vector


def caught_up(state: State) -> None:
    """The remote tree is as the server's was when we asked: nodes that waited for it go on."""
    state.caught_up = True
    for node in sorted(state.after_pull):
        state.forest.touch(node)
    state.after_pull.clear()


def pull_failed(state: State, event: PullFailed) -> None:
    """Try again later, or stop if the server's journal does not extend ours."""
    state.pulling = False
    state.pull_wanted = True
    if event.fault in _STOPS:
        state.hold(HISTORY, event.fault)
        return
    _pull_later(state, event.retry_after_ms)


def _pull_later(state: State, floor_ms: int) -> None:
    delay = RECONNECT.delay_ms(state.pull_attempts, state.chance()) + 1
    state.pull_attempts += 1
    state.pull_not_before_ms = state.now_ms + max(delay, floor_ms)
    state.alarm(state.pull_not_before_ms, "go")


def _take_in(state: State, row: RemoteChange) -> None:
    state.cursor = Cursor(state.cursor.history, row.seq, row.hash)
    state.unsaved.add("cursor")
    if row.kind is RowKind.CHANGE:
        assert row.change is not None
        state.hlc = clock.receive(state.hlc, row.hlc, state.now_ms)
        state.unsaved.add("hlc")
        old = state.forest.remote.rows.get(row.node)
        new = _remote(old, row)
        state.forest.put_remote(new)
        spec = state.sending.specs.get(row.dot) if state.sending and row.own else None
        if spec is not None:
            _own(state, spec, row, new)
        if row.loser is not None and row.copy is not None:
            _conflict(state, old, row)
        _copied(state, row.node)
    elif row.kind is RowKind.CONFLICT_RESOLVED:
        for loser in [row.loser] if row.loser else list(state.conflicts_of.get(row.node, ())):
            settle(state, loser)


def _remote(old: Remote | None, row: RemoteChange) -> Remote:
    """Return a node's row after a change of it."""
    base = old or Remote(row.node, b"", "", row.type, 0, alive=False)
    placed, contained = row.parent is not None, row.version is not None
    seen = vector.join(base.vector, row.vector)
    news = contained and row.outcome in (Outcome.ACCEPTED, Outcome.WON)  # else the head stays
    head: Remote | RemoteChange = row if news else base
    return Remote(
        node=row.node,
        parent=base.parent if row.parent is None else row.parent,
        name=(row.name or "") if placed else base.name,
        type=head.type,
        place_rev=row.place_rev or base.place_rev,
        alive=row.change is not ChangeKind.DELETE and (placed or base.alive),
        version=head.version or b"",
        content_id=head.content_id,
        vector=row.vector if news and row.outcome is Outcome.ACCEPTED else seen,
        size_bytes=head.size_bytes,
        mtime_ns=head.mtime_ns,
        executable=head.executable,
        target=head.target,
        fault=row.fault or ("" if placed or contained else base.fault),
        device=head.device,
    )


def _own(state: State, spec: ChangeSpec, row: RemoteChange, new: Remote) -> None:
    """Our change was made: it is what both sides agree on now."""
    forest, node = state.forest, spec.node
    old = forest.synced.get(node)
    state.yielded.discard(node)
    if spec.copy_of is not None or spec.kind is ChangeKind.SET_HEAD:
        return  # it comes to our disk as it does to others'
    if spec.kind is ChangeKind.DELETE:
        if node not in forest.local.rows:  # else it was chosen to go, and is removed now
            forest.drop_synced(node)
        return
    base = old or Synced(node, new.parent, new.name, spec.type)
    if spec.parent is not None and spec.name is not None:
        base = replace(base, parent=spec.parent, name=spec.name)
    if spec.version is not None:
        lost = row.outcome is Outcome.LOST
        base = replace(
            base,
            content_id=spec.content_id,
            version=spec.version if lost else new.version,
            vector=row.vector if lost else new.vector,
        )
    elif spec.kind is ChangeKind.RESTORE:
        base = replace(
            base, content_id=new.content_id, version=new.version, vector=new.vector
        )
    forest.put_synced(base)


def _conflict(state: State, old: Remote | None, row: RemoteChange) -> None:
    """Two edits met: the loser shall become a file of its own."""
    assert row.loser is not None
    assert row.copy is not None
    head_before = old.device if old is not None else b""
    won = row.outcome is Outcome.WON
    conflict = Conflict(
        node=row.node,
        loser=row.loser,
        head=row.head or row.version or b"",
        copy=row.copy,
        seq=row.seq,
        at_ms=row.server_ms,
        ours=row.own,
        loser_device=head_before if won else row.device,
        head_device=row.device if won else head_before,
        copied=row.copy in state.forest.remote.rows,
    )
    state.conflicts[row.loser] = conflict
    state.index(conflict)
    state.unsaved_conflicts.add(row.loser)
    state.tell("conflict", state.path(row.node))
    state.note("conflict", row.node)
    wait_ms = 0 if row.own else COPY_WAIT_MS
    state.alarm(state.now_ms + wait_ms, "copy", row.loser)


def _copied(state: State, node: bytes) -> None:
    """Note that a conflict copy exists."""
    for loser in state.copies.get(node, ()):
        if not state.conflicts[loser].copied:
            state.conflicts[loser] = replace(state.conflicts[loser], copied=True)
            state.unsaved_conflicts.add(loser)


def settle(state: State, loser: bytes) -> None:
    """Drop a conflict that was resolved."""
    conflict = state.conflicts.pop(loser, None)
    if conflict is not None:
        state.copies[conflict.copy].remove(loser)
        state.conflicts_of[conflict.node].remove(loser)
        state.unsaved_conflicts.add(loser)
