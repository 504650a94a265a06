"""Chunks, commits, journals and listings over HTTP: what works, and what must not."""

import asyncio
import os
from typing import Any

import msgspec
import pytest

from actors.memory_chunks import MemoryChunks
from apps.settings import Settings
from protocol import journal, limits
from protocol.entry import Change, ChangeKind, ChunkRef, NodeType, Place
from protocol.ids import ROOT
from protocol.messages.chunks import (
    AskMissing,
    FetchChunks,
    FetchedChunks,
    MissingChunks,
    PackStored,
)
from protocol.messages.listing import ConflictList, FileList
from protocol.messages.sync import (
    Accepted,
    ChangesPage,
    Conflicted,
    Head,
    Heartbeat,
    Heartbeaten,
    PackItem,
    Refused,
)
from protocol.messages.upload import UploadClosed, UploadOpen, UploadRequest
from tests.apps.conftest import Running, run_gateway
from tests.apps.fake_device import FakeDevice, address_of
from tests.apps.test_gateway_auth import refused


def blobs(count: int, size_bytes: int = 500) -> list[bytes]:
    return [os.urandom(size_bytes) for _ in range(count)]


def in_space(device: FakeDevice, path: str, **query: Any) -> str:
    said = {"space": device.keys.home.hex()} | query
    return path + "?" + "&".join(f"{name}={value}" for name, value in said.items())


async def missing(device: FakeDevice, *addresses: bytes) -> tuple[bytes, ...]:
    asked = AskMissing(addresses=addresses)
    answer = await device.ask(
        "POST", in_space(device, "/chunks/missing"), asked, into=MissingChunks
    )
    found: tuple[bytes, ...] = answer.missing
    return found


async def put(device: FakeDevice, blob: bytes) -> None:
    await device.ask("PUT", in_space(device, f"/chunks/{address_of(blob).hex()}"), blob)


# --- chunks ---


