"""The account's keys as the server keeps them: behind password, recovery words and device keys.

    mk by password         seal(kek, LP("mk", account, n, kdf), MK)
    identity by password   seal(kek, LP("identity", account, kdf), identity)
    box by mk              seal(MK, LP("box", account, n), box)
    mk by recovery         HPKE, info LP("sl1/mk-recovery", account, n):  MK || proof
    identity by recovery   HPKE, info LP("sl1/identity-recovery", account):  identity || proof
    mk for device          HPKE, info LP("sl1/mk-device", account, n, device):  MK || proof

n is the epoch of MK, `kdf` LP(salt seed, memory KiB, time, lanes) as one field, identity the
Ed25519 and box the X25519 private key. HPKE proves no sender: a server could seal keys of its own
to a device, or to somebody who recovers, and read all that is written from then on. So the proof
travels inside: of MK the identity key's signature of LP("sl1/mk", account, n, MK), of the identity
the recovery key's signature of LP("sl1/identity", account, public identity key). The words thus
vouch for the identity, and the identity for every MK.
"""

import os

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client_agent.crypto.devices import DeviceSecrets, signed_by
from client_agent.crypto.hpke import hpke_open, hpke_seal
from client_agent.crypto.keys import AccountKeys, MasterKey
from client_agent.crypto.recovery import RecoveryKeys
from client_agent.crypto.seal import KEY_BYTES, SealBroken, open_sealed, seal_random
from protocol.codec import lp
from protocol.ids import Dice
from protocol.messages.device import Kdf, Wraps

_SIGNATURE_BYTES = 64


def wrap_account(
    keys: AccountKeys, kek: bytes, kdf: Kdf, recovery: RecoveryKeys, dice: Dice = os.urandom
) -> Wraps:
    """Put a new account's keys behind password and words. Each call gives other bytes."""
    account, epoch, public = keys.master.account, keys.master.epoch, recovery.public
    vouched = _sign(recovery.sign, _identity_proof(account, keys.identity_public))
    return Wraps(
        mk_epoch=epoch,
        mk_by_password=_mk_by_password(keys, kek, kdf, dice),
        mk_by_recovery=hpke_seal(public.box, _mk_info(account, epoch), _proven_mk(keys)),
        identity_by_password=_identity_by_password(keys, kek, kdf, dice),
        identity_by_recovery=hpke_seal(
            public.box, _identity_info(account), keys.identity + vouched
        ),
        box_by_mk=seal_random(keys.master.key, lp("box", account, epoch), keys.box, dice),
        identity_sign=keys.identity_public,
        identity_box=keys.box_public,
        recovery_sign=public.sign,
        recovery_box=public.box,
    )


def rewrap_password(
    keys: AccountKeys, kek: bytes, kdf: Kdf, wraps: Wraps, dice: Dice = os.urandom
) -> Wraps:
    """Return the wraps with a new password's seals; everything else stays, so it is O(1)."""
    return msgspec.structs.replace(
        wraps,
        mk_by_password=_mk_by_password(keys, kek, kdf, dice),
        identity_by_password=_identity_by_password(keys, kek, kdf, dice),
    )


def unwrap_account(kek: bytes, kdf: Kdf, account: bytes, wraps: Wraps) -> AccountKeys:
    """Open the account's keys with the password's key; public keys are checked against them.

    Raises SealBroken: a wrong password, or a server that changed something.
    """
    mk = open_sealed(kek, _mk_aad(account, wraps.mk_epoch, kdf), wraps.mk_by_password)
    identity = open_sealed(kek, _identity_aad(account, kdf), wraps.identity_by_password)
    return _checked(account, mk, identity, wraps)


def recover_account(recovery: RecoveryKeys, account: bytes, wraps: Wraps) -> AccountKeys:
    """Open the account's keys with the recovery words' keys.

    Raises SealBroken: other words, or a server that changed something.
    """
    identity, vouched = _split(
        hpke_open(recovery.box, _identity_info(account), wraps.identity_by_recovery)
    )
    public = recovery.public
    if (wraps.recovery_sign, wraps.recovery_box) != public:
        raise SealBroken("the account has other recovery keys")
    if not signed_by(public.sign, vouched, _identity_proof(account, wraps.identity_sign)):
        raise SealBroken("the identity is not the one that the recovery words vouch for")
    info = _mk_info(account, wraps.mk_epoch)
    mk, proof = _split(hpke_open(recovery.box, info, wraps.mk_by_recovery))
    _check_proof(mk, proof, account, wraps.mk_epoch, wraps.identity_sign)
    return _checked(account, mk, identity, wraps)


