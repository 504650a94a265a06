"""Base of all messages. One file per conversation; the tag, not the class name, is on the wire."""

from enum import IntEnum
from typing import Any, ClassVar

import msgspec


class Role(IntEnum):
    """What a member may do in a space; also the order of power."""

    VIEWER, EDITOR, OWNER = 1, 2, 3


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of what travels on its own: immutable, tagged, additive (new fields have defaults).

    `needs` is the least role a device must have to cause it; None: only servers send it.
    """

    needs: ClassVar[Role | None] = None


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Base of what travels many times inside a message: fields by position, append only."""


def tags(union: Any) -> dict[str, type[Message]]:
    """Return tag -> struct of a union, such as `SyncRequest`; the roster and the docs use it."""
    members: tuple[type[Message], ...] = getattr(union, "__args__", None) or (union,)
    return {str(m.__struct_config__.tag): m for m in members}
