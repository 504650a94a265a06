"""Processes: an event loop, signals that end it cleanly, and uvicorn without its clock."""

import asyncio
import contextlib
import gc
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import uvicorn

from apps.settings import Settings
from protocol import limits

BACKLOG = 1024
KEEP_ALIVE_S = 120  # above the 75 s of devices: they close first, and never send into a closing one


class Server(uvicorn.Server):
    """uvicorn that sleeps until it is told to stop; its own loop wakes ten times a second.

    (The Date header, which that clock is for, comes from `gateway.edge`.)
    """

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set."""
        super().__init__(config)
        self._stopping = stopping
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to `run`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, and tell."""
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        """Wait for the end."""
        await self.on_tick(0)
        await self._stopping.wait()
        self.should_exit = True


def run(work: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process: `work(stopping)` on uvloop until it returns; SIGTERM and SIGINT set the event.

    A second signal ends the process at once.
    """

    async def main() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, loop, number, stopping)
        task = asyncio.ensure_future(work(stopping))
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await task

    try:
        import uvloop

        factory: Any = uvloop.new_event_loop
    except ImportError:  # not on every platform
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


def _stop(loop: asyncio.AbstractEventLoop, number: int, stopping: asyncio.Event) -> None:
    loop.remove_signal_handler(number)
    signal.signal(number, signal.SIG_DFL)
    stopping.set()


async def unless(stopping: asyncio.Event, work: Awaitable[Any]) -> Any:
    """Return what `work` returns; None if the process is told to stop before."""
    task, stop = asyncio.ensure_future(work), asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for waiting in (task, stop):
            waiting.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


async def serve(
    app: Any, settings: Settings, stopping: asyncio.Event, farewell: Callable[[], None]
) -> None:
    """Serve an ASGI application; prints `ready URL` on stdout once it answers.

    `farewell` is called when the end begins, before connections are closed. Raises OSError when
    the address is taken.
    """
    host, port = settings.address
    listener = socket.create_server((host, port), family=_family(host), backlog=BACKLOG)
    listener.setblocking(False)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=limits.FRAME_BYTES_MAX * 2,
        ws_ping_interval=None,  # our own Ping also asks whether the session still stands
        ws_per_message_deflate=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_grace_s,
        ssl_context_factory=_tls(settings),
    )
    server = Server(config, stopping)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    ending = asyncio.ensure_future(stopping.wait())
    ready = asyncio.ensure_future(server.ready.wait())
    try:
        await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
        if server.started:
            gc.freeze()  # what was imported lives as long as the process
            scheme = "https" if settings.tls_cert else "http"
            say_ready(f"{scheme}://{_shown(host)}:{listener.getsockname()[1]}")
        await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
        farewell()
        await serving
    finally:
        for task in (ending, ready):
            task.cancel()
        listener.close()


def say_ready(about: str = "") -> None:
    """Tell whoever started us that we serve."""
    print(f"ready {about}".strip(), flush=True)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _shown(host: str) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _tls(settings: Settings) -> Callable[..., ssl.SSLContext] | None:
    if not settings.tls_cert:
        return None

    def context(_: uvicorn.Config, __: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.load_cert_chain(settings.tls_cert, settings.tls_key)
        return made

    return context
