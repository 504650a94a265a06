"""What the engine sends, and what it does when the server says no."""

import pytest

from client_agent.core import events as e
from client_agent.core.copying import COPIES_MAX
from client_agent.core.reading import BATCH_BYTES_MAX
from protocol import vector
from protocol.entry import ChangeKind
from tests.client_agent.core.sim import World


@pytest.fixture
def world() -> World:
    world = World(5)
    world.run(500)
    return world


@pytest.fixture
def one(world: World):
    return world.devices[0]


@pytest.fixture
def two(world: World):
    return world.devices[1]


def both(world: World, **files: str) -> None:
    """Put files on both disks."""
    for name, text in files.items():
        world.devices[0].disk.write(name, text.encode())
    world.run(3_000)
    world.settle()
    for device in world.devices:
        device.clear()


def test_a_small_edit_is_committed_at_once_and_alone(world, one):
    both(world, a="1")
    one.disk.write("a", b"2")
    world.run(500)
    (commit,) = one.commits()
    (spec,) = commit.changes
    assert spec.kind is ChangeKind.MODIFY
    assert spec.prev is not None
    assert spec.base == ((one.id, 1),)


def test_parents_go_first_and_deletions_last_children_before_parents(world, one):
    both(world, keep="k")
    one.disk.mkdir("d")
    one.disk.mkdir("d/e")
    one.disk.write("d/e/f", b"f")
    world.run(500)
    assert one.kinds() == ["create d", "create e", "create f"]
    world.settle()
    one.clear()
    one.disk.remove("d")
    world.run(5_000)
    assert [s.node for c in one.commits() for s in c.changes] == [
        world.server.rows[i].node for i in (3, 2, 1)
    ]
    world.settle()
    world.check()


def test_a_folder_replaced_by_a_file_is_one_atomic_group(world, one, two):
    both(world, a="a", b="b")
    one.disk.remove("a")
    one.disk.mkdir("a")
    world.run(5_000)
    (commit,) = [c for c in one.commits() if len(c.changes) > 1]
    assert {s.kind for s in commit.changes} == {ChangeKind.DELETE, ChangeKind.CREATE}
    assert {s.group for s in commit.changes} == {1}
    world.settle()
    world.check()
    assert two.disk.is_dir("a")


def test_a_ring_of_renames_is_one_atomic_group(world, one, two):
    one.disk.mkdir("a")
    one.disk.mkdir("b")
    one.disk.mkdir("c")
    for name in "abc":
        one.disk.write(f"{name}/{name}", name.encode())
    world.run(1_000)
    world.settle()
    two.go_offline()
    one.clear()
    one.disk.swap("a", "b")
    one.disk.swap("b", "c")
    world.run(10_000)
    world.settle()
    world.check()
    assert two.disk.files() == {"a/b": b"b", "b/c": b"c", "c/a": b"a"}


def test_save_by_rename_keeps_the_node_and_mtime_alone_is_no_change(world, one):
    both(world, a="1")
    node = one.node("a")
    one.disk.save_by_rename("a", b"2")
    world.run(500)
    assert one.node("a") == node
    assert one.kinds() == ["modify"]
    one.clear()
    one.disk.touch("a")
    world.run(1_000)
    assert one.commits() == []
    assert one.engine.in_sync()


def test_a_move_keeps_the_node_and_reads_nothing(world, one, two):
    both(world, a="1")
    node = one.node("a")
    one.disk.mkdir("d")
    one.disk.rename("a", "d/b")
    world.run(3_000)
    assert one.node("d/b") == node
    assert not [x for x in one.run_log if isinstance(x, e.Ingest)]
    assert one.kinds() == ["create d", "move b"]
    assert two.disk.files() == {"d/b": b"1"}


def test_a_restored_folder_comes_back_with_what_was_new_in_it(world, one, two):
    one.disk.mkdir("d")
    one.disk.write("d/a", b"1")
    world.run(1_000)
    world.settle()
    two.go_offline()
    two.disk.write("d/new", b"2")
    one.disk.write("keep", b"k")
    one.disk.remove("d")
    world.run(5_000)
    world.settle()
    world.check()
    assert one.disk.files() == {"d/new": b"2", "keep": b"k"}


def test_an_edit_beats_a_deletion_both_ways(world, one, two):
    both(world, a="1", b="1", c="1")
    two.go_offline()
    one.disk.remove("a")
    two.disk.write("a", b"edited")
    one.disk.write("b", b"edited")
    two.disk.remove("b")
    world.run(5_000)
    world.settle()
    world.check()
    assert one.disk.files() == {"a": b"edited", "b": b"edited", "c": b"1"}


