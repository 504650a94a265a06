"""What the engine says of itself, and small parts that the simulation does not reach."""

from dataclasses import replace

import pytest

from client_agent.core import events as e
from client_agent.core import observing, taking
from client_agent.core.engine import Engine, Loaded
from client_agent.core.forest import Forest, RemoteTree
from client_agent.core.state import Agenda
from client_agent.core.trees import Cursor, Local, Remote, Stat
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.journal import RowKind
from tests.client_agent.core.sim import HISTORY, World

STAT = Stat(1, 1, 1, 1, False)


@pytest.fixture
def world() -> World:
    world = World(11)
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


def test_the_state_in_one_word(world, one):
    both(world, a="1")
    assert one.engine.status().state == "up_to_date"
    assert one.engine.status().cursor_seq == one.engine.status().head_seq == 1
    one.feed(e.Paused(True))
    assert one.engine.status().state == "paused"
    one.disk.write("a", b"2")
    world.run(5_000)
    assert one.commits() == []
    assert one.engine.file_status("a") == "syncing"
    one.feed(e.Paused(False))
    world.run(5_000)
    assert one.engine.status().state == "up_to_date"
    one.go_offline()
    assert one.engine.status().state == "offline"
    one.disk.write("a", b"333")
    world.run(5_000)
    status = one.engine.status()
    assert (status.counts.queued, status.counts.uploading, status.up_left_bytes) == (1, 1, 3)
    one.online = True
    one.feed(e.Connected(world.server.head))
    assert one.engine.status().state == "syncing"


def test_bytes_left_both_ways(world, one, two):
    both(world, a="1")
    two.feed(e.Paused(True))
    one.disk.write("b", b"12345")
    one.disk.rename("a", "c")
    world.run(3_000)
    two.feed(e.Pulled(HISTORY, 1, two._pulled(1, world.server.rows[1:]).rows, 3, asked=False))
    status = two.engine.status()
    assert (status.counts.downloading, status.down_left_bytes) == (2, 5)


def test_in_sync_of_one_path(world, one, two):
    one.disk.mkdir("d")
    one.disk.mkdir("d/e")
    one.disk.write("d/e/f", b"1")
    both(world, a="1")
    assert one.engine.in_sync("d")
    assert one.engine.in_sync("nothing here")
    one.go_offline()
    assert not one.engine.in_sync("a")
    one.online = True
    one.feed(e.Paused(True))
    one.feed(e.Connected(world.server.head))
    one.disk.write("a", b"2")
    one.disk.remove("d")
    world.run(500)
    assert one.engine.in_sync("z")
    assert not one.engine.in_sync("d/e/f"), "it vanished, and may turn up elsewhere"
    assert not one.engine.in_sync("d")
    assert not one.engine.in_sync("a")
    assert not one.engine.in_sync("")
    one.state.head_seq = 99
    assert not one.engine.in_sync("z")


def test_words_for_files(world, one, two):
    both(world, a="1", b="1")
    assert one.engine.file_status("a") == "synced"
    assert one.engine.file_status("nothing") == "unknown"
    one.read_faults["a"] = "busy"
    one.disk.write("a", b"2")
    for _ in range(50):
        world.run(2)
        if one.state.waits:
            break
    assert one.engine.file_status("a") == "waiting"
    world.run(20_000)
    assert one.engine.file_status("a") == "error"
    assert one.engine.status().faults == {"a": "busy"}
    assert one.engine.status().state == "attention"
    two.step_faults["c"] = "broken"
    one.disk.write("c", b"3")
    world.run(500)
    assert two.engine.file_status("c") in ("waiting", "error"), "not here yet"
    assert two.saved.loaded.queue
    two.start()
    assert two.state.waits, "the queue survives a restart"
    one.read_faults.clear()
    two.step_faults.clear()
    world.settle()
    world.check()


def test_conflict_copies_that_are_not_made_survive_a_restart(world, one, two):
    both(world, a="1")
    two.go_offline()
    two.disk.write("a", b"two")
    one.disk.write("a", b"one")
    world.run(1_000)
    two.online = True
    two.feed(e.Connected(world.server.head))
    for _ in range(400):
        world.run(2)
        if two.state.conflicts:
            break
    for device in world.devices:
        device.start()
    world.settle()
    world.check()
    assert len(one.disk.files()) == 2


# ------------------------------------------------------------------ rows and gaps


def test_rows_with_a_gap_are_not_used(world, one, two):
    both(world, a="1")
    one.online = False
    two.disk.write("b", b"1")
    two.disk.write("c", b"1")
    world.run(1_000)
    one.online = True
    page = one._pulled(0, world.server.rows[2:], asked=False)
    one.feed(replace(page, prev_seq=world.server.head - 1))
    assert one.saved.loaded.cursor.seq == 1
    assert isinstance(one.run_log[-1], e.Pull)
    one.feed(one._pulled(0, world.server.rows, asked=False))
    assert one.saved.loaded.cursor.seq == world.server.head, "what is known already is skipped"
    world.settle()


