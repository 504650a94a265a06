"""Accounts and sessions: register, sign in, refresh, sign out (CRYPTO.md 2)."""

import hmac
import os

import msgspec

from actors.adapters.postgres.accounts import Account, Taken
from actors.adapters.postgres.sessions import NewSession, SignIn, Turned
from apps.gateway.endpoint import Visit, Who, endpoint
from apps.gateway.tokens import Access, token_hash, verified
from protocol import limits
from protocol.faults import Code, refuse
from protocol.ids import new_id
from protocol.messages.device import (
    DeviceAction,
    DeviceEntry,
    DeviceKeys,
    Kdf,
    LoggedIn,
    Login,
    Prelogin,
    Refresh,
    Register,
    Session,
    SignedEntry,
    decode_entry,
    entry_to_sign,
    refresh_to_sign,
)

ENTRY_FORMAT = 1
NUMBER_MAX = (1 << 31) - 1  # of entries and key epochs; the database has 32 bits for them
NO_ENTRY = bytes(32)
ABSOLUTE_TTLS = 4  # a session ends after so many times REFRESH_TTL, however often it is refreshed
BODY_BYTES_MAX = 512 * limits.KIB
WINDOW_S = 300
# Failed sign-ins per window: of a name from one address, of a name, from one address. The second
# is larger, so that a stranger cannot easily lock an account's owner out.
FAILURES_MAX = {"pair": 20, "name": 200, "peer": 400}
ASKED_PER_PEER_MAX = 2_000  # prelogins and registrations
REFUSED = {
    SignIn.OTHER_KEYS: (Code.KEY_REUSED, "this device id belongs to other keys"),
    SignIn.REVOKED: (Code.KEY_REUSED, "this device was revoked: sign in with a new device id"),
    SignIn.TOO_MANY: (Code.QUOTA_EXCEEDED, "too many devices"),
}


@endpoint("POST", "/auth/prelogin", who=Who.ANYBODY, body=Prelogin, answers=Kdf)
async def prelogin(visit: Visit, asked: Prelogin) -> Kdf:
    """Tell how the password becomes keys. Unknown names get a stable answer of the same form."""
    await slow_down(visit, "prelogin")
    known = await visit.gate.accounts.kdf(asked.username)
    return known or visit.gate.passwords.fake_kdf(asked.username)


@endpoint(
    "POST",
    "/auth/register",
    who=Who.ANYBODY,
    body=Register,
    answers=Session,
    body_bytes_max=BODY_BYTES_MAX,
)
async def register(visit: Visit, asked: Register) -> Session:
    """Make an account with its first device and home space. Safe to repeat with the same ids."""
    gate = visit.gate
    if gate.settings.registration == "closed":
        raise refuse(Code.REGISTRATION_CLOSED)
    await slow_down(visit, "register")
    check_kdf(asked.kdf)
    if not asked.email.isprintable() or asked.wraps.mk_epoch > NUMBER_MAX:
        raise refuse(Code.BAD_REQUEST, "email or mk_epoch: out of bounds")
    keys = asked.wraps.identity_sign
    entry = checked_entry(asked.entry, asked.account, asked.device.device, keys)
    if (entry.n, entry.prev) != (1, NO_ENTRY):
        raise refuse(Code.BAD_REQUEST, "entry: the first one has n 1 and an empty prev")
    if (entry.sign, entry.box) != (asked.device.sign, asked.device.box):
        raise refuse(Code.BAD_REQUEST, "entry: its keys are not the device's")
    if not await _repeats(visit, asked):
        auth_hash = await gate.passwords.hashed(asked.auth_key)
        try:
            await gate.accounts.register(
                asked, auth_hash, gate.settings.quota_default_bytes, gate.now_ms()
            )
        except Taken as taken:
            # the same request may have won a race against itself
            if not await _repeats(visit, asked):
                code = Code.NAME_IN_USE if taken.what in ("username", "email") else Code.KEY_REUSED
                raise refuse(code, f"the {taken.what} is taken") from None
    return await begin_session(visit, asked.account, asked.device)


