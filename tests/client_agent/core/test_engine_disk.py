"""What the engine makes of scans, what it does to the disk, and when it stops and asks."""

import pytest

from client_agent.core import events as e
from client_agent.core import observing, safety
from client_agent.core.events import Scope, Seen
from client_agent.core.state import Wait
from protocol.entry import NodeType
from tests.client_agent.core.sim import FILE, World

FIFO_STAT = e.Stat(99, 0, 1, 1, False)


@pytest.fixture
def world() -> World:
    world = World(6)
    world.run(500)
    return world


@pytest.fixture
def one(world: World):
    return world.devices[0]


@pytest.fixture
def two(world: World):
    return world.devices[1]


def both(world: World, **files: str) -> None:
    for name, text in files.items():
        world.devices[0].disk.write(name, text.encode())
    world.run(3_000)
    world.settle()
    for device in world.devices:
        device.clear()


def tree(world: World, names: str = "abc") -> None:
    disk = world.devices[0].disk
    disk.mkdir("d")
    for name in names:
        disk.write(f"d/{name}", name.encode())
    both(world, keep="k")


# ------------------------------------------------------------------ first link


def test_a_full_folder_meets_an_empty_space(world):
    new = World(7, devices=1)
    device = new.devices[0]
    device.disk.mkdir("d")
    device.disk.write("d/a", b"a")
    new.settle()
    new.check()
    assert set(new.server.live()) == {"d", "d/a"}


def test_a_full_folder_meets_a_full_space_and_nothing_is_deleted():
    world = World(8)
    one, two = world.devices
    two.online = False
    two.start()
    for device, own in ((one, b"one"), (two, b"two")):
        device.disk.mkdir("Docs" if device is one else "docs")
        folder = "Docs" if device is one else "docs"
        device.disk.write(f"{folder}/same", b"same")
        device.disk.write(f"{folder}/other", own)
        device.disk.write(f"{folder}/{own.decode()}", own)
        device.disk.link(f"{folder}/link", "target")
    world.run(2_000)
    assert "Docs/one" in world.server.live()
    two.clear()
    two.go_online()
    world.run(3_000)
    assert all(s.kind == "create" for c in two.commits() for s in c.changes)
    world.settle()
    world.check()
    files = one.disk.files()
    assert {files["Docs/same"], files["Docs/one"], files["Docs/two"]} == {b"same", b"one", b"two"}
    assert sorted(v for k, v in files.items() if "other" in k) == [b"one", b"two"]
    assert "Docs/link" in one.disk.entries


def test_nothing_goes_up_before_the_journal_was_read_to_its_head():
    world = World(9)
    one, two = world.devices
    two.online = False
    two.start()
    one.disk.write("a", b"same")
    one.disk.write("b", b"b")
    world.run(2_000)
    one.disk.mkdir("d")
    world.run(2_000)
    one.disk.remove("a")
    one.disk.remove("d")
    world.run(5_000)
    two.disk.write("a", b"same")
    two.disk.mkdir("d")
    two.disk.mkdir("own")
    world.page = 1  # the page with its deletion comes later
    two.online = True
    two.clear()
    two.go_online()
    world.run(5_000)
    names = [type(x).__name__ for x in two.run_log]
    last_pull = len(names) - names[::-1].index("Pull")
    assert "Ingest" not in names[: last_pull - 1]
    assert "Commit" not in names[: last_pull - 1]
    assert two.disk.files()["a"] == b"same", "a deletion from before we were here"
    assert two.disk.is_dir("d")
    world.settle()
    world.check()


# ------------------------------------------------------------------ scans


def test_own_writes_are_no_news(world, one, two):
    one.disk.write("a", b"1")
    world.run(2_000)
    two.clear()
    world.run(5_000)
    assert not [x for x in two.run_log if isinstance(x, e.Ingest | e.Commit)]


