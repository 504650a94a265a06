"""Corners that only a hand can reach: orders of things that the simulation meets once in a year."""

from dataclasses import replace

import pytest

from client_agent.core import composing, copying, engine, following, observing, sending, taking
from client_agent.core import events as e
from client_agent.core.composing import Composer
from client_agent.core.engine import Engine, Loaded
from client_agent.core.loading import Sharing
from client_agent.core.planning import adopt
from client_agent.core.state import Taking
from client_agent.core.trees import Conflict, Cursor, Local, Remote, Stat, Synced
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.journal import Outcome, RowKind
from tests.client_agent.core.sim import DIRECTORY, FILE, HISTORY, World

STAT = Stat(1, 1, 1, 1, False)
A, B, C, D = (bytes([n]) * 16 for n in range(65, 69))


@pytest.fixture
def world() -> World:
    world = World(13)
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


def folder(node, parent=ROOT, name="d", inode=1):
    return Local(node, parent, name, DIRECTORY, replace(STAT, inode=inode))


# ------------------------------------------------------------------ sending


def shifted_chain(world: World, length: int) -> None:
    """Rename n to n + 1 all along a chain of names, each of another type than the next."""
    disk = world.devices[0].disk
    for n in range(length):
        if n % 2:
            disk.mkdir(f"f{n:03}")
        else:
            disk.write(f"f{n:03}", str(n).encode())
    both(world, keep="k")
    world.devices[1].feed(e.Paused(True))
    for n in reversed(range(length)):
        disk.rename(f"f{n:03}", f"f{n + 1:03}")


def test_a_chain_of_renames_longer_than_a_unit_goes_out_in_parts(world, one, two, monkeypatch):
    for module in (composing, taking):
        monkeypatch.setattr(module, "NEST_MAX", 5)
    shifted_chain(world, 30)
    world.run(10_000)
    two.feed(e.Paused(False))
    for device in world.devices:
        device.feed(e.Approved())
    world.settle()
    world.check()
    assert {s.kind for c in one.commits() for s in c.changes} == {"move"}


def test_a_move_into_what_moves_out_sends_that_first(world, one):
    one.disk.mkdir("a")
    one.disk.mkdir("a/b")
    both(world, keep="k")
    one.feed(e.Paused(True))
    one.disk.rename("a/b", "b")
    one.disk.rename("a", "b/a")
    world.run(1_000)
    inner, outer = one.node("b/a"), one.node("b")
    composer = Composer(one.state)
    composer.add(inner)
    assert [spec.node for spec in composer.specs] == [outer, inner]
    one.state.wait(outer, "for a test", floor_ms=1_000)
    composer = Composer(one.state)
    composer.add(inner)
    assert composer.specs == []
    world.run(2_000)
    one.feed(e.Paused(False))
    world.settle()
    world.check()


def test_what_belongs_to_a_unit_that_fails_is_taken_out_again(world, one):
    both(world, a="1", b="2", c="3")
    one.feed(e.Paused(True))
    one.disk.remove("a")
    one.disk.mkdir("a")
    one.disk.mkdir("a/sub")
    world.run(5_000)
    folder_node = one.node("a")
    composer = Composer(one.state)
    ready = composer._ready

    def not_ready(node, steps):
        return ready(node, steps) and node != folder_node

    composer._ready = not_ready
    composer.add(one.node("a/sub"))
    composer.add(folder_node)
    assert (composer.specs, composer._places, composer._comers) == ([], {}, {})
    composer._ready = ready
    composer.add(one.node("a/sub"))
    assert len(composer.specs) == 3
    one.feed(e.Paused(False))
    world.settle()
    world.check()


def test_two_new_names_that_fold_together_go_one_by_one(world, one):
    one.disk.write("x", b"1")
    one.disk.write("X", b"2")
    both(world, keep="k")
    assert list(one.engine.status().faults.values()) == ["case_clash"]
    assert len(world.server.live()) == 2


def test_turns_end_even_if_beginning_always_changes_the_plan(world, one, two, monkeypatch):
    monkeypatch.setattr(engine, "ROUNDS_MAX", 1)
    one.disk.mkdir("p")
    one.disk.mkdir("q")
    both(world, a="1")
    two.go_offline()
    one.disk.rename("p", "q/p")
    two.disk.rename("q", "p/q")
    world.run(5_000)
    two.go_online()
    world.run(60_000)
    two.state.missed = 0  # with so few rounds the second look has to help
    world.settle()
    world.check()


