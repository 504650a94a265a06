"""What goes into the engine and what comes out: the seam between thinking and doing.

The shell (client_agent/agent.py) feeds events in one at a time and runs the effects. The first
effect of an answer may be `Save`; the shell finishes it before it starts any other (save, then
speak). Every other effect runs on its own and ends in exactly one event, also when it failed.

    effect            event that ends it
    Scan              Scanned
    Ingest            Ingested
    Commit            Committed | CommitFailed
    Pull              Pulled | PullFailed
    Apply             Applied
    Renew             Renewed
    Wake              Woken          (only the newest counts)
    Tell              none

Paths are relative to the linked folder, "/" between names, "" is the folder itself. Nothing here
is secret from the device and nothing here is sealed: the adapters seal, open, sign and verify.
"""

from dataclasses import dataclass

from client_agent.core.asked import Approved as Approved
from client_agent.core.asked import Choose as Choose
from client_agent.core.asked import Named as Named
from client_agent.core.trees import Conflict, Cursor, Local, Remote, Stat, Synced
from protocol.entry import ChangeKind, NodeType
from protocol.journal import Outcome, RowKind
from protocol.vector import EMPTY, Vector

# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Save:
    """Write rows in one SQLite transaction; None deletes. Done before anything is spoken."""

    local: dict[bytes, Local | None]
    remote: dict[bytes, Remote | None]
    synced: dict[bytes, Synced | None]
    conflicts: dict[bytes, Conflict | None]  # by loser version
    queue: dict[bytes, "Queued | None"]  # the plan written down, by node
    cursor: Cursor | None = None
    dots: int | None = None  # number of the last dot given out in this generation
    ops: int | None = None  # number of the last commit given out
    hlc: int | None = None  # newest stamp seen or made
    history: tuple["Happened", ...] = ()
    sent: tuple["Commit", ...] | None = None  # the commit that is not closed; () when it is
    generation: int | None = None  # a new one; dots and ops begin again


@dataclass(frozen=True, slots=True)
class Queued:
    """One line of the offline queue: what shall happen to a node, and why it waits."""

    node: bytes
    step: str  # "send", "take", "read", "copy", …
    path: str
    priority: int
    attempts: int = 0
    not_before_ms: int = 0
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Happened:
    """A line of `history`: a plain verb, such as "uploaded", "renamed", "deleted here"."""

    at_ms: int
    verb: str
    path: str
    node: bytes
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Scope:
    """A part of the disk to look at: one entry, and all below it if `deep`."""

    path: str
    deep: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """List entries and their stats. Reads no file."""

    scopes: tuple[Scope, ...]


@dataclass(frozen=True, slots=True)
class IngestItem:
    """A file or symlink to read: cut, hash, and get its unknown chunks to the server."""

    node: bytes
    path: str
    type: NodeType
    stat: Stat
    fresh_ms: int = 0  # how long its stat has stood still, as far as the engine knows


@dataclass(frozen=True, slots=True)
class Ingest:
    """Read many entries. Small ones keep their sealed chunks at hand for the commit."""

    items: tuple[IngestItem, ...]


@dataclass(frozen=True, slots=True)
class ChangeSpec:
    """A change to make, in the clear; the adapter seals it into a `protocol.entry.Change`.

    Content: `version` names one that was ingested for `node`, or, with `copy_of`, a retained
    version whose content the new node shares (a conflict copy; the adapter draws its id). Place:
    `parent` and `name`. `dot` is a whole counter, generation included (protocol.vector.counter).
    """

    kind: ChangeKind
    node: bytes
    type: NodeType
    dot: int
    hlc: int
    place_rev: int = 0
    base: Vector = EMPTY
    parent: bytes | None = None
    name: str | None = None
    version: bytes | None = None
    prev: bytes | None = None
    copy_of: bytes | None = None
    group: int = 0
    content_id: bytes = b""  # of `version`; for the engine, when its own row comes back