def test_a_move_between_two_hints_is_still_a_move(world, one):
    tree(world)
    node, folder = one.node("d/a"), one.node("d")
    disk = one.disk
    disk.hint = lambda path: None
    disk.rename("d/a", "moved")
    one.feed(e.Hinted(frozenset({"moved"})))  # the new half first: the old place is looked at too
    world.run(1_000)
    assert one.node("moved") == node
    disk.rename("moved", "d/a")
    one.feed(e.Hinted(frozenset({"moved"})))  # the old half first: it waits
    world.run(1_000)
    assert node in one.state.missing
    one.feed(e.Hinted(frozenset({"d"})))
    world.run(1_000)
    assert one.node("d/a") == node
    disk.rename("d", "e")
    one.feed(e.Hinted(frozenset({"d"})))
    world.run(1_000)
    assert len(one.state.missing) == 4
    one.feed(e.Hinted(frozenset({"e"})))
    world.run(1_000)
    assert (one.node("e"), one.node("e/a")) == (folder, node)
    world.settle()
    world.check()
    assert "delete" not in " ".join(one.kinds())


def test_a_move_is_still_a_move_after_a_crash_between_its_halves(world, one):
    tree(world)
    node = one.node("d/a")
    one.disk.hint = lambda path: None
    one.disk.rename("d/a", "moved")
    one.feed(e.Hinted(frozenset({"d/a"})))
    world.run(1_000)
    assert node in one.state.missing
    one.start()
    world.run(1_000)
    assert one.node("moved") == node
    world.settle()
    world.check()


def test_a_hard_link_is_a_file_of_its_own(world, one):
    both(world, a="1")
    node = one.node("a")
    one.disk.entries["b"] = one.disk.entries["a"]
    one.disk.hint("b")
    world.run(3_000)
    assert one.node("a") == node != one.node("b")
    world.settle()
    assert world.server.live().keys() == {"a", "b"}


def test_an_unreadable_folder_is_unknown_not_absent(world, one, two):
    tree(world)
    one.disk.unreadable = {"d": "permission denied"}
    one.feed(e.Rescan())
    world.run(10_000)
    assert one.engine.status().faults["d"] == "permission denied"
    assert one.engine.status().state == "attention"
    assert one.engine.file_status("d") == "unreadable"
    assert two.disk.files().keys() == {"keep", "d/a", "d/b", "d/c"}
    one.disk.unreadable = {}
    world.settle()
    world.check()
    assert one.engine.status().faults == {}


def test_changed_rights_end_the_wait_of_a_file_that_could_not_be_read(world, one, two):
    both(world, a="1")
    node, entry = one.node("a"), one.disk.entries["a"]
    one.state.waits[node] = Wait(9, one.state.now_ms + 900_000, "Permission denied")
    one.feed(e.Rescan())
    world.run(5_000)
    assert one.engine.status().faults == {"a": "Permission denied"}
    entry.ctime = one.disk.tick()
    one.feed(e.Rescan())
    world.run(5_000)
    assert one.engine.status().faults == {}


def test_special_files_and_impossible_names_are_left_alone(world, one):
    both(world, a="1")
    scan = one.disk.scan

    def odd(effect, now_ms):
        found = scan(effect, now_ms)
        more = (Seen("fifo", None, FIFO_STAT), Seen("bad\x01", FILE, FIFO_STAT),
                Seen("bad\x01/below", FILE, FIFO_STAT),
                Seen("", NodeType.DIRECTORY, FIFO_STAT))  # fmt: skip
        return e.Scanned(found.scopes, (*found.entries, *more), {}, now_ms)

    one.disk.scan = odd
    one.feed(e.Rescan())
    world.run(5_000)
    assert list(one.engine.status().faults) == ["bad\x01"]
    assert world.server.live().keys() == {"a"}


def test_a_lost_watcher_and_a_burst_of_hints_look_at_all(world, one):
    both(world, a="1")
    one.feed(e.Hinted(frozenset(), lost=True))
    world.run(1_000)
    assert [x.scopes for x in one.run_log if isinstance(x, e.Scan)] == [(Scope("", True),)]
    one.clear()
    one.feed(e.Hinted(frozenset(str(i) for i in range(observing.SCOPES_MAX + 1))))
    world.run(1_000)
    assert [x.scopes for x in one.run_log if isinstance(x, e.Scan)] == [(Scope("", True),)]


