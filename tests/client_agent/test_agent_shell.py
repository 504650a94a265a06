"""The shell: save first, one event for every effect, no crash in silence."""

import asyncio
import os

import pytest

from client_agent.adapters import account, link
from client_agent.adapters.profile import Profile
from client_agent.adapters.secrets import DEVICE, MASTER, SESSION, FileKeystore
from client_agent.adapters.state import State
from client_agent.agent import Agent, merged
from client_agent.core.events import (
    Applied,
    Apply,
    Commit,
    CommitFailed,
    Connected,
    Disconnected,
    Happened,
    Ingest,
    Ingested,
    IngestItem,
    MakeDirectory,
    Paused,
    Pull,
    PullFailed,
    Read,
    Renew,
    Renewed,
    Save,
    Scan,
    Scanned,
    Scope,
    StepDone,
    Tell,
    Wake,
    Woken,
)
from client_agent.core.trees import Cursor, Stat
from client_agent.crypto.devices import DeviceSecrets
from client_agent.crypto.keys import KeyringContents, MasterKey, seal_keyring
from client_agent.settings import load
from protocol.codec import encode
from protocol.entry import NodeType
from tests.client_agent.adapters.test_device_server import session

STAT = Stat(1, 2, 3, 4, False)


@pytest.fixture
async def agent(tmp_path):
    home, space, owner = tmp_path / "home", os.urandom(16), os.urandom(16)
    master = MasterKey(owner, 1, os.urandom(32))
    contents = KeyringContents().with_secret(space, 1, os.urandom(32))
    profile = Profile(
        server="http://127.0.0.1:9", username="u", account=owner.hex(), device=("02" * 16),
        device_name="d", keystore="file", space=space.hex(), history="03" * 16,
        owner_identity="04" * 32, identity_sign="04" * 32,
    )
    keystore = FileKeystore(home)
    keystore.put(DEVICE, DeviceSecrets.new().to_bytes())
    keystore.put(MASTER, master.to_bytes())
    keystore.put(SESSION, encode(session("first")))
    account.keep_keyring(home, seal_keyring(master, 1, contents))
    profile = link.link(home, profile, tmp_path / "folder")
    settings = load(environ={"SYNCLINE_HOME": str(home)})
    me = account.load_identity(home, profile, keystore)
    state = State.open(home)
    made = Agent(settings, me, state)
    yield made
    made._ingester.close()
    made._disk.close()
    await state.close()


def item(n: int) -> IngestItem:
    return IngestItem(bytes([n]) * 16, f"f{n}", NodeType.FILE, STAT)


async def event(agent):
    async with asyncio.timeout(20):
        return await agent._events.get()


async def crash(*_):
    raise RuntimeError("planted")


async def test_every_effect_that_crashes_ends_in_its_failure(agent, monkeypatch):
    monkeypatch.setattr(agent.journal, "commit", crash)
    monkeypatch.setattr(agent.journal, "pull", crash)
    monkeypatch.setattr("client_agent.agent.scan", lambda *_: 1 / 0)
    cursor = Cursor(b"h" * 16, 0, b"x" * 32)
    agent._begin(Commit(7, 0, (), cursor))
    assert await event(agent) == CommitFailed(7, "internal", retry=False)
    agent._begin(Pull(cursor))
    assert await event(agent) == PullFailed("internal")
    agent._begin(Scan((Scope("", True),)))
    failed = await event(agent)
    assert isinstance(failed, Scanned)
    assert failed.root_fault
    monkeypatch.setattr(agent, "_keep_profile", lambda **_: 1 / 0)
    agent._begin(Renew())
    assert await event(agent) == Renewed(None)


async def test_a_crash_half_way_fails_only_what_was_left(agent, monkeypatch):
    async def ingest(effect, emit):
        emit(Ingested((Read(effect.items[0].node, STAT, b"", b"", 0, 0),), last=False))
        raise RuntimeError("planted")

    async def apply(effect, emit):
        emit(Applied((StepDone(effect.steps[0].node, STAT),), last=False))
        raise RuntimeError("planted")

    monkeypatch.setattr(agent._ingester, "run", ingest)
    monkeypatch.setattr(agent._disk, "run", apply)
    agent._begin(Ingest((item(1), item(2))))
    assert not (await event(agent)).last
    rest = await event(agent)
    assert rest.last
    assert [(r.node, r.reason) for r in rest.results] == [(item(2).node, "error")]
    agent._begin(Apply((MakeDirectory(b"1" * 16, "a"), MakeDirectory(b"2" * 16, "b"))))
    assert not (await event(agent)).last
    rest = await event(agent)
    assert rest.last
    assert [(r.node, r.reason) for r in rest.results] == [(b"2" * 16, "error")]


async def test_nothing_is_done_before_it_is_saved(agent, monkeypatch):
    order = []

    class Engine:
        def handle(self, event, now_ms):
            return [nothing(dots=1), Tell("note", "p"), Wake(now_ms)]

    async def save(save):
        order.append("save")
        await asyncio.sleep(0)
        order.append("saved")

    monkeypatch.setattr(agent, "engine", Engine())
    monkeypatch.setattr(agent.state, "save", save)
    monkeypatch.setattr(agent, "_begin", lambda effect: order.append(type(effect).__name__))
    thinking = asyncio.create_task(agent._think())
    agent.emit(Paused(True))
    agent.emit(Woken())
    await agent.next_turn()
    thinking.cancel()
    assert order == ["save", "saved", "Tell", "Wake", "Tell", "Wake"]


async def test_only_the_newest_wake_counts(agent):
    agent._begin(Wake(agent.now_ms() + 60_000))
    agent._begin(Wake(agent.now_ms() + 1))
    assert await event(agent) == Woken()
    assert agent._events.empty()


async def test_a_new_generation_is_written_down_before_it_is_used(agent):
    agent._begin(Renew())
    assert await event(agent) == Renewed(1)
    assert agent.profile.generation == 1


async def test_after_the_session_ended_a_late_answer_does_not_connect(agent):
    agent.sign_out("session_revoked")
    assert await event(agent) == Disconnected("session_revoked")
    thinking = asyncio.create_task(agent._think())
    agent.emit(Connected(3))
    agent.emit(Paused(False))
    await agent.next_turn()
    thinking.cancel()
    assert not agent.engine.status().connected


def nothing(**more) -> Save:
    return Save({}, {}, {}, {}, {}, **more)


def test_saves_in_a_row_become_one():
    first = nothing(dots=1, history=(Happened(1, "a", "p", b""),), sent=())
    second = Save({b"n": None}, {}, {}, {}, {}, ops=4, history=(Happened(2, "b", "p", b""),))
    third = nothing(dots=3)
    one = merged([first, second, third])
    assert (one.dots, one.ops, one.sent, one.hlc) == (3, 4, (), None)
    assert one.local == {b"n": None}
    assert [line.verb for line in one.history] == ["a", "b"]
