"""Rules for commits as a whole: groups, repeats, headers, roles, chunks, quota."""

from dataclasses import replace

import pytest

from actors.core.commit import wanted
from actors.records import Chunk, Wanted
from protocol import journal, limits
from protocol.codec import encode
from protocol.entry import ChangeKind, ChunkRef, NodeType
from protocol.faults import Code, Refusal
from protocol.ids import ROOT
from protocol.messages import Role
from protocol.messages.sync import Accepted
from tests.actors.bench import Bench, check_invariants, delete, modify, move, now
from tests.contracts.pen import chunk, content, fresh_id, place, ref, token


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    check_invariants(bench)


def codes(results):
    return [getattr(result, "code", "ok") for result in results]


# -- order --------------------------------------------------------------------------------------


def test_results_stand_in_the_order_of_the_changes_and_rows_without_a_gap(bench):
    pen = bench.pen()
    missing = fresh_id("node")
    decision = bench.send(
        pen, pen.mkdir("a"), pen.mkdir("b", missing), pen.mkdir("c"), pen.mkdir("a")
    )
    answer = decision.answer
    assert codes(answer.results) == ["ok", Code.PARENT_MISSING, "ok", Code.NAME_TAKEN]
    assert [row.seq for row in bench.rows()] == [1, 2]
    assert [row.index for row in bench.rows()] == [0, 2]
    assert (answer.prev_seq, answer.head_seq) == (0, 2)
    assert (answer.history, answer.head) == (bench.history, decision.batch.head)
    assert answer.rows == tuple(row.raw for row in decision.batch.rows)
    assert {row.event for row in decision.batch.rows} == {"create"}


def test_later_changes_of_a_commit_see_earlier_ones(bench):
    pen = bench.pen()
    top = pen.mkdir("top")
    bench.ok(pen, top, pen.mkdir("inner", top.node))
    early = pen.mkdir("late", fresh_id("node"))
    assert bench.no(pen, early).code == Code.PARENT_MISSING


def test_a_commit_in_which_nothing_fits_writes_nothing(bench):
    pen = bench.pen()
    decision = bench.send(pen, pen.mkdir("a", fresh_id("node")))
    assert decision.batch is None
    assert (decision.answer.prev_seq, decision.answer.head_seq) == (0, 0)
    assert decision.answer.head == bench.genesis


# -- groups -------------------------------------------------------------------------------------


def test_a_group_is_made_all_or_none(bench):
    pen = bench.pen()
    (victim,) = bench.ok(pen, pen.create("victim", content("text")))
    before = bench.facts()
    stored = chunk("bytes")
    results = bench.results(
        pen,
        pen.mkdir("a", group=1),
        pen.create("b", content("b", stored), group=1),
        delete(pen, victim, group=1),
        pen.mkdir("c", fresh_id("node"), group=1),
        stored=[stored],
    )
    assert codes(results) == [Code.GROUP_FAILED] * 3 + [Code.PARENT_MISSING]
    assert results[0].facts == {"index": 3, "code": "parent_missing"}
    assert bench.facts() == before


def test_a_failed_group_leaves_the_rest_of_the_commit_alone(bench):
    pen = bench.pen()
    results = bench.results(
        pen,
        pen.mkdir("a"),
        pen.mkdir("b", group=1),
        pen.mkdir("b", fresh_id("node"), group=1),
        pen.mkdir("b"),
        pen.mkdir("c", group=2),
        pen.mkdir("d", group=2),
    )
    assert codes(results) == ["ok", Code.GROUP_FAILED, Code.PARENT_MISSING, "ok", "ok", "ok"]
    assert [row.seq for row in bench.rows()] == [1, 2, 3, 4]


def test_names_are_swapped_in_a_group(bench):
    pen = bench.pen()
    a, b = bench.ok(pen, pen.create("a", content("a")), pen.create("b", content("b")))
    swapped = bench.ok(pen, move(pen, a, place("b"), group=1), move(pen, b, place("a"), group=1))
    assert [node.token for node in swapped] == [token("b"), token("a")]
    one_by_one = bench.results(pen, move(pen, swapped[0], place("a")))
    assert codes(one_by_one) == [Code.NAME_TAKEN]


