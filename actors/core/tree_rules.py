"""Places: who may stand where. Compare-and-set on place_rev, live parents, no cycles."""

from dataclasses import replace

from actors.core.draft import Draft, Unfit
from actors.records import Node
from protocol import limits
from protocol.codec import sha256
from protocol.entry import Change, NodeType, Place
from protocol.faults import Code
from protocol.ids import ROOT

_WALK_MAX = 10 * limits.TREE_DEPTH_MAX  # a moved folder may hang deeper; a loop is a broken store


def existing(draft: Draft, change: Change) -> Node:
    """Return the node of a change. Raises Unfit: NOT_FOUND, BAD_REQUEST (it has another type)."""
    node = draft.node(change.node)
    if node is None:
        raise Unfit(Code.NOT_FOUND)
    if node.type is not change.type:
        raise Unfit(Code.BAD_REQUEST, {"type": int(node.type)})
    return node


def living(draft: Draft, change: Change) -> Node:
    """Return the live node of a change. Raises Unfit, also NODE_DEAD."""
    node = existing(draft, change)
    if not node.alive:
        raise Unfit(Code.NODE_DEAD, {"place_rev": node.place_rev})
    return node


def check_rev(node: Node, change: Change) -> None:
    """Raise Unfit STALE if somebody moved, deleted or restored the node meanwhile."""
    if node.place_rev != change.place_rev:
        raise Unfit(Code.STALE, {"place_rev": node.place_rev})


def check_parent(draft: Draft, child: bytes, place: Place) -> None:
    """Check that `child` may stand below the parent of `place`.

    Raises Unfit: PARENT_MISSING, NOT_A_DIRECTORY, CYCLE, PARENT_DEAD, TOO_DEEP.
    """
    if place.parent == ROOT:
        return
    parent = draft.node(place.parent)
    if parent is None:
        raise Unfit(Code.PARENT_MISSING)
    if parent.type is not NodeType.DIRECTORY:
        raise Unfit(Code.NOT_A_DIRECTORY)
    line = _line(draft, parent)
    if any(ancestor.node == child for ancestor in line):
        raise Unfit(Code.CYCLE)
    dead = [ancestor.node.hex() for ancestor in reversed(line) if not ancestor.alive]
    if dead:
        raise Unfit(Code.PARENT_DEAD, {"chain": ",".join(dead)})
    if len(line) >= limits.TREE_DEPTH_MAX:
        raise Unfit(Code.TOO_DEEP, {"depth": len(line) + 1})


def _line(draft: Draft, node: Node) -> list[Node]:
    """Return a node and its ancestors, nearest first."""
    line = [node]
    while line[-1].parent != ROOT:
        above = draft.node(line[-1].parent)
        assert above, "a view has the ancestors of its nodes"
        line.append(above)
        assert len(line) < _WALK_MAX, "the tree has a cycle"
    return line


def placed(node: Node, place: Place, now_ms: int) -> Node:
    """Return a node that stands at `place`, alive, one place_rev later."""
    return replace(
        node,
        parent=place.parent,
        token=place.token,
        sealed_name=place.sealed,
        name_epoch=place.key_epoch,
        place_hash=sha256(place.sealed),
        place_rev=node.place_rev + 1,
        alive=True,
        modified_ms=now_ms,
    )


def deleted(draft: Draft, change: Change) -> Node:
    """Return the node, dead. Raises Unfit: NOT_FOUND, NODE_DEAD, STALE, NOT_EMPTY."""
    node = living(draft, change)
    check_rev(node, change)
    if change.base != node.vector:
        raise Unfit(Code.STALE, {"place_rev": node.place_rev})
    children = draft.live_children(node.node)
    if children:
        raise Unfit(Code.NOT_EMPTY, {"children": children})
    return replace(node, alive=False, place_rev=node.place_rev + 1, modified_ms=draft.author.now_ms)
