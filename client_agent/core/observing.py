"""From scans to the local tree: what is new, changed, moved or gone (SYNC.md 3).

Path before inode: what is found where it was, with its type, is the same entry (save by rename
keeps its node). Only entries that vanished can have moved: they are matched with new ones by
inode, size and mtime (directories by inode), and get two seconds to turn up before they count as
deleted. What could not be read is unknown, never absent. Paths that we ourselves were writing
during the scan are looked at again afterwards.
"""

from dataclasses import replace

from client_agent.core.events import Hinted, Scan, Scanned, Scope, Seen
from client_agent.core.safety import EMPTIED, EMPTIED_MIN, ROOT_FAULT
from client_agent.core.state import State, parent_path
from client_agent.core.trees import Local, Stat
from protocol.entry import NodeType
from protocol.ids import ROOT, new_id
from protocol.names import check_name, fold

MOVE_WAIT_MS = 2_000
RACY_MS = 2_500  # coarser than any clock of a file system
ROOT_RETRY_MS = 30_000
SCOPES_MAX = 1_000  # more hints than this are a burst: look at everything


def hinted(state: State, event: Hinted) -> None:
    """Note what the watcher saw, for the next scan."""
    state.scan_all |= event.lost
    state.scopes |= event.paths


def dispatch(state: State) -> None:
    """Start a scan if one is wanted and none is under way.

    All looks are deep: a file may have become a directory meanwhile, and for a file it is no more.
    Where we write ourselves, a look has to wait.
    """
    if state.scanning is not None:
        return
    writing = {path for step in state.taking.values() for path in (step.source, step.path) if path}
    if state.scan_all or len(state.scopes) > SCOPES_MAX:
        state.scan_all = False
        state.scopes.clear()
        paths = {""}
    else:
        paths = {path for path in state.scopes if not _under(path, writing)}
        state.scopes -= paths
    tops = [p for p in sorted(paths) if p == "" or not _under(parent_path(p), paths)]
    if tops:
        state.scanning = tuple(Scope(path, True) for path in tops)
        state.unsure = writing
        state.out.append(Scan(state.scanning))


def scanned(state: State, event: Scanned) -> None:
    """Bring the local tree up to date with what a scan found."""
    state.scanning = None
    if _root_is_trusted(state, event):
        _Look(state, event).take_in()
        if _whole(event):
            state.scanned = True
    for node in sorted(state.after_scan):
        state.forest.touch(node)
    state.after_scan.clear()


def _whole(event: Scanned) -> bool:
    return any(scope.path == "" for scope in event.scopes)


def _root_is_trusted(state: State, event: Scanned) -> bool:
    if event.root_fault:
        state.hold(ROOT_FAULT, event.root_fault)
        state.alarm(state.now_ms + ROOT_RETRY_MS, "scan")
        return False
    if state.holds.pop(ROOT_FAULT, None) is not None:
        state.scan_all = True
    if any(seen.path for seen in event.entries):
        state.holds.pop(EMPTIED, None)
        return True
    held_much = len(state.forest.synced) >= EMPTIED_MIN and not state.emptied_is_fine
    if _whole(event) and held_much and not event.unreadable:
        state.hold(EMPTIED, "nothing is left in the folder")
        return False
    return True


def expire_missing(state: State) -> None:
    """Count as deleted what vanished and did not turn up anywhere in time."""
    due: list[bytes] = []
    for node, (_, until_ms) in state.missing.items():  # in the order of their times
        if until_ms > state.now_ms:
            break
        due.append(node)
    if not due or not state.scanned or EMPTIED in state.holds:
        return
    forest = state.forest
    bare = not forest.local.rows and len(forest.synced) >= EMPTIED_MIN
    if bare and not state.emptied_is_fine:
        state.hold(EMPTIED, "everything in the folder was deleted")
        return
    state.emptied_is_fine = False
    for node in due:
        row = _found(state, node)
        forest.unsaved_local.add(node)
        forest.touch(node)
        forest.touch(row.parent)


