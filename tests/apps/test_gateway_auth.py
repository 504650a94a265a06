"""Accounts and sessions over HTTP, mostly what must not work."""



from protocol.journal import genesis
from protocol.messages.device import DeviceList, Keyring, SpaceList
from tests.apps.conftest import Running


async def test_registering_makes_account_device_home_and_keyring(gateway: Running) -> None:
    device = await gateway.registered()
    keys = device.keys

    spaces = await device.ask("GET", "/spaces", into=SpaceList)
    assert len(spaces.spaces) == 1
    home = spaces.spaces[0]
    assert (home.space, home.owner, home.history) == (keys.home, keys.account, keys.history)
    assert home.head == genesis(keys.home, keys.history, keys.wraps.identity_sign)
    assert (home.home, home.head_seq, home.role) == (True, 0, 3)

    keyring = await device.ask("GET", "/auth/keyring", into=Keyring)
    assert keyring == Keyring(rev=1, sealed=b"keyring 1")
    devices = await device.ask("GET", "/auth/devices", into=DeviceList)
    assert [row.current for row in devices.devices] == [True]
    assert devices.devices[0].signed == devices.entries[0]