def test_an_unknown_folder_above_a_hint_is_looked_at(world, one):
    one.disk.hint = lambda path: None
    one.disk.mkdir("x")
    one.disk.mkdir("x/y")
    one.disk.write("x/y/z", b"z")
    one.feed(e.Hinted(frozenset({"x/y/z"})))
    world.run(2_000)
    assert world.server.live().keys() == {"x", "x/y", "x/y/z"}


def test_a_racy_reading_is_looked_at_again(world, one, two):
    both(world, a="1")
    honest = one._ingest
    one.world.chance, chance = (lambda share: share == 0.05), one.world.chance
    one.disk.write("a", b"2")
    world.run(200)
    one.world.chance = chance
    assert one.state.forest.local.rows[one.node("a")].racy
    entry = one.disk.entries["a"]
    entry.data = b"3"  # within the grain of the clock: same size, same times
    world.run(5_000)
    assert two.disk.files() == {"a": b"3"}
    one._ingest = honest
    world.settle()
    world.check()


def test_the_folder_is_scanned_every_hour_or_so(world, one):
    both(world, a="1")
    world.run(80 * 60_000)
    assert len([x for x in one.run_log if isinstance(x, e.Scan)]) in (1, 2)
    assert len([x for x in one.run_log if isinstance(x, e.Wake)]) < 10, "no polling"


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("reason", ["busy", "changed", "vanished", "error", "quota"])
def test_what_cannot_be_read_now_is_read_later(world, one, two, reason):
    both(world, b="1")
    one.read_faults["a"] = reason
    one.disk.write("a", b"1")
    world.run(20_000)
    assert len([x for x in one.run_log if isinstance(x, e.Ingest)]) < 60
    assert two.disk.files() == {"b": b"1"}
    one.read_faults.clear()
    world.settle()
    world.check()


def test_reading_waits_for_the_server(world, one):
    both(world, b="1")
    one.disk.write("a", b"1")
    one.online = False  # nobody told the engine yet
    world.run(2_000)
    assert one.node("a") in one.state.after_connect
    one.go_offline()
    one.go_online()
    world.settle()
    world.check()


def test_an_edit_while_reading_is_read_again(world, one, two):
    both(world, a="1")
    node = one.node("a")
    row = one.state.forest.local.rows[node]
    late = e.Read(node, row.stat, b"x" * 32, b"v" * 16, 1, 1)
    one.feed(e.Ingested((late,), last=False))  # nobody asked
    assert one.state.forest.local.rows[node] == row
    one.disk.write("a", b"22")
    world.run(45)
    one.disk.write("a", b"333")
    world.settle()
    world.check()
    assert two.disk.files() == {"a": b"333"}


def test_a_reading_that_a_scan_overtook_is_done_again(world, one, two):
    both(world, a="1")

    def late(event):
        one._reply_after, honest = type(one)._reply_after.__get__(one), one.feed
        world.later(2_000, one, lambda: honest(event))

    one._reply_after = late
    world.random.randint, randint = (lambda low, high: low), world.random.randint
    one.disk.write("a", b"22")
    world.run(500)
    world.random.randint = randint
    one.disk.write("a", b"333")
    world.run(5_000)
    assert two.disk.files() == {"a": b"333"}


def test_more_is_not_read_than_can_be_held(world, one):
    both(world, a="1")
    one.state.reads_bytes = 1 << 40
    one.disk.write("a", b"2")
    world.run(1_000)
    assert one.commits() == []
    one.state.reads_bytes = 0
    world.settle()


# ------------------------------------------------------------------ taking


@pytest.mark.parametrize("reason", ["changed", "missing", "exists", "broken", "error", "offline"])
def test_a_step_that_fails_is_taken_again(world, one, two, reason):
    both(world, a="1")
    two.step_faults["a"] = reason
    one.disk.write("a", b"2")
    world.run(30_000)
    assert two.disk.files() == {"a": b"1"}
    assert len([x for x in two.run_log if isinstance(x, e.Apply)]) < 40
    fault = two.state.waits[two.node("a")].fault
    assert fault == reason
    two.step_faults.clear()
    two.go_offline()
    two.go_online()
    world.settle()
    world.check()


