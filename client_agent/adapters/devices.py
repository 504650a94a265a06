"""The account's devices: a verified list, whose keys verify rows, and rows for people."""

from datetime import UTC, datetime
from typing import Any

from client_agent.adapters.account import Identity
from client_agent.adapters.server import Server
from client_agent.adapters.state import State
from client_agent.crypto.devices import DeviceListBroken, signers, verify_device_list
from client_agent.crypto.keys import open_device_name
from client_agent.crypto.seal import SealBroken
from protocol.messages.device import DeviceAction, DeviceEntry, DeviceList

SEEN = "device_entries"  # counter: how long the list was when it was longest


class DeviceBook:
    """What is known of the account's devices; fetched anew when an unknown one appears."""

    def __init__(self, me: Identity, server: Server, state: State) -> None:
        """Know this device only."""
        self._me, self._server, self._state = me, server, state
        self.signers: dict[bytes, bytes] = {me.device: me.secrets.sign_public}
        self.names: dict[bytes, str] = {me.device: me.profile.device_name}

    async def refresh(self) -> None:
        """Fetch and verify the list. Raises Offline, ServerFault, DeviceListBroken."""
        answer = await self._server.devices()
        verified = verified_list(answer, self._me)
        seen = self._state.counted(SEEN)
        if len(answer.entries) < seen:
            raise DeviceListBroken(f"{seen} entries were seen, now it has {len(answer.entries)}")
        self._state.count(SEEN, len(answer.entries) - seen)
        self.signers = signers(verified) | {self._me.device: self._me.secrets.sign_public}
        self.names |= {
            row.device: _name(self._me, row.device, row.sealed_name) for row in answer.devices
        }


def verified_list(answer: DeviceList, me: Identity) -> dict[bytes, DeviceEntry]:
    """Return the last entry of each device. Raises DeviceListBroken."""
    identity = bytes.fromhex(me.profile.identity_sign)
    return verify_device_list(answer.entries, identity, me.account)


def listing(answer: DeviceList, me: Identity) -> list[dict[str, Any]]:
    """Return the devices for `syncline devices`. Raises DeviceListBroken."""
    verified = verified_list(answer, me)
    rows = []
    for row in answer.devices:
        entry = verified.get(row.device)
        revoked = entry is not None and entry.action is DeviceAction.REVOKE
        rows.append(
            {
                "id": row.device.hex(),
                "name": _name(me, row.device, row.sealed_name),
                "last_seen": iso(row.last_seen_ms),
                "cursor": next((c.seq for c in row.cursors if c.space == me.space), 0),
                "current": row.device == me.device,
                "certified": entry is not None,
                "revoked": row.revoked or revoked,
            }
        )
    return rows


def _name(me: Identity, device: bytes, sealed: bytes) -> str:
    try:
        return open_device_name(me.master, device, sealed)
    except SealBroken:
        return f"device {device.hex()[:8]}"


def iso(ms: int) -> str:
    """Return a time for people and JSON, in UTC."""
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
