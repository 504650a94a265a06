"""Reading: only what nobody writes, whole or not at all, sealed once, in bounded memory."""

import fcntl
import mmap
import os

import pytest

from client_agent.adapters.drafts import Drafts
from client_agent.adapters.ingest import Ingester, packs
from client_agent.adapters.reading import (
    NotNow,
    Reading,
    allow_leases,
    open_ready,
)
from client_agent.adapters.root import Folders, stat_of
from client_agent.adapters.server import Offline, ServerFault
from client_agent.adapters.state import State
from client_agent.core import chunker
from client_agent.core.events import Ingest, IngestItem, Read, Unread
from client_agent.crypto.chunks import open_chunk
from client_agent.crypto.manifest import open_page
from protocol.entry import NodeType
from protocol.faults import Code, Fault
from protocol.limits import PACK_BYTES_MAX
from protocol.messages.sync import PackItem
from tests.client_agent.adapters.device_fakes import (
    Space,
    keys,
    linked,
    random_file,
    refuse_to_open,
)

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _leases():
    allow_leases()


class World:
    def __init__(self, folder):
        self.folder = folder / "root"
        self.root = linked(self.folder)
        self.keys, self.space, self.drafts = keys(), Space(), Drafts()
        self.state = State.open(folder / "home")
        self.state.load(-1)
        self.ingester = Ingester(self.root, self.keys, self.state, self.space, self.drafts)
        self.nodes = 0

    def item(self, path, fresh_ms=0) -> IngestItem:
        self.nodes += 1
        status = os.lstat(self.folder / path)
        kind = NodeType.SYMLINK if os.path.islink(self.folder / path) else NodeType.FILE
        return IngestItem(
            self.nodes.to_bytes(16, "big"), path, kind, stat_of(status), fresh_ms
        )

    async def ingest(self, *items):
        events = []
        await self.ingester.run(Ingest(items), events.append)
        assert [event.last for event in events] == [False] * (len(events) - 1) + [True]
        found = {result.node: result for event in events for result in event.results}
        return [found[item.node] for item in items]

    def content(self, read: Read) -> bytes:
        """What a device would get that had only the draft and the space's chunks."""
        draft = self.drafts.get(read.version)
        self.space.keep(draft)
        entries = list(draft.chunks)
        if draft.pages:
            pages = [(page, self.space.blobs[page.address]) for page in draft.pages]
            entries = [e for page, blob in pages for e in open_page(self.keys, page, blob)]
        blobs = [self.space.blobs[entry.address] for entry in entries]
        return b"".join(
            open_chunk(self.keys, e, b) for e, b in zip(entries, blobs, strict=True)
        )


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.ingester.close()
    await made.state.close()


@pytest.mark.parametrize("size", [0, 1, 5_000, 70_000, MIB])
async def test_a_small_file_travels_with_its_commit(world, size):
    data = random_file(world.folder / "f", size)
    [read] = await world.ingest(world.item("f"))
    assert isinstance(read, Read)
    assert read.size_bytes == size
    assert world.space.requests == 0
    assert read.inline_bytes >= size
    assert world.content(read) == data


async def test_equal_content_has_an_equal_id_and_mode_matters(world):
    for name in ("one", "two", "three"):
        (world.folder / name).write_bytes(b"same")
    (world.folder / "three").chmod(0o755)
    one, two, three = await world.ingest(*(world.item(n) for n in ("one", "two", "three")))
    assert one.content_id == two.content_id != three.content_id


async def test_a_symlink_is_read_as_text(world):
    (world.folder / "l").symlink_to("über/all")
    [read] = await world.ingest(world.item("l"))
    assert world.drafts.get(read.version).target == "über/all"
    assert read.size_bytes == read.inline_bytes == 0


async def test_known_chunks_are_neither_sealed_nor_sent(world):
    random_file(world.folder / "f", 200_000)
    [first] = await world.ingest(world.item("f"))
    world.state.learn((), world.drafts.get(first.version).chunks)
    [again] = await world.ingest(world.item("f"))
    assert again.content_id == first.content_id
    assert again.inline_bytes == 0


async def test_a_large_file_is_uploaded_while_it_is_read(world):
    data = random_file(world.folder / "f", 20 * MIB + 17)
    [read] = await world.ingest(world.item("f"))
    assert read.inline_bytes == 0
    assert len(world.space.sessions) == 1
    assert world.content(read) == data
    sent = world.space.put_bytes
    [again] = await world.ingest(world.item("f"))
    assert again.content_id == read.content_id
    assert world.space.put_bytes == sent, "a repeat sends nothing twice"


