"""The feed: frames of `WS /ws/sync`, and the nudges that travel between workers and gateways.

    device  -> Hello            server -> Welcome (heads), or Bye
    server  -> Advanced         a journal moved on; rows ride along when they are small
    server  -> DeviceRevoked, NeedChunk, Noticed, Ping, Bye
    device  -> Pong, Applied

A frame may be lost, doubled or late. Rows count only if `prev_seq` is the device's cursor;
otherwise it fetches. Every device asks for its cursor on reconnect and every minute anyway.
"""

from typing import Annotated

from msgspec import Meta

from protocol import limits
from protocol.ids import DeviceId, Hash, HistoryId, SpaceId, UserId
from protocol.journal import CommitProof, Ms, Seq
from protocol.messages import Message
from protocol.messages.sync import Head

PROTOCOL = 1


class Ticket(Message, frozen=True, tag="feed.ticket"):
    """Answer of `POST /ws/ticket`: good for one `WS /ws/sync?ticket=`, for those who cannot set
    a header on a WebSocket.
    """

    ticket: str
    expires_ms: Ms


class Hello(Message, frozen=True, tag="hello"):
    """First frame of a device: what it speaks, and how far it has read."""

    protocol: int = PROTOCOL
    cursors: Annotated[tuple[Head, ...], Meta(max_length=limits.SPACES_MAX)] = ()
    knows: Annotated[tuple[str, ...], Meta(max_length=256)] = ()  # optional tags it understands


class Welcome(Message, frozen=True, tag="welcome"):
    """First frame of the server: where the journals stand, and how often to say Pong."""

    protocol: int
    server_ms: Ms
    heads: tuple[Head, ...]
    ping_s: int


class Advanced(Message, frozen=True, tag="advanced"):
    """The journal of `space` stands at `seq` now. `rows` follow `prev_seq` without a gap, or ()."""

    space: SpaceId
    history: HistoryId
    prev_seq: Seq
    seq: Seq
    head: Hash
    rows: tuple[bytes, ...] = ()
    commits: tuple[CommitProof, ...] = ()


class DeviceRevoked(Message, frozen=True, tag="device_revoked"):
    """This device may do nothing any more; its gateway closes the socket."""

    account: UserId
    device: DeviceId


class NeedChunk(Message, frozen=True, tag="need_chunk"):
    """The server lost a chunk that is referred to: whoever holds it, please send it again."""

    space: SpaceId
    addresses: tuple[Hash, ...]


class Noticed(Message, frozen=True, tag="noticed"):
    """Something worth telling the user: a conflict was opened, resolved, copied."""

    space: SpaceId
    kind: str
    at_ms: Ms
    seq: Seq = 0


class Ping(Message, frozen=True, tag="ping"):
    """Are you there? Answer Pong."""


class Pong(Message, frozen=True, tag="pong"):
    """Yes."""


class Applied(Message, frozen=True, tag="applied"):
    """The device has applied its journals up to here; the server keeps its cursors."""

    cursors: Annotated[tuple[Head, ...], Meta(max_length=limits.SPACES_MAX)]


class Bye(Message, frozen=True, tag="bye"):
    """The server closes the socket. Come back after `retry_after_ms`, with jitter of your own."""

    code: str
    retry_after_ms: int = 0


Nudge = Advanced | DeviceRevoked | NeedChunk | Noticed
ServerFrame = Welcome | Advanced | DeviceRevoked | NeedChunk | Noticed | Ping | Bye
DeviceFrame = Hello | Pong | Applied
