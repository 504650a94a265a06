"""Upload sessions: what is missing of a large content, and room for it (actor upload-session)."""

import os
from typing import cast

from actors.ports import Address
from apps.gateway.endpoint import Visit, endpoint
from apps.gateway.speech import unwrap
from apps.telemetry import traceparent
from protocol import limits
from protocol.codec import encode, sha256
from protocol.faults import Code, refuse
from protocol.ids import new_id
from protocol.messages import Message, Role
from protocol.messages.upload import (
    BeginUpload,
    CancelUpload,
    LookUpload,
    UploadClosed,
    UploadOpen,
    UploadRequest,
)

BYTES_MAX = 1 << 53  # more cannot be counted, nor stored


@endpoint(
    "POST",
    "/files/upload",
    body=UploadRequest,
    answers=UploadOpen,
    body_bytes_max=4 * limits.MIB,
)
async def begin_upload(visit: Visit, asked: UploadRequest) -> UploadOpen:
    """Open or resume a session; what the space has of it already is leased for 24 h."""
    gate, caller = visit.gate, visit.caller
    member = await gate.member(asked.space, caller, Role.EDITOR)
    if sum(ref.size_bytes for ref in asked.refs) > BYTES_MAX:
        raise refuse(Code.QUOTA_EXCEEDED, "nobody has room for so much")
    now_ms = gate.now_ms()
    await gate.leases.extend(
        asked.space,
        (caller.device, asked.upload),
        {ref.address for ref in asked.refs},
        now_ms,
        now_ms + limits.LEASE_S * 1000,
    )
    begin = BeginUpload(
        space=asked.space,
        owner=member.owner,
        device=caller.device,
        upload=asked.upload,
        refs=asked.refs,
    )
    return cast(UploadOpen, await _ask(visit, asked.upload, begin))


@endpoint("GET", "/files/upload/{upload_id:str}", answers=UploadOpen)
async def look_upload(visit: Visit) -> UploadOpen:
    """Say what is missing now."""
    upload, owner = await _own_upload(visit)
    return cast(UploadOpen, await _ask(visit, upload, LookUpload(owner=owner, upload=upload)))


@endpoint("DELETE", "/files/upload/{upload_id:str}", answers=UploadClosed)
async def cancel_upload(visit: Visit) -> UploadClosed:
    """Give the session up. Safe to repeat."""
    upload, owner = await _own_upload(visit)
    return cast(UploadClosed, await _ask(visit, upload, CancelUpload(owner=owner, upload=upload)))


async def _own_upload(visit: Visit) -> tuple[bytes, bytes]:
    """Return a session of a space where the caller may write, and the space's owner."""
    upload = visit.path_id("upload_id")
    found = await visit.gate.reads.upload(upload)
    if found is None:
        raise refuse(Code.NOT_FOUND)
    space, owner = found
    await visit.gate.member(space, visit.caller, Role.EDITOR)
    return upload, owner


async def _ask(visit: Visit, upload: bytes, command: Message) -> Message:
    """Ask the session's actor. Every question is a new one: what is missing changes."""
    said = await visit.gate.dialer.ask(
        Address("upload-session", upload.hex()),
        command,
        new_id(os.urandom),
        sha256(encode(command)),
        trace=traceparent(),
    )
    assert said is not None, "an upload session always answers"
    return unwrap(said)
