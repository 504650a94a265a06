"""Faults: the answers that say no, and why. The only errors that travel between rooms.

Codes are frozen: a script, a translation or an old device may know them. Add, never rename.
"""

from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from protocol.messages import Message


class Code(StrEnum):
    """Every code a server or a device may answer with. Append only."""

    INTERNAL = "internal"
    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHENTICATED = "unauthenticated"
    TOKEN_EXPIRED = "token_expired"
    SESSION_REVOKED = "session_revoked"
    BAD_CREDENTIALS = "bad_credentials"
    FORBIDDEN = "forbidden"
    ACCOUNT_SUSPENDED = "account_suspended"
    REGISTRATION_CLOSED = "registration_closed"
    NAME_IN_USE = "name_in_use"
    RATE_LIMITED = "rate_limited"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    OUT_OF_ORDER = "out_of_order"
    STALE = "stale"
    STALE_EPOCH = "stale_epoch"
    QUOTA_EXCEEDED = "quota_exceeded"
    STORAGE_FULL = "storage_full"
    CHUNK_MISMATCH = "chunk_mismatch"
    CHUNKS_MISSING = "chunks_missing"
    KEY_REUSED = "key_reused"
    DOT_REUSED = "dot_reused"
    HISTORY_LOST = "history_lost"
    HISTORY_CHANGED = "history_changed"
    JOURNAL_TRIMMED = "journal_trimmed"
    BAD_SIGNATURE = "bad_signature"
    NAME_TAKEN = "name_taken"
    PARENT_DEAD = "parent_dead"
    PARENT_MISSING = "parent_missing"
    NOT_A_DIRECTORY = "not_a_directory"
    NOT_EMPTY = "not_empty"
    NODE_DEAD = "node_dead"
    NODE_EXISTS = "node_exists"
    VERSION_UNKNOWN = "version_unknown"
    CYCLE = "cycle"
    TOO_DEEP = "too_deep"
    GROUP_FAILED = "group_failed"
    UPLOAD_EXPIRED = "upload_expired"
    NOT_ACCEPTABLE = "not_acceptable"
    RANGE_INVALID = "range_invalid"


class Meaning(NamedTuple):
    """What a code means to HTTP and to people."""

    status: int  # HTTP
    retryable: bool  # the same request may succeed later, unchanged
    title: str  # what happened
    hint: str  # what it means for the files, and what to do


_NOTHING_LOST = "Your files are untouched"

