"""What the engine knows, and the small verbs all its parts share. No rules in here."""

import heapq
from dataclasses import dataclass, field

from client_agent.core.events import (
    ChangeSpec,
    Choose,
    Commit,
    Effect,
    Happened,
    Queued,
    Read,
    Scope,
    Tell,
)
from client_agent.core.forest import Forest
from client_agent.core.planner import Steps
from client_agent.core.safety import MASS_CHANGE, Breaker
from client_agent.core.trees import Conflict, Cursor, Local, Remote, Stat, Synced
from protocol import clock
from protocol.backoff import NODE, Backoff
from protocol.ids import Dice
from protocol.vector import counter

TRIES_AT_ONCE = 2  # so often a step is tried anew without any wait
TRIES_SHOWN = 3  # a node that failed so often is an error to its user, not a delay


@dataclass(slots=True)
class Loaded:
    """What a device has saved; empty for a fresh one but for the cursor."""

    cursor: Cursor
    local: dict[bytes, Local] = field(default_factory=dict)
    remote: dict[bytes, Remote] = field(default_factory=dict)
    synced: dict[bytes, Synced] = field(default_factory=dict)
    conflicts: dict[bytes, Conflict] = field(default_factory=dict)
    queue: dict[bytes, Queued] = field(default_factory=dict)
    dots: int = 0
    ops: int = 0
    hlc: int = 0
    sent: tuple[Commit, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a node is left alone for now."""

    attempts: int
    until_ms: int
    fault: str


@dataclass(frozen=True, slots=True)
class Taking:
    """A disk step under way: what it makes of the node, and whence. `remote`: as it was then."""

    step: str  # make, put, shift, remove, clash (a conflict name), aside (a name of passage)
    remote: Remote | None
    parent: bytes
    name: str
    source: str = ""
    path: str = ""


@dataclass(slots=True)
class Sending:
    """The one commit that is not closed. It closes when its rows are in the remote tree too."""

    commit: Commit
    specs: dict[int, ChangeSpec]  # by dot
    nodes: frozenset[bytes]
    attempts: int = 0
    under_way: bool = True
    seen_seq: int | None = None  # rows up to here have to be seen; None: not answered yet


class Agenda:
    """A queue by priority, in which a node stands once. Reordering and removal are lazy."""

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[int, ...], bytes]] = []
        self._places: dict[bytes, tuple[int, ...]] = {}

    def push(self, priority: tuple[int, ...], node: bytes) -> None:
        """Put a node in its place; a node that is there already moves."""
        if self._places.get(node) != priority:
            self._places[node] = priority
            heapq.heappush(self._heap, (priority, node))

    def pop(self) -> bytes | None:
        """Take the first node out."""
        while self._heap:
            priority, node = heapq.heappop(self._heap)
            if self._places.get(node) == priority:
                del self._places[node]
                return node
        return None

    def discard(self, node: bytes) -> None:
        """Take a node out, if it is there."""
        self._places.pop(node, None)

    def __len__(self) -> int:
        return len(self._places)


@dataclass(slots=True, eq=False)
class State:
    """Everything the engine knows. Parts of the engine change it; `Engine` turns it to effects."""

    device: bytes
    generation: int
    dice: Dice
    # saved
    cursor: Cursor
    dots: int = 0
    ops: int = 0
    hlc: int = 0
    forest: Forest = field(default_factory=Forest)
    conflicts: dict[bytes, Conflict] = field(default_factory=dict)  # by loser
    sending: Sending | None = None
    unsaved: set[str] = field(default_factory=set)  # of cursor, dots, ops, hlc, sent, generation
    unsaved_conflicts: set[bytes] = field(default_factory=set)
    unsaved_queue: set[bytes] = field(default_factory=set)
    # this turn
    now_ms: int = 0
    out: list[Effect] = field(default_factory=list)
    happened: list[Happened] = field(default_factory=list)
    # the plan
    plans: dict[bytes, Steps] = field(default_factory=dict)
    waits: dict[bytes, Wait] = field(default_factory=dict)
    stuck: dict[bytes, str] = field(default_factory=dict)  # until something changes
    yielded: set[bytes] = field(default_factory=set)
    to_read: Agenda = field(default_factory=Agenda)
    to_send: Agenda = field(default_factory=Agenda)
    to_take: Agenda = field(default_factory=Agenda)
    copies: dict[bytes, list[bytes]] = field(default_factory=dict)  # node of a copy -> losers
    conflicts_of: dict[bytes, list[bytes]] = field(default_factory=dict)  # node -> losers
    copies_due: dict[bytes, None] = field(default_factory=dict)  # losers
    copy_attempts: dict[bytes, int] = field(default_factory=dict)
    choices: dict[bytes, Choose] = field(default_factory=dict)  # by node
    names: dict[bytes, str] = field(default_factory=dict)  # of devices
    # the disk
    scanned: bool = False  # the whole folder, once
    scanning: tuple[Scope, ...] | None = None
    scan_all: bool = False
    rescan_at_ms: int = 0
    scopes: set[str] = field(default_factory=set)  # paths to look at next
    unsure: set[str] = field(default_factory=set)  # paths of our own writes during the scan
    later: set[str] = field(default_factory=set)  # paths to look at when an Apply has ended
    after_scan: set[bytes] = field(default_factory=set)  # nodes that wait for a look at the disk
    emptied_is_fine: bool = False  # the user said so
    missing: dict[bytes, tuple[Local, int]] = field(default_factory=dict)  # vanished; until when
    missing_at: dict[tuple[bytes, str], bytes] = field(default_factory=dict)
    missing_inodes: dict[int, bytes] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    ignored: int = 0
    reading: dict[bytes, Stat] = field(default_factory=dict)
    ingests: int = 0
    reads: dict[bytes, Read] = field(default_factory=dict)
    reads_bytes: int = 0
    taking: dict[bytes, Taking] = field(default_factory=dict)
    applies: int = 0
    # the server
    connected: bool = False
    caught_up: bool = False  # once since we connected
    head_seq: int | None = None  # as far as we heard in this connection
    pulling: bool = False
    pull_wanted: bool = False
    pull_not_before_ms: int = 0
    pull_attempts: int = 0
    after_pull: set[bytes] = field(default_factory=set)
    after_connect: set[bytes] = field(default_factory=set)
    sends_not_before_ms: int = 0
    sends_attempts: int = 0
    commit_changes_max: int = 1000
    renewing: bool = False
    # stops
    paused: bool = False
    holds: dict[str, str] = field(default_factory=dict)
    breaker: Breaker = field(default_factory=Breaker)
    destructive: set[bytes] = field(default_factory=set)  # plans that delete or overwrite
    approved: set[bytes] = field(default_factory=set)  # those that the user let go on
    downloads_not_before_ms: int = 0
    synced_at_ms: int = 0
    stalls: int = 0  # in a row: the plan was not empty, and nothing was under way
    stall_alarm: bool = False
    missed: int = 0  # stalls that a second look ended: each is a bug of ours, healed
    # time
    alarms: list[tuple[int, str, bytes]] = field(default_factory=list)
    wake_at_ms: int | None = None

    def __post_init__(self) -> None:
        for conflict in self.conflicts.values():
            self.index(conflict)

    # ------------------------------------------------------------ time, dice, numbers

    def chance(self) -> float:
        """Throw a number in [0, 1)."""
        return int.from_bytes(self.dice(6), "big") / (1 << 48)

    def alarm(self, at_ms: int, kind: str, node: bytes = b"") -> None:
        """Ask to be woken. A stale alarm does no harm."""
        heapq.heappush(self.alarms, (at_ms, kind, node))

    def due_alarms(self, now_ms: int) -> list[tuple[str, bytes]]:
        """Take out the alarms whose time has come, each once."""
        due: dict[tuple[str, bytes], None] = {}
        while self.alarms and self.alarms[0][0] <= now_ms:
            _, kind, node = heapq.heappop(self.alarms)
            due[kind, node] = None
        return list(due)

    def stamp(self) -> int:
        """Return the hybrid stamp of an edit that is observed now."""
        self.hlc = clock.tick(self.hlc, self.now_ms)
        self.unsaved.add("hlc")
        return self.hlc

    def next_dot(self) -> int:
        """Give out the number of a change; it is saved before it is spoken."""
        self.dots += 1
        self.unsaved.add("dots")
        return counter(self.generation, self.dots)

    # ------------------------------------------------------------ nodes

    def path(self, node: bytes) -> str:
        """Return where a node is for its user: on disk if it is there, else in the journal."""
        found = self.forest.local.path(node)
        if found is None:
            found = self.forest.remote.path(node)
        return "" if found is None else found

    def busy(self, node: bytes) -> bool:
        """Say whether something is under way for a node whose answer has to come first."""
        return node in self.taking or (self.sending is not None and node in self.sending.nodes)

    def wait(self, node: bytes, fault: str, schedule: Backoff = NODE, floor_ms: int = 0) -> None:
        """Leave a node alone for a while, longer each time."""
        old = self.waits.get(node)
        attempts = old.attempts if old else 0
        delay = max(floor_ms, schedule.delay_ms(attempts, self.chance()), 1)
        self.waits[node] = Wait(attempts + 1, self.now_ms + delay, fault)
        self.unsaved_queue.add(node)
        self.alarm(self.now_ms + delay, "node", node)

    def retry(self, node: bytes, fault: str) -> None:
        """Plan a node again as soon as what it waits for is known; wait if that keeps failing."""
        old = self.waits.get(node)
        if old is not None and old.attempts >= TRIES_AT_ONCE:
            self.wait(node, fault)
        else:
            self.waits[node] = Wait(old.attempts + 1 if old else 1, self.now_ms, fault)

    def free(self, node: bytes) -> bool:
        """Say whether a step may be begun for a node now. If not, it will be planned again."""
        return not (
            self.busy(node)
            or self.waiting(node)
            or node in self.after_scan
            or node in self.stuck
            or self.held(node)
        )

    def held(self, node: bytes) -> bool:
        """Say whether a safety stop holds this very node."""
        if MASS_CHANGE not in self.holds or node in self.approved:
            return False
        return node in self.destructive

    def count_destructive(self, node: bytes) -> None:
        """A deletion or an overwrite goes out, or comes in, now."""
        self.destructive.discard(node)
        if node in self.approved:
            self.approved.discard(node)
        else:
            self.breaker.count(1, self.now_ms)

    def waiting(self, node: bytes) -> bool:
        """Say whether a node is left alone for now."""
        wait = self.waits.get(node)
        return wait is not None and wait.until_ms > self.now_ms

    def done(self, node: bytes) -> None:
        """Something worked for this node: forget its failures."""
        if self.waits.pop(node, None) is not None:
            self.unsaved_queue.add(node)

    def forget_read(self, node: bytes) -> None:
        """Drop what an Ingest brought for a node: it is sent, or out of date."""
        read = self.reads.pop(node, None)
        if read is not None:
            self.reads_bytes -= read.inline_bytes

    # ------------------------------------------------------------ speaking

    def tell(self, kind: str, path: str, detail: str = "") -> None:
        """Tell the user."""
        self.out.append(Tell(kind, path, detail))

    def note(self, verb: str, node: bytes, detail: str = "", path: str | None = None) -> None:
        """Write a line of history."""
        where = self.path(node) if path is None else path
        self.happened.append(Happened(self.now_ms, verb, where, node, detail))

    def hold(self, kind: str, detail: str = "") -> None:
        """Stop what this kind of stop stops, and say so once."""
        if kind not in self.holds:
            self.holds[kind] = detail
            self.tell("held", "", f"{kind}: {detail}" if detail else kind)

    def index(self, conflict: Conflict) -> None:
        """Make a conflict findable by its node and by its copy."""
        self.copies.setdefault(conflict.copy, []).append(conflict.loser)
        self.conflicts_of.setdefault(conflict.node, []).append(conflict.loser)

    def yield_place(self, node: bytes) -> None:
        """Our move was part of a cycle: the journal's place counts, and ours is undone."""
        self.yielded.add(node)
        self.forest.touch(node)
        self.tell("moved_back", self.path(node), "a folder cannot move into itself")

    def scan(self, path: str) -> None:
        """Ask for a look at a path and all below it."""
        self.scopes.add(path)


def parent_path(path: str) -> str:
    """Return the path of the directory above."""
    return path.rpartition("/")[0]


def joined(parent: str, name: str) -> str:
    """Return the path of a name in a directory."""
    return f"{parent}/{name}" if parent else name