def test_one_thing_replaces_another_in_a_group(bench):
    pen = bench.pen()
    old, new = bench.ok(pen, pen.create("a", content("a")), pen.create("tmp", content("b")))
    bench.ok(pen, move(pen, new, place("a"), group=7), delete(pen, old, group=7))


def test_uniqueness_is_checked_at_the_end_of_a_group(bench):
    pen = bench.pen()
    a, b = bench.ok(pen, pen.create("a", content("a")), pen.create("b", content("b")))
    results = bench.results(
        pen,
        move(pen, a, place("c"), group=1),
        move(pen, b, place("c"), group=1),
        pen.mkdir("d", group=1),
    )
    assert codes(results) == [Code.GROUP_FAILED, Code.NAME_TAKEN, Code.GROUP_FAILED]
    assert results[1].facts["holder"] == a.node.hex()
    bench.ok(
        pen,
        move(pen, a, place("b"), group=1),
        move(pen, b, place("x"), group=1),
        pen.change(ChangeKind.MOVE, a.node, place=place("y"), place_rev=a.place_rev + 1, group=1),
        pen.mkdir("a", group=1),
        pen.mkdir("b", group=1),
    )


def test_what_dies_within_a_group_needs_no_name(bench):
    pen = bench.pen()
    (a,) = bench.ok(pen, pen.mkdir("a"))
    new = pen.mkdir("a", group=1)
    gone = pen.change(ChangeKind.DELETE, new.node, type=NodeType.DIRECTORY, place_rev=1, group=1)
    bench.ok(pen, new, gone)
    assert bench.look(pen, tokens=[(ROOT, token("a"))]).holders[ROOT, token("a")] == a.node


def test_a_group_stands_where_its_first_change_stands(bench):
    pen = bench.pen()
    first, between, last = pen.mkdir("a", group=1), pen.mkdir("b"), pen.mkdir("c", group=1)
    bench.ok(pen, first, between, last)
    assert [row.index for row in bench.rows()] == [0, 2, 1]


def test_a_failed_group_gives_back_its_bytes():
    bench = Bench(quota_bytes=10)
    pen = bench.pen()
    one, two = chunk("a" * 10), chunk("b" * 10)
    results = bench.results(
        pen,
        pen.create("a", content("a", one), group=1),
        pen.mkdir("x", fresh_id("node"), group=1),
        pen.create("b", content("b", two)),
        stored=[one, two],
    )
    assert codes(results) == [Code.GROUP_FAILED, Code.PARENT_MISSING, "ok"]
    check_invariants(bench)


# -- repeats ------------------------------------------------------------------------------------


def test_a_repeated_change_gets_its_first_answer(bench):
    pen, other = bench.pen(), bench.pen()
    create = pen.create("a", content("a"))
    (node,) = bench.ok(pen, create)
    bench.ok(other, modify(other, node, content("b")))
    edit = modify(pen, node, content("c"))
    first = bench.results(pen, edit, pen.mkdir("d"))
    facts = bench.facts()
    again = bench.send(pen, edit, create)
    assert again.answer.results == (first[0], Accepted(seq=1, place_rev=1))
    assert again.batch is None
    assert bench.facts() == facts


def test_a_group_that_is_repeated_is_not_made_twice(bench):
    pen = bench.pen()
    group = [pen.mkdir("a", group=1), pen.mkdir("b", group=1)]
    first = bench.results(pen, *group)
    assert bench.results(pen, *group) == first


def test_other_bytes_under_a_known_dot_are_refused(bench):
    pen = bench.pen()
    bench.ok(pen, pen.mkdir("a"))
    refused = bench.no(pen, pen.mkdir("b", dot=1))
    assert (refused.code, refused.facts) == (Code.DOT_REUSED, {"dot": 1, "seq": 1})


def test_a_dot_stands_once_in_a_commit(bench):
    pen = bench.pen()
    results = bench.results(pen, pen.mkdir("a"), pen.mkdir("b", dot=1))
    assert codes(results) == ["ok", Code.DOT_REUSED]


