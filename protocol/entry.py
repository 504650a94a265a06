"""A node's two facets as the server sees them: place (where) and content (what), both sealed.

Fixed for ever: devices sign these bytes and journals chain them. Fields are only appended.
"""

from enum import IntEnum, StrEnum
from typing import Annotated

from msgspec import Meta

from protocol import limits
from protocol.clock import Hlc
from protocol.ids import Hash, NodeId, VersionId
from protocol.messages import Part
from protocol.vector import EMPTY, Counter, Vector

KeyEpoch = Annotated[int, Meta(ge=1, lt=1 << 32)]
PlaceRev = Annotated[int, Meta(ge=0, lt=1 << 53)]
SizeBytes = Annotated[int, Meta(ge=0, lt=1 << 53)]
SealedName = Annotated[bytes, Meta(max_length=2048)]
SealedManifest = Annotated[bytes, Meta(max_length=limits.MANIFEST_BYTES_MAX)]


class NodeType(IntEnum):
    """What a node is. On the wire and in content ids: never renumber."""

    FILE, DIRECTORY, SYMLINK, MOUNT = 1, 2, 3, 4


class ChangeKind(StrEnum):
    """What a device may do to a node."""

    CREATE = "create"
    MODIFY = "modify"
    MOVE = "move"
    DELETE = "delete"
    RESTORE = "restore"
    SET_HEAD = "set_head"


class Place(Part, frozen=True):
    """Where a node is: its parent, and its name behind a seal and a token (CRYPTO.md 3)."""

    parent: NodeId
    token: Hash
    sealed: SealedName
    key_epoch: KeyEpoch


class ChunkRef(Part, frozen=True):
    """One sealed object in the chunk store: address H = SHA-256 of its bytes, and their count."""

    address: Hash
    size_bytes: SizeBytes


class Content(Part, frozen=True):
    """One version of a node's content. Directories have none.

    `refs` are the version's chunks in file order, or, if `paged`, the pages that list them.
    """

    version: VersionId
    type: NodeType
    content_id: Hash
    key_epoch: KeyEpoch
    manifest: SealedManifest
    refs: Annotated[tuple[ChunkRef, ...], Meta(max_length=limits.VERSION_REFS_MAX)]
    paged: bool = False
    prev: VersionId | None = None


class Change(Part, frozen=True):
    """One change, made and signed on a device. Its encoded bytes are kept as they came.

    kind        place         content     base        place_rev       version
    create      yes           yes         ()          0               -
    modify      -             yes         based on    -               -
    move        yes           -           -           based on        -
    delete      -             -           based on    based on        -
    restore     yes           optional    based on    based on        -
    set_head    -             -           based on    -               to become head

    (`create` of a directory has no content.) `dot` is this device's number of the change, never
    reused; with content the new vector is `base + dot`. `hlc` is when the edit was observed.
    Changes of one commit with the same `group` above 0 are made all or none. `copy_of`: this
    `create` keeps the loser of a conflict as a file of its own (a hint for the ConflictArbiter).
    """

    kind: ChangeKind
    node: NodeId
    type: NodeType
    dot: Counter
    hlc: Hlc
    place_rev: PlaceRev = 0
    base: Vector = EMPTY
    place: Place | None = None
    content: Content | None = None
    version: VersionId | None = None
    group: Annotated[int, Meta(ge=0, le=limits.COMMIT_CHANGES_MAX)] = 0
    copy_of: VersionId | None = None
