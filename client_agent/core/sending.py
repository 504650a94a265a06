"""Commits: one at a time, numbered and saved before they are spoken, closed when they are seen.

    composing -> under way -> answered -> closed      (its rows are in the remote tree)
                 ^      | failed, to be repeated
                 +------+ same op, after a wait

A refused change is planned anew after the journal was read; what is refused again and again
waits longer each time, with the reason shown. Nothing is ever deleted because of a refusal.
"""

from dataclasses import replace

from client_agent.core.choosing import choice_specs
from client_agent.core.composing import Composer
from client_agent.core.copying import copy_specs
from client_agent.core.events import (
    ChangeSpec,
    Commit,
    CommitFailed,
    Committed,
    Renew,
    Renewed,
    ResultRefused,
)
from client_agent.core.safety import HISTORY, STOPS_DISK
from client_agent.core.state import Sending, State
from protocol.backoff import NODE, RECONNECT
from protocol.entry import ChangeKind
from protocol.faults import Code
from protocol.limits import COMMIT_CHANGES_MAX
from protocol.vector import counter

# What stops all talk with the server until a person, or a later session, has looked at it.
STOPS = frozenset({Code.HISTORY_LOST, Code.HISTORY_CHANGED, Code.BAD_SIGNATURE})
# What a look at the journal cures: the plan was made without knowing something.
CURED_BY_PULL = frozenset(
    {
        Code.STALE,
        Code.NODE_DEAD,
        Code.NODE_EXISTS,
        Code.PARENT_DEAD,
        Code.PARENT_MISSING,
        Code.NOT_A_DIRECTORY,
        Code.NOT_EMPTY,
        Code.NAME_TAKEN,
        Code.VERSION_UNKNOWN,
        Code.GROUP_FAILED,
        Code.OUT_OF_ORDER,
    }
)
_TRIES_AT_ONCE = 2  # so often a refusal is planned anew without any wait
_FULL_MS = 5 * 60_000  # quota or server disk: nobody frees space in a second
_VERBS = {
    ChangeKind.CREATE: "uploaded",
    ChangeKind.MODIFY: "uploaded",
    ChangeKind.RESTORE: "restored there",
    ChangeKind.MOVE: "renamed there",
    ChangeKind.DELETE: "deleted there",
    ChangeKind.SET_HEAD: "resolved",
}


def dispatch(state: State) -> None:
    """Send a commit if there is something to send and none is open; repeat one that is due."""
    sending = state.sending
    if not state.connected or HISTORY in state.holds:
        return
    if sending is not None:
        due = sending.seen_seq is None and state.now_ms >= state.sends_not_before_ms
        if not sending.under_way and due:
            sending.under_way = True
            state.out.append(sending.commit)
        return
    fit = state.caught_up and state.scanned and not STOPS_DISK & state.holds.keys()
    if not fit or state.renewing or state.now_ms < state.sends_not_before_ms:
        return
    composer = Composer(state)
    while not composer.full():
        node = state.to_send.pop()
        if node is None:
            break
        composer.add(node)
    for node in composer.overflowed:
        state.forest.touch(node)
    specs = [*composer.specs, *copy_specs(state, COMMIT_CHANGES_MAX - len(composer.specs))]
    specs += choice_specs(state, COMMIT_CHANGES_MAX - len(specs), composer.nodes)
    if specs:
        _send(state, specs)


def _send(state: State, specs: list[ChangeSpec]) -> None:
    numbered = tuple(replace(spec, dot=state.next_dot()) for spec in specs)
    answered = counter(state.generation, state.ops) if state.ops else 0
    for spec in specs:
        if spec.kind in (ChangeKind.DELETE, ChangeKind.MODIFY):
            state.count_destructive(spec.node)
    state.ops += 1
    state.unsaved |= {"ops", "sent"}
    op = counter(state.generation, state.ops)
    commit = Commit(op=op, answered=answered, changes=numbered, cursor=state.cursor)
    state.sending = opened(commit)
    state.out.append(commit)


def opened(commit: Commit, *, under_way: bool = True) -> Sending:
    """Return the record of a commit that is not closed."""
    return Sending(
        commit=commit,
        specs={spec.dot: spec for spec in commit.changes},
        nodes=frozenset(spec.node for spec in commit.changes),
        under_way=under_way,
    )


