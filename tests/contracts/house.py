"""What a store's contract is tested with: its time, its speaker, and what happens beside it."""

from dataclasses import dataclass, field
from typing import Protocol

from actors.ports import Outgoing, Store
from actors.records import Chunk
from protocol.messages import Role


@dataclass
class Clock:
    """The store's `now_ms`."""

    ms: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Heard:
    """Stands for the Speaker, and sends nothing."""

    rows: list[Outgoing] = field(default_factory=list)
    nudges: list[tuple[bytes, bytes]] = field(default_factory=list)
    due_ms: list[int] = field(default_factory=list)

    def say(self, rows, nudges, delivered, next_due_ms=None):
        self.rows += rows
        self.nudges += nudges
        if next_due_ms is not None:
            self.due_ms.append(next_due_ms)


class Seed(Protocol):
    """What happens beside the actors, in transactions of its own."""

    async def add_account(
        self, account: bytes, quota_bytes: int = ..., suspended: bool = False
    ) -> None: ...

    async def add_space(
        self,
        space: bytes,
        owner: bytes,
        history: bytes,
        head: bytes,
        policy: str = "automatic",
        key_epoch: int = 1,
    ) -> None:
        """An empty space; its owner becomes a member with role OWNER."""

    async def add_member(self, space: bytes, account: bytes, role: Role) -> None: ...

    async def lease(self, space: bytes, chunks: list[Chunk]) -> None:
        """The gateway stored these: held for limits.LEASE_S from `clock()` on."""

    async def merkle(self, space: bytes) -> dict[int, int]:
        """Bucket -> sum, those that are 0 left out."""


@dataclass
class House:
    """A store to be tested. It was given `clock` as its time and `heard` as its speaker."""

    store: Store
    seed: Seed
    clock: Clock
    heard: Heard