def test_a_group_with_a_reused_dot_fails(bench):
    pen = bench.pen()
    bench.ok(pen, pen.mkdir("a"))
    results = bench.results(pen, pen.mkdir("b", group=1), pen.mkdir("c", dot=1, group=1))
    assert codes(results) == [Code.GROUP_FAILED, Code.DOT_REUSED]
    assert results[0].facts == {"index": 1, "code": "dot_reused"}


def test_the_dots_of_another_device_are_its_own(bench):
    bench.ok(pen := bench.pen(), pen.mkdir("a"))
    bench.ok(pen := bench.pen(), pen.mkdir("b"))


# -- the commit as a whole ----------------------------------------------------------------------


def refusal(bench, pen, *changes, **header):
    before = bench.facts()
    with pytest.raises(Refusal) as caught:
        bench.send(pen, *(changes or (pen.mkdir("a"),)), **header)
    assert bench.facts() == before
    return caught.value.fault.code


def test_only_editors_and_owners_commit(bench):
    assert refusal(bench, bench.pen(account=fresh_id("stranger"))) == Code.NOT_FOUND
    assert refusal(bench, bench.member(Role.VIEWER)) == Code.FORBIDDEN
    editor = bench.member(Role.EDITOR)
    bench.ok(editor, editor.mkdir("a"))


def test_nothing_is_committed_to_a_suspended_owner():
    bench = Bench(suspended=True)
    assert refusal(bench, bench.pen()) == Code.ACCOUNT_SUSPENDED


def test_another_history_is_refused(bench):
    pen = bench.pen()
    assert refusal(bench, pen, history=fresh_id("history")) == Code.HISTORY_CHANGED


def test_a_head_we_do_not_have_means_that_history_was_lost(bench):
    pen = bench.pen()
    bench.ok(pen, pen.mkdir("a"))
    head = bench.store.head(bench.space)[2]
    assert refusal(bench, pen, head_seq=2, head=head) == Code.HISTORY_LOST
    assert refusal(bench, pen, head_seq=1, head=bytes(32)) == Code.HISTORY_LOST
    bench.send(pen, pen.mkdir("b"), head_seq=1, head=head)
    bench.send(pen, pen.mkdir("c"), head_seq=1, head=head)


def test_a_late_duplicate_of_an_answered_commit_is_out_of_order(bench):
    """Its first answer was refused and forgotten; made now, it would be a ghost."""
    pen = bench.pen()
    (holder,) = bench.ok(pen, pen.mkdir("a"))
    command = pen.commit(pen.mkdir("a"))
    assert codes(bench.decide(command).answer.results) == [Code.NAME_TAKEN]
    bench.decide(pen.commit(delete(pen, holder), answered=pen.op))
    with pytest.raises(Refusal) as caught:
        bench.decide(command)
    assert caught.value.fault.code == Code.OUT_OF_ORDER


def test_what_is_sealed_under_old_keys_is_refused():
    bench = Bench(key_epoch=2)
    pen = bench.pen()
    (node,) = bench.ok(
        pen,
        pen.change(
            ChangeKind.CREATE,
            fresh_id(),
            place=place("a", key_epoch=2),
            content=content("a", key_epoch=2),
        ),
    )
    for change in (
        move(pen, node, place("b", key_epoch=1)),
        modify(pen, node, content("b", key_epoch=1)),
    ):
        refused = bench.no(pen, change)
        assert (refused.code, refused.facts) == (Code.STALE_EPOCH, {"key_epoch": 2})
    for change in (
        move(pen, node, place("b", key_epoch=3)),
        modify(pen, node, content("b", key_epoch=3)),
    ):
        refused = bench.no(pen, change)
        assert (refused.code, refused.facts) == (Code.BAD_REQUEST, {"key_epoch": 2})
    results = bench.results(pen, delete(pen, node), key_epoch=1)
    assert codes(results) == [Code.STALE_EPOCH]
    assert refusal(bench, pen, key_epoch=3) == Code.BAD_REQUEST
    bench.ok(pen, delete(pen, node))


