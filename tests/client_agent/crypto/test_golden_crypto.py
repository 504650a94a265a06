"""What was derived or sealed once is derived and opened the same way for ever."""

import msgspec
import pytest

from client_agent.crypto.chunks import ChunkEntry, open_chunk
from client_agent.crypto.commits import verify_rows
from client_agent.crypto.devices import DeviceSecrets, live, verify_device_list
from client_agent.crypto.keys import (
    MasterKey,
    open_device_name,
    open_keyring,
)
from client_agent.crypto.manifest import PageEntry, open_content, open_manifest, open_page
from client_agent.crypto.names import open_place
from client_agent.crypto.recovery import secret_of
from client_agent.crypto.wraps import (
    recover_account,
    unwrap_account,
    unwrap_mk_for_device,
)
from protocol.entry import ChangeKind, Content, Place
from protocol.journal import CommitProof
from protocol.messages.device import Keyring, SignedEntry, Wraps
from tests.golden.crypto import fixed, make, read, world

GOLDEN = read()
MADE = {name: bytes.fromhex(text) for name, text in GOLDEN["made"].items()}
SEALED = {name: bytes.fromhex(text) for name, text in GOLDEN["sealed"].items()}


@pytest.fixture(scope="module")
def remade():
    return make()


def test_every_vector_is_there(remade):
    assert remade.keys() == MADE.keys(), "run: python -m tests.golden.crypto, and commit"
    assert SEALED.keys() == {"chunk zstd", "chunk zstd entry", "wraps", "mk for device"}


@pytest.mark.parametrize("name", MADE)
def test_a_vector_is_made_as_it_always_was(name, remade):
    assert remade[name] == MADE[name].hex()


def part(raw, type):
    return msgspec.msgpack.decode(raw, type=type)


@pytest.mark.parametrize(
    ("name", "expected"), [("chunk raw 1", "plain"), ("chunk raw 2", "plain")]
)
def test_chunks_open(name, expected):
    w = world()
    entry = part(MADE[f"{name} entry"], ChunkEntry)
    assert open_chunk(w.keys, entry, MADE[name]) == getattr(w, expected)


def test_a_compressed_chunk_of_any_compressor_opens():
    w = world()
    entry = part(SEALED["chunk zstd entry"], ChunkEntry)
    assert open_chunk(w.keys, entry, SEALED["chunk zstd"]) == w.text
    assert entry.sealed_bytes < 200


def test_pages_manifests_and_places_open():
    w = world()
    page = part(MADE["page entry"], PageEntry)
    assert open_page(w.keys, page, MADE["page"]) == w.entries
    assert open_content(w.keys, w.node, part(MADE["content"], Content)) == w.file
    assert open_manifest(w.keys, w.version, 1, MADE["manifest of a link"]) == w.link
    assert open_manifest(w.keys, w.version, 2, MADE["manifest in pages"]) == w.paged
    assert open_place(w.keys, w.node, part(MADE["place"], Place)) == w.name


def test_the_account_opens():
    w = world()
    mk, account = w.account.master, w.account.master.account
    wraps = part(SEALED["wraps"], Wraps)
    assert unwrap_account(fixed("kek"), w.kdf, account, wraps) == w.account
    assert recover_account(w.recovery, account, wraps) == w.account
    device, public = SEALED["mk for device"], w.account.identity_public
    assert unwrap_mk_for_device(w.secrets, account, mk.epoch, w.device, device, public) == mk
    by_password = msgspec.structs.replace(
        wraps, mk_by_password=MADE["mk by password"], box_by_mk=MADE["box by mk"],
        identity_by_password=MADE["identity by password"],
    )
    assert unwrap_account(MADE["kek"], w.kdf, account, by_password) == w.account
    assert secret_of(MADE["recovery words"].decode()) == fixed("recovery")
    assert open_keyring(mk, Keyring(rev=4, sealed=MADE["keyring"])) == w.contents
    assert open_device_name(mk, w.device, MADE["device name"]) == "Läptop"
    assert MasterKey.from_bytes(MADE["master key stored"]) == mk
    assert DeviceSecrets.from_bytes(MADE["device secrets stored"]) == w.secrets


def test_the_device_list_and_the_journal_verify():
    w = world()
    entries = [part(MADE[f"device entry {n}"], SignedEntry) for n in (1, 2, 3)]
    account = w.account.master.account
    devices = verify_device_list(entries, MADE["identity public"], account)
    assert set(live(devices)) == {w.device}
    assert set(devices) == {w.device, fixed("old device", 16)}
    proof = part(MADE["commit proof"], CommitProof)
    rows = verify_rows(
        [MADE["row 1"], MADE["row 2"]], [proof], 0, MADE["genesis"], space=w.keys.space,
        histories=[w.history], signers={w.device: devices[w.device].sign},
    )
    assert [row.change.kind for row in rows] == [ChangeKind.CREATE, ChangeKind.DELETE]
    assert rows[-1].head == MADE["head 2"]
