"""What commands print: one result on stdout, words for people on stderr, codes for scripts.

    {"ok": true, "schema": "syncline.status/1", "data": {...}, "warnings": []}
    {"ok": false, "error": {"code", "title", "detail", "hint", "retryable", "trace_id"}}

An error says what happened, what it means for the files, and what to do.
"""

import json
import os
import re
import sys
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes; documented, never reused."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    SIGNED_OUT = 4
    TEMPORARY = 5
    ATTENTION = 6
    FATAL = 7
    FULL = 8
    NOT_YET = 9
    INTERRUPTED = 130


PASSING = frozenset({"busy", "changed", "vanished", "offline"})
"""Faults of files that pass by themselves: worth waiting for, no reason to call a person."""


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""All but tab and newline; lone surrogates, too, which no stream can print."""


@dataclass(slots=True)
class Answer:
    """What a command has to say."""

    data: dict[str, Any]
    text: str = ""  # for people; "" prints nothing
    warnings: list[str] = field(default_factory=list)
    exit: int = Exit.DONE


class CliError(Exception):
    """A command that failed, with everything the user needs to know."""

    def __init__(
        self, code: str, title: str, detail: str = "", hint: str = "",
        exit: int = Exit.FAILED, retryable: bool = False, trace_id: str = "",
    ) -> None:
        """Gather the facts."""
        super().__init__(title)
        self.code, self.title, self.detail, self.hint = code, title, detail, hint
        self.exit, self.retryable, self.trace_id = exit, retryable, trace_id

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        error = {
            "code": self.code, "title": self.title, "detail": self.detail, "hint": self.hint,
            "retryable": self.retryable, "trace_id": self.trace_id,
        }
        return {"ok": False, "error": error}

    @classmethod
    def of(cls, error: dict[str, Any]) -> "CliError":
        """Read the `error` of a document that the agent sent."""
        code = str(error.get("code", "internal"))
        return cls(
            code, str(error.get("title", code)), str(error.get("detail", "")),
            str(error.get("hint", "")), exit_of(code), bool(error.get("retryable")),
            str(error.get("trace_id", "")),
        )


_EXITS = {
    Exit.SIGNED_OUT: (
        "unauthenticated", "token_expired", "session_revoked", "bad_credentials", "signed_out",
        "keystore_locked",
    ),
    Exit.TEMPORARY: ("offline", "rate_limited", "busy", "unavailable", "internal"),
    Exit.FATAL: (
        "account_suspended", "registration_closed", "keys_broken", "insecure", "forbidden",
    ),
    Exit.FULL: ("quota_exceeded", "storage_full", "disk_full"),
    Exit.NOT_RUNNING: ("not_running",),
    Exit.ATTENTION: ("attention", "held", "paused"),
    Exit.NOT_YET: ("not_yet",),
    Exit.USAGE: ("usage",),
}


def exit_of(code: str) -> int:
    """Return the exit code of an error code."""
    return next((exit for exit, codes in _EXITS.items() if code in codes), Exit.FAILED)


def say(answer: Answer, schema: str, as_json: bool) -> int:
    """Print an answer; its exit code."""
    if as_json:
        document = {"ok": True, "schema": schema, "data": answer.data}
        print(json.dumps(document | {"warnings": answer.warnings}, ensure_ascii=False))
        return int(answer.exit)
    for warning in answer.warnings:
        _headed(paint("warning:", "33"), warning)
    if answer.text:
        print(plain(answer.text))
    return int(answer.exit)


def complain(error: CliError, as_json: bool) -> int:
    """Print an error; its exit code."""
    if as_json:
        print(json.dumps(error.document(), ensure_ascii=False))
        return int(error.exit)
    _headed(paint("error:", "31"), error.title)
    for line in (error.detail, error.hint, error.trace_id and f"trace id: {error.trace_id}"):
        if line:
            note(f"  {line}")
    return int(error.exit)


def note(text: str) -> None:
    """Tell people something that is no result."""
    print(plain(text), file=sys.stderr)


def _headed(painted: str, text: str) -> None:
    print(painted, plain(text), file=sys.stderr)


def plain(text: str) -> str:
    """Escape control characters, so that a file's name commands no terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def paint(text: str, color: str) -> str:
    """Color a word for a terminal, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
        return text
    return f"\x1b[{color}m{text}\x1b[0m"


def size(count: float) -> str:
    """Return bytes as people read them."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
