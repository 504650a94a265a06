"""The seal against CRYPTO.md 1, written out by hand; what it refuses; HPKE against RFC 9180."""

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from client_agent.crypto.hpke import hpke_open, hpke_seal
from client_agent.crypto.seal import (
    SEAL_BYTES,
    SealBroken,
    open_sealed,
    seal,
    seal_random,
    sealed_r,
    sub,
)

KEYS = st.binary(min_size=32, max_size=32)
K, R = b"k" * 32, b"r" * 32


def framed(*fields: bytes) -> bytes:
    return b"".join(len(f).to_bytes(4, "big") + f for f in fields)


def expand(key: bytes, info: bytes, size: int) -> bytes:
    """HKDF-Expand as RFC 5869 writes it."""
    out, last, n = b"", b"", 1
    while len(out) < size:
        last = hmac.new(key, last + info + bytes([n]), hashlib.sha256).digest()
        out, n = out + last, n + 1
    return out[:size]


def by_hand(key: bytes, aad: bytes, plaintext: bytes, r: bytes) -> bytes:
    info = b"sl1/seal\x00" + framed(r, hashlib.sha256(aad).digest())
    both = expand(key, info, 64)
    cipher = Cipher(algorithms.AES256(both[:32]), modes.GCM(bytes(12))).encryptor()
    cipher.authenticate_additional_data(aad)
    sealed = cipher.update(plaintext) + cipher.finalize() + cipher.tag
    return b"\x01" + r + both[32:] + sealed


@given(KEYS, st.binary(max_size=40), st.binary(max_size=200), KEYS)
def test_a_seal_is_what_the_design_says(key, aad, plaintext, r):
    # Planted: commitment and key exchanged; aad itself for its hash in the expansion.
    blob = seal(key, aad, plaintext, r)
    assert blob == by_hand(key, aad, plaintext, r)
    assert len(blob) == len(plaintext) + SEAL_BYTES
    assert sealed_r(blob) == r
    assert open_sealed(key, aad, blob) == plaintext == open_sealed(key, aad, memoryview(blob))


@given(KEYS, st.sampled_from(["auth", "kek", "chunk"]), st.binary(max_size=9), st.integers(0, 9))
def test_a_derived_key_is_what_the_design_says(key, label, context, number):
    # Planted: no 00 after the label.
    info = b"sl1/" + label.encode() + b"\x00" + framed(context, number.to_bytes(8, "big"))
    assert sub(key, label, context, number) == expand(key, info, 32)
    assert sub(key, label) == expand(key, b"sl1/" + label.encode() + b"\x00", 32)


def test_the_label_of_the_seal_is_taken():
    with pytest.raises(AssertionError):
        sub(K, "seal", R, b"x")


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_only_this_key_and_this_aad_open_it(aad, other):
    # Planted: aad left out of the expansion and of the cipher.
    blob = seal_random(K, aad, b"plaintext")
    if other != aad:
        with pytest.raises(SealBroken, match="commitment"):
            open_sealed(K, other, blob)
    with pytest.raises(SealBroken, match="commitment"):
        open_sealed(b"q" * 32, aad, blob)


def test_each_random_seal_is_another():
    assert seal_random(K, b"", b"x") != seal_random(K, b"", b"x")
    assert seal_random(K, b"", b"x", lambda n: R[:n]) == seal(K, b"", b"x", R)


def test_every_bit_counts():
    blob = seal(K, b"aad", b"some plaintext", R)
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            open_sealed(K, b"aad", changed)


def test_every_byte_counts():
    blob = seal(K, b"aad", b"some plaintext", R)
    for changed in (b"", *(blob[:n] for n in range(len(blob))), blob + b"\0", b"\0" + blob):
        with pytest.raises(SealBroken):
            open_sealed(K, b"aad", changed)


def test_the_commitment_is_compared_first_and_in_constant_time(monkeypatch):
    """A blob that decrypts under another key's commitment is refused before it is decrypted."""
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    blob = seal(K, b"", b"x", R)
    with pytest.raises(SealBroken, match="commitment"):
        open_sealed(K, b"", blob[:33] + bytes(32) + blob[65:-1] + b"!")
    assert compared == [1]


# The steps of base mode of RFC 9180 for our suite (0x20, 1, 2), by hand.
def labeled(suite: bytes, label: bytes, ikm: bytes) -> bytes:
    return b"HPKE-v1" + suite + label + ikm


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def labeled_expand(prk: bytes, suite: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return expand(prk, size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, size)


def hpke_by_hand(private: bytes, info: bytes, blob: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    enc, sealed = blob[1:33], blob[33:]
    shared = key.exchange(X25519PublicKey.from_public_bytes(enc))
    kem = b"KEM" + (0x20).to_bytes(2, "big")
    prk = extract(b"", labeled(kem, b"eae_prk", shared))
    context = enc + key.public_key().public_bytes_raw()
    secret = labeled_expand(prk, kem, b"shared_secret", context, 32)
    suite = b"HPKE" + bytes([0, 0x20, 0, 1, 0, 2])
    schedule = b"\x00" + extract(b"", labeled(suite, b"psk_id_hash", b"")) + extract(
        b"", labeled(suite, b"info_hash", info)
    )
    prk = extract(secret, labeled(suite, b"secret", b""))
    aead_key = labeled_expand(prk, suite, b"key", schedule, 32)
    nonce = labeled_expand(prk, suite, b"base_nonce", schedule, 12)
    return AESGCM(aead_key).decrypt(nonce, sealed, b"")


@given(KEYS, st.binary(max_size=30), st.binary(max_size=60))
def test_hpke_is_that_of_the_rfc(private, info, plaintext):
    # Planted: info left out of the call.
    public = X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
    blob = hpke_seal(public, info, plaintext)
    assert hpke_by_hand(private, info, blob) == plaintext
    assert hpke_open(private, info, blob) == plaintext
    with pytest.raises(SealBroken):
        hpke_open(private, info + b"!", blob)


def test_hpke_refuses_every_change():
    public = X25519PrivateKey.from_private_bytes(K).public_key().public_bytes_raw()
    blob = hpke_seal(public, b"info", b"the master key")
    for bit in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            hpke_open(K, b"info", bytes(changed))
    for changed in (b"", b"\x01", blob[:20], blob[:-1], blob + b"x", b"\x01" + bytes(32) + blob):
        with pytest.raises(SealBroken):
            hpke_open(K, b"info", changed)
    with pytest.raises(SealBroken):
        hpke_open(b"q" * 32, b"info", blob)
