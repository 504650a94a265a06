"""The table of SYNC.md 2, row by row; then every canopy (three related trees) must converge.

Planted bugs that `test_every_canopy_…` caught: an edit that loses to a deletion (`_gone_there`
without `_edited`); a deletion sent although theirs moved (`_gone_here` without `_moved`); a
directory removed under a new child (`keeps_there` always False); REMEMBER that takes theirs where
the two differ (`remembered` without the comparison of content ids).
"""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from client_agent.core.planner import (
    SENDS,
    TAKES,
    Step,
    base_of,
    decide,
    plan,
    remembered,
)
from client_agent.core.trees import Local, Remote, Stat, Synced
from protocol.entry import NodeType
from protocol.ids import ROOT
from protocol.vector import EMPTY, covers

NODE, FOLDER = b"n" * 16, b"f" * 16
DEVICE = b"d" * 16
STAT = Stat(1, 1, 1, 1, False)


def local(content="a", name="x", parent=ROOT, kind=NodeType.FILE, node=NODE):
    return Local(node, parent, name, kind, STAT, content.encode())


def remote(content="a", name="x", parent=ROOT, kind=NodeType.FILE, alive=True, node=NODE, n=1):
    vector = ((DEVICE, n),) if content else EMPTY
    return Remote(
        node, parent, name, kind, 1, alive, content.encode(), content.encode(), vector
    )


def synced(content="a", name="x", parent=ROOT, kind=NodeType.FILE, node=NODE, n=1):
    vector = ((DEVICE, n),) if content else EMPTY
    return Synced(node, parent, name, kind, content.encode(), content.encode(), vector)


def folder(row, **changes):
    return row(content="", kind=NodeType.DIRECTORY, **changes)


# ------------------------------------------------------------------ the table, row by row


def test_same_and_same_does_nothing():
    assert decide(local(), remote(), synced()) == ()
    assert decide(folder(local), folder(remote), folder(synced)) == ()
    assert decide(None, None, None) == ()
    assert decide(None, remote(alive=False), None) == ()


def test_ours_changed_is_sent():
    assert decide(local("b"), remote(), synced()) == (Step.MODIFY,)
    assert decide(local(name="y"), remote(), synced()) == (Step.MOVE,)
    assert decide(local("b", "y"), remote(), synced()) == (Step.MODIFY, Step.MOVE)
    assert decide(None, remote(), synced()) == (Step.DELETE,)
    assert decide(local(), None, None) == (Step.CREATE,)
    assert decide(local(), None, synced()) == (Step.CREATE,)


def test_theirs_changed_is_taken():
    assert decide(local(), remote("b"), synced()) == (Step.PUT,)
    assert decide(local(), remote(name="y"), synced()) == (Step.SHIFT,)
    assert decide(local(), remote("b", "y"), synced()) == (Step.PUT, Step.SHIFT)
    assert decide(local(), remote(alive=False), synced()) == (Step.REMOVE,)
    assert decide(None, remote(), None) == (Step.MAKE,)


def test_both_changed_and_now_equal_is_remembered():
    assert decide(local("b"), remote("b"), synced()) == (Step.REMEMBER,)
    assert decide(local(name="y"), remote(name="y"), synced()) == (Step.REMEMBER,)
    assert decide(local(), remote(), None) == (Step.REMEMBER,)
    assert decide(local(), remote(n=2), synced()) == (Step.REMEMBER,), "vectors joined"


def test_both_deleted_is_forgotten():
    assert decide(None, remote(alive=False), synced()) == (Step.FORGET,)
    assert decide(None, None, synced()) == (Step.FORGET,)


def test_deleted_here_but_edited_or_moved_there_comes_back():
    assert decide(None, remote("b"), synced()) == (Step.MAKE,)
    assert decide(None, remote(name="y"), synced()) == (Step.MAKE,)


def test_a_folder_deleted_here_with_something_new_there_comes_back():
    assert decide(None, folder(remote), folder(synced)) == (Step.DELETE,)
    assert decide(None, folder(remote), folder(synced), kept=True) == (Step.MAKE,)


def test_edited_or_moved_here_but_deleted_there_is_restored():
    gone = remote(alive=False)
    assert decide(local("b"), gone, synced()) == (Step.RESTORE,)
    assert decide(local(name="y"), gone, synced()) == (Step.RESTORE,)
    assert decide(local(), gone, None) == (Step.RESTORE,)
    kept = decide(folder(local), folder(remote, alive=False), folder(synced), kept=True)
    assert kept == (Step.RESTORE,)


def test_content_changed_on_both_sides_is_sent_and_the_server_finds_the_conflict():
    assert decide(local("b"), remote("c", n=2), synced()) == (Step.MODIFY,)
    assert base_of(remote("c", n=2), synced()) == ((DEVICE, 1),)
    assert base_of(remote("a", n=2), synced()) == ((DEVICE, 2),), "a join of vectors is no news"
    assert base_of(remote(), None) == EMPTY


def test_moved_here_and_edited_there_both_apply():
    assert decide(local(name="y"), remote("b"), synced()) == (Step.PUT, Step.MOVE)
    assert decide(local("b"), remote(name="y"), synced()) == (Step.MODIFY, Step.SHIFT)


def test_moved_on_both_sides_the_first_commit_wins():
    assert decide(local(name="y"), remote(name="z"), synced()) == (Step.SHIFT,)
    assert decide(local(name="y"), remote(name="z"), None) == (Step.REMEMBER, Step.SHIFT)


def test_a_move_that_made_a_cycle_is_undone():
    ours = folder(local, name="y")
    assert decide(ours, folder(remote), folder(synced), yielded=True) == (Step.SHIFT,)


