"""The device conversation: accounts, sessions and devices, over HTTPS with the gateway only.

    device -> Prelogin            gateway -> Kdf           (how to turn the password into keys)
    device -> Register            gateway -> Session
    device -> Login               gateway -> LoggedIn      (wrapped keys, keyring, device list)
    device -> CertifyDevice       gateway -> DeviceList    (until then the device may only do this)
    device -> Refresh             gateway -> Session
    device -> GET, PUT keyring    gateway -> Keyring       (compare-and-set on `rev`)

No message carries a password or a key in clear: `auth_key` proves the password and opens nothing.
Everything named `sealed` or `wrapped` is made and opened on devices only (CRYPTO.md 2).
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from protocol import limits
from protocol.codec import Reader, lp, sha256
from protocol.ids import DeviceId, Hash, HistoryId, Id, SpaceId, UserId
from protocol.journal import Ms, Signature
from protocol.messages import Message, Part
from protocol.messages.sync import Head

PublicKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
Sealed = Annotated[bytes, Meta(min_length=1, max_length=4096)]
Username = Annotated[
    str, Meta(min_length=1, max_length=limits.USERNAME_MAX, pattern=r"^[a-z0-9][a-z0-9._-]*$(?!\n)")
]
Email = Annotated[str, Meta(max_length=limits.EMAIL_MAX, pattern=r"^[^@\s]+@[^@\s]+$(?!\n)")]
Rev = Annotated[int, Meta(ge=0, lt=1 << 53)]


class Prelogin(Message, frozen=True, tag="auth.prelogin"):
    """Body of `POST /auth/prelogin`. Unknown names get a stable answer of the same form."""

    username: Username


class Kdf(Message, frozen=True, tag="auth.kdf"):
    """Argon2id parameters of an account. A device refuses values below the floors of `limits`."""

    salt_seed: Id  # salt = SHA-256(LP("sl1/salt", username, salt_seed))[:16]
    memory_kib: int = limits.ARGON_MEMORY_KIB_MIN
    time: int = limits.ARGON_TIME_MIN
    lanes: int = 4


class Wraps(Message, frozen=True, tag="auth.wraps"):
    """The account's keys, each behind a seal, and its public keys."""

    mk_epoch: Annotated[int, Meta(ge=1)]
    mk_by_password: Sealed  # seal(kek, LP("mk", account, mk_epoch, kdf), MK)
    mk_by_recovery: Sealed  # HPKE to recovery_box
    identity_by_password: Sealed  # Ed25519 private key under kek
    identity_by_recovery: Sealed
    box_by_mk: Sealed  # X25519 private key for shares, under MK
    identity_sign: PublicKey
    identity_box: PublicKey
    recovery_sign: PublicKey
    recovery_box: PublicKey


class DeviceAction(StrEnum):
    """What an entry of the device list does."""

    ADD = "add"
    REVOKE = "revoke"


class DeviceEntry(Part, frozen=True):
    """One entry of an account's device list: chained, signed by the identity key, append only."""

    format: int
    account: UserId
    n: Annotated[int, Meta(ge=1)]
    prev: Hash  # hash of entry n - 1, zeros for the first
    action: DeviceAction
    device: DeviceId
    sign: PublicKey
    box: PublicKey
    at_ms: Ms


class SignedEntry(Part, frozen=True):
    """Exact bytes of a `DeviceEntry`, and the identity key's signature over `entry_to_sign`."""

    entry: Annotated[bytes, Meta(max_length=512)]
    signature: Signature


def entry_to_sign(entry: bytes) -> bytes:
    """Return what the identity key signs."""
    return lp("sl1/device-entry", entry)


def entry_hash(signed: SignedEntry) -> bytes:
    """Return the hash that the next entry names as `prev`."""
    return sha256(lp("sl1/device-list", signed.entry, signed.signature))


def decode_entry(raw: bytes) -> DeviceEntry:
    """Read entry bytes. Raises msgspec.DecodeError."""
    return _entry.decode(raw)


_entry: Reader[DeviceEntry] = Reader(DeviceEntry)