# -- chunks and quota ---------------------------------------------------------------------------


def test_every_chunk_has_to_be_here(bench):
    pen = bench.pen()
    here, leased, absent = chunk("here"), chunk("leased"), chunk("absent")
    now(bench.store.lease(bench.space, [Chunk(leased.address, leased.size_bytes)]))
    what = content("a", here, leased, absent)
    (refused,) = bench.results(pen, pen.create("a", what), stored=[here])
    assert refused.code == Code.CHUNKS_MISSING
    assert refused.facts == {"missing": 1, "chunks": absent.address.hex()}
    bench.ok(pen, pen.create("a", what), stored=[absent])


def test_a_chunk_is_as_long_as_it_is_said_to_be(bench):
    pen = bench.pen()
    stored = chunk("text")
    lie = replace_refs(content("a"), [ChunkRef(stored.address, 5)])
    (refused,) = bench.results(pen, pen.create("a", lie), stored=[stored])
    assert refused.code == Code.CHUNK_MISMATCH
    assert refused.facts == {"chunk": stored.address.hex()}


def test_what_a_page_lists_has_to_be_here_too(bench):
    pen = bench.pen()
    parts = [chunk(f"part {n}") for n in range(3)]
    page = chunk("page", tuple(ref(part) for part in parts))
    what = content("a", page, paged=True)
    (refused,) = bench.results(pen, pen.create("a", what), stored=[page, parts[1]])
    assert refused.facts == {
        "missing": 2,
        "chunks": f"{parts[0].address.hex()},{parts[2].address.hex()}",
    }
    (node,) = bench.ok(pen, pen.create("a", what), stored=[parts[0], parts[2]])
    assert node.size_bytes == sum(part.size_bytes for part in parts)
    used_bytes = node.size_bytes + page.size_bytes
    assert bench.store.used_bytes(bench.owner) == used_bytes


def test_a_page_that_lists_nothing_is_none(bench):
    pen = bench.pen()
    page = chunk("page")
    what = content("a", page, paged=True)
    (refused,) = bench.results(pen, pen.create("a", what), stored=[page])
    assert (refused.code, refused.facts) == (
        Code.CHUNK_MISMATCH,
        {"chunk": page.address.hex()},
    )


def test_what_the_space_was_first_told_of_a_page_counts(bench):
    pen = bench.pen()
    part, other = chunk("part"), chunk("other")
    page = chunk("page", (ref(part),))
    now(bench.store.lease(bench.space, [Chunk(page.address, page.size_bytes, page.refs)]))
    lie = chunk("page", (ref(other),))
    (refused,) = bench.results(
        pen, pen.create("a", content("a", page, paged=True)), stored=[lie, other]
    )
    assert refused.facts["chunks"] == part.address.hex()


def test_a_chunk_costs_once_per_space():
    bench = Bench(quota_bytes=15)
    pen = bench.pen()
    one, two = chunk("a" * 10), chunk("b" * 10)
    results = bench.results(
        pen,
        pen.create("a", content("a", one, one)),
        pen.create("b", content("b", one)),
        pen.create("c", content("c", two)),
        stored=[one, two],
    )
    assert codes(results) == ["ok", "ok", Code.QUOTA_EXCEEDED]
    assert results[2].facts == {"bytes": 10, "room_bytes": 5}
    assert bench.store.used_bytes(bench.owner) == 10
    (node,) = bench.ok(pen, pen.create("d", content("d", one)))
    assert node.size_bytes == 10
    check_invariants(bench)


def test_whoever_is_over_quota_can_still_tidy_up():
    bench = Bench(quota_bytes=10)
    pen = bench.pen()
    stored = chunk("a" * 10)
    a, b = bench.ok(
        pen, pen.create("a", content("a", stored)), pen.create("b", content("b")), stored=[stored]
    )
    now(bench.store.add_account(bench.owner, quota_bytes=5))
    bench.ok(
        pen,
        move(pen, a, place("c")),
        modify(pen, b, content("d", stored)),
        pen.create("e", content("empty")),
        delete(pen, a, place_rev=2),
    )
    more = chunk("x")
    (refused,) = bench.results(pen, pen.create("f", content("f", more)), stored=[more])
    assert refused.facts == {"bytes": 1, "room_bytes": -5}


