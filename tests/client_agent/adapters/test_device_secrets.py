"""The keystore: what it was given comes back, to its owner only; which one it is, is shown."""

import keyring
import keyring.backend
import keyring.errors
import pytest

from client_agent.adapters import profile as profiles
from client_agent.adapters.profile import Profile
from client_agent.adapters.secrets import (
    DEVICE,
    MASTER,
    FileKeystore,
    KeystoreLocked,
    SystemKeystore,
    choose_keystore,
    open_keystore,
)


class Ring(keyring.backend.KeyringBackend):
    """A keyring as a desktop has it; `broken` is one that is locked, `forgetful` one that lies."""

    priority = 1

    def __init__(self, mood: str = "") -> None:
        super().__init__()
        self.mood, self.entries = mood, {}

    def get_password(self, service, username):
        if self.mood == "broken":
            raise keyring.errors.KeyringLocked("locked")
        return None if self.mood == "forgetful" else self.entries.get((service, username))

    def set_password(self, service, username, password):
        if self.mood == "broken":
            raise keyring.errors.KeyringLocked("locked")
        self.entries[service, username] = password

    def delete_password(self, service, username):
        if self.mood == "broken":
            raise keyring.errors.KeyringLocked("locked")
        if (service, username) not in self.entries:
            raise keyring.errors.PasswordDeleteError("not there")
        del self.entries[service, username]


@pytest.fixture
def ring():
    before = keyring.get_keyring()
    made = Ring()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


@pytest.mark.parametrize("kind", [FileKeystore, SystemKeystore])
def test_secrets_come_back_and_go(kind, tmp_path, ring):
    store = kind(tmp_path / "home")
    assert store.get(DEVICE) is None
    store.put(DEVICE, b"\x00one")
    store.put(MASTER, b"two")
    store.put(DEVICE, b"\xffthree")
    again = open_keystore(store.kind, tmp_path / "home")
    assert (again.get(DEVICE), again.get(MASTER)) == (b"\xffthree", b"two")
    again.wipe()
    again.wipe()
    assert store.get(DEVICE) is None


def test_two_homes_share_nothing_in_one_ring(tmp_path, ring):
    SystemKeystore(tmp_path / "a").put(DEVICE, b"a")
    assert SystemKeystore(tmp_path / "b").get(DEVICE) is None


def test_the_file_is_its_owners_alone(tmp_path):
    FileKeystore(tmp_path / "home").put(DEVICE, b"secret")
    assert (tmp_path / "home/keys.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_a_damaged_file_is_locked_not_empty(tmp_path):
    for content in ("{", "[]"):
        (tmp_path / "keys.json").write_text(content)
        with pytest.raises(KeystoreLocked):
            FileKeystore(tmp_path).get(DEVICE)


def test_the_ring_is_taken_if_it_answers(tmp_path, ring):
    store, warning = choose_keystore("", tmp_path)
    assert (store.kind, warning) == ("keyring", "")
    store, warning = choose_keystore("file", tmp_path)
    assert (store.kind, warning) == ("file", "")


@pytest.mark.parametrize("mood", ["broken", "forgetful"])
def test_a_ring_that_does_not_work_is_never_replaced_in_silence(tmp_path, ring, mood):
    ring.mood = mood
    store, warning = choose_keystore("", tmp_path)
    assert store.kind == "file"
    assert "kept in a file" in warning
    with pytest.raises(KeystoreLocked):
        choose_keystore("keyring", tmp_path)


def test_a_locked_ring_says_so(tmp_path, ring):
    store = SystemKeystore(tmp_path)
    ring.mood = "broken"
    for work in (lambda: store.get(DEVICE), lambda: store.put(DEVICE, b""), store.wipe):
        with pytest.raises(KeystoreLocked, match="locked"):
            work()


def test_the_profile_has_no_secrets_and_comes_back(tmp_path):
    assert profiles.read(tmp_path) is None
    made = Profile(
        server="s", username="ü", account="a", device="d", device_name="n", keystore="file"
    )
    profiles.write(tmp_path / "home", made.change(root="/r"))
    assert profiles.read(tmp_path / "home") == made.change(root="/r")
    profiles.remove(tmp_path / "home")
    profiles.remove(tmp_path / "home")
    assert profiles.read(tmp_path / "home") is None
