"""Manifests, pages and content ids: order, position, length and identity of chunks are bound."""

import hashlib
import hmac

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_agent.crypto.chunks import RAW, ZSTD, ChunkEntry, seal_body
from client_agent.crypto.manifest import (
    FORMAT,
    INLINE_ENTRIES_MAX,
    Manifest,
    Page,
    PageEntry,
    content_id,
    manifest_content_id,
    open_content,
    open_manifest,
    open_page,
    paginate,
    seal_content,
    seal_manifest,
)
from client_agent.crypto.seal import SealBroken, seal_random
from client_agent.crypto.space_keys import EpochMissing, SpaceKeys
from protocol import limits
from protocol.codec import encode, lp
from protocol.entry import ChunkRef, NodeType
from tests.golden.crypto import fixed, world

W = world()
KEYS = W.keys
IDS = st.binary(min_size=16, max_size=16)
HASHES = st.binary(min_size=32, max_size=32)
ENTRIES = st.lists(
    st.builds(ChunkEntry, HASHES, st.integers(1, 2), st.integers(1, 1 << 20), HASHES,
              st.integers(82, 1 << 21)), max_size=4,
).map(tuple)


def entry_of(n: int) -> ChunkEntry:
    return ChunkEntry(fixed(f"H{n}"), 1, 1000 + n, fixed(f"pid{n}"), 1100 + n)


LONG = [entry_of(n) for n in range(3000)]


@st.composite
def manifests(draw):
    link = draw(st.booleans())
    entries = () if link else draw(ENTRIES)
    return Manifest(
        1, draw(IDS), NodeType.SYMLINK if link else NodeType.FILE,
        sum(e.length for e in entries), draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        draw(st.booleans()), draw(st.text(max_size=50)) if link else None,
        draw(st.integers(1, 3)), entries, (), draw(st.none() | IDS),
    )


@given(manifests(), IDS, st.sampled_from([1, 2]))
def test_a_manifest_opens_as_it_was_sealed(manifest, version, epoch):
    # Planted: mtime in whole milliseconds; chunks sorted by address.
    sealed = seal_manifest(KEYS, manifest, version, epoch)
    assert open_manifest(KEYS, version, epoch, sealed) == manifest
    assert sealed != seal_manifest(KEYS, manifest, version, epoch), "r is random"


@given(manifests(), IDS)
def test_a_content_opens_only_where_it_belongs(manifest, version):
    # Planted: refs without their sizes; content id of a constant; prev left out of the check.
    content = seal_content(
        KEYS, manifest, version, manifest_content_id(KEYS, manifest, manifest.chunks)
    )
    assert open_content(KEYS, manifest.node, content) == manifest
    assert content.refs == tuple(ChunkRef(e.address, e.sealed_bytes) for e in manifest.chunks)
    other = fixed("another", 16)
    lies = {
        "version": other, "prev": other, "paged": True, "content_id": fixed("another"),
        "type": NodeType.MOUNT, "key_epoch": 1, "refs": (*content.refs, ChunkRef(bytes(32), 1)),
    }
    for field, lie in lies.items():
        with pytest.raises(SealBroken):
            open_content(KEYS, manifest.node, msgspec.structs.replace(content, **{field: lie}))
    with pytest.raises(SealBroken):
        open_content(KEYS, other, content)
    with pytest.raises(EpochMissing):
        open_content(SpaceKeys(KEYS.space, {1: KEYS.secrets[1]}), manifest.node, content)


def sealed_as_manifest(plain: bytes) -> bytes:
    return seal_random(
        KEYS.manifest_key(2), lp("content", KEYS.space, W.version, 2), plain
    )


REPLACED = {
    "a format of later": {"format": 2},
    "another size": {"size_bytes": 1},
    "a target on a file": {"target": "x"},
    "pages and chunks": {"pages": W.paged.pages},
    "a link without target": {"type": NodeType.SYMLINK},
    "no chunks": {"chunks": ()},
    "a link with chunks": {"type": NodeType.SYMLINK, "target": "x"},
}


@pytest.mark.parametrize("fields", REPLACED.values(), ids=REPLACED)
def test_a_manifest_that_contradicts_itself_is_refused(fields):
    plain = encode(msgspec.structs.replace(W.file, **fields))
    with pytest.raises(SealBroken):
        open_manifest(KEYS, W.version, 2, sealed_as_manifest(plain))


@pytest.mark.parametrize("plain", [b"", b"\xc1", encode(W.file)[:-1], encode(W.entries[0])])
def test_what_is_no_manifest_is_refused(plain):
    with pytest.raises(SealBroken, match="not a manifest"):
        open_manifest(KEYS, W.version, 2, sealed_as_manifest(plain))


def test_the_content_id_is_what_the_design_says():
    raw = lp(1, 1, "", 1, *(e.pid for e in W.entries))
    expected = hmac.digest(KEYS.filehash_key, raw, "sha256")
    assert manifest_content_id(KEYS, W.file, W.entries) == expected
    touched = msgspec.structs.replace(W.file, mtime_ns=0)
    assert manifest_content_id(KEYS, touched, W.entries) == expected, "a touch is no edit"


PIDS = st.lists(HASHES, max_size=3)
FACETS = st.tuples(
    st.sampled_from([NodeType.FILE, NodeType.SYMLINK]), st.booleans(),
    st.none() | st.text(min_size=1, max_size=3), st.integers(1, 99), PIDS,
)


