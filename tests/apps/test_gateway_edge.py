"""What every answer has, and what anybody may send: nothing of it may end in a 500."""

import asyncio
import json
import os
from typing import Any

import httpx
import msgspec
import pytest

import apps.gateway.health
from actors.ports import Overtaken, Unreachable
from apps.gateway.app import endpoints, fault_of
from apps.gateway.endpoint import Who
from apps.gateway.gate import Check
from apps.gateway.health import examine
from apps.gateway.schema import document
from protocol import limits
from protocol.faults import MEANINGS, Code, Problem
from protocol.messages.chunks import AskMissing
from protocol.messages.device import Keyring, SpaceList
from tests.apps.conftest import Running
from tests.apps.fake_device import MSGPACK

JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def problem_of(answer: httpx.Response) -> Problem:
    """Any refusal, in whatever form: complete, and the same as its status line."""
    kind = answer.headers["content-type"]
    if kind == "application/problem+msgpack":
        problem = msgspec.msgpack.decode(answer.content, type=Problem)
    else:
        assert kind == "application/problem+json"
        problem = msgspec.json.decode(answer.content, type=Problem)
    meaning = MEANINGS[Code(problem.code)]
    assert (problem.status, problem.title) == (answer.status_code, meaning.title)
    assert problem.type == f"urn:syncline:fault:{problem.code}"
    assert problem.retryable == meaning.retryable
    assert answer.headers["x-trace-id"] == problem.trace_id
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return problem


async def test_unknown_addresses_and_methods(gateway: Running) -> None:
    client = gateway.client
    assert problem_of(await client.get("/nothing/here")).code == "not_found"
    assert problem_of(await client.get("/auth/login")).code == "method_not_allowed"
    assert problem_of(await client.put("/sync/commit")).code == "method_not_allowed"
    assert problem_of(await client.get("/%00/../etc/passwd")).code == "not_found"
    assert problem_of(await client.get("/chunks/" + "z" * 5000)).code in {
        "not_found",
        "unauthenticated",
    }


async def test_every_route_asks_who_calls(gateway: Running) -> None:
    routes = endpoints()
    assert len(routes) > 25
    for route in routes:
        path = route.path.replace("{address:str}", "ab" * 32)
        for name in ("device_id", "file_id", "upload_id"):
            path = path.replace(f"{{{name}:str}}", "ab" * 16)
        answer = await gateway.client.request(route.method, path, headers=MSGPACK, content=b"\x80")
        if route.who is not Who.ANYBODY:
            assert problem_of(answer).code == "unauthenticated", route.path
        else:
            assert answer.status_code < 500, route.path


MALFORMED: list[tuple[dict[str, str], bytes]] = [
    (MSGPACK, b""),
    (MSGPACK, b"\xc1"),
    (MSGPACK, b"\x80"),
    (MSGPACK, b"\x93\x01\x02\x03"),
    (MSGPACK, b"\x91" * 5000),
    (MSGPACK, msgspec.msgpack.encode({"t": "something.else"})),
    (MSGPACK, msgspec.msgpack.encode({"username": 5, "auth_key": b"", "device": None})),
    (MSGPACK, msgspec.msgpack.encode(Keyring(rev=1, sealed=b"x"))[:-1]),
    (MSGPACK, b"\x81\xa1t\xa2\xff\xfe"),
    (MSGPACK, b"\x81\xa8username\xa2\xff\xfe"),
    (JSON, b"{"),
    (JSON, b'{"rev":' * 50_000),
    (JSON, b"[" * 100_000),
    (JSON, b"\xff\xfe"),
    (JSON, b'{"rev": 1e999, "sealed": ""}'),
    (JSON, b'{"rev": 2, "sealed": "not base64!"}'),
    ({"Content-Type": "text/plain"}, b"hello"),
    ({"Content-Type": "multipart/form-data"}, b"--x"),
    ({"Content-Type": ""}, b"{}"),
]


@pytest.mark.parametrize(("headers", "body"), MALFORMED)
async def test_malformed_bodies_are_told_so(
    gateway: Running, headers: dict[str, str], body: bytes
) -> None:
    device = await gateway.registered()
    routes = [route for route in endpoints() if route.body not in (None, bytes)]
    space = f"?space={device.keys.home.hex()}"
    for route in routes:
        path = route.path.replace("{device_id:str}", device.device.hex()) + space
        answer = await device.raw(route.method, path, body, headers=headers)
        if route.path == "/sync/heartbeat" and answer.status_code == 200:
            continue  # all its fields have defaults, and unknown ones are ignored
        problem = problem_of(answer)
        assert problem.code in ("bad_request", "too_large"), (route.path, problem)


@pytest.mark.parametrize("form", [MSGPACK, JSON])
async def test_oversized_bodies_are_refused(gateway: Running, form: dict[str, str]) -> None:
    device = await gateway.registered()
    space = f"?space={device.keys.home.hex()}"
    for route in endpoints():
        if route.body is None:
            continue
        path = route.path.replace("{device_id:str}", device.device.hex())
        path = path.replace("{address:str}", "ab" * 32)
        body = bytes(route.body_bytes_max + 1)
        answer = await device.raw(route.method, path + space, body, headers=form)
        problem = problem_of(answer)
        assert (answer.status_code, problem.code) == (413, "too_large"), route.path


