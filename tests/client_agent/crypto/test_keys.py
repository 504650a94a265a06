"""From the password to the keyring: floors first, everything bound, nothing swapped unnoticed."""

import hashlib

import msgspec
import pytest
from argon2.low_level import Type, hash_secret_raw
from hypothesis import given
from hypothesis import strategies as st

from client_agent.crypto import keys as keys_module
from client_agent.crypto import wraps as wraps_module
from client_agent.crypto.devices import DeviceSecrets
from client_agent.crypto.hpke import hpke_seal
from client_agent.crypto.keys import (
    AccountKeys,
    KeyringContents,
    MasterKey,
    WeakKdf,
    new_kdf,
    open_device_name,
    open_keyring,
    password_keys,
    seal_device_name,
    seal_keyring,
)
from client_agent.crypto.recovery import (
    RecoveryKeys,
    WrongWords,
    new_recovery_secret,
    secret_of,
    words_of,
)
from client_agent.crypto.seal import SealBroken, seal_random, sub
from client_agent.crypto.space_keys import EpochMissing
from client_agent.crypto.wraps import (
    recover_account,
    rewrap_password,
    unwrap_account,
    unwrap_mk_for_device,
    wrap_account,
    wrap_mk_for_device,
)
from protocol import limits
from protocol.codec import encode, lp
from protocol.messages.device import Kdf, Keyring
from tests.golden.crypto import fixed, world

W = world()
MK = W.account.master
PUBLIC = W.account.identity_public
KEK = fixed("kek")
KDF = W.kdf


def test_the_password_is_stretched_as_the_design_says():
    seed = fixed("seed", 16)
    salt = hashlib.sha256(lp("sl1/salt", "anna", seed)).digest()[:16]
    root = hash_secret_raw("påss".encode(), salt, 3, 65_536, 4, 32, Type.ID)
    made = password_keys("pa\u030ass", "anna", Kdf(salt_seed=seed))  # NFKC composes it
    assert made == (sub(root, "auth"), sub(root, "kek"))
    assert made != password_keys("påss", "anne", Kdf(salt_seed=seed))


@pytest.mark.parametrize(
    "weak",
    [{"memory_kib": 65_535}, {"memory_kib": 8}, {"time": 2}, {"lanes": 0}, {"time": 0},
     {"memory_kib": limits.ARGON_MEMORY_KIB_MAX + 1}, {"time": 65}, {"lanes": 17}], ids=str,
)
def test_weak_or_crushing_parameters_are_refused_before_anything_is_derived(weak, monkeypatch):
    def derived(*_args, **_kwargs):
        raise AssertionError("derived")

    monkeypatch.setattr(keys_module, "hash_secret_raw", derived)
    with pytest.raises(WeakKdf):
        password_keys("secret", "anna", Kdf(salt_seed=bytes(16), **weak))


def test_new_parameters_are_at_the_floor_with_a_salt_of_their_own():
    kdf = new_kdf()
    assert (kdf.memory_kib, kdf.time, kdf.lanes) == (65_536, 3, 4)
    assert kdf.salt_seed != new_kdf().salt_seed


def test_a_password_that_is_no_text_is_an_error():
    with pytest.raises(ValueError, match="surrogates"):
        password_keys("\ud800", "anna", KDF)


def wrapped(account=W.account):
    return wrap_account(account, KEK, KDF, W.recovery)


def test_an_account_opens_by_password_and_by_words():
    account = AccountKeys.new(fixed("account", 16))
    wraps = wrapped(account)
    assert unwrap_account(KEK, KDF, account.master.account, wraps) == account
    assert recover_account(W.recovery, account.master.account, wraps) == account
    assert account != AccountKeys.new(account.master.account)
    assert "key" not in repr(account.master).replace("MasterKey", "")
    assert account.identity.hex()[:8] not in repr(account)


def test_nothing_of_an_account_can_be_swapped_unnoticed():
    """Each field of the wraps taken from another account of the same user, or changed."""
    ours, other = wrapped(), wrap_account(
        AccountKeys.new(MK.account), KEK, KDF, RecoveryKeys.of(fixed("other"))
    )
    by_password = ("mk_by_password", "identity_by_password", "box_by_mk", "identity_sign",
                   "identity_box", "mk_epoch")
    by_recovery = ("mk_by_recovery", "identity_by_recovery", "recovery_sign", "recovery_box",
                   "box_by_mk", "identity_sign", "identity_box", "mk_epoch")
    for fields, unwrap in (
        (by_password, lambda wraps: unwrap_account(KEK, KDF, MK.account, wraps)),
        (by_recovery, lambda wraps: recover_account(W.recovery, MK.account, wraps)),
    ):
        assert unwrap(ours) == W.account
        for field in fields:
            with pytest.raises(SealBroken):
                unwrap(msgspec.structs.replace(ours, **{field: getattr(other, field)}))