def test_a_full_disk_stops_downloads_and_tells(world, one, two):
    both(world, a="1")
    two.step_faults["a"] = "disk_full"
    one.disk.write("a", b"2")
    world.run(2_000)
    assert {t.kind for t in two.told} == {"disk_full"}
    one.disk.write("b", b"2")
    world.run(1_000)
    assert two.disk.files() == {"a": b"1"}, "no other download is tried meanwhile"
    two.step_faults.clear()
    world.settle(rounds=120)
    world.check()


def test_room_that_was_made_on_a_full_disk_is_used_after_a_rescan(world, one, two):
    """It failed: each file kept its own growing wait, over restarts too."""
    both(world, a="1")
    two.step_faults["a"] = "disk_full"
    one.disk.write("a", b"2")
    world.run(60_000)
    two.step_faults.clear()
    two.feed(e.Rescan())
    world.run(1_000)
    assert two.disk.files() == {"a": b"2"}
    world.settle()
    world.check()


def test_a_folder_with_something_of_ours_stays_until_that_is_gone(world, one, two):
    tree(world)
    two.step_faults["d"] = "not_empty"
    one.disk.remove("d")
    world.run(20_000)
    assert two.disk.is_dir("d")
    assert not two.disk.below("d")
    two.step_faults.clear()
    world.settle(rounds=120)
    world.check()


def test_an_edit_that_comes_between_is_never_overwritten(world, one, two):
    both(world, a="1")
    apply = two._apply

    def meanwhile(effect):
        two._apply = apply
        two.disk.write("a", b"mine")
        apply(effect)

    two._apply = meanwhile
    one.disk.write("a", b"theirs")
    world.settle()
    world.check()
    assert sorted(one.disk.files().values()) == [b"mine", b"theirs"]


def test_a_folder_that_vanished_under_a_new_file_comes_back(world, one, two):
    tree(world)
    apply = two._apply

    def meanwhile(effect):
        two._apply = apply
        two.disk.remove("d")
        apply(effect)

    two._apply = meanwhile
    one.disk.write("d/new", b"new")
    world.run(60_000)
    world.settle()
    world.check()
    assert one.disk.files()["d/new"] == b"new"


def test_a_new_name_that_is_taken_there_gets_a_conflict_name(world, one, two):
    both(world, keep="k")
    two.go_offline()
    one.disk.mkdir("a")
    two.disk.write("a", b"file")
    one.disk.write("b", b"1")
    two.disk.write("b", b"2")
    two.disk.write("A2", b"3")
    one.disk.write("a2", b"3")
    world.run(3_000)
    world.settle()
    world.check()
    assert {t.kind for t in two.told} == {"name_clash"}
    names = sorted(one.disk.entries)
    assert len([n for n in names if n.startswith(("a (conflict, device-1", "b (conflict, "))]) == 2
    assert "a2" in names, "equal contents became one file, under the name that was first"


def test_names_that_fold_together_on_one_disk_wait_and_are_never_renamed(world, one):
    both(world, a="1")
    one.disk.write("A", b"2")
    world.run(3_000)
    assert one.engine.status().faults == {"A": "case_clash"}
    assert one.engine.file_status("A") == "error"
    assert one.disk.files() == {"a": b"1", "A": b"2"}
    one.disk.rename("A", "c")
    world.settle()
    world.check()


def test_a_rename_in_case_only_is_a_move(world, one, two):
    both(world, a="1")
    node = one.node("a")
    one.disk.rename("a", "A")
    world.run(5_000)
    world.settle()
    world.check()
    assert one.node("A") == node
    assert two.disk.files() == {"A": b"1"}


def test_a_node_that_cannot_be_used_here_waits_and_others_go_on(world, one, two):
    both(world, a="1")
    pulled = two._pulled

    def faulty(prev_seq, rows, **more):
        page = pulled(prev_seq, rows, **more)
        return e.Pulled(
            page.history, page.prev_seq,
            tuple(e.replace(r, fault="bad name", name="") if r.name == "b" else r
                  for r in page.rows),
            page.head_seq, page.more, page.asked,
        )  # fmt: skip

    two._pulled = faulty
    e.replace = __import__("dataclasses").replace
    one.disk.write("b", b"1")
    one.disk.write("c", b"1")
    world.run(3_000)
    assert two.disk.files() == {"a": b"1", "c": b"1"}
    assert list(two.engine.status().faults.values()) == ["bad name"]
    del e.replace


