"""What a version consists of: manifests, pages of chunk lists, content ids (CRYPTO.md 3).

    manifest    seal(K_manifest, LP("content", space, version, key_epoch), Manifest), r random
    page        msgpack Page, sealed like a raw chunk under "page", pid = HMAC(K_pid, page bytes)
    content id  HMAC(K_filehash, LP(type, executable, target, chunker, pid...))

Type, executable (0 or 1) and chunker are integers, an absent target is the empty text. Neither
size nor mtime is in the content id: the pids say the size, and a touched file is not a new one.
"""

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from client_agent.crypto.chunks import RAW, ChunkEntry, open_body, seal_body
from client_agent.crypto.seal import Buffer, SealBroken, open_sealed, seal_random
from client_agent.crypto.space_keys import SpaceKeys
from protocol import limits
from protocol.codec import Reader, encode, lp
from protocol.entry import ChunkRef, Content, KeyEpoch, NodeType, SizeBytes
from protocol.ids import Dice, Hash, NodeId, VersionId
from protocol.messages import Part

FORMAT: Final = 1
INLINE_ENTRIES_MAX: Final = 256  # longer lists go into pages
_PAGE_ENTRIES_MIN: Final = 64
_PAGE_ODDS: Final = 192  # after the minimum one entry in 192 ends its page: 256 on average

Target = Annotated[str, Meta(max_length=limits.SYMLINK_BYTES_MAX)]
MtimeNs = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class PageEntry(Part, frozen=True):
    """One page of a long chunk list: `count` entries that cover `length` bytes of the file."""

    address: Hash
    key_epoch: KeyEpoch
    sealed_bytes: SizeBytes
    count: Annotated[int, Meta(ge=1, le=limits.PAGE_ENTRIES_MAX)]
    length: SizeBytes

    @property
    def ref(self) -> ChunkRef:
        """What the server is told of it."""
        return ChunkRef(self.address, self.sealed_bytes)


class Page(Part, frozen=True):
    """What a page holds."""

    format: int
    entries: Annotated[
        tuple[ChunkEntry, ...], Meta(min_length=1, max_length=limits.PAGE_ENTRIES_MAX)
    ]


class Manifest(Part, frozen=True):
    """Everything about one version. Either `chunks` or `pages` lists a file's chunks, in order.

    `size_bytes` is the sum of their lengths; `target` is a symlink's text, which then has
    neither, else None; `chunker` the version that cut the file; `prev` any earlier version of
    the node. `mtime_ns` counts from the Unix epoch.
    """

    format: int
    node: NodeId
    type: NodeType
    size_bytes: SizeBytes
    mtime_ns: MtimeNs
    executable: bool
    target: Target | None
    chunker: Annotated[int, Meta(ge=1)]
    chunks: Annotated[tuple[ChunkEntry, ...], Meta(max_length=INLINE_ENTRIES_MAX)] = ()
    pages: Annotated[tuple[PageEntry, ...], Meta(max_length=limits.VERSION_REFS_MAX)] = ()
    prev: VersionId | None = None

    @property
    def refs(self) -> tuple[ChunkRef, ...]:
        """What stands in clear beside it: its chunks, or the pages that list them."""
        return tuple(entry.ref for entry in self.pages or self.chunks)


class SealedPage(NamedTuple):
    """A page ready to upload; `refs` is what its upload declares."""

    entry: PageEntry
    blob: bytes
    refs: tuple[ChunkRef, ...]


_page: Reader[Page] = Reader(Page)
_manifest: Reader[Manifest] = Reader(Manifest)


def content_id(
    keys: SpaceKeys, type: NodeType, executable: bool, target: str | None, chunker: int,
    pids: Iterable[bytes],
) -> bytes:
    """Return what "changed" and "equal" mean everywhere: the same for the same content."""
    head = lp(int(type), int(executable), target or "", chunker)
    mac = hmac.new(keys.filehash_key, head, hashlib.sha256)
    for pid in pids:
        mac.update(lp(pid))
    return mac.digest()


def manifest_content_id(
    keys: SpaceKeys, manifest: Manifest, entries: Sequence[ChunkEntry]
) -> bytes:
    """Return the content id of a manifest whose chunk list is `entries` (from its pages)."""
    pids = (entry.pid for entry in entries)
    return content_id(
        keys, manifest.type, manifest.executable, manifest.target, manifest.chunker, pids
    )


def seal_manifest(
    keys: SpaceKeys, manifest: Manifest, version: bytes, epoch: int | None = None,
    dice: Dice = os.urandom,
) -> bytes:
    """Seal a manifest as `version`'s. Each call gives other bytes."""
    epoch = keys.epoch if epoch is None else epoch
    aad = lp("content", keys.space, version, epoch)
    return seal_random(keys.manifest_key(epoch), aad, encode(manifest), dice)


