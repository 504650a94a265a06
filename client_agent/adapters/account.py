"""Signing up and signing in: keys made here, wraps sent, nothing opened by the server.

Everything that is slow (Argon2) runs in a thread. The password stays in this module's arguments.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from client_agent.adapters import profile as profiles
from client_agent.adapters.profile import Profile
from client_agent.adapters.secrets import DEVICE, MASTER, SESSION, Keystore
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.crypto.devices import (
    DeviceSecrets,
    live,
    sign_device_entry,
    verify_device_list,
)
from client_agent.crypto.keys import (
    AccountKeys,
    KeyringContents,
    MasterKey,
    new_kdf,
    open_keyring,
    password_keys,
    seal_device_name,
    seal_keyring,
)
from client_agent.crypto.recovery import RecoveryKeys, new_recovery_secret, words_of
from client_agent.crypto.seal import SealBroken
from client_agent.crypto.space_keys import SpaceKeys, new_secret
from client_agent.crypto.wraps import unwrap_account, wrap_account, wrap_mk_for_device
from client_agent.settings import write_private
from protocol.codec import encode
from protocol.faults import Code
from protocol.ids import new_id
from protocol.messages.device import (
    CertifyDevice,
    DeviceAction,
    DeviceKeys,
    Keyring,
    LoggedIn,
    Login,
    Register,
    Session,
)

KEYRING_FILE = "keyring.sealed"
CERTIFY_TRIES_MAX = 5  # the list grows only while other devices sign in at this moment


@dataclass(frozen=True, slots=True)
class Identity:
    """What a running device acts with."""

    profile: Profile
    secrets: DeviceSecrets
    master: MasterKey
    session: Session
    keys: SpaceKeys  # of the home space

    @property
    def device(self) -> bytes:
        """This device's id."""
        return bytes.fromhex(self.profile.device)

    @property
    def account(self) -> bytes:
        """The account's id."""
        return bytes.fromhex(self.profile.account)

    @property
    def space(self) -> bytes:
        """The home space's id."""
        return bytes.fromhex(self.profile.space)


class SignedOut(Exception):
    """There is no account on this device, or its keys are gone."""


async def register(
    server: Server, home: Path, keystore: Keystore, username: str, email: str, device_name: str,
    password: str, show: Callable[[str], None],
) -> Profile:
    """Make an account with this as its first device; `show` gets the recovery words, once.

    The words are shown before anything is sent: an account nobody could recover never exists.
    Raises Offline, ServerFault, KeystoreLocked.
    """
    kdf = new_kdf()
    proof, kek = await asyncio.to_thread(password_keys, password, username, kdf)
    account, device, space, history = (new_id(os.urandom) for _ in range(4))
    keys, secrets = AccountKeys.new(account), DeviceSecrets.new()
    recovery = new_recovery_secret()
    contents = KeyringContents().with_secret(space, 1, new_secret())
    keyring = seal_keyring(keys.master, 1, contents)
    public = (secrets.sign_public, secrets.box_public)
    entry = sign_device_entry(
        keys.identity, account, (), DeviceAction.ADD, device, public, _now_ms()
    )
    message = Register(
        account=account, username=username, email=email, kdf=kdf, auth_key=proof,
        wraps=wrap_account(keys, kek, kdf, RecoveryKeys.of(recovery)),
        device=DeviceKeys(
            device=device, sign=public[0], box=public[1],
            sealed_name=seal_device_name(keys.master, device, device_name),
        ),
        entry=entry, mk_for_device=wrap_mk_for_device(keys, device, public[1]),
        keyring=keyring.sealed, home=space, history=history,
    )
    show(words_of(recovery))
    try:
        session = await server.register(message)
    except Offline:
        # If only the answer was lost, the account exists: the same message gets it again.
        session = await server.register(message)
    profile = Profile(
        server=server.url, username=username, email=email, account=account.hex(),
        device=device.hex(), device_name=device_name, keystore=keystore.kind,
        identity_sign=keys.identity_public.hex(), space=space.hex(), history=history.hex(),
        owner_identity=keys.identity_public.hex(),
    )
    _keep(home, keystore, profile, secrets, keys.master, session, keyring)
    return profile


