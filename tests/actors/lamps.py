"""A small actor and a small store, for the tests of what runs actors."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any

from actors.actor import Actor, Transitions
from actors.outbox import Speaker
from actors.ports import Address, Envelope, Outgoing, Overtaken
from actors.records import StoredAnswer
from actors.turn import Told, Words
from protocol.codec import encode, sha256
from protocol.faults import Code, Fault, refuse
from protocol.messages import Message


class SwitchOn(Message, frozen=True, tag="lamp.on"):
    watts: int = 10


class SwitchOff(Message, frozen=True, tag="lamp.off"):
    pass


class Look(Message, frozen=True, tag="lamp.look"):
    pass


class Seen(Message, frozen=True, tag="lamp.seen"):
    status: str
    times: int


class Status(StrEnum):
    DARK, LIT = "dark", "lit"


class Lamp(Actor):
    """Tells `meter/house` of every switch, nudges its watchers, and counts what it did."""

    kind = "lamp"
    accepts = SwitchOn | SwitchOff | Look
    answers = Seen
    transitions: Transitions = {
        Status.DARK: {SwitchOn: {Status.LIT}, Look: {Status.DARK}},
        Status.LIT: {SwitchOff: {Status.DARK}, Look: {Status.LIT}},
    }

    async def load(self, message: Message, turn: Any) -> None:
        self.status, self.times = await turn.lamp()

    async def on_switch(self, message: SwitchOn | SwitchOff, turn: Any) -> Seen:
        status = Status.LIT if isinstance(message, SwitchOn) else Status.DARK
        turn.put_lamp(status, self.times + 1)
        turn.tell(Address("meter", "house"), Look())
        turn.tell(Address("meter", "house"), Look(), after_ms=60_000)
        turn.nudge(b"watchers", Seen(status=status, times=self.times + 1))
        if isinstance(message, SwitchOn) and message.watts > 100:
            raise refuse(Code.QUOTA_EXCEEDED, about="the fuse")
        if isinstance(message, SwitchOn) and message.watts < 0:
            raise RuntimeError("a bug")
        self.status = status
        return Seen(status=status, times=self.times + 1)

    async def on_look(self, message: Look, turn: Any) -> Message:
        if self.times > 100:
            return Fault(code=Code.BUSY)
        return Seen(status=self.status, times=self.times)


class LampTurn(Words):
    def __init__(self, store: "LampStore", address: Address) -> None:
        super().__init__(address, now_ms=store.now_ms)
        self._store = store
        self._state: tuple[Status, int] | None = None
        self._read: int | None = None

    async def answered(self, message_id: bytes) -> StoredAnswer | None:
        await asyncio.sleep(0)
        return self._store.inbox.get((self.address, message_id))

    async def lamp(self) -> tuple[Status, int]:
        await asyncio.sleep(0)
        self._read = self._store.states.get(self.address, (Status.DARK, 0))[1]
        return self._store.states.get(self.address, (Status.DARK, 0))

    def put_lamp(self, status: Status, times: int) -> None:
        self._state = status, times

    def commit(self) -> list[Told]:
        store = self._store
        now = store.states.get(self.address, (Status.DARK, 0))[1]
        if self._state is not None and now != self._read:
            raise Overtaken("the lamp was switched meanwhile")
        if any((self.address, message_id) in store.inbox for message_id, _ in self.answers):
            raise Overtaken("answered meanwhile")
        if store.trouble:
            raise store.trouble.pop()
        if self._state is not None:
            store.states[self.address] = self._state
        store.inbox |= {(self.address, message_id): stored for message_id, stored in self.answers}
        store.commits += bool(self.answers)
        return self.outbox()


class LampStore:
    """Optimistic: who commits second is overtaken. `trouble` is raised by the next commits."""

    def __init__(self, speaker: Speaker | None = None) -> None:
        self.speaker = speaker
        self.now_ms = 1_000
        self.inbox: dict[tuple[Address, bytes], StoredAnswer] = {}
        self.states: dict[Address, tuple[Status, int]] = {}
        self.rows: dict[int, Told] = {}
        self.trouble: list[Exception] = []
        self.commits = 0
        self._last = 0

    @asynccontextmanager
    async def turn(self, address: Address) -> AsyncIterator[Any]:
        turn = LampTurn(self, address)
        yield turn
        await asyncio.sleep(0)
        due = []
        for told in turn.commit():
            self._last += 1
            self.rows[self._last] = told
            if told.due_ms <= self.now_ms:
                due.append(told.outgoing(self._last))
        later = [told.due_ms for told in self.rows.values() if told.due_ms > self.now_ms]
        if self.speaker is not None:
            self.speaker.say(due, turn.nudges, self.delivered, min(later, default=None))

    async def outgoing(self, limit: int, older_than_ms: int) -> list[Outgoing]:
        due = [(row, told) for row, told in self.rows.items() if told.due_ms <= self.now_ms]
        return [told.outgoing(row) for row, told in due[:limit]]

    async def delivered(self, ids: Any) -> None:
        for row in ids:
            self.rows.pop(row, None)


def envelope(message: Message, message_id: bytes, sent_ms: int = 0) -> bytes:
    body = encode(message)
    return encode(Envelope(message_id, sha256(body), body, sent_ms, "00-trace"))
