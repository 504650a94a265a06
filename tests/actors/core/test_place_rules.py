"""Rules for places: one test per sentence of SYNC.md 1, 2 and 4."""

import pytest

from protocol import limits
from protocol.entry import ChangeKind, NodeType
from protocol.faults import Code
from protocol.ids import ROOT
from tests.actors.bench import Bench, check_invariants, delete, modify, move, restore
from tests.contracts.pen import content, fresh_id, place, token


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    check_invariants(bench)


@pytest.fixture
def pen(bench):
    return bench.pen()


def file(pen, name, parent=ROOT, text="text", **more):
    return pen.create(name, content(text), parent, **more)


def test_a_created_node_stands_where_it_was_put(bench, pen):
    top, inner = bench.ok(pen, top := pen.mkdir("top"), file(pen, "inner", top.node))
    assert (top.parent, top.token, top.place_rev, top.alive) == (ROOT, token("top"), 1, True)
    assert (inner.parent, inner.token, inner.type) == (top.node, token("inner"), NodeType.FILE)
    assert (inner.created_ms, inner.modified_ms) == (bench.clock.ms, bench.clock.ms)


def test_every_place_change_raises_place_rev(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    for change in (
        lambda node: move(pen, node, place("b")),
        lambda node: delete(pen, node),
        lambda node: restore(pen, node, place("c")),
    ):
        before = node.place_rev
        (node,) = bench.ok(pen, change(node))
        assert node.place_rev == before + 1


def test_a_move_changes_one_record(bench, pen):
    top, inner = bench.ok(pen, top := pen.mkdir("top"), file(pen, "inner", top.node))
    bench.ok(pen, move(pen, top, place("renamed")))
    assert bench.node(inner.node) == inner


@pytest.mark.parametrize("kind", ["move", "delete", "restore"])
def test_a_place_change_based_on_an_old_place_is_stale(bench, pen, kind):
    (node,) = bench.ok(pen, file(pen, "a"))
    if kind == "restore":
        (node,) = bench.ok(pen, delete(pen, node))
    change = {
        "move": lambda: move(pen, node, place("b"), place_rev=node.place_rev - 1),
        "delete": lambda: delete(pen, node, place_rev=node.place_rev + 1),
        "restore": lambda: restore(pen, node, place("b"), place_rev=node.place_rev - 1),
    }[kind]()
    refused = bench.no(pen, change)
    assert (refused.code, refused.facts) == (Code.STALE, {"place_rev": node.place_rev})


def test_a_delete_of_an_edited_node_is_stale(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    other = bench.pen()
    bench.ok(other, modify(other, node, content("newer")))
    assert bench.no(pen, delete(pen, node)).code == Code.STALE


def test_a_token_is_held_by_one_live_node(bench, pen):
    holder, other = bench.ok(pen, file(pen, "Name", text="holder"), file(pen, "other"))
    facts = {
        "holder": holder.node.hex(),
        "type": int(NodeType.FILE),
        "content_id": holder.content_id.hex(),
    }
    for change in (file(pen, "NAME"), move(pen, other, place("name"))):
        refused = bench.no(pen, change)
        assert (refused.code, refused.facts) == (Code.NAME_TAKEN, facts)
    (dead,) = bench.ok(pen, delete(pen, other))
    refused = bench.no(pen, restore(pen, dead, place("name")))
    assert (refused.code, refused.facts) == (Code.NAME_TAKEN, facts)


def test_a_directory_that_holds_a_name_has_no_content_id(bench, pen):
    (holder,) = bench.ok(pen, pen.mkdir("name"))
    facts = {"holder": holder.node.hex(), "type": int(NodeType.DIRECTORY), "content_id": ""}
    assert bench.no(pen, pen.mkdir("name")).facts == facts


def test_a_name_is_free_again_once_its_node_moved_or_died(bench, pen):
    one, two = bench.ok(pen, file(pen, "one"), file(pen, "two"))
    bench.ok(pen, move(pen, one, place("elsewhere")), file(pen, "one"))
    bench.ok(pen, delete(pen, two), file(pen, "two"))


def test_the_same_name_may_stand_in_two_directories(bench, pen):
    bench.ok(pen, top := pen.mkdir("top"), file(pen, "a"), file(pen, "a", top.node))


def test_a_case_only_rename_keeps_its_own_token(bench, pen):
    (node,) = bench.ok(pen, file(pen, "readme"))
    (renamed,) = bench.ok(pen, move(pen, node, place("README")))
    assert renamed.token == node.token
    assert renamed.sealed_name != node.sealed_name


def test_a_move_onto_its_own_place_is_a_move(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    (same,) = bench.ok(pen, move(pen, node, place("a")))
    assert same.place_rev == node.place_rev + 1


@pytest.mark.parametrize("how", ["create", "move", "restore"])
def test_a_parent_must_be_a_live_directory(bench, pen, how):
    grand, parent, leaf, node = bench.ok(
        pen,
        grand := pen.mkdir("grand"),
        parent := pen.mkdir("parent", grand.node),
        file(pen, "leaf"),
        file(pen, "node"),
    )
    (parent,) = bench.ok(pen, delete(pen, parent))
    (grand,) = bench.ok(pen, delete(pen, grand))
    if how == "restore":
        (node,) = bench.ok(pen, delete(pen, node))

    def below(parent):
        if how == "create":
            return file(pen, "new", parent)
        return {"move": move, "restore": restore}[how](pen, node, place("new", parent))

    assert bench.no(pen, below(fresh_id("node"))).code == Code.PARENT_MISSING
    assert bench.no(pen, below(leaf.node)).code == Code.NOT_A_DIRECTORY
    refused = bench.no(pen, below(parent.node))
    chain = f"{grand.node.hex()},{parent.node.hex()}"
    assert (refused.code, refused.facts) == (Code.PARENT_DEAD, {"chain": chain})
    assert bench.no(pen, below(grand.node)).facts == {"chain": grand.node.hex()}


def test_what_parent_dead_names_can_be_restored_in_that_order(bench, pen):
    grand, parent = bench.ok(pen, grand := pen.mkdir("grand"), pen.mkdir("parent", grand.node))
    (parent,) = bench.ok(pen, delete(pen, parent))
    (grand,) = bench.ok(pen, delete(pen, grand))
    bench.ok(
        pen,
        restore(pen, grand, place("grand")),
        restore(pen, parent, place("parent", grand.node)),
        file(pen, "new", parent.node),
    )


def test_a_dead_parent_may_have_a_live_one(bench, pen):
    grand, parent = bench.ok(pen, grand := pen.mkdir("grand"), pen.mkdir("parent", grand.node))
    bench.ok(pen, delete(pen, parent))
    assert bench.no(pen, file(pen, "a", parent.node)).facts == {"chain": parent.node.hex()}


def test_a_folder_cannot_move_into_itself(bench, pen):
    top, middle, bottom = bench.ok(
        pen,
        top := pen.mkdir("top"),
        middle := pen.mkdir("middle", top.node),
        pen.mkdir("bottom", middle.node),
    )
    for parent in (top, middle, bottom):
        assert bench.no(pen, move(pen, top, place("x", parent.node))).code == Code.CYCLE
    bench.ok(pen, move(pen, bottom, place("x")), move(pen, top, place("x", bottom.node)))


def test_of_two_moves_that_make_a_cycle_the_later_is_refused(bench, pen):
    a, b = bench.ok(pen, pen.mkdir("a"), pen.mkdir("b"))
    other = bench.pen()
    bench.ok(pen, move(pen, a, place("a", b.node)))
    assert bench.no(other, move(other, b, place("b", a.node))).code == Code.CYCLE


def test_a_dead_folder_cannot_be_restored_below_itself(bench, pen):
    top, inner = bench.ok(pen, top := pen.mkdir("top"), pen.mkdir("inner", top.node))
    (inner,) = bench.ok(pen, delete(pen, inner))
    (top,) = bench.ok(pen, delete(pen, top))
    assert bench.no(pen, restore(pen, top, place("top", inner.node))).code == Code.CYCLE


def test_a_tree_is_only_so_deep(bench, pen):
    parent, changes = ROOT, []
    for depth in range(limits.TREE_DEPTH_MAX):
        changes.append(pen.mkdir(f"d{depth}", parent))
        parent = changes[-1].node
    *_, above, deepest = bench.ok(pen, *changes)
    assert bench.no(pen, pen.mkdir("more", deepest.node)).code == Code.TOO_DEEP
    bench.ok(pen, pen.mkdir("more", above.node))


def test_only_an_empty_directory_is_deleted(bench, pen):
    top, inner = bench.ok(pen, top := pen.mkdir("top"), file(pen, "inner", top.node))
    refused = bench.no(pen, delete(pen, top))
    assert (refused.code, refused.facts) == (Code.NOT_EMPTY, {"children": 1})
    assert not any(node.alive for node in bench.ok(pen, delete(pen, inner), delete(pen, top)))


def test_emptiness_counts_what_the_same_commit_moved(bench, pen):
    top, inner, other = bench.ok(
        pen, top := pen.mkdir("top"), file(pen, "inner", top.node), file(pen, "other")
    )
    moved_in = move(pen, other, place("other", top.node))
    moved_out = move(pen, inner, place("inner"))
    *_, refused = bench.results(pen, moved_out, moved_in, delete(pen, top))
    assert (refused.code, refused.facts) == (Code.NOT_EMPTY, {"children": 1})
    new = pen.mkdir("new")
    *_, refused = bench.results(
        pen,
        new,
        file(pen, "a", new.node),
        pen.change(ChangeKind.DELETE, new.node, type=NodeType.DIRECTORY, place_rev=1),
    )
    assert refused.code == Code.NOT_EMPTY


def test_what_is_dead_cannot_be_changed_only_restored(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    (node,) = bench.ok(pen, delete(pen, node))
    for change in (
        move(pen, node, place("b")),
        delete(pen, node),
        modify(pen, node, content("new")),
        pen.change(ChangeKind.SET_HEAD, node.node, base=node.vector, version=node.head),
    ):
        refused = bench.no(pen, change)
        assert (refused.code, refused.facts) == (Code.NODE_DEAD, {"place_rev": node.place_rev})


def test_a_restore_brings_back_the_same_node_with_its_content(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    (dead,) = bench.ok(pen, delete(pen, node))
    (back,) = bench.ok(pen, restore(pen, dead, place("b")))
    assert (back.alive, back.head, back.vector) == (True, node.head, node.vector)
    assert back.token == token("b")


def test_what_is_alive_cannot_be_restored(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    assert bench.no(pen, restore(pen, node, place("b"))).code == Code.STALE


def test_what_never_was_cannot_be_changed(bench, pen):
    for kind, more in (
        (ChangeKind.MOVE, {"place": place("a")}),
        (ChangeKind.DELETE, {}),
        (ChangeKind.RESTORE, {"place": place("a")}),
        (ChangeKind.MODIFY, {"content": content("a")}),
        (ChangeKind.SET_HEAD, {"version": fresh_id()}),
    ):
        assert bench.no(pen, pen.change(kind, fresh_id("node"), **more)).code == Code.NOT_FOUND


def test_an_id_is_given_once(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    refused = bench.no(pen, file(pen, "b", node=node.node))
    assert (refused.code, refused.facts) == (Code.NODE_EXISTS, {"alive": 1, "place_rev": 1})
    bench.ok(pen, delete(pen, node))
    assert bench.no(pen, file(pen, "b", node=node.node)).facts == {"alive": 0, "place_rev": 2}


def test_the_type_of_a_node_never_changes(bench, pen):
    (node,) = bench.ok(pen, file(pen, "a"))
    refused = bench.no(pen, move(pen, node, place("b"), type=NodeType.DIRECTORY))
    assert (refused.code, refused.facts) == (Code.BAD_REQUEST, {"type": int(NodeType.FILE)})


def test_links_and_mounts_are_placed_like_files(bench, pen):
    link = pen.create("link", content("target", type=NodeType.SYMLINK))
    mount = pen.create("mount", content("space", type=NodeType.MOUNT))
    bench.ok(pen, link, mount)
    assert bench.no(pen, file(pen, "a", mount.node)).code == Code.NOT_A_DIRECTORY