async def login(
    server: Server, home: Path, keystore: Keystore, username: str, device_name: str,
    password: str,
) -> Profile:
    """Sign in, and certify this device if it is new.

    Signing in again on a device of the same account keeps its id, its keys and its folder.
    Raises Offline, ServerFault, KeystoreLocked, WeakKdf, SealBroken, DeviceListBroken.
    """
    before = profiles.read(home)
    known = None if before is None else keystore.get(DEVICE)
    again = before is not None and before.username == username and known is not None
    secrets = DeviceSecrets.from_bytes(known) if again and known else DeviceSecrets.new()
    device = bytes.fromhex(before.device) if again and before else new_id(os.urandom)
    kdf = await server.prelogin(username)
    proof, kek = await asyncio.to_thread(password_keys, password, username, kdf)
    keys = DeviceKeys(device=device, sign=secrets.sign_public, box=secrets.box_public)
    answer = await server.login(Login(username=username, auth_key=proof, device=keys))
    account = unwrap_account(kek, answer.kdf, answer.session.account, answer.wraps)
    await _certify(server, answer, account, secrets, device_name)
    master, space = account.master, answer.spaces.spaces[0]
    open_keyring(master, answer.keyring).space_keys(space.space)
    if space.owner_identity != account.identity_public:
        raise SealBroken("the home space is said to be somebody else's")
    profile = Profile(
        server=server.url, username=username, account=master.account.hex(), device=device.hex(),
        device_name=device_name, keystore=keystore.kind,
        identity_sign=account.identity_public.hex(), space=space.space.hex(),
        history=space.history.hex(), owner_identity=space.owner_identity.hex(),
    )
    if again and before is not None and before.account == profile.account:
        profile = profile.change(
            email=before.email, root=before.root, root_id=before.root_id,
            generation=before.generation, paused=before.paused,
        )
    _keep(home, keystore, profile, secrets, master, answer.session, answer.keyring)
    return profile


async def _certify(
    server: Server, answer: LoggedIn, keys: AccountKeys, secrets: DeviceSecrets, name: str
) -> None:
    """Add this device to the signed list, again if another device was faster."""
    account, device = answer.session.account, answer.session.device
    public = (secrets.sign_public, secrets.box_public)
    entries = answer.devices.entries
    for tries_left in reversed(range(CERTIFY_TRIES_MAX)):
        listed = live(verify_device_list(entries, keys.identity_public, account))
        if device in listed:
            return
        entry = sign_device_entry(
            keys.identity, account, entries, DeviceAction.ADD, device, public, _now_ms()
        )
        message = CertifyDevice(
            entry=entry, mk_for_device=wrap_mk_for_device(keys, device, public[1]),
            sealed_name=seal_device_name(keys.master, device, name),
        )
        try:
            entries = (await server.certify(message, device)).entries
        except ServerFault as fault:
            if fault.code is not Code.STALE or not tries_left:
                raise
            entries = (await server.devices()).entries


def _keep(
    home: Path, keystore: Keystore, profile: Profile, secrets: DeviceSecrets,
    master: MasterKey, session: Session, keyring: Keyring,
) -> None:
    keystore.put(DEVICE, secrets.to_bytes())
    keystore.put(MASTER, master.to_bytes())
    keystore.put(SESSION, encode(session))
    keep_keyring(home, keyring)
    profiles.write(home, profile)  # last: with it the device counts as signed in


def keep_keyring(home: Path, keyring: Keyring) -> None:
    """Keep the sealed keyring, so that the device can start without its server."""
    write_private(home / KEYRING_FILE, encode(keyring))


def load_identity(home: Path, profile: Profile, keystore: Keystore) -> Identity:
    """Return what the device acts with.

    Raises SignedOut, KeystoreLocked, SealBroken, EpochMissing.
    """
    device, master = keystore.get(DEVICE), keystore.get(MASTER)
    session = keystore.get(SESSION)
    if device is None or master is None or session is None:
        raise SignedOut("the keystore no longer holds this device's keys")
    try:
        sealed = msgspec.msgpack.decode((home / KEYRING_FILE).read_bytes(), type=Keyring)
    except FileNotFoundError:
        raise SignedOut("the keyring file is gone") from None
    mk = MasterKey.from_bytes(master)
    keys = open_keyring(mk, sealed).space_keys(bytes.fromhex(profile.space))
    return Identity(
        profile, DeviceSecrets.from_bytes(device), mk,
        msgspec.msgpack.decode(session, type=Session), keys,
    )


def session_keeper(keystore: Keystore) -> Callable[[Session], Awaitable[None]]:
    """Return what stores a refreshed session before it is used."""

    async def keep(session: Session) -> None:
        await asyncio.to_thread(keystore.put, SESSION, encode(session))

    return keep


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
