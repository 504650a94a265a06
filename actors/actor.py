"""Actor: one address, one state, one message at a time.

A subclass names its conversation and its transition table, and has one `on_…` method for each
message of the table. The table permits, handlers act. An instance lives for one turn.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from enum import StrEnum
from inspect import get_annotations
from types import UnionType
from typing import Any, ClassVar, Union, get_args, get_origin

from actors.ports import Address, Turn
from protocol.faults import Code, Fault
from protocol.messages import Message

Transitions = Mapping[Any, Mapping[type[Message], Set[Any]]]
"""status -> message that may arrive -> what the status may be afterwards."""

Handler = Callable[[Any, Any, Turn], Awaitable[Message | None]]


class Actor:
    """Base of the actors. In a subclass, table, handlers and `accepts` name the same messages.

    A handler `async def on_…(self, message: SomeMessage, turn: Turn) -> Message | None` reads and
    writes through the turn, sets `self.status`, and returns the answer; None: nobody reads one.
    To say no it returns a `Fault` (what it wrote is committed) or raises a `Refusal` (what it
    wrote is rolled back); both are stored as the answer. Any other exception: try again later.
    """

    kind: ClassVar[str]  # of its addresses and queues, such as "user-sync"
    accepts: ClassVar[Any]  # the union of messages it receives
    answers: ClassVar[Any] = None  # the union of messages it answers, faults aside
    transitions: ClassVar[Transitions]
    handlers: ClassVar[Mapping[type[Message], Handler]]

    status: StrEnum

    def __init_subclass__(cls) -> None:
        """Find the handlers by annotation. Raises AssertionError where the three disagree."""
        cls.handlers = {}
        for owner in reversed(cls.__mro__):
            for name, method in vars(owner).items():
                if name.startswith("on_"):
                    union = get_annotations(method, eval_str=True)["message"]
                    cls.handlers |= dict.fromkeys(members(union), method)
        table = {message for row in cls.transitions.values() for message in row}
        assert set(cls.handlers) == table, f"{cls.__name__}: table and handlers disagree"
        assert table == set(members(cls.accepts)), f"{cls.__name__}: table and union disagree"

    def __init__(self, address: Address) -> None:
        """Be activated for one turn of this address."""
        self.address = address

    async def load(self, message: Any, turn: Turn) -> None:
        """Read the state: set `self.status`, and keep what the handlers will ask for."""
        raise TypeError(f"{type(self).__name__} must say how it is loaded")  # pragma: no cover

    async def receive(self, message: Message, turn: Turn) -> Message | None:
        """Handle one message and return its answer.

        A message the table does not allow in this status is answered OUT_OF_ORDER.
        Raises Refusal, and whatever else a handler raises: the caller rolls the turn back.
        """
        await self.load(message, turn)
        before = self.status
        allowed = self.transitions[before].get(type(message))
        if allowed is None:
            tag = type(message).__struct_config__.tag
            return Fault(code=Code.OUT_OF_ORDER, about=f"{tag} while {before}")
        answer = await self.handlers[type(message)](self, message, turn)
        assert self.status in allowed, f"{self.kind}: {before} must not become {self.status}"
        return answer


Roster = Iterable[type[Actor]]


def members(union: Any) -> tuple[type[Message], ...]:
    """Return the structs of a union, or the one struct itself."""
    if get_origin(union) in (Union, UnionType):
        return get_args(union)
    return (union,)
