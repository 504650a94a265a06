"""House rules that a machine can check: who may import whom, what pure code may touch, how long.

The table is the one of the handbook's architecture page: rooms import in one direction, third
parties stand in the rooms that name them, and pure code reaches nothing but its arguments. The
rules are functions of a path and a text, so that planted violations can be shown to be caught.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("protocol", "actors", "apps", "client_agent")
OURS = (*ROOMS, "ops", "tests")
FUNCTION_LINES_MAX = 70  # exclusive: a function fits a screen
FILE_LINES_MAX = 500
TEST_FILE_LINES_MAX = 800  # a specification may be a long list

# The standard library that computes and does nothing else.
PURE_STDLIB = """
    __future__ abc array base64 binascii bisect collections contextlib copy dataclasses decimal
    difflib enum fractions functools graphlib hashlib heapq hmac inspect itertools keyword math
    numbers operator re statistics string struct textwrap types typing unicodedata warnings zlib
"""
IMPURE_BUILTINS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


@dataclass(frozen=True)
class Rule:
    """What the files below one place may import. A name covers everything below it."""

    place: str
    ours: tuple[str, ...]
    third_parties: frozenset[str]
    never: tuple[str, ...] = ()  # exceptions to `ours`
    pure: bool = False


def rule(
    place: str,
    ours: str,
    third_parties: str = "",
    *,
    never: str = "",
    pure: bool = False,
) -> Rule:
    """A row of the table, from words."""
    return Rule(
        place, tuple(ours.split()), frozenset(third_parties.split()), tuple(never.split()), pure
    )


# The first row whose place fits is the one that counts.
TABLE = (
    rule("protocol", "protocol", "msgspec", pure=True),
    # records: the plain facts that cross the ports, part of the ports' page
    rule("actors/records.py", "protocol", "msgspec", pure=True),
    rule("actors/core", "protocol actors.core actors.records", "msgspec pathspec", pure=True),
    rule(
        "actors/adapters",
        # Beside the ports what both twins of a port share: mailboxes, buffered words, partitions.
        "protocol actors.ports actors.records actors.adapters actors.core.partition "
        "actors.mailbox actors.turn actors.outbox actors.ears actors.memory",
        # msgspec to read and write what passes; the last three are faststream's own language
        "faststream piccolo asyncpg redis obstore cryptography structlog msgspec "
        "aio_pika aiormq yarl",
    ),
    rule("actors", "protocol actors", "msgspec structlog", never="actors.adapters"),
    rule(
        "apps",
        "protocol actors apps",
        "litestar uvicorn uvloop click structlog jwt argon2 cryptography msgspec "
        "prometheus_client opentelemetry",
    ),
    rule(
        "client_agent/core",
        "protocol client_agent.core",
        "msgspec pathspec pyfastcdc",
        pure=True,
    ),
    rule(
        "client_agent",
        "protocol client_agent",
        "aiohttp watchfiles cryptography argon2 backports compression pyfastcdc pathspec "
        "platformdirs keyring mnemonic stamina click rich structlog msgspec",
    ),
)


def rule_for(path: str) -> Rule:
    """The row of the table for a file of one of the rooms."""
    for row in TABLE:
        if path == row.place or path.startswith(row.place + "/"):
            return row
    raise LookupError(path)


def below(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Every imported module as a full name; `from a import b` gives `a.b`, since b may be one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*up, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def import_troubles(path: str, tree: ast.AST) -> Iterator[str]:
    row = rule_for(path)
    package = ".".join(PurePosixPath(path).parent.parts)
    for name in imports(tree, package):
        top = name.split(".")[0]
        if top in OURS:
            if not below(name, row.ours) or below(name, row.never):
                yield f"{row.place} may not import {name}"
        elif top in sys.stdlib_module_names:
            if row.pure and top not in PURE_STDLIB.split():
                yield f"pure code may not import {top}"
        elif top not in row.third_parties:
            yield f"{row.place} may not use {top}"


def purity_troubles(path: str, tree: ast.AST) -> Iterator[str]:
    if not rule_for(path).pure:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield "pure code does not wait"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in IMPURE_BUILTINS:
                yield f"pure code may not call {node.func.id}"
        elif isinstance(node, ast.Global):
            yield "pure code keeps nothing in globals"


def length_troubles(path: str, text: str, tree: ast.AST) -> Iterator[str]:
    if "migrations" in PurePosixPath(path).parts:
        return  # written by a machine, once
    lines = text.count("\n") + 1
    most = TEST_FILE_LINES_MAX if path.startswith("tests/") else FILE_LINES_MAX
    if lines > most:
        yield f"{lines} lines: one idea per file, at most {most} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if length >= FUNCTION_LINES_MAX:
                yield f"{node.name} has {length} lines"


def name_troubles(path: str) -> Iterator[str]:
    if PurePosixPath(path).stem in FORBIDDEN_NAMES:
        yield "a file is named after its idea"


def troubles(path: str, text: str) -> list[str]:
    """Everything that is wrong with a Python file at `path` (relative, with slashes)."""
    tree = ast.parse(text)
    found = [*name_troubles(path), *length_troubles(path, text, tree)]
    if path.split("/")[0] in ROOMS:
        found += [*import_troubles(path, tree), *purity_troubles(path, tree)]
    return sorted(set(found))


# --- what no committed file may name, whatever its kind; put together here so as not to match ---

HOSTS = [
    "pypi" + ".org",
    "python" + "hosted.org",
    "npm" + "js.org",
    "npm" + "js.com",
    "yarn" + "pkg.com",
    "deb." + "debian.org",
    "security." + "debian.org",
    "archive." + "ubuntu.com",
    "proxy." + "golang.org",
    "crates" + ".io",
    "ruby" + "gems.org",
]
MACHINE_PATHS = ["/work" + "/", "/root" + "/", "/home" + "/", "/opt/" + "wheels", "/opt/" + "pypi"]
FORBIDDEN_TEXT = re.compile(
    "|".join([*map(re.escape, HOSTS), *(rf"(?<![\w.$}}~)-]){re.escape(p)}" for p in MACHINE_PATHS)])
)


def text_troubles(text: str) -> list[str]:
    """Registry hosts and paths of one machine that a text names."""
    return sorted({f"names {match[0]}" for match in FORBIDDEN_TEXT.finditer(text)})


def files() -> list[str]:
    """Every file that is or will be committed; all there are where git does not answer."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:
        names = [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*")]
        names = [name for name in names if not name.startswith((".", "demo/", "build/"))]
    return sorted({name for name in names if (ROOT / name).is_file()})


def report(found: dict[str, list[str]]) -> str:
    return "\n".join(f"{path}: {one}" for path, these in found.items() for one in these)


def test_the_house_is_tidy():
    python = [name for name in files() if name.endswith(".py")]
    found = {name: troubles(name, (ROOT / name).read_text()) for name in python}
    if any(found.values()):
        pytest.fail(report(found), pytrace=False)


def test_no_file_names_a_registry_or_a_machine():
    found = {}
    for name in files():
        text = (ROOT / name).read_bytes().decode(errors="replace")
        found[name] = text_troubles(text)
    if any(found.values()):
        pytest.fail(report(found), pytrace=False)


def test_every_room_has_a_rule():
    packages = {name.split("/")[0] for name in files() if name.endswith("/__init__.py")}
    assert packages <= set(OURS), "a new room needs a row in the table"


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        # one line for every row of the table and each of its columns
        ("protocol/ids.py", "import actors", "protocol may not import actors"),
        ("protocol/ids.py", "import client_agent.core.planner", "may not import client_agent"),
        ("protocol/ids.py", "import structlog", "protocol may not use structlog"),
        ("protocol/ids.py", "import asyncio", "pure code may not import asyncio"),
        ("protocol/ids.py", "import os", "pure code may not import os"),
        ("protocol/clock.py", "import time", "pure code may not import time"),
        ("protocol/clock.py", "from datetime import UTC", "pure code may not import datetime"),
        ("protocol/backoff.py", "import random", "pure code may not import random"),
        ("protocol/ids.py", "import secrets", "pure code may not import secrets"),
        ("protocol/ids.py", "from uuid import uuid4", "pure code may not import uuid"),
        ("actors/core/conflict.py", "import threading", "pure code may not import threading"),
        ("actors/core/conflict.py", "from actors import ports", "may not import actors.ports"),
        ("actors/core/conflict.py", "import structlog", "actors/core may not use structlog"),
        ("actors/records.py", "import os", "pure code may not import os"),
        ("actors/turn.py", "import asyncpg", "actors may not use asyncpg"),
        ("actors/turn.py", "import redis.asyncio", "actors may not use redis"),
        ("actors/turn.py", "from faststream.rabbit import fastapi", "may not use faststream"),
        ("actors/turn.py", "import litestar", "actors may not use litestar"),
        ("actors/turn.py", "from actors.adapters import rabbit", "may not import actors.adapters"),
        ("actors/turn.py", "from .adapters.rabbit import Rabbit", "may not import actors.adapt"),
        ("actors/turn.py", "import apps.settings", "actors may not import apps.settings"),
        ("actors/turn.py", "import client_agent", "actors may not import client_agent"),
        ("actors/adapters/rabbit.py", "import litestar", "actors/adapters may not use litestar"),
        ("actors/adapters/rabbit.py", "from actors import host", "may not import actors.host"),
        ("actors/adapters/rabbit.py", "from ..host import Host", "may not import actors.host"),
        ("actors/adapters/postgres/store.py", "from ... import host", "not import actors.host"),
        ("apps/worker.py", "import client_agent.agent", "apps may not import client_agent"),
        ("apps/worker.py", "import asyncpg", "apps may not use asyncpg"),
        ("apps/worker.py", "import aiohttp", "apps may not use aiohttp"),
        ("apps/worker.py", "from tests import services", "apps may not import tests.services"),
        ("client_agent/core/planner.py", "import sqlite3", "pure code may not import sqlite3"),
        ("client_agent/core/planner.py", "import pathlib", "pure code may not import pathlib"),
        ("client_agent/core/planner.py", "import socket", "pure code may not import socket"),
        ("client_agent/core/planner.py", "import subprocess", "may not import subprocess"),
        ("client_agent/core/engine.py", "from client_agent import agent", "client_agent.agent"),
        ("client_agent/core/engine.py", "import aiohttp", "client_agent/core may not use aiohttp"),
        ("client_agent/agent.py", "import actors.ports", "client_agent may not import actors"),
        ("client_agent/agent.py", "from apps.settings import Settings", "may not import apps"),
        ("client_agent/agent.py", "import asyncpg", "client_agent may not use asyncpg"),
        ("client_agent/agent.py", "import piccolo", "client_agent may not use piccolo"),
        ("client_agent/agent.py", "import ops.demo", "client_agent may not import ops.demo"),
        # hidden in a function, an `if`, or behind a comma
        ("protocol/ids.py", "def f():\n    import os", "pure code may not import os"),
        ("protocol/ids.py", "if 0:\n    from os import path", "pure code may not import os"),
        ("protocol/ids.py", "import re, os.path as p", "pure code may not import os"),
        # purity beyond imports
        ("protocol/ids.py", "open('x')", "pure code may not call open"),
        ("actors/core/quota.py", "async def f(): ...", "pure code does not wait"),
        ("client_agent/core/trees.py", "def f():\n    global x", "keeps nothing in globals"),
        # size and names
        ("apps/worker.py", "def f():\n" + "    x = 1\n" * 69, "f has 70 lines"),
        ("tests/test_x.py", "async def g():\n" + "    x = 1\n" * 70, "g has 71 lines"),
        ("ops/demo.py", "x = 1\n" * 500, "501 lines"),
        ("tests/test_x.py", "x = 1\n" * 800, "801 lines"),
        ("apps/utils.py", "x = 1", "named after its idea"),
    ],
)
def test_a_planted_violation_is_caught(path: str, line: str, expected: str):
    assert any(expected in trouble for trouble in troubles(path, line)), troubles(path, line)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("protocol/ids.py", "import msgspec, re\nfrom protocol.limits import X"),
        ("actors/core/conflict.py", "from protocol import vector\nfrom .quota import fits"),
        ("actors/core/conflict.py", "from actors.records import Node"),
        ("actors/turn.py", "import asyncio, structlog\nfrom actors.core import conflict"),
        ("actors/adapters/rabbit.py", "import faststream.rabbit\nfrom actors.ports import Store"),
        ("apps/wiring.py", "from actors.adapters.rabbit import R\nimport litestar, jwt"),
        ("client_agent/core/chunker.py", "from pyfastcdc import FastCDC\nimport msgspec"),
        ("client_agent/agent.py", "import sqlite3, aiohttp\nfrom client_agent.core import trees"),
        ("ops/demo.py", "import apps.cli, os, httpx"),
        ("apps/worker.py", "def f():\n" + "    x = 1\n" * 68),
    ],
)
def test_what_the_table_allows_is_allowed(path: str, line: str):
    assert troubles(path, line) == []


@pytest.mark.parametrize("place", [*HOSTS, *MACHINE_PATHS])
def test_a_planted_host_or_path_is_caught(place: str):
    assert text_troubles(f'url = "{place}x"') == [f"names {place}"]


@pytest.mark.parametrize(
    "text",
    ["network/main", "$HOME/home" + "/x", "https://syncline.example/simple", "a/root" + "/b"],
)
def test_other_paths_are_nobodys_business(text: str):
    assert text_troubles(text) == []
