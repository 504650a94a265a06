"""The listing conversation: what a space holds, read by the gateway without any actor.

    device -> GET /files/?space=&parent=&after=&limit=      gateway -> FileList
    device -> GET /conflicts?space=&state=&after=&limit=    gateway -> ConflictList

Pages follow each other by `after` = the `next` of the page before, until `next` is None.
"""

from protocol.entry import KeyEpoch, NodeType, Place, PlaceRev, SizeBytes
from protocol.ids import DeviceId, Hash, NodeId, SpaceId, VersionId
from protocol.journal import Ms, Seq
from protocol.messages import Message, Part
from protocol.messages.conflict import ConflictId
from protocol.vector import EMPTY, Vector


class FileRow(Message, frozen=True, tag="file"):
    """A live node: its sealed place, and its head version if it has content."""

    file_id: NodeId
    type: NodeType
    place: Place
    place_rev: PlaceRev
    created_ms: Ms
    modified_ms: Ms
    version: VersionId | None = None
    version_number: int = 0
    vector: Vector = EMPTY
    content_id: Hash | None = None
    key_epoch: KeyEpoch | None = None  # of the head's manifest
    size_bytes: SizeBytes = 0  # sealed bytes of the head
    conflicted: bool = False


class FileList(Message, frozen=True, tag="files"):
    """Live nodes in one directory (or in the whole space), by rising file id."""

    space: SpaceId
    files: tuple[FileRow, ...]
    next: NodeId | None = None


class ConflictRow(Part, frozen=True):
    """A conflict's record. `state`: open, copied, resolved."""

    conflict: ConflictId
    space: SpaceId
    node: NodeId
    state: str
    policy: str
    head: VersionId
    loser: VersionId
    head_device: DeviceId
    loser_device: DeviceId
    seq: Seq
    opened_ms: Ms
    copy: NodeId | None = None
    closed_ms: Ms | None = None


class ConflictList(Message, frozen=True, tag="conflicts"):
    """Conflicts of one space, or of all of the account's, by rising conflict id."""

    conflicts: tuple[ConflictRow, ...]
    next: ConflictId | None = None