class DeviceKeys(Message, frozen=True, tag="auth.device_keys"):
    """A device's public keys; the private ones are made on it and never leave it."""

    device: DeviceId
    sign: PublicKey
    box: PublicKey
    sealed_name: Sealed | None = None  # for the user's other devices; None until keys are open


class Register(Message, frozen=True, tag="auth.register"):
    """Body of `POST /auth/register`: an account, its first device and its home space.

    Safe to repeat with the same ids and keys: answered with a new Session.
    """

    account: UserId
    username: Username
    email: Email
    kdf: Kdf
    auth_key: Hash
    wraps: Wraps
    device: DeviceKeys
    entry: SignedEntry
    mk_for_device: Sealed  # HPKE to the device's box key
    keyring: Annotated[bytes, Meta(max_length=limits.KEYRING_BYTES_MAX)]  # sealed; becomes rev 1
    home: SpaceId
    history: HistoryId


class Session(Message, frozen=True, tag="auth.session"):
    """A signed-in device. The refresh token is good for one use."""

    account: UserId
    device: DeviceId
    access_token: str
    access_expires_ms: Ms
    refresh_token: str
    refresh_expires_ms: Ms


class Login(Message, frozen=True, tag="auth.login"):
    """Body of `POST /auth/login`. Wrong name and wrong password: the same fault, the same work."""

    username: Username
    auth_key: Hash
    device: DeviceKeys


class Keyring(Message, frozen=True, tag="auth.keyring"):
    """The account's sealed keyring. PUT with `rev` = the one read + 1, else Fault STALE."""

    rev: Rev
    sealed: Annotated[bytes, Meta(max_length=limits.KEYRING_BYTES_MAX)]


class DeviceRow(Message, frozen=True, tag="auth.device"):
    """One device as the server knows it."""

    device: DeviceId
    sign: PublicKey
    box: PublicKey
    sealed_name: bytes
    signed: SignedEntry | None  # None: logged in, not certified yet
    created_ms: Ms
    last_seen_ms: Ms
    revoked: bool
    current: bool  # the one that asks
    cursors: tuple[Head, ...] = ()


class DeviceList(Message, frozen=True, tag="auth.devices"):
    """All entries ever, in order (a device verifies the chain), and the devices they made."""

    entries: tuple[SignedEntry, ...]
    devices: tuple[DeviceRow, ...]


class SpaceRow(Message, frozen=True, tag="space"):
    """A space as its member sees it."""

    space: SpaceId
    owner: UserId
    owner_identity: PublicKey
    history: HistoryId
    key_epoch: int
    head_seq: int
    head: Hash
    policy: str
    role: int
    home: bool = False


class SpaceList(Message, frozen=True, tag="spaces"):
    """All spaces of the account, the home space first."""

    spaces: tuple[SpaceRow, ...]


class LoggedIn(Message, frozen=True, tag="auth.logged_in"):
    """Answer to Login: the session, and what opens the account on this device."""

    session: Session
    kdf: Kdf
    wraps: Wraps
    keyring: Keyring
    devices: DeviceList
    spaces: SpaceList
    certified: bool


class CertifyDevice(Message, frozen=True, tag="auth.certify"):
    """Body of `PUT /auth/devices/{id}`. Fault STALE: the list grew meanwhile; read it again.

    Safe to repeat with the same bytes.
    """

    entry: SignedEntry
    mk_for_device: Sealed
    sealed_name: Sealed


class Refresh(Message, frozen=True, tag="auth.refresh"):
    """Body of `POST /auth/refresh`. A token used twice ends the session, with one exception:
    the same device may repeat its last refresh for 30 s (its answer was lost).
    """

    refresh_token: Annotated[str, Meta(max_length=256)]
    at_ms: Ms
    signature: Signature  # of `refresh_to_sign`, by the device's key


def refresh_to_sign(token: str, at_ms: int) -> bytes:
    """Return what the device signs to prove that it still is the one that got the token."""
    return lp("sl1/refresh", token, at_ms)