@endpoint("POST", "/auth/login", who=Who.ANYBODY, body=Login, answers=LoggedIn)
async def login(visit: Visit, asked: Login) -> LoggedIn:
    """Sign a device in. Wrong name and wrong password: the same fault after the same work."""
    gate = visit.gate
    tries = Tries(visit, asked.username)
    await tries.check()
    account = await gate.accounts.by_name(asked.username)
    stored = None if account is None else account.auth_hash
    good = await gate.passwords.check(stored, asked.auth_key, tries.check)
    if account is None or not good:
        await tries.failed()
        known = account.account if account else None
        await gate.accounts.note(gate.now_ms(), "sign_in_failed", known, None)
        raise refuse(Code.BAD_CREDENTIALS)
    if not account.active:
        raise refuse(Code.ACCOUNT_SUSPENDED)
    session = await begin_session(visit, account.account, asked.device)
    if gate.passwords.outdated(account.auth_hash):
        await gate.accounts.rehash(account.account, await gate.passwords.hashed(asked.auth_key))
    return await _logged_in(visit, account, session)


@endpoint("POST", "/auth/refresh", who=Who.ANYBODY, body=Refresh, answers=Session)
async def refresh(visit: Visit, asked: Refresh) -> Session:
    """Spend a refresh token for new ones. A repeat within 30 s gets the same refresh token."""
    gate, now_ms = visit.gate, visit.gate.now_ms()
    found = gate.tokens.read_refresh(asked.refresh_token)
    standing = None if found is None else await gate.sessions.standing(found[0], now_ms)
    if found is None or standing is None:
        raise refuse(Code.SESSION_REVOKED)
    family, n = found
    said = refresh_to_sign(asked.refresh_token, asked.at_ms)
    if not verified(standing.sign, asked.signature, said):
        await gate.accounts.note(now_ms, "refresh_unsigned", standing.account, standing.device)
        raise refuse(Code.BAD_SIGNATURE)
    if not standing.active:
        raise refuse(Code.ACCOUNT_SUSPENDED)
    successor = gate.tokens.refresh(family, n + 1)
    idle_ms = now_ms + gate.settings.refresh_ttl * 1000
    hashes = (token_hash(asked.refresh_token), token_hash(successor))
    turned = await gate.sessions.rotate(family, n, hashes, idle_ms, now_ms)
    if turned in (Turned.REUSED, Turned.GONE):
        gate.door.forget(family)
        raise refuse(Code.SESSION_REVOKED)
    access, expires_ms = gate.tokens.access(
        Access(standing.account, standing.device, family), now_ms
    )
    return Session(
        account=standing.account,
        device=standing.device,
        access_token=access,
        access_expires_ms=expires_ms,
        refresh_token=successor,
        refresh_expires_ms=idle_ms if turned is Turned.FRESH else standing.expires_ms,
    )


@endpoint("POST", "/auth/logout", who=Who.SIGNED_IN)
async def logout(visit: Visit) -> None:
    """End this session. Its access token is refused at once here, within 5 s elsewhere."""
    gate, caller = visit.gate, visit.caller
    await gate.sessions.end(caller.family, caller.account, caller.device, gate.now_ms())
    gate.door.forget(caller.family)


async def slow_down(visit: Visit, what: str) -> None:
    """Count a request of anybody. Raises Refusal: RATE_LIMITED."""
    if await visit.gate.cache.count(f"{what}:{visit.peer}", WINDOW_S) > ASKED_PER_PEER_MAX:
        raise refuse(Code.RATE_LIMITED, retry_after_ms=WINDOW_S * 1000)


class Tries:
    """Failed sign-ins, counted three ways. Who signs in rightly is never counted."""

    def __init__(self, visit: Visit, username: str) -> None:
        """Watch tries to sign in as `username`."""
        self._cache = visit.gate.cache
        self._keys = {
            "pair": f"{visit.peer}:{username}",
            "name": username,
            "peer": visit.peer,
        }

    async def check(self) -> None:
        """Raises Refusal: RATE_LIMITED, while there were too many."""
        for kind, key in self._keys.items():
            if await self._cache.get(f"barred:{kind}:{key}") is not None:
                raise refuse(Code.RATE_LIMITED, retry_after_ms=WINDOW_S * 1000)

    async def failed(self) -> None:
        """Count a failure; the last one that is allowed bars the next."""
        for kind, key in self._keys.items():
            if await self._cache.count(f"failed:{kind}:{key}", WINDOW_S) >= FAILURES_MAX[kind]:
                await self._cache.put(f"barred:{kind}:{key}", b"1", WINDOW_S)