def miss(state: State, node: bytes) -> None:
    """Give a vanished entry, and all below it, time to turn up elsewhere."""
    local = state.forest.local
    for gone in [*local.below(node), node]:
        row = local.rows[gone]
        state.missing[gone] = (row, state.now_ms + MOVE_WAIT_MS)
        state.missing_at[row.parent, row.name] = gone
        state.missing_inodes[row.stat.inode] = gone
        state.forest.drop_local(gone, save=False)
    state.alarm(state.now_ms + MOVE_WAIT_MS, "missing")


def settle(state: State, row: Local) -> None:
    """Record what a step of ours put in its place. What we thought was there has vanished."""
    other = state.forest.local.at(row.parent, row.name)
    state.forest.put_local(row)
    if other is not None and other != row.node:
        miss(state, other)


def _found(state: State, node: bytes) -> Local:
    """Take a node off the list of the missing."""
    row, _ = state.missing.pop(node)
    if state.missing_at.get((row.parent, row.name)) == node:
        del state.missing_at[row.parent, row.name]
    if state.missing_inodes.get(row.stat.inode) == node:
        del state.missing_inodes[row.stat.inode]
    return row


def _under(path: str, tops: set[str]) -> bool:
    """Say whether a path is one of some others, or below one."""
    if not tops:
        return False
    if "" in tops:
        return True
    while path:
        if path in tops:
            return True
        path = parent_path(path)
    return False


