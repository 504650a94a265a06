"""What a content costs its space's owner: each chunk once per space, whoever refers to it.

used bytes of an owner = over all spaces, the sizes of the distinct chunks that retained versions
refer to (pages, and what pages list, included) + the reservations of open upload sessions.
A commit that names its session may use that session's reservation as credit: the session gives it
back in its own turn, a moment later.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from actors.records import Held, View
from protocol.entry import ChunkRef, Content
from protocol.messages.sync import StoredChunk


@dataclass(frozen=True, slots=True)
class Need:
    """What a content refers to. `unpaid`: address -> size of what its space did not refer to."""

    missing: tuple[bytes, ...]  # in the order of first mention
    mismatched: bytes | None  # the first whose size or declared list is not what is stored
    unpaid: dict[bytes, int]
    size_bytes: int  # sealed bytes of its chunks in file order, pages not counted


@dataclass(slots=True)
class Shelf:
    """The chunks a commit may refer to: what the space holds, and what came with the commit."""

    view: View
    stored: dict[bytes, Held] = field(default_factory=dict)

    @classmethod
    def of(cls, view: View, stored: Iterable[StoredChunk]) -> "Shelf":
        """Lay out a commit's own chunks beside those of the view."""
        return cls(view, {s.address: Held(s.size_bytes, False, s.refs) for s in stored})

    def get(self, address: bytes) -> Held | None:
        """Return a chunk. What the space held first counts; a later declaration changes nothing."""
        return self.view.held.get(address) or self.stored.get(address)

    def need(self, content: Content) -> Need:
        """Gather what a content refers to, through its pages."""
        missing: dict[bytes, None] = {}
        unpaid: dict[bytes, int] = {}
        mismatched: bytes | None = None
        size_bytes = 0
        for ref, is_page in self._closure(content):
            held = self.get(ref.address)
            if held is None:
                missing[ref.address] = None
                continue
            undeclared = is_page and not held.refs
            if mismatched is None and (held.size_bytes != ref.size_bytes or undeclared):
                mismatched = ref.address
            if not held.referenced:
                unpaid[ref.address] = held.size_bytes
            if not is_page:
                size_bytes += held.size_bytes
        return Need(tuple(missing), mismatched, unpaid, size_bytes)

    def _closure(self, content: Content) -> Iterator[tuple[ChunkRef, bool]]:
        """Yield every ref, and behind each page what it lists (pages do not list pages)."""
        for ref in content.refs:
            held = self.get(ref.address)
            listed = held.refs if held else ()
            yield ref, content.paged or bool(listed)
            yield from ((below, False) for below in listed)
