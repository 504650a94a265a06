"""The one primitive: a committing seal over AES-256-GCM, and the derivation of keys (CRYPTO.md 1).

    sub(k, label, ctx...)  HKDF-Expand-SHA256(k, 32, "sl1/" label 00 LP(ctx...))
    seal(K, aad, pt, r)    ek || com = HKDF-Expand-SHA256(K, 64, "sl1/seal" 00 LP(r, SHA-256(aad)))
                           01 || r(32) || com(32) || AES-256-GCM(ek, nonce = 0^12, pt, aad)

Each `ek` encrypts one message, so the fixed nonce is safe, if `r` is random or a PRF value over
the very bytes that are encrypted. The leading 01 is the format; another one is another
composition, and chunks, pages and everything else that is a seal start with it.
"""

import hashlib
import hmac
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from protocol.codec import Field, lp
from protocol.ids import Dice

Buffer = bytes | bytearray | memoryview

KEY_BYTES: Final = 32
FORMAT: Final = b"\x01"
HEAD_BYTES: Final = 1 + 32 + 32  # format, r, commitment
SEAL_BYTES: Final = HEAD_BYTES + 16  # what a seal adds to its plaintext
_NONCE: Final = bytes(12)


class SealBroken(Exception):
    """The bytes are not what their author sealed here under this key: nothing of them is used."""


def sub(key: bytes, label: str, *context: Field) -> bytes:
    """Return the 32-byte key that `key` yields for a purpose. The label "seal" is taken."""
    assert len(key) == KEY_BYTES
    assert label != "seal", "it would be a seal's own key"
    info = b"sl1/" + label.encode() + b"\x00" + lp(*context)
    return HKDFExpand(SHA256(), KEY_BYTES, info).derive(key)


def seal(key: bytes, aad: bytes, plaintext: Buffer, r: bytes) -> bytes:
    """Seal `plaintext` under `key`, bound to `aad`. The same four arguments give the same bytes.

    `r` (32 bytes) must never be used for two plaintexts under one key and aad: draw it
    (`seal_random`) or derive it from the plaintext by a keyed hash (chunks).
    """
    assert len(r) == 32
    one_key, commitment = _expand(key, aad, r)
    return b"".join((FORMAT, r, commitment, AESGCM(one_key).encrypt(_NONCE, plaintext, aad)))


def seal_random(key: bytes, aad: bytes, plaintext: Buffer, dice: Dice = os.urandom) -> bytes:
    """Seal under a fresh `r`: each call gives other bytes."""
    return seal(key, aad, plaintext, dice(32))


def open_sealed(key: bytes, aad: bytes, blob: Buffer) -> bytes:
    """Return the plaintext of a seal.

    Raises:
        SealBroken: another key, another aad, a changed bit, a strange format or too few bytes.
    """
    if len(blob) < SEAL_BYTES or blob[:1] != FORMAT:
        raise SealBroken("not a seal of a known format")
    view = memoryview(blob)
    one_key, commitment = _expand(key, aad, bytes(view[1:33]))
    if not hmac.compare_digest(commitment, view[33:HEAD_BYTES]):
        raise SealBroken("the commitment does not fit")
    try:
        return AESGCM(one_key).decrypt(_NONCE, view[HEAD_BYTES:], aad)
    except InvalidTag:
        raise SealBroken("the bytes were changed") from None


def sealed_r(blob: Buffer) -> bytes:
    """Return the `r` of a seal that was opened, so that a derived one can be checked again."""
    return bytes(blob[1:33])


def _expand(key: bytes, aad: bytes, r: bytes) -> tuple[bytes, bytes]:
    assert len(key) == KEY_BYTES
    info = b"sl1/seal\x00" + lp(r, hashlib.sha256(aad).digest())
    both = HKDFExpand(SHA256(), 64, info).derive(key)
    return both[:32], both[32:]