def test_large_files_are_read_apart(world, one):
    one.disk.write("big", b"x" * (BATCH_BYTES_MAX + 1))
    one.disk.write("small", b"y")
    world.run(1_000)
    batches = [len(x.items) for x in one.run_log if isinstance(x, e.Ingest)]
    assert batches == [2] or batches == [1, 1]
    world.settle()
    world.check()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize("code", ["stale", "not_empty", "group_failed", "out_of_order"])
def test_what_a_pull_cures_is_tried_twice_at_once_then_later_and_later(world, one, code):
    both(world, a="1")
    node = one.node("a")
    world.server.refuse[node] = code
    one.disk.write("a", b"2")
    world.run(2_000)
    assert len(one.commits()) >= 3
    assert one.state.waits[node].fault == code
    world.run(30_000)
    assert len(one.commits()) < 15, "no hot loop"
    assert one.engine.status().faults == {"a": code}
    assert one.engine.file_status("a") == "error"
    del world.server.refuse[node]
    world.settle()
    world.check()


@pytest.mark.parametrize("code", ["quota_exceeded", "storage_full", "too_deep", "forbidden"])
def test_what_is_refused_for_good_waits_and_others_go_on(world, one, two, code):
    both(world, a="1", b="1")
    node = one.node("a")
    world.server.refuse[node] = code
    one.disk.write("a", b"2")
    one.disk.write("b", b"2")
    world.run(3_000)
    assert two.disk.files() == {"a": b"1", "b": b"2"}
    assert one.state.waits[node].fault == code
    assert one.engine.file_status("a") in ("waiting", "error")
    world.server.refuse.clear()
    world.settle(rounds=120)
    world.check()


def test_missing_chunks_are_read_again(world, one, two):
    both(world, a="1")
    node = one.node("a")
    world.server.refuse[node] = "chunks_missing"
    one.disk.write("a", b"2")
    world.run(500)
    world.server.refuse.clear()
    world.settle()
    world.check()
    assert len([x for x in one.run_log if isinstance(x, e.Ingest)]) > 1


@pytest.mark.parametrize("code", ["history_lost", "history_changed", "bad_signature"])
def test_a_server_that_lost_its_history_stops_all_talk_and_deletes_nothing(world, one, two, code):
    both(world, a="1", b="1", c="1")
    world.server.refuse[one.node("a")] = code
    one.disk.write("a", b"2")
    two.disk.remove("b")
    world.run(1_000)
    status = one.engine.status()
    assert (status.state, status.holds) == ("error", {"history": code})
    world.run(20_000)
    assert one.disk.files()["b"] == b"1"
    world.server.refuse.clear()
    one.feed(e.Approved("history"))
    world.settle()
    world.check()


@pytest.mark.parametrize("fault", ["bad_head", "history_changed"])
def test_a_head_that_does_not_extend_ours_stops_all_talk(world, one, fault):
    one.pull_faults.append(fault)
    one.feed(e.Connected(7))
    world.run(1_000)
    assert one.engine.status().state == "error"
    one.feed(e.Approved())
    world.settle()
    world.check()


def test_another_history_is_held(world, one):
    one.feed(e.Pulled(b"x" * 16, 0, (), 5, asked=False))
    assert one.engine.status().holds == {}
    one.feed(e.Connected(1))
    one.life += 1  # its own pull is lost; this is the answer instead
    one.feed(e.Pulled(b"x" * 16, 0, (), 5))
    assert one.engine.status().holds == {"history": "history_changed"}


def test_a_used_dot_is_answered_by_a_new_generation(world, one, two):
    both(world, a="1")
    world.server.dots |= {(one.id, n) for n in range(2, 9)}
    one.generations = [None, 1]
    world.renewals = True
    one.disk.write("a", b"2")
    one.disk.write("b", b"2")
    world.run(2_000)
    assert one.state.renewing
    world.run(120_000)
    world.settle()
    world.check()
    assert one.saved.generation == 1
    assert one.commits()[-1].changes[0].dot == vector.counter(1, 1)
    assert one.commits()[-1].answered == 0


def test_a_cycle_of_moves_ends_where_the_first_commit_put_it(world, one, two):
    one.disk.mkdir("a")
    one.disk.mkdir("b")
    world.run(1_000)
    world.settle()
    two.go_offline()
    one.disk.rename("a", "b/a")
    two.disk.rename("b", "a/b")
    world.run(5_000)
    world.settle()
    world.check()
    assert sorted(one.disk.entries) == ["b", "b/a"]
    assert [t.kind for t in two.told] == ["moved_back"]