@pytest.mark.parametrize(
    ("kek", "kdf", "account"),
    [(fixed("wrong"), KDF, MK.account), (KEK, Kdf(salt_seed=bytes(16)), MK.account),
     (KEK, msgspec.structs.replace(KDF, time=4), MK.account), (KEK, KDF, bytes(16))],
    ids=["password", "salt", "parameters", "account"],
)
def test_a_wrong_password_or_context_opens_nothing(kek, kdf, account):
    with pytest.raises(SealBroken):
        unwrap_account(kek, kdf, account, wrapped())


def test_keys_of_a_wrong_size_are_refused():
    short = seal_random(KEK, wraps_module._mk_aad(MK.account, MK.epoch, KDF), b"short")
    with pytest.raises(SealBroken, match="size"):
        unwrap_account(
            KEK, KDF, MK.account, msgspec.structs.replace(wrapped(), mk_by_password=short)
        )
    short = seal_random(MK.key, lp("box", MK.account, MK.epoch), b"short")
    with pytest.raises(SealBroken, match="size"):
        unwrap_account(KEK, KDF, MK.account, msgspec.structs.replace(wrapped(), box_by_mk=short))
    secrets = DeviceSecrets.new()
    info = lp("sl1/mk-device", MK.account, MK.epoch, W.device)
    sealed = hpke_seal(secrets.box_public, info, b"short")
    with pytest.raises(SealBroken, match="not a key and its proof"):
        unwrap_mk_for_device(secrets, MK.account, MK.epoch, W.device, sealed, PUBLIC)


def test_the_master_key_reaches_only_its_device():
    secrets = DeviceSecrets.new()
    sealed = wrap_mk_for_device(W.account, W.device, secrets.box_public)
    assert unwrap_mk_for_device(secrets, MK.account, MK.epoch, W.device, sealed, PUBLIC) == MK
    for lie in ((DeviceSecrets.new(), MK.account, 3, W.device), (secrets, bytes(16), 3, W.device),
                (secrets, MK.account, 4, W.device), (secrets, MK.account, 3, bytes(16))):
        with pytest.raises(SealBroken):
            unwrap_mk_for_device(*lie, sealed, PUBLIC)


def test_a_server_cannot_give_a_master_key_of_its_own():
    """All that it needs to seal is public; what it lacks is the identity's signature."""
    secrets, hostile = DeviceSecrets.new(), AccountKeys.new(MK.account)
    sealed = wrap_mk_for_device(hostile, W.device, secrets.box_public)
    with pytest.raises(SealBroken, match="vouches"):
        unwrap_mk_for_device(secrets, MK.account, 1, W.device, sealed, PUBLIC)
    # To somebody who recovers it shows an account of its own under the true recovery keys.
    public = W.recovery.public
    mine = wrap_account(hostile, KEK, KDF, RecoveryKeys(fixed("its own"), W.recovery.box))
    offered = msgspec.structs.replace(mine, recovery_sign=public.sign)
    with pytest.raises(SealBroken, match="recovery words vouch"):
        recover_account(W.recovery, MK.account, offered)
    # Or the true identity with a master key of its own.
    info = lp("sl1/mk-recovery", MK.account, 1)
    swapped = msgspec.structs.replace(
        wrapped(), mk_epoch=1, box_by_mk=mine.box_by_mk, identity_box=mine.identity_box,
        mk_by_recovery=hpke_seal(public.box, info, hostile.master.key + bytes(64)),
    )
    with pytest.raises(SealBroken, match="identity vouches"):
        recover_account(W.recovery, MK.account, swapped)


def test_a_new_password_leaves_the_rest_as_it_was():
    old, kdf = wrapped(), Kdf(salt_seed=fixed("new salt", 16))
    new = rewrap_password(W.account, fixed("new kek"), kdf, old)
    assert unwrap_account(fixed("new kek"), kdf, MK.account, new) == W.account
    assert recover_account(W.recovery, MK.account, new) == W.account
    changed = {f for f in old.__struct_fields__ if getattr(old, f) != getattr(new, f)}
    assert changed == {"mk_by_password", "identity_by_password"}
    with pytest.raises(SealBroken):
        unwrap_account(KEK, KDF, MK.account, new)


