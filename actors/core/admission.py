"""What UserSync admits: a pure decision over a commit and what the store knows (SYNC.md 1 to 8).

    commit = read(command)                the bytes make sense, or Refusal
    view   = what the store knows of wanted(commit)
    admit(space, view, commit, now_ms)    one result per change, and the batch to write

Changes are made one after another; each sees those before it. One that is refused leaves the
others alone, but for its atomic group. The same commit on the same view gets the same decision.
"""

from dataclasses import dataclass

from actors.core import merkle
from actors.core.change_rules import make, result
from actors.core.commit import Commit, read, wanted
from actors.core.draft import Draft, Mark, Unfit
from actors.records import Batch, Chunk, Proof, Space, View
from protocol import journal
from protocol.faults import Code, refuse
from protocol.messages import Role
from protocol.messages.conflict import ConflictFound, CopyMade, HeadChosen
from protocol.messages.sync import Committed, Refused, Result

__all__ = ["Commit", "Decision", "admit", "read", "wanted"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write, what to answer, what to tell the ConflictArbiter, in order.

    `batch` None: there is nothing to write. `uses_upload`: a content was stored as a version, so
    the upload session that brought its chunks is over.
    """

    batch: Batch | None
    answer: Committed
    told: tuple[ConflictFound | CopyMade | HeadChosen, ...]
    uses_upload: bool


def admit(space: Space, view: View, commit: Commit, now_ms: int, credit_bytes: int = 0) -> Decision:
    """Decide a commit. `credit_bytes`: the reservation of the upload session it names.

    Raises Refusal for the commit as a whole: NOT_FOUND, FORBIDDEN, ACCOUNT_SUSPENDED,
    OUT_OF_ORDER, HISTORY_CHANGED, HISTORY_LOST, BAD_REQUEST. All other trouble is a `Refused`.
    """
    _check(space, view, commit)
    draft = Draft(space, view, commit, now_ms, credit_bytes)
    results: dict[int, Result] = {}
    seen: set[int] = set()
    for unit in commit.units():
        known = {index: _before(view, commit, index, seen) for index in unit}
        results |= {index: answer for index, answer in known.items() if answer}
        fresh = [index for index in unit if index not in results]
        culprit = next((index for index in unit if isinstance(known[index], Refused)), None)
        if culprit is None:
            results |= _make(draft, commit, fresh)
        else:
            results |= dict.fromkeys(fresh, _fallen(culprit, Code.DOT_REUSED))
    ordered = tuple(results[index] for index in range(len(commit.changes)))
    return _decision(draft, commit, ordered)


def _check(space: Space, view: View, commit: Commit) -> None:
    """Check what concerns the commit as a whole."""
    header = commit.header
    if space.role is None:
        raise refuse(Code.NOT_FOUND, "space")
    if space.role < Role.EDITOR:
        raise refuse(Code.FORBIDDEN, "viewers change nothing")
    if space.suspended:
        raise refuse(Code.ACCOUNT_SUSPENDED, "the owner's account")
    if header.op <= view.answered_op:
        raise refuse(Code.OUT_OF_ORDER, "this op was answered, and the answer was read")
    if header.history != space.history:
        raise refuse(Code.HISTORY_CHANGED)
    ahead = header.head_seq > space.head_seq
    if ahead or (header.head_seq == space.head_seq and header.head != space.head):
        raise refuse(Code.HISTORY_LOST, "the device has seen a head that is not ours")
    if header.key_epoch > space.key_epoch:
        raise refuse(Code.BAD_REQUEST, "header: this key epoch has not begun")


def _before(view: View, commit: Commit, index: int, seen: set[int]) -> Result | None:
    """Return the answer to a change whose dot is known, None if it is new.

    The same bytes get their first answer, made again from the journal's row; others are refused.
    """
    dot = commit.changes[index].dot
    if dot in seen:
        return Refused(code=Code.DOT_REUSED, facts={"dot": dot})
    seen.add(dot)
    raw = view.dots.get(dot)
    if raw is None:
        return None
    row = journal.decode_row(raw)
    if row.change != commit.command.changes[index]:
        return Refused(code=Code.DOT_REUSED, facts={"dot": dot, "seq": row.seq})
    return result(row.seq, row.head, row.loser, row.place_rev)


def _make(draft: Draft, commit: Commit, unit: list[int]) -> dict[int, Result]:
    """Make the changes of a unit, all or none."""
    mark = draft.mark()
    made: dict[int, Result] = {}
    for index in unit:
        try:
            made[index] = make(draft, commit, index)
        except Unfit as unfit:
            return _undo(draft, mark, unit, unfit, index)
    try:
        draft.settle()
    except Unfit as unfit:
        return _undo(draft, mark, unit, unfit, unit[-1])
    return made


def _undo(draft: Draft, mark: Mark, unit: list[int], unfit: Unfit, index: int) -> dict[int, Result]:
    """Take a unit back; the culprit is told why, the others that they fell with it."""
    draft.rollback(mark)
    culprit = index if unfit.index is None else unfit.index
    results: dict[int, Result] = dict.fromkeys(unit, _fallen(culprit, unfit.code))
    results[culprit] = Refused(code=unfit.code, facts=unfit.facts)
    return results


def _fallen(culprit: int, code: Code) -> Refused:
    return Refused(code=Code.GROUP_FAILED, facts={"index": culprit, "code": str(code)})


def _decision(draft: Draft, commit: Commit, results: tuple[Result, ...]) -> Decision:
    space, rows = draft.space, tuple(draft.rows)
    head_seq = space.head_seq + len(rows)
    answer = Committed(
        results=results,
        history=space.history,
        prev_seq=space.head_seq,
        head_seq=head_seq,
        head=draft.head,
        rows=tuple(row.raw for row in rows),
    )
    stored = tuple(
        Chunk(chunk.address, chunk.size_bytes, chunk.refs) for chunk in commit.command.stored
    )
    if not rows and not stored:
        return Decision(None, answer, (), False)
    proof = Proof(
        commit=draft.author.commit,
        header=commit.command.header,
        signature=commit.command.signature,
        leaves=b"".join(commit.leaves),
        device=draft.author.device,
        op=commit.header.op,
    )
    batch = Batch(
        space=space.space,
        owner=space.owner,
        prev_seq=space.head_seq,
        head_seq=head_seq,
        head=draft.head,
        at_ms=draft.author.now_ms,
        rows=rows,
        nodes=tuple(draft.nodes.values()),
        versions=tuple(draft.versions.values()),
        chunks=stored,
        merkle=merkle.deltas(draft.view.nodes, draft.nodes.values()),
        used_delta_bytes=draft.used_delta_bytes,
        proof=proof if rows else None,
    )
    return Decision(batch, answer, tuple(draft.told), bool(draft.versions))
