"""Degrade, don't fall (law 7): broker and cache away; and the scaled-out processes together."""

import os
import secrets
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import httpx
import msgspec
import pytest

from actors.adapters.postgres.migrate import migrate
from apps.settings import Settings, parse_listen
from apps.wiring import gateway_of, now_ms, services
from ops.lab import Process, Scaled, free_port
from protocol.codec import decode, encode
from protocol.messages.device import SpaceList
from protocol.messages.feed import Advanced, Hello, ServerFrame, Ticket, Welcome
from protocol.messages.sync import Accepted, ChangesPage
from tests.apps.conftest import Running
from tests.apps.fake_device import FakeDevice, Keys


@asynccontextmanager
async def scaled_out(settings: Settings) -> AsyncIterator[Running]:
    """A gateway as `syncline-server gateway` has it, without its socket."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await migrate(settings.database_url, settings.namespace, now_ms())
        opened = await enter(services(settings, embedded=False, name="test"))
        app, hub = await enter(gateway_of(opened, Path(settings.storage_dir).parent))
        await enter(app.lifespan())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")
        await enter(client)
        yield Running(app, hub, client, opened)


async def test_without_broker_and_cache_commits_and_reads_go_on(
    gateway_settings: Settings,
) -> None:
    port = free_port()
    settings = msgspec.structs.replace(
        gateway_settings,
        amqp_url=f"amqp://guest:guest@127.0.0.1:{port}/",
        redis_url=f"redis://127.0.0.1:{port}/0",
        metrics_listen=f"127.0.0.1:{free_port()}",
    )
    async with scaled_out(settings) as gateway:
        ready = await gateway.client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["checks"]["broker"] == "away"
        device = await gateway.registered()
        blob = os.urandom(1000)
        done = await device.commit(device.commit_of(device.file(blob), inline=(blob,)))
        assert isinstance(done.results[0], Accepted)
        path = f"/sync/changes?space={device.keys.home.hex()}"
        assert (await device.ask("GET", path, into=ChangesPage)).head_seq == 1
        assert (await device.ask("POST", "/ws/ticket", into=Ticket)).ticket

        host, metrics_port = parse_listen(settings.metrics_listen)
        async with httpx.AsyncClient() as client:
            figures = (await client.get(f"http://{host}:{metrics_port}/metrics")).text
        assert 'syncline_http_requests_total{route="POST /sync/commit",status="200"} 1.0' in figures
        assert device.keys.home.hex() not in figures


@pytest.fixture
def scaled(tmp_path: Path, database_url: str, amqp_url: str, redis_url: str) -> Iterator[Scaled]:
    servers = Scaled(tmp_path, database_url, amqp_url, redis_url)
    yield servers
    servers.stop()


@pytest.mark.timeout(180)
async def test_devices_on_two_gateways_hear_of_each_other(scaled: Scaled) -> None:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        clients = [await enter(httpx.AsyncClient(base_url=url)) for url in scaled.urls]
        first = FakeDevice(clients[0], Keys(f"u{secrets.token_hex(5)}"))
        await first.register()
        second = FakeDevice(clients[1], first.keys)
        await second.certify((await second.login()).devices)
        ticket = await FakeDevice.ask(second, "POST", "/ws/ticket", into=Ticket)
        web = await enter(aiohttp.ClientSession(scaled.urls[0]))  # tickets are of all gateways
        socket = await enter(web.ws_connect(f"/ws/sync?ticket={ticket.ticket}"))
        await socket.send_bytes(encode(Hello()))
        assert isinstance(decode(await socket.receive_bytes(timeout=10), ServerFrame), Welcome)

        blob = os.urandom(5000)
        for number in range(1, 4):
            device = (first, second)[number % 2]
            change = device.file(blob)
            done = await device.commit(device.commit_of(change, inline=(blob,)))
            assert done.head_seq == number
            frame = decode(await socket.receive_bytes(timeout=10), ServerFrame)
            assert isinstance(frame, Advanced)
            assert (frame.prev_seq, frame.seq) == (number - 1, number)
        spaces = await second.ask("GET", "/spaces", into=SpaceList)
        assert spaces.spaces[0].head_seq == 3
    codes = [process.stop() for process in (*scaled.gateways, *scaled.workers, scaled.relay)]
    assert codes == [0] * 5
    logs = "".join(path.read_text() for path in scaled.folder.glob("*.log"))
    assert "Traceback" not in logs
    assert first.keys.username not in logs


def certificate(folder: Path) -> tuple[str, str]:
    """A self-signed certificate of 127.0.0.1."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=30))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "cert.pem"), str(folder / "key.pem")


async def test_tls_is_1_3_or_nothing(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    server = Process(
        "standalone",
        ["standalone", "--data-dir", str(tmp_path / "d"), "--port", "0"],
        tmp_path / "server.log",
        {"SYNCLINE_TLS_CERT": cert, "SYNCLINE_TLS_KEY": key},
    )
    try:
        url = server.wait_for("ready ")
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=cert)
        async with httpx.AsyncClient(verify=trust) as client:
            answer = await client.get(f"{url}/livez")
        assert "max-age" in answer.headers["strict-transport-security"]
        old: Any = ssl.create_default_context(cafile=cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with httpx.AsyncClient(verify=old) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"{url}/livez")
    finally:
        assert server.stop() == 0


async def test_a_database_that_restarts_is_found_again(gateway: Running) -> None:
    device = await gateway.registered()
    for _ in range(3):
        await device.ask("GET", "/spaces", into=SpaceList)
    keeper = await asyncpg.connect(gateway.services.settings.database_url)
    await keeper.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await keeper.close()
    codes = [(await device.raw("GET", "/spaces")).status_code for _ in range(30)]
    assert set(codes) <= {200, 503}
    assert codes[-10:] == [200] * 10
    done = await device.commit(device.commit_of(device.file()))
    assert isinstance(done.results[0], Accepted)
