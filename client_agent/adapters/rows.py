"""How the rows of the engine stand in SQLite (schema.sql): one table each, both directions."""

from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from client_agent.core.events import Queued
from client_agent.core.trees import Conflict, Local, Remote, Stat, Synced
from protocol.entry import NodeType
from protocol.vector import Vector

R = TypeVar("R")
Cells = tuple[Any, ...]

_vector = msgspec.msgpack.Decoder(Vector)
_types: Final = {int(kind): kind for kind in NodeType}


class Table(NamedTuple, Generic[R]):
    """A table whose first column is its key."""

    name: str
    columns: int
    cells: Callable[[R], Cells]
    row: Callable[[Cells], R]

    @property
    def put(self) -> str:
        """The statement that inserts or replaces one row."""
        return f"INSERT OR REPLACE INTO {self.name} VALUES ({', '.join('?' * self.columns)})"

    def drop(self, key: str) -> str:
        """The statement that deletes one row."""
        return f"DELETE FROM {self.name} WHERE {key} = ?"


def signed(number: int) -> int:
    """Return an unsigned 64-bit number as the signed one of the same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    """Undo `signed`."""
    return number + (1 << 64) if number < 0 else number


def _vector_cell(vector: Vector) -> bytes:
    return msgspec.msgpack.encode(vector) if vector else b""


def _vector_of(cell: bytes) -> Vector:
    return _vector.decode(cell) if cell else ()


def _local_cells(row: Local) -> Cells:
    stat = row.stat
    return (
        row.node, row.parent, row.name, int(row.type), signed(stat.inode), stat.size_bytes,
        stat.mtime_ns, stat.ctime_ns, int(stat.executable), row.content_id, row.target, row.hlc,
        int(row.racy),
    )


def _local(cells: Cells) -> Local:
    node, parent, name, kind, inode, size, mtime, ctime, x, content_id, target, hlc, racy = cells
    stat = Stat(unsigned(inode), size, mtime, ctime, bool(x))
    return Local(
        node, parent, name, _types[kind], stat, content_id, target, hlc, bool(racy)
    )


def _remote_cells(row: Remote) -> Cells:
    return (
        row.node, row.parent, row.name, int(row.type), row.place_rev, int(row.alive), row.version,
        row.content_id, _vector_cell(row.vector), row.size_bytes, row.mtime_ns,
        int(row.executable), row.target, row.fault, row.device,
    )


def _remote(cells: Cells) -> Remote:
    node, parent, name, kind, rev, alive, version, content_id, vector, *rest = cells
    size_bytes, mtime_ns, executable, target, fault, device = rest
    return Remote(
        node, parent, name, _types[kind], rev, bool(alive), version, content_id,
        _vector_of(vector), size_bytes, mtime_ns, bool(executable), target, fault, device,
    )


def _synced_cells(row: Synced) -> Cells:
    return (
        row.node, row.parent, row.name, int(row.type), row.content_id, row.version,
        _vector_cell(row.vector),
    )


def _synced(cells: Cells) -> Synced:
    node, parent, name, kind, content_id, version, vector = cells
    return Synced(node, parent, name, _types[kind], content_id, version, _vector_of(vector))


def _conflict_cells(row: Conflict) -> Cells:
    return (
        row.loser, row.node, row.head, row.copy, row.seq, row.at_ms, int(row.ours),
        row.loser_device, row.head_device, int(row.copied),
    )


def _conflict(cells: Cells) -> Conflict:
    loser, node, head, copy, seq, at_ms, ours, loser_device, head_device, copied = cells
    return Conflict(
        node, loser, head, copy, seq, at_ms, bool(ours), loser_device, head_device, bool(copied)
    )


def _queued_cells(row: Queued) -> Cells:
    return (
        row.node, row.step, row.path, row.priority, row.attempts, row.not_before_ms, row.fault
    )


LOCAL: Final = Table("local", 13, _local_cells, _local)
REMOTE: Final = Table("remote", 15, _remote_cells, _remote)
SYNCED: Final = Table("synced", 7, _synced_cells, _synced)
CONFLICTS: Final = Table("conflicts", 10, _conflict_cells, _conflict)
QUEUE: Final = Table("queue", 7, _queued_cells, lambda cells: Queued(*cells))
