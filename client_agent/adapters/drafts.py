"""Contents that were read and wait for their commit, with what of them travels inside it."""

from dataclasses import dataclass
from typing import Final

from client_agent.crypto.chunks import ChunkEntry
from client_agent.crypto.manifest import FORMAT, Manifest, PageEntry
from protocol.entry import NodeType
from protocol.limits import MIB
from protocol.messages.sync import PackItem

INLINE_BYTES_MAX: Final = 64 * MIB  # of sealed chunks kept in memory, all drafts together
DRAFTS_MAX: Final = 20_000  # the oldest goes: if it is wanted after all, it is read again


@dataclass(slots=True)
class Draft:
    """A content that was read: everything about it but its place and what came before it."""

    version: bytes
    node: bytes
    type: NodeType
    content_id: bytes
    size_bytes: int
    mtime_ns: int
    executable: bool
    target: str | None
    chunker: int
    chunks: tuple[ChunkEntry, ...] = ()
    pages: tuple[PageEntry, ...] = ()
    blobs: tuple[PackItem, ...] = ()  # sealed chunks that the server does not have yet
    upload: bytes | None = None  # the session its chunks were uploaded in

    @property
    def inline_bytes(self) -> int:
        """Sealed bytes that travel inside the commit."""
        return sum(len(item.blob) for item in self.blobs)

    def manifest(self, node: bytes, prev: bytes | None) -> Manifest:
        """Return the manifest of this content as a version of `node` that follows `prev`."""
        return Manifest(
            FORMAT, node, self.type, self.size_bytes, self.mtime_ns, self.executable,
            self.target, self.chunker, () if self.pages else self.chunks, self.pages, prev,
        )


class Drafts:
    """Drafts by version; a newer one of a node replaces the older. Used on the loop only."""

    def __init__(self) -> None:
        """Begin empty: after a restart contents are read again."""
        self._by_version: dict[bytes, Draft] = {}
        self._by_node: dict[bytes, bytes] = {}
        self.inline_bytes = 0

    def put(self, draft: Draft) -> None:
        """Keep a draft."""
        older = self._by_node.get(draft.node)
        if older is not None:
            self.drop(older)
        self._by_version[draft.version] = draft
        self._by_node[draft.node] = draft.version
        self.inline_bytes += draft.inline_bytes
        if len(self._by_version) > DRAFTS_MAX:
            self.drop(next(iter(self._by_version)))

    def get(self, version: bytes) -> Draft | None:
        """Return a draft; None: it has to be read again."""
        return self._by_version.get(version)

    def drop(self, version: bytes) -> None:
        """Let a draft go: it is in the journal, or out of date. Safe to repeat."""
        draft = self._by_version.pop(version, None)
        if draft is None:
            return
        self.inline_bytes -= draft.inline_bytes
        if self._by_node.get(draft.node) == version:
            del self._by_node[draft.node]

    def has_room(self, more_bytes: int) -> bool:
        """Say whether so many more sealed bytes may be kept in memory."""
        return self.inline_bytes + more_bytes <= INLINE_BYTES_MAX