async def test_dense_and_light_parts_of_a_file_are_told_apart(world, monkeypatch):
    # Light after dense is found again at the next probe; without probes 60 MiB are sent.
    monkeypatch.setattr("client_agent.adapters.ingest.DENSE_PROBE", 2)
    parts = (os.urandom(14 * MIB), os.urandom(20 * MIB).hex().encode(), os.urandom(6 * MIB))
    (world.folder / "f").write_bytes(b"".join(parts))
    [read] = await world.ingest(world.item("f"))
    assert world.content(read) == b"".join(parts)
    assert world.space.put_bytes < 52 * MIB


async def test_a_repeat_resumes_its_session_unless_that_ended(world):
    random_file(world.folder / "f", 9 * MIB)
    item = world.item("f")
    put = world.space.put_pack

    async def cut_off(*_):
        raise Offline("gone")

    world.space.put_pack = cut_off
    for _ in range(3):
        [unread] = await world.ingest(item)
        assert unread.reason == "offline"
    assert len(world.space.sessions) == 1
    world.space.fault = ServerFault(Fault(code=Code.UPLOAD_EXPIRED))
    await world.ingest(item)
    world.space.fault, world.space.put_pack = None, put
    [read] = await world.ingest(item)
    assert isinstance(read, Read)
    assert len(world.space.sessions) == 2
    draft = world.drafts.get(read.version)
    assert draft.upload in world.space.sessions
    world.state.learn((), draft.chunks)
    [again] = await world.ingest(item)
    assert len(world.space.sessions) == 2, "nothing to send, nothing to open"
    assert world.drafts.get(again.version).upload is None


async def test_a_long_chunk_list_goes_into_pages(world):
    line = os.urandom(16 * MIB)
    (world.folder / "f").write_bytes(b"".join(line[n:] + line[:n] for n in range(7)))
    [read] = await world.ingest(world.item("f"))
    draft = world.drafts.get(read.version)
    assert draft.pages
    assert world.content(read) == (world.folder / "f").read_bytes()


async def test_a_file_that_is_open_for_writing_is_busy(world):
    random_file(world.folder / "f", 100)
    item = world.item("f", fresh_ms=5_000)
    with (world.folder / "f").open("r+b") as writer:
        [unread] = await world.ingest(item)
        assert unread == Unread(item.node, "busy", item.stat, "somebody is writing it")
        writer.write(b"more")
    [read] = await world.ingest(world.item("f"))
    assert isinstance(read, Read)


async def test_a_file_that_is_mapped_for_writing_is_busy(world):
    random_file(world.folder / "f", 5000)
    with (world.folder / "f").open("r+b") as writer:
        mapped = mmap.mmap(writer.fileno(), 0)
    [unread] = await world.ingest(world.item("f", fresh_ms=5_000))
    assert unread.reason == "busy"
    mapped.close()
    [read] = await world.ingest(world.item("f", fresh_ms=5_000))
    assert isinstance(read, Read)


async def test_a_standing_writer_does_not_keep_a_still_file_for_ever(world):
    data = random_file(world.folder / "f", 100)
    with (world.folder / "f").open("r+b"):
        [read] = await world.ingest(world.item("f", fresh_ms=60_000))
    assert read.racy, "it is read again at the next scan"
    assert world.content(read) == data


async def test_what_was_just_written_is_racy(world):
    random_file(world.folder / "new", 10)
    random_file(world.folder / "old", 10)
    os.utime(world.folder / "old", ns=(1, 1))
    [new] = await world.ingest(world.item("new"))
    assert new.racy


async def test_a_file_that_changes_while_it_is_read_is_not_taken(world):
    random_file(world.folder / "f", 1000)
    with Folders(world.root) as folders:
        reading = open_ready(folders, world.item("f"), world.keys)
    with (world.folder / "f").open("ab") as writer:
        writer.write(b"x")
    with pytest.raises(NotNow, match="changed"):
        reading.whole()
    reading.close()


async def test_an_atomic_save_in_between_leaves_the_old_content_whole(world):
    old = random_file(world.folder / "f", 1000)
    with Folders(world.root) as folders:
        reading = open_ready(folders, world.item("f"), world.keys)
    random_file(world.folder / "tmp", 1000)
    os.rename(world.folder / "tmp", world.folder / "f")
    with pytest.raises(NotNow, match="changed"):  # its last name went away: ctime tells
        assert b"".join(reading.whole()) == old
    reading.close()


