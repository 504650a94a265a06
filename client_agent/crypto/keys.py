"""The keys of an account: from the password to the master key, and what that seals (CRYPTO.md 2).

    root         Argon2id(NFKC(password), SHA-256(LP("sl1/salt", username, seed))[:16]), 32 bytes
    auth_key     sub(root, "auth")          kek   sub(root, "kek")
    keyring      seal(MK, LP("keyring", account, rev), msgpack KeyringContents)
    device name  seal(MK, LP("device-name", account, device), text)
"""

import os
import unicodedata
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple

import msgspec
from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from client_agent.crypto.devices import DeviceSecrets, verify_device_list
from client_agent.crypto.seal import KEY_BYTES, SealBroken, open_sealed, seal_random, sub
from client_agent.crypto.space_keys import EpochMissing, SpaceKeys
from protocol import limits
from protocol.codec import Reader, encode, lp, sha256
from protocol.entry import KeyEpoch
from protocol.ids import ID_BYTES, Dice, SpaceId, UserId
from protocol.messages import Part
from protocol.messages.device import Kdf, Keyring, PublicKey
from protocol.messages.sync import Head

__all__ = [
    "AccountKeys", "DeviceSecrets", "EpochMissing", "KeyringContents", "MasterKey",
    "PasswordKeys", "SpaceKeys", "WeakKdf", "new_kdf", "open_device_name", "open_keyring",
    "password_keys", "seal_device_name", "seal_keyring", "verify_device_list",
]

FORMAT: Final = 1
_STORED: Final = b"\x01"


class WeakKdf(Exception):
    """The server names password-hash parameters that this device does not use.

    Below the floor it could guess the password from what it gets; above the ceiling it could
    bring the device to its knees. Nothing was derived.
    """


class PasswordKeys(NamedTuple):
    """What a password yields: `auth_key` proves it to the server, `kek` never leaves the device."""

    auth_key: bytes
    kek: bytes


def new_kdf(dice: Dice = os.urandom) -> Kdf:
    """Return parameters for a new account or a new password."""
    return Kdf(salt_seed=dice(ID_BYTES))


def password_keys(password: str, username: str, kdf: Kdf) -> PasswordKeys:
    """Derive the keys of a password: about 130 ms and 64 MiB, so do it in a thread.

    Raises:
        WeakKdf: before anything is derived.
        ValueError: the password is not Unicode text.
    """
    bounds = (
        (limits.ARGON_MEMORY_KIB_MIN, kdf.memory_kib, limits.ARGON_MEMORY_KIB_MAX),
        (limits.ARGON_TIME_MIN, kdf.time, limits.ARGON_TIME_MAX),
        (limits.ARGON_LANES_MIN, kdf.lanes, limits.ARGON_LANES_MAX),
    )
    if not all(low <= value <= high for low, value, high in bounds):
        raise WeakKdf(f"memory {kdf.memory_kib} KiB, time {kdf.time}, lanes {kdf.lanes}")
    root = hash_secret_raw(
        unicodedata.normalize("NFKC", password).encode(),
        sha256(lp("sl1/salt", username, kdf.salt_seed))[:16],
        time_cost=kdf.time, memory_cost=kdf.memory_kib, parallelism=kdf.lanes,
        hash_len=KEY_BYTES, type=Type.ID,
    )
    return PasswordKeys(sub(root, "auth"), sub(root, "kek"))


