"""Linking a folder: its marker says which device keeps it, and that it is really there.

    .syncline/          0700, never synchronised
      root.json         {"root": id, "account": id, "device": id}
      tmp/  trash/      same file system as the folder, so that renames are atomic
"""

import json
import os
import secrets
from pathlib import Path
from typing import Final

from client_agent.adapters import profile as profiles
from client_agent.adapters.profile import Profile
from client_agent.adapters.state import StateBusy, lock_file, set_aside
from client_agent.settings import write_private
from protocol.names import RESERVED

MARKER: Final = "root.json"
LOCK: Final = "lock"  # the agent that keeps the folder holds it


class LinkRefused(Exception):
    """The folder cannot be linked; nothing was changed."""

    def __init__(self, text: str, hint: str = "") -> None:
        """Say why, and what to do."""
        super().__init__(text)
        self.hint = hint


def link(home: Path, profile: Profile, folder: Path) -> Profile:
    """Link a folder to this device; it is made if missing. Safe to repeat.

    Raises LinkRefused.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root = folder.resolve(strict=True)
    except OSError as error:
        raise LinkRefused(f"The folder cannot be used: {error}") from None
    _check_folder(home, profile, root)
    marker = read_marker(root)
    if marker and marker.get("root") == profile.root_id and profile.root == str(root):
        return profile
    if marker and marker.get("account") != profile.account:
        raise LinkRefused(
            f"{root} belongs to another account",
            f"Choose another folder; or, if that account is gone, remove {root / RESERVED}",
        )
    root_id = secrets.token_hex(16)
    facts = {"root": root_id, "account": profile.account, "device": profile.device}
    try:
        for name in ("", "tmp", "trash"):
            (root / RESERVED / name).mkdir(mode=0o700, exist_ok=True)
        (root / RESERVED).chmod(0o700)
        lock = lock_file(root / RESERVED / LOCK)  # an agent of another home may have it
        try:
            write_private(root / RESERVED / MARKER, json.dumps(facts).encode() + b"\n")
        finally:
            os.close(lock)
    except StateBusy:
        raise LinkRefused(
            f"Another device's agent keeps {root}", "Stop that agent, or choose another folder."
        ) from None
    except OSError as error:
        raise LinkRefused(f"The folder cannot be used: {error}") from None
    if profile.root_id:
        set_aside(home, "other-folder")  # what it remembers is of another folder
    linked = profile.change(root=str(root), root_id=root_id)
    profiles.write(home, linked)
    return linked


def _check_folder(home: Path, profile: Profile, root: Path) -> None:
    if not root.is_dir():
        raise LinkRefused(f"{root} is not a folder")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise LinkRefused(f"{root} may not be read and written by you")
    try:
        str(root).encode()
    except UnicodeEncodeError:
        raise LinkRefused("The folder's own path is not UTF-8") from None
    if profile.root and profile.root != str(root) and read_marker(Path(profile.root)):
        raise LinkRefused(
            f"This device keeps {profile.root} already",
            "Use another SYNCLINE_HOME for a second folder.",
        )
    state = home.resolve()
    if state == root or root in state.parents:
        raise LinkRefused(f"{root} holds this device's own state, {home}")
    if state in root.parents:
        raise LinkRefused(f"{root} lies in this device's own state, {home}")
    for above in root.parents:
        if read_marker(above):
            raise LinkRefused(f"{root} lies in a linked folder, {above}")
    for below, folders, _ in os.walk(root):
        if Path(below) != root and RESERVED in folders and read_marker(Path(below)):
            raise LinkRefused(f"{root} contains a linked folder, {below}")


def read_marker(root: Path) -> dict[str, str] | None:
    """Return what the marker of a folder says, None if it has none."""
    try:
        facts = json.loads((root / RESERVED / MARKER).read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