def wrap_mk_for_device(keys: AccountKeys, device: bytes, box_public: bytes) -> bytes:
    """Seal MK to a device of the account. Each call gives other bytes."""
    info = _device_info(keys.master.account, keys.master.epoch, device)
    return hpke_seal(box_public, info, _proven_mk(keys))


def unwrap_mk_for_device(
    secrets: DeviceSecrets, account: bytes, epoch: int, device: bytes, wrapped: bytes,
    identity_public: bytes,
) -> MasterKey:
    """Open MK on the device it was sealed to, if the account's identity key vouches for it.

    `identity_public` is the one this device has known since its login. Raises SealBroken.
    """
    key, proof = _split(hpke_open(secrets.box, _device_info(account, epoch, device), wrapped))
    _check_proof(key, proof, account, epoch, identity_public)
    return MasterKey(account, epoch, key)


def _checked(account: bytes, mk: bytes, identity: bytes, wraps: Wraps) -> AccountKeys:
    if not len(mk) == len(identity) == KEY_BYTES:
        raise SealBroken("the account's keys are not of their size")
    box = open_sealed(mk, lp("box", account, wraps.mk_epoch), wraps.box_by_mk)
    if len(box) != KEY_BYTES:
        raise SealBroken("the account's keys are not of their size")
    keys = AccountKeys(MasterKey(account, wraps.mk_epoch, mk), identity, box)
    if (keys.identity_public, keys.box_public) != (wraps.identity_sign, wraps.identity_box):
        raise SealBroken("the account's public keys do not belong to its private ones")
    return keys


def _mk_by_password(keys: AccountKeys, kek: bytes, kdf: Kdf, dice: Dice) -> bytes:
    aad = _mk_aad(keys.master.account, keys.master.epoch, kdf)
    return seal_random(kek, aad, keys.master.key, dice)


def _identity_by_password(keys: AccountKeys, kek: bytes, kdf: Kdf, dice: Dice) -> bytes:
    return seal_random(kek, _identity_aad(keys.master.account, kdf), keys.identity, dice)


def _proven_mk(keys: AccountKeys) -> bytes:
    master = keys.master
    return master.key + _sign(keys.identity, _mk_proof(master.account, master.epoch, master.key))


def _split(opened: bytes) -> tuple[bytes, bytes]:
    if len(opened) != KEY_BYTES + _SIGNATURE_BYTES:
        raise SealBroken("not a key and its proof")
    return opened[:KEY_BYTES], opened[KEY_BYTES:]


def _check_proof(mk: bytes, proof: bytes, account: bytes, epoch: int, identity: bytes) -> None:
    if not signed_by(identity, proof, _mk_proof(account, epoch, mk)):
        raise SealBroken("the master key is not one that the identity vouches for")


def _sign(private: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def _mk_proof(account: bytes, epoch: int, mk: bytes) -> bytes:
    return lp("sl1/mk", account, epoch, mk)


def _identity_proof(account: bytes, public: bytes) -> bytes:
    return lp("sl1/identity", account, public)


def _mk_aad(account: bytes, epoch: int, kdf: Kdf) -> bytes:
    return lp("mk", account, epoch, _kdf(kdf))


def _identity_aad(account: bytes, kdf: Kdf) -> bytes:
    return lp("identity", account, _kdf(kdf))


def _kdf(kdf: Kdf) -> bytes:
    return lp(kdf.salt_seed, kdf.memory_kib, kdf.time, kdf.lanes)


def _mk_info(account: bytes, epoch: int) -> bytes:
    return lp("sl1/mk-recovery", account, epoch)


def _identity_info(account: bytes) -> bytes:
    return lp("sl1/identity-recovery", account)


def _device_info(account: bytes, epoch: int, device: bytes) -> bytes:
    return lp("sl1/mk-device", account, epoch, device)
