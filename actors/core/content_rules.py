"""Contents: what a node holds. Accepted, joined, or concurrent; never overwritten (SYNC.md 4)."""

from dataclasses import replace
from typing import NamedTuple

from actors.core.conflict import Stamp, decide
from actors.core.draft import Draft, Unfit
from actors.core.quota import Need
from actors.records import Node, Version
from protocol.clock import bounded
from protocol.codec import sha256
from protocol.entry import Change, Content
from protocol.faults import Code
from protocol.journal import Outcome
from protocol.vector import Vector, add, covers, join

NAMED_MAX = 64  # chunks named by a refusal


class Taken(NamedTuple):
    """What became of a content. `loser`: the version that lost, if two edits met."""

    node: Node
    outcome: Outcome = Outcome.ACCEPTED
    loser: bytes | None = None


def advanced(draft: Draft, node: Node, change: Change) -> Vector:
    """Return the vector of a content change: its base and its dot.

    Raises Unfit DOT_REUSED: the node has seen this number or a later one of the same device,
    which therefore was set back, and has to take a new generation.
    """
    device = draft.author.device
    seen = max(dict(node.vector).get(device, 0), dict(change.base).get(device, 0))
    if change.dot <= seen:
        raise Unfit(Code.DOT_REUSED, {"seen": seen})
    return add(change.base, (device, change.dot))


def take(draft: Draft, node: Node, change: Change, content: Content) -> Taken:
    """Decide a content change against the head of its node, and store its version.

    Raises Unfit: DOT_REUSED, KEY_REUSED (the version id), HISTORY_LOST, CHUNKS_MISSING,
    CHUNK_MISMATCH, QUOTA_EXCEEDED.
    """
    vector = advanced(draft, node, change)
    stamp = Stamp(bounded(change.hlc, draft.author.now_ms), draft.author.device)
    first = node.head is None
    if not first and change.base != node.vector:
        if content.content_id == node.content_id:
            return Taken(_joined(node, stamp, vector), Outcome.JOINED)
        check_history(node, change)
    version = _keep(draft, node, change, content, vector)
    if first or change.base == node.vector:
        return Taken(headed(draft, node, version, stamp, vector))
    both = join(node.vector, vector)
    outcome = decide(draft.space.policy, Stamp(node.hlc, node.device), stamp, draft.author.now_ms)
    if outcome is Outcome.LOST:
        number = max(node.version_number, version.number)
        lost = replace(node, vector=both, conflicted=True, version_number=number)
        return Taken(lost, outcome, version.version)
    won = replace(headed(draft, node, version, stamp, both), conflicted=True)
    return Taken(won, outcome, node.head)


def check_history(node: Node, change: Change) -> None:
    """Raise Unfit HISTORY_LOST if the change is based on an edit this server does not know."""
    if not covers(node.vector, change.base):
        raise Unfit(Code.HISTORY_LOST)


def headed(draft: Draft, node: Node, version: Version, stamp: Stamp, vector: Vector) -> Node:
    """Return the node with `version` as its head since `stamp`."""
    return replace(
        node,
        modified_ms=draft.author.now_ms,
        head=version.version,
        vector=vector,
        content_id=version.content_id,
        hlc=stamp.hlc,
        device=stamp.device,
        version_number=max(node.version_number, version.number),
        size_bytes=version.size_bytes,
        manifest_hash=sha256(version.manifest),
    )


def set_head(draft: Draft, node: Node, change: Change) -> Taken:
    """Make an earlier version the head, as an edit of its own: revert, rewind, resolve.

    Raises Unfit: DOT_REUSED, VERSION_UNKNOWN, HISTORY_LOST, STALE (an edit came first; nothing
    would be lost, but the choice was made without seeing it).
    """
    assert change.version
    vector = advanced(draft, node, change)
    version = draft.version(change.version)
    if version is None or version.node != node.node:
        raise Unfit(Code.VERSION_UNKNOWN)
    if change.base != node.vector:
        check_history(node, change)
        raise Unfit(Code.STALE)
    stamp = Stamp(bounded(change.hlc, draft.author.now_ms), draft.author.device)
    chosen = headed(draft, node, version, stamp, vector)
    return Taken(replace(chosen, conflicted=False))


def _joined(node: Node, stamp: Stamp, vector: Vector) -> Node:
    """Equal content met: the head stays, written last by the later of both."""
    last = max(Stamp(node.hlc, node.device), stamp)
    return replace(node, vector=join(node.vector, vector), hlc=last.hlc, device=last.device)


def _keep(draft: Draft, node: Node, change: Change, content: Content, vector: Vector) -> Version:
    """Store the content as a version of its own, before anything is decided about it."""
    known = draft.version(content.version)
    if known:  # offered again, after this server was restored from a backup
        if (known.node, known.content_id) != (node.node, content.content_id):
            raise Unfit(Code.KEY_REUSED)
        return known
    need = draft.shelf.need(content)
    _check_need(draft, need)
    version = Version(
        version=content.version,
        node=node.node,
        number=node.version_number + 1,
        content_id=content.content_id,
        vector=vector,
        manifest=content.manifest,
        manifest_key_epoch=content.key_epoch,
        refs=content.refs,
        paged=content.paged,
        size_bytes=need.size_bytes,
        device=draft.author.device,
        hlc=change.hlc,
        created_ms=draft.author.now_ms,
        prev=content.prev,
    )
    draft.store(version, need)
    return version


def _check_need(draft: Draft, need: Need) -> None:
    if need.missing:
        named = ",".join(address.hex() for address in need.missing[:NAMED_MAX])
        raise Unfit(Code.CHUNKS_MISSING, {"missing": len(need.missing), "chunks": named})
    if need.mismatched:
        raise Unfit(Code.CHUNK_MISMATCH, {"chunk": need.mismatched.hex()})
    cost_bytes = draft.cost_bytes(need)
    if cost_bytes and cost_bytes > draft.room_bytes():
        raise Unfit(Code.QUOTA_EXCEEDED, {"bytes": cost_bytes, "room_bytes": draft.room_bytes()})
