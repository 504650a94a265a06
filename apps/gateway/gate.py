"""What the routes work with: one `Gate` per process, one `Caller` per signed-in request."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from actors.adapters.postgres.accounts import Accounts
from actors.adapters.postgres.leases import Leases
from actors.adapters.postgres.reads import Member, Reads
from actors.adapters.postgres.sessions import Sessions, Standing
from actors.dialer import Dialer
from actors.ports import Cache, ChunkStore, Feed
from apps.gateway.passwords import Passwords
from apps.gateway.tokens import Access, Tokens
from apps.settings import Settings
from apps.telemetry import Figures
from protocol.faults import Code, refuse
from protocol.messages import Role

STANDING_MS = 3_000  # what was revoked elsewhere is refused within 5 s
STANDINGS_MAX = 10_000

log = structlog.get_logger()


class Caller(NamedTuple):
    """The device behind a request, as its session stood a moment ago."""

    account: bytes
    device: bytes
    family: bytes
    sign: bytes
    certified: bool


class Check(NamedTuple):
    """One thing that a gateway leans on. Without what it `needs`, it serves nobody; without the
    others it degrades.
    """

    ask: Callable[[], Awaitable[object]]
    needs: bool


class Door:
    """Knows how sessions stand, without asking the database for every request."""

    def __init__(self, sessions: Sessions, now_ms: Callable[[], int]) -> None:
        """Remember answers of `sessions` for STANDING_MS."""
        self._sessions = sessions
        self._now_ms = now_ms
        self._known: OrderedDict[bytes, tuple[int, Standing | None]] = OrderedDict()

    async def admit(self, access: Access) -> Caller:
        """Return the caller behind a good token.

        Raises Refusal: SESSION_REVOKED, ACCOUNT_SUSPENDED.
        """
        standing = await self._standing(access.family)
        if standing is None or not standing.alive:
            raise refuse(Code.SESSION_REVOKED)
        if (standing.account, standing.device) != (access.account, access.device):
            raise refuse(Code.SESSION_REVOKED)
        if not standing.active:
            raise refuse(Code.ACCOUNT_SUSPENDED)
        return Caller(
            standing.account, standing.device, access.family, standing.sign, standing.certified
        )

    def forget(self, family: bytes | None = None) -> None:
        """Ask the database next time: about one session, or about all."""
        if family is None:
            self._known.clear()
        else:
            self._known.pop(family, None)

    async def _standing(self, family: bytes) -> Standing | None:
        now_ms = self._now_ms()
        known = self._known.get(family)
        if known is not None and known[0] > now_ms:
            return known[1]
        standing = await self._sessions.standing(family, now_ms)
        if standing is None or not standing.certified:
            return standing  # may be certified any moment, also through another gateway
        self._known[family] = (now_ms + STANDING_MS, standing)
        self._known.move_to_end(family)
        if len(self._known) > STANDINGS_MAX:
            self._known.popitem(last=False)
        return standing


class Seats:
    """Knows who sits where, without asking the database for every request."""

    def __init__(self, reads: Reads, now_ms: Callable[[], int]) -> None:
        """Remember answers of `reads` for STANDING_MS; a seat that is not there is never one."""
        self._reads = reads
        self._now_ms = now_ms
        self._known: OrderedDict[tuple[bytes, bytes], tuple[int, Member]] = OrderedDict()

    async def find(self, space: bytes, account: bytes) -> Member | None:
        """Return a seat as it was a moment ago. Where its space stands may have changed."""
        now_ms, key = self._now_ms(), (space, account)
        known = self._known.get(key)
        if known is not None and known[0] > now_ms:
            return known[1]
        member = await self._reads.member(space, account)
        if member is None:
            self._known.pop(key, None)
            return None
        self._known[key] = (now_ms + STANDING_MS, member)
        self._known.move_to_end(key)
        if len(self._known) > STANDINGS_MAX:
            self._known.popitem(last=False)
        return member


@dataclass(frozen=True, slots=True)
class Gate:
    """Everything a route may use. Made by `wiring`, never by a route."""

    settings: Settings
    accounts: Accounts
    sessions: Sessions
    reads: Reads
    leases: Leases
    chunks: ChunkStore
    dialer: Dialer
    feed: Feed
    cache: Cache
    tokens: Tokens
    passwords: Passwords
    door: Door
    seats: Seats
    now_ms: Callable[[], int]
    figures: Figures | None = None
    checks: dict[str, Check] = field(default_factory=dict)

    async def member(self, space: bytes, caller: Caller, least: Role = Role.VIEWER) -> Member:
        """Return the caller's seat in a space. Its role and owner may be 3 s old, its head too.

        Raises Refusal: NOT_FOUND (no seat: the same as no space), FORBIDDEN (too small a role).
        """
        member = await self.seats.find(space, caller.account)
        if member is None:
            raise refuse(Code.NOT_FOUND)
        if member.role < least:
            raise refuse(Code.FORBIDDEN)
        return member

    async def member_now(self, space: bytes, caller: Caller) -> Member:
        """Return the caller's seat and where the space stands now. Raises Refusal: NOT_FOUND."""
        member = await self.reads.member(space, caller.account)
        if member is None:
            raise refuse(Code.NOT_FOUND)
        return member


def wall_ms() -> int:
    """Return the time in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000