@dataclass(frozen=True, slots=True)
class MasterKey:
    """MK of an account, epoch n: what a device keeps in its keystore beside its own secrets."""

    account: bytes
    epoch: int
    key: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """Return what the keystore holds: 01, account, epoch (8 bytes), key."""
        return _STORED + self.account + self.epoch.to_bytes(8, "big") + self.key

    @classmethod
    def from_bytes(cls, raw: bytes) -> "MasterKey":
        """Read what the keystore held. Raises SealBroken."""
        if len(raw) != 1 + ID_BYTES + 8 + KEY_BYTES or raw[:1] != _STORED:
            raise SealBroken("not a master key as the keystore holds it")
        return cls(raw[1:17], int.from_bytes(raw[17:25], "big"), raw[25:])


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """All private keys of an account, in memory only while the password is being used.

    `identity` (Ed25519) certifies devices, `box` (X25519) receives shares; 32 bytes each.
    """

    master: MasterKey
    identity: bytes = field(repr=False)
    box: bytes = field(repr=False)

    @classmethod
    def new(cls, account: bytes, dice: Dice = os.urandom) -> "AccountKeys":
        """Draw the keys of a new account."""
        master = MasterKey(account, 1, dice(KEY_BYTES))
        return cls(master, dice(KEY_BYTES), dice(KEY_BYTES))

    @property
    def identity_public(self) -> bytes:
        """The key that others know this account by."""
        private = Ed25519PrivateKey.from_private_bytes(self.identity)
        return private.public_key().public_bytes_raw()

    @property
    def box_public(self) -> bytes:
        """The key that others seal shares to."""
        return X25519PrivateKey.from_private_bytes(self.box).public_key().public_bytes_raw()


Secret = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


class KeyringContents(Part, frozen=True):
    """What MK seals for all devices of the account.

    `spaces`: space -> key epoch -> SK. `contacts`: account -> pinned identity key. `heads`: the
    newest verified row of each space, so that a fresh device is not shown an older state.
    """

    format: int = FORMAT
    spaces: dict[SpaceId, dict[KeyEpoch, Secret]] = msgspec.field(default_factory=dict)
    contacts: dict[UserId, PublicKey] = msgspec.field(default_factory=dict)
    heads: tuple[Head, ...] = ()

    def space_keys(self, space: bytes) -> SpaceKeys:
        """Return the keys of a space. Raises EpochMissing if the keyring does not hold them."""
        return SpaceKeys(space, self.spaces.get(space, {}))

    def with_secret(self, space: bytes, epoch: int, secret: bytes) -> "KeyringContents":
        """Return a keyring that holds one secret more."""
        held = self.spaces.get(space, {})
        return msgspec.structs.replace(
            self, spaces={**self.spaces, space: {**held, epoch: secret}}
        )


_keyring: Reader[KeyringContents] = Reader(KeyringContents)


def seal_keyring(
    master: MasterKey, rev: int, contents: KeyringContents, dice: Dice = os.urandom
) -> Keyring:
    """Seal the keyring as revision `rev` (the one read + 1). Each call gives other bytes."""
    aad = lp("keyring", master.account, rev)
    sealed = seal_random(master.key, aad, encode(contents), dice)
    assert len(sealed) <= limits.KEYRING_BYTES_MAX
    return Keyring(rev=rev, sealed=sealed)


def open_keyring(master: MasterKey, keyring: Keyring) -> KeyringContents:
    """Open a keyring. Raises SealBroken. An older `rev` than one seen before is a rollback."""
    plain = open_sealed(master.key, lp("keyring", master.account, keyring.rev), keyring.sealed)
    try:
        contents = _keyring.decode(plain)
    except msgspec.DecodeError as error:
        raise SealBroken(f"not a keyring: {error}") from None
    if contents.format != FORMAT:
        raise SealBroken(f"a keyring of format {contents.format}")
    return contents


def seal_device_name(
    master: MasterKey, device: bytes, name: str, dice: Dice = os.urandom
) -> bytes:
    """Seal a device's name for the account's other devices."""
    aad = lp("device-name", master.account, device)
    return seal_random(master.key, aad, name.encode(), dice)


def open_device_name(master: MasterKey, device: bytes, sealed: bytes) -> str:
    """Open a device's name. Raises SealBroken."""
    plain = open_sealed(master.key, lp("device-name", master.account, device), sealed)
    try:
        return plain.decode()
    except UnicodeDecodeError:
        raise SealBroken("not a device name") from None
