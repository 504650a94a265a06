"""The simulated world's server with UserSync's own admission and store behind it.

Nothing is sealed: a name and a content lie open where their seals would be. Everything else is
what the real server decides, orders, refuses and repeats.
"""

from dataclasses import replace

import msgspec

from client_agent.core import events as e
from protocol import journal
from protocol.codec import encode, sha256
from protocol.entry import Change, ChangeKind, ChunkRef, NodeType, Place
from protocol.entry import Content as SealedContent
from protocol.faults import Refusal as WholeRefusal
from protocol.journal import Header, Outcome, Row, RowKind
from protocol.messages.sync import Accepted, CommitChanges, Conflicted, Refused, StoredChunk
from protocol.names import fold
from protocol.vector import EMPTY, add
from tests.actors.bench import Bench, check_invariants
from tests.client_agent.core.sim_disk import SYMLINK
from tests.client_agent.core.sim_server import Content, Node, Server
from tests.contracts.pen import SIGNATURE


class AdmittingServer(Server):
    """Same face as the small server; what it says comes from `actors.core.admission`."""

    def __init__(self):
        super().__init__()
        self.bench = Bench()
        self.hashes: list[bytes] = []

    def commit(self, device: bytes, op: int, changes, now_ms: int) -> e.Committed:
        """Raises protocol.faults.Refusal for a commit that is refused as a whole."""
        self.bench.clock.ms = now_ms
        sealed = [self._seal(spec, content) for spec, content in changes]
        command = self._command(device, op, [change for change, _ in sealed], [
            stored for _, stored in sealed if stored
        ])  # fmt: skip
        before = len(self.rows)
        answer = self.bench.decide(command).answer
        for new in self.bench.store.rows(self.bench.space, before):
            self._follow(journal.decode_row(new.raw), new.hash, new.device)
        return e.Committed(op, tuple(map(_result, answer.results)), answer.head_seq)

    def _seal(self, spec: e.ChangeSpec, content: Content | None):
        if spec.copy_of is not None:
            lost = self.contents[spec.copy_of]
            content = replace(lost, version=sha256(b"copy", spec.node, lost.version)[:16])
        stored = sealed = None
        if content is not None:
            self.contents.setdefault(content.version, content)
            stored = StoredChunk(sha256(content.data), max(1, len(content.data)))
            sealed = SealedContent(
                content.version, content.type, content.id, 1, b"manifest " + content.version,
                (ChunkRef(stored.address, stored.size_bytes),),
            )  # fmt: skip
        place = None
        if spec.parent is not None:
            token = sha256(spec.parent, fold(spec.name).encode())
            place = Place(spec.parent, token, spec.name.encode(), 1)
        change = Change(
            kind=ChangeKind(spec.kind), node=spec.node, type=spec.type, dot=spec.dot,
            hlc=spec.hlc, place_rev=spec.place_rev, base=spec.base, place=place, content=sealed,
            version=spec.version if spec.kind is ChangeKind.SET_HEAD else None,
            group=spec.group, copy_of=spec.copy_of,
        )  # fmt: skip
        return change, stored

    def _command(self, device, op, changes, stored) -> CommitChanges:
        raws = tuple(encode(change) for change in changes)
        bench = self.bench
        history, head_seq, head = bench.store.head(bench.space)
        header = Header(
            journal.FORMAT, bench.space, history, 1, device, op, 0, 0, head_seq, head,
            journal.root([journal.leaf(raw) for raw in raws]), len(raws),
        )  # fmt: skip
        return CommitChanges(
            space=bench.space, account=bench.owner, device=device,
            header=journal.encode_header(header), signature=SIGNATURE, changes=raws,
            stored=tuple({chunk.address: chunk for chunk in stored}.values()),
        )  # fmt: skip

    def _follow(self, row: Row, hash_: bytes, device: bytes) -> None:
        """Open a row as the device's adapter would, and keep the node for the world's checks."""
        opened = e.RemoteChange(row.seq, hash_, row.kind, row.node, row.server_ms)
        node = self.bench.node(row.node)
        self.nodes[row.node] = Node(
            row.node, node.parent, node.sealed_name.decode(), node.type, node.place_rev,
            node.alive, node.head or b"", node.vector,
        )  # fmt: skip
        if row.kind is RowKind.CHANGE:
            change = msgspec.msgpack.decode(row.change, type=Change)
            opened = self._opened(opened, row, change, device)
        self.rows.append(opened)

    def _opened(self, opened, row: Row, change: Change, device: bytes) -> e.RemoteChange:
        shown = None
        if change.content or change.kind is ChangeKind.SET_HEAD:
            shown = self.contents[row.head]
        if row.outcome is Outcome.ACCEPTED and change.content:
            shown = self.contents[change.content.version]
        contained = change.content is not None or change.kind is ChangeKind.SET_HEAD
        return replace(
            opened,
            change=change.kind, type=change.type, device=device, dot=change.dot,
            hlc=change.hlc, place_rev=row.place_rev, place_rev_before=change.place_rev,
            parent=change.place.parent if change.place else None,
            name=change.place.sealed.decode() if change.place else None,
            version=shown.version if shown else None,
            content_id=shown.id if shown else b"",
            vector=add(change.base, (device, change.dot)) if contained else EMPTY,
            size_bytes=len(shown.data) if shown else 0, mtime_ns=shown.mtime if shown else 0,
            executable=shown.executable if shown else False,
            target=shown.data.decode() if shown and shown.type is SYMLINK else "",
            outcome=row.outcome, head=row.head, loser=row.loser,
            copy=sha256(b"copy", row.node, row.loser)[:16] if row.loser else None,
        )  # fmt: skip

    def check(self) -> None:
        """I1, I6, I8, I9 and the Merkle sums, as the server's own tests look at them."""
        check_invariants(self.bench)


def _result(result: Accepted | Conflicted | Refused) -> e.ChangeResult:
    if isinstance(result, Refused):
        return e.ResultRefused(result.code, dict(result.facts))
    if isinstance(result, Conflicted):
        return e.ResultConflicted(result.seq)
    return e.ResultAccepted(result.seq)


__all__ = ["AdmittingServer", "NodeType", "WholeRefusal"]
