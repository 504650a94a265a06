"""What one device seals another opens; what nobody signed is never believed."""

import pytest

from client_agent.adapters.account import Identity
from client_agent.adapters.drafts import Draft, Drafts
from client_agent.adapters.journal import Journal
from client_agent.adapters.profile import Profile
from client_agent.adapters.server import Offline, ServerFault
from client_agent.adapters.state import State
from client_agent.core.events import (
    ChangeSpec,
    Commit,
    CommitFailed,
    Committed,
    Pull,
    Pulled,
    PullFailed,
    ResultAccepted,
    ResultConflicted,
    ResultRefused,
)
from client_agent.core.trees import Cursor
from client_agent.crypto.chunks import seal_chunk
from client_agent.crypto.devices import DeviceSecrets
from client_agent.crypto.keys import MasterKey
from client_agent.crypto.manifest import content_id
from protocol.entry import ChangeKind, NodeType
from protocol.faults import Code, Fault
from protocol.ids import ROOT
from protocol.journal import (
    CommitProof,
    Outcome,
    Row,
    RowKind,
    chain,
    commit_hash,
    decode_header,
    encode_row,
    leaf,
)
from protocol.messages import sync
from protocol.messages.device import Session
from protocol.messages.feed import Advanced
from protocol.messages.sync import PackItem
from tests.client_agent.adapters.device_fakes import SPACE, keys

HISTORY, NODE, OTHER, ACCOUNT = (bytes([n]) * 16 for n in (9, 10, 11, 12))
GENESIS = Cursor(HISTORY, 0, b"g" * 32)