def test_rows_that_change_no_tree_move_the_cursor(world, one):
    both(world, a="1")
    row = e.RemoteChange(2, b"h", RowKind.VERSION_PRUNED, one.node("a"), 0)
    one.feed(e.Pulled(HISTORY, 1, (row,), 2, asked=False))
    assert one.saved.loaded.cursor == Cursor(HISTORY, 2, b"h")


def test_a_head_behind_ours_has_to_prove_itself(world, one):
    both(world, a="1", b="2")
    one.feed(e.Connected(1))
    assert isinstance(one.run_log[-1], e.Pull)


# ------------------------------------------------------------------ scans and own writes


def test_a_scan_that_overlaps_our_own_write_is_not_believed(world, one, two):
    both(world, a="1")
    apply = two._apply

    def slowly(effect):
        two._reply, reply = (lambda event: world.later(5_000, two, lambda: two.feed(event))), None
        apply(effect)
        del two._reply
        assert reply is None

    two._apply = slowly
    one.disk.write("b", b"2")
    one.disk.rename("a", "c")
    world.run(2_500)
    assert two.disk.files() == {"b": b"2", "c": b"1"}
    two.feed(e.Rescan())
    world.run(500)
    assert two.engine.node_at("b") is None
    assert not two.state.missing
    world.run(4_000)
    assert two.engine.node_at("b") == one.node("b")
    world.settle()
    world.check()


def test_a_result_that_nobody_waits_for_is_ignored(world, one):
    both(world, a="1")
    before = dict(one.state.forest.local.rows)
    one.feed(e.Applied((e.StepDone(b"x" * 16, STAT),), last=False))
    assert one.state.forest.local.rows == before


# ------------------------------------------------------------------ small parts


def test_an_agenda_is_in_order_and_holds_each_once():
    agenda = Agenda()
    agenda.push((2,), b"a")
    agenda.push((1,), b"b")
    agenda.push((0,), b"a")
    agenda.push((0,), b"a")
    agenda.push((5,), b"c")
    agenda.discard(b"c")
    assert len(agenda) == 2
    assert [agenda.pop() for _ in range(3)] == [b"a", b"b", None]


def test_a_path_whose_folder_is_not_there_is_none():
    forest = Forest()
    forest.put_local(Local(b"c" * 16, b"p" * 16, "c", NodeType.FILE, STAT))
    assert forest.local.path(b"c" * 16) is None
    assert forest.depth(b"c" * 16) == 1
    assert forest.local.find("p/c") is None
    assert forest.is_directory(ROOT)
    assert not forest.is_directory(b"c" * 16)


def test_two_live_nodes_under_one_name_between_the_rows_of_a_group():
    tree = RemoteTree()
    a = Remote(b"a" * 16, ROOT, "a", NodeType.FILE, 1, True)
    b = Remote(b"b" * 16, ROOT, "b", NodeType.FILE, 1, True)
    tree.put(a)
    tree.put(b)
    tree.put(replace(a, name="b"))
    assert tree.holder(ROOT, "b") == a.node
    tree.put(replace(b, name="a"))
    assert (tree.holder(ROOT, "a"), tree.holder(ROOT, "b")) == (b.node, a.node)


def test_several_names_on_one_disk_may_fold_together():
    forest = Forest()
    for node, name in ((b"a", "Xy"), (b"b", "xY"), (b"c", "xy")):
        forest.put_local(Local(node, ROOT, name, NodeType.FILE, STAT))
    assert forest.local.alike(ROOT, "xy") == [b"c", b"a", b"b"]
    forest.drop_local(b"a")
    forest.drop_local(b"c")
    assert forest.local.alike(ROOT, "xy") == [b"b"]


def test_the_wake_up_that_was_missed_is_healed(world, one, two):
    both(world, a="1")
    one.feed(e.Paused(True))
    one.disk.write("a", b"2")
    world.run(500)
    one.state.to_read.pop()
    one.feed(e.Paused(False))
    world.run(1_000)
    assert one.engine.status().state == "syncing"
    world.run(40_000)
    assert two.disk.files() == {"a": b"2"}
    assert one.state.missed == 1


def test_a_fresh_engine_says_and_does_nothing_before_it_looked():
    engine = Engine(b"d" * 16, 0, Loaded(Cursor(HISTORY, 0, b"")), lambda n: b"r" * n)
    assert not engine.in_sync()
    assert engine.handle(e.Connected(0), 1) == []
    assert [type(x) for x in engine.handle(e.Rescan(), 2)] == [e.Scan, e.Wake]
    assert engine.status().state == "syncing"
    assert engine.path_of(b"?" * 16) == ""


def test_limits_have_a_meaning():
    assert observing.MOVE_WAIT_MS == 2_000
    assert taking.STEPS_MAX <= 1_000
