"""Every message ever released decodes for ever; none is added without a specimen."""

import msgspec
import pytest

from protocol.messages import Message, Role, tags
from protocol.messages.conflict import ConflictAnswer, ConflictRequest
from protocol.messages.feed import DeviceFrame, Nudge, ServerFrame
from protocol.messages.sync import CommitRequest, SyncAnswer, SyncRequest
from protocol.messages.upload import UploadAnswer, UploadCommand, UploadRequest
from tests.golden.messages import Maker, agrees, lines, structs, tell

SPECIMENS = lines()
STRUCTS = structs()


@pytest.mark.parametrize("line", SPECIMENS, ids=lambda line: f"{line['name']}-{line['fields']}")
def test_a_specimen_is_read_as_it_was_meant(line):
    value = msgspec.msgpack.decode(bytes.fromhex(line["bytes"]), type=STRUCTS[line["name"]])
    told = tell(value)
    assert agrees(line["says"], told)
    again = msgspec.msgpack.encode(value)
    assert msgspec.msgpack.decode(again, type=type(value)) == value
    if line["fields"] == "full" and agrees(told, line["says"]):  # no field was added since
        assert again.hex() == line["bytes"], "signed and hashed bytes must not change"


def test_every_struct_has_its_specimens():
    have = {(line["name"], line["fields"]) for line in SPECIMENS}
    want = {(name, fields) for name in STRUCTS for fields in ("full", "least")}
    assert want <= have, "run: python -m tests.golden.messages, and commit the lines it adds"
    assert have <= want, "a released message was removed"
    assert len(SPECIMENS) >= len(have)


@pytest.mark.parametrize("name", STRUCTS)
def test_what_is_added_has_a_default(name):
    """A newer peer's extra field is passed over by an older one."""
    struct = STRUCTS[name]
    full = Maker().struct(struct, least=False)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(full))
    if isinstance(plain, dict):
        plain["added_in_2030"] = 1
    else:
        plain.append("added in 2030")
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=struct)
    assert read == full
    assert struct.__struct_config__.frozen


def test_tags_are_found_by_union():
    assert set(tags(SyncRequest)) == {"sync.commit_changes"}
    assert set(tags(SyncAnswer)) == {"sync.committed"}
    assert tags(UploadCommand)["upload.begin"].__name__ == "BeginUpload"
    for union in (UploadAnswer, ConflictRequest, ConflictAnswer, Nudge, ServerFrame, DeviceFrame):
        for tag, struct in tags(union).items():
            assert struct.__struct_config__.tag == tag


def test_who_may_cause_what():
    assert Message.needs is None
    assert CommitRequest.needs is UploadRequest.needs is Role.EDITOR
    assert Role.VIEWER < Role.EDITOR < Role.OWNER
