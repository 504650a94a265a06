"""The tables of the store in memory: plain dictionaries, and a layer over them for each turn.

A turn reads through its layer and writes into it; its commit pours the layer into the base. What
is written is frozen records, so no turn ever sees half of another's work.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.ports import Address
from actors.records import (
    Chunk,
    Conflict,
    NewRow,
    Node,
    Proof,
    StoredAnswer,
    Upload,
    Version,
)
from protocol.messages import Role

_UNREAD: Any = object()


@dataclass(frozen=True, slots=True)
class AccountRow:
    """An account, as far as spaces are concerned."""

    quota_bytes: int
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class SpaceRow:
    """A space; its owner and members are rows of their own."""

    owner: bytes
    history: bytes
    head: bytes
    head_seq: int = 0
    key_epoch: int = 1
    policy: str = "automatic"


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """A chunk in a space. Held while a version refers to it or its lease runs."""

    chunk: Chunk
    leased_ms: int  # until


@dataclass(slots=True)
class Tables:
    """All that is committed."""

    accounts: dict[bytes, AccountRow] = field(default_factory=dict)
    used: dict[bytes, int] = field(default_factory=dict)  # by owner
    spaces: dict[bytes, SpaceRow] = field(default_factory=dict)
    members: dict[tuple[bytes, bytes], Role] = field(default_factory=dict)
    nodes: dict[tuple[bytes, bytes], Node] = field(default_factory=dict)
    holders: dict[tuple[bytes, bytes, bytes], bytes] = field(default_factory=dict)
    children: dict[tuple[bytes, bytes], frozenset[bytes]] = field(default_factory=dict)
    versions: dict[tuple[bytes, bytes], Version] = field(default_factory=dict)
    chunks: dict[tuple[bytes, bytes], ChunkRow] = field(default_factory=dict)
    refs: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # versions that refer
    rows: dict[tuple[bytes, int], NewRow] = field(default_factory=dict)
    dots: dict[tuple[bytes, bytes, int], int] = field(default_factory=dict)  # to seq
    proofs: dict[tuple[bytes, bytes], Proof] = field(default_factory=dict)
    merkle: dict[tuple[bytes, int], int] = field(default_factory=dict)
    uploads: dict[bytes, Upload] = field(default_factory=dict)
    conflicts: dict[bytes, Conflict] = field(default_factory=dict)
    unresolved: dict[bytes, frozenset[bytes]] = field(default_factory=dict)  # by space
    answered_ops: dict[tuple[Address, bytes], int] = field(default_factory=dict)
    inbox: dict[Address, dict[bytes, StoredAnswer]] = field(default_factory=dict)


class Layer:
    """What one turn has written, over the tables it reads."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._new: dict[int, tuple[dict[Any, Any], dict[Any, Any]]] = {}

    def get(self, table: Mapping[Any, Any], key: Any) -> Any:
        """Return a row, or None; this turn's own writes come first."""
        _, new = self._new.get(id(table), (table, {}))
        row = new.get(key, _UNREAD)
        return table.get(key) if row is _UNREAD else row

    def put(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        """Write a row; None removes it."""
        self._new.setdefault(id(table), (table, {}))[1][key] = row

    def pour(self) -> None:
        """Make everything real."""
        for table, new in self._new.values():
            for key, row in new.items():
                if row is None:
                    table.pop(key, None)
                else:
                    table[key] = row
