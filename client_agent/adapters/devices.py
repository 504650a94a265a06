"""The account's devices: a verified list, and rows for people."""

from datetime import UTC, datetime
from typing import Any

from client_agent.adapters.account import Identity
from client_agent.crypto.devices import verify_device_list
from client_agent.crypto.keys import open_device_name
from client_agent.crypto.seal import SealBroken
from protocol.messages.device import DeviceAction, DeviceList


def listing(answer: DeviceList, me: Identity) -> list[dict[str, Any]]:
    """Return the devices for `syncline devices`. Raises DeviceListBroken."""
    identity = bytes.fromhex(me.profile.identity_sign)
    verified = verify_device_list(answer.entries, identity, me.account)
    rows = []
    for row in answer.devices:
        entry = verified.get(row.device)
        rows.append(
            {
                "id": row.device.hex(),
                "name": _name(me, row.device, row.sealed_name),
                "last_seen": iso(row.last_seen_ms),
                "cursor": next((c.seq for c in row.cursors if c.space == me.space), 0),
                "current": row.device == me.device,
                "certified": entry is not None,
                "revoked": row.revoked
                or (entry is not None and entry.action is DeviceAction.REVOKE),
            }
        )
    return rows


def _name(me: Identity, device: bytes, sealed: bytes) -> str:
    try:
        return open_device_name(me.master, device, sealed)
    except SealBroken:
        return "(unnamed)"


def iso(ms: int) -> str:
    """Return a time for people and JSON, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="seconds").replace(
        "+00:00", "Z"
    )
