"""The chunks conversation: many sealed objects in one request, with the gateway only.

    device -> POST /chunks (Pack)                   gateway -> PackStored
    device -> POST /chunks/missing (AskMissing)     gateway -> MissingChunks
    device -> POST /chunks/fetch (FetchChunks)      gateway -> FetchedChunks

All of them about one space, named in the query. What the space neither refers to nor leases is
missing, whoever else may have it; what is there, or is put, is leased for `limits.LEASE_S`.
Everything is safe to repeat.
"""

from typing import Annotated

from msgspec import Meta

from protocol import limits
from protocol.ids import Hash
from protocol.messages import Message
from protocol.messages.sync import PackItem

Pack = Annotated[tuple[PackItem, ...], Meta(min_length=1, max_length=limits.PACK_CHUNKS_MAX)]
"""Body of `POST /chunks`: a bare list of items, at most `PACK_BYTES_MAX` with its framing."""


class PackStored(Message, frozen=True, tag="chunks.stored"):
    """The items of a pack are durable and leased; their addresses, in order."""

    addresses: tuple[Hash, ...]


class AskMissing(Message, frozen=True, tag="chunks.ask_missing"):
    """Body of `POST /chunks/missing`: which of these does the space lack?"""

    addresses: Annotated[tuple[Hash, ...], Meta(max_length=limits.MISSING_ADDRESSES_MAX)]


class MissingChunks(Message, frozen=True, tag="chunks.missing"):
    """Those that the space lacks, in the order of the question, each once."""

    missing: tuple[Hash, ...]


class FetchChunks(Message, frozen=True, tag="chunks.fetch"):
    """Body of `POST /chunks/fetch`."""

    addresses: Annotated[tuple[Hash, ...], Meta(min_length=1, max_length=limits.PACK_CHUNKS_MAX)]


class FetchedChunks(Message, frozen=True, tag="chunks.fetched"):
    """The blobs of the first `len(blobs)` addresses, None where the space has no such chunk.

    Cut off at `PACK_BYTES_MAX`, after one blob at least: ask again for the rest.
    """

    blobs: tuple[bytes | None, ...]
