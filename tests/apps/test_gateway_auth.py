"""Accounts and sessions over HTTP, mostly what must not work."""

import asyncio
import itertools
import json
import os
from typing import Any

import jwt
import msgspec
import pytest
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import apps.gateway.passwords
from apps.gateway.gate import STANDING_MS
from apps.gateway.passwords import AT_ONCE_MAX
from protocol.journal import genesis
from protocol.messages.device import (
    CertifyDevice,
    DeviceList,
    Kdf,
    Keyring,
    Prelogin,
    Session,
    SpaceList,
)
from tests.apps.conftest import Running
from tests.apps.fake_device import FakeDevice, Said


async def refused(work: Any) -> Said:
    with pytest.raises(Said) as caught:
        await work
    return caught.value


# --- registering ---


async def test_registering_makes_account_device_home_and_keyring(gateway: Running) -> None:
    device = await gateway.registered()
    keys = device.keys

    spaces = await device.ask("GET", "/spaces", into=SpaceList)
    assert len(spaces.spaces) == 1
    home = spaces.spaces[0]
    assert (home.space, home.owner, home.history) == (keys.home, keys.account, keys.history)
    assert home.head == genesis(keys.home, keys.history, keys.wraps.identity_sign)
    assert (home.home, home.head_seq, home.role) == (True, 0, 3)
    assert home.owner_identity == keys.wraps.identity_sign

    keyring = await device.ask("GET", "/auth/keyring", into=Keyring)
    assert keyring == Keyring(rev=1, sealed=b"keyring 1")
    devices = await device.ask("GET", "/auth/devices", into=DeviceList)
    assert [row.current for row in devices.devices] == [True]
    assert devices.devices[0].signed == devices.entries[0]


async def test_registering_again_with_the_same_keys_is_the_same_account(gateway: Running) -> None:
    device = gateway.device()
    asked = device.registration()
    first = await device.ask("POST", "/auth/register", asked, into=Session)
    again = await device.ask("POST", "/auth/register", asked, into=Session)
    assert again.account == first.account
    assert again.refresh_token != first.refresh_token

    race = gateway.device()
    asked = race.registration()
    both = await asyncio.gather(
        *(race.ask("POST", "/auth/register", asked, into=Session) for _ in range(4))
    )
    assert {session.account for session in both} == {race.keys.account}


@pytest.mark.parametrize("what", ["username", "email"])
async def test_a_name_is_given_once(gateway: Running, what: str) -> None:
    first = await gateway.registered()
    taken = {"username": first.keys.username, "email": f"{first.keys.username}@EXAMPLE.org".lower()}
    said = await refused(gateway.device().register(**{what: taken[what]}))
    assert (said.status, said.code) == (409, "name_in_use")


async def test_ids_of_others_cannot_be_taken(gateway: Running) -> None:
    first = await gateway.registered()
    stranger = gateway.device()
    stranger.keys.account = first.keys.account
    assert (await refused(stranger.register())).code == "key_reused"
    other = gateway.device()
    assert (await refused(other.register(home=first.keys.home))).code == "key_reused"
    assert (await refused(other.login())).code == "bad_credentials"  # nothing was half made


async def test_a_registration_must_be_signed_and_whole(gateway: Running) -> None:
    device = gateway.device()
    other = gateway.device()
    forged = device.entry()
    forged = type(forged)(forged.entry, other.keys.identity.sign(b"something else"))
    assert (await refused(device.register(entry=forged))).code == "bad_signature"
    for entry in (
        device.entry(n=2),
        device.entry(prev=os.urandom(32)),
        device.entry(account=os.urandom(16)),
        device.entry(sign=os.urandom(32)),
        device.entry(format=2),
        device.entry(action="revoke"),
    ):
        assert (await refused(device.register(entry=entry))).code == "bad_request"
    weak = Kdf(salt_seed=os.urandom(16), memory_kib=1024)
    assert (await refused(device.register(kdf=weak))).code == "bad_request"
    assert (await refused(device.register(username="Not Good"))).code == "bad_request"
    for email in ("a\x00b@example.org", "a\x1b@example.org", "nobody"):
        assert (await refused(device.register(email=email))).code == "bad_request"
    far = msgspec.structs.replace(device.keys.wraps, mk_epoch=1 << 63)
    assert (await refused(device.register(wraps=far))).code == "bad_request"
    asked = json.loads(msgspec.json.encode(device.registration()))
    asked["wraps"]["mk_epoch"] = 10**40
    form = {"Content-Type": "application/json"}
    answer = await device.raw("POST", "/auth/register", json.dumps(asked).encode(), headers=form)
    assert answer.status_code == 400
    assert (await refused(device.register(entry=device.entry(n=1 << 63)))).code == "bad_request"
    await device.register()


