"""A disk in memory for the simulated world: paths, inodes, stats, and hints as of a watcher."""

from dataclasses import dataclass

from client_agent.core import events as e
from client_agent.core.state import parent_path
from client_agent.core.trees import Stat
from protocol.codec import sha256
from protocol.entry import NodeType

FILE, DIRECTORY, SYMLINK = NodeType.FILE, NodeType.DIRECTORY, NodeType.SYMLINK


def content_id(kind, data: bytes, executable=False) -> bytes:
    return sha256(bytes([kind, executable]), data)


@dataclass
class Entry:
    type: NodeType
    inode: int
    data: bytes = b""
    mtime: int = 0
    ctime: int = 0
    executable: bool = False

    @property
    def stat(self) -> Stat:
        return Stat(self.inode, len(self.data), self.mtime, self.ctime, self.executable)


class Disk:
    """Paths to entries; parents always exist. Every change gives a hint, as a watcher would."""

    def __init__(self, hint=lambda path: None, number=0):
        self.entries: dict[str, Entry] = {}
        self.hint = hint
        self.clock = 1_000_000_000 + number  # no two disks have equal times by chance
        self.inodes = 0
        self.root_fault = ""
        self.unreadable: dict[str, str] = {}
        self.held: set[bytes] = set()  # ids of all contents that were ever here

    def tick(self) -> int:
        self.clock += 1_000_000
        return self.clock

    def _new(self, kind, data=b"", executable=False, mtime=None) -> Entry:
        self.inodes += 1
        now = self.tick()
        self.held.add(content_id(kind, data, executable))
        return Entry(kind, self.inodes, data, now if mtime is None else mtime, now, executable)

    def mkdir(self, path: str) -> None:
        assert path not in self.entries
        assert self.is_dir(parent_path(path)), path
        self.entries[path] = self._new(DIRECTORY)
        self.hint(path)

    def is_dir(self, path: str) -> bool:
        return path == "" or (path in self.entries and self.entries[path].type is DIRECTORY)

    def write(self, path: str, data: bytes, executable=False) -> None:
        """In place, if there is a file; else a new one."""
        assert self.is_dir(parent_path(path)), path
        old = self.entries.get(path)
        if old is not None and old.type is FILE:
            old.data, old.mtime, old.executable = data, self.tick(), executable
            old.ctime = old.mtime
            self.held.add(content_id(FILE, data, executable))
        else:
            assert old is None
            self.entries[path] = self._new(FILE, data, executable)
        self.hint(path)

    def link(self, path: str, target: str) -> None:
        assert path not in self.entries
        self.entries[path] = self._new(SYMLINK, target.encode())
        self.hint(path)

    def save_by_rename(self, path: str, data: bytes) -> None:
        """As editors save: a new file moved over the old one."""
        self.entries[path] = self._new(FILE, data)
        self.hint(path)

    def touch(self, path: str) -> None:
        entry = self.entries[path]
        entry.mtime = entry.ctime = self.tick()
        self.hint(path)

    def below(self, path: str) -> list[str]:
        top = f"{path}/" if path else ""
        return [p for p in self.entries if p.startswith(top) and p != path]

    def remove(self, path: str) -> None:
        for gone in [*self.below(path), path]:
            del self.entries[gone]
        self.hint(path)

    def rename(self, old: str, new: str) -> None:
        assert new not in self.entries or new == old
        assert not new.startswith(f"{old}/")
        assert self.is_dir(parent_path(new)), new
        moved = {new + p[len(old) :]: self.entries.pop(p) for p in [*self.below(old), old]}
        moved[new].ctime = self.tick()
        self.entries.update(moved)
        self.hint(old)
        self.hint(new)

    def swap(self, one: str, two: str) -> None:
        ones, twos = [one, *self.below(one)], [two, *self.below(two)]
        entries = {two + p[len(one) :]: self.entries[p] for p in ones}
        entries |= {one + p[len(two) :]: self.entries[p] for p in twos}
        for path in ones + twos:
            del self.entries[path]
        self.entries.update(entries)
        for path in (one, two):
            self.entries[path].ctime = self.tick()
            self.hint(path)

    def files(self) -> dict[str, bytes]:
        return {p: x.data for p, x in self.entries.items() if x.type is FILE}

    def listing(self) -> dict[str, tuple]:
        return {p: (x.type, x.data, x.executable) for p, x in self.entries.items()}

    def scan(self, effect: e.Scan, now_ms: int) -> e.Scanned:
        found: dict[str, Entry] = {}
        for scope in effect.scopes:
            if scope.path in self.entries:
                found[scope.path] = self.entries[scope.path]
            if scope.deep:
                found |= {p: self.entries[p] for p in self.below(scope.path)}
        hidden = tuple(self.unreadable)
        entries = tuple(
            e.Seen(p, x.type, x.stat, x.data.decode() if x.type is SYMLINK else "")
            for p, x in sorted(found.items())
            if not any(p == h or p.startswith(h + "/") for h in hidden)
        )
        return e.Scanned(
            effect.scopes, entries, dict(self.unreadable), now_ms, root_fault=self.root_fault
        )
