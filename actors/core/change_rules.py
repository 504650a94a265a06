"""One change: which rule its kind obeys, which rows it makes, and who has to hear of it."""

from collections.abc import Callable

from actors.core import content_rules, tree_rules
from actors.core.commit import Commit
from actors.core.conflict import conflict_id
from actors.core.content_rules import Taken
from actors.core.draft import Draft, Unfit
from actors.records import Node, Space
from protocol.entry import Change, ChangeKind
from protocol.faults import Code
from protocol.ids import ROOT
from protocol.journal import RowKind
from protocol.messages.conflict import ConflictFound, CopyMade, HeadChosen
from protocol.messages.sync import Accepted, Conflicted, Result


def result(seq: int, head: bytes | None, loser: bytes | None, place_rev: int) -> Result:
    """Return the answer to a change that made (or once made) this row."""
    if head and loser:
        return Conflicted(seq=seq, head=head, loser=loser, place_rev=place_rev)
    return Accepted(seq=seq, place_rev=place_rev)


def make(draft: Draft, commit: Commit, index: int) -> Result:
    """Make one change and append its row. Raises Unfit; then the caller takes it back."""
    change = commit.changes[index]
    _check_epochs(draft.space, commit, change)
    before = draft.node(change.node)
    taken = RULES[change.kind](draft, change)
    node = taken.node
    draft.put(node, index)
    seq = draft.append_change(index, change, node, taken.outcome, taken.loser)
    if taken.loser and node.head:
        draft.append_event(RowKind.CONFLICT_OPENED, node.node, node.head, taken.loser)
    elif before and before.conflicted and not node.conflicted and node.head:
        draft.append_event(RowKind.CONFLICT_RESOLVED, node.node, node.head, None)
    _tell(draft, change, before, taken, seq)
    return result(seq, node.head, taken.loser, node.place_rev)


def _check_epochs(space: Space, commit: Commit, change: Change) -> None:
    """Everything new is sealed under the newest keys (CRYPTO.md 5)."""
    epochs = [commit.header.key_epoch]
    epochs += [part.key_epoch for part in (change.place, change.content) if part]
    if min(epochs) < space.key_epoch:
        raise Unfit(Code.STALE_EPOCH, {"key_epoch": space.key_epoch})
    if max(epochs) > space.key_epoch:
        raise Unfit(Code.BAD_REQUEST, {"key_epoch": space.key_epoch})


def _create(draft: Draft, change: Change) -> Taken:
    known = draft.node(change.node)
    if known:
        raise Unfit(Code.NODE_EXISTS, {"alive": int(known.alive), "place_rev": known.place_rev})
    unborn = Node(
        node=change.node,
        type=change.type,
        parent=ROOT,
        token=b"",
        sealed_name=b"",
        name_epoch=0,
        place_rev=0,
        alive=False,
        created_ms=draft.author.now_ms,
        modified_ms=draft.author.now_ms,
    )
    return _with_content(draft, _place(draft, unborn, change), change)


def _restore(draft: Draft, change: Change) -> Taken:
    """Bring a dead node back, as it was or with a newer content: an edit beats a deletion."""
    node = tree_rules.existing(draft, change)
    if node.alive:
        raise Unfit(Code.STALE, {"place_rev": node.place_rev})
    tree_rules.check_rev(node, change)
    return _with_content(draft, _place(draft, node, change), change)


def _move(draft: Draft, change: Change) -> Taken:
    node = tree_rules.living(draft, change)
    tree_rules.check_rev(node, change)
    return Taken(_place(draft, node, change))


def _delete(draft: Draft, change: Change) -> Taken:
    return Taken(tree_rules.deleted(draft, change))


def _modify(draft: Draft, change: Change) -> Taken:
    assert change.content
    return content_rules.take(draft, tree_rules.living(draft, change), change, change.content)


def _set_head(draft: Draft, change: Change) -> Taken:
    return content_rules.set_head(draft, tree_rules.living(draft, change), change)


def _place(draft: Draft, node: Node, change: Change) -> Node:
    assert change.place
    tree_rules.check_parent(draft, node.node, change.place)
    return tree_rules.placed(node, change.place, draft.author.now_ms)


def _with_content(draft: Draft, node: Node, change: Change) -> Taken:
    if change.content:
        return content_rules.take(draft, node, change, change.content)
    content_rules.check_history(node, change)
    return Taken(node)


def _tell(draft: Draft, change: Change, before: Node | None, taken: Taken, seq: int) -> None:
    """Gather what the ConflictArbiter has to hear."""
    space, node, at_ms = draft.space, taken.node, draft.author.now_ms
    if taken.loser and before and before.head and node.head:
        ours, theirs = draft.author.device, before.device
        newcomer_lost = node.head == before.head
        draft.told.append(
            ConflictFound(
                space=space.space,
                conflict=conflict_id(space.space, node.node, taken.loser),
                node=node.node,
                seq=seq,
                policy=space.policy,
                head=node.head,
                loser=taken.loser,
                head_device=theirs if newcomer_lost else ours,
                loser_device=ours if newcomer_lost else theirs,
                at_ms=at_ms,
            )
        )
    if before and before.conflicted and not node.conflicted and node.head:
        draft.told.append(
            HeadChosen(
                space=space.space,
                node=node.node,
                head=node.head,
                device=draft.author.device,
                at_ms=at_ms,
            )
        )
    kept = draft.version(change.copy_of) if change.copy_of else None
    if kept:
        draft.told.append(
            CopyMade(
                space=space.space,
                node=kept.node,
                loser=kept.version,
                copy=node.node,
                at_ms=at_ms,
            )
        )


# What a change carries was checked when it was read (core/commit.py).
RULES: dict[ChangeKind, Callable[[Draft, Change], Taken]] = {
    ChangeKind.CREATE: _create,
    ChangeKind.MODIFY: _modify,
    ChangeKind.MOVE: _move,
    ChangeKind.DELETE: _delete,
    ChangeKind.RESTORE: _restore,
    ChangeKind.SET_HEAD: _set_head,
}
