"""Who works here: the one list of actors. Queues, worker pools and documents follow from it."""

from actors.actor import Actor
from actors.conflict_arbiter import ConflictArbiter
from actors.upload_session import UploadSession
from actors.user_sync import UserSync

ROSTER: tuple[type[Actor], ...] = (UserSync, UploadSession, ConflictArbiter)
