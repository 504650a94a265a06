"""Applying: atomic, verified, inside the root, and never over what somebody just changed."""

import errno
import os
from collections import namedtuple
from datetime import date

import pytest

from client_agent.adapters import disk as disk_module
from client_agent.adapters import placing
from client_agent.adapters.disk import Disk
from client_agent.adapters.drafts import Drafts
from client_agent.adapters.ingest import Ingester
from client_agent.adapters.reading import allow_leases
from client_agent.adapters.root import stat_of
from client_agent.adapters.state import Known, State
from client_agent.core.events import (
    Apply,
    Ingest,
    IngestItem,
    MakeDirectory,
    Move,
    PutFile,
    PutLink,
    Remove,
    StepDone,
)
from client_agent.crypto import manifest
from protocol.entry import NodeType
from tests.client_agent.adapters.device_fakes import Space, keys, linked, random_file

MIB = 1 << 20
MTIME = 1_600_000_000_123_456_789
NODE = b"n" * 16


class World:
    """A device that takes; `author` is another one's folder, whose files it may take."""

    def __init__(self, folder):
        allow_leases()
        self.folder, self.author = folder / "root", folder / "author"
        self.root, author_root = linked(self.folder), linked(self.author)
        self.keys, self.space, self.drafts = keys(), Space(), Drafts()
        self.state, self.other = State.open(folder / "home"), State.open(folder / "other")
        self.state.load(-1)
        self.disk = Disk(self.root, self.keys, self.state, self.space)
        self.ingester = Ingester(author_root, self.keys, self.other, self.space, self.drafts)

    async def version(self, path, content: bytes, node=NODE, executable=False) -> PutFile:
        """Have the author make a version; return the step that takes it."""
        made = self.author / "made"
        made.write_bytes(content)
        made.chmod(0o755 if executable else 0o644)
        os.utime(made, ns=(MTIME, MTIME))
        item = IngestItem(node, "made", NodeType.FILE, stat_of(os.lstat(made)))
        events = []
        await self.ingester.run(Ingest((item,)), events.append)
        [read] = events[0].results
        draft = self.drafts.get(read.version)
        self.space.keep(draft)
        known = Known(draft.version, node, draft.content_id, draft.manifest(node, None))
        self.state.learn([known], ())
        return PutFile(
            node, path, None, draft.version, draft.content_id, len(content), MTIME, executable
        )

    async def apply(self, *steps):
        events = []
        await self.disk.run(Apply(steps), events.append)
        assert [event.last for event in events] == [False] * (len(events) - 1) + [True]
        results = [result for event in events for result in event.results]
        assert [result.node for result in results] == [step.node for step in steps]
        assert os.listdir(self.folder / ".syncline/tmp") == [], "nothing is left behind"
        return [r.stat if isinstance(r, StepDone) else r.reason for r in results]

    def stat(self, path):
        return stat_of(os.lstat(self.folder / path))

    def trash(self):
        found = (self.folder / ".syncline/trash").rglob("*")
        return {p.name: p.read_bytes() for p in found if p.is_file()}


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.disk.close()
    made.ingester.close()
    await made.state.close()
    await made.other.close()


def expecting(step, stat):
    return PutFile(
        step.node, step.path, stat, step.version, step.content_id, step.size_bytes,
        step.mtime_ns, step.executable,
    )


@pytest.mark.parametrize("size", [0, 1, 300_000, 9 * MIB])
async def test_a_file_comes_whole_with_time_and_mode(world, size):
    content = os.urandom(size)
    step = await world.version("f", content, executable=size == 1)
    [stat] = await world.apply(step)
    assert (world.folder / "f").read_bytes() == content
    assert stat == world.stat("f")
    assert stat.mtime_ns == MTIME
    assert stat.executable == (size == 1)
    assert not (world.folder / "f").stat().st_mode & 0o022


async def test_parents_are_made_by_earlier_steps(world):
    step = await world.version("a/b/f", b"deep")
    made = (MakeDirectory(b"1" * 16, "a"), MakeDirectory(b"2" * 16, "a/b"))
    stats = await world.apply(*made, step, PutLink(b"3" * 16, "a/l", None, "b/f"))
    assert [type(stat).__name__ for stat in stats] == ["Stat"] * 4
    assert (world.folder / "a/l").read_bytes() == b"deep"


