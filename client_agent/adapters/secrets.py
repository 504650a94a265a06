"""Where this device's secrets rest: the system's keyring, or a file only its owner may read.

Kept here: the device's keys, the account's master key, the session. Never a password. Which
keystore is used is chosen once, at register or login, written into the profile and always shown.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Final, Protocol

from client_agent.settings import make_home, write_private

SERVICE: Final = "syncline"
FILE: Final = "keys.json"

DEVICE, MASTER, SESSION = "device", "master", "session"  # names of entries
PROBE: Final = "probe"
NAMES: Final = (DEVICE, MASTER, SESSION, PROBE)


class KeystoreLocked(Exception):
    """The keystore does not answer, or not with what was put there; the text says why."""


class Keystore(Protocol):
    """Holds a few named secrets."""

    kind: str

    def get(self, name: str) -> bytes | None:
        """Return a secret, None if there is none. Raises KeystoreLocked."""

    def put(self, name: str, secret: bytes) -> None:
        """Keep a secret, replacing the one before. Raises KeystoreLocked."""

    def wipe(self) -> None:
        """Forget all of them. Safe to repeat."""


class FileKeystore:
    """`keys.json` in the home, 0600. As safe as the disk: encrypt it."""

    kind = "file"

    def __init__(self, home: Path) -> None:
        """Make nothing yet."""
        self._path = home / FILE

    def get(self, name: str) -> bytes | None:
        """See Keystore."""
        text = self._read().get(name)
        return None if text is None else base64.b64decode(text)

    def put(self, name: str, secret: bytes) -> None:
        """See Keystore."""
        entries = self._read() | {name: base64.b64encode(secret).decode()}
        make_home(self._path.parent)
        write_private(self._path, json.dumps(entries).encode())

    def wipe(self) -> None:
        """See Keystore."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        try:
            entries = json.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise KeystoreLocked(f"{self._path}: {error}") from None
        if not isinstance(entries, dict):
            raise KeystoreLocked(f"{self._path} is not a keystore")
        return entries


class SystemKeystore:
    """The desktop's keyring, through the `keyring` library. One entry per home and name."""

    kind = "keyring"

    def __init__(self, home: Path) -> None:
        """Make nothing yet."""
        self._prefix = hashlib.sha256(str(home).encode()).hexdigest()[:16]

    def get(self, name: str) -> bytes | None:
        """See Keystore."""
        import keyring  # a quarter of a second: only for those who use it
        from keyring.errors import KeyringError

        try:
            text = keyring.get_password(SERVICE, f"{self._prefix}/{name}")
        except KeyringError as error:
            raise KeystoreLocked(f"the system's keyring: {error}") from None
        return None if text is None else base64.b64decode(text)

    def put(self, name: str, secret: bytes) -> None:
        """See Keystore."""
        import keyring
        from keyring.errors import KeyringError

        text = base64.b64encode(secret).decode()
        try:
            keyring.set_password(SERVICE, f"{self._prefix}/{name}", text)
        except KeyringError as error:
            raise KeystoreLocked(f"the system's keyring: {error}") from None

    def wipe(self) -> None:
        """See Keystore."""
        import keyring
        from keyring.errors import KeyringError, PasswordDeleteError

        for name in NAMES:
            try:
                keyring.delete_password(SERVICE, f"{self._prefix}/{name}")
            except PasswordDeleteError:
                continue  # was not there
            except KeyringError as error:
                raise KeystoreLocked(f"the system's keyring: {error}") from None


def open_keystore(kind: str, home: Path) -> Keystore:
    """Return the keystore of that kind."""
    return SystemKeystore(home) if kind == "keyring" else FileKeystore(home)


def choose_keystore(wanted: str, home: Path) -> tuple[Keystore, str]:
    """Return a keystore that works, and a warning for people if it is not the one hoped for.

    `wanted` "" means the system's keyring if it answers, else a file. Raises KeystoreLocked if the
    one that was asked for by name does not work.
    """
    if wanted != "file":
        system = SystemKeystore(home)
        try:
            system.put(PROBE, b"probe")
            if system.get(PROBE) != b"probe":
                raise KeystoreLocked("the system's keyring does not give back what it got")
        except KeystoreLocked as error:
            if wanted == "keyring":
                raise
            return FileKeystore(home), f"keys are kept in a file, for {error}"
        return system, ""
    return FileKeystore(home), ""
