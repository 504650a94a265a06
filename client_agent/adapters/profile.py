"""What a device knows of its account: facts, no secrets. `account.json` in the home.

It stands apart from the database so that a damaged database costs neither the sign-in nor the
count of generations (a number of an older generation is never given out twice).
"""

from pathlib import Path

import msgspec

from client_agent.settings import make_home, write_private

FILE = "account.json"


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Account, device, home space and linked folder. Ids are hex."""

    server: str
    username: str
    account: str
    device: str
    device_name: str
    keystore: str
    email: str = ""
    identity_sign: str = ""  # the account's public identity key: pinned at register or login
    space: str = ""
    history: str = ""
    owner_identity: str = ""
    root: str = ""  # the linked folder, absolute
    root_id: str = ""  # what its marker file must say
    generation: int = -1  # of the newest database; -1 before the first
    paused: bool = False
    paused_until_ms: int = 0  # wall clock; 0: until `resume`

    def change(self, **facts: object) -> "Profile":
        """Return this profile with other facts."""
        return msgspec.structs.replace(self, **facts)


def read(home: Path) -> Profile | None:
    """Return the profile, None if nobody registered or logged in here.

    Raises msgspec.DecodeError if the file is damaged.
    """
    try:
        raw = (home / FILE).read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(raw, type=Profile)


def write(home: Path, profile: Profile) -> None:
    """Replace the profile atomically."""
    make_home(home)
    write_private(home / FILE, msgspec.json.format(msgspec.json.encode(profile), indent=2))


def remove(home: Path) -> None:
    """Forget the account on this device. Safe to repeat."""
    (home / FILE).unlink(missing_ok=True)