# ------------------------------------------------------------------ safety stops


@pytest.mark.parametrize("fault", ["missing", "no marker", "another disk"])
def test_a_root_that_cannot_be_trusted_stops_everything(world, one, two, fault):
    tree(world)
    one.disk.root_fault = fault
    entries, one.disk.entries = one.disk.entries, {}
    one.feed(e.Rescan())
    two.disk.write("new", b"n")
    world.run(40_000)
    assert one.engine.status().state == "held"
    assert one.engine.status().holds == {"root": fault}
    assert [t.detail for t in one.told] == [f"root: {fault}"]
    assert two.disk.files().keys() == {"keep", "d/a", "d/b", "d/c", "new"}
    one.disk.root_fault, one.disk.entries = "", entries
    world.run(40_000)
    world.settle()
    world.check()


def test_an_emptied_folder_asks_before_it_empties_the_others(world, one, two):
    tree(world)
    one.disk.hint = lambda path: None
    entries, one.disk.entries = one.disk.entries, {}
    one.feed(e.Rescan())
    world.run(10_000)
    assert list(one.engine.status().holds) == ["emptied"]
    assert len(two.disk.files()) == 4
    one.disk.entries = entries
    one.feed(e.Rescan())
    world.run(10_000)
    assert one.engine.status().state == "up_to_date"
    one.disk.entries = {}
    one.feed(e.Rescan())
    world.run(10_000)
    one.feed(e.Approved("emptied"))
    world.run(10_000)
    world.settle()
    world.check()
    assert two.disk.entries == {}


def test_deleting_all_one_by_one_asks_too(world, one, two):
    both(world, a="1", b="2")
    one.disk.remove("a")
    one.disk.remove("b")
    world.run(10_000)
    assert list(one.engine.status().holds) == ["emptied"]
    assert len(two.disk.files()) == 2
    one.disk.write("a", b"new")
    world.run(5_000)
    assert one.engine.status().holds == {}
    world.settle()
    world.check()
    assert two.disk.files() == {"a": b"new"}


def test_a_mass_deletion_waits_for_an_approval_on_both_sides(world, one, two):
    one.disk.mkdir("d")
    for i in range(80):
        one.disk.write(f"d/{i}", str(i).encode())
    both(world, keep="k")
    one.disk.remove("d")
    world.run(10_000)
    assert list(one.engine.status().holds) == ["mass_change"]
    assert one.engine.status().counts.held == 81
    assert len(two.disk.files()) == 81
    one.feed(e.Approved("mass_change"))
    world.run(10_000)
    assert "d" not in world.server.live()
    assert list(two.engine.status().holds) == ["mass_change"]
    assert len(two.disk.files()) == 81
    two.feed(e.Approved())
    world.settle()
    world.check()
    assert two.disk.files() == {"keep": b"k"}


def test_a_mass_change_that_is_taken_back_is_no_longer_held(world, one):
    one.disk.mkdir("d")
    for i in range(80):
        one.disk.write(f"d/{i}", str(i).encode())
    both(world, keep="k")
    one.disk.rename("d", "elsewhere")
    entries = {p: x for p, x in one.disk.entries.items() if p.startswith("elsewhere")}
    one.disk.rename("elsewhere", "d")
    one.disk.hint = lambda path: None
    whole = dict(one.disk.entries)
    one.disk.entries = {"keep": whole["keep"]}
    one.feed(e.Rescan())
    world.run(10_000)
    assert list(one.engine.status().holds) == ["mass_change"]
    one.disk.entries = whole
    one.feed(e.Rescan())
    world.run(10_000)
    assert entries
    assert one.engine.status().holds == {}
    world.settle()


def test_the_breaker_counts_in_a_sliding_window():
    breaker = safety.Breaker()
    breaker.count(50, 0)
    assert breaker.allows(0, 10, 1)
    assert not breaker.allows(1, 10, 1)
    assert breaker.allows(50, 400, 1), "25 % of a large space"
    assert breaker.allows(50, 10, safety.WINDOW_MS)
    breaker.count(50, safety.WINDOW_MS)
    breaker.approve()
    assert breaker.allows(50, 0, safety.WINDOW_MS)