async def test_many_files_share_their_flushes(world, monkeypatch):
    flushes = []
    flush = placing._syncfs

    def counted(descriptor):
        flushes.append(descriptor)
        return flush(descriptor)

    monkeypatch.setattr(placing, "_syncfs", counted)
    monkeypatch.setattr(os, "fsync", flushes.append)
    step = await world.version("f", b"same")
    steps = []
    for n in range(300):
        node = n.to_bytes(16, "big")
        steps.append(
            PutFile(node, f"f{n}", None, step.version, step.content_id, 4, MTIME, False)
        )
    assert all(await world.apply(*steps))
    assert len(os.listdir(world.folder)) == 301
    assert len(flushes) <= 2


async def test_nothing_is_put_over_something(world):
    step = await world.version("f", b"theirs")
    (world.folder / "f").write_bytes(b"mine")
    assert await world.apply(step, MakeDirectory(b"2" * 16, "f")) == ["exists", "exists"]
    assert (world.folder / "f").read_bytes() == b"mine"


async def test_an_expected_file_is_replaced_and_keeps_its_permissions(world):
    (world.folder / "f").write_bytes(b"old")
    (world.folder / "f").chmod(0o640)
    step = await world.version("f", b"new", executable=True)
    [stat] = await world.apply(expecting(step, world.stat("f")))
    assert (world.folder / "f").read_bytes() == b"new"
    assert stat == world.stat("f")
    assert (world.folder / "f").stat().st_mode & 0o777 == 0o750
    assert world.trash() == {}


async def test_a_file_that_changed_meanwhile_is_never_touched(world):
    (world.folder / "f").write_bytes(b"old")
    expect = world.stat("f")
    (world.folder / "f").write_bytes(b"newer, mine")
    step = await world.version("f", b"theirs")
    remove = Remove(b"2" * 16, "f", NodeType.FILE, expect)
    move = Move(b"3" * 16, "f", "g", expect)
    results = await world.apply(expecting(step, expect), remove, move)
    assert results == ["changed"] * 3
    assert (world.folder / "f").read_bytes() == b"newer, mine"
    (world.folder / "f").unlink()
    assert await world.apply(expecting(step, expect), remove, move) == [
        "changed", "missing", "missing"
    ]


async def test_a_change_at_the_very_moment_of_the_exchange_goes_back(world, monkeypatch):
    # Without the second look after EXCHANGE the edit would be dropped with the old content.
    (world.folder / "f").write_bytes(b"old")
    step = expecting(await world.version("f", b"theirs"), world.stat("f"))
    swap = placing.swap

    def late(from_folder, source, to_folder, target, flags):
        if flags == placing.EXCHANGE and not late.done:
            late.done = True
            (world.folder / "f").write_bytes(b"mine, just now")
        swap(from_folder, source, to_folder, target, flags)

    late.done = False
    monkeypatch.setattr(placing, "swap", late)
    assert await world.apply(step) == ["changed"]
    assert (world.folder / "f").read_bytes() == b"mine, just now"


async def test_a_third_content_between_two_exchanges_is_kept_too(world, monkeypatch):
    (world.folder / "f").write_bytes(b"old")
    step = expecting(await world.version("f", b"theirs"), world.stat("f"))
    swap, calls = placing.swap, []

    def late(from_folder, source, to_folder, target, flags):
        calls.append(flags)
        if calls == [placing.EXCHANGE]:
            (world.folder / "f").write_bytes(b"second")
        elif calls == [placing.EXCHANGE] * 2:
            (world.folder / "third").write_bytes(b"third")
            os.rename(world.folder / "third", world.folder / "f")
        swap(from_folder, source, to_folder, target, flags)

    monkeypatch.setattr(placing, "swap", late)
    assert await world.apply(step) == ["changed"]
    contents = {p.read_bytes() for p in world.folder.iterdir() if p.is_file()}
    assert contents == {b"second", b"third"}


async def test_an_old_content_that_somebody_still_writes_goes_to_the_trash(world):
    (world.folder / "f").write_bytes(b"old")
    step = expecting(await world.version("f", b"theirs"), world.stat("f"))
    with (world.folder / "f").open("r+b") as writer:
        [stat] = await world.apply(step)
        writer.write(b"late")
    assert stat == world.stat("f")
    assert world.trash() == {"f": b"late"}


