"""A commit as it is read from its bytes: header and changes, well-formed, not yet admitted."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from actors.records import Wanted
from protocol import journal
from protocol.codec import Reader
from protocol.entry import Change, ChangeKind, NodeType
from protocol.faults import Code, Refusal, refuse
from protocol.ids import ROOT
from protocol.messages.sync import CommitChanges
from protocol.vector import EMPTY, is_canonical

# What a change of each kind carries: (place, content, version); None: it may or may not.
SHAPES: dict[ChangeKind, tuple[bool, bool | None, bool]] = {
    ChangeKind.CREATE: (True, True, False),
    ChangeKind.MODIFY: (False, True, False),
    ChangeKind.MOVE: (True, False, False),
    ChangeKind.DELETE: (False, False, False),
    ChangeKind.RESTORE: (True, None, False),
    ChangeKind.SET_HEAD: (False, False, True),
}

_change: Reader[Change] = Reader(Change)


@dataclass(frozen=True, slots=True)
class Commit:
    """What `CommitChanges` says. `leaves[i]` is the hash of `changes[i]`'s exact bytes."""

    command: CommitChanges
    header: journal.Header
    changes: tuple[Change, ...]
    leaves: tuple[bytes, ...]

    @property
    def hash(self) -> bytes:
        """The hash by which the journal's rows name this commit."""
        return journal.commit_hash(self.command.header, self.command.signature)

    def units(self) -> Iterator[list[int]]:
        """Yield the indexes that are admitted together: single changes, and atomic groups.

        A group stands where its first change stands.
        """
        groups: dict[int, list[int]] = {}
        units: list[list[int]] = []
        for index, change in enumerate(self.changes):
            if change.group and change.group in groups:
                groups[change.group].append(index)
                continue
            unit = [index]
            units.append(unit)
            if change.group:
                groups[change.group] = unit
        yield from units


def read(command: CommitChanges) -> Commit:
    """Decode a commit and check its form.

    Raises Refusal: BAD_REQUEST (not understood, contradicts itself or the gateway's words),
    BAD_SIGNATURE (the signed root is not that of these changes).
    """
    header = _header(command)
    changes = tuple(_read(raw, index) for index, raw in enumerate(command.changes))
    leaves = [journal.leaf(raw) for raw in command.changes]
    if header.root != journal.root(leaves):
        raise refuse(Code.BAD_SIGNATURE, "the header's root is not that of the changes")
    return Commit(command, header, changes, tuple(leaves))


def wanted(commit: Commit) -> Wanted:
    """Return what the turn has to look up before `admit` can decide."""
    nodes: set[bytes] = set()
    tokens: set[tuple[bytes, bytes]] = set()
    emptied: set[bytes] = set()
    versions: set[bytes] = set()
    chunks = {ref.address for stored in commit.command.stored for ref in stored.refs}
    for change in commit.changes:
        nodes.add(change.node)
        if change.place:
            nodes.add(change.place.parent)
            tokens.add((change.place.parent, change.place.token))
        if change.kind is ChangeKind.DELETE and change.type is NodeType.DIRECTORY:
            emptied.add(change.node)
        if change.content:
            versions.add(change.content.version)
            chunks.update(ref.address for ref in change.content.refs)
        versions.update(v for v in (change.version, change.copy_of) if v)
    return Wanted(
        nodes=frozenset(nodes - {ROOT}),
        tokens=frozenset(tokens),
        emptied=frozenset(emptied),
        versions=frozenset(versions),
        chunks=frozenset(chunks),
        dots=frozenset(change.dot for change in commit.changes),
    )


def _header(command: CommitChanges) -> journal.Header:
    try:
        header = journal.decode_header(command.header)
    except msgspec.DecodeError as error:
        raise refuse(Code.BAD_REQUEST, f"header: {error}") from None
    problems = {
        "format": header.format != journal.FORMAT,
        "space": header.space != command.space,
        "device": header.device != command.device,
        "count": header.count != len(command.changes),
        "answered": header.answered >= header.op,
    }
    for about, wrong in problems.items():
        if wrong:
            raise refuse(Code.BAD_REQUEST, f"header: {about}")
    return header


def _read(raw: bytes, index: int) -> Change:
    try:
        change = _change.decode(raw)
    except msgspec.DecodeError as error:
        raise _bad(index, str(error)) from None
    if change.node == ROOT:
        raise _bad(index, "the root is no node of the journal")
    if not is_canonical(change.base):
        raise _bad(index, "base is not in canonical order")
    place, content, version = SHAPES[change.kind]
    if change.type is NodeType.DIRECTORY:
        content = False  # a directory is nothing but a place
    if (change.place is not None) != place or (change.version is not None) != version:
        raise _bad(index, f"not the fields of a {change.kind}")
    if content is not None and (change.content is not None) != content:
        raise _bad(index, f"not the content of a {change.kind}")
    if change.content and change.content.type is not change.type:
        raise _bad(index, "the content is of another type")
    if change.kind is ChangeKind.CREATE and (change.base != EMPTY or change.place_rev):
        raise _bad(index, "a create is based on nothing")
    if change.kind in (ChangeKind.MODIFY, ChangeKind.SET_HEAD) and not _has_content(change):
        raise _bad(index, "a directory has no content")
    if change.copy_of and change.kind is not ChangeKind.CREATE:
        raise _bad(index, "only a create can be a conflict copy")
    return change


def _has_content(change: Change) -> bool:
    return change.type is not NodeType.DIRECTORY


def _bad(index: int, about: str) -> Refusal:
    return refuse(Code.BAD_REQUEST, f"change {index}: {about}")