def committed(state: State, event: Committed) -> None:
    """Take in the answer: refusals at once, the rest when its rows are seen."""
    sending = state.sending
    if sending is None or sending.commit.op != event.op or sending.seen_seq is not None:
        return  # a repeated answer
    sending.under_way = False
    state.sends_attempts = 0
    state.commit_changes_max = min(COMMIT_CHANGES_MAX, 2 * state.commit_changes_max)
    state.head_seq = max(state.head_seq or 0, event.head_seq)
    seen_seq = 0
    for spec, result in zip(sending.commit.changes, event.results, strict=True):
        if isinstance(result, ResultRefused):
            _refused(state, spec, result)
        else:
            seen_seq = max(seen_seq, result.seq)
            state.note(_VERBS[spec.kind], spec.node)
            if spec.version is not None:
                _sent(state, spec)
            state.done(spec.node)
    sending.seen_seq = seen_seq
    close(state)


def _sent(state: State, spec: ChangeSpec) -> None:
    """Its reading served its purpose, unless it is already another one."""
    read = state.reads.get(spec.node)
    if read is not None and read.version == spec.version:
        state.forget_read(spec.node)


def close(state: State) -> None:
    """Close the commit once its rows are seen; its nodes are planned again."""
    sending = state.sending
    if sending is None or sending.seen_seq is None or state.cursor.seq < sending.seen_seq:
        return
    _drop(state, sending)


def _drop(state: State, sending: Sending) -> None:
    state.sending = None
    state.unsaved.add("sent")
    for node in sorted(sending.nodes):
        state.forest.touch(node)


def _refused(state: State, spec: ChangeSpec, result: ResultRefused) -> None:
    """React to one refused change, by its code."""
    node, code = spec.node, result.code
    if code in STOPS:
        state.hold(HISTORY, code)
    elif code == Code.DOT_REUSED:
        _renew(state)
    elif code == Code.CYCLE:
        state.yield_place(node)
    elif spec.kind is ChangeKind.SET_HEAD:
        state.pull_wanted = True
        state.tell("choice_refused", state.path(node), code)
    elif spec.copy_of is not None:
        _copy_refused(state, spec, code)
    elif code in CURED_BY_PULL:
        state.pull_wanted = True
        state.after_pull.add(node)
        state.retry(node, code)
    elif code in (Code.QUOTA_EXCEEDED, Code.STORAGE_FULL):
        state.wait(node, code, floor_ms=_FULL_MS)
    else:
        if code == Code.CHUNKS_MISSING:
            state.forget_read(node)
        state.wait(node, code, floor_ms=1_000)


def _copy_refused(state: State, spec: ChangeSpec, code: str) -> None:
    assert spec.copy_of is not None
    state.pull_wanted = True
    state.copy_attempts[spec.copy_of] = state.copy_attempts.get(spec.copy_of, 0) + 1
    delay = NODE.delay_ms(state.copy_attempts[spec.copy_of], state.chance())
    if code in CURED_BY_PULL and state.copy_attempts[spec.copy_of] <= _TRIES_AT_ONCE:
        delay = 0
    state.alarm(state.now_ms + delay, "copy", spec.copy_of)


def failed(state: State, event: CommitFailed) -> None:
    """The commit has no answer: repeat it under its number, or close it and plan anew."""
    sending = state.sending
    if sending is None or sending.commit.op != event.op or sending.seen_seq is not None:
        return
    sending.under_way = False
    for node in sorted(event.unread):
        state.forget_read(node)
    delay = RECONNECT.delay_ms(state.sends_attempts, state.chance()) + 1
    state.sends_attempts += 1
    state.sends_not_before_ms = state.now_ms + max(delay, event.retry_after_ms)
    state.alarm(state.sends_not_before_ms, "go")
    if event.retry:
        return
    if event.fault in STOPS:
        state.hold(HISTORY, event.fault)
    elif event.fault == Code.DOT_REUSED:
        _renew(state)
    elif not event.unread:
        state.pull_wanted = True
        _halve(state, sending, event.fault)
    _drop(state, sending)


def _halve(state: State, sending: Sending, fault: str) -> None:
    """One bad change must not stop the others: send half as many, down to the one that is bad."""
    count = len(sending.commit.changes)
    if count > 1:
        state.commit_changes_max = count // 2
        return
    state.commit_changes_max = 1
    for node in sending.nodes:
        state.wait(node, fault, floor_ms=1_000)
    for spec in sending.commit.changes:
        if spec.copy_of is not None:
            _copy_refused(state, spec, fault)


def _renew(state: State) -> None:
    """A number of ours was used before: nothing is sent until we have a new generation."""
    if not state.renewing:
        state.renewing = True
        state.out.append(Renew())


def renewed(state: State, event: Renewed) -> None:
    """Begin to count anew in the new generation; ask again later if there is none yet."""
    if event.generation is None:
        state.alarm(state.now_ms + NODE.delay_ms(6, state.chance()) + 1, "renew")
        return
    state.renewing = False
    state.generation = event.generation
    state.dots = state.ops = 0
    state.unsaved |= {"generation", "dots", "ops"}
