"""Writes commits as a device does, but seals nothing: what the server sees looks the same."""

from dataclasses import dataclass, field
from itertools import count

from protocol import journal
from protocol.clock import stamp
from protocol.codec import encode, sha256
from protocol.entry import Change, ChangeKind, ChunkRef, Content, NodeType, Place
from protocol.ids import ROOT
from protocol.journal import Header
from protocol.messages.sync import CommitChanges, StoredChunk
from protocol.vector import EMPTY, Vector

SIGNATURE = bytes(64)  # the gateway checks it; nobody behind it does
_ids = count(1)


def fresh_id(what: str = "id") -> bytes:
    """A new id: no dice, so that a failing example fails again."""
    return sha256(f"{what} {next(_ids)}".encode())[:16]


def token(name: str) -> bytes:
    """A name token; equal for names that fold together."""
    return sha256(b"token", name.casefold().encode())


def place(name: str, parent: bytes = ROOT, key_epoch: int = 1) -> Place:
    """A place, its name "sealed"."""
    return Place(parent, token(name), b"sealed " + parent + name.encode(), key_epoch)


def chunk(text: str, refs: tuple[ChunkRef, ...] = ()) -> StoredChunk:
    """A chunk with these bytes, or a page that declares to list `refs`."""
    return StoredChunk(sha256(text.encode()), len(text), refs)


def ref(stored: StoredChunk) -> ChunkRef:
    """A reference to a chunk."""
    return ChunkRef(stored.address, stored.size_bytes)


def content(
    text: str,
    *chunks: StoredChunk,
    type: NodeType = NodeType.FILE,
    paged: bool = False,
    key_epoch: int = 1,
    version: bytes | None = None,
) -> Content:
    """A version with this text, in these chunks."""
    version = version or fresh_id("version")
    return Content(
        version=version,
        type=type,
        content_id=sha256(b"content", text.encode()),
        key_epoch=key_epoch,
        manifest=b"manifest " + version + text.encode(),
        refs=tuple(ref(one) for one in chunks),
        paged=paged,
    )


@dataclass
class Pen:
    """One device of one account, in one space."""

    space: bytes
    account: bytes
    history: bytes
    head: bytes  # the newest row it has seen
    head_seq: int = 0
    key_epoch: int = 1
    device: bytes = field(default_factory=lambda: fresh_id("device"))
    clock_ms: int = 1_000_000
    op: int = 0
    dot: int = 0

    def change(
        self,
        kind: ChangeKind,
        node: bytes,
        *,
        type: NodeType = NodeType.FILE,
        base: Vector = EMPTY,
        place: Place | None = None,
        content: Content | None = None,
        version: bytes | None = None,
        place_rev: int = 0,
        group: int = 0,
        copy_of: bytes | None = None,
        dot: int | None = None,
        hlc: int | None = None,
    ) -> Change:
        """A change under the next dot."""
        if dot is None:
            self.dot += 1
            dot = self.dot
        return Change(
            kind=kind,
            node=node,
            type=type,
            dot=dot,
            hlc=stamp(self.clock_ms) if hlc is None else hlc,
            place_rev=place_rev,
            base=base,
            place=place,
            content=content,
            version=version,
            group=group,
            copy_of=copy_of,
        )

    def mkdir(self, name: str, parent: bytes = ROOT, **more) -> Change:
        """Create a directory."""
        node = more.pop("node", None) or fresh_id("node")
        return self.change(
            ChangeKind.CREATE, node, type=NodeType.DIRECTORY, place=place(name, parent), **more
        )

    def create(self, name: str, what: Content, parent: bytes = ROOT, **more) -> Change:
        """Create a file."""
        node = more.pop("node", None) or fresh_id("node")
        return self.change(
            ChangeKind.CREATE,
            node,
            type=what.type,
            place=place(name, parent),
            content=what,
            **more,
        )

    def commit(
        self,
        *changes: Change,
        stored: tuple[StoredChunk, ...] = (),
        upload: bytes | None = None,
        answered: int = 0,
        **header,
    ) -> CommitChanges:
        """A commit of these changes under the next op. `header` overrides what it says."""
        self.op += 1
        raws = tuple(encode(one) for one in changes)
        said = {
            "format": journal.FORMAT,
            "space": self.space,
            "history": self.history,
            "key_epoch": self.key_epoch,
            "device": self.device,
            "op": self.op,
            "answered": answered,
            "hlc": stamp(self.clock_ms),
            "head_seq": self.head_seq,
            "head": self.head,
            "root": journal.root([journal.leaf(raw) for raw in raws]),
            "count": len(raws),
        }
        signed = journal.encode_header(Header(**{**said, **header}))
        return CommitChanges(
            space=self.space,
            account=self.account,
            device=self.device,
            header=signed,
            signature=SIGNATURE,
            changes=raws,
            stored=stored,
            upload=upload,
        )
