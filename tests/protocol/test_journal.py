"""The journal's bytes: the root against RFC 6962 as it is written, chains, headers, rows."""

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import journal
from protocol.codec import lp
from protocol.journal import CommitProof, Header, Row, RowKind


def mth(entries: list[bytes]) -> bytes:
    """Merkle tree hash exactly as RFC 6962, 2.1 defines it: recursion on the largest power of 2."""
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1 << (len(entries) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + mth(entries[:k]) + mth(entries[k:])).digest()


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=70))
def test_the_root_is_that_of_rfc_6962(changes):
    # Planted: an odd leaf doubled (as Bitcoin does); leaves without their 00.
    assert journal.root([journal.leaf(c) for c in changes]) == mth(changes)


CHANGES = st.lists(st.binary(max_size=4), min_size=1, max_size=20)


@given(CHANGES, st.data())
def test_two_lists_of_changes_never_share_a_root(ours, data):
    # Planted: leaves sorted before hashing.
    theirs = data.draw(st.permutations(ours) | CHANGES)
    roots = [journal.root([journal.leaf(c) for c in side]) for side in (ours, theirs)]
    assert (roots[0] == roots[1]) == (ours == theirs)


def test_a_leaf_is_no_inner_node():
    left, right = journal.leaf(b"a"), journal.leaf(b"b")
    assert journal.root([left, right]) != journal.leaf(left + right)


def test_a_root_needs_leaves():
    with pytest.raises(AssertionError):
        journal.root([])


def test_the_chain_is_what_sync_md_says():
    space, history, identity = b"s" * 16, b"h" * 16, b"i" * 32
    h0 = journal.genesis(space, history, identity)
    assert h0 == hashlib.sha256(lp("sl1/genesis", space, history, identity)).digest()
    h1 = journal.chain(h0, b"row")
    assert h1 == hashlib.sha256(h0 + b"row").digest()
    assert journal.fork(h1, b"g" * 16) == hashlib.sha256(h1 + b"g" * 16).digest()


HEADER = Header(
    format=1, space=b"s" * 16, history=b"h" * 16, key_epoch=1, device=b"d" * 16, op=1, answered=0,
    hlc=5, head_seq=0, head=bytes(32), root=bytes(32), count=1,
)


def test_headers_and_rows_read_back():
    raw = journal.encode_header(HEADER)
    assert journal.decode_header(raw) == HEADER
    row = Row(1, RowKind.CHANGE, 7, b"n" * 16, bytes(32), 0, b"change")
    assert journal.decode_row(journal.encode_row(row)) == row
    with pytest.raises(msgspec.ValidationError):
        journal.decode_header(journal.encode_row(row))
    assert journal.to_sign(raw) == lp("sl1/commit-header", raw)


def test_a_proof_names_its_commit_and_its_leaves():
    leaves = [journal.leaf(bytes([n])) for n in range(3)]
    proof = CommitProof(b"header", b"g" * 64, b"".join(leaves))
    assert proof.hash == journal.commit_hash(b"header", b"g" * 64)
    assert proof.hash == hashlib.sha256(lp("sl1/commit", b"header", b"g" * 64)).digest()
    assert [proof.leaf(n) for n in range(3)] == leaves
    assert proof.leaf(3) == b""


def test_op_ids_sort_by_device_then_op():
    a, b = b"a" * 16, b"b" * 16
    drawn = [journal.op_id(d, n) for d in (a, b) for n in (1, 255, 256, (1 << 53) - 1)]
    assert drawn == sorted(drawn)
    assert {len(one) for one in drawn} == {24}


def test_row_kinds_and_outcomes_are_frozen():
    assert [str(k) for k in RowKind] == [
        "change", "conflict_opened", "conflict_resolved", "version_pruned", "trash_purged",
    ]
    assert [str(o) for o in journal.Outcome] == ["accepted", "joined", "won", "lost"]
