"""Signing what this device commits, verifying every row that others did (SYNC.md 6).

A row counts only if the hash chain leads to it, and, if it records a change, only if a device of
a member signed the commit over exactly these change bytes. What a change may do (roles, dots,
outcomes) is judged by whoever knows the tree.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from client_agent.crypto.devices import DeviceSecrets, signed_by
from protocol.codec import Reader
from protocol.entry import Change
from protocol.journal import (
    FORMAT,
    CommitProof,
    Header,
    Row,
    RowKind,
    chain,
    decode_header,
    decode_row,
    encode_header,
    leaf,
    root,
    to_sign,
)


class RowBroken(Exception):
    """The server shows a journal that nobody signed or that does not follow: safe mode."""


@dataclass(frozen=True, slots=True)
class VerifiedRow:
    """A row that may be believed; `head` is the chain's hash after it.

    `header` and `change` are None for rows of the server's own.
    """

    row: Row
    head: bytes
    header: Header | None = None
    change: Change | None = None


def header_for(
    changes: Sequence[bytes], *, space: bytes, history: bytes, key_epoch: int, device: bytes,
    op: int, answered: int, hlc: int, head_seq: int, head: bytes, group_id: bytes | None = None,
) -> Header:
    """Return the header of a commit of these encoded changes (1 to 1000), in their order."""
    leaves = [leaf(change) for change in changes]
    return Header(
        FORMAT, space, history, key_epoch, device, op, answered, hlc, head_seq, head,
        root(leaves), len(leaves), group_id,
    )


def sign_commit(secrets: DeviceSecrets, header: Header) -> tuple[bytes, bytes]:
    """Return header bytes and signature, as a commit request carries them.

    Repeating it gives the same bytes, so a commit may be sent again after a crash.
    """
    raw = encode_header(header)
    return raw, secrets.sign(to_sign(raw))


class Commit(NamedTuple):
    """A commit whose signature and root were verified."""

    proof: CommitProof
    header: Header


def verify_commit(
    proof: CommitProof, space: bytes, histories: Collection[bytes],
    signers: Mapping[bytes, bytes],
) -> Commit:
    """Return a commit, its signature and root verified.

    Args: `histories` that the space has had, as this device knows them; `signers` device id ->
    Ed25519 public key. Raises RowBroken.
    """
    try:
        header = decode_header(proof.header)
    except msgspec.DecodeError as error:
        raise RowBroken(f"not a commit header: {error}") from None
    if header.format != FORMAT:
        raise RowBroken(f"a commit header of format {header.format}")
    if header.space != space or header.history not in histories:
        raise RowBroken("the commit was made for another space or history")
    public = signers.get(header.device)
    if public is None:
        raise RowBroken("the commit is by a device nobody has certified")
    if not signed_by(public, proof.signature, to_sign(proof.header)):
        raise RowBroken("the signature is not that of the device")
    if len(proof.leaves) != 32 * header.count:
        raise RowBroken("the commit has another number of changes")
    if root([proof.leaf(i) for i in range(header.count)]) != header.root:
        raise RowBroken("the changes are not those that were signed")
    return Commit(proof, header)


def verify_row(
    raw: bytes, prev_seq: int, head: bytes, commits: Mapping[bytes, Commit]
) -> VerifiedRow:
    """Return the row after `prev_seq`, whose chain hash is `head`, if it may be believed.

    Args: `commits`, verified ones by their hash. That the chain ends where the server says is
    for the caller to compare. Raises RowBroken.
    """
    try:
        row = decode_row(raw)
    except msgspec.DecodeError as error:
        raise RowBroken(f"not a row: {error}") from None
    if row.seq != prev_seq + 1:
        raise RowBroken(f"row {row.seq} does not follow row {prev_seq}")
    after = chain(head, raw)
    if row.kind is not RowKind.CHANGE:
        if row.commit is not None or row.change:
            raise RowBroken(f"row {row.seq} is the server's own, yet carries a change")
        return VerifiedRow(row, after)
    commit = None if row.commit is None else commits.get(row.commit)
    if commit is None:
        raise RowBroken(f"row {row.seq} comes without its commit")
    proof, header = commit
    if not 0 <= row.index < header.count or leaf(row.change) != proof.leaf(row.index):
        raise RowBroken(f"row {row.seq} carries a change that was not signed")
    if header.head_seq >= row.seq:
        raise RowBroken(f"row {row.seq} is older than what its author had seen")
    return VerifiedRow(row, after, header, _change(row))


_change_decoder: Reader[Change] = Reader(Change)


def _change(row: Row) -> Change:
    try:
        change = _change_decoder.decode(row.change)
    except msgspec.DecodeError as error:
        raise RowBroken(f"row {row.seq} carries no change: {error}") from None
    if change.node != row.node:
        raise RowBroken(f"row {row.seq} is filed under another node than its change")
    return change


def verify_rows(
    rows: Iterable[bytes], proofs: Iterable[CommitProof], prev_seq: int, head: bytes, *,
    space: bytes, histories: Collection[bytes], signers: Mapping[bytes, bytes],
) -> list[VerifiedRow]:
    """Verify a page of the journal, from the cursor (`prev_seq`, `head`) on, in one go.

    Each commit is verified once, however many rows it has. What its author had seen last must lie
    on this chain, as far as the page shows it: a server that tells two devices two stories is
    found out by the first row that one of them makes. Raises RowBroken; nothing of the page may
    then be used.
    """
    commits = {
        proof.hash: verify_commit(proof, space, histories, signers) for proof in proofs
    }
    verified: list[VerifiedRow] = []
    chained = {prev_seq: head} if prev_seq else {}  # the beginning follows from the history
    for raw in rows:
        row = verify_row(raw, prev_seq, head, commits)
        header = row.header
        if header and chained.get(header.head_seq, header.head) != header.head:
            raise RowBroken(f"the author of row {row.row.seq} was shown another journal")
        verified.append(row)
        prev_seq, head = row.row.seq, row.head
        chained[prev_seq] = head
    return verified
