"""The keys of one space, all derived from its secrets SK, one per key epoch (CRYPTO.md 2).

    of every epoch        chunk, name, manifest                 sub(SK_e, label, space, e)
    of the first epoch    pid, siv, cdc, token, filehash        sub(SK_1, label, space, 1)

The second row is stable, or deduplication and name checks would break with each new epoch.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from client_agent.crypto.seal import KEY_BYTES, Buffer, sub
from protocol.ids import Dice

FIRST_EPOCH = 1


class EpochMissing(Exception):
    """This device does not hold the secret of that key epoch (yet): fetch the keyring."""


def new_secret(dice: Dice = os.urandom) -> bytes:
    """Return a fresh SK."""
    return dice(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class _EpochKeys:
    chunk: bytes
    name: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class SpaceKeys:
    """All keys of a space. Immutable; build a new one when an epoch is added.

    Args of the constructor: the space id; `secrets`, key epoch -> SK (32 bytes), of every epoch
    1..n without a gap. Raises EpochMissing if there is one.
    """

    space: bytes
    secrets: Mapping[int, bytes] = field(repr=False)
    pid_key: bytes = field(init=False, repr=False)
    siv_key: bytes = field(init=False, repr=False)
    cdc_key: bytes = field(init=False, repr=False)
    token_key: bytes = field(init=False, repr=False)
    filehash_key: bytes = field(init=False, repr=False)
    _epochs: Mapping[int, _EpochKeys] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive everything once; each use is then a look-up."""
        secrets = dict(self.secrets)
        if not secrets or sorted(secrets) != list(range(1, len(secrets) + 1)):
            raise EpochMissing(f"key epochs {sorted(secrets)} have a gap")
        put = object.__setattr__
        put(self, "secrets", secrets)
        for label in ("pid", "siv", "cdc", "token", "filehash"):
            key = sub(secrets[FIRST_EPOCH], label, self.space, FIRST_EPOCH)
            put(self, f"{label}_key", key)
        put(self, "_epochs", {n: self._derive(n, secret) for n, secret in secrets.items()})

    def _derive(self, epoch: int, secret: bytes) -> _EpochKeys:
        labels = ("chunk", "name", "manifest")
        return _EpochKeys(*(sub(secret, label, self.space, epoch) for label in labels))

    @property
    def epoch(self) -> int:
        """The newest key epoch: what is sealed now is sealed under it."""
        return len(self.secrets)

    def chunk_key(self, epoch: int) -> bytes:
        """Return the key of chunks and pages. Raises EpochMissing."""
        return self._epoch(epoch).chunk

    def name_key(self, epoch: int) -> bytes:
        """Return the key of places. Raises EpochMissing."""
        return self._epoch(epoch).name

    def manifest_key(self, epoch: int) -> bytes:
        """Return the key of manifests. Raises EpochMissing."""
        return self._epoch(epoch).manifest

    def _epoch(self, epoch: int) -> _EpochKeys:
        keys = self._epochs.get(epoch)
        if keys is None:
            raise EpochMissing(f"no secret of key epoch {epoch}, only up to {self.epoch}")
        return keys

    @property
    def gear_seed(self) -> int:
        """The chunker's seed: the first 63 bits of K_cdc (pyfastcdc doubles it inside 64 bits)."""
        return int.from_bytes(self.cdc_key[:8], "big") >> 1

    def pid(self, plaintext: Buffer) -> bytes:
        """Return the plaintext id of a chunk: equal content has an equal one, in all epochs."""
        return hmac.digest(self.pid_key, plaintext, "sha256")

    def siv(self, head: bytes, body: Buffer = b"") -> bytes:
        """Return the derived `r` of a chunk: a keyed hash over both parts, joined."""
        mac = hmac.new(self.siv_key, head, hashlib.sha256)
        mac.update(body)
        return mac.digest()