@dataclass(frozen=True, slots=True)
class Commit:
    """Seal, sign, write down and send. The same `op` is sent again, byte for byte, after a crash.

    `cursor` is the head the header names. At most one is under way. `op` and `answered` are whole
    counters, generation included; `answered` is 0 as long as none was.
    """

    op: int
    answered: int
    changes: tuple[ChangeSpec, ...]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch journal rows after the cursor, verify and open them."""

    after: Cursor


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    """Make a directory where nothing is."""

    node: bytes
    path: str


@dataclass(frozen=True, slots=True)
class PutFile:
    """Fetch, verify and place a file, atomically. `expect` None: nothing may be there."""

    node: bytes
    path: str
    expect: Stat | None
    version: bytes
    content_id: bytes
    size_bytes: int
    mtime_ns: int
    executable: bool


@dataclass(frozen=True, slots=True)
class PutLink:
    """Place a symlink, never followed. `expect` None: nothing may be there."""

    node: bytes
    path: str
    expect: Stat | None
    target: str


@dataclass(frozen=True, slots=True)
class Move:
    """Rename; nothing may be at `path`, unless it is the same entry (a case-only rename)."""

    node: bytes
    source: str
    path: str
    expect: Stat  # inode only, for a directory


@dataclass(frozen=True, slots=True)
class Remove:
    """Move a file or link into the local trash; rmdir a directory (never with something in it)."""

    node: bytes
    path: str
    type: NodeType
    expect: Stat


DiskStep = MakeDirectory | PutFile | PutLink | Move | Remove


@dataclass(frozen=True, slots=True)
class Apply:
    """Do steps in order, sharing fetches and fsyncs. A failed one does not stop the others."""

    steps: tuple[DiskStep, ...]


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the server for a new generation of this device: one of its numbers was used twice."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Send `Woken` at this time (device wall clock, ms)."""

    at_ms: int


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the user: `kind` such as "conflict", "held", "fault"; shown, logged, notified."""

    kind: str
    path: str
    detail: str = ""


Effect = Save | Scan | Ingest | Commit | Pull | Apply | Renew | Wake | Tell

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Hinted:
    """The watcher saw something at these paths; `lost`: it may have missed more, look at all."""

    paths: frozenset[str]
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry found on disk; `type` None: neither file, directory nor symlink."""

    path: str
    type: NodeType | None
    stat: Stat
    target: str = ""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What is there now. Parents come before children. What a scope does not list is absent.

    `unreadable`: path -> reason; such an entry and all below it are unknown, not absent.
    `root_fault`: why the folder as a whole cannot be trusted (missing, no marker, other disk).
    """

    scopes: tuple[Scope, ...]
    entries: tuple[Seen, ...]
    unreadable: dict[str, str]
    started_ms: int
    root_fault: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """The content of one ingested entry. Its chunks are on the server or at hand."""

    node: bytes
    stat: Stat  # the same before and after reading
    content_id: bytes
    version: bytes  # fresh id, sealed into its manifest when it is committed
    size_bytes: int
    inline_bytes: int  # sealed bytes that will travel inside the commit
    racy: bool = False


@dataclass(frozen=True, slots=True)
class Unread:
    """An entry that could not be ingested now.

    `reason`: busy (somebody writes it), changed, vanished, unreadable, offline, quota, error.
    """

    node: bytes
    reason: str
    stat: Stat | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Ingested:
    """Results of an Ingest, some of its items; the last part says so."""

    results: tuple[Read | Unread, ...]
    last: bool = True


@dataclass(frozen=True, slots=True)
class ResultAccepted:
    """See protocol.messages.sync.Accepted."""

    seq: int


@dataclass(frozen=True, slots=True)
class ResultConflicted:
    """See protocol.messages.sync.Conflicted; the row tells the rest."""

    seq: int


@dataclass(frozen=True, slots=True)
class ResultRefused:
    """See protocol.messages.sync.Refused; ids in `facts` are hex."""

    code: str
    facts: dict[str, str | int]


ChangeResult = ResultAccepted | ResultConflicted | ResultRefused


@dataclass(frozen=True, slots=True)
class RemoteChange:
    """A verified, opened journal row.

    Place fields are set if the change has a place, content fields if it has content (or, for
    `set_head` and conflicts, of the version that is head now). `vector` is the change's own:
    its base and its dot. `copy`: the id a conflict copy of `loser` must have.
    `place_rev` is the node's after it, as the server says, `place_rev_before` what its author
    signed. `fault`: the row verifies, but its name or manifest cannot be used here.
    """

    seq: int
    hash: bytes  # of the chain, after this row
    kind: RowKind
    node: bytes
    server_ms: int
    change: ChangeKind | None = None
    type: NodeType = NodeType.FILE
    device: bytes = b""
    own: bool = False  # made by this device (any generation)
    dot: int = 0
    op: int = 0
    hlc: int = 0
    place_rev: int = 0
    place_rev_before: int = 0
    parent: bytes | None = None
    name: str | None = None
    version: bytes | None = None
    content_id: bytes = b""
    vector: Vector = EMPTY
    size_bytes: int = 0
    mtime_ns: int = 0
    executable: bool = False
    target: str = ""
    outcome: Outcome = Outcome.ACCEPTED
    head: bytes | None = None
    loser: bytes | None = None
    copy: bytes | None = None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Committed:
    """The server answered commit `op`; results in the order of its changes."""

    op: int
    results: tuple[ChangeResult, ...]
    head_seq: int


@dataclass(frozen=True, slots=True)
class CommitFailed:
    """Commit `op` has no usable answer.

    `fault` is a protocol `Code`, or "offline". `retry`: the same op may be sent again; else it is
    closed, and its changes are planned anew under a new one. `unread`: nodes whose contents have
    to be ingested again (their chunks are neither at hand nor on the server).
    """

    op: int
    fault: str
    retry: bool
    retry_after_ms: int = 0
    unread: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True)
class Pulled:
    """Rows after `prev_seq`, contiguous. From a Pull, a commit's answer or a push alike."""

    history: bytes
    prev_seq: int
    rows: tuple[RemoteChange, ...]
    head_seq: int
    more: bool = False
    asked: bool = True  # False: a push; it ends no Pull


