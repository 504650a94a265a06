"""The device list: chained and signed; whatever a server does to it is noticed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client_agent.crypto.devices import (
    DeviceListBroken,
    DeviceSecrets,
    live,
    sign_device_entry,
    signed_by,
    signers,
    verify_device_list,
)
from protocol.codec import encode
from protocol.messages.device import (
    DeviceAction,
    DeviceEntry,
    SignedEntry,
    entry_hash,
    entry_to_sign,
)
from tests.golden.crypto import fixed, world

W = world()
ACCOUNT, IDENTITY = W.account.master.account, W.account.identity
PUBLIC = W.account.identity_public
ADD, REVOKE = DeviceAction.ADD, DeviceAction.REVOKE


def keys_of(device: int) -> tuple[bytes, bytes]:
    return fixed(f"sign {device}"), fixed(f"box {device}")


def build(steps) -> list[SignedEntry]:
    entries: list[SignedEntry] = []
    for action, device in steps:
        entries.append(sign_device_entry(
            IDENTITY, ACCOUNT, entries, action, bytes([device]) * 16, keys_of(device), 7
        ))
    return entries


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from([ADD, REVOKE]), st.integers(0, 1)), max_size=5))
def test_a_list_says_who_is_there(steps):
    # Planted: a device added again after its revocation; revoking a stranger allowed.
    added, revoked, legal = set(), set(), True
    for action, device in steps:
        there = device in added and device not in revoked
        legal = legal and (device not in added if action is ADD else there)
        (added if action is ADD else revoked).add(device)
    entries = build(steps)
    if not legal:
        with pytest.raises(DeviceListBroken):
            verify_device_list(entries, PUBLIC, ACCOUNT)
        return
    devices = verify_device_list(entries, PUBLIC, ACCOUNT)
    assert set(devices) == {bytes([d]) * 16 for d in added}
    assert set(live(devices)) == {bytes([d]) * 16 for d in added - revoked}
    assert signers(devices) == {bytes([d]) * 16: keys_of(d)[0] for d in added}


LIST = build([(ADD, 0), (ADD, 1), (REVOKE, 0), (ADD, 2)])
OTHER = build([(ADD, 0), (ADD, 3), (ADD, 2)])


@given(st.data())
def test_no_rearrangement_is_believed(data):
    # Planted: prev not compared; n not compared.
    anything = st.lists(st.sampled_from([*LIST, *OTHER]), max_size=6)
    in_their_places = st.tuples(*map(st.sampled_from, zip(LIST, OTHER, strict=False)))
    drawn = data.draw(anything | in_their_places.map(list))
    honest = any(drawn == whole[: len(drawn)] for whole in (LIST, OTHER))
    if honest:
        verify_device_list(drawn, PUBLIC, ACCOUNT)
    else:
        with pytest.raises(DeviceListBroken):
            verify_device_list(drawn, PUBLIC, ACCOUNT)


@given(st.integers(0, len(LIST) - 1), st.booleans(), st.integers(0), st.integers(1, 255))
def test_no_changed_byte_is_believed(n, in_signature, at, flip):
    # Planted: signature not verified.
    signed = LIST[n]
    raw = bytearray(signed.signature if in_signature else signed.entry)
    raw[at % len(raw)] ^= flip
    changed = (SignedEntry(signed.entry, bytes(raw)) if in_signature
               else SignedEntry(bytes(raw), signed.signature))
    with pytest.raises(DeviceListBroken):
        verify_device_list([*LIST[:n], changed, *LIST[n + 1 :]], PUBLIC, ACCOUNT)


def signed_anew(**lies) -> SignedEntry:
    """An entry that the identity key signed, yet that is wrong in one respect."""
    fields = {"format": 1, "account": ACCOUNT, "n": 5, "prev": entry_hash(LIST[-1]),
              "action": ADD, "device": b"x" * 16, "sign": bytes(32), "box": bytes(32), "at_ms": 1}
    raw = encode(DeviceEntry(**{**fields, **lies}))
    identity = DeviceSecrets(IDENTITY, bytes(32))
    return SignedEntry(raw, identity.sign(entry_to_sign(raw)))


@pytest.mark.parametrize(
    "lies",
    [{"format": 2}, {"account": bytes(16)}, {"n": 4}, {"n": 6}, {"prev": bytes(32)},
     {"action": REVOKE}, {"device": b"\2" * 16},
     {"action": REVOKE, "device": b"\2" * 16, "sign": bytes(32), "box": keys_of(2)[1]}], ids=str,
)
def test_an_entry_that_does_not_fit_is_refused_even_if_signed(lies):
    assert len(verify_device_list([*LIST, signed_anew()], PUBLIC, ACCOUNT)) == 4
    with pytest.raises(DeviceListBroken):
        verify_device_list([*LIST, signed_anew(**lies)], PUBLIC, ACCOUNT)


def test_what_is_no_entry_is_refused_even_if_signed():
    identity = DeviceSecrets(IDENTITY, bytes(32))
    junk = SignedEntry(b"junk", identity.sign(entry_to_sign(b"junk")))
    with pytest.raises(DeviceListBroken, match="not an entry"):
        verify_device_list([junk], PUBLIC, ACCOUNT)


def test_another_identity_or_account_is_refused():
    for identity, account in ((fixed("x"), ACCOUNT), (PUBLIC, bytes(16)), (b"short", ACCOUNT)):
        with pytest.raises(DeviceListBroken):
            verify_device_list(LIST, identity, account)


def test_devices_sign_and_show_their_public_keys():
    secrets = DeviceSecrets.new()
    assert signed_by(secrets.sign_public, secrets.sign(b"message"), b"message")
    assert not signed_by(secrets.sign_public, secrets.sign(b"message"), b"other")
    assert secrets.box_public != secrets.sign_public != DeviceSecrets.new().sign_public
    assert secrets.sign_key.hex() not in repr(secrets)
