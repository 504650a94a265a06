"""A device for the gateway's tests: real signatures, random bytes for everything sealed.

Speaks msgpack over httpx. Knows nothing of keys that open anything; the real device has its own
tests.
"""

import hashlib
import os
import time
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol import journal
from protocol.codec import encode
from protocol.entry import Change, ChangeKind, ChunkRef, Content, NodeType, Place
from protocol.faults import Problem
from protocol.ids import ROOT, new_id
from protocol.messages.device import (
    CertifyDevice,
    DeviceAction,
    DeviceEntry,
    DeviceKeys,
    DeviceList,
    Kdf,
    LoggedIn,
    Login,
    Refresh,
    Register,
    Session,
    SignedEntry,
    Wraps,
    entry_hash,
    entry_to_sign,
    refresh_to_sign,
)
from protocol.messages.sync import CommitRequest, Committed, PackItem

MSGPACK = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}


class Said(Exception):
    """The server said no."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(f"{status} {problem.code}: {problem.detail}")
        self.status = status
        self.code = problem.code
        self.problem = problem


class Keys:
    """An account's identity: what the password opens."""

    def __init__(self, username: str) -> None:
        self.username = username
        self.account = new_id(os.urandom)
        self.auth_key = os.urandom(32)
        self.identity = Ed25519PrivateKey.generate()
        self.home = new_id(os.urandom)
        self.history = new_id(os.urandom)
        self.kdf = Kdf(salt_seed=os.urandom(16))
        self.wraps = Wraps(
            mk_epoch=1,
            mk_by_password=os.urandom(80),
            mk_by_recovery=os.urandom(80),
            identity_by_password=os.urandom(80),
            identity_by_recovery=os.urandom(80),
            box_by_mk=os.urandom(80),
            identity_sign=self.identity.public_key().public_bytes_raw(),
            identity_box=os.urandom(32),
            recovery_sign=os.urandom(32),
            recovery_box=os.urandom(32),
        )


