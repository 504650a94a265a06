"""Commits in, journals out."""

import asyncio
from typing import cast

import msgspec

from actors.ports import Address
from apps.gateway.chunks import FRAMING_BYTES_MAX, store_items
from apps.gateway.endpoint import Visit, endpoint
from apps.gateway.gate import Caller
from apps.gateway.speech import unwrap
from apps.gateway.tokens import verified
from apps.telemetry import traceparent
from protocol import journal, limits
from protocol.faults import Code, Fault, Refusal, refuse
from protocol.journal import Header
from protocol.messages import Role
from protocol.messages.sync import (
    ChangesPage,
    CommitChanges,
    CommitRequest,
    Committed,
    Heartbeat,
    Heartbeaten,
    StoredChunk,
)

IN_LINE_BYTES_MAX = 64 * limits.KIB  # more than this is hashed in a thread
COMMIT_BODY_BYTES_MAX = limits.COMMIT_BYTES_MAX + limits.PACK_BYTES_MAX + FRAMING_BYTES_MAX
AFTER_MAX = (1 << 53) - 1


@endpoint(
    "POST",
    "/sync/commit",
    body=CommitRequest,
    answers=Committed,
    body_bytes_max=COMMIT_BODY_BYTES_MAX,
)
async def commit(visit: Visit, asked: CommitRequest) -> Committed:
    """Make changes: signed by this device, decided by UserSync. The op in the header is the key of
    the commit: repeating it gets the first answer again.
    """
    header = await _checked(asked, visit.caller)
    member = await visit.gate.member(header.space, visit.caller, Role.EDITOR)
    stored = await store_items(visit, header.space, asked.inline) if asked.inline else ()
    command = CommitChanges(
        space=header.space,
        account=visit.caller.account,
        device=visit.caller.device,
        header=asked.header,
        signature=asked.signature,
        changes=asked.changes,
        stored=tuple(StoredChunk(c.address, c.size_bytes, c.refs) for c in stored),
        upload=asked.upload,
    )
    said = await visit.gate.dialer.ask(
        Address("user-sync", member.owner.hex()),
        command,
        visit.caller.device + header.op.to_bytes(8, "big"),
        journal.commit_hash(asked.header, asked.signature),
        trace=traceparent(),
    )
    assert said is not None, "UserSync always answers"
    return cast(Committed, unwrap(said))


async def _checked(asked: CommitRequest, caller: Caller) -> Header:
    """Return the header of a commit that is whole, small enough and signed by the caller."""
    size_bytes = len(asked.header) + sum(map(len, asked.changes))
    if size_bytes > limits.COMMIT_BYTES_MAX:
        raise refuse(Code.TOO_LARGE, f"a commit ends at {limits.COMMIT_BYTES_MAX} bytes")
    try:
        header = journal.decode_header(asked.header)
    except msgspec.DecodeError as error:
        raise refuse(Code.BAD_REQUEST, f"header: {error}") from None
    if header.format != journal.FORMAT:
        raise refuse(Code.BAD_REQUEST, f"header: format {header.format} is not known")
    if header.device != caller.device:
        raise refuse(Code.BAD_SIGNATURE, "the header names another device")
    if header.count != len(asked.changes):
        raise refuse(Code.BAD_REQUEST, "header: the count is wrong")
    if not verified(caller.sign, asked.signature, journal.to_sign(asked.header)):
        raise refuse(Code.BAD_SIGNATURE)
    if size_bytes > IN_LINE_BYTES_MAX:
        root = await asyncio.to_thread(_root, asked.changes)
    else:
        root = _root(asked.changes)
    if root != header.root:
        raise refuse(Code.BAD_SIGNATURE, "the changes are not those that were signed")
    return header


def _root(changes: tuple[bytes, ...]) -> bytes:
    return journal.root([journal.leaf(change) for change in changes])


@endpoint(
    "GET",
    "/sync/changes",
    answers=ChangesPage,
    query={
        "space": "the space",
        "history": "the history that the cursor belongs to",
        "after": "the sequence number of the cursor",
        "limit": f"rows at most, up to {limits.PAGE_ROWS_MAX}",
    },
)
async def changes(visit: Visit) -> ChangesPage:
    """Return journal rows after a cursor, with what verifies them."""
    reads, space, history = visit.gate.reads, visit.id("space"), visit.maybe_id("history")
    after = visit.number("after", 0, AFTER_MAX)
    limit = visit.number("limit", limits.PAGE_ROWS_MAX, limits.PAGE_ROWS_MAX, least=1)
    member = await visit.gate.member_now(space, visit.caller)
    if history is not None and history != member.history:
        facts: dict[str, str | int] = {"history": member.history.hex()}
        raise Refusal(Fault(code=Code.HISTORY_CHANGED, facts=facts))
    rows, commits = await reads.changes(space, after, limit, limits.PAGE_ROWS_BYTES_MAX)
    last = after + len(rows)
    if last > member.head_seq:  # read before the head moved, or ahead of all there is
        member = await visit.gate.member_now(space, visit.caller)
    if last > member.head_seq:
        raise Refusal(Fault(code=Code.HISTORY_LOST, facts={"head_seq": member.head_seq}))
    return ChangesPage(
        space=space,
        history=member.history,
        prev_seq=after,
        rows=tuple(rows),
        commits=commits,
        head_seq=member.head_seq,
        head=member.head,
        more=last < member.head_seq,
    )


@endpoint("POST", "/sync/heartbeat", body=Heartbeat, answers=Heartbeaten)
async def heartbeat(visit: Visit, asked: Heartbeat) -> Heartbeaten:
    """Keep the device's cursors; return the journals' heads. Safe to repeat."""
    gate, caller = visit.gate, visit.caller
    await gate.reads.seen(caller.account, caller.device, asked.cursors, gate.now_ms())
    heads = await gate.reads.heads(caller.account)
    return Heartbeaten(server_ms=gate.now_ms(), heads=heads)