def test_the_reservation_of_the_upload_is_credit():
    bench = Bench(quota_bytes=10)
    pen = bench.pen()
    stored = chunk("a" * 10)
    now(reserve(bench, 10))
    (refused,) = bench.results(pen, pen.create("a", content("a", stored)), stored=[stored])
    assert refused.code == Code.QUOTA_EXCEEDED
    decision = bench.send(pen, pen.create("a", content("a", stored)), credit_bytes=10)
    assert codes(decision.answer.results) == ["ok"]
    assert decision.uses_upload
    assert not bench.send(pen, pen.mkdir("b")).uses_upload


async def reserve(bench, size_bytes):
    from tests.contracts.store_contract import Home, House, upload

    home = Home(House(bench.store, bench.store, bench.clock, None), bench.pen(), bench.address)
    async with bench.store.turn(bench.address) as turn:
        assert await turn.put_upload(upload(home, reserved_bytes=size_bytes), size_bytes)


def test_chunks_of_a_refused_change_are_known_for_a_day(bench):
    pen = bench.pen()
    stored = chunk("text")
    change = pen.create("a", content("a", stored), fresh_id("node"))
    decision = bench.send(pen, change, stored=[stored])
    assert not decision.batch.rows
    assert decision.batch.proof is None
    bench.clock.ms += limits.LEASE_S * 1000 - 1
    bench.ok(pen, pen.create("a", content("a", stored)))


def replace_refs(what, refs):
    fields = {name: getattr(what, name) for name in what.__struct_fields__}
    return type(what)(**{**fields, "refs": tuple(refs)})


# -- the form -----------------------------------------------------------------------------------

FILE = {"type": NodeType.FILE}
DIRECTORY = {"type": NodeType.DIRECTORY}
HERE = {"place": place("a")}
TEXT = {"content": content("a")}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChangeKind.CREATE, TEXT),
        (ChangeKind.CREATE, HERE),
        (ChangeKind.CREATE, {**HERE, **TEXT, "version": fresh_id()}),
        (ChangeKind.CREATE, {**HERE, **TEXT, **DIRECTORY}),
        (ChangeKind.CREATE, {**HERE, **TEXT, "base": ((b"d" * 16, 1),)}),
        (ChangeKind.CREATE, {**HERE, **TEXT, "place_rev": 1}),
        (ChangeKind.CREATE, {**HERE, **TEXT, "type": NodeType.SYMLINK}),
        (ChangeKind.CREATE, {**HERE, **TEXT, "node": ROOT}),
        (ChangeKind.MODIFY, {}),
        (ChangeKind.MODIFY, {**HERE, **TEXT}),
        (ChangeKind.MODIFY, DIRECTORY),
        (ChangeKind.MODIFY, {**DIRECTORY, **TEXT}),
        (ChangeKind.MODIFY, {**TEXT, "base": ((b"d" * 16, 1), (b"c" * 16, 1))}),
        (ChangeKind.MODIFY, {**TEXT, "copy_of": fresh_id()}),
        (ChangeKind.MOVE, {}),
        (ChangeKind.MOVE, {**HERE, **TEXT}),
        (ChangeKind.DELETE, HERE),
        (ChangeKind.DELETE, TEXT),
        (ChangeKind.DELETE, {"version": fresh_id()}),
        (ChangeKind.RESTORE, {}),
        (ChangeKind.RESTORE, {**HERE, **DIRECTORY, **TEXT}),
        (ChangeKind.SET_HEAD, {}),
        (ChangeKind.SET_HEAD, {**TEXT, "version": fresh_id()}),
        (ChangeKind.SET_HEAD, {**DIRECTORY, "version": fresh_id()}),
    ],
)
def test_a_change_carries_what_its_kind_says(bench, kind, fields):
    pen = bench.pen()
    node = fields.get("node") or fresh_id("node")
    more = {name: value for name, value in fields.items() if name != "node"}
    assert refusal(bench, pen, pen.mkdir("x"), pen.change(kind, node, **more)) == Code.BAD_REQUEST