def open_manifest(keys: SpaceKeys, version: bytes, epoch: int, sealed: Buffer) -> Manifest:
    """Open the manifest of `version`; its parts agree with each other.

    Raises SealBroken, EpochMissing.
    """
    plain = open_sealed(keys.manifest_key(epoch), lp("content", keys.space, version, epoch), sealed)
    try:
        manifest = _manifest.decode(plain)
    except msgspec.DecodeError as error:
        raise SealBroken(f"not a manifest: {error}") from None
    _check_manifest(manifest)
    return manifest


def _check_manifest(manifest: Manifest) -> None:
    if manifest.format != FORMAT:
        raise SealBroken(f"a manifest of format {manifest.format}")
    if manifest.chunks and manifest.pages:
        raise SealBroken("a manifest with chunks and pages")
    if manifest.size_bytes != sum(entry.length for entry in manifest.pages or manifest.chunks):
        raise SealBroken("a manifest whose chunks are not its size")
    if (manifest.type is NodeType.SYMLINK) != (manifest.target is not None):
        raise SealBroken("a link target where none belongs, or none where one does")
    if manifest.type is NodeType.SYMLINK and manifest.refs:
        raise SealBroken("a symlink with chunks")


def seal_content(
    keys: SpaceKeys, manifest: Manifest, version: bytes, content_id: bytes,
    dice: Dice = os.urandom,
) -> Content:
    """Return the content facet of a change: the sealed manifest, and in clear what fits it."""
    return Content(
        version, manifest.type, content_id, keys.epoch,
        seal_manifest(keys, manifest, version, dice=dice), manifest.refs,
        bool(manifest.pages), manifest.prev,
    )


def open_content(keys: SpaceKeys, node: bytes, content: Content) -> Manifest:
    """Open what `seal_content` made, and check everything that stands in clear beside it.

    For a version without pages the content id is recomputed here; for one with pages the caller
    does that (`manifest_content_id`) once it has opened them. Raises SealBroken, EpochMissing.
    """
    manifest = open_manifest(keys, content.version, content.key_epoch, content.manifest)
    clear = (node, content.type, content.refs, content.paged, content.prev)
    bound = (
        manifest.node, manifest.type, manifest.refs, bool(manifest.pages), manifest.prev
    )
    if clear != bound:
        raise SealBroken("what stands beside the manifest is not what it says")
    if not manifest.pages and content.content_id != manifest_content_id(
        keys, manifest, manifest.chunks
    ):
        raise SealBroken("the content id does not fit")
    return manifest


def paginate(keys: SpaceKeys, entries: Sequence[ChunkEntry]) -> list[SealedPage]:
    """Cut a chunk list into sealed pages; () if it is short enough for the manifest itself.

    A page ends where the pid of its last entry says so, so an edit changes the pages near it
    only, and a copy none. Repeating it gives the same bytes within an epoch.
    """
    if len(entries) <= INLINE_ENTRIES_MAX:
        return []
    pages, start = [], 0
    for end, entry in enumerate(entries, 1):
        if end == len(entries) or _ends_page(entry, end - start):
            pages.append(_seal_page(keys, tuple(entries[start:end])))
            start = end
    return pages


def _ends_page(entry: ChunkEntry, count: int) -> bool:
    if count < _PAGE_ENTRIES_MIN:
        return False
    drawn = int.from_bytes(entry.pid[:8], "big") % _PAGE_ODDS
    return drawn == 0 or count == limits.PAGE_ENTRIES_MAX


def _seal_page(keys: SpaceKeys, entries: tuple[ChunkEntry, ...]) -> SealedPage:
    plain = encode(Page(FORMAT, entries))
    blob = seal_body(keys, "page", keys.epoch, RAW, plain, keys.pid(plain))
    address = hashlib.sha256(blob).digest()
    length = sum(entry.length for entry in entries)
    page = PageEntry(address, keys.epoch, len(blob), len(entries), length)
    return SealedPage(page, blob, tuple(entry.ref for entry in entries))


def open_page(
    keys: SpaceKeys, entry: PageEntry, blob: Buffer,
    declared: Sequence[ChunkRef] | None = None,
) -> tuple[ChunkEntry, ...]:
    """Return the chunk list of a page; `declared` is what the server says its upload named.

    Raises:
        SealBroken: address, seal, r, count or length do not fit, or the declaration lies (the
            server would collect a chunk that is needed).
        EpochMissing: it is sealed under an epoch we do not hold.
    """
    if len(blob) != entry.sealed_bytes or hashlib.sha256(blob).digest() != entry.address:
        raise SealBroken("the page is not what its address says")
    opened = open_body(keys, "page", entry.key_epoch, blob)
    if opened.flag != RAW or not opened.proven(keys.pid(opened.body)):
        raise SealBroken("the page's r does not follow from its content")
    try:
        page = _page.decode(opened.body)
    except msgspec.DecodeError as error:
        raise SealBroken(f"not a page: {error}") from None
    length = sum(chunk.length for chunk in page.entries)
    if (page.format, len(page.entries), length) != (FORMAT, entry.count, entry.length):
        raise SealBroken("the page is not what the manifest says")
    if declared is not None and tuple(declared) != tuple(chunk.ref for chunk in page.entries):
        raise SealBroken("the page's declaration lies about its chunks")
    return page.entries
