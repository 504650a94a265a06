"""Opening what others sent: journal rows -> verified, opened RemoteChanges. For a thread."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from client_agent.adapters.account import Identity
from client_agent.adapters.state import Known, State
from client_agent.core.events import RemoteChange
from client_agent.core.trees import Cursor
from client_agent.crypto.chunks import ChunkEntry
from client_agent.crypto.commits import RowBroken, VerifiedRow, verify_rows
from client_agent.crypto.manifest import Manifest, open_content
from client_agent.crypto.names import copy_node, open_place
from client_agent.crypto.seal import SealBroken
from client_agent.crypto.space_keys import EpochMissing
from protocol.entry import Change, ChangeKind, Content
from protocol.journal import CommitProof, decode_header
from protocol.vector import Vector, add, is_canonical


class Opened(NamedTuple):
    """What rows say, and what they taught us."""

    rows: tuple[RemoteChange, ...]
    contents: list[Known]
    chunks: list[ChunkEntry]
    head: bytes  # the chain's hash after the last row


def authors(proofs: Sequence[CommitProof]) -> frozenset[bytes]:
    """Return who says to have made the commits; nothing is verified yet."""
    found = set()
    for proof in proofs:
        try:
            found.add(decode_header(proof.header).device)
        except msgspec.DecodeError:
            continue  # verification says so, with its reason
    return frozenset(found)


def open_rows(
    raws: Sequence[bytes], proofs: Sequence[CommitProof], cursor: Cursor, me: Identity,
    signers: Mapping[bytes, bytes], state: State,
) -> Opened:
    """Verify and open the rows after the cursor. Raises RowBroken: use none of them."""
    verified = verify_rows(
        raws, proofs, cursor.seq, cursor.hash, space=me.space, histories={cursor.history},
        signers=signers,
    )
    contents: list[Known] = []
    rows = tuple(_open(row, me, state, contents) for row in verified)
    chunks = [entry for known in contents for entry in known.manifest.chunks]
    return Opened(rows, contents, chunks, verified[-1].head if verified else cursor.hash)


def _open(
    verified: VerifiedRow, me: Identity, state: State, contents: list[Known]
) -> RemoteChange:
    row, header, change = verified.row, verified.header, verified.change
    facts: dict[str, Any] = {
        "seq": row.seq, "hash": verified.head, "kind": row.kind, "node": row.node,
        "server_ms": row.server_ms, "outcome": row.outcome, "head": row.head,
        "loser": row.loser, "place_rev": row.place_rev,
    }
    if row.loser is not None:
        facts["copy"] = copy_node(me.keys, row.node, row.loser)
    if change is None or header is None:
        return RemoteChange(**facts)
    facts |= {
        "change": change.kind, "type": change.type, "device": header.device,
        "own": header.device == me.device, "dot": change.dot, "op": header.op,
        "hlc": change.hlc, "place_rev_before": change.place_rev,
    }
    faults = [_open_place(change, me, facts)]
    if change.content is not None:
        faults.append(_open_content(change, change.content, header.device, me, facts, contents))
    elif change.kind is ChangeKind.SET_HEAD and change.version is not None:
        faults.append(_set_head(change, header.device, state, facts, contents))
    facts["fault"] = "; ".join(filter(None, faults))
    return RemoteChange(**facts)


def _open_place(change: Change, me: Identity, facts: dict[str, Any]) -> str:
    if change.place is None:
        return ""
    facts["parent"] = change.place.parent
    try:
        facts["name"] = open_place(me.keys, change.node, change.place)
    except (SealBroken, EpochMissing) as error:
        return f"name: {error}"
    return ""


def _open_content(
    change: Change, content: Content, device: bytes, me: Identity, facts: dict[str, Any],
    contents: list[Known],
) -> str:
    facts |= {"version": content.version, "content_id": content.content_id}
    facts["vector"] = _vector(change, device)
    try:
        manifest = open_content(me.keys, change.node, content)
    except (SealBroken, EpochMissing) as error:
        return f"content: {error}"
    contents.append(Known(content.version, change.node, content.content_id, manifest))
    facts |= _about(manifest)
    return ""


def _vector(change: Change, device: bytes) -> Vector:
    """Return a change's own vector. Raises RowBroken: its number was used before."""
    if not is_canonical(change.base) or dict(change.base).get(device, 0) >= change.dot:
        raise RowBroken("a change with a number that was used before")
    return add(change.base, (device, change.dot))


def _set_head(
    change: Change, device: bytes, state: State, facts: dict[str, Any], contents: list[Known]
) -> str:
    """A version becomes head again: its manifest is one we learned when it was made."""
    assert change.version is not None
    facts |= {"version": change.version, "vector": _vector(change, device)}
    known = next((k for k in contents if k.version == change.version), None)
    known = known or state.content(change.version)
    if known is None or known.node != change.node:
        return "content: the chosen version is not known here"
    facts["content_id"] = known.content_id
    facts |= _about(known.manifest)
    return ""


def _about(manifest: Manifest) -> dict[str, Any]:
    return {
        "size_bytes": manifest.size_bytes, "mtime_ns": manifest.mtime_ns,
        "executable": manifest.executable, "target": manifest.target or "",
        "type": manifest.type,
    }