# --- signing in ---


async def test_wrong_password_and_unknown_user_are_told_apart_by_nothing(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Planted bug: answering an unknown name before the hash is computed. `work` then differs.
    work: list[str] = []
    verify = PasswordHasher.verify

    def counted(self: PasswordHasher, stored: str, key: bytes) -> bool:
        work.append(stored[:40])
        return verify(self, stored, key)

    known = await gateway.registered()
    second, stranger = gateway.second(known), gateway.device()
    monkeypatch.setattr(PasswordHasher, "verify", counted)
    answers = []
    for device in (second, stranger):
        login = {
            "username": device.keys.username,
            "auth_key": os.urandom(32),
            "device": device.device_keys(),
        }
        answer = await device.raw("POST", "/auth/login", login, headers={"Accept": "*/*"})
        headers = {k: v for k, v in answer.headers.items() if k not in ("date", "x-trace-id")}
        problem = msgspec.msgpack.decode(answer.content)
        problem.pop("trace_id")
        answers.append((answer.status_code, problem, headers))
    assert answers[0] == answers[1]
    assert answers[0][0] == 401
    assert len(work) == 2
    assert work[0].split("$")[:4] == work[1].split("$")[:4]  # same algorithm, same costs


async def test_prelogin_is_stable_and_alike_for_all_names(gateway: Running) -> None:
    device = await gateway.registered()
    known = await device.ask(
        "POST", "/auth/prelogin", Prelogin(username=device.keys.username), into=Kdf
    )
    assert known == device.keys.kdf
    asked = Prelogin(username="nobody-here")
    fakes = [await device.ask("POST", "/auth/prelogin", asked, into=Kdf) for _ in range(2)]
    assert fakes[0] == fakes[1]
    assert (fakes[0].memory_kib, fakes[0].time, fakes[0].lanes) == (
        known.memory_kib,
        known.time,
        known.lanes,
    )
    other = await device.ask("POST", "/auth/prelogin", Prelogin(username="nobody2"), into=Kdf)
    assert other.salt_seed != fakes[0].salt_seed


async def test_tries_to_sign_in_are_counted(gateway: Running) -> None:
    device = gateway.device()
    # Planted bug: asking only before the queue for the hash; then all 30 at once are tried.
    said = await asyncio.gather(*(refused(device.login()) for _ in range(30)))
    codes = [refusal.code for refusal in said]
    assert 20 <= codes.count("bad_credentials") <= 20 + AT_ONCE_MAX
    assert set(codes) == {"bad_credentials", "rate_limited"}
    assert (await refused(device.login())).code == "rate_limited"
    answer = await device.raw(
        "POST",
        "/auth/login",
        {
            "username": device.keys.username,
            "auth_key": bytes(32),
            "device": device.device_keys(),
        },
    )
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    other = await gateway.registered()
    for _ in range(25):  # who signs in rightly is never counted
        await other.login()


async def test_a_second_device_may_only_certify_itself_first(gateway: Running) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    logged_in = await second.login()
    assert not logged_in.certified
    assert logged_in.wraps == first.keys.wraps
    assert logged_in.keyring.rev == 1

    assert (await refused(second.ask("GET", "/spaces"))).code == "forbidden"
    assert (
        await refused(second.ask("PUT", "/auth/keyring", Keyring(rev=2, sealed=b"x")))
    ).code == "forbidden"
    assert (await second.ask("GET", "/auth/keyring", into=Keyring)).rev == 1
    other = f"/auth/devices/{first.device.hex()}"
    certificate = second.certification(logged_in.devices)
    assert (await refused(second.ask("PUT", other, certificate))).code == "forbidden"
    assert (await refused(second.ask("DELETE", other))).code == "forbidden"

    listed = await second.certify(logged_in.devices)
    assert len(listed.entries) == 2
    assert (await second.ask("GET", "/spaces", into=SpaceList)).spaces[0].home
    again = await second.login()
    assert again.certified


async def test_the_device_list_grows_by_compare_and_set(gateway: Running) -> None:
    first = await gateway.registered()
    second, third = gateway.second(first), gateway.second(first)
    before = (await second.login()).devices
    await third.login()
    asked = second.certification(before)
    path = f"/auth/devices/{second.device.hex()}"
    once = await second.ask("PUT", path, asked, into=DeviceList)
    assert (await second.ask("PUT", path, asked, into=DeviceList)).entries == once.entries
    assert (await refused(third.certify(before))).code == "stale"
    for n in (3, 1 << 31, 1 << 62, 77):  # 3 is next, but does not follow this `prev`
        entry = third.entry(n, os.urandom(32))
        far = CertifyDevice(entry=entry, mk_for_device=b"x", sealed_name=b"x")
        said = await refused(third.ask("PUT", f"/auth/devices/{third.device.hex()}", far))
        assert said.code in ("stale", "bad_request")
    await third.certify(once)

    fourth = gateway.second(first)
    devices = (await fourth.login()).devices
    stranger = gateway.device()
    fourth.keys.identity, identity = stranger.keys.identity, fourth.keys.identity
    assert (await refused(fourth.certify(devices))).code == "bad_signature"
    fourth.keys.identity = identity
    nobody = fourth.certification(devices)
    assert (
        await refused(fourth.ask("PUT", f"/auth/devices/{'ab' * 16}", nobody))
    ).code == "forbidden"
    assert (
        await refused(first.ask("PUT", f"/auth/devices/{'ab' * 16}", nobody))
    ).code == "not_found"


async def test_a_device_id_stays_with_its_keys(gateway: Running) -> None:
    first = await gateway.registered()
    thief = gateway.second(first)
    thief.device = first.device
    assert (await refused(thief.login())).code == "key_reused"
    stranger = await gateway.registered()
    stranger.device = first.device
    assert (await refused(stranger.login())).code == "key_reused"


# --- tokens ---


async def test_requests_without_a_good_token_are_refused(gateway: Running) -> None:
    device = await gateway.registered()
    assert device.session is not None
    good = device.session.access_token
    claims = jwt.decode(good, options={"verify_signature": False})
    kid = jwt.get_unverified_header(good)["kid"]
    gate_key = _signing_key(gateway)
    other_key = Ed25519PrivateKey.generate()
    typ = {"typ": "at+jwt", "kid": kid}

    def made(key: Any, alg: str, headers: dict[str, Any], **changes: Any) -> str:
        left = {k: v for k, v in (claims | changes).items() if v is not None}
        return jwt.encode(left, key, algorithm=alg, headers=headers)

    forged = {
        "alg none": made(None, "none", typ),
        "hs256": made("x" * 32, "HS256", typ),
        "hs256 with the public key": made(
            gate_key.public_key().public_bytes_raw().hex(), "HS256", typ
        ),
        "other key": made(other_key, "EdDSA", typ),
        "other kid": made(gate_key, "EdDSA", {"typ": "at+jwt", "kid": "x"}),
        "no typ": made(gate_key, "EdDSA", {"typ": "JWT", "kid": kid}),
        "audience": made(gate_key, "EdDSA", typ, aud="somebody"),
        "issuer": made(gate_key, "EdDSA", typ, iss="somebody"),
        "no device": made(gate_key, "EdDSA", typ, did=None),
        "no expiry": made(gate_key, "EdDSA", typ, exp=None),
        "garbage ids": made(gate_key, "EdDSA", typ, sid="x"),
        "garbage": "abc.def.ghi",
        "cut": good[:-5],
    }
    for why, token in forged.items():
        answer = await device.raw("GET", "/spaces", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, why
        assert b"unauthenticated" in answer.content, why
        assert answer.headers["www-authenticate"].startswith("Bearer"), why
    for header in ("", "Bearer", f"Basic {good}", good):
        answer = await device.raw("GET", "/spaces", headers={"Authorization": header})
        assert (answer.status_code, b"unauthenticated" in answer.content) == (401, True)

    past = made(gate_key, "EdDSA", typ, exp=claims["iat"] - 60, iat=claims["iat"] - 660)
    answer = await device.raw("GET", "/spaces", headers={"Authorization": f"Bearer {past}"})
    assert (answer.status_code, b"token_expired" in answer.content) == (401, True)
    elsewhere = made(gate_key, "EdDSA", typ, did="ab" * 16)
    answer = await device.raw("GET", "/spaces", headers={"Authorization": f"Bearer {elsewhere}"})
    assert (answer.status_code, b"session_revoked" in answer.content) == (401, True)
    control = made(gate_key, "EdDSA", typ)  # the forging itself works
    answer = await device.raw("GET", "/spaces", headers={"Authorization": f"Bearer {control}"})
    assert answer.status_code == 200


def _signing_key(gateway: Running) -> Ed25519PrivateKey:
    from pathlib import Path

    from apps.gateway.tokens import secrets_from

    folder = Path(gateway.services.settings.storage_dir).parent
    return next(iter(secrets_from("", "", folder).keys.values()))


async def test_a_refresh_token_is_good_once_and_its_reuse_ends_the_session(
    gateway: Running,
) -> None:
    device = await gateway.registered()
    first = device.session
    assert first is not None
    second = await device.refresh(first.refresh_token)
    third = await device.refresh(second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    device.session = third
    await device.ask("GET", "/spaces", into=SpaceList)

    assert (await refused(device.refresh(first.refresh_token))).code == "session_revoked"
    assert (await refused(device.refresh(third.refresh_token))).code == "session_revoked"
    assert (await refused(device.ask("GET", "/spaces"))).code == "session_revoked"


async def test_a_lost_answer_of_a_refresh_can_be_asked_for_again(gateway: Running) -> None:
    device = await gateway.registered()
    first = device.session
    assert first is not None
    lost = await device.refresh(first.refresh_token)
    again = await device.refresh(first.refresh_token)
    assert again.refresh_token == lost.refresh_token
    both = await asyncio.gather(*(device.refresh(lost.refresh_token) for _ in range(3)))
    assert len({session.refresh_token for session in both}) == 1
    await device.refresh(both[0].refresh_token)


async def test_the_grace_of_a_lost_answer_ends(gateway: Running) -> None:
    device = await gateway.registered()
    first = device.session
    assert first is not None
    await device.refresh(first.refresh_token)
    pool = gateway.services.pool
    await pool.execute(
        "UPDATE refresh_families SET rotated_at = rotated_at - interval '31 s'"
        " WHERE device_id = $1",
        device.device,
    )
    assert (await refused(device.refresh(first.refresh_token))).code == "session_revoked"


async def test_a_refresh_token_needs_its_device(gateway: Running) -> None:
    device = await gateway.registered()
    session = device.session
    assert session is not None
    thief = FakeDevice(gateway.client, device.keys)
    stolen = thief.refreshing(session.refresh_token)
    assert (await refused(device.ask("POST", "/auth/refresh", stolen))).code == "bad_signature"
    await device.refresh(session.refresh_token)  # the theft did no harm

    for token in (
        "",
        "x",
        "A" * 75,
        session.refresh_token[:-2] + "AA",
        session.refresh_token + "=",
    ):
        assert (await refused(device.refresh(token or "y"))).code == "session_revoked"


async def test_refresh_tokens_are_not_stored(gateway: Running) -> None:
    device = await gateway.registered()
    assert device.session is not None
    row = await gateway.services.pool.fetchrow(
        "SELECT * FROM refresh_families WHERE device_id = $1", device.device
    )
    said = repr(dict(row))
    assert device.session.refresh_token not in said
    assert device.session.access_token not in said
    assert len(row["token_hash"]) == 32


async def test_signing_out_ends_the_session_at_once(gateway: Running) -> None:
    device = await gateway.registered()
    session = device.session
    assert session is not None
    answer = await device.raw("POST", "/auth/logout")
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await refused(device.ask("GET", "/spaces"))).code == "session_revoked"
    assert (await refused(device.refresh(session.refresh_token))).code == "session_revoked"


async def test_a_revoked_device_is_out(gateway: Running) -> None:
    first = await gateway.registered()
    second = gateway.second(first)
    await second.certify((await second.login()).devices)
    path = f"/auth/devices/{second.device.hex()}"
    await second.ask("GET", "/spaces", into=SpaceList)
    stranger = await gateway.registered()
    assert (await refused(stranger.ask("DELETE", path))).code == "not_found"
    await first.ask("DELETE", path)
    await first.ask("DELETE", path)
    assert (await refused(second.ask("GET", "/spaces"))).code == "session_revoked"
    assert second.session is not None
    assert (await refused(second.refresh())).code == "session_revoked"
    assert (await refused(second.login())).code == "key_reused"
    listed = await first.ask("GET", "/auth/devices", into=DeviceList)
    assert {row.device: row.revoked for row in listed.devices}[second.device]


async def test_what_another_gateway_revoked_is_refused_within_seconds(gateway: Running) -> None:
    device = await gateway.registered()
    await device.ask("GET", "/spaces", into=SpaceList)
    await gateway.services.pool.execute(
        "UPDATE refresh_families SET revoked_at = now() WHERE device_id = $1", device.device
    )
    assert STANDING_MS < 5_000
    await asyncio.sleep(STANDING_MS / 1000 + 0.1)
    assert (await refused(device.ask("GET", "/spaces"))).code == "session_revoked"


async def test_a_suspended_account_is_refused(gateway: Running) -> None:
    device = await gateway.registered()
    await gateway.services.pool.execute(
        "UPDATE users SET account_status = 'suspended' WHERE user_id = $1", device.keys.account
    )
    assert (await refused(device.ask("GET", "/spaces"))).code == "account_suspended"
    assert (await refused(device.login())).code == "account_suspended"
    assert (await refused(device.refresh())).code == "account_suspended"


async def test_an_old_proof_of_a_password_is_renewed_at_the_next_sign_in(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = await gateway.registered()

    async def stored() -> str:
        row = await gateway.services.pool.fetchrow(
            "SELECT auth_hash FROM users WHERE user_id = $1", device.keys.account
        )
        return str(row["auth_hash"])

    before = await stored()
    monkeypatch.setattr(PasswordHasher, "check_needs_rehash", lambda *_: True)
    await device.login()
    assert await stored() != before
    await device.login()


# --- keyring ---


async def test_the_keyring_is_replaced_by_compare_and_set(gateway: Running) -> None:
    device = await gateway.registered()
    two = Keyring(rev=2, sealed=b"two")
    assert await device.ask("PUT", "/auth/keyring", two, into=Keyring) == two
    assert await device.ask("PUT", "/auth/keyring", two, into=Keyring) == two  # a lost answer
    other = Keyring(rev=2, sealed=b"other")
    assert (await refused(device.ask("PUT", "/auth/keyring", other))).code == "stale"
    for rev in (9, 0, (1 << 53) - 1):
        far = Keyring(rev=rev, sealed=b"far")
        assert (await refused(device.ask("PUT", "/auth/keyring", far))).code == "stale"
    assert await device.ask("GET", "/auth/keyring", into=Keyring) == two

    racing = [Keyring(rev=3, sealed=os.urandom(8)) for _ in range(8)]
    answers = await asyncio.gather(*(device.raw("PUT", "/auth/keyring", one) for one in racing))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7


# --- the log of all this ---


async def test_security_events_are_logged_in_a_chain_that_cannot_be_changed(
    gateway: Running,
) -> None:
    device = await gateway.registered()
    await refused(gateway.second(device).login(os.urandom(32)))
    await device.raw("POST", "/auth/logout")
    pool = gateway.services.pool
    rows = await pool.fetch("SELECT * FROM audit_log ORDER BY seq")
    events = [row["event"] for row in rows if row["user_id"] == device.keys.account]
    assert events == ["account_made", "signed_in", "sign_in_failed", "signed_out"]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(b["prev_hash"] == a["hash"] for a, b in itertools.pairwise(rows))
    with pytest.raises(Exception, match=r"append only|permission denied"):
        await pool.execute("UPDATE audit_log SET event = 'nothing'")


def test_the_stored_proof_costs_what_the_design_says() -> None:
    costs = (apps.gateway.passwords.MEMORY_KIB, apps.gateway.passwords.TIME)
    assert costs == (19 * 1024, 2)
