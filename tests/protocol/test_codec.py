"""LP is injective for a known list of types: what is hashed and signed cannot be confused."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Reader, decode, encode, lp, sha256
from protocol.entry import ChunkRef
from protocol.messages.feed import DeviceFrame, Hello, Ping, Pong, ServerFrame

DEVICE = st.binary(min_size=16, max_size=16)
VECTOR = st.lists(st.tuples(DEVICE, st.integers(1, 1 << 53)), max_size=3).map(tuple)
KINDS = {
    bytes: st.binary(max_size=12),
    int: st.integers(0, (1 << 63) - 1),
    str: st.text(max_size=8),
    tuple: VECTOR,
}


def unframe(raw: bytes) -> list[bytes]:
    """Read the framing back, independently of how it is written."""
    fields = []
    while raw:
        size = int.from_bytes(raw[:4], "big")
        assert len(raw) >= 4 + size
        fields.append(raw[4 : 4 + size])
        raw = raw[4 + size :]
    return fields


def unraw(raw: bytes, kind: type) -> object:
    if kind is int:
        assert len(raw) == 8
        return int.from_bytes(raw, "big")
    if kind is str:
        return raw.decode()
    if kind is tuple:
        pairs = [raw[i : i + 24] for i in range(0, len(raw), 24)]
        return tuple((p[:16], int.from_bytes(p[16:], "big")) for p in pairs)
    return raw


@given(st.lists(st.sampled_from(list(KINDS)), max_size=5).flatmap(
    lambda kinds: st.tuples(st.just(kinds), st.tuples(*(KINDS[k] for k in kinds)))
))
def test_the_fields_can_be_read_back(drawn):
    # Planted: no length before text; two bytes of length; counters of 4 bytes.
    kinds, fields = drawn
    raw = unframe(lp(*fields))
    assert tuple(unraw(r, k) for r, k in zip(raw, kinds, strict=True)) == fields


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_two_lists_never_give_the_same_bytes(ours, theirs):
    # Planted: `b"".join(fields)`.
    assert (lp(*ours) == lp(*theirs)) == (ours == theirs)


def test_lp_as_the_design_writes_it():
    assert lp() == b""
    assert lp("ab", 3, b"\xff", ((b"d" * 16, 5),)).hex() == (
        "000000026162" "000000080000000000000003" "00000001ff"
        "00000018" + "64" * 16 + "0000000000000005"
    )


def test_sha256_joins_its_parts():
    assert sha256(b"a", b"", b"bc") == hashlib.sha256(b"abc").digest()
    assert sha256() == hashlib.sha256().digest()


def test_messages_go_out_and_come_in_by_their_tag():
    assert decode(encode(Ping()), ServerFrame) == Ping()
    with pytest.raises(msgspec.ValidationError):
        decode(encode(Pong()), ServerFrame)
    with pytest.raises(msgspec.DecodeError):
        decode(b"\xc1", ServerFrame)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc1", b"\x82\xa1t\xa5hello\xa5knows\x91\xa1\xff", b"\x81\xa1t\xa4\xff\xff\xff\xff",
     b"\x82\xa1t\xa5hello\xa1x" + b"\x91" * 100_000 + b"\xc0", b"\xdd\xff\xff\xff\xff"],
    ids=["empty", "junk", "text", "tag", "depth", "length"],
)
def test_whatever_a_stranger_sends_is_refused_in_one_way(raw):
    with pytest.raises(msgspec.DecodeError):
        decode(raw, DeviceFrame)
    with pytest.raises(msgspec.DecodeError):
        decode(raw, ChunkRef)


def test_json_is_read_the_same_way():
    reader = Reader(Hello, json=True)
    assert reader.decode(b'{"t": "hello", "knows": ["x"]}') == Hello(knows=("x",))
    for raw in (b'{"t": "hello", "knows": ["\xff"]}', b"{x", b'{"t":"hello","x":' + b"[" * 100_000):
        with pytest.raises(msgspec.DecodeError):
            reader.decode(raw)


def test_parts_are_arrays_so_that_fields_can_only_be_appended():
    assert msgspec.msgpack.decode(encode(ChunkRef(b"h" * 32, 7))) == [b"h" * 32, 7]
    longer = msgspec.msgpack.encode([b"h" * 32, 7, "of a later version"])
    assert decode(longer, ChunkRef) == ChunkRef(b"h" * 32, 7)
