"""The space as it will be: a view, and over it what the changes of one commit have made of it.

Later changes of a commit see earlier ones. Everything can be undone back to a mark, so that an
atomic group leaves no trace when one of its changes is refused.
"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from actors.core.commit import Commit
from actors.core.quota import Need, Shelf
from actors.records import NewRow, Node, Space, TokenKey, Version, View
from protocol import journal
from protocol.entry import Change
from protocol.faults import Code
from protocol.journal import Outcome, Row, RowKind
from protocol.messages.conflict import ConflictFound, CopyMade, HeadChosen

_ABSENT: Any = object()
Facts = dict[str, str | int]


class Unfit(Exception):
    """One change cannot be made. Becomes its `Refused`; the commit goes on."""

    def __init__(self, code: Code, facts: Facts | None = None, index: int | None = None) -> None:
        """Say why. `index` names the change if it is not the one that is being made."""
        super().__init__(code)
        self.code, self.facts, self.index = code, facts or {}, index


class Claim(NamedTuple):
    """A node that wants a token. Settled at the end of the unit: names may be swapped."""

    key: TokenKey
    node: bytes
    change: int  # index


class Mark(NamedTuple):
    """A point to go back to."""

    undo: int
    rows: int
    told: int
    head: bytes


@dataclass(frozen=True, slots=True)
class Author:
    """Who commits, and what his rows say."""

    device: bytes
    commit: bytes  # hash
    changes: tuple[bytes, ...]
    now_ms: int


class Draft:
    """Overlay of one space during one commit."""

    def __init__(
        self, space: Space, view: View, commit: Commit, now_ms: int, credit_bytes: int
    ) -> None:
        """Begin with nothing changed. `credit_bytes` of the used bytes are reserved for us."""
        self.space, self.view = space, view
        self.author = Author(commit.header.device, commit.hash, commit.command.changes, now_ms)
        self.shelf = Shelf.of(view, commit.command.stored)
        self.nodes: dict[bytes, Node] = {}
        self.versions: dict[bytes, Version] = {}
        self.paid: dict[bytes, int] = {}  # address -> size, newly referred to
        self.used_delta_bytes = 0
        self._room_bytes = space.quota_bytes - space.used_bytes + credit_bytes
        self.rows: list[NewRow] = []
        self.head = space.head
        self.told: list[ConflictFound | CopyMade | HeadChosen] = []
        self._holders: dict[TokenKey, bytes | None] = {}
        self._children: dict[bytes, int] = {}  # live children, of directories that changed
        self._claims: list[Claim] = []
        self._undo: list[tuple[MutableMapping[Any, Any], Any, Any]] = []

    # -- reading ------------------------------------------------------------------------------

    def node(self, node: bytes) -> Node | None:
        """Return a node as it is now."""
        return self.nodes.get(node) or self.view.nodes.get(node)

    def version(self, version: bytes) -> Version | None:
        """Return a version, stored before or by this commit."""
        return self.versions.get(version) or self.view.versions.get(version)

    def holder(self, key: TokenKey) -> bytes | None:
        """Return the live node that holds a token."""
        if key in self._holders:
            return self._holders[key]
        return self.view.holders.get(key)

    def live_children(self, directory: bytes) -> int:
        """Return how many live nodes a directory that is to be deleted has."""
        return len(self.view.children.get(directory, ())) + self._children.get(directory, 0)

    def cost_bytes(self, need: Need) -> int:
        """Return what storing a version would add to the used bytes."""
        return sum(size for address, size in need.unpaid.items() if address not in self.paid)

    def room_bytes(self) -> int:
        """Return what is left of the owner's quota; below 0 if it was made smaller."""
        return self._room_bytes - self.used_delta_bytes

    # -- changing -----------------------------------------------------------------------------

    def put(self, node: Node, index: int) -> None:
        """Make `node` what it is from now on, and keep its directories' tokens and counts.

        Its token is only claimed: `settle` says whether it is free.
        """
        before = self.node(node.node)
        self._set(self.nodes, node.node, node)
        was = (before.parent, before.token) if before and before.alive else None
        now = (node.parent, node.token) if node.alive else None
        if was == now:
            return
        if was:
            self._count(was[0], -1)
            if self.holder(was) == node.node:
                self._set(self._holders, was, None)
        if now:
            self._count(now[0], +1)
            self._claims.append(Claim(now, node.node, index))

    def settle(self) -> None:
        """Give the claimed tokens to their nodes. Raises Unfit NAME_TAKEN for the first clash."""
        claims, self._claims = self._claims, []
        for claim in claims:
            node = self.nodes[claim.node]
            if not node.alive or (node.parent, node.token) != claim.key:
                continue  # it went on to another place, or died, within the group
            holder = self.holder(claim.key)
            if holder is not None and holder != claim.node:
                raise Unfit(Code.NAME_TAKEN, self._name_taken(holder), claim.change)
            self._set(self._holders, claim.key, claim.node)

    def store(self, version: Version, need: Need) -> None:
        """Keep a new version, and pay for the chunks nobody referred to."""
        self._set(self.versions, version.version, version)
        for address, size_bytes in need.unpaid.items():
            if address not in self.paid:
                self._set(self.paid, address, size_bytes)
                self.used_delta_bytes += size_bytes

    def append_change(
        self, index: int, change: Change, node: Node, outcome: Outcome, loser: bytes | None
    ) -> int:
        """Append the row of change number `index`, that made `node` what it is; return its seq."""
        row = Row(
            seq=self._next_seq(),
            kind=RowKind.CHANGE,
            server_ms=self.author.now_ms,
            node=node.node,
            commit=self.author.commit,
            index=index,
            change=self.author.changes[index],
            outcome=outcome,
            head=node.head,
            loser=loser,
            place_rev=node.place_rev,
        )
        self._append(row, str(change.kind), change.dot)
        return row.seq

    def append_event(self, kind: RowKind, node: bytes, head: bytes, loser: bytes | None) -> None:
        """Append a row of the server's own; it moves nothing."""
        row = Row(
            seq=self._next_seq(),
            kind=kind,
            server_ms=self.author.now_ms,
            node=node,
            head=head,
            loser=loser,
        )
        self._append(row, str(kind), 0)

    # -- undoing ------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Return the present state, to go back to. Claims are settled by now."""
        assert not self._claims
        return Mark(len(self._undo), len(self.rows), len(self.told), self.head)

    def rollback(self, mark: Mark) -> None:
        """Undo everything since the mark."""
        while len(self._undo) > mark.undo:
            mapping, key, old = self._undo.pop()
            if mapping is self.paid:
                self.used_delta_bytes -= self.paid[key]
            if old is _ABSENT:
                del mapping[key]
            else:
                mapping[key] = old
        del self.rows[mark.rows :], self.told[mark.told :]
        self.head = mark.head
        self._claims = []

    def _set(self, mapping: MutableMapping[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _count(self, directory: bytes, amount: int) -> None:
        self._set(self._children, directory, self._children.get(directory, 0) + amount)

    def _next_seq(self) -> int:
        return self.space.head_seq + len(self.rows) + 1

    def _append(self, row: Row, event: str, dot: int) -> None:
        raw = journal.encode_row(row)
        self.head = journal.chain(self.head, raw)
        device = self.author.device if row.commit else b""
        self.rows.append(
            NewRow(row.seq, raw, self.head, row.kind, event, row.node, device, dot, row.commit)
        )

    def _name_taken(self, holder: bytes) -> Facts:
        node = self.node(holder)
        assert node, "a view has the nodes of its holders"
        content_id = node.content_id.hex()
        return {"holder": holder.hex(), "type": int(node.type), "content_id": content_id}
