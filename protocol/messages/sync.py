"""The sync conversation: a device commits changes; UserSync admits them and writes the journal.

    device -> POST /sync/commit (CommitRequest)
    gateway -> CommitChanges to user-sync/<owner>   (inline chunks are durable by then)
    user-sync -> Committed, or a Fault for the commit as a whole
    device -> GET /sync/changes -> ChangesPage      (read by the gateway, no actor)

Safe to repeat: the op in the header is the key; the same op is answered as it was the first time.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from protocol import limits
from protocol.entry import ChunkRef, PlaceRev, SizeBytes
from protocol.ids import DeviceId, Hash, HistoryId, SpaceId, UploadId, UserId, VersionId
from protocol.journal import CommitProof, Ms, Seq, Signature
from protocol.messages import Message, Part, Role


class PackItem(Part, frozen=True):
    """One sealed chunk or page, whole. A page declares the chunks that it lists, in order."""

    blob: Annotated[bytes, Meta(min_length=1, max_length=limits.CHUNK_BYTES_MAX)]
    refs: Annotated[tuple[ChunkRef, ...], Meta(max_length=limits.PAGE_ENTRIES_MAX)] = ()


Changes = Annotated[
    tuple[bytes, ...], Meta(min_length=1, max_length=limits.COMMIT_CHANGES_MAX)
]


class CommitRequest(Message, frozen=True, tag="sync.commit"):
    """Body of `POST /sync/commit`: encoded `Header`, its signature, encoded `Change`s in order.

    `inline` carries chunks of small files, so that one round trip is enough.
    """

    needs: ClassVar = Role.EDITOR
    header: bytes
    signature: Signature
    changes: Changes
    inline: Annotated[tuple[PackItem, ...], Meta(max_length=limits.PACK_CHUNKS_MAX)] = ()
    upload: UploadId | None = None  # the session this commit closes


class StoredChunk(Part, frozen=True):
    """A chunk or page that the gateway has made durable for this commit, before it asks."""

    address: Hash
    size_bytes: SizeBytes
    refs: tuple[ChunkRef, ...] = ()


class CommitChanges(Message, frozen=True, tag="sync.commit_changes"):
    """Gateway to UserSync. Signature, device and size limits are checked; the role is not."""

    space: SpaceId
    account: UserId  # who commits
    device: DeviceId
    header: bytes
    signature: Signature
    changes: Changes
    stored: tuple[StoredChunk, ...] = ()
    upload: UploadId | None = None


class Accepted(Message, frozen=True, tag="accepted"):
    """The change is in the journal. `place_rev` is the node's after it."""

    seq: Seq
    place_rev: PlaceRev = 0


class Conflicted(Message, frozen=True, tag="conflict"):
    """The change is in the journal, and was concurrent with another: `loser` needs a copy."""

    seq: Seq
    head: VersionId
    loser: VersionId
    place_rev: PlaceRev = 0


class Refused(Message, frozen=True, tag="refused"):
    """The change was not made. `code` is a `Code`; facts help the device to plan again."""

    code: str
    facts: dict[str, str | int] = {}  # ids as hex


Result = Accepted | Conflicted | Refused


class Committed(Message, frozen=True, tag="sync.committed"):
    """One result per change, in order. `prev_seq` is the head before this commit."""

    results: tuple[Result, ...]
    history: HistoryId
    prev_seq: Seq
    head_seq: Seq
    head: Hash
    rows: tuple[bytes, ...] = ()  # the rows it made, so that the device need not fetch its own


class ChangesPage(Message, frozen=True, tag="sync.changes"):
    """Rows after `prev_seq`, contiguous, with the proofs of their commits, each once."""

    space: SpaceId
    history: HistoryId
    prev_seq: Seq
    rows: tuple[bytes, ...]
    commits: tuple[CommitProof, ...]
    head_seq: Seq
    head: Hash
    more: bool = False


class Head(Part, frozen=True):
    """Where a journal stands, or how far a device has read it."""

    space: SpaceId
    history: HistoryId
    seq: Seq
    hash: Hash


class Heartbeat(Message, frozen=True, tag="sync.heartbeat"):
    """Body of `POST /sync/heartbeat`: the device lives, and has applied this much."""

    cursors: Annotated[tuple[Head, ...], Meta(max_length=limits.SPACES_MAX)] = ()


class Heartbeaten(Message, frozen=True, tag="sync.heartbeaten"):
    """The journals' heads now, and the server's clock."""

    server_ms: Ms
    heads: tuple[Head, ...]


SyncRequest = CommitChanges
SyncAnswer = Committed