def test_a_bad_request_of_a_copy_alone_waits_like_any_refusal(world, one, two):
    both(world, a="1")
    spec = e.ChangeSpec("create", B, FILE, 9, 1, parent=ROOT, name="copy", copy_of=C)
    one.state.sending = sending.opened(e.Commit(77, 0, (spec,), one.saved.loaded.cursor))
    one.feed(e.CommitFailed(77, "bad_request", retry=False))
    assert one.state.copy_attempts == {C: 1}
    world.settle()


def test_a_choice_waits_for_disk_steps_too(world, one, two):
    both(world, a="1")
    node = two.node("a")
    version = world.server.nodes[node].version
    one.disk.write("a", b"2")
    while node not in two.state.taking:
        world.run(1)
    two.feed(e.Choose(node, version))
    assert node in two.state.choices
    world.run(3_000)
    world.settle()
    world.check()
    assert one.disk.files() == {"a": b"1"}


# ------------------------------------------------------------------ conflicts


def test_an_edit_between_losing_and_taking_is_a_conflict_again(world, one, two):
    both(world, a="1")
    two.go_offline()
    two.disk.write("a", b"early")
    world.run(1_000)
    one.disk.write("a", b"late")
    world.run(1_000)
    two.step_faults["a"] = "error"
    two.go_online()
    world.run(2_000)
    assert world.server.rows[-2].outcome is Outcome.LOST or any(
        row.outcome is Outcome.LOST for row in world.server.rows
    )
    two.disk.write("a", b"third")
    world.run(2_000)
    two.step_faults.clear()
    world.settle(rounds=120)
    world.check()
    assert sorted(one.disk.files().values()) == [b"early", b"late", b"third"]


def test_copies_of_one_moment_get_their_names_one_by_one(world, one):
    both(world, a="1")
    node = one.node("a")
    for loser, copy in ((B, C), (C, D)):
        row = Conflict(node, loser, b"", copy, 1, 5, ours=True)
        one.state.conflicts[loser] = row
        one.state.index(row)
        copying.due(one.state, loser)
    one.state.copies_due[b"settled long ago"] = None
    (first,) = copying.copy_specs(one.state, 10)
    assert first.copy_of == B
    assert list(one.state.copies_due) == [C]


def test_a_resolution_closes_the_conflicts_of_its_node(world, one, two):
    both(world, a="1")
    two.go_offline()
    one.disk.write("a", b"one")
    two.disk.write("a", b"two")
    world.run(1_000)
    two.go_online()
    world.settle()
    (found,) = one.engine.conflicts()
    head = one.saved.loaded.cursor.seq
    row = e.RemoteChange(head + 1, b"h", RowKind.CONFLICT_RESOLVED, found.node, 0)
    one.feed(e.Pulled(HISTORY, head, (row,), head + 1, asked=False))
    assert one.engine.conflicts() == []
    assert one.saved.loaded.conflicts == {}
    named = replace(row, seq=head + 2, loser=found.loser)
    one.feed(e.Pulled(HISTORY, head + 1, (named,), head + 2, asked=False))


# ------------------------------------------------------------------ observing


def test_saved_rows_of_missing_entries_are_settled_by_the_scan():
    rows = {
        A: folder(A, inode=1),
        B: folder(B, inode=2),  # the same place: one of them was missing
        C: folder(C, A, "c", 3),
        D: folder(D, C, "d", 4),
        b"e" * 16: folder(b"e" * 16, b"gone" * 4, "e", 5),
    }
    loaded = Loaded(Cursor(HISTORY, 0, b""), local=rows)
    found = Engine(b"x" * 16, 0, loaded, lambda n: b"r" * n)
    assert found._state.forest.local.rows.keys() == {B}
    assert found._state.missing.keys() == {A, C, D, b"e" * 16}


def test_rows_from_the_disk_share_equal_values_and_stay_equal():
    def fresh(value):
        return bytes(bytearray(value))

    sharing = Sharing()
    vector = ((fresh(D), 1),)
    rows = [
        Remote(fresh(n), fresh(ROOT), "name", FILE, 1, True, fresh(C), fresh(B), vector,
               device=fresh(D))
        for n in (A, B)
    ]  # fmt: skip
    a, b = (sharing.remote(row) for row in rows)
    assert [a, b] == rows
    assert a.device is b.device is a.vector[0][0]
    old = Synced(fresh(A), fresh(ROOT), "name", FILE, fresh(B), fresh(D), ((fresh(D), 1),))
    synced = sharing.synced(old)
    assert synced == old
    assert (synced.content_id, synced.vector) == (a.content_id, a.vector)
    assert synced.vector is a.vector
    other = replace(old, vector=((D, 2),))
    assert sharing.synced(other) == other
    here = Local(fresh(A), fresh(ROOT), "nam" + "e", FILE, STAT, fresh(B))
    assert sharing.local(here) == here
    assert sharing.local(here).content_id is a.content_id
    assert sharing.local(replace(here, node=C)).node == C
    assert sharing.synced(replace(old, node=C)).node == C