def test_unknown_content_is_read_first():
    assert decide(local(""), remote(), synced()) == (Step.READ,)
    assert decide(local("", name="y"), remote(), synced()) == (Step.READ, Step.MOVE)
    assert decide(local(""), remote(alive=False), synced()) == (Step.READ,)
    assert decide(local(""), None, None) == (Step.READ,)


# ------------------------------------------------------------------ canopies

CONTENT = st.sampled_from("abc")
FOLDERS = [bytes([i]) * 16 for i in (1, 2, 3)]
FILES = [bytes([i]) * 16 for i in (11, 12, 13, 14)]


@st.composite
def canopies(draw):
    """Trees that overlap: folders stay at the root or in an earlier one, so nothing is a cycle."""
    ours, theirs, base = {}, {}, {}
    for index, node in enumerate(FOLDERS + FILES):
        is_folder = node in FOLDERS
        places = [ROOT, *FOLDERS[: index if is_folder else 3]]
        facet = st.none() | st.tuples(
            st.sampled_from(places), st.just("") if is_folder else CONTENT
        )
        kind = NodeType.DIRECTORY if is_folder else NodeType.FILE
        mine, other, old = draw(facet), draw(facet), draw(facet)
        name = node.hex()[:2]
        if mine and (mine[0] == ROOT or mine[0] in ours):
            ours[node] = local(mine[1], name, mine[0], kind, node)
        if other and (other[0] == ROOT or (other[0] in theirs and theirs[other[0]].alive)):
            theirs[node] = remote(other[1], name, other[0], kind, True, node, n=2)
        elif draw(st.booleans()):
            theirs[node] = remote("z" if not is_folder else "", name, ROOT, kind, False, node)
        if old:
            base[node] = synced(old[1], name, old[0], kind, node)
    return ours, theirs, base


def pretend(node, steps, ours, theirs, base, known):
    """Do all steps of a node, as if nothing ever failed."""
    mine, other = ours.get(node), theirs.get(node)
    if Step.FORGET in steps:
        del base[node]
    if Step.REMEMBER in steps:
        base[node] = remembered(mine, other, base.get(node))
    if Step.CREATE in steps or Step.RESTORE in steps:
        theirs[node] = remote(
            mine.content_id.decode(), mine.name, mine.parent, mine.type, True, node, n=9
        )
    if Step.MODIFY in steps:
        if covers(base_of(other, base.get(node)), other.vector):
            assert other.content_id in known[node], "a lost update"
        content = mine.content_id
        other = theirs[node] = replace(other, content_id=content, version=content, vector=())
    if Step.MOVE in steps:
        other = theirs[node] = replace(other, parent=mine.parent, name=mine.name)
    if Step.DELETE in steps:
        theirs[node] = replace(other, alive=False)
    if Step.MAKE in steps or Step.PUT in steps:
        known[node].add(other.content_id)
    if Step.MAKE in steps:
        ours[node] = local(
            other.content_id.decode(), other.name, other.parent, other.type, node
        )
    if Step.PUT in steps:
        mine = ours[node] = replace(mine, content_id=other.content_id)
    if Step.SHIFT in steps:
        ours[node] = replace(mine, parent=other.parent, name=other.name)
    if Step.REMOVE in steps:
        del ours[node]


def possible(node, steps, ours, theirs):
    """Say whether the parents are there that the steps need, and nothing is left below."""
    if {Step.CREATE, Step.RESTORE, Step.MOVE} & set(steps):
        parent = ours[node].parent
        if parent != ROOT and not (parent in theirs and theirs[parent].alive):
            return False
    if {Step.MAKE, Step.SHIFT} & set(steps):
        parent = theirs[node].parent
        if parent != ROOT and parent not in ours:
            return False
    if Step.REMOVE in steps:
        return all(row.parent != node for row in ours.values())
    if Step.DELETE in steps:
        return all(row.parent != node or not row.alive for row in theirs.values())
    return True


@given(canopies(), st.randoms())
def test_every_canopy_converges_and_no_edit_is_lost(canopy, random):
    ours, theirs, base = canopy
    wanted = {
        (node, row.content_id)
        for tree in (ours, theirs)
        for node, row in tree.items()
        if row.content_id
        and getattr(row, "alive", True)
        and (node not in base or base[node].content_id != row.content_id)
    }
    seen = set()
    known = {node: {base[node].content_id} if node in base else set() for node in FOLDERS + FILES}
    for _ in range(30):
        steps = list(plan(ours, theirs, base).items())
        if not steps:
            break
        random.shuffle(steps)
        for node, _ in steps:
            now = plan(ours, theirs, base).get(node, ())
            if now and possible(node, now, ours, theirs):
                for tree in (ours, theirs):  # the server keeps what it was sent, as a version
                    if node in tree and getattr(tree[node], "alive", True):
                        seen.add((node, tree[node].content_id))
                pretend(node, now, ours, theirs, base, known)
    assert plan(ours, theirs, base) == {}
    live = {node: row for node, row in theirs.items() if row.alive}
    assert ours.keys() == live.keys() == base.keys()
    for node, row in ours.items():
        assert (row.parent, row.content_id) == (live[node].parent, live[node].content_id)
        assert base[node].content_id == row.content_id
        assert row.parent == ROOT or row.parent in ours
    kept = {(node, row.content_id) for node, row in ours.items()}
    assert wanted <= kept | seen
    assert {node for node, _ in wanted} <= ours.keys(), "an edit or something new was deleted"


def test_sends_and_takes_are_apart():
    assert not SENDS & TAKES
