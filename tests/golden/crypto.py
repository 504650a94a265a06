"""Golden vectors of every derivation and every sealed format: `crypto.json`, in hex.

    python -m tests.golden.crypto         adds what is missing, changes nothing

`made` follows from fixed inputs, byte for byte; `sealed` was made once with real dice or by one
version of a compressor, and must be opened for ever. An entry is never changed or removed once
it is released. (Until 0.1.0 is released an entry may be deleted and made again.)
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from client_agent.crypto.chunks import RAW, ChunkEntry, seal_body, seal_chunk
from client_agent.crypto.commits import header_for, sign_commit
from client_agent.crypto.devices import DeviceSecrets, sign_device_entry
from client_agent.crypto.keys import (
    AccountKeys,
    KeyringContents,
    MasterKey,
    password_keys,
    seal_device_name,
    seal_keyring,
)
from client_agent.crypto.manifest import (
    Manifest,
    PageEntry,
    _seal_page,
    content_id,
    manifest_content_id,
    seal_content,
    seal_manifest,
)
from client_agent.crypto.names import copy_node, seal_place, token
from client_agent.crypto.recovery import RecoveryKeys, words_of
from client_agent.crypto.seal import seal, sub
from client_agent.crypto.space_keys import SpaceKeys
from client_agent.crypto.wraps import (
    wrap_account,
    wrap_mk_for_device,
)
from protocol.codec import encode
from protocol.entry import Change, ChangeKind, NodeType
from protocol.journal import CommitProof, Row, RowKind, chain, encode_row, genesis, leaf
from protocol.messages.device import DeviceAction, Kdf
from protocol.messages.sync import Head

FILE = Path(__file__).with_name("crypto.json")


def fixed(name: str, size_bytes: int = 32) -> bytes:
    """Return bytes that stand for something random, the same for ever."""
    return hashlib.shake_256(name.encode()).digest(size_bytes)


def dice(size_bytes: int) -> bytes:
    return fixed("dice", size_bytes)


@cache
def world() -> SimpleNamespace:
    """The fixed inputs, and the values that the sealed objects stand for."""
    account = AccountKeys(
        MasterKey(fixed("account", 16), 3, fixed("mk")), fixed("identity"), fixed("box")
    )
    keys = SpaceKeys(fixed("space", 16), {1: fixed("SK 1"), 2: fixed("SK 2")})
    entries = tuple(
        ChunkEntry(fixed(f"H{n}"), 1 + n % 2, 65_536 + n, fixed(f"pid{n}"), 66_000 + n)
        for n in range(3)
    )
    node, version, device = (fixed(name, 16) for name in ("node", "version", "device"))
    file = Manifest(
        1, node, NodeType.FILE, sum(e.length for e in entries), 1_795_338_245_123_456_789, True,
        None, 1, entries, prev=fixed("prev", 16),
    )
    link = Manifest(1, node, NodeType.SYMLINK, 0, -1, False, "../élan", 1)
    paged = Manifest(
        1, node, NodeType.FILE, 99, 0, False, None, 1, (),
        (PageEntry(fixed("page 0"), 2, 700, 5, 98), PageEntry(fixed("page 1"), 1, 701, 1, 1)),
    )
    contents = KeyringContents(
        spaces={keys.space: dict(keys.secrets)}, contacts={fixed("friend", 16): fixed("pin")},
        heads=(Head(keys.space, fixed("history", 16), 9, fixed("h9")),),
    )
    return SimpleNamespace(
        account=account, keys=keys, entries=entries, node=node, version=version, device=device,
        file=file, link=link, paged=paged, contents=contents, username="anna",
        password="pa\u0308ssword \ufb01",  # NFKC composes and splits it
        kdf=Kdf(salt_seed=fixed("salt seed", 16)), secrets=DeviceSecrets(
            fixed("device sign"), fixed("device box")
        ),
        recovery=RecoveryKeys.of(fixed("recovery")), plain=fixed("plain", 1000),
        text=b"the quick brown fox " * 100, name="Grüße.TXT", history=fixed("history", 16),
        parent=fixed("parent", 16), at_ms=1_795_338_245_000,
    )


def derivations(w: SimpleNamespace) -> dict[str, bytes]:
    keys, k = w.keys, fixed("key")
    made = {
        "sub": sub(k, "label"),
        "sub in context": sub(k, "label", b"\x01\x02", 7, "text"),
        "seal": seal(k, b"aad", b"plaintext", fixed("r")),
        "seal of nothing": seal(k, b"", b"", fixed("r")),
        "gear seed": keys.gear_seed.to_bytes(8, "big"),
        "pid": keys.pid(w.plain),
        "token": token(keys, w.parent, w.name),
        "copy node": copy_node(keys, w.node, w.version),
        "content id of a file": manifest_content_id(keys, w.file, w.entries),
        "content id of a link": content_id(keys, NodeType.SYMLINK, False, "../élan", 1, ()),
        "content id of nothing": content_id(keys, NodeType.FILE, False, None, 1, ()),
    }
    for epoch in (1, 2):
        made[f"chunk key {epoch}"] = keys.chunk_key(epoch)
        made[f"name key {epoch}"] = keys.name_key(epoch)
        made[f"manifest key {epoch}"] = keys.manifest_key(epoch)
    for name in ("pid", "siv", "cdc", "token", "filehash"):
        made[f"{name} key"] = getattr(keys, f"{name}_key")
    return made


def objects(w: SimpleNamespace) -> dict[str, bytes]:
    keys = w.keys
    content = seal_content(
        keys, w.file, w.version, manifest_content_id(keys, w.file, w.entries), dice
    )
    place = seal_place(keys, w.node, w.parent, w.name, dice)
    page = _seal_page(keys, w.entries)
    raw = {epoch: seal_chunk(keys, w.plain, None, epoch=epoch) for epoch in (1, 2)}
    return {
        "chunk raw 1": raw[1].blob, "chunk raw 1 entry": encode(raw[1].entry),
        "chunk raw 2": raw[2].blob, "chunk raw 2 entry": encode(raw[2].entry),
        "chunk of one byte": seal_chunk(keys, b"x").blob,
        "page": page.blob, "page entry": encode(page.entry),
        "a body": seal_body(keys, "chunk", 1, RAW, b"body", keys.pid(b"body")),
        "content": encode(content), "place": encode(place),
        "manifest of a link": seal_manifest(keys, w.link, w.version, 1, dice),
        "manifest in pages": seal_manifest(keys, w.paged, w.version, 2, dice),
    }


def of_account(w: SimpleNamespace) -> dict[str, bytes]:
    mine = password_keys(w.password, w.username, w.kdf)
    wraps = wrap_account(w.account, mine.kek, w.kdf, w.recovery, dice)
    entries, keys = [], (w.secrets.sign_public, w.secrets.box_public)
    for action, device in (
        (DeviceAction.ADD, w.device), (DeviceAction.ADD, fixed("old device", 16)),
        (DeviceAction.REVOKE, fixed("old device", 16)),
    ):
        entries.append(sign_device_entry(
            w.account.identity, w.account.master.account, entries, action, device, keys, w.at_ms
        ))
    return {
        "auth key": mine.auth_key, "kek": mine.kek,
        "mk by password": wraps.mk_by_password,
        "identity by password": wraps.identity_by_password,
        "box by mk": wraps.box_by_mk,
        "identity public": wraps.identity_sign, "box public": wraps.identity_box,
        "recovery sign public": wraps.recovery_sign, "recovery box public": wraps.recovery_box,
        "recovery sign": w.recovery.sign, "recovery box": w.recovery.box,
        "recovery words": words_of(fixed("recovery")).encode(),
        "keyring": seal_keyring(w.account.master, 4, w.contents, dice).sealed,
        "device name": seal_device_name(w.account.master, w.device, "Läptop", dice),
        "master key stored": w.account.master.to_bytes(),
        "device secrets stored": w.secrets.to_bytes(),
        **{f"device entry {n}": encode(entry) for n, entry in enumerate(entries, 1)},
    }


def of_journal(w: SimpleNamespace) -> dict[str, bytes]:
    keys = w.keys
    place = seal_place(keys, w.node, w.parent, w.name, dice)
    changes = [
        encode(Change(ChangeKind.CREATE, w.node, NodeType.DIRECTORY, 1, 5 << 16, place=place)),
        encode(Change(ChangeKind.DELETE, w.node, NodeType.DIRECTORY, 2, 6 << 16, place_rev=1)),
    ]
    header = header_for(
        changes, space=keys.space, history=w.history, key_epoch=2, device=w.device, op=1,
        answered=0, hlc=6 << 16, head_seq=0, head=bytes(32),
    )
    raw, signature = sign_commit(w.secrets, header)
    proof = CommitProof(raw, signature, b"".join(leaf(change) for change in changes))
    head = genesis(keys.space, w.history, w.account.identity_public)
    made = {"genesis": head, "commit proof": encode(proof), "commit": proof.hash}
    for n, change in enumerate(changes):
        row = encode_row(
            Row(n + 1, RowKind.CHANGE, w.at_ms, w.node, proof.hash, n, change, place_rev=n)
        )
        head = chain(head, row)
        made |= {f"row {n + 1}": row, f"head {n + 1}": head}
    return made


def make() -> dict[str, str]:
    """Return everything that follows from the fixed inputs, in hex."""
    w = world()
    made = {**derivations(w), **objects(w), **of_account(w), **of_journal(w)}
    return {name: value.hex() for name, value in made.items()}


def seal_anew() -> dict[str, str]:
    """Return what comes out different each time, or with another compressor."""
    w = world()
    account = w.account
    wraps = wrap_account(account, fixed("kek"), w.kdf, w.recovery)
    squeezed = seal_chunk(w.keys, w.text)
    device = wrap_mk_for_device(account, w.device, w.secrets.box_public)
    sealed = {
        "chunk zstd": squeezed.blob, "chunk zstd entry": encode(squeezed.entry),
        "wraps": encode(wraps), "mk for device": device,
    }
    return {name: value.hex() for name, value in sealed.items()}


def read() -> dict[str, dict[str, Any]]:
    """Return what the file holds."""
    return json.loads(FILE.read_text()) if FILE.exists() else {"made": {}, "sealed": {}}


def main() -> None:
    have = read()
    for part, anew in (("made", make()), ("sealed", seal_anew())):
        added = anew.keys() - have[part].keys()
        print(f"{part}: adding {sorted(added)}", file=sys.stderr)
        have[part] = {**anew, **have[part]}
    FILE.write_text(json.dumps(have, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
