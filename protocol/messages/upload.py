"""The upload conversation: a device announces a large content, and learns what is missing.

    device -> POST /files/upload (BeginUpload)   upload-session -> UploadOpen (what is missing)
    device -> PUT /chunks/{H}?space=&upload=     (the gateway stores; no message per chunk)
    device -> GET /files/upload/{id} (LookUpload)                -> UploadOpen, missing anew
    device -> DELETE /files/upload/{id} (CancelUpload)           -> UploadClosed
    user-sync -> UploadCommitted                 (the commit named this session: it is over)
    upload-session -> itself, later: ExpireUpload -> UploadClosed

What is missing is always asked of the store, never counted: a lost message changes nothing.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol.entry import ChunkRef, SizeBytes
from protocol.ids import DeviceId, Hash, SpaceId, UploadId, UserId
from protocol.journal import Ms
from protocol.messages import Message, Role

UPLOAD_REFS_MAX = 65_536  # asked for at once; a larger file opens its session in parts


class UploadRequest(Message, frozen=True, tag="upload.request"):
    """Body of `POST /files/upload`. Repeating it with the same `upload` resumes the session."""

    needs: ClassVar = Role.EDITOR
    space: SpaceId
    upload: UploadId  # chosen by the device: the idempotency key
    refs: Annotated[tuple[ChunkRef, ...], Meta(max_length=UPLOAD_REFS_MAX)]


class BeginUpload(Message, frozen=True, tag="upload.begin"):
    """Gateway to UploadSession: open or resume. Fault QUOTA_EXCEEDED: the owner has no room."""

    space: SpaceId
    owner: UserId
    device: DeviceId
    upload: UploadId
    refs: tuple[ChunkRef, ...]


class LookUpload(Message, frozen=True, tag="upload.look"):
    """Which chunks are missing now? Fault NOT_FOUND: not this device's account's session."""

    owner: UserId
    upload: UploadId


class CancelUpload(Message, frozen=True, tag="upload.cancel"):
    """Give up: the reservation ends, leases run out by themselves."""

    owner: UserId
    upload: UploadId


class UploadCommitted(Message, frozen=True, tag="upload.committed"):
    """UserSync to UploadSession: a commit used these chunks. No answer is read."""

    upload: UploadId


class ExpireUpload(Message, frozen=True, tag="upload.expire"):
    """The session to itself, by the outbox, when its time is over."""

    upload: UploadId


class UploadOpen(Message, frozen=True, tag="upload.open"):
    """The session is open; `missing` in the order of `refs`. Empty: commit now."""

    upload: UploadId
    missing: tuple[Hash, ...]
    expires_ms: Ms
    reserved_bytes: SizeBytes


class UploadClosed(Message, frozen=True, tag="upload.closed"):
    """The session is over: committed, cancelled or expired."""

    upload: UploadId
    state: str


UploadCommand = BeginUpload | LookUpload | CancelUpload | UploadCommitted | ExpireUpload
UploadAnswer = UploadOpen | UploadClosed
