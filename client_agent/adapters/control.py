"""The agent's side of the control socket: JSON lines on a Unix socket only its owner reaches."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from client_agent.cli.control import PATH_BYTES_MAX

Document = dict[str, Any]
Answer = Callable[[str, Document], Awaitable[Document]]

LINE_BYTES_MAX = 1 << 20

log = structlog.get_logger()


class Declined(Exception):
    """A request the agent answers with an error for people."""

    def __init__(self, code: str, title: str, detail: str = "", hint: str = "") -> None:
        """Gather the facts."""
        super().__init__(title)
        self.error = {
            "code": code, "title": title, "detail": detail, "hint": hint,
            "retryable": code in ("offline", "not_yet"), "trace_id": "",
        }


@asynccontextmanager
async def serving(path: Path, answer: Answer) -> AsyncIterator[None]:
    """Answer requests at `path` as long as the context is open.

    The caller holds the home's lock, so a socket that is there was left by a crash.
    """
    open_lines: set[asyncio.Task[None]] = set()

    async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_lines.add(task)
        try:
            await _converse(reader, writer, answer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the asker went away
        finally:
            open_lines.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(line, sock=_bound(path), limit=LINE_BYTES_MAX)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for task in open_lines:
            task.cancel()
        await asyncio.gather(*open_lines, return_exceptions=True)


def _bound(path: Path) -> socket.socket:
    """Return a socket at a path of any length (its name itself may have about 100 bytes)."""
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        bound.bind(str(path))
    else:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            bound.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
    path.chmod(0o600)
    bound.listen(16)
    return bound


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer
) -> None:
    """Answer one request; a long one ends when its asker hangs up."""
    asked = await reader.readline()
    if not asked:
        return
    work = asyncio.ensure_future(_answered(asked, answer))
    gone = asyncio.ensure_future(reader.read(1))
    await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not work.done():
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return
    writer.write(json.dumps(work.result(), ensure_ascii=False).encode() + b"\n")
    await writer.drain()


async def _answered(asked: bytes, answer: Answer) -> Document:
    try:
        request = json.loads(asked)
        return {"ok": True, "data": await answer(str(request.pop("do", "")), request)}
    except Declined as declined:
        return {"ok": False, "error": declined.error}
    except Exception as error:
        trace_id = secrets.token_hex(8)
        log.exception("request failed", trace_id=trace_id)
        failed = Declined("internal", "The agent made a mistake", repr(error), "See the log.")
        return {"ok": False, "error": failed.error | {"trace_id": trace_id}}
