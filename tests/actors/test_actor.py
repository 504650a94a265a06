"""Goal: the table permits, handlers act, and a class whose parts disagree cannot be made."""

import asyncio
from typing import Any

import pytest

from actors.actor import Actor
from actors.ports import Address
from protocol.faults import Code, Fault
from protocol.messages import Message
from tests.actors.lamps import Lamp, LampStore, Look, Seen, Status, SwitchOff, SwitchOn

KITCHEN = Address("lamp", "kitchen")


async def receive(store: LampStore, *messages: Message) -> list[Message | None]:
    answers = []
    for n, message in enumerate(messages):
        async with store.turn(KITCHEN) as turn:
            answers.append(await Lamp(KITCHEN).receive(message, turn))
            turn.answer(b"%d" % n, None)
    return answers


def test_what_the_table_allows_is_handled():
    answers = asyncio.run(receive(LampStore(), SwitchOn(), Look(), SwitchOff(), Look()))
    assert answers == [
        Seen(status="lit", times=1),
        Seen(status="lit", times=1),
        Seen(status="dark", times=2),
        Seen(status="dark", times=2),
    ]


def test_what_it_does_not_allow_is_answered_out_of_order():
    (fault,) = asyncio.run(receive(LampStore(), SwitchOff()))
    assert fault == Fault(code=Code.OUT_OF_ORDER, about="lamp.off while dark")


def test_a_handler_must_keep_to_the_table():
    class Liar(Lamp):
        transitions = {
            **Lamp.transitions,
            Status.DARK: {SwitchOn: {Status.DARK}, Look: {Status.DARK}},
        }

    async def run() -> None:
        async with LampStore().turn(KITCHEN) as turn:
            await Liar(KITCHEN).receive(SwitchOn(), turn)

    with pytest.raises(AssertionError, match="must not become lit"):
        asyncio.run(run())


def test_a_message_without_a_handler_is_a_mistake():
    with pytest.raises(AssertionError, match="table and handlers"):

        class Mute(Actor):
            kind = "mute"
            accepts = Look
            transitions = {Status.DARK: {Look: {Status.DARK}}}


def test_a_handler_outside_the_table_is_a_mistake():
    with pytest.raises(AssertionError, match="table and handlers"):

        class Eager(Lamp):
            transitions = {Status.DARK: {Look: {Status.DARK}}}


def test_a_union_that_says_otherwise_is_a_mistake():
    with pytest.raises(AssertionError, match="table and union"):

        class Deaf(Lamp):
            accepts = SwitchOn | SwitchOff


def test_a_single_message_is_a_union_too():
    class One(Actor):
        kind = "one"
        accepts = Look
        transitions = {Status.DARK: {Look: {Status.DARK}}}

        async def load(self, message: Any, turn: Any) -> None:
            self.status = Status.DARK

        async def on_look(self, message: Look, turn: Any) -> None:
            """Answers nothing."""

    assert set(One.handlers) == {Look}
    assert asyncio.run(One(KITCHEN).receive(Look(), None)) is None