def test_a_reused_inode_is_no_move(world, one):
    both(world, a="1", b="2")
    node = one.node("a")
    inode = one.disk.entries["a"].inode
    one.disk.remove("a")
    one.disk.mkdir("other")
    one.disk.entries["other"].inode = inode
    world.run(5_000)
    assert one.node("other") != node
    world.settle()
    world.check()


def test_an_entry_whose_folder_is_not_listed_vouches_for_it(world, one):
    one.disk.mkdir("d")
    one.disk.mkdir("d/e")
    one.disk.write("d/e/f", b"1")
    both(world, keep="k")
    scan = one.disk.scan

    def partly(effect, now_ms):
        found = scan(effect, now_ms)
        some = tuple(x for x in found.entries if x.path not in ("d", "d/e"))
        return e.Scanned(found.scopes, some, {}, now_ms)

    one.disk.scan = partly
    one.feed(e.Rescan())
    world.run(5_000)
    assert one.node("d/e/f")
    assert "d/e/f" in world.server.live()


def test_what_is_missing_goes_along_when_its_folder_is_adopted(world, one):
    one.feed(e.Paused(True))
    one.disk.mkdir("d")
    one.disk.write("d/a", b"1")
    one.disk.write("keep", b"k")
    one.disk.mkdir("o")
    one.disk.write("o/b", b"2")
    world.run(500)
    child, state = one.node("d/a"), one.state
    observing.miss(state, child)
    observing.miss(state, one.node("o/b"))
    theirs = Remote(C, ROOT, "d", DIRECTORY, 1, True)
    adopt(state, state.forest.local.rows[one.node("d")], theirs)
    assert state.missing[child][0].parent == C
    assert state.missing_at[C, "a"] == child
    assert one.node("d") == C


# ------------------------------------------------------------------ taking


def test_a_faulty_content_stops_only_what_needs_it(world, one, two):
    both(world, a="1")
    node = two.node("a")
    pulled = two._pulled

    def faulty(prev_seq, rows, **more):
        page = pulled(prev_seq, rows, **more)
        return replace(page, rows=tuple(replace(r, fault="broken manifest") for r in page.rows))

    two._pulled = faulty
    one.disk.write("a", b"2")
    world.run(2_000)
    assert two.engine.status().faults == {"a": "broken manifest"}
    two._pulled = pulled
    two.disk.write("a", b"3")
    world.run(2_000)
    assert two.state.stuck == {}
    assert world.server.nodes[node].version
    world.settle()
    world.check()


def test_large_files_go_apart(world, one, two, monkeypatch):
    monkeypatch.setattr(taking, "BATCH_BYTES_MAX", 1)
    one.disk.mkdir("d")
    for name in "abcdefgh":
        one.disk.write(f"d/{name}", name.encode())
    both(world, keep="k")
    world.check()


def test_a_folder_removed_under_an_entry_that_had_left_it(world, one, two):
    one.disk.mkdir("d")
    one.disk.write("d/a", b"1")
    both(world, keep="k")
    child, top = two.node("d/a"), two.node("d")
    apply = two._apply

    def meanwhile(effect):
        two._apply = apply
        two.disk.hint = lambda path: None
        two.disk.rename("d/a", "a")
        apply(effect)

    two._apply = meanwhile
    one.disk.remove("d")
    while top in two.state.forest.local.rows:
        world.run(10)
    assert child in two.state.missing
    world.settle()
    world.check()
    assert one.disk.files() == {"keep": b"k", "a": b"1"}


def test_a_row_that_is_gone_when_its_step_is_done_is_looked_at(world, one, two):
    both(world, a="1")
    node = two.node("a")
    one.disk.write("a", b"2")
    while node not in two.state.taking:
        world.run(1)
    observing.miss(two.state, node)
    world.run(3_000)
    world.settle()
    world.check()


