"""Stand-ins for what lies beyond the adapters: a space at the server, a linked folder, keys."""

import hashlib
import json
import os
from pathlib import Path

from client_agent.adapters.root import Root
from client_agent.adapters.server import Offline
from client_agent.crypto.space_keys import SpaceKeys
from protocol.messages.upload import UploadOpen

ROOT_ID = "ab" * 16
SPACE = b"\x05" * 16


def keys() -> SpaceKeys:
    return SpaceKeys(SPACE, {1: bytes(range(32))})


def linked(folder: Path) -> Root:
    """Make a folder as `syncline link` leaves it."""
    for name in (".syncline/tmp", ".syncline/trash"):
        (folder / name).mkdir(parents=True)
    (folder / ".syncline/root.json").write_text(json.dumps({"root": ROOT_ID}))
    return Root(folder, ROOT_ID)


class Space:
    """The chunks of a space, as the gateway would keep them; counts what is asked of it."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.put_bytes = self.fetched_bytes = self.requests = 0
        self.sessions: set[bytes] = set()
        self.offline = False
        self.fault: Exception | None = None

    def _heard(self) -> None:
        self.requests += 1
        if self.offline:
            raise Offline("no route")
        if self.fault is not None:
            raise self.fault

    async def missing(self, space, addresses):
        self._heard()
        return tuple(a for a in addresses if a not in self.blobs)

    async def put_pack(self, space, items, upload=None):
        self._heard()
        for item in items:
            self.put_bytes += len(item.blob)
            self.blobs[hashlib.sha256(item.blob).digest()] = item.blob

    async def begin_upload(self, message):
        self._heard()
        self.sessions.add(message.upload)
        missing = tuple(r.address for r in message.refs if r.address not in self.blobs)
        return UploadOpen(
            upload=message.upload, missing=missing, expires_ms=1, reserved_bytes=0
        )

    async def fetch(self, space, addresses):
        self._heard()
        got, size = [], 0
        for address in addresses:
            blob = self.blobs.get(address)
            size += len(blob or b"")
            if got and size > 1 << 20:
                break  # as the gateway does at its limit: the rest is asked for again
            self.fetched_bytes += len(blob or b"")
            got.append(blob)
        return tuple(got)

    def keep(self, draft) -> None:
        """Store what would travel inside the commit of a draft."""
        for item in draft.blobs:
            self.blobs[hashlib.sha256(item.blob).digest()] = item.blob


def random_file(path: Path, size_bytes: int) -> bytes:
    data = os.urandom(size_bytes)
    path.write_bytes(data)
    return data


def refuse_to_open(monkeypatch, refused: str) -> None:
    """Make one name unreadable; a mode would not stop the superuser, whom tests may run as."""
    opened = os.open

    def asked(path, *args, **kwargs):
        if path == refused:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", asked)
