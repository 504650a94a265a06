"""A space on the store in memory, and commits to it, without an event loop in between."""

from actors.core.admission import Decision, admit, read, wanted
from actors.memory_store import MemoryStore
from actors.ports import Address
from actors.records import Node, Wanted
from protocol import journal
from protocol.codec import lp, sha256
from protocol.entry import ChangeKind, NodeType
from protocol.ids import ROOT
from protocol.messages import Role
from protocol.messages.sync import Accepted, Conflicted, Refused
from tests.contracts.house import Clock
from tests.contracts.pen import Pen, fresh_id

IDENTITY = bytes(32)


def now(coroutine):
    """Runs what never really waits."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("this was not supposed to wait")


class Bench:
    """One space, its owner, and as many devices as asked for."""

    def __init__(self, policy="automatic", quota_bytes=1 << 40, key_epoch=1, suspended=False):
        self.clock = Clock()
        self.store = MemoryStore(self.clock)
        self.owner, self.space = fresh_id("account"), fresh_id("space")
        self.history = fresh_id("history")
        self.genesis = journal.genesis(self.space, self.history, IDENTITY)
        self.address = Address("user-sync", self.owner.hex())
        self.key_epoch = key_epoch
        now(self.store.add_account(self.owner, quota_bytes=quota_bytes, suspended=suspended))
        now(
            self.store.add_space(
                self.space, self.owner, self.history, self.genesis, policy, key_epoch
            )
        )

    def pen(self, account: bytes | None = None, **more) -> Pen:
        """A device of `account`, by default of the owner's."""
        said = {"key_epoch": self.key_epoch, "clock_ms": self.clock.ms, **more}
        return Pen(self.space, account or self.owner, self.history, self.genesis, **said)

    def member(self, role: Role) -> Pen:
        """A device of another member."""
        account = fresh_id("account")
        now(self.store.add_member(self.space, account, role))
        return self.pen(account)

    def send(self, pen: Pen, *changes, stored=(), credit_bytes=0, **header) -> Decision:
        """Commit changes; raises Refusal."""
        return self.decide(pen.commit(*changes, stored=tuple(stored), **header), credit_bytes)

    def decide(self, command, credit_bytes=0) -> Decision:
        """Run a commit as UserSync does."""
        return now(self._decide(command, credit_bytes))

    def results(self, pen: Pen, *changes, stored=(), **header):
        """Commit changes and return what became of each."""
        return self.send(pen, *changes, stored=stored, **header).answer.results

    def ok(self, pen: Pen, *changes, stored=()):
        """Commit changes that must all be accepted, and return the nodes of the changes."""
        results = self.results(pen, *changes, stored=stored)
        assert all(isinstance(result, Accepted) for result in results), results
        nodes = self.store.nodes(self.space)
        return [nodes[change.node] for change in changes]

    def no(self, pen: Pen, change, stored=()) -> Refused:
        """Commit a change that must be refused, and leave no trace."""
        before = self.facts()
        (result,) = self.results(pen, change, stored=stored)
        assert isinstance(result, Refused), result
        assert self.facts() == before
        return result

    def conflict(self, pen: Pen, change, stored=()) -> Conflicted:
        """Commit a change that must meet another."""
        (result,) = self.results(pen, change, stored=stored)
        assert isinstance(result, Conflicted), result
        return result

    def facts(self):
        """All that a refused change must not touch."""
        return (
            self.store.head(self.space),
            self.store.nodes(self.space),
            self.store.versions(self.space),
            self.store.used_bytes(self.owner),
            now(self.store.merkle(self.space)),
        )

    def node(self, node: bytes) -> Node:
        """Return a node as it is."""
        return self.store.nodes(self.space)[node]

    def version(self, version: bytes):
        """Return a version."""
        return self.store.versions(self.space)[version]

    def rows(self):
        """Return the decoded journal."""
        return [journal.decode_row(row.raw) for row in self.store.rows(self.space)]

    def look(self, pen: Pen, **keys):
        """Ask the store."""
        return now(self._look(pen, Wanted(**{k: frozenset(v) for k, v in keys.items()})))

    async def _look(self, pen, what):
        async with self.store.turn(self.address) as turn:
            return await turn.look(self.space, pen.device, what)

    async def _decide(self, command, credit_bytes):
        commit = read(command)
        async with self.store.turn(self.address) as turn:
            space = await turn.space(command.space, command.account)
            view = await turn.look(command.space, command.device, wanted(commit))
            decision = admit(space, view, commit, turn.now_ms, credit_bytes)
            if decision.batch:
                await turn.write(decision.batch)
            await turn.forget_answers(command.device, commit.header.answered)
        return decision


