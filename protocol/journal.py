"""The journal's bytes: signed commit headers, rows and the hash chain over them (SYNC.md 6).

    leaf_i = SHA-256(00 || change bytes)          root = Merkle tree over the leaves (RFC 6962)
    commit = SHA-256(LP("sl1/commit", header, signature))
    h_0 = SHA-256(LP("sl1/genesis", space, history, owner's identity key))
    h_n = SHA-256(h_{n-1} || row bytes)           first row of a new history: see `fork`

Bytes are hashed and passed on exactly as their author made them; nobody encodes them again.
"""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from protocol import limits
from protocol.clock import Hlc
from protocol.codec import Reader, lp, sha256
from protocol.entry import KeyEpoch, PlaceRev
from protocol.ids import DeviceId, Hash, HistoryId, Id, NodeId, SpaceId, VersionId
from protocol.messages import Part
from protocol.vector import Counter

Seq = Annotated[int, Meta(ge=0, lt=1 << 53)]
Ms = Annotated[int, Meta(ge=0, lt=1 << 53)]  # milliseconds since the Unix epoch
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]


class Header(Part, frozen=True):
    """What a device signs: once per commit, for all its changes.

    `head_seq` and `head` name the newest journal row the device has verified.
    """

    format: int
    space: SpaceId
    history: HistoryId
    key_epoch: KeyEpoch
    device: DeviceId
    op: Counter  # number of the commit, rising within a device
    answered: Annotated[int, Meta(ge=0, lt=1 << 53)]  # every op up to this one has its answer
    hlc: Hlc
    head_seq: Seq
    head: Hash
    root: Hash
    count: Annotated[int, Meta(ge=1, le=limits.COMMIT_CHANGES_MAX)]
    group_id: Id | None = None  # ties several commits into one operation


FORMAT = 1


class RowKind(StrEnum):
    """What a row records. `change` is a device's; the others are the server's, and move nothing."""

    CHANGE = "change"
    CONFLICT_OPENED = "conflict_opened"
    CONFLICT_RESOLVED = "conflict_resolved"
    VERSION_PRUNED = "version_pruned"
    TRASH_PURGED = "trash_purged"


class Outcome(StrEnum):
    """What became of an accepted change."""

    ACCEPTED = "accepted"
    JOINED = "joined"  # equal content met: both vectors joined, the head stays
    WON = "won"  # concurrent; the newcomer is head, the former head lost
    LOST = "lost"  # concurrent; the newcomer is a version, the head stays


class Row(Part, frozen=True):
    """One row of a journal. Verifiable from the chain and the commit's proof alone.

    For a change: `commit` is the hash of its header and signature, `index` its place among the
    leaves, `change` its exact bytes, `place_rev` the node's after it, `loser` the version that
    lost if there was a conflict. For `conflict_opened`: `node`, `head`, `loser`.
    """

    seq: Seq
    kind: RowKind
    server_ms: Ms
    node: NodeId
    commit: Hash | None = None
    index: int = 0
    change: bytes = b""
    outcome: Outcome = Outcome.ACCEPTED
    head: VersionId | None = None
    loser: VersionId | None = None
    place_rev: PlaceRev = 0


class CommitProof(Part, frozen=True):
    """What verifies the rows of one commit: header bytes, signature, all leaves (32 bytes each)."""

    header: bytes
    signature: Signature
    leaves: bytes

    @property
    def hash(self) -> bytes:
        """The hash that the commit's rows name."""
        return commit_hash(self.header, self.signature)

    def leaf(self, index: int) -> bytes:
        """Return leaf `index`."""
        return self.leaves[32 * index : 32 * index + 32]


_header: Reader[Header] = Reader(Header)
_row: Reader[Row] = Reader(Row)
_encoder = msgspec.msgpack.Encoder()


def encode_header(header: Header) -> bytes:
    """Return the bytes to sign."""
    return _encoder.encode(header)


def decode_header(raw: bytes) -> Header:
    """Read header bytes. Raises msgspec.DecodeError."""
    return _header.decode(raw)


def encode_row(row: Row) -> bytes:
    """Return the bytes that are chained and stored."""
    return _encoder.encode(row)


def decode_row(raw: bytes) -> Row:
    """Read row bytes. Raises msgspec.DecodeError."""
    return _row.decode(raw)


def to_sign(header: bytes) -> bytes:
    """Return what the device's Ed25519 key signs: never the same bytes as another purpose's."""
    return lp("sl1/commit-header", header)


def op_id(device: bytes, op: int) -> bytes:
    """Return the inbox key of a device's commit number `op`: it sorts by device, then by op."""
    return device + op.to_bytes(8, "big")


def commit_hash(header: bytes, signature: bytes) -> bytes:
    """Return the hash that names a commit in its rows."""
    return sha256(lp("sl1/commit", header, signature))


def leaf(change: bytes) -> bytes:
    """Return the leaf of a change's exact bytes."""
    return sha256(b"\x00", change)


def root(leaves: list[bytes]) -> bytes:
    """Return the Merkle tree hash of one or more leaves (RFC 6962, section 2.1)."""
    assert leaves
    level = leaves
    while len(level) > 1:
        pairs = [sha256(b"\x01", *level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + ([level[-1]] if len(level) % 2 else [])
    return level[0]


def genesis(space: bytes, history: bytes, identity: bytes) -> bytes:
    """Return h_0 of a space; `identity` is its owner's Ed25519 public key (32 bytes)."""
    return sha256(lp("sl1/genesis", space, history, identity))


def chain(head: bytes, row: bytes) -> bytes:
    """Return h_n from h_{n-1} and the bytes of row n."""
    return sha256(head, row)


def fork(head: bytes, history: bytes) -> bytes:
    """Return the first hash of a new history that forks off after `head` (a restored server)."""
    return sha256(head, history)