def test_what_is_no_change_and_what_is_no_header_are_bad_requests(bench):
    pen = bench.pen()
    command = pen.commit(pen.mkdir("a"))
    for bad in (
        {"changes": (b"\xc1",)},
        {"changes": (encode(pen.mkdir("a"))[:-3],)},
        {"header": b"\xc1"},
        {"space": fresh_id("space")},
        {"device": fresh_id("device")},
        {"changes": command.changes * 2},
    ):
        with pytest.raises(Refusal) as caught:
            bench.decide(struct_replace(command, **bad))
        assert caught.value.fault.code == Code.BAD_REQUEST, bad
    assert refusal(bench, pen, format=2) == Code.BAD_REQUEST
    assert refusal(bench, pen, answered=pen.op + 1) == Code.BAD_REQUEST


def test_the_header_signs_these_changes_and_no_others(bench):
    pen = bench.pen()
    assert refusal(bench, pen, root=journal.leaf(b"others")) == Code.BAD_SIGNATURE
    command = pen.commit(pen.mkdir("a"))
    with pytest.raises(Refusal) as caught:
        bench.decide(struct_replace(command, changes=(encode(pen.mkdir("b")),)))
    assert caught.value.fault.code == Code.BAD_SIGNATURE


def struct_replace(message, **more):
    fields = {name: getattr(message, name) for name in message.__struct_fields__}
    return type(message)(**{**fields, **more})


def test_what_a_commit_has_to_know_is_gathered_beforehand(bench):
    from actors.core.commit import read

    pen = bench.pen()
    part = chunk("part")
    page = chunk("page", (ref(part),))
    top = pen.mkdir("top")
    what = content("a", page, paged=True)
    file = pen.create("a", what, top.node, copy_of=fresh_id("version"))
    gone = pen.change(ChangeKind.DELETE, fresh_id(), type=NodeType.DIRECTORY)
    chosen = pen.change(ChangeKind.SET_HEAD, fresh_id(), version=fresh_id("version"))
    commit = read(pen.commit(top, file, gone, chosen, stored=(page,)))
    assert wanted(commit) == Wanted(
        nodes=frozenset({top.node, file.node, gone.node, chosen.node}),
        tokens=frozenset({(ROOT, token("top")), (top.node, token("a"))}),
        emptied=frozenset({gone.node}),
        versions=frozenset({what.version, file.copy_of, chosen.version}),
        chunks=frozenset({page.address, part.address}),
        dots=frozenset({1, 2, 3, 4}),
    )


def test_the_proof_of_a_commit_goes_with_its_rows(bench):
    pen = bench.pen()
    command = pen.commit(pen.mkdir("a"), pen.mkdir("b"))
    proof = bench.decide(command).batch.proof
    assert (proof.header, proof.signature) == (command.header, command.signature)
    assert proof.leaves == b"".join(journal.leaf(raw) for raw in command.changes)
    assert (proof.device, proof.op) == (pen.device, pen.op)
    assert proof.commit == journal.commit_hash(command.header, command.signature)


def test_a_deep_view_that_loops_is_a_broken_store(bench):
    """Two directories that are each other's parent can only come from a bug or a bad disk."""
    from actors.core.admission import admit, read
    from actors.core.tree_rules import _WALK_MAX

    pen = bench.pen()
    a, b = bench.ok(pen, a := pen.mkdir("a"), pen.mkdir("b", a.node))
    commit = read(pen.commit(pen.mkdir("c", b.node)))
    view = bench.look(pen, nodes=[b.node])
    loop = {**view.nodes, a.node: replace(a, parent=b.node)}
    space = now(space_of(bench, pen))
    with pytest.raises(AssertionError, match="cycle"):
        admit(space, replace(view, nodes=loop), commit, bench.clock.ms)
    assert _WALK_MAX > limits.TREE_DEPTH_MAX


async def space_of(bench, pen):
    async with bench.store.turn(bench.address) as turn:
        return await turn.space(pen.space, pen.account)
