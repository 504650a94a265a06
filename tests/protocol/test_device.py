"""What the identity key and a device sign: fixed bytes, each for one purpose only."""

import hashlib

import msgspec
import pytest

from protocol.codec import encode, lp
from protocol.messages.device import (
    DeviceAction,
    DeviceEntry,
    Email,
    SignedEntry,
    Username,
    decode_entry,
    entry_hash,
    entry_to_sign,
    refresh_to_sign,
)

ENTRY = DeviceEntry(
    1, b"a" * 16, 1, bytes(32), DeviceAction.ADD, b"d" * 16, b"s" * 32, b"b" * 32, 7
)


def test_entries_read_back_and_are_signed_for_one_purpose():
    raw = encode(ENTRY)
    assert decode_entry(raw) == ENTRY
    assert entry_to_sign(raw) == lp("sl1/device-entry", raw)
    assert refresh_to_sign("token", 7) == lp("sl1/refresh", "token", 7)
    signed = SignedEntry(raw, b"g" * 64)
    assert entry_hash(signed) == hashlib.sha256(lp("sl1/device-list", raw, b"g" * 64)).digest()


@pytest.mark.parametrize("raw", [b"", b"\xc1", encode(ENTRY)[:-1], msgspec.msgpack.encode([1])])
def test_damaged_entries_are_refused(raw):
    with pytest.raises(msgspec.DecodeError):
        decode_entry(raw)


@pytest.mark.parametrize("name", ["anna", "a", "a.b-c_d", "0x"])
def test_user_names(name):
    assert msgspec.convert(name, Username) == name


@pytest.mark.parametrize("name", ["", "Anna", ".a", "-a", "a b", "ä", "a" * 65, "a\n"])
def test_what_is_no_user_name(name):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, Username)


@pytest.mark.parametrize("address", ["@", "a@", "@b", "a b@c", "ab", "a@b\n", "a" * 250 + "@bcde"])
def test_what_is_no_address(address):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(address, Email)
