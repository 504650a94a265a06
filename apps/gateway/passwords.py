"""Stored proofs of passwords: Argon2id over HMAC(pepper, auth_key), in threads, a few at a time.

Unknown users cost the same work and get a stable fake salt, so that neither the answer nor its time
tells whether an account exists (CRYPTO.md 2).
"""

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from protocol.codec import lp
from protocol.ids import ID_BYTES
from protocol.messages.device import Kdf

MEMORY_KIB, TIME, LANES = 19_456, 2, 1  # OWASP 2025; the device has done its 64 MiB before
AT_ONCE_MAX = max(2, os.cpu_count() or 2)  # 19 MiB each; more would only queue for the cores


class Passwords:
    """Hashes and checks `auth_key`s."""

    def __init__(self, pepper: bytes) -> None:
        self._pepper = pepper
        self._hasher = PasswordHasher(time_cost=TIME, memory_cost=MEMORY_KIB, parallelism=LANES)
        self._gate = asyncio.Semaphore(AT_ONCE_MAX)
        self._nobody = ""

    async def warm(self) -> None:
        """Make the proof that stands for nobody. Call once, before the first check."""
        self._nobody = await self.hashed(os.urandom(32))

    async def hashed(self, auth_key: bytes) -> str:
        """Return what to store."""
        async with self._gate:
            return await asyncio.to_thread(self._hasher.hash, self._peppered(auth_key))

    async def check(
        self,
        stored: str | None,
        auth_key: bytes,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> bool:
        """Say whether the key fits; `stored` None (no such user) does the same work for a no.

        `before` is asked when its turn has come: of many tries at once, the later ones are barred.
        """
        assert self._nobody, "warm() comes first"
        async with self._gate:
            if before is not None:
                await before()
            good = await asyncio.to_thread(self._verify, stored or self._nobody, auth_key)
        return good and stored is not None

    def outdated(self, stored: str) -> bool:
        """Say whether the stored hash has other costs than today's."""
        return self._hasher.check_needs_rehash(stored)

    def fake_kdf(self, username: str) -> Kdf:
        """Return the parameters that an unknown name is told: always the same for one name."""
        seed = hmac.digest(self._pepper, lp("sl1/fake-salt", username), "sha256")
        return Kdf(salt_seed=seed[:ID_BYTES])

    def _peppered(self, auth_key: bytes) -> bytes:
        return hmac.digest(self._pepper, auth_key, "sha256")

    def _verify(self, stored: str, auth_key: bytes) -> bool:
        try:
            return self._hasher.verify(stored, self._peppered(auth_key))
        except VerifyMismatchError:
            return False
