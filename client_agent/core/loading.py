"""Take over what was saved: the three trees, with equal values in memory once.

Each table brings its own copy of ids, names and hashes. Keeping one of each, while the rows are
read, saves a third of the memory of a large tree.
"""

from typing import TypeVar

from client_agent.core.observing import miss
from client_agent.core.state import Loaded, State
from client_agent.core.trees import Local, Remote, Synced
from protocol.ids import ROOT

T = TypeVar("T", bytes, str)


class Sharing:
    """Passes rows through on their way from the disk, remote ones first."""

    def __init__(self) -> None:
        self._ids: dict[bytes, bytes] = {ROOT: ROOT}
        self._rows: dict[bytes, Remote] = {}

    def _one(self, value: bytes) -> bytes:
        return self._ids.setdefault(value, value)

    def remote(self, row: Remote) -> Remote:
        """Return an equal row that shares its ids with others."""
        shared = self._rows[row.node] = Remote(
            node=self._one(row.node),
            parent=self._one(row.parent),
            name=row.name,
            type=row.type,
            place_rev=row.place_rev,
            alive=row.alive,
            version=row.version,
            content_id=row.content_id,
            vector=tuple((self._one(device), count) for device, count in row.vector),
            size_bytes=row.size_bytes,
            mtime_ns=row.mtime_ns,
            executable=row.executable,
            target=row.target,
            fault=row.fault,
            device=self._one(row.device),
        )
        return shared

    def synced(self, row: Synced) -> Synced:
        """Return an equal row that shares what it can with the node's remote row."""
        remote = self._rows.get(row.node)
        if remote is None:
            return row
        return Synced(
            node=remote.node,
            parent=self._one(row.parent),
            name=_same(row.name, remote.name),
            type=row.type,
            content_id=_same(row.content_id, remote.content_id),
            version=_same(row.version, remote.version),
            vector=remote.vector if row.vector == remote.vector else row.vector,
        )

    def local(self, row: Local) -> Local:
        """Return an equal row that shares what it can with the node's remote row."""
        remote = self._rows.get(row.node)
        if remote is None:
            return row
        return Local(
            node=remote.node,
            parent=self._one(row.parent),
            name=_same(row.name, remote.name),
            type=row.type,
            stat=row.stat,
            content_id=_same(row.content_id, remote.content_id),
            target=row.target,
            hlc=row.hlc,
            racy=row.racy,
        )


def _same(value: T, known: T) -> T:
    return known if value == known else value


def load(state: State, loaded: Loaded) -> None:
    """Fill the forest; all of it is planned once.

    Entries that were missing when we stopped are still in the local tree: where two have one
    place, or the directory of one is gone, the scan will tell what is there.
    """
    forest = state.forest
    for remote in loaded.remote.values():
        forest.remote.put(remote)
    forest.synced.update((row.node, row) for row in loaded.synced.values())
    twice: list[bytes] = []
    for row in loaded.local.values():
        other = forest.local.at(row.parent, row.name)
        forest.local.put(row)
        if other is not None:
            twice.append(other)
    lost = twice or _orphans(forest.local.rows)
    while lost:
        for node in lost:  # none is below another: what is displaced is no longer found by name
            miss(state, node)
        lost = _orphans(forest.local.rows)
    forest.dirty.update(dict.fromkeys([*loaded.local, *loaded.remote, *loaded.synced]))


def _orphans(rows: dict[bytes, Local]) -> list[bytes]:
    return [n for n, row in rows.items() if row.parent != ROOT and row.parent not in rows]
