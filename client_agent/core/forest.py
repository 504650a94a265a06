"""The three trees with their indexes, and which of their rows changed since the last save.

Every change of a row marks its node dirty (it has to be planned again) and unsaved. All
look-ups are O(1) in the number of nodes; one row costs some 1.5 KB over the three trees.
"""

from collections.abc import Iterable, Iterator

from client_agent.core.trees import Local, Remote, Synced
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.limits import TREE_DEPTH_MAX
from protocol.names import fold

DEPTH_MAX = 4 * TREE_DEPTH_MAX  # a chain of parents longer than this is a cycle


class LocalTree:
    """What is on disk. Exact names are unique in a directory; folded names may clash."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Local] = {}
        self._names: dict[bytes, dict[str, bytes]] = {}  # parent -> exact name -> node
        self._odd: dict[bytes, dict[str, set[bytes]]] = {}  # parent -> fold, where it differs
        self._inodes: dict[int, bytes] = {}

    def put(self, row: Local) -> None:
        """Add or replace the row of a node."""
        self.drop(row.node)
        self.rows[row.node] = row
        self._names.setdefault(row.parent, {})[row.name] = row.node
        self._inodes[row.stat.inode] = row.node
        folded = fold(row.name)
        if folded != row.name:
            self._odd.setdefault(row.parent, {}).setdefault(folded, set()).add(row.node)

    def drop(self, node: bytes) -> None:
        """Forget a node, if it is there. Its children keep their rows."""
        row = self.rows.pop(node, None)
        if row is None:
            return
        names = self._names.get(row.parent, {})
        if names.get(row.name) == node:
            del names[row.name]
            if not names:
                del self._names[row.parent]
        if self._inodes.get(row.stat.inode) == node:
            del self._inodes[row.stat.inode]
        folded = fold(row.name)
        if folded != row.name:
            self._odd[row.parent][folded].discard(node)
            if not self._odd[row.parent][folded]:
                del self._odd[row.parent][folded]

    def at(self, parent: bytes, name: str) -> bytes | None:
        """Return the node with exactly this name in a directory."""
        return self._names.get(parent, {}).get(name)

    def alike(self, parent: bytes, folded: str) -> list[bytes]:
        """Return the nodes of a directory whose names fold to `folded`."""
        found = sorted(self._odd.get(parent, {}).get(folded, ()))
        exact = self.at(parent, folded)
        return found if exact is None else [exact, *found]

    def children(self, parent: bytes) -> Iterable[bytes]:
        """Return the nodes in a directory."""
        return self._names.get(parent, {}).values()

    def by_inode(self, inode: int) -> bytes | None:
        """Return a node seen with this inode."""
        return self._inodes.get(inode)

    def path(self, node: bytes) -> str | None:
        """Return where a node is on disk; None if a directory above it is not there."""
        return _path(self.rows, node)

    def find(self, path: str) -> bytes | None:
        """Return the node at a path."""
        node = ROOT
        for name in path.split("/") if path else ():
            child = self.at(node, name)
            if child is None:
                return None
            node = child
        return node

    def below(self, node: bytes) -> Iterator[bytes]:
        """Yield a node's descendants, parents first. The tree must not change meanwhile."""
        stack = list(self.children(node))
        while stack:
            child = stack.pop()
            yield child
            stack += self.children(child)

    def line(self, node: bytes | None) -> Iterator[bytes]:
        """Yield a node and the directories above it, as far as they are known."""
        while node is not None and node in self.rows:
            yield node
            node = self.rows[node].parent

    def between(self, node: bytes, ancestor: bytes) -> list[bytes]:
        """Return a node and what is above it up to `ancestor`; [] if it is not below that."""
        chain: list[bytes] = []
        while node != ancestor:
            row = self.rows.get(node)
            if row is None:
                return []
            chain.append(node)
            node = row.parent
        return chain