MEANINGS: dict[Code, Meaning] = {
    Code.INTERNAL: Meaning(
        500, True, "The server made a mistake", f"{_NOTHING_LOST}; the device tries again."
    ),
    Code.BAD_REQUEST: Meaning(
        400, False, "The request is not understood", f"{_NOTHING_LOST}. Correct it as detailed."
    ),
    Code.TOO_LARGE: Meaning(
        413, False, "The request is too large", f"{_NOTHING_LOST}. Send it in smaller parts."
    ),
    Code.NOT_FOUND: Meaning(
        404, False, "There is no such thing here", "It never was, is gone, or is not yours."
    ),
    Code.METHOD_NOT_ALLOWED: Meaning(
        405, False, "This address does not do that", "See /schema for what it does."
    ),
    Code.UNAUTHENTICATED: Meaning(
        401, False, "Not signed in", f"{_NOTHING_LOST}. Run: syncline login"
    ),
    Code.TOKEN_EXPIRED: Meaning(
        401, True, "The access token has expired", "Refresh it and repeat the request."
    ),
    Code.SESSION_REVOKED: Meaning(
        401, False, "This session was ended", f"{_NOTHING_LOST}. Run: syncline login"
    ),
    Code.BAD_CREDENTIALS: Meaning(
        401, False, "User name or password is wrong", "Check both; nothing was changed."
    ),
    Code.FORBIDDEN: Meaning(
        403, False, "You may not do this here", "Ask the owner of the space for the role."
    ),
    Code.ACCOUNT_SUSPENDED: Meaning(
        403, False, "The account is suspended", f"{_NOTHING_LOST}. Ask the operator."
    ),
    Code.REGISTRATION_CLOSED: Meaning(
        403, False, "This server takes no new accounts", "Ask the operator for an account."
    ),
    Code.NAME_IN_USE: Meaning(
        409, False, "The name is taken", "Choose another user name or e-mail address."
    ),
    Code.RATE_LIMITED: Meaning(
        429, True, "Too many requests", f"{_NOTHING_LOST}; wait as long as the answer says."
    ),
    Code.BUSY: Meaning(
        503, True, "The server is busy", f"{_NOTHING_LOST}; the device tries again by itself."
    ),
    Code.UNAVAILABLE: Meaning(
        503, True, "A part of the server is away", f"{_NOTHING_LOST}; the device tries again."
    ),
    Code.OUT_OF_ORDER: Meaning(
        409, False, "This is not possible in the present state", "Look at the state and start over."
    ),
    Code.STALE: Meaning(
        409, False, "Somebody changed it first", "The device takes their change and plans again."
    ),
    Code.STALE_EPOCH: Meaning(
        409, False, "The keys of this space have changed", "The device fetches the new keys."
    ),
    Code.QUOTA_EXCEEDED: Meaning(
        507, False, "The storage quota is used up", "The file waits. Free space or ask for more."
    ),
    Code.STORAGE_FULL: Meaning(
        507, True, "The server's disk is full", "The file waits; the operator has to make room."
    ),
    Code.CHUNK_MISMATCH: Meaning(
        422, True, "The chunk is not what its address says", "It is sent again; none was stored."
    ),
    Code.CHUNKS_MISSING: Meaning(
        409, True, "The change names chunks that are not here", "The device uploads them first."
    ),
    Code.KEY_REUSED: Meaning(
        409, False, "This operation id was used for other contents", "A new id is needed."
    ),
    Code.DOT_REUSED: Meaning(
        409, False, "This device repeats a number", "It takes a new generation and goes on."
    ),
    Code.HISTORY_LOST: Meaning(
        409, False, "The server lacks changes this device has seen", "Nothing is deleted here."
    ),
    Code.HISTORY_CHANGED: Meaning(
        409, False, "The space has a new history", "The device compares and offers what is missing."
    ),
    Code.JOURNAL_TRIMMED: Meaning(
        410, False, "The journal no longer reaches back so far", "Fetch the snapshot instead."
    ),
    Code.BAD_SIGNATURE: Meaning(
        422, False, "The signature does not fit", "Nothing was accepted. Run: syncline doctor"
    ),
    Code.NAME_TAKEN: Meaning(
        409, False, "The name is taken in this folder", "The device keeps both under two names."
    ),
    Code.PARENT_DEAD: Meaning(
        409, False, "The folder was deleted meanwhile", "The device restores the folder first."
    ),
    Code.PARENT_MISSING: Meaning(
        409, False, "The folder is not known here", "The device sends the folder first."
    ),
    Code.NOT_A_DIRECTORY: Meaning(
        409, False, "The target is not a folder", "The device takes the newer state first."
    ),
    Code.NOT_EMPTY: Meaning(409, False, "The folder is not empty", "It stays, with what is in it."),
    Code.NODE_DEAD: Meaning(
        409, False, "It was deleted meanwhile", "An edit brings it back; the device sends that."
    ),
    Code.NODE_EXISTS: Meaning(
        409, False, "This node exists already", "The device takes the newer state first."
    ),
    Code.VERSION_UNKNOWN: Meaning(
        409, False, "There is no such version", "Choose one from the list of versions."
    ),
    Code.CYCLE: Meaning(
        409, False, "A folder cannot move into itself", "The move is undone on this device."
    ),
    Code.TOO_DEEP: Meaning(
        409, False, "The folders are nested too deeply", "Move it up; it waits on this device."
    ),
    Code.GROUP_FAILED: Meaning(
        409, False, "A change of the same group was refused", "None of the group was made."
    ),
    Code.UPLOAD_EXPIRED: Meaning(
        410, True, "The upload session has expired", "The device opens a new one."
    ),
    Code.NOT_ACCEPTABLE: Meaning(
        406, False, "This format is not spoken here", "Ask for application/json or msgpack."
    ),
    Code.RANGE_INVALID: Meaning(
        416, False, "There are no such bytes", "Ask for a range inside the stream."
    ),
}


_CODES = {str(code): code for code in Code}


class Fault(Message, frozen=True, tag="fault"):
    """An expected no. The turn commits, the answer is stored; a repeat gets the same fault."""

    code: str  # a Code; text, so that an older peer can still read a newer code
    about: str = ""  # which thing, for people; never a name, a path or a secret
    facts: dict[str, str | int] = {}  # ids as hex
    retry_after_ms: int | None = None

    @property
    def known(self) -> Code:
        """The code, or INTERNAL where this peer is too old to know it."""
        return _CODES.get(self.code, Code.INTERNAL)


class Problem(Struct, frozen=True, kw_only=True):
    """A fault as HTTP shows it (RFC 9457), in JSON or msgpack, to people and to devices."""

    type: str  # "urn:syncline:fault:<code>"
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    retry_after_ms: int | None = None
    trace_id: str = ""
    facts: dict[str, str | int] = {}


class Refusal(Exception):
    """Carries a fault up to the edge that answers it. Never crosses a turn."""

    def __init__(self, fault: Fault) -> None:
        """Wrap the fault; its code and subject are the text."""
        super().__init__(f"{fault.code}: {fault.about}")
        self.fault = fault


def refuse(code: Code, about: str = "", retry_after_ms: int | None = None) -> Refusal:
    """Return the exception that carries a fault, ready to raise."""
    return Refusal(Fault(code=code, about=about, retry_after_ms=retry_after_ms))