@given(FACETS, FACETS, st.integers(0, 5))
def test_only_equal_contents_have_equal_ids(ours, theirs, differs):
    # Planted: chunker version left out; executable left out.
    if differs < len(ours):  # in one facet only
        theirs = (*ours[:differs], theirs[differs], *ours[differs + 1 :])
    assert (content_id(KEYS, *ours) == content_id(KEYS, *theirs)) == (ours == theirs)


def opened(pages):
    return [e for page in pages for e in open_page(KEYS, page.entry, page.blob, page.refs)]


@pytest.mark.parametrize("count", [0, 1, 255, INLINE_ENTRIES_MAX])
def test_short_lists_stay_in_the_manifest(count):
    assert paginate(KEYS, LONG[:count]) == []


@given(st.integers(INLINE_ENTRIES_MAX + 1, 3000), st.integers(0, 2000))
def test_pages_hold_the_list(count, start):
    # Planted: the last page left out; an entry lost at each cut.
    entries = LONG[start : start + count]
    pages = paginate(KEYS, entries)
    if len(entries) > INLINE_ENTRIES_MAX:
        assert opened(pages) == entries
        assert all(64 <= p.entry.count <= limits.PAGE_ENTRIES_MAX for p in pages[:-1])
        assert paginate(KEYS, entries) == pages


@given(st.integers(0, 2999), st.sampled_from(["insert", "replace", "remove"]))
def test_an_edit_changes_only_the_pages_near_it(at, how):
    # Planted: pages of 256 entries each.
    edited = list(LONG)
    new = [entry_of(9999)] if how != "remove" else []
    edited[at : at + (how != "insert")] = new
    before, after = ({p.entry for p in paginate(KEYS, es)} for es in (LONG, edited))
    assert len(after - before) <= 3


def test_pages_are_of_the_expected_size_and_bounded():
    pages = paginate(KEYS, LONG)
    assert 150 < len(LONG) / len(pages) < 400
    never = [ChunkEntry(fixed("H"), 1, 1, bytes([0] * 7 + [1]) + bytes(24), 90)] * 2500
    assert [p.entry.count for p in paginate(KEYS, never)] == [1024, 1024, 452]
    always = [ChunkEntry(fixed("H"), 1, 1, bytes(32), 90)] * 300
    assert [p.entry.count for p in paginate(KEYS, always)] == [64] * 4 + [44]
    assert max(p.entry.sealed_bytes for p in paginate(KEYS, never)) < limits.CHUNK_BYTES_MAX


def test_a_manifest_in_pages():
    pages = paginate(KEYS, LONG)
    manifest = Manifest(
        1, W.node, NodeType.FILE, sum(e.length for e in LONG), 0, False, None, 1, (),
        tuple(p.entry for p in pages),
    )
    content = seal_content(
        KEYS, manifest, W.version, manifest_content_id(KEYS, manifest, LONG)
    )
    assert content.paged
    assert content.refs == tuple(p.entry.ref for p in pages)
    assert open_content(KEYS, W.node, content) == manifest
    assert content.content_id == manifest_content_id(KEYS, manifest, opened(pages))


def test_the_manifest_of_a_tebibyte_fits():
    chunks = (1 << 40) // (1280 << 10)
    page = PageEntry(fixed("H"), 1 << 20, 20_000, 256, 256 * (1280 << 10))
    pages = (page,) * (chunks // 256)
    size = sum(page.length for page in pages)
    manifest = Manifest(1, W.node, NodeType.FILE, size, 1 << 60, True, None, 1, (), pages)
    assert len(seal_manifest(KEYS, manifest, W.version)) < limits.MANIFEST_BYTES_MAX
    assert len(pages) < limits.VERSION_REFS_MAX


PAGE = paginate(KEYS, LONG)[0]


def test_a_declaration_that_lies_is_refused():
    refs = PAGE.refs
    assert open_page(KEYS, PAGE.entry, PAGE.blob) == open_page(
        KEYS, PAGE.entry, PAGE.blob, list(refs)
    )
    resized = (ChunkRef(refs[0].address, 1), *refs[1:])
    for lie in (refs[1:], refs[::-1], (*refs, refs[0]), (), resized):
        with pytest.raises(SealBroken, match="declaration"):
            open_page(KEYS, PAGE.entry, PAGE.blob, lie)


@pytest.mark.parametrize(
    "lie", [{"address": fixed("x")}, {"key_epoch": 1}, {"sealed_bytes": 1}, {"count": 1},
            {"length": 1}], ids=str,
)
def test_a_page_that_is_not_what_the_manifest_says_is_refused(lie):
    with pytest.raises(SealBroken):
        open_page(KEYS, msgspec.structs.replace(PAGE.entry, **lie), PAGE.blob)


def hostile(plain: bytes, *, flag=RAW, pid=None, kind="page") -> tuple[PageEntry, bytes]:
    blob = seal_body(KEYS, kind, 2, flag, plain, KEYS.pid(plain) if pid is None else pid)
    length = sum(e.length for e in W.entries)
    return PageEntry(hashlib.sha256(blob).digest(), 2, len(blob), 3, length), blob


def test_a_hostile_page_is_refused():
    good = encode(Page(FORMAT, W.entries))
    assert open_page(KEYS, *hostile(good)) == W.entries
    for bad in (
        hostile(good, pid=fixed("x")), hostile(good, flag=ZSTD), hostile(good, kind="chunk"),
        hostile(good[:-1]), hostile(b""), hostile(encode(Page(2, W.entries))),
        hostile(encode(Page(FORMAT, ()))), hostile(encode(Page(FORMAT, W.entries[:2]))),
        hostile(encode(Page(FORMAT, W.entries * 400))),
    ):
        with pytest.raises(SealBroken):
            open_page(KEYS, *bad)