@dataclass(frozen=True, slots=True)
class PullFailed:
    """No rows: "offline", "bad_head" (the chain does not extend ours), or a protocol `Code`."""

    fault: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class StepDone:
    """A disk step was done; `stat` of what is there now, None after a Remove."""

    node: bytes
    stat: Stat | None


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A disk step was not done, and nothing of it remains.

    `reason`: changed (not as expected; look again), exists, missing, not_empty, offline, broken
    (failed verification), disk_full, name, unreadable, error.
    """

    node: bytes
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """Results of an Apply, in the order of its steps, some of them; the last part says so."""

    results: tuple[StepDone | StepFailed, ...]
    last: bool = True


@dataclass(frozen=True, slots=True)
class Connected:
    """The server answers, and its journal stands at `head_seq`."""

    head_seq: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The server does not answer. Everything goes on but the network."""

    fault: str = "offline"


@dataclass(frozen=True, slots=True)
class Renewed:
    """This device has a new generation; None: not now, ask again later."""

    generation: int | None


@dataclass(frozen=True, slots=True)
class Woken:
    """The time of a Wake has come."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The user pauses (True) or resumes (False)."""

    on: bool


@dataclass(frozen=True, slots=True)
class Rescan:
    """Look at everything again: at start, on demand, every hour."""


_FromDisk = Hinted | Scanned | Ingested | Applied
_FromServer = Committed | CommitFailed | Pulled | PullFailed | Connected | Disconnected | Renewed
Event = _FromDisk | _FromServer | Approved | Choose | Named | Paused | Rescan | Woken
