"""The three trees of a device: what is on disk, what the journal says, what both last agreed on.

    local    last seen on disk, by the scan or by our own writes
    remote   last seen in the space's journal
    synced   what both held when they last agreed: the merge base that tells who changed

All are keyed by node id; a local entry that is new gets a fresh id when it is first seen. Rows
are frozen; trees are changed by replacing rows. Names are exact, as the user wrote them; equal
folded names in one directory clash (SYNC.md 4). `ROOT` is the linked folder, in no tree.
"""

from dataclasses import dataclass

from protocol.entry import NodeType
from protocol.vector import EMPTY, Vector


@dataclass(frozen=True, slots=True)
class Stat:
    """What `lstat` says of an entry; a difference in any field causes a reading."""

    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    executable: bool  # the owner's x bit


@dataclass(frozen=True, slots=True)
class Local:
    """An entry on disk. `content_id` is b"" until it was read (always, for a directory).

    `hlc` stamps the observation of its newest edit, and is never made anew for a retry. `racy`:
    it changed so close to being read that the next scan has to read it again.
    """

    node: bytes
    parent: bytes
    name: str
    type: NodeType
    stat: Stat
    content_id: bytes = b""
    target: str = ""  # of a symlink
    hlc: int = 0
    racy: bool = False


@dataclass(frozen=True, slots=True)
class Remote:
    """A node in the journal. Dead nodes stay, for `restore` and for place_rev.

    `vector` is the content's as the server has it now (joined after a conflict).
    """

    node: bytes
    parent: bytes
    name: str
    type: NodeType
    place_rev: int
    alive: bool
    version: bytes = b""  # head; b"" for a directory
    content_id: bytes = b""
    vector: Vector = EMPTY
    size_bytes: int = 0  # plaintext
    mtime_ns: int = 0
    executable: bool = False
    target: str = ""
    fault: str = ""  # why this node cannot be applied here, such as a name that leaves the root
    device: bytes = b""  # that made the head


@dataclass(frozen=True, slots=True)
class Synced:
    """What disk and journal agreed on. `vector` is the base of the next content change."""

    node: bytes
    parent: bytes
    name: str
    type: NodeType
    content_id: bytes = b""
    version: bytes = b""
    vector: Vector = EMPTY


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two edits met on `node`; `loser` is kept as a version, and shall become file `copy`.

    Open until `copy` is live in the remote tree. `ours`: this device made the newcomer.
    """

    node: bytes
    loser: bytes
    head: bytes
    copy: bytes
    seq: int
    at_ms: int
    ours: bool
    loser_device: bytes = b""
    head_device: bytes = b""
    copied: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the remote tree has followed the journal, and its hash there."""

    history: bytes
    seq: int
    hash: bytes
