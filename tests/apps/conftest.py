"""The gateway on real PostgreSQL, actors in the same process, by ASGI or a socket."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from actors.adapters.postgres.migrate import migrate
from apps.serve import Server
from apps.settings import Settings
from apps.wiring import gateway_of, hosting, now_ms, services
from tests.apps.fake_device import FakeDevice, Keys


@dataclass
class Running:
    """A gateway and what a test may want to look into."""

    app: Any
    hub: Any
    client: httpx.AsyncClient
    services: Any
    counter: int = 0

    def device(self, username: str = "") -> FakeDevice:
        """A device of a new account that is not registered yet."""
        return FakeDevice(self.client, Keys(username or f"u{os.urandom(6).hex()}"))

    def second(self, first: FakeDevice) -> FakeDevice:
        """Another device of the same account, not signed in yet."""
        return FakeDevice(self.client, first.keys)

    async def registered(self) -> FakeDevice:
        device = self.device()
        await device.register()
        return device


@pytest.fixture(scope="session")
def gateway_settings(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("gateway")
    return Settings(database_url=database_url, storage_dir=str(folder / "storage"))


@asynccontextmanager
async def run_gateway(settings: Settings, chunks: Any = None) -> AsyncIterator[Running]:
    """Starts everything that standalone starts, but for PostgreSQL and the socket."""
    await migrate(settings.database_url, settings.namespace, now_ms())
    folder = Path(settings.storage_dir).parent
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        opened = await enter(services(settings, embedded=True, name="test"))
        await enter(hosting(opened, opened.transport))
        app, hub = await enter(gateway_of(opened, folder, chunks))
        await enter(app.lifespan())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://gateway")
        await enter(client)
        yield Running(app, hub, client, opened)


@pytest.fixture
async def gateway(gateway_settings: Settings) -> AsyncIterator[Running]:
    async with run_gateway(gateway_settings) as running:
        yield running


@pytest.fixture
async def served(gateway: Running) -> AsyncIterator[str]:
    """The same gateway behind a real socket; its URL."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        gateway.app, log_config=None, lifespan="off", ws="websockets-sansio", ws_ping_interval=None
    )
    stopping = asyncio.Event()
    server = Server(config, stopping)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await server.ready.wait()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    gateway.hub.farewell()
    stopping.set()
    await task
