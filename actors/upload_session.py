"""UploadSession: holds room for a large content until its chunks are committed.

What is missing is always asked of the store, never counted here: a lost message changes nothing.
The reservation counts against the owner's quota while the session is open (core/quota.py).
"""

from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from typing import ClassVar

from actors.actor import Actor, Transitions
from actors.ports import Turn
from actors.records import Upload
from protocol import limits
from protocol.entry import ChunkRef
from protocol.faults import Code, Fault, refuse
from protocol.messages.upload import (
    BeginUpload,
    CancelUpload,
    ExpireUpload,
    LookUpload,
    UploadAnswer,
    UploadClosed,
    UploadCommand,
    UploadCommitted,
    UploadOpen,
)

TTL_MS = limits.UPLOAD_TTL_S * 1000


class Status(StrEnum):
    """`NEW` is not stored: nobody has begun this session."""

    NEW = "new"
    OPEN = "open"
    COMMITTED = "committed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_OVER = {Status.COMMITTED, Status.CANCELLED, Status.EXPIRED}


def _stays(status: Status) -> dict[type, set[Status]]:
    """Whatever arrives for a session that is over is answered, and changes nothing."""
    messages = (BeginUpload, LookUpload, CancelUpload, UploadCommitted, ExpireUpload)
    return {message: {status} for message in messages}


class UploadSession(Actor):
    """Behind upload-session/<upload>. Invariant: only an open session has a reservation."""

    kind = "upload-session"
    accepts = UploadCommand
    answers = UploadAnswer
    transitions: ClassVar[Transitions] = {
        Status.NEW: {**_stays(Status.NEW), BeginUpload: {Status.OPEN, Status.NEW}},
        Status.OPEN: {
            BeginUpload: {Status.OPEN},  # resumed, or the next part of a very large content
            LookUpload: {Status.OPEN},
            CancelUpload: {Status.CANCELLED},
            UploadCommitted: {Status.COMMITTED},
            ExpireUpload: {Status.EXPIRED, Status.OPEN},
        },
        **{status: _stays(status) for status in sorted(_OVER)},
    }

    async def load(self, message: UploadCommand, turn: Turn) -> None:
        """Lock and read the session."""
        self.session = await turn.upload(message.upload)
        self.status = Status(self.session.state) if self.session else Status.NEW

    async def on_begin(self, message: BeginUpload, turn: Turn) -> UploadAnswer | Fault:
        """Open the session, or resume it for another day.

        Refs that it did not know are added. Safe to repeat. Faults: QUOTA_EXCEEDED (nothing is
        reserved), UPLOAD_EXPIRED (also after a cancel), NOT_FOUND (somebody else's).
        """
        if self.status is Status.COMMITTED:
            return self._closed(message)
        if self.status in _OVER:
            return Fault(code=Code.UPLOAD_EXPIRED)
        now = self.session or _empty(message)
        if (now.owner, now.space) != (message.owner, message.space):
            raise refuse(Code.NOT_FOUND, "upload")
        known = set(now.refs)
        added = [ref for ref in dict.fromkeys(message.refs) if ref not in known]
        missing = await turn.missing(message.space, [ref.address for ref in message.refs])
        more_bytes = sum(ref.size_bytes for ref in added if ref.address in missing)
        session = replace(
            now,
            refs=(*now.refs, *added),
            reserved_bytes=now.reserved_bytes + more_bytes,
            expires_ms=turn.now_ms + TTL_MS,
        )
        if not await turn.put_upload(session, more_bytes):
            return Fault(code=Code.QUOTA_EXCEEDED, facts={"bytes": more_bytes})
        if self.status is Status.NEW:
            turn.tell(self.address, ExpireUpload(upload=message.upload), after_ms=TTL_MS)
        self.session, self.status = session, Status.OPEN
        return self._open(session, message.refs, missing)

    async def on_look(self, message: LookUpload, turn: Turn) -> UploadAnswer:
        """Say what is missing now. Fault NOT_FOUND: unknown, or somebody else's."""
        session = self._own(message)
        if self.status is not Status.OPEN:
            return self._closed(message)
        missing = await turn.missing(session.space, [ref.address for ref in session.refs])
        return self._open(session, session.refs, missing)

    async def on_cancel(self, message: CancelUpload, turn: Turn) -> UploadAnswer:
        """Give up. Safe to repeat. Fault NOT_FOUND: unknown, or somebody else's."""
        self._own(message)
        await self._close(Status.CANCELLED, turn)
        return self._closed(message)

    async def on_committed(self, message: UploadCommitted, turn: Turn) -> UploadAnswer:
        """A commit used the chunks; they are paid for now, so the reservation ends."""
        await self._close(Status.COMMITTED, turn)
        return self._closed(message)

    async def on_expire(self, message: ExpireUpload, turn: Turn) -> UploadAnswer:
        """Close the session if its time is over; wake again later if it was resumed."""
        left_ms = self.session.expires_ms - turn.now_ms if self.session else 0
        if self.status is Status.OPEN and left_ms > 0:
            turn.tell(self.address, message, after_ms=left_ms)
        else:
            await self._close(Status.EXPIRED, turn)
        return self._closed(message)

    def _own(self, message: LookUpload | CancelUpload) -> Upload:
        if self.session is None or self.session.owner != message.owner:
            raise refuse(Code.NOT_FOUND, "upload")
        return self.session

    async def _close(self, status: Status, turn: Turn) -> None:
        """Close an open session: its list is of no use any more, its reservation ends."""
        if self.status is not Status.OPEN or self.session is None:
            return
        freed_bytes = self.session.reserved_bytes
        closed = replace(self.session, state=str(status), refs=(), reserved_bytes=0)
        given_back = await turn.put_upload(closed, -freed_bytes)
        assert given_back, "giving back needs no room"
        self.session, self.status = closed, status

    def _open(
        self, session: Upload, asked: Iterable[ChunkRef], missing: frozenset[bytes]
    ) -> UploadOpen:
        addresses = dict.fromkeys(ref.address for ref in asked)
        return UploadOpen(
            upload=session.upload,
            missing=tuple(address for address in addresses if address in missing),
            expires_ms=session.expires_ms,
            reserved_bytes=session.reserved_bytes,
        )

    def _closed(self, message: UploadCommand) -> UploadClosed:
        return UploadClosed(upload=message.upload, state=str(self.status))


def _empty(message: BeginUpload) -> Upload:
    return Upload(
        upload=message.upload,
        owner=message.owner,
        space=message.space,
        device=message.device,
        state=str(Status.OPEN),
        refs=(),
        reserved_bytes=0,
        expires_ms=0,
    )
