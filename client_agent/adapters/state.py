"""The device's memory: SQLite, one writer in one thread, a transaction per `Save`.

WAL with synchronous=FULL: what was saved has reached the disk before anything is spoken.
Readers in other threads have connections of their own. Manifests and chunks learned between two
saves wait in memory (`learn`) and are written with the next `Save`, which also moves the cursor:
so the cursor never stands past a version whose manifest is not here.

A damaged database is moved aside, never deleted, and rebuilt under a new generation.
"""

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from client_agent.adapters.rows import CONFLICTS, LOCAL, QUEUE, REMOTE, SYNCED, Table
from client_agent.core.events import Commit, Happened, Queued, Save
from client_agent.core.loading import Sharing
from client_agent.core.trees import Conflict, Cursor, Local, Remote, Synced
from client_agent.crypto.chunks import ChunkEntry
from client_agent.crypto.manifest import Manifest
from client_agent.settings import make_home

T = TypeVar("T")

FILE = "state.db"
SCHEMA_VERSION = 1
HISTORY_LINES_MAX = 50_000
_KEYS_AT_ONCE = 500  # below SQLite's limit of parameters in every build

_manifest = msgspec.msgpack.Decoder(Manifest)
_sent = msgspec.msgpack.Decoder(tuple[Commit, ...])
_NONE_SENT = msgspec.msgpack.encode(())
_changes = msgspec.msgpack.Decoder(tuple[bytes, ...])


class StateBusy(Exception):
    """Another process uses this home."""


class StateTooNew(Exception):
    """A newer Syncline wrote the database; this one leaves it as it is."""


@dataclass(frozen=True, slots=True)
class Known:
    """The content of a version: whose it is, what it is, and the manifest in the clear."""

    version: bytes
    node: bytes
    content_id: bytes
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Pending:
    """A commit as it was signed; resent byte for byte."""

    op: int
    header: bytes
    signature: bytes
    changes: tuple[bytes, ...]
    upload: bytes | None = None


@dataclass(slots=True)
class Memory:
    """Everything the engine starts from."""

    local: dict[bytes, Local]
    remote: dict[bytes, Remote]
    synced: dict[bytes, Synced]
    conflicts: dict[bytes, Conflict]
    queue: dict[bytes, Queued]
    cursor: Cursor | None
    dots: int
    ops: int
    hlc: int
    generation: int
    sent: tuple[Commit, ...]  # the commit that is not closed