async def test_chunks_go_in_and_come_out(gateway: Running) -> None:
    device = await gateway.registered()
    one, two, three, absent = blobs(4, 3000)
    addresses = tuple(map(address_of, (one, two, three, absent)))
    assert await missing(device, *addresses, addresses[0]) == addresses
    await put(device, one)
    await put(device, one)
    pack = await device.ask(
        "POST", in_space(device, "/chunks"), [PackItem(two), PackItem(three)], into=PackStored
    )
    assert pack.addresses == addresses[1:3]
    assert await missing(device, *addresses) == addresses[3:]

    fetched = await device.ask(
        "POST",
        in_space(device, "/chunks/fetch"),
        FetchChunks(addresses=addresses[::-1]),
        into=FetchedChunks,
    )
    assert fetched.blobs == (None, three, two, one)

    path = in_space(device, f"/chunks/{addresses[0].hex()}")
    whole = await device.raw("GET", path)
    assert (whole.status_code, whole.content) == (200, one)
    assert "immutable" in whole.headers["cache-control"]
    assert "private" in whole.headers["cache-control"]
    again = await device.raw("GET", path, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    absent_path = in_space(device, f"/chunks/{addresses[3].hex()}")
    assert (await refused(device.ask("GET", absent_path))).code == "not_found"


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=2990-", 2990, 3000),
        ("bytes=-5", 2995, 3000),
        ("bytes=-9999", 0, 3000),
        ("bytes=5-99999", 5, 3000),
    ],
)
async def test_ranges(gateway: Running, asked: str, start: int, stop: int) -> None:
    device = await gateway.registered()
    (blob,) = blobs(1, 3000)
    await put(device, blob)
    path = in_space(device, f"/chunks/{address_of(blob).hex()}")
    answer = await device.raw("GET", path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, blob[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/3000"
    for wrong in ("bytes=3000-", "bytes=5-4", "bytes=-0"):
        answer = await device.raw("GET", path, headers={"Range": wrong})
        assert (answer.status_code, b"range_invalid" in answer.content) == (416, True)
    for unknown in ("lines=1-2", "bytes=0-1,3-4", "bytes=-", "bytes=x-1"):
        answer = await device.raw("GET", path, headers={"Range": unknown})
        assert (answer.status_code, len(answer.content)) == (200, 3000)


async def test_what_is_not_its_address_is_not_stored(gateway: Running) -> None:
    device = await gateway.registered()
    (blob,) = blobs(1)
    wrong = os.urandom(32)
    answer = await refused(device.ask("PUT", in_space(device, f"/chunks/{wrong.hex()}"), blob))
    assert (answer.status, answer.code) == (422, "chunk_mismatch")
    assert await missing(device, wrong, address_of(blob)) == (wrong, address_of(blob))
    content = gateway.services.settings.storage_dir
    held = [name for _, _, names in os.walk(content) for name in names]
    assert wrong.hex() not in held
    assert address_of(blob).hex() not in held
    nothing = address_of(b"").hex()
    assert (await refused(device.ask("PUT", in_space(device, f"/chunks/{nothing}"), b""))).code == (
        "bad_request"
    )


async def test_chunks_of_another_space_do_not_exist(gateway: Running) -> None:
    owner, stranger = await gateway.registered(), await gateway.registered()
    (blob,) = blobs(1)
    address = address_of(blob)
    await put(owner, blob)
    assert await missing(stranger, address) == (address,)  # no oracle, though it is on the disk
    path = f"/chunks/{address.hex()}"
    mine = await refused(stranger.ask("GET", in_space(stranger, path)))
    theirs = await refused(stranger.ask("GET", in_space(owner, path)))
    nobodys = await refused(stranger.ask("GET", f"{path}?space={'ab' * 16}"))
    assert {said.code for said in (mine, theirs, nobodys)} == {"not_found"}
    assert theirs.problem.detail == nobodys.problem.detail
    fetched = await stranger.ask(
        "POST",
        in_space(stranger, "/chunks/fetch"),
        FetchChunks(addresses=(address,)),
        into=FetchedChunks,
    )
    assert fetched.blobs == (None,)
    change = stranger.file(blob)
    refusal = await committed_or_refused(stranger, change)
    assert refusal == "chunks_missing"


async def committed_or_refused(device: FakeDevice, change: Change) -> str:
    """The code with which a commit, or its one change, is refused."""
    answer = await device.raw("POST", "/sync/commit", device.commit_of(change))
    said = msgspec.msgpack.decode(answer.content)
    if answer.status_code >= 400:
        return str(said["code"])
    return str(said["results"][0].get("code"))


async def test_leases_end(gateway: Running) -> None:
    device = await gateway.registered()
    (blob,) = blobs(1)
    await put(device, blob)
    await gateway.services.pool.execute(
        "UPDATE leases SET expires_at = now() - interval '1 s' WHERE address = $1",
        address_of(blob),
    )
    assert await missing(device, address_of(blob)) == (address_of(blob),)
    path = in_space(device, f"/chunks/{address_of(blob).hex()}")
    assert (await refused(device.ask("GET", path))).code == "not_found"


async def test_pages_declare_what_the_space_holds(gateway: Running) -> None:
    device = await gateway.registered()
    page, listed, other = blobs(3, 700)
    ref = ChunkRef(address_of(listed), len(listed))
    path = in_space(device, "/chunks")
    said = await refused(device.ask("POST", path, [PackItem(page, (ref,))]))
    assert said.code == "chunks_missing"
    assert await missing(device, address_of(page)) == (address_of(page),)
    wrong = ChunkRef(address_of(listed), len(listed) + 1)
    both = [PackItem(page, (wrong,)), PackItem(listed)]
    assert (await refused(device.ask("POST", path, both))).code == "bad_request"
    both = [PackItem(page, (ref,)), PackItem(listed)]
    assert (await device.ask("POST", path, both, into=PackStored)).addresses[1] == ref.address
    later = [PackItem(other, (ref, ref))]  # held by now
    await device.ask("POST", path, later, into=PackStored)


async def test_a_full_disk_is_507_and_loses_nothing(gateway_settings: Settings) -> None:
    async with run_gateway(gateway_settings, MemoryChunks(room_bytes=1000)) as gateway:
        device = await gateway.registered()
        small, large = os.urandom(500), os.urandom(5000)
        await put(device, small)
        path = in_space(device, f"/chunks/{address_of(large).hex()}")
        said = await refused(device.ask("PUT", path, large))
        assert (said.status, said.code, said.problem.retryable) == (507, "storage_full", True)
        said = await refused(device.commit(device.commit_of(device.file(large), inline=(large,))))
        assert said.code == "storage_full"
        device.dots = device.ops = 0
        done = await device.commit(device.commit_of(device.file(small)))  # metadata goes on
        assert isinstance(done.results[0], Accepted)


# --- commits ---


async def test_a_small_file_takes_one_request(gateway: Running) -> None:
    device = await gateway.registered()
    (blob,) = blobs(1)
    change = device.file(blob)
    asked = device.commit_of(change, inline=(blob,))
    done = await device.commit(asked)
    assert done.results == (Accepted(seq=1, place_rev=1),) or isinstance(done.results[0], Accepted)
    assert (done.prev_seq, done.head_seq) == (0, 1)
    assert await device.commit(asked) == done  # the answer was lost

    path = in_space(device, "/sync/changes", history=device.keys.history.hex(), after=0)
    page = await device.ask("GET", path, into=ChangesPage)
    assert (page.prev_seq, page.head_seq, page.head, page.more) == (0, 1, done.head, False)
    row = journal.decode_row(page.rows[0])
    assert row.change == asked.changes[0]
    start = journal.genesis(device.keys.home, device.keys.history, device.keys.wraps.identity_sign)
    assert journal.chain(start, page.rows[0]) == page.head
    proof = page.commits[0]
    assert proof.hash == row.commit
    assert proof.header == asked.header
    assert proof.leaf(row.index) == journal.leaf(row.change)

    files = await device.ask("GET", in_space(device, "/files/"), into=FileList)
    assert [file.file_id for file in files.files] == [change.node]
    assert files.files[0].place == change.place
    assert change.content is not None
    assert files.files[0].version == change.content.version
    assert files.files[0].content_id == change.content.content_id
    assert files.files[0].vector == ((device.device, change.dot),)


async def test_an_op_is_one_commit_for_ever(gateway: Running) -> None:
    device = await gateway.registered()
    first, second = blobs(2)
    asked = device.commit_of(device.file(first), inline=(first,))
    await device.commit(asked)
    device.ops -= 1
    other = device.commit_of(device.file(second), inline=(second,))
    assert (await refused(device.commit(other))).code == "key_reused"


async def test_commits_are_checked_before_any_actor_sees_them(gateway: Running) -> None:
    device, stranger = await gateway.registered(), await gateway.registered()
    (blob,) = blobs(1)
    change = device.file(blob)
    good = device.commit_of(change, inline=(blob,))
    tampered = msgspec.structs.replace(good, changes=(good.changes[0] + b"\x00",))
    wrong = {
        "bad_signature": [
            msgspec.structs.replace(good, signature=os.urandom(64)),
            tampered,
            device.commit_of(change, root=os.urandom(32)),
            device.commit_of(change, device=os.urandom(16)),
        ],
        "bad_request": [
            device.commit_of(change, format=2),
            device.commit_of(change, count=2),
            msgspec.structs.replace(good, header=b"\xc1"),
        ],
        "not_found": [
            device.commit_of(change, space=stranger.keys.home),
            device.commit_of(change, space=os.urandom(16)),
        ],
    }
    for code, commits in wrong.items():
        for asked in commits:
            assert (await refused(device.commit(asked))).code == code
    assert (await refused(stranger.commit(good))).code == "bad_signature"
    large = b"x" * (limits.COMMIT_BYTES_MAX // 2)
    asked = msgspec.structs.replace(good, changes=(large, large, large))
    said = await refused(device.commit(asked))
    assert (said.status, said.code) == (413, "too_large")
    page = await device.ask("GET", in_space(device, "/sync/changes"), into=ChangesPage)
    assert page.rows == ()


async def test_two_devices_conflict_and_the_list_shows_it(gateway: Running) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    await second.certify((await second.login()).devices)
    one, two, three = blobs(3)
    made = first.file(one)
    await first.commit(first.commit_of(made, inline=(one,)))

    def edit(device: FakeDevice, blob: bytes) -> Change:
        draft = device.file(blob, kind=ChangeKind.MODIFY, node=made.node, place=None)
        return msgspec.structs.replace(draft, base=((first.device, made.dot),))

    assert isinstance(
        (await first.commit(first.commit_of(edit(first, two), inline=(two,)))).results[0], Accepted
    )
    met = await second.commit(second.commit_of(edit(second, three), inline=(three,)))
    assert isinstance(met.results[0], Conflicted)

    async def listed(**query: str) -> ConflictList:
        path = in_space(first, "/conflicts", **query)
        found: ConflictList = await first.ask("GET", path, into=ConflictList)
        return found

    async with asyncio.timeout(10):  # the arbiter hears of it by the outbox
        while not (rows := (await listed()).conflicts):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert [row.node for row in rows] == [made.node]
    assert {rows[0].head, rows[0].loser} == {met.results[0].head, met.results[0].loser}
    assert (await listed(state="resolved")).conflicts == ()
    said = await refused(first.ask("GET", in_space(first, "/conflicts", state="odd")))
    assert said.code == "bad_request"


async def test_a_change_below_nothing_is_refused_alone(gateway: Running) -> None:
    device = await gateway.registered()
    one, two = blobs(2)
    lost = device.file(one, parent=os.urandom(16))
    fine = device.file(two)
    done = await device.commit(device.commit_of(lost, fine, inline=(one, two)))
    assert isinstance(done.results[0], Refused)
    assert done.results[0].code == "parent_missing"
    assert isinstance(done.results[1], Accepted)


# --- journals ---


async def test_the_journal_is_paged(gateway: Running) -> None:
    device = await gateway.registered()
    data = blobs(7)
    await device.commit(device.commit_of(*(device.file(blob) for blob in data), inline=tuple(data)))
    rows: list[bytes] = []
    more = True
    while more:
        path = in_space(device, "/sync/changes", after=len(rows), limit=3)
        page = await device.ask("GET", path, into=ChangesPage)
        assert page.prev_seq == len(rows)
        assert len(page.commits) == 1
        rows += page.rows
        more = page.more
    assert [journal.decode_row(row).seq for row in rows] == list(range(1, 8))

    async def said(**query: Any) -> str:
        return (await refused(device.ask("GET", in_space(device, "/sync/changes", **query)))).code

    assert await said(after=8) == "history_lost"
    assert await said(history="ab" * 16) == "history_changed"
    for query in ({"after": -1}, {"after": "x"}, {"limit": 0}, {"limit": 1001}, {"history": "x"}):
        assert await said(**query) == "bad_request"


async def test_large_rows_come_in_small_pages(gateway: Running) -> None:
    device = await gateway.registered()
    for _ in range(7):  # 700 KiB of manifest each
        change = device.file()
        assert change.content is not None
        content = msgspec.structs.replace(change.content, manifest=os.urandom(700 * 1024))
        await device.commit(device.commit_of(msgspec.structs.replace(change, content=content)))
    page = await device.ask("GET", in_space(device, "/sync/changes"), into=ChangesPage)
    assert (len(page.rows), page.more) == (5, True)
    assert sum(map(len, page.rows)) <= limits.PAGE_ROWS_BYTES_MAX


async def test_heartbeats_keep_cursors_that_never_run_back(gateway: Running) -> None:
    device = await gateway.registered()
    data = blobs(3)
    done = await device.commit(
        device.commit_of(*(device.file(blob) for blob in data), inline=tuple(data))
    )

    async def beat(seq: int, **changes: Any) -> Heartbeaten:
        fields: dict[str, Any] = {
            "space": device.keys.home,
            "history": device.keys.history,
            "seq": seq,
            "hash": done.head,
        }
        body = Heartbeat(cursors=(Head(**(fields | changes)),))
        answer: Heartbeaten = await device.ask("POST", "/sync/heartbeat", body, into=Heartbeaten)
        return answer

    async def kept() -> list[int]:
        rows = await gateway.services.pool.fetch(
            "SELECT seq FROM device_cursors WHERE device_id = $1", device.device
        )
        return [row["seq"] for row in rows]

    answer = await beat(2)
    assert answer.heads == (Head(device.keys.home, device.keys.history, 3, done.head),)
    assert await kept() == [2]
    await beat(1)
    await beat(9)  # further than there is
    await beat(3, history=os.urandom(16))
    await beat(3, space=os.urandom(16))
    assert await kept() == [2]
    await beat(3)
    assert await kept() == [3]


# --- files ---


async def test_files_are_listed_by_directory_and_page(gateway: Running) -> None:
    device = await gateway.registered()
    folder = device.file(type=NodeType.DIRECTORY, content=None)
    await device.commit(device.commit_of(folder))
    inside = [device.file(parent=folder.node) for _ in range(5)]
    await device.commit(device.commit_of(*inside))
    found: list[bytes] = []
    after = None
    while True:
        query: dict[str, Any] = {"parent": folder.node.hex(), "limit": 2}
        if after:
            query["after"] = after.hex()
        page = await device.ask("GET", in_space(device, "/files/", **query), into=FileList)
        found += [file.file_id for file in page.files]
        after = page.next
        if after is None:
            break
    assert found == sorted(change.node for change in inside)
    top = await device.ask("GET", in_space(device, "/files/", parent=ROOT.hex()), into=FileList)
    assert [file.type for file in top.files] == [NodeType.DIRECTORY]
    assert isinstance(top.files[0].place, Place)


async def test_a_download_is_length_manifest_and_blobs(gateway: Running) -> None:
    device = await gateway.registered()
    data = blobs(3, 2000)
    change = device.file(*data)
    content = change.content
    assert content is not None
    await device.commit(device.commit_of(change, inline=tuple(data)))
    whole = len(content.manifest).to_bytes(4, "big") + content.manifest + b"".join(data)
    path = in_space(device, f"/files/{change.node.hex()}/download")
    answer = await device.raw("GET", path)
    assert (answer.status_code, answer.content) == (200, whole)
    for start, stop in ((0, 3), (2, 105), (104, 2200), (2103, 2105), (0, len(whole))):
        asked = {"Range": f"bytes={start}-{stop - 1}"}
        answer = await device.raw("GET", path, headers=asked)
        assert (answer.status_code, answer.content) == (206, whole[start:stop])
    named = in_space(device, f"/files/{change.node.hex()}/download", version=content.version.hex())
    assert (await device.raw("GET", named)).content == whole
    for wrong in (
        in_space(device, f"/files/{'ab' * 16}/download"),
        in_space(device, f"/files/{change.node.hex()}/download", version="ab" * 16),
        in_space(device, "/files/zz/download"),
    ):
        assert (await refused(device.ask("GET", wrong))).code == "not_found"


async def test_a_paged_download_has_its_chunks_after_each_page(gateway: Running) -> None:
    device = await gateway.registered()
    data, pages = blobs(4, 900), blobs(2, 300)
    refs = [ChunkRef(address_of(blob), len(blob)) for blob in data]
    items = [
        PackItem(pages[0], (refs[0], refs[1], refs[0])),
        PackItem(pages[1], (refs[2], refs[3])),
        *map(PackItem, data),
    ]
    await device.ask("POST", in_space(device, "/chunks"), items, into=PackStored)
    change = device.file(*pages)
    content = msgspec.structs.replace(change.content, paged=True)
    change = msgspec.structs.replace(change, content=content)
    done = await device.commit(device.commit_of(change))
    assert isinstance(done.results[0], Accepted)
    stream = pages[0] + data[0] + data[1] + data[0] + pages[1] + data[2] + data[3]
    whole = len(content.manifest).to_bytes(4, "big") + content.manifest + stream
    path = in_space(device, f"/files/{change.node.hex()}/download")
    assert (await device.raw("GET", path)).content == whole
    for start, stop in ((100, 500), (403, 405), (3000, 3500), (len(whole) - 10, len(whole))):
        asked = {"Range": f"bytes={start}-{stop - 1}"}
        assert (await device.raw("GET", path, headers=asked)).content == whole[start:stop]


async def test_a_lost_chunk_is_told_before_the_answer_begins(gateway_settings: Settings) -> None:
    store = MemoryChunks()
    async with run_gateway(gateway_settings, store) as gateway:
        device = await gateway.registered()
        (blob,) = blobs(1)
        await put(device, blob)
        await store.drop(address_of(blob))
        path = in_space(device, f"/chunks/{address_of(blob).hex()}")
        assert (await refused(device.ask("GET", path))).code == "not_found"


# --- upload sessions ---


async def test_an_upload_session_tells_what_is_missing(gateway: Running) -> None:
    device, stranger = await gateway.registered(), await gateway.registered()
    one, two = blobs(2)
    refs = tuple(ChunkRef(address_of(blob), len(blob)) for blob in (one, two))
    upload = os.urandom(16)
    request = UploadRequest(space=device.keys.home, upload=upload, refs=refs)
    opened = await device.ask("POST", "/files/upload", request, into=UploadOpen)
    assert opened.missing == (refs[0].address, refs[1].address)
    path = in_space(device, f"/chunks/{refs[0].address.hex()}", upload=upload.hex())
    await device.ask("PUT", path, one)
    session = f"/files/upload/{upload.hex()}"
    assert (await device.ask("GET", session, into=UploadOpen)).missing == (refs[1].address,)
    again = await device.ask("POST", "/files/upload", request, into=UploadOpen)
    assert again.missing == (refs[1].address,)

    assert (await refused(stranger.ask("GET", session))).code == "not_found"
    assert (await refused(stranger.ask("DELETE", session))).code == "not_found"
    assert (await refused(device.ask("GET", f"/files/upload/{'ab' * 16}"))).code == "not_found"
    foreign = msgspec.structs.replace(request, space=stranger.keys.home, upload=os.urandom(16))
    assert (await refused(device.ask("POST", "/files/upload", foreign))).code == "not_found"

    closed = await device.ask("DELETE", session, into=UploadClosed)
    assert closed.state == "cancelled"


async def test_an_upload_beyond_the_quota_is_refused(gateway: Running) -> None:
    device = await gateway.registered()
    await gateway.services.pool.execute(
        "UPDATE users SET storage_quota = 1000 WHERE user_id = $1", device.keys.account
    )
    refs = (ChunkRef(os.urandom(32), 2000),)
    request = UploadRequest(space=device.keys.home, upload=os.urandom(16), refs=refs)
    said = await refused(device.ask("POST", "/files/upload", request))
    assert (said.status, said.code) == (507, "quota_exceeded")


def extremes(device: FakeDevice) -> list[Change]:
    """Changes with every number at its legal end: signed by a device that means ill."""
    most = (1 << 53) - 1

    def content(**changes: Any) -> Change:
        draft = device.file()
        assert draft.content is not None
        return msgspec.structs.replace(
            draft, content=msgspec.structs.replace(draft.content, **changes)
        )

    def place(**changes: Any) -> Change:
        draft = device.file()
        assert draft.place is not None
        return msgspec.structs.replace(draft, place=msgspec.structs.replace(draft.place, **changes))

    return [
        device.file(dot=most),
        device.file(hlc=(1 << 63) - 2),
        device.file(hlc=0),
        device.file(place_rev=most),
        device.file(group=1000),
        device.file(base=((os.urandom(16), most),)),
        device.file(base=((device.device, most),)),
        device.file(base=((b"b" * 16, 2), (b"a" * 16, 1))),
        device.file(node=ROOT),
        device.file(parent=ROOT, type=NodeType.MOUNT),
        device.file(version=os.urandom(16)),
        device.file(kind=ChangeKind.DELETE, place=None, content=None),
        device.file(kind=ChangeKind.SET_HEAD, place=None, content=None, version=os.urandom(16)),
        place(key_epoch=(1 << 32) - 1),
        place(sealed=b""),
        place(sealed=bytes(2048)),
        content(key_epoch=(1 << 32) - 1),
        content(manifest=b""),
        content(type=NodeType.DIRECTORY),
        content(paged=True),
        content(refs=(ChunkRef(os.urandom(32), most),)),
        content(refs=tuple(ChunkRef(bytes(32), most) for _ in range(5000))),
        content(prev=os.urandom(16)),
    ]


async def test_the_ends_of_all_numbers_are_decided_and_never_a_mistake_of_ours(
    gateway: Running,
) -> None:
    device = await gateway.registered()
    for number, change in enumerate(extremes(device)):
        answer = await device.raw("POST", "/sync/commit", device.commit_of(change))
        assert answer.status_code < 500, (number, answer.content[:300])
    for header in ({"op": (1 << 53) - 1}, {"answered": (1 << 53) - 1}, {"hlc": (1 << 63) - 2}):
        asked = device.commit_of(device.file(), **header)
        answer = await device.raw("POST", "/sync/commit", asked)
        assert answer.status_code < 500, (header, answer.content[:300])
    later = device.commit_of(device.file(), head_seq=(1 << 53) - 1, key_epoch=(1 << 32) - 1)
    assert (await device.raw("POST", "/sync/commit", later)).status_code < 500


async def test_an_upload_of_more_than_can_be_counted_is_refused(gateway: Running) -> None:
    device = await gateway.registered()
    most = (1 << 53) - 1
    refs = tuple(ChunkRef(os.urandom(32), most) for _ in range(5000))
    request = UploadRequest(space=device.keys.home, upload=os.urandom(16), refs=refs)
    said = await refused(device.ask("POST", "/files/upload", request))
    assert said.code == "quota_exceeded"
    three_gib = tuple(ChunkRef(os.urandom(32), 1 << 30) for _ in range(3))  # above 32 bits
    request = UploadRequest(space=device.keys.home, upload=os.urandom(16), refs=three_gib)
    opened = await device.ask("POST", "/files/upload", request, into=UploadOpen)
    assert opened.reserved_bytes == 3 << 30
    again = ChunkRef(os.urandom(32), 5)
    twice = UploadRequest(
        space=device.keys.home,
        upload=os.urandom(16),
        refs=(again, ChunkRef(again.address, 6), again),
    )
    assert (await device.raw("POST", "/files/upload", twice)).status_code < 500


async def test_a_viewer_reads_and_does_not_write(gateway: Running) -> None:
    owner, viewer = await gateway.registered(), await gateway.registered()
    blob = os.urandom(100)
    change = owner.file(blob)
    await owner.commit(owner.commit_of(change, inline=(blob,)))
    await gateway.services.pool.execute(
        "INSERT INTO members (space_id, user_id, role, created_at) VALUES ($1, $2, 1, $3)",
        owner.keys.home,
        viewer.keys.account,
        0,
    )
    page = await viewer.ask("GET", in_space(owner, "/sync/changes"), into=ChangesPage)
    assert len(page.rows) == 1
    path = in_space(owner, f"/chunks/{address_of(blob).hex()}")
    assert (await viewer.raw("GET", path)).content == blob
    theirs = viewer.commit_of(viewer.file(), space=owner.keys.home, history=owner.keys.history)
    for work in (
        viewer.commit(theirs),
        viewer.ask("PUT", path, blob),
        viewer.ask("POST", in_space(owner, "/chunks"), [PackItem(blob)]),
        viewer.ask(
            "POST", in_space(owner, "/chunks/missing"), AskMissing(addresses=(os.urandom(32),))
        ),
        viewer.ask(
            "POST",
            "/files/upload",
            UploadRequest(space=owner.keys.home, upload=os.urandom(16), refs=()),
        ),
    ):
        assert (await refused(work)).code == "forbidden"


async def test_a_pack_and_an_answer_end_at_8_mib(gateway: Running) -> None:
    device = await gateway.registered()
    data = blobs(3, 3 * limits.MIB)
    path = in_space(device, "/chunks")
    said = await refused(device.ask("POST", path, [PackItem(blob) for blob in data]))
    assert said.code == "too_large"
    for blob in data:
        await put(device, blob)
    addresses = tuple(map(address_of, data))
    fetch = in_space(device, "/chunks/fetch")
    asked = FetchChunks(addresses=addresses)
    fetched = await device.ask("POST", fetch, asked, into=FetchedChunks)
    assert fetched.blobs == tuple(data[:2])
    rest = FetchChunks(addresses=addresses[2:])
    assert (await device.ask("POST", fetch, rest, into=FetchedChunks)).blobs == (data[2],)
    held = in_space(device, f"/chunks/{addresses[0].hex()}")
    whole = await device.raw("GET", held)  # in several pieces
    assert whole.content == data[0]
    assert int(whole.headers["content-length"]) == len(data[0])
