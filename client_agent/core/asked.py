"""Events that a person, or the shell on their behalf, causes. Part of core/events.py."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Approved:
    """The user lets go on what a safety stop holds; `kind` as in the Tell, "" for all."""

    kind: str = ""


@dataclass(frozen=True, slots=True)
class Choose:
    """Make a retained version the head of its node, and delete some nodes with it (copies)."""

    node: bytes
    version: bytes
    without: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Named:
    """Names of devices by id, for the names of conflict copies."""

    devices: dict[bytes, str]
