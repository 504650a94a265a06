"""ConflictArbiter: a conflict's life after UserSync has decided it (SYNC.md 4).

    open     both contents are versions, one is head
    copied   the loser is a file of its own as well
    resolved somebody chose a head (set_head); the record stays for undo

Everything here can be told twice. The journal already holds what happened; this keeps the list
that people see, and notices their devices.
"""

from dataclasses import replace
from enum import StrEnum
from typing import ClassVar

from actors.actor import Actor, Transitions
from actors.core.conflict import conflict_id
from actors.ports import Turn
from actors.records import Conflict
from protocol.messages.conflict import (
    ConflictAnswer,
    ConflictFound,
    ConflictNoted,
    ConflictRequest,
    CopyMade,
    HeadChosen,
)
from protocol.messages.feed import Noticed

WAIT_MS = 60_000  # a CopyMade that overtook its ConflictFound comes again after this
WAITED_MS_MAX = 24 * 3600 * 1000  # then nobody will ever tell of that conflict


class Status(StrEnum):
    """Of the conflict a message is about. `UNKNOWN` is not stored."""

    UNKNOWN = "unknown"
    OPEN = "open"
    COPIED = "copied"
    RESOLVED = "resolved"


class ConflictArbiter(Actor):
    """Behind conflict-arbiter/<space>. Invariant: a resolved conflict is never open again."""

    kind = "conflict-arbiter"
    accepts = ConflictRequest
    answers = ConflictAnswer
    transitions: ClassVar[Transitions] = {
        Status.UNKNOWN: {
            ConflictFound: {Status.OPEN},
            CopyMade: {Status.UNKNOWN},
            HeadChosen: {Status.UNKNOWN},  # its conflicts are resolved already
        },
        Status.OPEN: {
            ConflictFound: {Status.OPEN},  # told twice
            CopyMade: {Status.COPIED},
            HeadChosen: {Status.RESOLVED},
        },
        Status.COPIED: {
            ConflictFound: {Status.COPIED},
            CopyMade: {Status.COPIED},
            HeadChosen: {Status.RESOLVED},
        },
        Status.RESOLVED: {
            ConflictFound: {Status.RESOLVED},
            CopyMade: {Status.RESOLVED},
        },
    }

    async def load(self, message: ConflictRequest, turn: Turn) -> None:
        """Read the conflicts a message is about: one, or all open ones of a node."""
        if isinstance(message, HeadChosen):
            self.records = await turn.conflicts(message.space, message.node)
        else:
            conflict = conflict_id(message.space, message.node, message.loser)
            record = await turn.conflict(conflict)
            self.records = [record] if record else []
        self.status = Status(self.records[0].state) if self.records else Status.UNKNOWN

    async def on_found(self, message: ConflictFound, turn: Turn) -> ConflictNoted:
        """Keep a record of it, and notice the devices: also where the head chose itself."""
        if self.status is Status.UNKNOWN:
            await turn.put_conflict(
                Conflict(
                    conflict=message.conflict,
                    space=message.space,
                    node=message.node,
                    state=str(Status.OPEN),
                    policy=message.policy,
                    head=message.head,
                    loser=message.loser,
                    head_device=message.head_device,
                    loser_device=message.loser_device,
                    seq=message.seq,
                    opened_ms=message.at_ms,
                )
            )
            self.status = Status.OPEN
            self._notice(message.space, "conflict_opened", message.seq, turn)
        return await self._noted(message.space, turn)

    async def on_copied(self, message: CopyMade, turn: Turn) -> ConflictNoted:
        """Note where the loser lives now."""
        for record in self.records:
            if record.state == Status.OPEN:
                copied = replace(record, state=str(Status.COPIED), copy=message.copy)
                await turn.put_conflict(copied)
                self.status = Status.COPIED
                self._notice(message.space, "conflict_copied", record.seq, turn)
        if not self.records and turn.now_ms < message.at_ms + WAITED_MS_MAX:
            turn.tell(self.address, message, after_ms=WAIT_MS)
        return await self._noted(message.space, turn)

    async def on_chosen(self, message: HeadChosen, turn: Turn) -> ConflictNoted:
        """Close all conflicts of the node: one resolution clears them everywhere."""
        for record in self.records:
            await turn.put_conflict(
                replace(record, state=str(Status.RESOLVED), closed_ms=message.at_ms)
            )
            self.status = Status.RESOLVED
        if self.records:
            self._notice(message.space, "conflict_resolved", self.records[-1].seq, turn)
        return await self._noted(message.space, turn)

    def _notice(self, space: bytes, kind: str, seq: int, turn: Turn) -> None:
        turn.nudge(space, Noticed(space=space, kind=kind, at_ms=turn.now_ms, seq=seq))

    async def _noted(self, space: bytes, turn: Turn) -> ConflictNoted:
        return ConflictNoted(open=await turn.open_conflicts(space))
