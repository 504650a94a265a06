"""The account's keyring and its devices."""

from apps.gateway.auth import checked_entry
from apps.gateway.endpoint import Visit, Who, endpoint
from protocol import limits
from protocol.codec import encode
from protocol.faults import Code, refuse
from protocol.messages.device import CertifyDevice, DeviceList, Keyring
from protocol.messages.feed import DeviceRevoked


@endpoint("GET", "/auth/keyring", who=Who.SIGNED_IN, answers=Keyring)
async def get_keyring(visit: Visit) -> Keyring:
    """Return the sealed keyring."""
    return await visit.gate.accounts.keyring(visit.caller.account)


@endpoint(
    "PUT",
    "/auth/keyring",
    body=Keyring,
    answers=Keyring,
    body_bytes_max=2 * limits.KEYRING_BYTES_MAX,
)
async def put_keyring(visit: Visit, keyring: Keyring) -> Keyring:
    """Replace revision `rev - 1`. Fault STALE if another device was first."""
    if not await visit.gate.accounts.put_keyring(visit.caller.account, keyring):
        raise refuse(Code.STALE, "the keyring has another revision")
    return keyring


@endpoint("GET", "/auth/devices", who=Who.SIGNED_IN, answers=DeviceList)
async def list_devices(visit: Visit) -> DeviceList:
    """Return the signed list of devices, and the devices with their cursors."""
    return await visit.gate.accounts.devices(visit.caller.account, visit.caller.device)


@endpoint(
    "PUT",
    "/auth/devices/{device_id:str}",
    who=Who.SIGNED_IN,
    body=CertifyDevice,
    answers=DeviceList,
)
async def certify(visit: Visit, asked: CertifyDevice) -> DeviceList:
    """Append to the device list. An uncertified device may do so for itself alone."""
    gate, caller = visit.gate, visit.caller
    device = visit.path_id("device_id")
    if not caller.certified and device != caller.device:
        raise refuse(Code.FORBIDDEN, "this device is not certified yet")
    account = await gate.accounts.by_id(caller.account)
    assert account is not None, "a session has an account"
    listed = await gate.accounts.devices(caller.account, caller.device)
    row = next((row for row in listed.devices if row.device == device), None)
    if row is None or row.revoked:
        raise refuse(Code.NOT_FOUND)
    entry = checked_entry(asked.entry, caller.account, device, account.wraps.identity_sign)
    if (entry.sign, entry.box) != (row.sign, row.box):
        raise refuse(Code.BAD_REQUEST, "entry: its keys are not the device's")
    if row.signed is not None and row.signed != asked.entry:
        raise refuse(Code.STALE, "the device is certified already")
    done = await gate.accounts.certify(
        caller.account, device, entry.n, entry.prev, asked, gate.now_ms()
    )
    if not done:
        raise refuse(Code.STALE, "the device list has grown meanwhile")
    gate.door.forget()
    return await gate.accounts.devices(caller.account, caller.device)


@endpoint("DELETE", "/auth/devices/{device_id:str}")
async def revoke(visit: Visit) -> None:
    """End a device's access: here at once, on other gateways within 5 s. Safe to repeat."""
    gate, caller = visit.gate, visit.caller
    device = visit.path_id("device_id")
    if not await gate.accounts.revoke_device(caller.account, device, caller.device, gate.now_ms()):
        raise refuse(Code.NOT_FOUND)
    gate.door.forget()
    notice = DeviceRevoked(account=caller.account, device=device)
    await gate.feed.publish(caller.account, encode(notice))