async def test_removals_go_to_the_trash_and_folders_only_when_empty(world):
    (world.folder / "d").mkdir()
    (world.folder / "d/f").write_bytes(b"one")
    folder = Remove(b"2" * 16, "d", NodeType.DIRECTORY, world.stat("d"))
    assert await world.apply(folder) == ["not_empty"]
    file = Remove(NODE, "d/f", NodeType.FILE, world.stat("d/f"))
    assert await world.apply(file, folder) == [None, None]
    assert world.trash() == {"f": b"one"}
    (world.folder / "d").mkdir()
    (world.folder / "d/f").write_bytes(b"two")
    await world.apply(Remove(NODE, "d/f", NodeType.FILE, world.stat("d/f")))
    assert sorted(world.trash().values()) == [b"one", b"two"]


async def test_moves_keep_what_is_at_their_target(world):
    (world.folder / "f").write_bytes(b"f")
    (world.folder / "g").write_bytes(b"g")
    (world.folder / "d").mkdir()
    move = Move(NODE, "f", "g", world.stat("f"))
    assert await world.apply(move) == ["exists"]
    results = await world.apply(
        Move(NODE, "f", "d/f", world.stat("f")),
        Move(b"2" * 16, "d", "e", world.stat("d")),
        Move(b"3" * 16, "g", "e/g", world.stat("g")),
    )
    assert results[2] == world.stat("e/g")
    assert (world.folder / "e/f").read_bytes() == b"f"
    assert (await world.apply(Move(NODE, "e/f", "nowhere/f", world.stat("e/f")))) == ["missing"]


@pytest.mark.parametrize(
    "path", ["../out", "a/../../out", "/etc/x", ".syncline/tmp/x", "a//b", ".SyncLine", "a\nb"]
)
async def test_no_step_leaves_the_root(world, path):
    step = await world.version(path, b"evil")
    (world.folder / "f").write_bytes(b"f")
    steps = (
        step, MakeDirectory(b"2" * 16, path), PutLink(b"3" * 16, path, None, "x"),
        Move(b"4" * 16, "f", path, world.stat("f")),
        Remove(b"5" * 16, path, NodeType.FILE, world.stat("f")),
    )
    assert await world.apply(*steps) == ["name"] * 5


async def test_a_link_in_the_middle_is_not_followed(world, tmp_path):
    (tmp_path / "outside").mkdir()
    (world.folder / "d").symlink_to(tmp_path / "outside")
    step = await world.version("d/f", b"evil")
    assert await world.apply(step, MakeDirectory(b"2" * 16, "d/e")) == ["missing", "missing"]
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_link_is_replaced_never_written_through(world, tmp_path):
    (tmp_path / "outside").write_bytes(b"safe")
    (world.folder / "l").symlink_to(tmp_path / "outside")
    step = await world.version("l", b"file now")
    [stat] = await world.apply(expecting(step, world.stat("l")))
    assert stat == world.stat("l")
    assert (tmp_path / "outside").read_bytes() == b"safe"
    [stat] = await world.apply(PutLink(NODE, "l", world.stat("l"), "other"))
    assert os.readlink(world.folder / "l") == "other"


@pytest.mark.parametrize("size", [2_000, 9 * MIB])
async def test_bytes_that_do_not_verify_are_never_placed(world, size):
    step = await world.version("f", os.urandom(size))
    for address, blob in world.space.blobs.items():
        world.space.blobs[address] = blob[:-1] + bytes([blob[-1] ^ 1])
    assert await world.apply(step) == ["broken"]
    world.space.blobs.clear()
    assert await world.apply(step) == ["broken"]
    assert not (world.folder / "f").exists()


async def test_a_manifest_of_another_content_is_not_believed(world):
    step = await world.version("f", b"one")
    lied = PutFile(NODE, "f", None, step.version, b"x" * 32, 3, MTIME, False)
    unknown = PutFile(NODE, "f", None, b"v" * 16, step.content_id, 3, MTIME, False)
    assert await world.apply(lied) == ["broken"]
    assert await world.apply(unknown) == ["broken"]


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_a_server_that_is_away_leaves_the_step_for_later(world, size):
    step = await world.version("f", os.urandom(size))
    world.space.offline = True
    assert await world.apply(step, MakeDirectory(b"2" * 16, "d")) == ["offline", world.stat("d")]


async def test_a_nearly_full_disk_stops_downloads_only(world, monkeypatch):
    Room = namedtuple("Room", "f_bavail f_frsize f_blocks")
    monkeypatch.setattr(os, "fstatvfs", lambda _: Room(60_000_000, 1, 80_000_000))
    step = await world.version("f", bytes(20_000_000))
    small = await world.version("g", b"fits")
    assert await world.apply(step, MakeDirectory(b"2" * 16, "d")) == [
        "disk_full", world.stat("d")
    ]
    assert await world.apply(small) == [world.stat("g")]