class RemoteTree:
    """What the journal says. Folded names are unique among the live nodes of a directory.

    (Between two rows of one atomic group they may not be; the later row then holds the name.)
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, Remote] = {}
        self._names: dict[bytes, dict[str, bytes]] = {}  # parent -> folded name -> live node

    def put(self, row: Remote) -> None:
        """Add or replace the row of a node."""
        old = self.rows.get(row.node)
        if old is not None:
            self._unname(old)
        self.rows[row.node] = row
        if row.alive and row.name:
            self._names.setdefault(row.parent, {})[_shared_fold(row.name)] = row.node

    def _unname(self, old: Remote) -> None:
        names = self._names.get(old.parent, {})
        folded = fold(old.name)
        if names.get(folded) == old.node:
            del names[folded]
            if not names:
                del self._names[old.parent]

    def holder(self, parent: bytes, folded: str) -> bytes | None:
        """Return the live node that holds a folded name in a directory."""
        return self._names.get(parent, {}).get(folded)

    def children(self, parent: bytes) -> Iterable[bytes]:
        """Return the live nodes in a directory."""
        return self._names.get(parent, {}).values()

    def alive(self, node: bytes) -> bool:
        """Say whether a node, or the root, is live."""
        row = self.rows.get(node)
        return node == ROOT or (row is not None and row.alive)

    def path(self, node: bytes) -> str | None:
        """Return where a node is in the journal, dead or alive."""
        return _path(self.rows, node)


def _shared_fold(name: str) -> str:
    """Fold, keeping one string in memory where name and folded name are equal."""
    folded = fold(name)
    return name if folded == name else folded


def _path(rows: dict[bytes, Local] | dict[bytes, Remote], node: bytes) -> str | None:
    names: list[str] = []
    while node != ROOT:
        row = rows.get(node)
        if row is None or len(names) > DEPTH_MAX:
            return None
        names.append(row.name)
        node = row.parent
    return "/".join(reversed(names))


class Forest:
    """The three trees together. Change rows only through `put_…` and `drop_…`."""

    def __init__(self) -> None:
        self.local = LocalTree()
        self.remote = RemoteTree()
        self.synced: dict[bytes, Synced] = {}
        self.dirty: dict[bytes, None] = {}  # in the order they became so
        self.blocked: dict[bytes, set[bytes]] = {}  # node -> those that wait for a change of it
        self.unsaved_local: set[bytes] = set()
        self.unsaved_remote: set[bytes] = set()
        self.unsaved_synced: set[bytes] = set()

    def touch(self, node: bytes) -> None:
        """Have a node planned again, and those that wait for it."""
        self.dirty[node] = None
        for waiter in sorted(self.blocked.pop(node, ())):
            self.dirty[waiter] = None

    def block(self, waiter: bytes, node: bytes) -> None:
        """Let one node wait until another changes."""
        self.blocked.setdefault(node, set()).add(waiter)

    def put_local(self, row: Local) -> None:
        """Record what is on disk."""
        old = self.local.rows.get(row.node)
        self.local.put(row)
        self.unsaved_local.add(row.node)
        self.touch(row.node)
        if old is None or old.parent != row.parent:
            self._touch_parents(old.parent if old else row.parent, row.parent)

    def drop_local(self, node: bytes, *, save: bool = True) -> None:
        """Record that a node is not on disk. `save` False: only in memory, as for now."""
        old = self.local.rows.get(node)
        self.local.drop(node)
        if save:
            self.unsaved_local.add(node)
        self.touch(node)
        if old is not None:
            self._touch_parents(old.parent)

    def put_remote(self, row: Remote) -> None:
        """Record what the journal says; entries on disk with that name are planned again."""
        old = self.remote.rows.get(row.node)
        self.remote.put(row)
        self.unsaved_remote.add(row.node)
        self.touch(row.node)
        if old is None or (old.parent, old.name, old.alive) != (row.parent, row.name, row.alive):
            for neighbour in self.local.alike(row.parent, fold(row.name)):
                self.touch(neighbour)
            self._touch_parents(old.parent if old else row.parent, row.parent)

    def put_synced(self, row: Synced) -> None:
        """Move the merge base of a node."""
        self.synced[row.node] = row
        self.unsaved_synced.add(row.node)
        self.touch(row.node)

    def drop_synced(self, node: bytes) -> None:
        """Forget that disk and journal ever agreed on a node."""
        if self.synced.pop(node, None) is not None:
            self.unsaved_synced.add(node)
            self.touch(node)

    def _touch_parents(self, *parents: bytes) -> None:
        """A directory that is away on one side lives or dies with what is in it."""
        for parent in parents:
            if parent != ROOT and self.half(parent):
                self.touch(parent)

    def depth(self, node: bytes) -> int:
        """Return how many directories are above a node: on disk if it is there, else there."""
        depth = 0
        while node != ROOT and depth < DEPTH_MAX:
            row = self.local.rows.get(node) or self.remote.rows.get(node)
            if row is None:
                break
            node, depth = row.parent, depth + 1
        return depth

    def half(self, node: bytes) -> bool:
        """Say whether a node is on one side only."""
        return (node in self.local.rows) != self.remote.alive(node)

    def is_directory(self, node: bytes) -> bool:
        """Say whether a node is the root or a directory, as far as either tree knows."""
        row = self.local.rows.get(node) or self.remote.rows.get(node)
        return node == ROOT or (row is not None and row.type is NodeType.DIRECTORY)
