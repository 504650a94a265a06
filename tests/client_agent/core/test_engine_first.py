"""Two devices, one server: the plain cases, end to end in memory."""

import pytest

from tests.client_agent.core.sim import World


@pytest.fixture
def world() -> World:
    world = World(1)
    world.run(1_000)
    return world


def test_a_new_file_reaches_the_other_device(world: World):
    one, two = world.devices
    one.disk.mkdir("docs")
    one.disk.write("docs/a.txt", b"hello")
    world.run(1_000)
    assert two.disk.files() == {"docs/a.txt": b"hello"}
    world.settle()
    world.check()


def test_edits_renames_and_deletions_travel_both_ways(world: World):
    one, two = world.devices
    one.disk.mkdir("docs")
    for name in "abc":
        one.disk.write(f"docs/{name}", name.encode())
    world.run(1_000)
    two.disk.write("docs/a", b"edited")
    two.disk.rename("docs/b", "b2")
    two.disk.remove("docs/c")
    world.run(5_000)
    assert one.disk.files() == {"docs/a": b"edited", "b2": b"b"}
    world.settle()
    world.check()


def test_concurrent_edits_leave_both_contents(world: World):
    one, two = world.devices
    one.disk.write("a.txt", b"base")
    world.run(1_000)
    one.online = two.online = False
    one.disk.write("a.txt", b"one")
    two.disk.write("a.txt", b"two")
    world.run(1_000)
    world.settle()
    world.check()
    assert sorted(one.disk.files().values()) == [b"one", b"two"]
    assert any("(conflict, device-" in name for name in one.disk.files())