class FakeDevice:
    """One device of one account."""

    def __init__(self, client: httpx.AsyncClient, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self.device = new_id(os.urandom)
        self.sign = Ed25519PrivateKey.generate()
        self.box = os.urandom(32)
        self.session: Session | None = None
        self.ops = 0
        self.dots = 0
        self.answered = 0

    # --- speaking ---

    async def raw(self, method: str, path: str, body: Any = None, **kwargs: Any) -> httpx.Response:
        headers = MSGPACK | kwargs.pop("headers", {})
        if self.session is not None and "Authorization" not in headers:
            headers["Authorization"] = f"Bearer {self.session.access_token}"
        content = body if isinstance(body, bytes) or body is None else msgspec.msgpack.encode(body)
        return await self.client.request(method, path, content=content, headers=headers, **kwargs)

    async def ask(self, method: str, path: str, body: Any = None, *, into: Any = None) -> Any:
        answer = await self.raw(method, path, body)
        if answer.status_code >= 400:
            problem = msgspec.msgpack.decode(answer.content, type=Problem)
            assert problem.status == answer.status_code
            raise Said(answer.status_code, problem)
        return None if into is None else msgspec.msgpack.decode(answer.content, type=into)

    # --- accounts ---

    def device_keys(self) -> DeviceKeys:
        public = self.sign.public_key().public_bytes_raw()
        return DeviceKeys(device=self.device, sign=public, box=self.box, sealed_name=b"name")

    def entry(self, n: int = 1, prev: bytes = bytes(32), **changes: Any) -> SignedEntry:
        fields: dict[str, Any] = {
            "format": 1,
            "account": self.keys.account,
            "n": n,
            "prev": prev,
            "action": DeviceAction.ADD,
            "device": self.device,
            "sign": self.sign.public_key().public_bytes_raw(),
            "box": self.box,
            "at_ms": now_ms(),
        }
        raw = msgspec.msgpack.encode(DeviceEntry(**(fields | changes)))
        return SignedEntry(raw, self.keys.identity.sign(entry_to_sign(raw)))

    def registration(self, **changes: Any) -> Register:
        keys = self.keys
        fields: dict[str, Any] = {
            "account": keys.account,
            "username": keys.username,
            "email": f"{keys.username}@example.org",
            "kdf": keys.kdf,
            "auth_key": keys.auth_key,
            "wraps": keys.wraps,
            "device": self.device_keys(),
            "entry": self.entry(),
            "mk_for_device": os.urandom(80),
            "keyring": b"keyring 1",
            "home": keys.home,
            "history": keys.history,
        }
        return Register(**(fields | changes))

    async def register(self, **changes: Any) -> Session:
        asked = self.registration(**changes)
        self.session = await self.ask("POST", "/auth/register", asked, into=Session)
        return self.session

    async def login(self, auth_key: bytes | None = None) -> LoggedIn:
        asked = Login(
            username=self.keys.username,
            auth_key=auth_key or self.keys.auth_key,
            device=self.device_keys(),
        )
        logged_in: LoggedIn = await self.ask("POST", "/auth/login", asked, into=LoggedIn)
        self.session = logged_in.session
        return logged_in

    def certification(self, devices: DeviceList) -> CertifyDevice:
        entry = self.entry(len(devices.entries) + 1, entry_hash(devices.entries[-1]))
        return CertifyDevice(entry=entry, mk_for_device=b"mk", sealed_name=b"name")

    async def certify(self, devices: DeviceList) -> DeviceList:
        path = f"/auth/devices/{self.device.hex()}"
        listed: DeviceList = await self.ask(
            "PUT", path, self.certification(devices), into=DeviceList
        )
        return listed

    def refreshing(self, token: str) -> Refresh:
        at_ms = now_ms()
        signature = self.sign.sign(refresh_to_sign(token, at_ms))
        return Refresh(refresh_token=token, at_ms=at_ms, signature=signature)

    async def refresh(self, token: str | None = None) -> Session:
        assert self.session is not None
        asked = self.refreshing(token or self.session.refresh_token)
        session: Session = await self.ask("POST", "/auth/refresh", asked, into=Session)
        return session

    # --- changes ---

    def file(self, *blobs: bytes, parent: bytes = ROOT, **changes: Any) -> Change:
        """Return the creation of a file whose chunks are these blobs."""
        self.dots += 1
        refs = tuple(ChunkRef(address_of(blob), len(blob)) for blob in blobs)
        content = Content(
            new_id(os.urandom), NodeType.FILE, os.urandom(32), 1, os.urandom(100), refs
        )
        fields: dict[str, Any] = {
            "kind": ChangeKind.CREATE,
            "node": new_id(os.urandom),
            "type": NodeType.FILE,
            "dot": self.dots,
            "hlc": now_ms() << 16,
            "place": Place(parent, os.urandom(32), os.urandom(60), 1),
            "content": content,
        }
        return Change(**(fields | changes))

    def commit_of(
        self, *changes: Change, inline: tuple[bytes | PackItem, ...] = (), **header: Any
    ) -> CommitRequest:
        self.ops += 1
        raw = tuple(msgspec.msgpack.encode(change) for change in changes)
        fields: dict[str, Any] = {
            "format": 1,
            "space": self.keys.home,
            "history": self.keys.history,
            "key_epoch": 1,
            "device": self.device,
            "op": self.ops,
            "answered": self.answered,
            "hlc": now_ms() << 16,
            "head_seq": 0,
            "head": journal.genesis(
                self.keys.home, self.keys.history, self.keys.wraps.identity_sign
            ),
            "root": journal.root([journal.leaf(change) for change in raw]),
            "count": len(raw),
        }
        encoded = journal.encode_header(journal.Header(**(fields | header)))
        items = tuple(b if isinstance(b, PackItem) else PackItem(b) for b in inline)
        signature = self.sign.sign(journal.to_sign(encoded))
        return CommitRequest(header=encoded, signature=signature, changes=raw, inline=items)

    async def commit(self, asked: CommitRequest) -> Committed:
        committed: Committed = await self.ask("POST", "/sync/commit", asked, into=Committed)
        return committed


def address_of(blob: bytes) -> bytes:
    return hashlib.sha256(blob).digest()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["FakeDevice", "Keys", "Said", "address_of", "encode", "now_ms"]