class _Look:
    """One scan being taken in."""

    def __init__(self, state: State, event: Scanned) -> None:
        self.state, self.event = state, event
        self.forest, self.local = state.forest, state.forest.local
        self.types = {e.path: e.type for e in event.entries if e.type is not None}
        self.scopes = {scope.path for scope in event.scopes}
        self.at: dict[str, bytes] = {"": ROOT}
        self.matched: set[bytes] = set()
        self.unknown = set(event.unreadable)
        self.deferred: set[str] = set()  # new paths whose entry may have moved here

    def take_in(self) -> None:
        self._note_unreadable()
        for seen in self.event.entries:
            self._entry(seen)
        for path in sorted(self.scopes):
            self._vanished(path)

    def _covered(self, path: str) -> bool:
        return _under(path, self.scopes)

    def _note_unreadable(self) -> None:
        state = self.state
        if state.unreadable:
            state.unreadable = {
                path: why for path, why in state.unreadable.items() if not self._covered(path)
            }
        state.unreadable.update(self.event.unreadable)

    def _entry(self, seen: Seen) -> None:
        state, path = self.state, seen.path
        if path == "" or seen.type is None:
            return
        if _under(path, state.unsure):
            state.scan(path)
            return
        above, _, name = path.rpartition("/")
        parent = self.at.get(above)
        if parent is None:
            parent = self.local.find(above)
            self.matched.update(self.local.line(parent))
        if parent is None:
            self._look_higher(above)
            return
        node = self._known(parent, name, seen)
        if node is None:
            problem = check_name(name)
            if problem is not None:
                state.unreadable[path] = problem
                self.unknown.add(path)
                return
            node = self._moved(parent, name, seen)
        if node is None:
            if path in self.deferred:
                return
            node = self._returned(parent, name, seen) or new_id(state.dice)
            self.forest.put_local(
                Local(node, parent, name, seen.type, seen.stat, b"", seen.target, state.stamp())
            )
        self.matched.add(node)
        if seen.type is NodeType.DIRECTORY:
            self.at[path] = node

    def _look_higher(self, path: str) -> None:
        """Its directory is not known: look at the topmost one that is not."""
        if _under(path, self.unknown) or path in self.types:
            return  # it is left out on purpose, with all below it
        while path and self.local.find(parent_path(path)) is None:
            path = parent_path(path)
        self.state.scan(path)

    def _known(self, parent: bytes, name: str, seen: Seen) -> bytes | None:
        """Return the node that was at this path, with this type; record what changed."""
        node = self.local.at(parent, name)
        if node is not None:
            row = self.local.rows[node]
            if row.type is seen.type:
                self._update(row, seen)
                return node
            miss(self.state, node)
            return None
        node = self.state.missing_at.get((parent, name))
        if node is None or self.state.missing[node][0].type is not seen.type:
            return None
        row = _found(self.state, node)
        self.forest.put_local(row)
        self._update(row, seen)
        return node

    def _returned(self, parent: bytes, name: str, seen: Seen) -> bytes | None:
        """Return the node that was deleted here, but not yet there, and has come back."""
        node = self.forest.remote.holder(parent, fold(name))
        synced = self.forest.synced.get(node) if node is not None else None
        if node is None or synced is None or self.state.busy(node):
            return None
        same = (synced.parent, synced.name, synced.type) == (parent, name, seen.type)
        away = node not in self.local.rows and node not in self.state.missing
        return node if same and away else None

    def _update(self, row: Local, seen: Seen) -> None:
        if row.type is NodeType.DIRECTORY:
            if row.stat.inode != seen.stat.inode:
                self.forest.put_local(replace(row, stat=seen.stat))
        elif row.stat != seen.stat or row.racy:
            self._changed(row, seen)

    def _changed(self, row: Local, seen: Seen) -> None:
        """Have it read again: whether the content changed, only reading tells."""
        self.state.forget_read(row.node)
        if _only_rights(row.stat, seen.stat):
            self.state.done(row.node)  # what may not be read before may be readable now
        self.forest.put_local(
            replace(
                row,
                stat=seen.stat,
                content_id=b"",
                target=seen.target,
                hlc=self.state.stamp(),
                racy=False,
            )
        )

    def _moved(self, parent: bytes, name: str, seen: Seen) -> bytes | None:
        """Return the node that moved here, if one did; it keeps its content."""
        node = self.local.by_inode(seen.stat.inode)
        if node is not None:
            row = self.local.rows[node]
            if not _same(row, seen) or not self._left(node, seen.path):
                return None
        else:
            node = self.state.missing_inodes.get(seen.stat.inode)
            if node is None or not _same(self.state.missing[node][0], seen):
                return None
            row = _found(self.state, node)
        self.forest.put_local(
            replace(row, parent=parent, name=name, stat=seen.stat, hlc=self.state.stamp())
        )
        return node

    def _left(self, node: bytes, found: str) -> bool:
        """Say whether a node is no longer where it was; look there first if nobody did."""
        path = self.local.path(node)
        assert path is not None
        if _under(path, self.state.unsure):
            self.deferred.add(found)
            self.state.later |= {path, found}
            return False
        if not self._covered(path):
            self.deferred.add(found)
            self.state.scan(path)
            self.state.scan(found)
            return False
        return path not in self.types and not _under(path, self.unknown)

    def _vanished(self, path: str) -> None:
        node = self.local.find(path)
        if node is None or _under(path, self.unknown):
            return
        nodes = list(self.local.below(node))
        if node != ROOT:
            nodes.insert(0, node)
        gone = [n for n in nodes if n not in self.matched]
        if self.unknown or self.state.unsure:
            gone = [n for n in gone if not self._doubtful(n)]
        for n in gone:
            if n in self.local.rows:
                miss(self.state, n)

    def _doubtful(self, node: bytes) -> bool:
        """Say whether nothing can be concluded from an absence; look again if it was our doing."""
        path = self.local.path(node)
        assert path is not None
        if _under(path, self.state.unsure):
            self.state.scan(path)
            return True
        return _under(path, self.unknown)


def _only_rights(old: Stat, new: Stat) -> bool:
    """Say whether an entry changed in mode or owner, but not in content: no writer is at work."""
    as_written = (old.inode, old.size_bytes, old.mtime_ns) == (
        new.inode, new.size_bytes, new.mtime_ns
    )
    return as_written and old.ctime_ns != new.ctime_ns


def _same(row: Local, seen: Seen) -> bool:
    """Say whether an entry elsewhere is, by its stat, the one of this row."""
    if row.type is not seen.type or row.stat.inode != seen.stat.inode:
        return False
    return row.type is NodeType.DIRECTORY or (
        row.stat.size_bytes == seen.stat.size_bytes and row.stat.mtime_ns == seen.stat.mtime_ns
    )


def racy(state: State, node: bytes) -> None:
    """Look again at an entry that was read too soon after it changed."""
    row = state.forest.local.rows.get(node)
    path = state.forest.local.path(node)
    if row is not None and row.racy and path is not None:
        state.scan(path)
