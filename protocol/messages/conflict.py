"""The conflict conversation: UserSync decides in its turn; the arbiter owns what follows.

    user-sync -> ConflictFound to conflict-arbiter/<space>   (outbox, after the commit)
    user-sync -> CopyMade      the device kept the loser as a file of its own
    user-sync -> HeadChosen    a later change settled it (resolve; manual policy)
    arbiter   -> notices to all devices of the space through the Feed

The decision itself is already in the journal: a message lost here can be sent again, never loses.
"""

from typing import Annotated

from msgspec import Meta

from protocol.ids import DeviceId, Id, NodeId, SpaceId, VersionId
from protocol.journal import Ms, Seq
from protocol.messages import Message

ConflictId = Id


class ConflictFound(Message, frozen=True, tag="conflict.found"):
    """Two edits met at `seq`. `policy` says whether the head was chosen or waits for a person."""

    space: SpaceId
    conflict: ConflictId
    node: NodeId
    seq: Seq
    policy: str
    head: VersionId
    loser: VersionId
    head_device: DeviceId
    loser_device: DeviceId
    at_ms: Ms


class CopyMade(Message, frozen=True, tag="conflict.copy_made"):
    """The loser of a conflict is a live file of its own now."""

    space: SpaceId
    node: NodeId
    loser: VersionId
    copy: NodeId
    at_ms: Ms


class HeadChosen(Message, frozen=True, tag="conflict.head_chosen"):
    """A device resolved the node's open conflicts by choosing a head."""

    space: SpaceId
    node: NodeId
    head: VersionId
    device: DeviceId
    at_ms: Ms


class ConflictNoted(Message, frozen=True, tag="conflict.noted"):
    """The arbiter's answer: how many conflicts of the space are open now."""

    open: Annotated[int, Meta(ge=0)]


ConflictRequest = ConflictFound | CopyMade | HeadChosen
ConflictAnswer = ConflictNoted