async def test_vanished_and_replaced_entries_say_so(world):
    for name in ("gone", "link", "pipe", "folder"):
        random_file(world.folder / name, 10)
    items = [world.item(name) for name in ("gone", "link", "pipe", "folder")]
    for name in ("gone", "link", "pipe", "folder"):
        (world.folder / name).unlink()
    (world.folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(world.folder / "pipe")
    (world.folder / "folder").mkdir()
    results = await world.ingest(*items)
    assert [result.reason for result in results] == ["vanished", *["changed"] * 3]


async def test_a_link_in_the_middle_of_the_path_is_not_followed(world, tmp_path):
    (world.folder / "d").mkdir()
    random_file(world.folder / "d/f", 10)
    item = world.item("d/f")
    (world.folder / "d").rename(tmp_path / "elsewhere")
    (world.folder / "d").symlink_to(tmp_path / "elsewhere")
    [unread] = await world.ingest(item)
    assert unread.reason == "vanished"


async def test_an_unreadable_file_says_so(world, monkeypatch):
    random_file(world.folder / "f", 10)
    refuse_to_open(monkeypatch, "f")
    [unread] = await world.ingest(world.item("f"))
    assert unread.reason == "unreadable"


@pytest.mark.parametrize(
    ("code", "reason"),
    [(Code.QUOTA_EXCEEDED, "quota"), (Code.STORAGE_FULL, "quota"), (Code.BUSY, "offline"),
     (Code.SESSION_REVOKED, "offline"), (Code.FORBIDDEN, "error")],
)
async def test_a_server_that_says_no_is_no_lost_file(world, code, reason):
    random_file(world.folder / "f", 3 * MIB)
    world.space.fault = ServerFault(Fault(code=code))
    [unread] = await world.ingest(world.item("f"))
    assert unread.reason == reason


async def test_a_server_that_is_away_is_offline(world):
    random_file(world.folder / "f", 3 * MIB)
    world.space.offline = True
    [unread] = await world.ingest(world.item("f"))
    assert unread.reason == "offline"


async def test_memory_that_is_full_sends_chunks_ahead(world, monkeypatch):
    monkeypatch.setattr("client_agent.adapters.drafts.INLINE_BYTES_MAX", 250_000)
    contents = [random_file(world.folder / f"f{n}", 100_000) for n in range(4)]
    reads = await world.ingest(*(world.item(f"f{n}") for n in range(4)))
    assert sorted(bool(read.inline_bytes) for read in reads) == [False, False, True, True]
    assert [world.content(read) for read in reads] == contents


async def test_a_missing_folder_leaves_everything_unread(world):
    random_file(world.folder / "f", 10)
    random_file(world.folder / "g", 2 * MIB)
    items = [world.item("f"), world.item("g")]
    (world.folder / ".syncline/root.json").unlink()
    assert [r.reason for r in await world.ingest(*items)] == ["unreadable"] * 2


async def test_nothing_to_read_still_ends(world):
    assert await world.ingest() == []


def test_without_leases_a_file_has_to_stand_still(tmp_path, monkeypatch):
    root = linked(tmp_path)
    random_file(tmp_path / "f", 10)
    stat = stat_of(os.lstat(tmp_path / "f"))

    def refuse(*_):
        raise OSError(22, "no leases here")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    item = IngestItem(b"n" * 16, "f", NodeType.FILE, stat)
    with Folders(root) as folders:
        with pytest.raises(NotNow, match="busy"):
            open_ready(folders, item, keys())
        still = IngestItem(b"n" * 16, "f", NodeType.FILE, stat, fresh_ms=600)
        reading = open_ready(folders, still, keys())
    assert isinstance(reading, Reading)
    reading.close()


def test_batches_hold_every_byte_and_stay_small(tmp_path):
    root = linked(tmp_path)
    data = random_file(tmp_path / "f", 15 * MIB)
    item = IngestItem(b"n" * 16, "f", NodeType.FILE, stat_of(os.lstat(tmp_path / "f")), 9_999)
    with Folders(root) as folders:
        reading = open_ready(folders, item, keys())
    batches = list(reading.batches())
    reading.close()
    assert b"".join(chunk for batch in batches for chunk in batch) == data
    assert max(sum(map(len, batch)) for batch in batches) <= 6 * MIB
    assert all(len(chunk) <= chunker.cut_for(0, 0).max_bytes for b in batches for chunk in b)


def test_packs_stay_within_one_request():
    items = [PackItem(bytes(3 * MIB)) for _ in range(5)] + [PackItem(b"x")] * 3000
    made = list(packs(items))
    assert sum(map(len, made)) == len(items)
    assert all(sum(len(item.blob) for item in pack) < PACK_BYTES_MAX for pack in made)
    assert max(map(len, made)) <= 2048