def test_a_content_sent_without_a_merge_base_makes_one(world, one):
    both(world, a="1")
    node, state = one.node("a"), one.state
    state.forest.drop_synced(node)
    spec = e.ChangeSpec("modify", node, FILE, 9, 1, version=B, content_id=b"c")
    state.sending = sending.opened(e.Commit(77, 0, (spec,), one.saved.loaded.cursor))
    row = e.RemoteChange(
        2, b"h", RowKind.CHANGE, node, 0, change="modify", device=one.id, own=True, dot=9,
        version=B, content_id=b"c", vector=((one.id, 9),),
    )  # fmt: skip
    one.feed(e.Pulled(HISTORY, 1, (row,), 2, asked=False))
    assert state.forest.synced[node] == Synced(
        node, ROOT, "a", NodeType.FILE, b"c", B, ((one.id, 9),)
    )


def test_a_first_failure_is_not_shown_as_a_fault(world, one):
    both(world, a="1")
    one.state.wait(one.node("a"), "busy")
    assert one.engine.status().faults == {}


def test_nothing_is_parked_below_a_folder_that_moves_now(world, one):
    one.disk.mkdir("d")
    one.disk.write("d/a", b"1")
    both(world, keep="k")
    state, top, child = one.state, one.node("d"), one.node("d/a")
    state.taking[top] = Taking("shift", None, ROOT, "e", "d", "e")
    batch = taking._Batch(state)
    assert not batch._park(child)
    assert batch.steps == []
    del state.taking[top]
    assert batch._park(child)
    assert isinstance(batch.steps[0], e.Move)


# ------------------------------------------------------------------ rows shown again

ROW = e.RemoteChange(
    0, b"h", RowKind.CHANGE, A, 0, change="modify", device=C, dot=9, place_rev=1, version=D,
    content_id=b"c", vector=((C, 9),),
)  # fmt: skip
KNOWN = Remote(A, ROOT, "a", FILE, 1, True, version=B, vector=((C, 5),))


@pytest.mark.parametrize(
    ("old", "changed", "follows"),
    [
        (KNOWN, {"kind": RowKind.VERSION_PRUNED}, True),
        (KNOWN, {}, True),
        (KNOWN, {"dot": 5, "vector": ((C, 5),)}, False),  # the same edit again
        (KNOWN, {"vector": ((C, 9), (D, 1))}, False),  # "accepted", yet it did not see the head
        (KNOWN, {"vector": ((C, 9), (D, 1)), "outcome": Outcome.WON}, True),
        (KNOWN, {"place_rev": 7}, False),  # a content moves nothing
        (KNOWN, {"change": "delete", "version": None}, False),  # one before the last move
        (KNOWN, {"change": "delete", "version": None, "place_rev_before": 1}, False),
        (
            KNOWN,
            {"change": "delete", "version": None, "place_rev_before": 1, "place_rev": 2},
            True,
        ),
        (KNOWN, {"change": "create"}, False),
        (None, {"change": "create"}, True),
    ],
)
def test_only_what_may_come_next_is_followed(old, changed, follows):
    assert following._follows(old, replace(ROW, **changed)) is follows


def test_an_edit_that_is_shown_again_overwrites_nothing(world, one, two):
    """A hostile server repeats a row that was signed long ago: the device had taken it."""
    both(world, a="1")
    two.disk.write("a", b"2")
    world.settle()
    again = world.server.rows[-1]
    two.disk.write("a", b"3")
    world.settle()
    seq = len(world.server.rows) + 1
    replayed = replace(again, seq=seq, hash=b"h" * 32)
    one.feed(e.Pulled(HISTORY, seq - 1, (replayed,), seq, asked=False))
    assert one.state.holds["history"] == "bad_head"
    assert one.state.cursor.seq == seq - 1
    assert one.disk.files()["a"] == b"3"


def test_a_server_that_promises_rows_and_shows_none_is_not_asked_in_a_circle(world, one):
    both(world, a="1")
    state, seq = one.state, one.state.cursor.seq
    promised = e.Pulled(HISTORY, seq, (), seq + 9, asked=True)
    one.feed(promised)
    assert state.pull_not_before_ms <= state.now_ms, "a push may have overtaken the answer"
    one.feed(promised)
    assert state.pull_not_before_ms > state.now_ms
    state.head_seq = seq
    one.feed(e.Pulled(HISTORY, seq, (), seq, asked=True))
    assert state.pull_attempts == 0