class State:
    """One home's database, held by a lock for as long as it is open."""

    def __init__(self, home: Path, lock: int, writer: sqlite3.Connection) -> None:
        """Use `State.open`."""
        self.home = home
        self.moved_aside: Path | None = None  # the damaged database, if there was one
        self._lock = lock
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, "state")
        self._readers = threading.local()
        self._reader_list: list[sqlite3.Connection] = []
        self._learned: dict[bytes, Known] = {}
        self._chunks: dict[bytes, ChunkEntry] = {}
        self._counters: dict[str, int] = {}

    @classmethod
    def open(cls, home: Path) -> "State":
        """Open or make the database.

        Raises StateBusy, StateTooNew; OSError if the home cannot be used.
        """
        make_home(home)
        lock = lock_file(home / "agent.lock")
        aside = None
        try:
            writer = _connect(home / FILE)
        except sqlite3.DatabaseError:
            aside = set_aside(home, "damaged")
            writer = _connect(home / FILE)
        state = cls(home, lock, writer)
        state.moved_aside = aside
        return state

    async def close(self) -> None:
        """Write what waits, fold the log into the file, and let the home go."""
        await self.run(self._close)
        self._thread.shutdown()
        for reader in self._reader_list:
            reader.close()
        os.close(self._lock)

    def _close(self) -> None:
        learned, chunks = self._take_learned()
        with self._writer:
            self._write_learned(learned, chunks)
            self._write_counters()
        self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work` in the writer's thread, after what was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    # ------------------------------------------------------------ the engine's rows

    def load(self, generation: int) -> Memory:
        """Read everything. Call once, before the first `save`.

        `generation` is the newest one that this device has used. If the database is of an older
        one (new, or restored from a backup), its numbers start again under `generation` + 1.
        """
        facts = self._facts()
        stored = int(facts.get("generation", -1))
        if stored < max(generation, 0):
            stored = generation + 1
            again = {"dots": 0, "ops": 0, "generation": stored, "sent": _NONE_SENT}
            facts |= again
            with self._writer:
                self._put_facts(again)
                self._writer.execute("DELETE FROM pending")
        cursor = None
        if "cursor_history" in facts:
            cursor = Cursor(facts["cursor_history"], facts["cursor_seq"], facts["cursor_hash"])
        self._counters = {
            name.removeprefix("count_"): int(value)
            for name, value in facts.items()
            if name.startswith("count_")
        }
        sharing = Sharing()
        remote = self._load(REMOTE, sharing.remote)
        return Memory(
            self._load(LOCAL, sharing.local), remote, self._load(SYNCED, sharing.synced),
            self._load(CONFLICTS), self._load(QUEUE), cursor, int(facts.get("dots", 0)),
            int(facts.get("ops", 0)), int(facts.get("hlc", 0)), stored,
            _sent.decode(facts.get("sent", _NONE_SENT)),
        )

    def _load(
        self, table: Table[T], share: Callable[[T], T] = lambda row: row
    ) -> dict[bytes, T]:
        rows = self._writer.execute(f"SELECT * FROM {table.name}")
        return {cells[0]: share(table.row(cells)) for cells in rows}

    async def save(self, save: Save) -> None:
        """Write a `Save`, and what was learned before it, in one transaction on disk."""
        learned = self._take_learned()
        await self.run(self._save, save, *learned)

    def _save(
        self, save: Save, learned: dict[bytes, Known], chunks: dict[bytes, ChunkEntry]
    ) -> None:
        with self._writer:
            self._write_learned(learned, chunks)
            self._put(LOCAL, "node", save.local)
            self._put(REMOTE, "node", save.remote)
            self._put(SYNCED, "node", save.synced)
            self._put(CONFLICTS, "loser", save.conflicts)
            self._put(QUEUE, "node", save.queue)
            self._put_facts(_facts_of(save))
            if save.sent == ():
                self._writer.execute("DELETE FROM pending")
            self._put_history(save.history)
            self._write_counters()
        self._drop_learned(learned, chunks)

    def _put(self, table: Table[T], key: str, rows: dict[bytes, T | None]) -> None:
        gone = [(node,) for node, row in rows.items() if row is None]
        here = (table.cells(row) for row in rows.values() if row is not None)
        if gone:
            self._writer.executemany(table.drop(key), gone)
        if len(gone) < len(rows):
            self._writer.executemany(table.put, here)

    def _put_history(self, lines: Sequence[Happened]) -> None:
        if not lines:
            return
        self._writer.executemany(
            "INSERT INTO history (at_ms, verb, path, node, detail) VALUES (?, ?, ?, ?, ?)",
            [(line.at_ms, line.verb, line.path, line.node, line.detail) for line in lines],
        )
        self._writer.execute(
            "DELETE FROM history WHERE id <= (SELECT max(id) FROM history) - ?",
            (HISTORY_LINES_MAX,),
        )

    # ------------------------------------------------------------ facts and counters

    def _facts(self) -> dict[str, Any]:
        return dict(self._writer.execute("SELECT name, value FROM facts").fetchall())

    def _put_facts(self, facts: dict[str, Any]) -> None:
        self._writer.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())

    def count(self, name: str, more: int) -> int:
        """Add to a counter that survives restarts, written with the next save; its new value."""
        self._counters[name] = self._counters.get(name, 0) + more
        return self._counters[name]

    def counted(self, name: str) -> int:
        """Return a counter."""
        return self._counters.get(name, 0)

    def _write_counters(self) -> None:
        counters = dict(self._counters)
        self._put_facts({f"count_{name}": value for name, value in counters.items()})

    # ------------------------------------------------------------ contents and chunks

    def learn(self, contents: Iterable[Known], chunks: Iterable[ChunkEntry]) -> None:
        """Remember manifests and chunks that the space holds. On disk with the next `save`."""
        for known in contents:
            self._learned[known.version] = known
        for entry in chunks:
            self._chunks[entry.pid] = entry

    def _take_learned(self) -> tuple[dict[bytes, Known], dict[bytes, ChunkEntry]]:
        return dict(self._learned), dict(self._chunks)

    def _write_learned(
        self, learned: dict[bytes, Known], chunks: dict[bytes, ChunkEntry]
    ) -> None:
        """Write inside the open transaction; readers find them in memory until it ends."""
        self._writer.executemany(
            "INSERT OR REPLACE INTO contents VALUES (?, ?, ?, ?)",
            [
                (k.version, k.node, k.content_id, msgspec.msgpack.encode(k.manifest))
                for k in learned.values()
            ],
        )
        self._writer.executemany(
            "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)",
            [
                (e.pid, e.address, e.key_epoch, e.length, e.sealed_bytes)
                for e in chunks.values()
            ],
        )

    def _drop_learned(
        self, learned: dict[bytes, Known], chunks: dict[bytes, ChunkEntry]
    ) -> None:
        """Let go of what other connections can read now, unless something newer took its place."""
        for version, known in learned.items():
            if self._learned.get(version) is known:
                del self._learned[version]
        for pid, entry in chunks.items():
            if self._chunks.get(pid) is entry:
                del self._chunks[pid]

    def content(self, version: bytes) -> Known | None:
        """Return what is known of a version. Any thread."""
        known = self._learned.get(version)
        if known is not None:
            return known
        found = self._reader().execute(
            "SELECT version, node, content_id, manifest FROM contents WHERE version = ?",
            (version,),
        ).fetchone()
        return None if found is None else _known(found)

    def contents_of(self, node: bytes) -> list[Known]:
        """Return every known version of a node. Any thread."""
        found = self._reader().execute(
            "SELECT version, node, content_id, manifest FROM contents WHERE node = ?", (node,)
        )
        known = {row[0]: _known(row) for row in found}
        known |= {v: k for v, k in list(self._learned.items()) if k.node == node}
        return list(known.values())

    def known_chunks(self, pids: Sequence[bytes]) -> dict[bytes, ChunkEntry]:
        """Return those of the chunks that the space holds. Any thread."""
        chunks = self._chunks
        found = {pid: chunks[pid] for pid in pids if pid in chunks}
        asked = [pid for pid in dict.fromkeys(pids) if pid not in found]
        for start in range(0, len(asked), _KEYS_AT_ONCE):
            part = asked[start : start + _KEYS_AT_ONCE]
            rows = self._reader().execute(
                "SELECT address, key_epoch, length, pid, sealed_bytes FROM chunks"
                f" WHERE pid IN ({', '.join('?' * len(part))})",
                part,
            )
            found |= {row[3]: ChunkEntry(*row) for row in rows}
        return found

    async def forget_chunks(self, addresses: Iterable[bytes]) -> None:
        """Drop chunks that the server turned out not to hold; they are sent again."""
        gone = set(addresses)
        for pid in [pid for pid, entry in self._chunks.items() if entry.address in gone]:
            del self._chunks[pid]
        await self.run(self._forget_chunks, gone)

    def _forget_chunks(self, addresses: set[bytes]) -> None:
        with self._writer:
            self._writer.executemany(
                "DELETE FROM chunks WHERE address = ?", [(address,) for address in addresses]
            )

    # ------------------------------------------------------------ commits under way

    async def put_pending(self, pending: Pending) -> None:
        """Write a commit down, before it is sent; it replaces the one before."""
        await self.run(self._put_pending, pending)

    def _put_pending(self, pending: Pending) -> None:
        changes = msgspec.msgpack.encode(pending.changes)
        with self._writer:
            self._writer.execute("DELETE FROM pending")
            self._writer.execute(
                "INSERT INTO pending VALUES (?, ?, ?, ?, ?)",
                (pending.op, pending.header, pending.signature, changes, pending.upload),
            )

    def pending(self, op: int) -> Pending | None:
        """Return a commit that was written down and is not closed. Any thread."""
        found = self._reader().execute(
            "SELECT op, header, signature, changes, upload FROM pending WHERE op = ?", (op,)
        ).fetchone()
        if found is None:
            return None
        _, header, signature, changes, upload = found
        return Pending(op, header, signature, _changes.decode(changes), upload)

    # ------------------------------------------------------------ history

    def history(self, path: str | None = None, limit: int = 100) -> list[Happened]:
        """Return the newest lines first; of `path` and what is below it, if given. Any thread."""
        below = None if path is None else path + "/"
        rows = self._reader().execute(
            "SELECT at_ms, verb, path, node, detail FROM history WHERE ?1 IS NULL OR path = ?1"
            " OR substr(path, 1, length(?2)) = ?2 ORDER BY id DESC LIMIT ?3",
            (path, below, limit),
        )
        return [Happened(*row) for row in rows]

    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._readers, "connection", None)
        if reader is None:
            reader = sqlite3.connect(
                self.home / FILE, isolation_level=None, check_same_thread=False
            )
            reader.execute("PRAGMA query_only = ON")
            self._readers.connection = reader
            self._reader_list.append(reader)
        return reader


def _known(cells: tuple[Any, ...]) -> Known:
    version, node, content_id, manifest = cells
    return Known(version, node, content_id, _manifest.decode(manifest))


def lock_file(path: Path) -> int:
    """Take a lock that ends with the process; answer its descriptor. Raises StateBusy."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StateBusy(str(path)) from None
    return descriptor


def _facts_of(save: Save) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "dots": save.dots, "ops": save.ops, "hlc": save.hlc, "generation": save.generation,
        "sent": None if save.sent is None else msgspec.msgpack.encode(save.sent),
    }
    facts = {name: value for name, value in facts.items() if value is not None}
    if save.cursor is not None:
        facts |= {
            "cursor_history": save.cursor.history,
            "cursor_seq": save.cursor.seq,
            "cursor_hash": save.cursor.hash,
        }
    return facts


def _connect(path: Path) -> sqlite3.Connection:
    """Open, check and if need be fill the database. Raises sqlite3.DatabaseError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"the check says: {verdict}")
        if version > SCHEMA_VERSION:
            raise StateTooNew(f"schema {version}, known up to {SCHEMA_VERSION}")
        if version == 0:
            schema = resources.files("client_agent.adapters").joinpath("schema.sql").read_text()
            connection.executescript(f"BEGIN;\n{schema}\nCOMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def set_aside(home: Path, why: str) -> Path | None:
    """Move the database away under another name; answer which. None: there is none."""
    if not (home / FILE).exists():
        return None
    aside = home / f"{FILE}.{why}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    for suffix in ("", "-wal", "-shm"):
        source = home / f"{FILE}{suffix}"
        if source.exists():
            source.rename(f"{aside}{suffix}")
    return aside
