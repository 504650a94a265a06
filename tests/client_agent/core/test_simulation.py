"""Whole engines under virtual time: random users, a bad network, crashes; then quiet, then checks.

The same seed gives the same run. What is checked, beside what sim.py checks while it goes: all
disks and the server end up equal, one more round does nothing, what was on some disk when the
users stopped is kept (a live file, a copy or a version), conflicts are no more than edits.

Planted bugs, and what caught them (each was put in by hand, once):
- nodes that wait for another are not woken: `missed`, and runs that never settle;
- our own rows do not move the merge base: runs that never settle;
- the merge base of a lost edit becomes the winner: never settles;
- numbers of changes are not saved: a number is used twice after a crash;
- no conflict copy is made: the first test of test_engine_first.py;
- a group is not atomic: refusals without end; (base := head instead of synced: "a lost update");
- paths put aside while we write are forgotten, two entries in one place: disks differ;
- a directory dies under a new child; an edit loses to a deletion: test_planner.py, and here.
What no random run caught has a test of its own: own writes during a scan, sending or adopting
before the journal is read, a reading overtaken by a scan, a crash between the halves of a move.
"""

import pytest

from tests.client_agent.core import sim
from tests.client_agent.core.sim import DIRECTORY, FILE, Device, World, joined
from tests.client_agent.core.sim_admission import AdmittingServer

NAMES = ["a", "b", "c", "d.txt", "é"]  # no two that fold together: those wait for their user


class Users:
    """Random people at random disks. Every content is new, so that a lost one can be named."""

    def __init__(self, world: World):
        self.world, self.random = world, world.random
        self.edits = 0

    def act(self, device: Device) -> None:
        disk, random = device.disk, self.random
        paths = sorted(p for p in disk.entries if p != "keep")
        action = random.choice(
            ["new", "new", "new", "edit", "edit", "edit", "save", "mkdir", "mkdir", "move", "move",
             "move", "remove", "swap", "replace", "touch", "same", "link", "exec"]
        )  # fmt: skip
        path = random.choice(paths) if paths else None
        folders = ["", *(p for p in paths if disk.is_dir(p))]
        target = joined(random.choice(folders), random.choice(NAMES))
        if len(target.split("/")) > 4:
            return
        free = target not in disk.entries
        is_file = path is not None and disk.entries[path].type is FILE
        match action:
            case "new" if free:
                disk.write(target, self.content())
            case "mkdir" if free:
                disk.mkdir(target)
            case "link" if free:
                disk.link(target, f"to-{self.content().decode()}")
            case "edit" if is_file:
                disk.write(path, self.content())
            case "exec" if is_file:
                disk.write(path, disk.entries[path].data, not disk.entries[path].executable)
            case "save" if is_file:
                disk.save_by_rename(path, self.content())
            case "touch" if is_file:
                disk.touch(path)
            case "same" if free:
                disk.write(target, b"the same everywhere")
            case "remove" if path is not None:
                disk.remove(path)
            case "move" if path is not None and free and not target.startswith(f"{path}/"):
                disk.rename(path, target)
            case "replace" if path is not None:
                kind = disk.entries[path].type
                disk.remove(path)
                if kind is DIRECTORY:
                    disk.write(path, self.content())
                else:
                    disk.mkdir(path)
            case "swap" if path is not None:
                other = random.choice(paths)
                nested = other.startswith(f"{path}/") or path.startswith(f"{other}/")
                if other != path and not nested:
                    disk.swap(path, other)

    def content(self) -> bytes:
        self.edits += 1
        return f"content {self.edits}".encode()


def on_disks(world: World) -> set[bytes]:
    return {
        sim.content_id(x.type, x.data, x.executable)
        for device in world.devices
        for x in device.disk.entries.values()
        if x.type is not DIRECTORY
    }


def run(
    seed: int, *, devices=2, actions=40, loss=0.0, crash=0.0, delay=20, offline=0.0, server=None
) -> World:
    world = World(seed, devices, loss=loss, crash=crash, delay_max_ms=delay, server=server)
    users = Users(world)
    world.devices[0].disk.write("keep", b"keep")
    world.run(1_000)
    for _ in range(actions):
        device = world.random.choice(world.devices)
        if world.chance(offline):
            device.online = not device.online
            if device.online:
                device.feed(sim.e.Connected(world.server.head))
            else:
                device.feed(sim.e.Disconnected())
        for _ in range(world.random.randint(1, 4)):
            users.act(device)
        world.run(world.random.choice([0, 1, 10, 100, 1_000, 5_000]))
    last = on_disks(world)
    world.settle()
    assert last <= world.server.bytes_kept(), "I2: a content is gone"
    world.check()
    conflicts = {loser for device in world.devices for loser in device.saved.loaded.conflicts}
    assert len(conflicts) <= users.edits, "a storm of conflicts"
    return world


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(25))
def test_two_devices_on_a_good_network(seed: int):
    run(seed)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(25))
def test_three_devices_that_go_offline(seed: int):
    run(1_000 + seed, devices=3, offline=0.3, loss=0.2, delay=200)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(25))
def test_crashes_and_restarts(seed: int):
    run(2_000 + seed, devices=2, offline=0.2, loss=0.2, crash=0.05, delay=100)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(20))
def test_slow_disks_and_slow_answers(seed: int):
    run(3_000 + seed, devices=3, actions=60, delay=1_500)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(15))
def test_all_at_once(seed: int):
    run(4_000 + seed, devices=4, actions=50, offline=0.3, loss=0.3, crash=0.03, delay=400)


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(15))
def test_against_the_admission_of_the_real_server(seed: int):
    server = AdmittingServer()
    run(5_000 + seed, devices=3, offline=0.3, loss=0.2, crash=0.02, delay=200, server=server)
    server.check()


def test_the_same_seed_gives_the_same_run():
    one, two = (run(7, devices=3, offline=0.3, loss=0.1) for _ in range(2))
    assert one.server.rows == two.server.rows
    assert one.devices[2].disk.listing() == two.devices[2].disk.listing()