def test_a_cycle_that_only_the_server_sees_is_undone(world, one, two):
    one.disk.mkdir("a")
    one.disk.mkdir("b")
    world.run(1_000)
    world.settle()
    node = one.node("a")
    world.server.refuse[node] = "cycle"
    one.disk.rename("a", "b/a")
    world.run(5_000)
    world.server.refuse.clear()
    world.settle()
    world.check()
    assert sorted(one.disk.entries) == ["a", "b"]


# ------------------------------------------------------------------ commits without an answer


def test_the_same_op_is_repeated_until_it_is_answered(world, one, two):
    both(world, a="1")
    one.commit_faults = [e.CommitFailed(0, "offline", retry=True, retry_after_ms=2_000)] * 3
    one.disk.write("a", b"2")
    world.run(20_000)
    assert len({c.op for c in one.commits()}) == 1
    assert len(one.commits()) == 4
    assert two.disk.files() == {"a": b"2"}


def test_a_crash_repeats_the_unanswered_op(world, one, two):
    both(world, a="1")
    one.online = False
    one.disk.write("a", b"2")
    world.run(500)
    one.online = True
    one.commit_faults = [e.CommitFailed(0, "offline", retry=True, retry_after_ms=60_000)]
    one.go_online()
    world.run(1_000)
    op = one.commits()[-1].op
    one.start()
    world.run(1_000)
    assert one.commits()[-1].op == op
    assert two.disk.files() == {"a": b"2"}
    world.settle()
    world.check()


def test_one_bad_change_is_found_by_halving_and_waits_alone(world, one, two):
    names = [f"f{i}" for i in range(8)]
    for name in names:
        one.disk.write(name, name.encode())

    real = world.server.commit

    def commit(device, op, changes, now_ms):
        if any(spec.name == "f3" for spec, _ in changes):
            raise AssertionError("the server cannot read it")
        return real(device, op, changes, now_ms)

    world.server.commit = commit
    honest = one._commit

    def answer(effect):
        try:
            honest(effect)
        except AssertionError:
            one._reply(e.CommitFailed(effect.op, "bad_request", retry=False))

    one._commit = answer
    world.run(120_000)
    assert sorted(two.disk.files()) == [n for n in names if n != "f3"]
    assert list(one.engine.status().faults.values()) in ([], ["bad_request"])
    world.server.commit = real
    world.settle(rounds=120)
    world.check()


@pytest.mark.parametrize("fault", ["history_lost", "dot_reused"])
def test_faults_of_a_whole_commit_have_the_same_reactions(world, one, fault):
    both(world, a="1")
    one.commit_faults = [e.CommitFailed(0, fault, retry=False)]
    one.disk.write("a", b"2")
    world.run(5_000)
    world.renewals = True
    if fault == "dot_reused":
        assert one.saved.generation == 1
    else:
        assert one.engine.status().holds == {"history": "history_lost"}
        one.feed(e.Approved("history"))
    world.settle()
    world.check()


def test_stale_answers_are_ignored(world, one):
    both(world, a="1")
    before = dict(one.state.plans)
    one.feed(e.Committed(99, (), 1))
    one.feed(e.CommitFailed(99, "offline", retry=True))
    one.feed(e.Renewed(None))
    assert one.state.plans == before


# ------------------------------------------------------------------ conflicts


def conflict(world, one, two, name="a", path=None, more=""):
    one.go_offline()
    two.go_offline()
    world.run(100)
    one.disk.write(path or name, f"from one{more}".encode())
    two.disk.write(path or name, f"from two{more}".encode())
    world.run(1_000)
    one.go_online()
    world.run(2_000)


def test_the_loser_becomes_a_copy_made_by_the_newcomer(world, one, two):
    both(world, a="1")
    conflict(world, one, two)
    two.go_online()
    world.run(3_000)
    world.settle()
    world.check()
    assert sorted(one.disk.files().values()) == [b"from one", b"from two"]
    assert len(one.engine.conflicts()) == len(two.engine.conflicts()) == 1
    assert one.engine.file_status("a") == "conflict"
    assert one.engine.status().state == "attention"
    assert {t.kind for t in one.told} == {"conflict"}


def test_another_device_makes_the_copy_after_a_minute(world, one, two):
    both(world, a="1")
    conflict(world, one, two)
    real, world.server.refuse = world.server.refuse, {}
    two.state.copies_due = None  # the newcomer never copies
    two.online = True
    honest = two.feed

    def feed(event):
        two.state.copies_due = {}
        honest(event)
        two.state.copies_due = {}

    two.feed = feed
    two.state.copies_due = {}
    two.feed(e.Connected(world.server.head))
    world.run(2_000)
    loser = next(iter(one.state.conflicts))
    copy = one.state.conflicts[loser].copy
    if copy not in world.server.nodes:
        world.run(30_000)
        assert copy not in world.server.nodes
        world.run(60_000)
    assert copy in world.server.nodes
    two.feed = honest
    world.settle()
    world.check()
    world.server.refuse = real