async def test_people_speak_json(gateway: Running) -> None:
    device = await gateway.registered()
    answer = await device.raw("GET", "/spaces", headers=JSON)
    assert answer.headers["content-type"] == "application/json"
    said = json.loads(answer.content)
    assert said["t"] == "spaces"
    spaces = msgspec.json.decode(answer.content, type=SpaceList)
    assert spaces.spaces[0].space == device.keys.home

    body = msgspec.json.encode(AskMissing(addresses=(os.urandom(32),)))
    path = f"/chunks/missing?space={device.keys.home.hex()}"
    answer = await device.raw("POST", path, body, headers=JSON)
    assert len(json.loads(answer.content)["missing"]) == 1
    over = b" " * (limits.JSON_BODY_BYTES_MAX + 1)
    assert problem_of(await device.raw("POST", path, over, headers=JSON)).code == "too_large"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/msgpack", "application/msgpack"),
        ("application/json", "application/json"),
        ("*/*", "application/msgpack"),  # as it asked
        ("", "application/msgpack"),
        ("application/json;q=0.2, application/msgpack;q=0.9", "application/msgpack"),
        ("text/html, application/json;q=0.5", "application/json"),
    ],
)
async def test_the_answer_is_in_the_form_that_is_accepted(
    gateway: Running, accept: str, kind: str
) -> None:
    device = await gateway.registered()
    answer = await device.raw("GET", "/spaces", headers={"Accept": accept})
    assert answer.headers["content-type"] == kind


async def test_a_form_that_nobody_speaks_is_refused(gateway: Running) -> None:
    device = await gateway.registered()
    answer = await device.raw("GET", "/spaces", headers={"Accept": "text/html"})
    assert problem_of(answer).code == "not_acceptable"


@pytest.mark.parametrize(
    "query",
    ["", "?space=", "?space=ZZ", "?space=" + "AB" * 16, "?space=" + "ab" * 17, "?space=%ff"],
)
async def test_ids_in_queries(gateway: Running, query: str) -> None:
    device = await gateway.registered()
    for path in ("/files/", "/sync/changes", f"/chunks/{'ab' * 32}"):
        assert problem_of(await device.raw("GET", path + query)).code == "bad_request"


async def test_a_mistake_of_ours_says_nothing_about_itself(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await gateway.registered()

    async def broken(*_: Any) -> None:
        raise RuntimeError("secret-detail in /srv/private")

    monkeypatch.setattr(type(_gate(gateway).reads), "spaces", broken)
    answer = await device.raw("GET", "/spaces")
    assert problem_of(answer).code == "internal"
    assert b"secret-detail" not in answer.content


def _gate(gateway: Running) -> Any:
    from actors.adapters.postgres.reads import Reads

    class Found:
        reads = Reads(gateway.services.pool)

    return Found


async def test_a_database_that_is_away_is_503_with_a_time_to_come_back(gateway: Running) -> None:
    device = await gateway.registered()
    await gateway.services.pool.close()
    answer = await device.raw("GET", "/spaces")
    problem = problem_of(answer)
    assert (answer.status_code, problem.code) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    ready = await gateway.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"]["database"] == "away"
    assert (await gateway.client.get("/livez")).status_code == 200


def test_what_exceptions_of_ports_become() -> None:
    assert fault_of(Overtaken("x")).code == "busy"
    assert fault_of(TimeoutError()).code == "busy"
    assert fault_of(Unreachable("x")).retry_after_ms
    assert fault_of(ValueError("x")).code == "internal"


async def test_health(gateway: Running) -> None:
    for path in ("/livez", "/startupz", "/readyz"):
        answer = await gateway.client.get(path)
        assert (answer.status_code, answer.json()["ready"]) == (200, True)
    assert set(answer.json()["checks"]) == {"database", "storage", "broker", "cache"}


async def test_a_trace_is_carried_on(gateway: Running) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    said = await gateway.client.get(
        "/x", headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    )
    assert problem_of(said).trace_id == trace
    for odd in ("", "x", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"00-{'Z' * 32}-1-1"):
        said = await gateway.client.get("/x", headers={"traceparent": odd})
        assert len(set(problem_of(said).trace_id)) > 4


async def test_the_schema_names_every_route_and_struct(gateway: Running) -> None:
    answer = await gateway.client.get("/schema")
    assert answer.status_code == 200
    said = answer.json()
    assert said["openapi"].startswith("3.1")
    routes = {(route.method.lower(), route.path.replace(":str}", "}")) for route in endpoints()}
    there = {(method, path) for path, methods in said["paths"].items() for method in methods}
    assert routes | {("get", "/ws/sync")} == there
    for name in ("Register", "LoggedIn", "CommitRequest", "ChangesPage", "Problem", "Welcome"):
        assert name in said["components"]["schemas"]
    text = json.dumps(said)
    refs = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert refs <= set(said["components"]["schemas"])
    assert document(endpoints(), "1") == document(endpoints(), "1")


async def test_the_last_resort_is_a_problem_too(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret-detail")

    monkeypatch.setattr("apps.gateway.app.fault_of", broken)
    answer = await gateway.client.get("/nothing")
    assert (answer.status_code, b"secret-detail" in answer.content) == (500, False)
    assert problem_of(answer).code == "internal"


async def test_a_slow_check_is_not_waited_for(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apps.gateway.health, "BUDGET_S", 0.05)

    async def slow() -> None:
        await asyncio.sleep(60)

    async def fine() -> None:
        pass

    health = await examine({"a": Check(slow, False), "b": Check(fine, True)})
    assert (health.ready, health.checks) == (True, {"a": "slow", "b": "ok"})
    assert not (await examine({"a": Check(slow, True)})).ready