@pytest.mark.parametrize("size", [100, 9 * MIB])
async def test_a_disk_that_fills_up_while_writing_leaves_nothing(world, monkeypatch, size):
    step = await world.version("f", os.urandom(size))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    assert await world.apply(step) == ["disk_full"]


async def test_an_edit_of_a_large_file_fetches_what_changed(world):
    old = os.urandom(6 * MIB)
    new = old[: 3 * MIB] + b"edited" + old[3 * MIB :]
    [stat] = await world.apply(await world.version("f", old))
    step = await world.version("f", new)
    world.space.fetched_bytes = 0
    [stat] = await world.apply(expecting(step, stat))
    assert (world.folder / "f").read_bytes() == new
    assert stat == world.stat("f")
    assert len(new) > 4 * MIB  # small files are fetched whole; this one is not large yet
    bigger = new + os.urandom(4 * MIB)
    [stat] = await world.apply(expecting(await world.version("f", bigger), stat))
    changed = b"!" + bigger[1:]
    step = await world.version("f", changed)
    world.space.fetched_bytes = 0
    [stat] = await world.apply(expecting(step, stat))
    assert (world.folder / "f").read_bytes() == changed
    assert world.space.fetched_bytes < 2.5 * MIB


@pytest.mark.parametrize("harm", [None, b"?"])
async def test_an_old_list_that_is_lost_or_damaged_keeps_nothing_back(world, monkeypatch, harm):
    monkeypatch.setattr(manifest, "INLINE_ENTRIES_MAX", 4)
    content = os.urandom(6 * MIB)
    old = await world.version("f", content)
    [stat] = await world.apply(old)
    step = await world.version("f", b"!" + content)
    [page] = world.state.content(old.version).manifest.pages
    if harm is None:
        del world.space.blobs[page.address]  # its version was pruned
    else:
        world.space.blobs[page.address] = harm
    [stat] = await world.apply(expecting(step, stat))
    assert stat == world.stat("f")
    assert (world.folder / "f").read_bytes() == b"!" + content


@pytest.mark.parametrize("missing", ["renameat2", "syncfs"])
async def test_without_the_newest_calls_everything_still_works(world, monkeypatch, missing):
    monkeypatch.setattr(placing, f"_{missing}", None)
    (world.folder / "old").write_bytes(b"old")
    steps = [await world.version(f"f{n}", b"new", bytes([n + 1]) * 16) for n in range(6)]
    replaced = expecting(await world.version("old", b"new"), world.stat("old"))
    stats = await world.apply(*steps, replaced)
    assert {type(stat).__name__ for stat in stats} == {"Stat"}
    moved = Move(b"8" * 16, "f1", "moved", world.stat("f1"))
    taken = Move(b"9" * 16, "f2", "f3", world.stat("f2"))
    removed = Remove(b"7" * 16, "f0", NodeType.FILE, world.stat("f0"))
    results = await world.apply(moved, taken, removed, steps[4])
    assert results == [world.stat("moved"), "exists", None, "exists"]
    assert world.trash() == {next(iter(world.trash())): b"new"}


async def test_a_crash_of_ours_fails_the_steps_and_says_so(world, monkeypatch):
    step = await world.version("f", b"x")
    monkeypatch.setattr(disk_module, "Placer", None)
    events = []
    await world.disk.run(Apply((step,)), events.append)
    assert [result.reason for result in events[0].results] == ["error"]


async def test_the_root_that_went_away_fails_the_steps(world):
    step = await world.version("f", b"x")
    (world.folder / ".syncline/root.json").unlink()
    events = []
    await world.disk.run(Apply((step,)), events.append)
    assert [result.reason for result in events[0].results] == ["unreadable"]


async def test_leftovers_of_a_crash_are_cleared(world):
    random_file(world.folder / ".syncline/tmp/left", 10)
    world.disk.clean()
    assert os.listdir(world.folder / ".syncline/tmp") == []


async def test_the_trash_is_emptied_after_thirty_days(world):
    for name in ("2026-01-01", "2026-01-30", "notes"):
        (world.folder / ".syncline/trash" / name).mkdir()
        random_file(world.folder / ".syncline/trash" / name / "f", 10)
    world.disk.empty_trash(date(2026, 2, 1))
    assert sorted(os.listdir(world.folder / ".syncline/trash")) == ["2026-01-30", "notes"]


async def test_nothing_to_do_still_ends(world):
    assert await world.apply() == []
