"""The device's memory: everything comes back, nothing half, nothing deleted."""

import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from client_agent.adapters.state import Known, Pending, State, StateBusy, StateTooNew
from client_agent.core.events import ChangeSpec, Commit, Happened, Queued, Save
from client_agent.core.trees import Conflict, Cursor, Local, Remote, Stat, Synced
from client_agent.crypto.chunks import ChunkEntry
from client_agent.crypto.manifest import FORMAT, Manifest
from protocol.entry import ChangeKind, NodeType

NODE, OTHER, PARENT, DEVICE = (bytes([n]) * 16 for n in (1, 2, 3, 4))
HASH = b"h" * 32
STAT = Stat((1 << 64) - 1, 5, -1, 2**62, True)
VECTOR = ((DEVICE, 7),)
LOCAL = Local(NODE, PARENT, "näme", NodeType.FILE, STAT, HASH, "", 99, True)
REMOTE = Remote(
    NODE, PARENT, "näme", NodeType.SYMLINK, 3, True, OTHER, HASH, VECTOR, 5, -9, False, "to",
    "name", DEVICE,
)
SYNCED = Synced(NODE, PARENT, "näme", NodeType.FILE, HASH, OTHER, VECTOR)
CONFLICT = Conflict(NODE, OTHER, NODE, PARENT, 4, 5, True, DEVICE, NODE, True)
QUEUED = Queued(NODE, "send", "a/b", 3, 2, 1000, "offline")
SPEC = ChangeSpec(
    ChangeKind.CREATE, NODE, NodeType.FILE, 1, 2, base=VECTOR, parent=PARENT, name="n"
)
COMMIT = Commit(8, 7, (SPEC,), Cursor(OTHER, 3, HASH))
ENTRY = ChunkEntry(HASH, 1, 10, b"p" * 32, 200)
MANIFEST = Manifest(FORMAT, NODE, NodeType.FILE, 10, 5, False, None, 1, (ENTRY,))
KNOWN = Known(OTHER, NODE, HASH, MANIFEST)


def everything() -> Save:
    return Save(
        {NODE: LOCAL}, {NODE: REMOTE}, {NODE: SYNCED}, {OTHER: CONFLICT}, {NODE: QUEUED},
        Cursor(OTHER, 12, HASH), 5, 6, 7, (Happened(1, "uploaded", "a/b", NODE),), (COMMIT,),
    )


def nothing(**more) -> Save:
    return Save({}, {}, {}, {}, {}, **more)


async def test_all_that_is_saved_comes_back(tmp_path):
    state = State.open(tmp_path)
    state.load(-1)
    state.learn([KNOWN], [ENTRY])
    assert state.content(OTHER) == KNOWN, "known at once"
    await state.save(everything())
    state.count("up_bytes", 40)
    await state.close()

    again = State.open(tmp_path)
    memory = again.load(0)
    assert memory.local == {NODE: LOCAL}
    assert memory.remote == {NODE: REMOTE}
    assert memory.synced == {NODE: SYNCED}
    assert memory.conflicts == {OTHER: CONFLICT}
    assert memory.queue == {NODE: QUEUED}
    assert memory.cursor == Cursor(OTHER, 12, HASH)
    assert (memory.dots, memory.ops, memory.hlc, memory.generation) == (5, 6, 7, 0)
    assert memory.sent == (COMMIT,)
    assert again.content(OTHER) == KNOWN
    assert again.contents_of(NODE) == [KNOWN]
    assert again.known_chunks([b"p" * 32, b"q" * 32]) == {b"p" * 32: ENTRY}
    assert again.counted("up_bytes") == 40
    assert again.history("a") == again.history() == [Happened(1, "uploaded", "a/b", NODE)]
    assert again.history("a/b/c") == []
    await again.forget_chunks([HASH])
    assert again.known_chunks([b"p" * 32]) == {}
    await again.close()


async def test_none_deletes(tmp_path):
    state = State.open(tmp_path)
    state.load(-1)
    await state.save(everything())
    await state.save(
        Save({NODE: None}, {NODE: None}, {NODE: None}, {OTHER: None}, {NODE: None}, sent=())
    )
    memory = state.load(0)
    rows = (memory.local, memory.remote, memory.synced, memory.conflicts, memory.queue)
    assert rows == ({},) * 5
    assert memory.sent == ()
    await state.close()


async def test_a_commit_is_kept_byte_for_byte_until_it_is_closed(tmp_path):
    state = State.open(tmp_path)
    state.load(-1)
    pending = Pending(8, b"header", b"s" * 64, (b"one", b"two"), NODE)
    await state.put_pending(pending)
    await state.put_pending(pending)
    assert state.pending(8) == pending
    assert state.pending(7) is None
    await state.save(nothing(sent=()))
    assert state.pending(8) is None
    await state.close()


async def test_an_older_database_starts_a_new_generation(tmp_path):
    state = State.open(tmp_path)
    assert state.load(3).generation == 4
    await state.save(everything())
    assert state.load(4).dots == 5
    older = state.load(6)
    assert (older.generation, older.dots, older.ops, older.sent) == (7, 0, 0, ())
    await state.close()


async def test_a_damaged_database_is_moved_aside(tmp_path):
    state = State.open(tmp_path)
    state.load(-1)
    await state.save(everything())
    await state.close()
    (tmp_path / "state.db").write_bytes(b"SQLite format 3\0" + os.urandom(9000))

    rebuilt = State.open(tmp_path)
    assert rebuilt.moved_aside is not None
    assert rebuilt.moved_aside.stat().st_size == 9016
    assert rebuilt.load(0).generation == 1
    await rebuilt.close()


async def test_a_newer_database_is_left_alone(tmp_path):
    State.open(tmp_path)._thread.shutdown()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    (tmp_path / "agent.lock").unlink()
    with pytest.raises(StateTooNew):
        State.open(tmp_path)
    assert len(list(tmp_path.glob("state.db.*-*"))) == 0


async def test_two_agents_never_share_a_home(tmp_path):
    state = State.open(tmp_path)
    with pytest.raises(StateBusy):
        State.open(tmp_path)
    await state.close()
    await State.open(tmp_path).close()


CRASH = """
import asyncio, sys
from pathlib import Path
from client_agent.adapters.state import State
from client_agent.core.events import Save
from client_agent.core.trees import Cursor
state = State.open(Path(sys.argv[1]))
state.load(-1)
async def work():
    n = 0
    while True:
        n += 1
        await state.save(Save({}, {}, {}, {}, {}, Cursor(b"h" * 16, n, b"x" * 32), n, n, n))
        print(n, flush=True)
asyncio.run(work())
"""


@pytest.mark.kills
async def test_a_kill_leaves_a_whole_save_and_loses_none_that_was_answered(tmp_path):
    # Catches synchronous saving moved behind the answer: then `cursor.seq` is below `said`.
    child = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", CRASH, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    said = 0
    for line in child.stdout:
        said = int(line)
        if said >= 40:
            child.send_signal(signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.wait()
    said = int(rest[-1]) if rest else said
    state = State.open(tmp_path)
    memory = state.load(0)
    assert memory.cursor is not None
    assert memory.cursor.seq == memory.dots == memory.ops == memory.hlc >= said
    await state.close()