def test_equal_edits_do_not_conflict(world, one, two):
    both(world, a="1")
    one.go_offline()
    two.go_offline()
    one.disk.write("a", b"same")
    two.disk.write("a", b"same")
    world.run(1_000)
    one.go_online()
    world.run(2_000)
    world.settle()
    world.check()
    assert one.disk.files() == {"a": b"same"}
    assert one.engine.conflicts() == []


def test_above_ten_live_copies_losers_stay_versions(world, one, two):
    both(world, a="1")
    for number in range(COPIES_MAX + 2):
        conflict(world, one, two, more=str(number))
        two.go_online()
        world.run(5_000)
        world.settle()
    world.check()
    assert len(one.disk.files()) == 1 + COPIES_MAX
    assert any(t.detail == "kept as a version only" for t in (*one.told, *two.told))


def test_a_copy_whose_folder_is_gone_goes_to_the_nearest_that_lives(world, one, two):
    one.disk.mkdir("d")
    one.disk.write("d/a", b"1")
    one.disk.write("keep", b"k")
    world.run(1_000)
    world.settle()
    conflict(world, one, two, path="d/a")
    # the copy is refused until the folder is gone
    two.go_online()
    for row in list(world.server.rows):
        if row.copy:
            world.server.refuse[row.copy] = "parent_dead"
    world.run(1)
    world.settle()
    world.check()
    assert b"from one" in one.disk.files().values()


def test_refused_copies_are_tried_again(world, one, two):
    both(world, a="1")
    conflict(world, one, two)
    two.go_online()
    for _ in range(200):
        world.run(5)
        copies = [row.copy for row in world.server.rows if row.copy]
        if copies:
            world.server.refuse[copies[0]] = "name_taken"
            break
    world.run(20_000)
    assert world.server.refuse
    assert copies[0] not in world.server.nodes
    world.server.refuse.clear()
    world.settle(rounds=200)
    world.run(15 * 60_000)
    world.settle()
    world.check()
    assert copies[0] in world.server.nodes


def test_a_resolved_conflict_is_gone(world, one, two):
    both(world, a="1")
    conflict(world, one, two)
    two.go_online()
    world.settle()
    (found,) = one.engine.conflicts()
    one.disk.remove(one.engine.path_of(found.copy))
    world.run(5_000)
    world.settle()
    assert one.engine.conflicts() == []
    world.check()


# ------------------------------------------------------------------ choices


def test_a_resolution_sets_the_head_and_deletes_the_copy_in_one_group(world, one, two):
    both(world, a="1")
    conflict(world, one, two)
    two.go_online()
    world.run(5_000)
    world.settle()
    (found,) = one.engine.conflicts()
    lost = world.server.contents[found.loser].data
    one.clear()
    one.feed(e.Choose(found.node, found.loser, (found.copy,)))
    world.run(5_000)
    (commit,) = one.commits()
    assert [s.kind for s in commit.changes] == [ChangeKind.SET_HEAD, ChangeKind.DELETE]
    assert len({s.group for s in commit.changes}) == 1
    world.settle()
    world.check()
    assert two.disk.files() == {"a": lost}


def test_a_choice_made_without_seeing_an_edit_is_refused_and_told(world, one, two):
    both(world, a="1")
    node = one.node("a")
    version = world.server.nodes[node].version
    world.server.refuse[node] = "stale"
    one.feed(e.Choose(node, version))
    one.feed(e.Choose(b"?" * 16, version))
    world.run(1_000)
    told = [(t.kind, t.path, t.detail) for t in one.told]
    assert ("choice_refused", "a", "stale") in told
    assert ("choice_refused", "", "it is gone") in told
    world.server.refuse.clear()
    world.settle()
    world.check()


def test_a_choice_waits_for_what_is_under_way(world, one, two):
    both(world, a="1")
    node = one.node("a")
    version = world.server.nodes[node].version
    one.disk.write("a", b"2")
    world.run(1_000)
    one.disk.write("a", b"3")
    for _ in range(100):
        world.run(2)
        if len(one.commits()) == 2:
            break
    one.feed(e.Choose(node, version))
    world.run(3_000)
    world.settle()
    world.check()
    assert two.disk.files() == {"a": b"1"}