@given(st.binary(max_size=80))
def test_the_keystore_reads_back_only_what_it_wrote(raw):
    # Planted: no check of the size.
    for kind, value in ((MasterKey, MK), (DeviceSecrets, W.secrets)):
        assert kind.from_bytes(value.to_bytes()) == value
        if len(raw) + 1 != len(value.to_bytes()):
            with pytest.raises(SealBroken):
                kind.from_bytes(b"\x01" + raw)
        with pytest.raises(SealBroken):
            kind.from_bytes(b"\x02" + value.to_bytes()[1:])


SPACES = st.dictionaries(
    st.binary(min_size=16, max_size=16),
    st.dictionaries(st.integers(1, 9), st.binary(min_size=32, max_size=32), max_size=3),
    max_size=3,
)


@given(SPACES, st.integers(0, 1 << 40))
def test_a_keyring_opens_as_it_was_sealed(spaces, rev):
    # Planted: rev left out of the aad.
    contents = KeyringContents(spaces=spaces, heads=W.contents.heads)
    keyring = seal_keyring(MK, rev, contents)
    assert open_keyring(MK, keyring) == contents
    with pytest.raises(SealBroken):
        open_keyring(MK, Keyring(rev=rev + 1, sealed=keyring.sealed))
    with pytest.raises(SealBroken):
        open_keyring(MasterKey(bytes(16), MK.epoch, MK.key), keyring)


def test_a_keyring_grows_by_secrets():
    space = fixed("new space", 16)
    grown = W.contents.with_secret(space, 1, fixed("one")).with_secret(space, 2, fixed("two"))
    assert grown.space_keys(space).secrets == {1: fixed("one"), 2: fixed("two")}
    assert grown.space_keys(W.keys.space) == W.keys
    assert space not in W.contents.spaces, "contents are values"
    with pytest.raises(EpochMissing):
        W.contents.space_keys(space)


@pytest.mark.parametrize("plain", [b"", b"\xc1", encode(KeyringContents(format=2))])
def test_what_is_no_keyring_is_refused(plain):
    sealed = seal_random(MK.key, lp("keyring", MK.account, 1), plain)
    with pytest.raises(SealBroken):
        open_keyring(MK, Keyring(rev=1, sealed=sealed))


def test_device_names_open_for_their_device():
    sealed = seal_device_name(MK, W.device, "Läptop")
    assert open_device_name(MK, W.device, sealed) == "Läptop"
    with pytest.raises(SealBroken):
        open_device_name(MK, bytes(16), sealed)
    broken = seal_random(MK.key, lp("device-name", MK.account, W.device), b"\xff")
    with pytest.raises(SealBroken):
        open_device_name(MK, W.device, broken)


# Vectors of BIP-39 itself (Trezor's list), so that the words work elsewhere too.
@pytest.mark.parametrize(
    ("secret", "words"),
    [("00" * 32, "abandon " * 23 + "art"), ("ff" * 32, "zoo " * 23 + "vote"),
     ("80" * 32, ("letter advice cage absurd amount doctor acoustic avoid " * 3)[:-6] + "bless")],
)
def test_words_are_bip_39(secret, words):
    assert words_of(bytes.fromhex(secret)) == words
    assert secret_of(words) == bytes.fromhex(secret)


@given(st.binary(min_size=32, max_size=32))
def test_words_read_back_however_they_are_typed(secret):
    # Planted: three letters taken for a word.
    words = words_of(secret)
    assert len(words.split()) == 24
    assert secret_of(words) == secret
    assert secret_of("\n " + words.upper().replace(" ", "  \t")) == secret
    assert secret_of(" ".join(word[:4] for word in words.split())) == secret


WORDS = words_of(fixed("recovery"))


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("", "24 words are needed, not 0"),
        (WORDS + " zoo", "not 25"),
        (WORDS.replace(WORDS.split()[4], "abandom", 1), "word 5, 'abandom', .* did you mean aba"),
        ("qqqqq " + WORDS.split(" ", 1)[1], r"word 1, 'qqqqq', is not in the list$"),
        ("abo " + WORDS.split(" ", 1)[1], "word 1, 'abo'"),
        ("abandon " * 24, "together they are not recovery words"),
        (" ".join(reversed(WORDS.split())), "together"),
    ],
)
def test_wrong_words_are_explained(typed, text):
    with pytest.raises(WrongWords, match=text):
        secret_of(typed)


def test_recovery_keys_follow_from_the_words():
    keys = RecoveryKeys.of(fixed("recovery"))
    assert keys == W.recovery
    assert keys.sign != keys.box
    assert RecoveryKeys.of(new_recovery_secret()) != keys