class Gateway:
    """A journal that takes every change, and shows what it got."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        self.commits: list[CommitProof] = []
        self.head = GENESIS.hash
        self.requests: list[sync.CommitRequest] = []
        self.packs = self.cancelled = 0
        self.fault: Exception | None = None
        self.results: list[sync.Result] | None = None
        self.outcome, self.loser = Outcome.ACCEPTED, None

    async def commit(self, message):
        self.requests.append(message)
        if self.fault is not None:
            raise self.fault
        prev, mine = len(self.rows), []
        commit = commit_hash(message.header, message.signature)
        for index, change in enumerate(message.changes):
            row = Row(
                seq=prev + index + 1, kind=RowKind.CHANGE, server_ms=5, node=_node(change),
                commit=commit, index=index, change=change, outcome=self.outcome,
                place_rev=index + 1, loser=self.loser,
            )
            mine.append(encode_row(row))
        for raw in mine:
            self.head = chain(self.head, raw)
        self.rows += mine
        leaves = b"".join(map(leaf, message.changes))
        self.commits.append(CommitProof(message.header, message.signature, leaves))
        results = self.results or [
            sync.Accepted(seq=prev + n + 1) for n in range(len(mine))
        ]
        return sync.Committed(
            results=tuple(results), history=HISTORY, prev_seq=prev, head_seq=len(self.rows),
            head=self.head, rows=tuple(mine),
        )

    def page(self, after=0, **changed):
        facts = {
            "space": SPACE, "history": HISTORY, "prev_seq": after,
            "rows": tuple(self.rows[after:]), "commits": tuple(self.commits),
            "head_seq": len(self.rows), "head": self.head,
        }
        return sync.ChangesPage(**(facts | changed))

    async def changes(self, space, history, after, limit):
        if self.fault is not None:
            raise self.fault
        return self.shown(after) if hasattr(self, "shown") else self.page(after)

    async def put_pack(self, space, pack, upload=None):
        self.packs += 1

    async def cancel_upload(self, upload):
        self.cancelled += 1
        raise Offline("away")


def _node(change: bytes) -> bytes:
    import msgspec

    from protocol.entry import Change

    return msgspec.msgpack.decode(change, type=Change).node


class Book:
    def __init__(self, signers):
        self.signers, self.fetched, self.real = {}, 0, signers

    async def refresh(self):
        self.fetched += 1
        self.signers = self.real


class World:
    def __init__(self, folder):
        self.gateway = Gateway()
        self.signers: dict[bytes, bytes] = {}
        self.ada, self.bob = (self.device(folder / name, n) for n, name in enumerate("ab", 1))

    def device(self, home, number):
        secrets = DeviceSecrets.new()
        device = bytes([number]) * 16
        self.signers[device] = secrets.sign_public
        profile = Profile(
            server="", username="u", account=ACCOUNT.hex(), device=device.hex(),
            device_name="d", keystore="file", space=SPACE.hex(), history=HISTORY.hex(),
        )
        session = Session(
            account=ACCOUNT, device=device, access_token="", access_expires_ms=0,
            refresh_token="", refresh_expires_ms=0,
        )
        me = Identity(profile, secrets, MasterKey(ACCOUNT, 1, b"k" * 32), session, keys())
        state = State.open(home)
        state.load(-1)
        made = Journal(me, state, self.gateway, Drafts(), Book(self.signers))
        made.drafts, made.state, made.me = made._drafts, state, me
        return made


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path)
    yield made
    await made.ada.state.close()
    await made.bob.state.close()


def draft(journal, node=NODE, content=b"hello", version=b"v" * 16) -> Draft:
    sealed = seal_chunk(keys(), content)
    made = Draft(
        version, node, NodeType.FILE, b"", len(content), 77, True, None, 1, (sealed.entry,),
        (), (PackItem(sealed.blob),),
    )
    made.content_id = content_id(keys(), NodeType.FILE, True, None, 1, [sealed.entry.pid])
    journal.drafts.put(made)
    return made


def create(name="näme", version=b"v" * 16, node=NODE, dot=1) -> ChangeSpec:
    return ChangeSpec(
        ChangeKind.CREATE, node, NodeType.FILE, dot, 1000 + dot, parent=ROOT, name=name,
        version=version,
    )


async def commit(journal, *specs, op=1, cursor=GENESIS):
    events = []
    await journal.commit(Commit(op, 0, specs, cursor), events.append)
    return events


async def pull(journal, after=GENESIS):
    events = []
    await journal.pull(Pull(after), events.append)
    [event] = events
    return event


async def test_what_one_device_seals_another_opens(world):
    made = draft(world.ada)
    committed, pushed = await commit(world.ada, create())
    assert committed == Committed(1, (ResultAccepted(1),), 1)
    assert not pushed.asked
    assert pushed.rows[0].own
    assert world.ada.drafts.get(made.version) is None
    assert made.chunks[0].pid in world.ada.state.known_chunks([made.chunks[0].pid])

    event = await pull(world.bob)
    assert isinstance(event, Pulled)
    [row] = event.rows
    assert (row.name, row.parent, row.change) == ("näme", ROOT, ChangeKind.CREATE)
    assert (row.size_bytes, row.mtime_ns, row.executable) == (5, 77, True)
    assert row.vector == ((world.ada.me.device, 1),)
    assert not row.own
    assert row.fault == ""
    assert row.hash == world.gateway.head
    known = world.bob.state.content(row.version)
    assert known.content_id == row.content_id == made.content_id
    assert world.bob._book.fetched == 1, "an unknown author: the list is fetched anew"


async def test_small_files_travel_inside(world):
    draft(world.ada)
    await commit(world.ada, create())
    [request] = world.gateway.requests
    assert len(request.inline) == 1
    assert world.gateway.packs == 0
    assert b"hello" not in request.header + b"".join(request.changes)
    assert "näme".encode() not in b"".join(request.changes)


async def test_what_is_too_much_to_travel_inside_goes_before(world, monkeypatch):
    monkeypatch.setattr("client_agent.adapters.journal.INLINE_BYTES_MAX", 10)
    draft(world.ada)
    await commit(world.ada, create())
    assert world.gateway.requests[0].inline == ()
    assert world.gateway.packs == 1


async def test_a_repeat_is_sent_byte_for_byte(world):
    draft(world.ada)
    world.gateway.fault = Offline("gone")
    assert await commit(world.ada, create()) == [CommitFailed(1, "offline", retry=True)]
    world.gateway.fault = None
    world.ada._carried = (0, {})  # as after a restart
    world.ada.drafts.drop(b"v" * 16)
    committed, _ = await commit(world.ada, create())
    first, second = world.gateway.requests
    assert (first.header, first.signature, first.changes) == (
        second.header, second.signature, second.changes
    )
    assert committed.results == (ResultAccepted(1),)
    header = decode_header(second.header)
    assert (header.op, header.head_seq, header.head) == (1, 0, GENESIS.hash)


async def test_contents_that_are_not_at_hand_are_read_again(world):
    [failed] = await commit(world.ada, create())
    assert failed == CommitFailed(1, "chunks_missing", False, 0, frozenset({NODE}))
    assert world.gateway.requests == []


async def test_answers_become_events(world):
    draft(world.ada)
    world.gateway.results = [
        sync.Conflicted(seq=1, head=OTHER, loser=NODE),
        sync.Refused(code="chunks_missing", facts={"chunks": "ab" * 32}),
    ]
    committed, _ = await commit(
        world.ada, create(),
        ChangeSpec(ChangeKind.CREATE, OTHER, NodeType.DIRECTORY, 2, 5, parent=ROOT, name="d"),
    )
    assert committed.results == (
        ResultConflicted(1), ResultRefused("chunks_missing", {"chunks": "ab" * 32})
    )


@pytest.mark.parametrize(
    ("code", "retry", "unread"),
    [
        (Code.BUSY, True, frozenset()), (Code.STALE_EPOCH, False, frozenset()),
        (Code.CHUNKS_MISSING, False, frozenset({NODE})),
        (Code.SESSION_REVOKED, True, frozenset()),
    ],
)
async def test_faults_say_whether_the_same_commit_may_be_repeated(world, code, retry, unread):
    draft(world.ada)
    world.gateway.fault = ServerFault(Fault(code=code, retry_after_ms=9))
    [failed] = await commit(world.ada, create())
    assert failed == CommitFailed(1, str(code), retry, 9, unread)


async def test_a_copy_shares_its_content(world):
    draft(world.ada)
    _, pushed = await commit(world.ada, create())
    copy = ChangeSpec(
        ChangeKind.CREATE, OTHER, NodeType.FILE, 2, 5, parent=ROOT, name="copy",
        copy_of=b"v" * 16,
    )
    cursor = Cursor(HISTORY, 1, pushed.rows[0].hash)
    _, second = await commit(world.ada, copy, op=2, cursor=cursor)
    [row] = second.rows
    assert row.content_id == pushed.rows[0].content_id
    assert row.version != b"v" * 16
    assert world.gateway.requests[1].inline == ()
    assert world.ada.state.content(row.version).manifest.node == OTHER


async def test_set_head_shows_the_version_it_chooses(world):
    draft(world.ada)
    _, pushed = await commit(world.ada, create())
    chosen = ChangeSpec(
        ChangeKind.SET_HEAD, NODE, NodeType.FILE, 2, 6, base=pushed.rows[0].vector,
        version=b"v" * 16,
    )
    unknown = ChangeSpec(
        ChangeKind.SET_HEAD, OTHER, NodeType.FILE, 3, 7, version=b"?" * 16,
    )
    cursor = Cursor(HISTORY, 1, pushed.rows[0].hash)
    _, second = await commit(world.ada, chosen, unknown, op=2, cursor=cursor)
    assert second.rows[0].size_bytes == 5
    assert second.rows[0].fault == ""
    assert "not known" in second.rows[1].fault


@pytest.mark.parametrize("kind", [ChangeKind.MODIFY, ChangeKind.SET_HEAD])
async def test_a_number_that_its_own_base_has_seen_is_not_believed(world, kind):
    """A device gone bad signs it; that it is refused must not hang on an assertion."""
    draft(world.ada)
    bad = ChangeSpec(
        kind, NODE, NodeType.FILE, 2, 6, base=((world.ada.me.device, 2),), version=b"v" * 16
    )
    await commit(world.ada, bad)
    assert await pull(world.bob) == PullFailed("bad_head")


async def test_uploads_that_the_commit_did_not_name_are_ended(world):
    for n in (1, 2):
        made = draft(world.ada, bytes([n]) * 16, bytes([n]), bytes([n]) * 16)
        made.upload = bytes([n + 5]) * 16
    specs = [create(f"f{n}", bytes([n]) * 16, bytes([n]) * 16, n) for n in (1, 2)]
    await commit(world.ada, *specs)
    assert world.gateway.requests[0].upload is not None
    assert world.gateway.cancelled == 1


async def two_rows(world):
    draft(world.ada)
    _, pushed = await commit(world.ada, create())
    cursor = Cursor(HISTORY, 1, pushed.rows[0].hash)
    folder = ChangeSpec(
        ChangeKind.CREATE, OTHER, NodeType.DIRECTORY, 2, 5, parent=ROOT, name="d"
    )
    await commit(world.ada, folder, op=2, cursor=cursor)
    return cursor


async def test_hostile_journals_are_refused_whole(world):
    await two_rows(world)
    gateway = world.gateway
    first, second = gateway.rows
    forged = bytearray(first)
    forged[-1] ^= 1
    shown = {
        "reordered": gateway.page(rows=(second, first)),
        "truncated": gateway.page(rows=(second,)),
        "forged": gateway.page(rows=(bytes(forged), second)),
        "unsigned": gateway.page(commits=()),
        "another head": gateway.page(head=b"?" * 32),
        "nonsense": gateway.page(rows=(b"?",)),
    }
    for what, page in shown.items():
        gateway.shown = lambda after, page=page: page
        assert await pull(world.bob) == PullFailed("bad_head"), what
    assert world.bob.tip is None
    assert world.bob.state.contents_of(NODE) == []


async def test_a_server_that_forgot_is_told_from_one_that_changed(world):
    cursor = await two_rows(world)
    gateway = world.gateway
    gateway.shown = lambda after: gateway.page(after, head_seq=0, rows=())
    assert await pull(world.bob, cursor) == PullFailed("history_lost")
    gateway.shown = lambda after: gateway.page(after, history=OTHER)
    assert await pull(world.bob, cursor) == PullFailed("history_changed")
    gateway.fault = Offline("away")
    assert await pull(world.bob, cursor) == PullFailed("offline")
    gateway.fault = ServerFault(Fault(code=Code.JOURNAL_TRIMMED))
    assert await pull(world.bob, cursor) == PullFailed("journal_trimmed")


async def test_a_device_nobody_certified_is_not_believed(world):
    await two_rows(world)
    del world.signers[world.ada.me.device]
    assert await pull(world.bob) == PullFailed("bad_head")


async def test_pushes_count_only_if_they_follow(world):
    await two_rows(world)
    first, second = world.gateway.rows

    def push(prev, *rows):
        head = chain(GENESIS.hash, first) if rows == (first,) else world.gateway.head
        return Advanced(
            space=SPACE, history=HISTORY, prev_seq=prev, seq=prev + len(rows), head=head,
            rows=rows, commits=tuple(world.gateway.commits),
        )

    bob = world.bob
    assert (await bob.pushed(push(0, first))).rows == (), "nothing is known yet"
    bob.tip = GENESIS
    assert (await bob.pushed(push(1, second))).rows == ()
    opened = await bob.pushed(push(0, first))
    assert [row.seq for row in opened.rows] == [1]
    assert not opened.asked
    assert [row.seq for row in (await bob.pushed(push(1, second))).rows] == [2]
    assert (await bob.pushed(push(2, second))).rows == (), "a forged one is set aside"


async def test_a_node_whose_name_cannot_be_used_is_shown_not_followed(world, monkeypatch):
    monkeypatch.setattr("client_agent.crypto.names.check_name", lambda name: None)
    draft(world.ada)
    await commit(world.ada, create("../../etc/passwd"))
    monkeypatch.undo()
    [row] = (await pull(world.bob)).rows
    assert row.name is None
    assert row.parent == ROOT
    assert row.fault.startswith("name:")
    assert row.content_id


async def test_a_manifest_that_does_not_open_is_a_fault_of_its_node(world):
    made = draft(world.ada)
    made.content_id = b"?" * 32
    await commit(world.ada, create())
    [row] = (await pull(world.bob)).rows
    assert row.fault.startswith("content:")
    assert row.name == "näme"
    assert world.bob.state.content(b"v" * 16) is None


async def test_a_conflict_names_the_copy_that_everybody_would_make(world):
    draft(world.ada)
    world.gateway.outcome, world.gateway.loser = Outcome.LOST, b"v" * 16
    _, pushed = await commit(world.ada, create())
    [row] = (await pull(world.bob)).rows
    assert row.copy == pushed.rows[0].copy is not None
    assert (row.loser, row.outcome) == (b"v" * 16, Outcome.LOST)
