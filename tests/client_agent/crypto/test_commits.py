"""Commits and rows: a hostile server that swaps, reorders, drops, replays or forges is caught."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_agent.crypto.commits import (
    RowBroken,
    header_for,
    sign_commit,
    verify_commit,
    verify_row,
    verify_rows,
)
from client_agent.crypto.devices import DeviceSecrets
from protocol.codec import encode
from protocol.entry import Change, ChangeKind, NodeType
from protocol.journal import (
    CommitProof,
    Row,
    RowKind,
    chain,
    decode_row,
    encode_header,
    encode_row,
    genesis,
    leaf,
)
from tests.golden.crypto import fixed, world

W = world()
SPACE, HISTORY = W.keys.space, W.history
DEVICES = {bytes([n]) * 16: DeviceSecrets(fixed(f"s{n}"), fixed(f"b{n}")) for n in (1, 2)}
SIGNERS = {device: secrets.sign_public for device, secrets in DEVICES.items()}
GENESIS = genesis(SPACE, HISTORY, W.account.identity_public)


def change(n: int) -> bytes:
    return encode(Change(
        ChangeKind.DELETE, fixed(f"node {n}", 16), NodeType.FILE, n + 1, n << 16, place_rev=n
    ))


def committed(signer, changes, *, op=1, head_seq=0, head=bytes(32), **lies) -> CommitProof:
    fields = {"space": SPACE, "history": HISTORY, "key_epoch": 1, "device": signer, "op": op,
              "answered": 0, "hlc": 5, "head_seq": head_seq, "head": head}
    header = msgspec.structs.replace(header_for(changes, **fields), **lies)
    raw, signature = sign_commit(DEVICES[signer], header)
    return CommitProof(raw, signature, b"".join(map(leaf, changes)))


def row_of(seq, proof, index, change_bytes, **lies) -> bytes:
    node = msgspec.msgpack.decode(change_bytes)[1]
    fields = {"seq": seq, "kind": RowKind.CHANGE, "server_ms": 1, "node": node,
              "commit": proof.hash, "index": index, "change": change_bytes, **lies}
    return encode_row(Row(**fields))


def journal(sizes) -> tuple[list[bytes], list[CommitProof]]:
    """An honest journal: commits of these many changes by both devices in turn, notes between."""
    rows, proofs, head = [], [], GENESIS
    for op, size in enumerate(sizes, 1):
        changes = [change(len(rows) + i) for i in range(size)]
        device = sorted(DEVICES)[op % 2]
        proof = committed(device, changes, op=op, head_seq=len(rows), head=head)
        proofs.append(proof)
        for i, raw in enumerate(changes):
            rows.append(row_of(len(rows) + 1, proof, i, raw))
            head = chain(head, rows[-1])
        rows.append(encode_row(Row(len(rows) + 1, RowKind.VERSION_PRUNED, 1, fixed("n", 16))))
        head = chain(head, rows[-1])
    return rows, proofs


def verify(rows, proofs, prev_seq=0, head=GENESIS):
    return verify_rows(
        rows, proofs, prev_seq, head, space=SPACE, histories=[HISTORY], signers=SIGNERS
    )


def head_of(rows) -> bytes:
    head = GENESIS
    for row in rows:
        head = chain(head, row)
    return head


@given(st.lists(st.integers(1, 5), max_size=5), st.data())
def test_an_honest_journal_is_believed_page_by_page(sizes, data):
    # Planted: head not moved on between rows; leaf 0 for every row.
    rows, proofs = journal(sizes)
    whole = verify(rows, proofs)
    assert [encode_row(v.row) for v in whole] == rows
    assert [v.change and encode(v.change) for v in whole] == [
        decode_row(r).change or None for r in rows
    ]
    cut = data.draw(st.integers(0, len(rows)))
    first = verify(rows[:cut], proofs)
    seq, head = (first[-1].row.seq, first[-1].head) if first else (0, GENESIS)
    assert first + verify(rows[cut:], proofs, seq, head) == whole
    if whole:
        assert whole[-1].head == head_of(rows)


@pytest.mark.parametrize("from_seq", [0, 2])
def test_two_devices_that_are_told_two_stories_find_out(from_seq):
    """A row is signed over the head its author saw; a forked journal ends in another one."""
    rows, proofs = journal([1])
    seen = rows[:from_seq]
    honest = committed(sorted(DEVICES)[0], [change(7)], op=9, head_seq=2, head=head_of(rows))
    forked = committed(sorted(DEVICES)[0], [change(7)], op=9, head_seq=2, head=b"?" * 32)
    for proof, believed in ((honest, True), (forked, False)):
        shown = [*rows, row_of(3, proof, 0, change(7))][from_seq:]
        if believed:
            assert verify(shown, [*proofs, proof], from_seq, head_of(seen))
        else:
            with pytest.raises(RowBroken, match="another journal"):
                verify(shown, [*proofs, proof], from_seq, head_of(seen))


ROWS, PROOFS = journal([3, 1, 2])
OTHER_ROWS, OTHER_PROOFS = journal([2, 2, 2])


ANYTHING = st.lists(st.sampled_from(ROWS + OTHER_ROWS), max_size=9)
IN_THEIR_PLACES = st.tuples(*map(st.sampled_from, zip(ROWS, OTHER_ROWS, strict=True))).map(list)


@given(ANYTHING | IN_THEIR_PLACES)
def test_no_rearranged_journal_reaches_the_same_head(rows):
    # Planted: seq not compared (a row twice); chain without the former head.
    try:
        verified = verify(rows, [*PROOFS, *OTHER_PROOFS])
    except RowBroken:
        return
    assert [v.row.seq for v in verified] == list(range(1, len(rows) + 1))
    for honest in (ROWS, OTHER_ROWS):
        same = rows == honest[: len(rows)]
        assert (head_of(rows) == head_of(honest[: len(rows)])) == same


@given(st.integers(0, 9), st.integers(0), st.integers(1, 255))
def test_no_changed_byte_keeps_the_head(n, at, flip):
    # Planted: leaf not compared.
    raw = bytearray(ROWS[n % len(ROWS)])
    raw[at % len(raw)] ^= flip
    rows = [bytes(raw) if row == ROWS[n % len(ROWS)] else row for row in ROWS]
    try:
        verified = verify(rows, PROOFS)
    except RowBroken:
        return
    # Facts of the server's own (time, outcome, revision) may differ; then the head does.
    assert verified[-1].head != head_of(ROWS)
    assert [v.change for v in verified] == [v.change for v in verify(ROWS, PROOFS)]


@given(st.integers(0, 2), st.sampled_from(["header", "signature", "leaves"]), st.integers(0),
       st.integers(1, 255))
def test_no_changed_commit_is_believed(n, field, at, flip):
    # Planted: signature not verified; root not compared.
    raw = bytearray(getattr(PROOFS[n], field))
    raw[at % len(raw)] ^= flip
    changed = msgspec.structs.replace(PROOFS[n], **{field: bytes(raw)})
    with pytest.raises(RowBroken):
        verify_commit(changed, SPACE, [HISTORY], SIGNERS)
    with pytest.raises(RowBroken):
        verify(ROWS, [*PROOFS[:n], changed, *PROOFS[n + 1 :]])


A, B = sorted(DEVICES)
ONE = [change(0)]


@pytest.mark.parametrize(
    ("lies", "text"),
    [
        ({"format": 2}, "format 2"), ({"space": bytes(16)}, "another space"),
        ({"history": bytes(16)}, "another space or history"), ({"count": 2}, "number of changes"),
        ({"root": bytes(32)}, "not those that were signed"), ({"device": B}, "not that of"),
        ({"device": bytes(16)}, "nobody has certified"),
    ], ids=str,
)
def test_a_commit_for_elsewhere_is_refused_even_if_signed(lies, text):
    with pytest.raises(RowBroken, match=text):
        verify_commit(committed(A, ONE, **lies), SPACE, {HISTORY}, SIGNERS)


def test_what_is_no_commit_is_refused():
    proof = CommitProof(b"junk", bytes(64), bytes(32))
    with pytest.raises(RowBroken, match="not a commit header"):
        verify_commit(proof, SPACE, {HISTORY}, SIGNERS)
    short = msgspec.structs.replace(committed(A, ONE), leaves=bytes(31))
    with pytest.raises(RowBroken, match="number of changes"):
        verify_commit(short, SPACE, {HISTORY}, SIGNERS)


TWO = [change(0), change(1)]
PROOF = committed(A, TWO, head_seq=4)
COMMITS = {PROOF.hash: verify_commit(PROOF, SPACE, [HISTORY], SIGNERS)}
BROKEN_ROWS = {
    "not a row": b"junk",
    "does not follow": row_of(7, PROOF, 0, TWO[0]),
    "does not follow row": row_of(5, PROOF, 0, TWO[0]),
    "without its commit": row_of(6, PROOF, 0, TWO[0], commit=None),
    "comes without its commit": row_of(6, PROOF, 0, TWO[0], commit=bytes(32)),
    "was not signed": row_of(6, PROOF, 1, TWO[0]),
    "that was not signed": row_of(6, PROOF, 2, TWO[0]),
    "a change that was not signed": row_of(6, PROOF, -1, TWO[1]),
    "carries a change that was not signed": row_of(6, PROOF, 0, change(9)),
    "another node": row_of(6, PROOF, 0, TWO[0], node=bytes(16)),
    "server's own": row_of(6, PROOF, 0, TWO[0], kind=RowKind.TRASH_PURGED),
    "own, yet carries": row_of(6, PROOF, 0, TWO[0], kind=RowKind.TRASH_PURGED, commit=None),
}


@pytest.mark.parametrize(("text", "raw"), BROKEN_ROWS.items(), ids=BROKEN_ROWS)
def test_a_broken_row_is_refused_with_a_reason(text, raw):
    verify_row(row_of(6, PROOF, 0, TWO[0]), 5, GENESIS, COMMITS)
    with pytest.raises(RowBroken, match=text):
        verify_row(raw, 5, GENESIS, COMMITS)


def test_a_row_is_newer_than_what_its_author_had_seen():
    verify_row(row_of(5, PROOF, 0, TWO[0]), 4, GENESIS, COMMITS)
    with pytest.raises(RowBroken, match="older"):
        verify_row(row_of(4, PROOF, 0, TWO[0]), 3, GENESIS, COMMITS)


def test_signed_bytes_that_are_no_change_are_refused():
    proof = committed(A, [b"junk"])
    commits = {proof.hash: verify_commit(proof, SPACE, [HISTORY], SIGNERS)}
    raw = row_of(1, proof, 0, TWO[0], change=b"junk")
    with pytest.raises(RowBroken, match="carries no change"):
        verify_row(raw, 0, GENESIS, commits)


def test_a_commit_sent_again_is_the_same_bytes():
    header = header_for(
        TWO, space=SPACE, history=HISTORY, key_epoch=1, device=A, op=3, answered=2, hlc=9,
        head_seq=4, head=bytes(32), group_id=fixed("group", 16),
    )
    first = sign_commit(DEVICES[A], header)
    assert first == sign_commit(DEVICES[A], header)
    assert first[0] == encode_header(header)
    assert (header.count, header.format, header.group_id) == (2, 1, fixed("group", 16))
