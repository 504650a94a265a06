"""Sealing to a public key: RFC 9180 base mode, X25519, HKDF-SHA256, AES-256-GCM (CRYPTO.md 2).

    01 || enc(32) || ciphertext          purpose and context in `info`, no aad

Base mode proves nothing of the sender: what comes out counts only if a signature inside it does.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from client_agent.crypto.seal import SealBroken

FORMAT: Final = b"\x01"
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def hpke_seal(public: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Seal to an X25519 public key (32 bytes). Each call gives other bytes."""
    return FORMAT + _SUITE.encrypt(plaintext, X25519PublicKey.from_public_bytes(public), info)


def hpke_open(private: bytes, info: bytes, blob: bytes) -> bytes:
    """Open with the X25519 private key (32 bytes). Raises SealBroken."""
    if blob[:1] != FORMAT:
        raise SealBroken("not sealed to a key in a known format")
    try:
        return _SUITE.decrypt(blob[1:], X25519PrivateKey.from_private_bytes(private), info)
    except (InvalidTag, ValueError):
        raise SealBroken("not sealed to this key for this purpose") from None
