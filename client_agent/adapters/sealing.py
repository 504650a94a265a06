"""Sealing what is sent: ChangeSpec -> Change bytes, header and signature. For a thread."""

import os
from collections.abc import Mapping

from client_agent.adapters.account import Identity
from client_agent.adapters.drafts import Draft
from client_agent.adapters.state import Pending, State
from client_agent.core.events import ChangeSpec, Commit
from client_agent.crypto.commits import header_for, sign_commit
from client_agent.crypto.manifest import seal_content
from client_agent.crypto.names import seal_place
from client_agent.crypto.space_keys import SpaceKeys
from protocol.codec import encode
from protocol.entry import Change, ChangeKind, Content
from protocol.ids import new_id


class Unsealed(Exception):
    """Contents of these nodes are not at hand any more: they have to be read again."""

    def __init__(self, nodes: frozenset[bytes]) -> None:
        """Name the nodes."""
        super().__init__(f"{len(nodes)} contents are not at hand")
        self.nodes = nodes


def seal_commit(
    effect: Commit, me: Identity, state: State, drafts: Mapping[bytes, Draft]
) -> Pending:
    """Seal and sign a commit. Each call gives other bytes: write them down before they are sent.

    `drafts`: those that the specs name, by version. Raises Unsealed.
    """
    lost = frozenset(
        spec.node for spec in effect.changes
        if spec.version is not None
        and spec.kind is not ChangeKind.SET_HEAD
        and spec.version not in drafts
    )
    if lost:
        raise Unsealed(lost)
    changes = tuple(encode(_change(spec, me.keys, state, drafts)) for spec in effect.changes)
    header = header_for(
        changes, space=me.space, history=effect.cursor.history, key_epoch=me.keys.epoch,
        device=me.device, op=effect.op, answered=effect.answered,
        hlc=max(spec.hlc for spec in effect.changes), head_seq=effect.cursor.seq,
        head=effect.cursor.hash,
    )
    raw, signature = sign_commit(me.secrets, header)
    uploads = (d.upload for d in drafts.values() if d.upload is not None)
    return Pending(effect.op, raw, signature, changes, next(uploads, None))


def _change(
    spec: ChangeSpec, keys: SpaceKeys, state: State, drafts: Mapping[bytes, Draft]
) -> Change:
    place = None
    if spec.parent is not None and spec.name is not None:
        place = seal_place(keys, spec.node, spec.parent, spec.name)
    set_head = spec.kind is ChangeKind.SET_HEAD
    return Change(
        kind=spec.kind, node=spec.node, type=spec.type, dot=spec.dot, hlc=spec.hlc,
        place_rev=spec.place_rev, base=spec.base, place=place,
        content=None if set_head else _content(spec, keys, state, drafts),
        version=spec.version if set_head else None, group=spec.group, copy_of=spec.copy_of,
    )


def _content(
    spec: ChangeSpec, keys: SpaceKeys, state: State, drafts: Mapping[bytes, Draft]
) -> Content | None:
    if spec.copy_of is not None:
        known = state.content(spec.copy_of)
        if known is None:
            raise Unsealed(frozenset((spec.node,)))
        old = known.manifest
        copy = type(old)(
            old.format, spec.node, old.type, old.size_bytes, old.mtime_ns, old.executable,
            old.target, old.chunker, old.chunks, old.pages, None,
        )
        return seal_content(keys, copy, new_id(os.urandom), known.content_id)
    if spec.version is None:
        return None
    draft = drafts[spec.version]
    manifest = draft.manifest(spec.node, spec.prev)
    return seal_content(keys, manifest, draft.version, draft.content_id)