def check_kdf(kdf: Kdf) -> None:
    """Refuse costs that no device would accept at its next sign-in."""
    good = (
        limits.ARGON_MEMORY_KIB_MIN <= kdf.memory_kib <= limits.ARGON_MEMORY_KIB_MAX
        and limits.ARGON_TIME_MIN <= kdf.time <= limits.ARGON_TIME_MAX
        and limits.ARGON_LANES_MIN <= kdf.lanes <= limits.ARGON_LANES_MAX
    )
    if not good:
        raise refuse(Code.BAD_REQUEST, "kdf: costs are out of bounds")


def checked_entry(
    signed: SignedEntry, account: bytes, device: bytes, identity: bytes
) -> DeviceEntry:
    """Return a device entry that adds `device`. Raises Refusal: BAD_REQUEST, BAD_SIGNATURE."""
    try:
        entry = decode_entry(signed.entry)
    except msgspec.DecodeError as error:
        raise refuse(Code.BAD_REQUEST, f"entry: {error}") from None
    if entry.format != ENTRY_FORMAT or entry.action is not DeviceAction.ADD:
        raise refuse(Code.BAD_REQUEST, "entry: must add a device, in format 1")
    if entry.n > NUMBER_MAX:
        raise refuse(Code.BAD_REQUEST, "entry: n is out of bounds")
    if (entry.account, entry.device) != (account, device):
        raise refuse(Code.BAD_REQUEST, "entry: is about another account or device")
    if not verified(identity, signed.signature, entry_to_sign(signed.entry)):
        raise refuse(Code.BAD_SIGNATURE, "entry")
    return entry


async def begin_session(visit: Visit, account: bytes, keys: DeviceKeys) -> Session:
    """Begin a session of a device. Raises Refusal."""
    gate, now_ms = visit.gate, visit.gate.now_ms()
    family, ttl_ms = new_id(os.urandom), gate.settings.refresh_ttl * 1000
    token = gate.tokens.refresh(family, 1)
    begun = NewSession(family, token_hash(token), now_ms + ttl_ms, now_ms + ABSOLUTE_TTLS * ttl_ms)
    signed_in = await gate.sessions.begin(account, keys, begun, now_ms)
    if signed_in is not SignIn.DONE:
        code, about = REFUSED[signed_in]
        raise refuse(code, about)
    access, expires_ms = gate.tokens.access(Access(account, keys.device, family), now_ms)
    return Session(
        account=account,
        device=keys.device,
        access_token=access,
        access_expires_ms=expires_ms,
        refresh_token=token,
        refresh_expires_ms=begun.idle_expires_ms,
    )


async def _repeats(visit: Visit, asked: Register) -> bool:
    """Say whether this very account was made before, by this very device."""
    gate = visit.gate
    known = await gate.accounts.by_id(asked.account)
    if known is None:
        return False
    device = await gate.accounts.device_keys(asked.device.device)
    same = (
        known.username == asked.username
        and hmac.compare_digest(known.wraps.identity_sign, asked.wraps.identity_sign)
        and device == (asked.account, asked.device.sign, asked.device.box)
        and await gate.passwords.check(known.auth_hash, asked.auth_key)
    )
    if not same:
        raise refuse(Code.KEY_REUSED, "the account is taken")
    return True


async def _logged_in(visit: Visit, account: Account, session: Session) -> LoggedIn:
    gate = visit.gate
    devices = await gate.accounts.devices(account.account, session.device)
    return LoggedIn(
        session=session,
        kdf=account.kdf,
        wraps=account.wraps,
        keyring=account.keyring,
        devices=devices,
        spaces=await gate.reads.spaces(account.account),
        certified=any(row.current and row.signed is not None for row in devices.devices),
    )
