"""UserSync: the one writer of the journals of a user's spaces (SYNC.md 1).

    CommitChanges -> Committed, or a Fault for the commit as a whole

Locks the space, looks up what the commit touches, lets `core.admission` decide, and writes. Keeps
no state of its own: heads, nodes and answers are the store's.
"""

from enum import StrEnum
from typing import ClassVar

from actors.actor import Actor, Transitions
from actors.core.admission import Decision, admit, read, wanted
from actors.ports import Address, Turn
from actors.records import Proof, Upload
from protocol import limits
from protocol.faults import Code, refuse
from protocol.journal import CommitProof
from protocol.messages.feed import Advanced
from protocol.messages.sync import CommitChanges, SyncAnswer, SyncRequest
from protocol.messages.upload import UploadCommitted


class Status(StrEnum):
    """It is always ready: an order of commits is the journal's, not this actor's."""

    READY = "ready"


class UserSync(Actor):
    """Behind user-sync/<owner>. Invariant: rows are contiguous, each acknowledged commit once."""

    kind = "user-sync"
    accepts = SyncRequest
    answers = SyncAnswer
    transitions: ClassVar[Transitions] = {Status.READY: {CommitChanges: {Status.READY}}}

    async def load(self, message: CommitChanges, turn: Turn) -> None:
        """Nothing to load; see `on_commit` for what is looked up."""
        self.status = Status.READY

    async def on_commit(self, message: CommitChanges, turn: Turn) -> SyncAnswer:
        """Admit a commit. Safe to repeat: known changes get their first answer again.

        Faults: NOT_FOUND (no such space here, or not a member), and those of `read` and `admit`.
        """
        commit = read(message)
        space = await turn.space(message.space, message.account)
        if space is None or space.owner.hex() != self.address.key:
            raise refuse(Code.NOT_FOUND, "space")
        session = await self._session(message, turn)
        credit_bytes = session.reserved_bytes if session else 0
        view = await turn.look(message.space, message.device, wanted(commit))
        decision = admit(space, view, commit, turn.now_ms, credit_bytes)
        if decision.batch:
            await turn.write(decision.batch)
        await turn.forget_answers(message.device, commit.header.answered)
        self._speak(message, decision, session, turn)
        return decision.answer

    async def _session(self, message: CommitChanges, turn: Turn) -> Upload | None:
        """Return the named upload session: what it has reserved is for this very commit.

        None also for one of another space: whoever learns its id must not end it.
        """
        if message.upload is None:
            return None
        session = await turn.upload(message.upload)
        if session is None or (session.space, session.state) != (message.space, "open"):
            return None
        return session

    def _speak(
        self, message: CommitChanges, decision: Decision, session: Upload | None, turn: Turn
    ) -> None:
        for told in decision.told:
            turn.tell(Address("conflict-arbiter", message.space.hex()), told)
        if session and decision.uses_upload:
            address = Address("upload-session", session.upload.hex())
            turn.tell(address, UploadCommitted(upload=session.upload))
        if decision.answer.rows:
            turn.nudge(message.space, advanced(message.space, decision))


def advanced(space: bytes, decision: Decision) -> Advanced:
    """Return the nudge of a commit, with the rows and their proof if they are small enough."""
    answer = decision.answer
    assert decision.batch
    assert decision.batch.proof
    commit = _proof(decision.batch.proof)
    size_bytes = len(commit.header) + len(commit.leaves) + sum(map(len, answer.rows))
    rides = size_bytes <= limits.PUSH_ROWS_BYTES_MAX
    return Advanced(
        space=space,
        history=answer.history,
        prev_seq=answer.prev_seq,
        seq=answer.head_seq,
        head=answer.head,
        rows=answer.rows if rides else (),
        commits=(commit,) if rides else (),
    )


def _proof(proof: Proof) -> CommitProof:
    return CommitProof(header=proof.header, signature=proof.signature, leaves=proof.leaves)
