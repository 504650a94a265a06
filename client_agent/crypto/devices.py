"""A device's own keys, and the account's device list: chained, signed by the identity key."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from client_agent.crypto.seal import KEY_BYTES, SealBroken
from protocol.codec import encode
from protocol.ids import Dice
from protocol.messages.device import (
    DeviceAction,
    DeviceEntry,
    SignedEntry,
    decode_entry,
    entry_hash,
    entry_to_sign,
)

FORMAT: Final = 1
_STORED: Final = b"\x01"
_NO_PREV: Final = bytes(32)


class DeviceListBroken(Exception):
    """The device list is not what the identity key signed: trust none of it, tell the user."""


@dataclass(frozen=True, slots=True)
class DeviceSecrets:
    """A device's private keys, made on it and never leaving it (32 bytes each)."""

    sign_key: bytes = field(repr=False)
    box: bytes = field(repr=False)

    @classmethod
    def new(cls, dice: Dice = os.urandom) -> "DeviceSecrets":
        """Draw the keys of a new device."""
        return cls(dice(KEY_BYTES), dice(KEY_BYTES))

    def to_bytes(self) -> bytes:
        """Return what the keystore holds: 01, Ed25519 key, X25519 key."""
        return _STORED + self.sign_key + self.box

    @classmethod
    def from_bytes(cls, raw: bytes) -> "DeviceSecrets":
        """Read what the keystore held. Raises SealBroken."""
        if len(raw) != 1 + 2 * KEY_BYTES or raw[:1] != _STORED:
            raise SealBroken("not device keys as the keystore holds them")
        return cls(raw[1:33], raw[33:])

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature (64 bytes) of what a protocol `..._to_sign` returned."""
        return Ed25519PrivateKey.from_private_bytes(self.sign_key).sign(message)

    @property
    def sign_public(self) -> bytes:
        """The key others verify this device's commits with."""
        private = Ed25519PrivateKey.from_private_bytes(self.sign_key)
        return private.public_key().public_bytes_raw()

    @property
    def box_public(self) -> bytes:
        """The key others seal to."""
        return X25519PrivateKey.from_private_bytes(self.box).public_key().public_bytes_raw()


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether an Ed25519 signature fits."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_device_entry(
    identity: bytes, account: bytes, before: Sequence[SignedEntry], action: DeviceAction,
    device: bytes, keys: tuple[bytes, bytes], at_ms: int,
) -> SignedEntry:
    """Return the next entry of a device list, signed by the account's identity key (private).

    `before` is the verified list so far; `keys` are the device's public (sign, box), in a
    revocation those it was added with.
    """
    prev = entry_hash(before[-1]) if before else _NO_PREV
    entry = DeviceEntry(FORMAT, account, len(before) + 1, prev, action, device, *keys, at_ms)
    raw = encode(entry)
    signature = Ed25519PrivateKey.from_private_bytes(identity).sign(entry_to_sign(raw))
    return SignedEntry(raw, signature)


def verify_device_list(
    entries: Iterable[SignedEntry], identity_public: bytes, account: bytes
) -> dict[bytes, DeviceEntry]:
    """Return the last entry of every device ever listed, by device id, the chain verified.

    A revoked device is there with its REVOKE entry: its keys still verify what it signed before
    (`live` leaves it out). Never shorter than a list seen before: the caller compares lengths.

    Raises:
        DeviceListBroken: a gap, another account, a wrong link or signature, a device added
            twice, or a revocation of one that is not live or under other keys.
    """
    devices: dict[bytes, DeviceEntry] = {}
    prev = _NO_PREV
    for n, signed in enumerate(entries, 1):
        if not signed_by(identity_public, signed.signature, entry_to_sign(signed.entry)):
            raise DeviceListBroken(f"entry {n} is not signed by the account's identity key")
        try:
            entry = decode_entry(signed.entry)
        except msgspec.DecodeError as error:
            raise DeviceListBroken(f"entry {n} is not an entry: {error}") from None
        if (entry.format, entry.account, entry.n, entry.prev) != (FORMAT, account, n, prev):
            raise DeviceListBroken(f"entry {n} does not follow the one before it")
        _check_step(devices.get(entry.device), entry)
        devices[entry.device] = entry
        prev = entry_hash(signed)
    return devices


def _check_step(known: DeviceEntry | None, entry: DeviceEntry) -> None:
    if entry.action is DeviceAction.ADD:
        if known is not None:
            raise DeviceListBroken(f"entry {entry.n} adds a device that was there before")
        return
    if known is None or known.action is DeviceAction.REVOKE:
        raise DeviceListBroken(f"entry {entry.n} revokes a device that is not there")
    if (known.sign, known.box) != (entry.sign, entry.box):
        raise DeviceListBroken(f"entry {entry.n} changes the keys of a device")


def live(devices: Mapping[bytes, DeviceEntry]) -> dict[bytes, DeviceEntry]:
    """Return the devices of a verified list that are not revoked."""
    return {d: entry for d, entry in devices.items() if entry.action is DeviceAction.ADD}


def signers(devices: Mapping[bytes, DeviceEntry]) -> dict[bytes, bytes]:
    """Return device id -> Ed25519 public key of all of them, for verifying journal rows."""
    return {device: entry.sign for device, entry in devices.items()}
