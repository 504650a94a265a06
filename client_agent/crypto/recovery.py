"""The recovery words: 32 random bytes that open the account without its password (CRYPTO.md 2).

    secret (32) <-> 24 BIP-39 words, English, with their checksum
    sub(secret, "recovery-box")   X25519: the account's keys are sealed to it
    sub(secret, "recovery-sign")  Ed25519: proves a request for recovery
"""

import os
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from mnemonic import Mnemonic

from client_agent.crypto.seal import KEY_BYTES, sub
from protocol.ids import Dice

WORDS: Final = 24


class WrongWords(ValueError):
    """The words are not recovery words; the text says which and why, for people."""


def new_recovery_secret(dice: Dice = os.urandom) -> bytes:
    """Return a fresh secret; shown once as words, kept nowhere."""
    return dice(KEY_BYTES)


def words_of(secret: bytes) -> str:
    """Return the 24 words of a secret, lower case, one space between."""
    assert len(secret) == KEY_BYTES
    return str(_mnemonic().to_mnemonic(secret))


def secret_of(words: str) -> bytes:
    """Return the secret of 24 words. Case and spacing do not matter; four letters are enough.

    Raises:
        WrongWords: too few or many, a word that is not in the list, or a wrong checksum.
    """
    typed = words.lower().split()
    if len(typed) != WORDS:
        raise WrongWords(f"{WORDS} words are needed, not {len(typed)}")
    listed = [_listed(number, word) for number, word in enumerate(typed, 1)]
    try:
        return bytes(_mnemonic().to_entropy(listed))
    except ValueError:
        raise WrongWords(
            "each word is in the list, but together they are not recovery words: "
            "one is another word than was shown, or two have changed places"
        ) from None


def _listed(number: int, word: str) -> str:
    mnemonic = _mnemonic()
    whole = str(mnemonic.expand_word(word)) if len(word) >= 4 else word
    if whole in mnemonic.wordlist:
        return whole
    near = [w for w in mnemonic.wordlist if w[:3] == word[:3]]
    hint = f"; did you mean {', '.join(near[:4])}?" if near else ""
    raise WrongWords(f"word {number}, {word!r}, is not in the list{hint}")


@cache
def _mnemonic() -> Mnemonic:
    return Mnemonic("english")


class RecoveryPublic(NamedTuple):
    """What the account publishes of its recovery keys."""

    sign: bytes
    box: bytes


@dataclass(frozen=True, slots=True)
class RecoveryKeys:
    """The private keys behind the words (32 bytes each)."""

    sign: bytes = field(repr=False)
    box: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> "RecoveryKeys":
        """Derive them from the secret."""
        return cls(sub(secret, "recovery-sign"), sub(secret, "recovery-box"))

    @property
    def public(self) -> RecoveryPublic:
        """Their public halves."""
        sign = Ed25519PrivateKey.from_private_bytes(self.sign).public_key()
        box = X25519PrivateKey.from_private_bytes(self.box).public_key()
        return RecoveryPublic(sign.public_bytes_raw(), box.public_bytes_raw())
