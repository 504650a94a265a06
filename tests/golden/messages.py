"""Golden specimens of every message and part: `messages.jsonl`, one line each, bytes in hex.

    python -m tests.golden.messages        adds a specimen for what has none yet

A line is never changed or removed once it is released: whatever was written must be read for
ever. (Until 0.1.0 is released a line may be deleted and made again.) Each struct has two lines:
"full" gives every field a value of its own, "least" sends only those without a default. What a
line `says` is what its author meant; fields that came later are not in it, and must have their
defaults when it is read.
"""

import importlib
import json
import pkgutil
import re
import sys
from enum import Enum
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

import protocol
from protocol.messages import Message, Part

FILE = Path(__file__).with_name("messages.jsonl")
TEXTS = ("anna", "anna@example.org", "laptop")


def structs() -> dict[str, type[msgspec.Struct]]:
    """Every struct of the protocol, by the name its lines bear: the tag, or the part's name."""
    for module in pkgutil.walk_packages(protocol.__path__, "protocol."):
        importlib.import_module(module.name)
    found: dict[str, type[msgspec.Struct]] = {}
    waiting: list[type[msgspec.Struct]] = [Message, Part]
    while waiting:
        subclasses = waiting.pop().__subclasses__()
        waiting += subclasses
        for struct in subclasses:
            if struct.__module__.startswith("protocol."):
                name = str(struct.__struct_config__.tag or f"Part {struct.__name__}")
                assert name not in found, f"{name} is used twice"
                found[name] = struct
    return dict(sorted(found.items()))


def tell(value: Any) -> Any:
    """Return what a value says, for JSON: bytes as hex, structs as objects by field name."""
    if isinstance(value, msgspec.Struct):
        return {field: tell(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes):
        return f"x{value.hex()}"
    if isinstance(value, tuple | list):
        return [tell(item) for item in value]
    if isinstance(value, dict):
        return {str(tell(key)): tell(item) for key, item in value.items()}
    return value


def agrees(said: Any, read: Any) -> bool:
    """Say whether what is read is what was said; objects may have grown fields since."""
    if isinstance(said, dict) and isinstance(read, dict):
        return all(key in read and agrees(item, read[key]) for key, item in said.items())
    if isinstance(said, list) and isinstance(read, list):
        return len(said) == len(read) and all(map(agrees, said, read))
    return bool(said == read)


class Maker:
    """Makes values from types; each call draws the next numbers, so no two fields are alike."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def struct(self, struct: type[msgspec.Struct], least: bool) -> msgspec.Struct:
        described = inspect.type_info(struct)
        assert isinstance(described, inspect.StructType)
        wanted = (f for f in described.fields if f.required or not least)
        return struct(**{f.name: self.value(f.type, least) for f in wanted})

    def value(self, kind: inspect.Type, least: bool) -> Any:
        match kind:
            case inspect.Metadata(type=inner):
                return self.value(inner, least)
            case inspect.BytesType():
                return bytes([next(self.numbers) % 256]) * (kind.min_length or 3)
            case inspect.IntType():
                low = kind.ge if kind.ge is not None else (kind.gt or 0) + 1
                return max(low, min(next(self.numbers), kind.le or 99))
            case inspect.FloatType():
                return next(self.numbers) + 0.5
            case inspect.BoolType():
                return True
            case inspect.StrType():
                return next(t for t in TEXTS if re.search(kind.pattern or "", t))
            case inspect.EnumType(cls=enum):
                return list(enum)[next(self.numbers) % len(enum)]
            case inspect.StructType(cls=cls):
                return self.struct(cls, least)
            case inspect.VarTupleType(item_type=item):
                return tuple(self.value(one, least) for one in alternatives(item))
            case inspect.TupleType(item_types=items):
                return tuple(self.value(item, least) for item in items)
            case inspect.DictType(key_type=key, value_type=value):
                return {self.value(key, least): self.value(v, least) for v in alternatives(value)}
            case inspect.UnionType():
                return self.value(alternatives(kind)[0], least)
        raise TypeError(f"no specimen can be made of {kind}")


def alternatives(kind: inspect.Type) -> list[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        return [one for one in kind.types if not isinstance(one, inspect.NoneType)]
    return [kind]


def lines() -> list[dict[str, Any]]:
    """What the file holds."""
    return [json.loads(line) for line in FILE.read_text().splitlines()] if FILE.exists() else []


def write(value: msgspec.Struct, least: bool) -> bytes:
    """Return the bytes of a value; if `least`, without the fields that have a default."""
    raw = msgspec.msgpack.encode(value)
    if not least:
        return raw
    described = inspect.type_info(type(value))
    assert isinstance(described, inspect.StructType)
    required = [field.encode_name for field in described.fields if field.required]
    plain = msgspec.msgpack.decode(raw)
    if isinstance(plain, list):
        return msgspec.msgpack.encode(plain[: len(required)])
    kept = {key: plain[key] for key in plain if key in required or key == described.tag_field}
    return msgspec.msgpack.encode(kept)


def main() -> None:
    have = {(line["name"], line["fields"]) for line in lines()}
    with FILE.open("a") as file:
        for name, struct in structs().items():
            for fields in ("full", "least"):
                if (name, fields) in have:
                    continue
                value = Maker().struct(struct, least=fields == "least")
                raw = write(value, least=fields == "least").hex()
                line = {"name": name, "fields": fields, "says": tell(value), "bytes": raw}
                file.write(json.dumps(line, sort_keys=True) + "\n")
                print(f"added {name}, {fields}", file=sys.stderr)


if __name__ == "__main__":
    main()