def move(pen: Pen, node: Node, place, **more):
    """A move of a node as it is now."""
    said = {"type": node.type, "place": place, "place_rev": node.place_rev, **more}
    return pen.change(ChangeKind.MOVE, node.node, **said)


def delete(pen: Pen, node: Node, **more):
    """A deletion of a node as it is now."""
    said = {"type": node.type, "base": node.vector, "place_rev": node.place_rev, **more}
    return pen.change(ChangeKind.DELETE, node.node, **said)


def restore(pen: Pen, node: Node, place, **more):
    """A restore of a node as it is now."""
    said = {
        "type": node.type,
        "base": node.vector,
        "place": place,
        "place_rev": node.place_rev,
        **more,
    }
    return pen.change(ChangeKind.RESTORE, node.node, **said)


def modify(pen: Pen, node: Node, content, **more):
    """An edit of a node as it is now."""
    said = {"type": node.type, "base": node.vector, "content": content, **more}
    return pen.change(ChangeKind.MODIFY, node.node, **said)


def set_head(pen: Pen, node: Node, version: bytes, **more):
    """A choice of an earlier version."""
    said = {"type": node.type, "base": node.vector, "version": version, **more}
    return pen.change(ChangeKind.SET_HEAD, node.node, **said)


def check_invariants(bench: Bench) -> None:
    """I1, I2 in part, I6, I8, I9 and the Merkle sums, on the whole space."""
    check_tree(bench)
    check_journal(bench)
    assert bench.store.used_bytes(bench.owner) == bench.store.recount_bytes(bench.owner), "I6"
    sums: dict[int, int] = {}
    for node in bench.store.nodes(bench.space).values():
        if node.alive:
            where = int.from_bytes(node.node[:2], "big")
            sums[where] = (sums.get(where, 0) + merkle_leaf(bench, node)) % (1 << 256)
    assert now(bench.store.merkle(bench.space)) == {k: v for k, v in sums.items() if v}


def merkle_leaf(bench: Bench, node: Node) -> int:
    """SYNC.md 7, from the sealed things themselves."""
    manifest = bench.version(node.head).manifest if node.head else b""
    framed = lp(node.node, sha256(node.sealed_name), sha256(manifest))
    return int.from_bytes(sha256(framed), "big")


def check_tree(bench: Bench) -> None:
    """I1: every live node has one live parent, no cycles, tokens unique per directory."""
    nodes = bench.store.nodes(bench.space)
    live = [node for node in nodes.values() if node.alive]
    assert len({(node.parent, node.token) for node in live}) == len(live), "tokens are unique"
    for node in live:
        steps, at = 0, node
        while at.parent != ROOT:
            at = nodes[at.parent]
            assert at.alive, "the parent of a live node is alive"
            assert at.type is NodeType.DIRECTORY
            steps += 1
            assert steps < len(nodes), "no cycles"
    versions = bench.store.versions(bench.space)
    for node in nodes.values():
        if node.head:
            head = versions[node.head]
            assert (head.node, head.content_id) == (node.node, node.content_id)
        else:
            assert node.type is NodeType.DIRECTORY


def check_journal(bench: Bench) -> None:
    """I8 and I9: gap-free, chained from genesis, every row provable, no dot twice."""
    head, dots = bench.genesis, set()
    rows = bench.store.rows(bench.space)
    for seq, new in enumerate(rows, start=1):
        row = journal.decode_row(new.raw)
        head = journal.chain(head, new.raw)
        assert (new.seq, row.seq, new.hash) == (seq, seq, head)
        if row.commit:
            proof = bench.store.proof(bench.space, row.commit)
            assert journal.commit_hash(proof.header, proof.signature) == row.commit
            assert proof.leaves[32 * row.index :][:32] == journal.leaf(row.change)
            assert (new.device, new.dot) not in dots, "I9"
            dots.add((new.device, new.dot))
    assert bench.store.head(bench.space) == (bench.history, len(rows), head)
