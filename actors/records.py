"""Rows as the actors see them: plain frozen facts, no behaviour, the same on every store.

A `Turn` reads them (`Space`, `Node`, `View`) and writes them (`Batch`); the pure `core` decides
in between. Ids are raw bytes, sizes bytes, times milliseconds since the Unix epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.entry import ChunkRef, NodeType
from protocol.journal import RowKind
from protocol.messages import Role
from protocol.vector import EMPTY, Vector

TokenKey = tuple[bytes, bytes]  # (parent node, name token): unique among live nodes of a space


@dataclass(frozen=True, slots=True)
class Space:
    """A space, locked for this turn, as `account` sees it."""

    space: bytes
    owner: bytes
    history: bytes
    key_epoch: int
    head_seq: int
    head: bytes
    policy: str  # "automatic" or "manual"
    role: Role | None  # of the account that asks; None: not a member
    suspended: bool  # the owner's account
    quota_bytes: int
    used_bytes: int  # of the owner, over all spaces, open reservations included


@dataclass(frozen=True, slots=True)
class Node:
    """A node with both facets. `vector` covers content only and outlives a deletion."""

    node: bytes
    type: NodeType
    parent: bytes
    token: bytes
    sealed_name: bytes
    name_epoch: int
    place_rev: int
    alive: bool
    created_ms: int
    modified_ms: int
    head: bytes | None = None  # version id; None for a directory
    vector: Vector = EMPTY
    content_id: bytes = b""
    hlc: int = 0  # of the head
    device: bytes = b""  # of the head
    version_number: int = 0  # of the newest version
    size_bytes: int = 0  # sealed bytes of the head's chunks
    place_hash: bytes = b""  # SHA-256 of the sealed place, for the Merkle leaf
    manifest_hash: bytes = b""  # SHA-256 of the head's sealed manifest, or b""
    conflicted: bool = False


@dataclass(frozen=True, slots=True)
class Version:
    """One accepted content of a node."""

    version: bytes
    node: bytes
    number: int
    content_id: bytes
    vector: Vector
    manifest: bytes
    manifest_key_epoch: int
    refs: tuple[ChunkRef, ...]
    paged: bool
    size_bytes: int
    device: bytes
    hlc: int
    created_ms: int
    prev: bytes | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a turn has to know before it can decide: the keys of a `View`, gathered beforehand."""

    nodes: frozenset[bytes] = frozenset()  # and, of each, all ancestors up to the root
    tokens: frozenset[TokenKey] = frozenset()
    emptied: frozenset[bytes] = frozenset()  # directories that would be deleted
    versions: frozenset[bytes] = frozenset()
    chunks: frozenset[bytes] = frozenset()
    dots: frozenset[int] = frozenset()  # of the committing device


@dataclass(frozen=True, slots=True)
class Held:
    """A chunk that a space holds: referred to by one of its versions, or leased (not yet expired).

    `refs` are what it was declared to list when the space first got it; only pages list any.
    """

    size_bytes: int
    referenced: bool  # by a version of this space, directly or through a page: it is paid for
    refs: tuple[ChunkRef, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What the store answered to `Wanted`. What is absent does not exist.

    `held` and `missing` together tell of every wanted chunk, and of every chunk that the held
    pages among them list. `answered_op` is the greatest op of the committing device whose answer
    it has read (see `Turn.forget_answers`): a commit that is not newer is a late duplicate.
    """

    nodes: Mapping[bytes, Node] = field(default_factory=dict)
    holders: Mapping[TokenKey, bytes] = field(default_factory=dict)  # live; also in `nodes`
    children: Mapping[bytes, frozenset[bytes]] = field(default_factory=dict)  # live, of `emptied`
    versions: Mapping[bytes, Version] = field(default_factory=dict)
    missing: frozenset[bytes] = frozenset()  # chunks this space does not hold
    dots: Mapping[int, bytes] = field(default_factory=dict)  # counter -> row bytes
    held: Mapping[bytes, Held] = field(default_factory=dict)
    answered_op: int = 0


@dataclass(frozen=True, slots=True)
class NewRow:
    """A journal row to append. Change rows carry the device's numbers, for later look-ups."""

    seq: int
    raw: bytes
    hash: bytes
    kind: RowKind
    event: str  # a ChangeKind, or the RowKind
    node: bytes
    device: bytes = b""
    dot: int = 0
    commit: bytes | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A durable object and, if it is a page, the chunks it lists."""

    address: bytes
    size_bytes: int
    refs: tuple[ChunkRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Proof:
    """The commit behind rows: what `CommitProof` sends to peers."""

    commit: bytes
    header: bytes
    signature: bytes
    leaves: bytes
    device: bytes
    op: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one turn of UserSync writes, applied as a whole or not at all.

    The store refuses it (`Overtaken`) when the space's head is no longer `prev_seq`. Without rows
    it only makes `chunks` known. `used_delta_bytes` is the size of the chunks that the space
    refers to from now on and did not before, each counted once; the store adds it to the owner's
    used bytes, so that these are always the sum of what is referenced and reserved.
    """

    space: bytes
    owner: bytes
    prev_seq: int
    head_seq: int
    head: bytes
    at_ms: int
    rows: tuple[NewRow, ...]
    nodes: tuple[Node, ...]  # whole rows, to insert or replace
    versions: tuple[Version, ...]  # new ones; their refs are counted
    chunks: tuple[Chunk, ...]  # stored with this commit: leased for limits.LEASE_S, if unknown
    merkle: Mapping[int, int]  # bucket (first two bytes of node id) -> to add, mod 2**256
    used_delta_bytes: int
    proof: Proof | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload session. `state`: open, committed, cancelled, expired."""

    upload: bytes
    owner: bytes
    space: bytes
    device: bytes
    state: str
    refs: tuple[ChunkRef, ...]
    reserved_bytes: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """A conflict's record. `state`: open, copied, resolved."""

    conflict: bytes
    space: bytes
    node: bytes
    state: str
    policy: str
    head: bytes
    loser: bytes
    head_device: bytes
    loser_device: bytes
    seq: int
    opened_ms: int
    copy: bytes | None = None
    closed_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An inbox row: what a message was answered, and the fingerprint of what it said."""

    fingerprint: bytes
    answer: bytes
