"""The Store in one process: turns with real transactions, for tests and the simulator.

Same contract as PostgreSQL's (tests/contracts/store_contract.py), but nothing survives the
process. It has no clock and no dice of its own: the same calls give the same rows.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from actors.core.merkle import MODULUS
from actors.memory_tables import AccountRow, ChunkRow, Layer, SpaceRow, Tables
from actors.ports import Address, Outgoing, Overtaken
from actors.records import (
    Batch,
    Chunk,
    Conflict,
    Held,
    NewRow,
    Node,
    Proof,
    Space,
    StoredAnswer,
    Upload,
    Version,
    View,
    Wanted,
)
from actors.turn import Nudged, Told, Words
from protocol import limits
from protocol.ids import ROOT
from protocol.journal import op_id
from protocol.messages import Role


class Speaks(Protocol):
    """Sends what a committed turn has to say (actors.outbox.Speaker)."""

    def say(
        self,
        rows: Sequence[Outgoing],
        nudges: Sequence[Nudged],
        delivered: Callable[[Sequence[int]], Any],
        next_due_ms: int | None = None,
    ) -> None:
        """Return at once, never raise."""


@dataclass(slots=True)
class _OutboxRow:
    told: Told
    written_ms: int  # or claimed by a relay


class MemoryStore:
    """See Store. `speaker` None: nothing is sent, messages stay in the outbox for a relay."""

    def __init__(self, now_ms: Callable[[], int], speaker: Speaks | None = None) -> None:
        """`now_ms` is the one clock; `speaker` may be set later."""
        self.speaker = speaker
        self._now_ms = now_ms
        self._tables = Tables()
        self._outbox: dict[int, _OutboxRow] = {}
        self._last_row = 0
        self._locks: dict[tuple[str, bytes], asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, address: Address) -> AsyncIterator["MemoryTurn"]:
        """See Store."""
        turn = MemoryTurn(self._tables, self._lock, address, self._now_ms())
        try:
            yield turn
            told = turn.commit()
        finally:
            turn.release()
        self._speak(told, turn.nudges)

    async def outgoing(self, limit: int, older_than_ms: int) -> list[Outgoing]:
        """See Store. A claimed row comes again when it is not delivered within `older_than_ms`."""
        now_ms = self._now_ms()
        found = [
            row
            for row, kept in self._outbox.items()
            if kept.told.due_ms <= now_ms and kept.written_ms + older_than_ms <= now_ms
        ][:limit]
        for row in found:
            self._outbox[row].written_ms = now_ms
        return [self._outbox[row].told.outgoing(row) for row in found]

    async def delivered(self, ids: Sequence[int]) -> None:
        """See Store."""
        for row in ids:
            self._outbox.pop(row, None)

    def _lock(self, kind: str, key: bytes) -> asyncio.Lock:
        return self._locks.setdefault((kind, key), asyncio.Lock())

    def _speak(self, told: list[Told], nudges: list[Nudged]) -> None:
        now_ms = self._now_ms()
        rows = []
        for one in told:
            self._last_row += 1
            self._outbox[self._last_row] = _OutboxRow(one, now_ms)
            if one.due_ms <= now_ms:
                rows.append(one.outgoing(self._last_row))
        if self.speaker and (told or nudges):
            later = [one.due_ms for one in told if one.due_ms > now_ms]
            self.speaker.say(rows, nudges, self.delivered, min(later, default=None))

    # -- what the gateway does beside the actors ------------------------------------------------

    async def add_account(
        self, account: bytes, quota_bytes: int = 1 << 40, suspended: bool = False
    ) -> None:
        """Insert or replace an account."""
        self._tables.accounts[account] = AccountRow(quota_bytes, suspended)

    async def add_space(
        self,
        space: bytes,
        owner: bytes,
        history: bytes,
        head: bytes,
        policy: str = "automatic",
        key_epoch: int = 1,
    ) -> None:
        """Insert or replace a space whose journal is empty; its owner becomes a member."""
        self._tables.spaces[space] = SpaceRow(
            owner, history, head, policy=policy, key_epoch=key_epoch
        )
        await self.add_member(space, owner, Role.OWNER)

    async def add_member(self, space: bytes, account: bytes, role: Role) -> None:
        """Insert or replace a membership."""
        self._tables.members[space, account] = role

    async def lease(self, space: bytes, chunks: Iterable[Chunk]) -> None:
        """Note that the space holds these chunks for `limits.LEASE_S` from now on."""
        turn = MemoryTurn(self._tables, self._lock, Address("gateway", ""), self._now_ms())
        turn.lease(space, chunks, self._now_ms())
        turn.commit()

    # -- reading --------------------------------------------------------------------------------

    def head(self, space: bytes) -> tuple[bytes, int, bytes]:
        """Return (history, head_seq, head)."""
        row = self._tables.spaces[space]
        return row.history, row.head_seq, row.head

    def rows(self, space: bytes, after: int = 0, limit: int | None = None) -> list[NewRow]:
        """Return the journal after `after`, in order."""
        end = self._tables.spaces[space].head_seq
        if limit is not None:
            end = min(end, after + limit)
        return [self._tables.rows[space, seq] for seq in range(after + 1, end + 1)]

    def proof(self, space: bytes, commit: bytes) -> Proof:
        """Return the commit behind rows."""
        return self._tables.proofs[space, commit]

    def nodes(self, space: bytes) -> dict[bytes, Node]:
        """Return all nodes of a space, the dead included."""
        return {key[1]: node for key, node in self._tables.nodes.items() if key[0] == space}

    def versions(self, space: bytes) -> dict[bytes, Version]:
        """Return all versions of a space."""
        return {key[1]: row for key, row in self._tables.versions.items() if key[0] == space}

    async def merkle(self, space: bytes) -> dict[int, int]:
        """Return bucket -> sum, those that are 0 left out."""
        sums = self._tables.merkle.items()
        return {key[1]: amount for key, amount in sums if key[0] == space and amount}

    def used_bytes(self, owner: bytes) -> int:
        """Return the owner's counter."""
        return self._tables.used.get(owner, 0)

    def recount_bytes(self, owner: bytes) -> int:
        """Return what the counter has to be: what is referenced and what is reserved (I6)."""
        tables = self._tables
        referenced = sum(
            tables.chunks[key].chunk.size_bytes
            for key, count in tables.refs.items()
            if count and tables.spaces[key[0]].owner == owner
        )
        uploads = (one for one in tables.uploads.values() if one.owner == owner)
        return referenced + sum(one.reserved_bytes for one in uploads)


class MemoryTurn(Words):
    """See Turn. Locks are taken in the order space, upload, owner, and held to the end."""

    def __init__(
        self,
        tables: Tables,
        lock: Callable[[str, bytes], asyncio.Lock],
        address: Address,
        now_ms: int,
    ) -> None:
        """Begin a turn at `now_ms`."""
        super().__init__(address, now_ms)
        self._tables, self._layer, self._lock = tables, Layer(), lock
        self._locked: dict[tuple[str, bytes], asyncio.Lock] = {}
        self._used: dict[bytes, int] = {}  # owner -> what this turn adds
        self._forgotten: list[tuple[bytes, bytes]] = []  # ranges of inbox ids, ends included

    async def answered(self, message_id: bytes) -> StoredAnswer | None:
        """See Turn."""
        for known, stored in self.answers:
            if known == message_id:
                return stored
        if any(first <= message_id <= last for first, last in self._forgotten):
            return None
        return self._tables.inbox.get(self.address, {}).get(message_id)

    def answer(self, message_id: bytes, stored: StoredAnswer) -> None:
        """See Turn."""
        if message_id in self._tables.inbox.get(self.address, {}):
            raise Overtaken("answered already")
        super().answer(message_id, stored)

    async def forget_answers(self, device: bytes, upto_op: int) -> None:
        """See Turn."""
        self._forgotten.append((op_id(device, 0), op_id(device, upto_op)))
        self._put("answered_ops", (self.address, device), max(upto_op, self._answered_op(device)))

    async def space(self, space: bytes, account: bytes) -> Space | None:
        """See Turn."""
        if space not in self._tables.spaces:
            return None
        await self._hold("space", space)
        row: SpaceRow = self._get("spaces", space)
        owner = self._tables.accounts[row.owner]
        return Space(
            space=space,
            owner=row.owner,
            history=row.history,
            key_epoch=row.key_epoch,
            head_seq=row.head_seq,
            head=row.head,
            policy=row.policy,
            role=self._get("members", (space, account)),
            suspended=owner.suspended,
            quota_bytes=owner.quota_bytes,
            used_bytes=self._used_bytes(row.owner),
        )

    async def look(self, space: bytes, device: bytes, wanted: Wanted) -> View:
        """See Turn."""
        holders = {}
        for parent, token in wanted.tokens:
            holder = self._get("holders", (space, parent, token))
            if holder:
                holders[parent, token] = holder
        versions = ((v, self._get("versions", (space, v))) for v in wanted.versions)
        seqs = ((dot, self._get("dots", (space, device, dot))) for dot in wanted.dots)
        held, missing = self._held(space, wanted.chunks)
        return View(
            nodes=self._with_ancestors(space, [*wanted.nodes, *holders.values()]),
            holders=holders,
            children={
                node: self._get("children", (space, node)) or frozenset() for node in wanted.emptied
            },
            versions={version: row for version, row in versions if row},
            missing=frozenset(missing),
            dots={dot: self._get("rows", (space, seq)).raw for dot, seq in seqs if seq},
            held=held,
            answered_op=self._answered_op(device),
        )

    async def write(self, batch: Batch) -> None:
        """See Turn."""
        await self._hold("space", batch.space)
        row: SpaceRow = self._get("spaces", batch.space)
        if row.head_seq != batch.prev_seq:
            raise Overtaken(f"head is {row.head_seq}, not {batch.prev_seq}")
        space = batch.space
        self._put("spaces", space, replace(row, head_seq=batch.head_seq, head=batch.head))
        self.lease(space, batch.chunks, batch.at_ms)
        for new in batch.rows:
            self._put("rows", (space, new.seq), new)
            if new.dot:
                self._put("dots", (space, new.device, new.dot), new.seq)
        if batch.proof:
            self._put("proofs", (space, batch.proof.commit), batch.proof)
        self._put_nodes(space, batch.nodes)
        for version in batch.versions:
            self._put("versions", (space, version.version), version)
            for address in self._closure(space, version):
                count = self._get("refs", (space, address)) or 0
                self._put("refs", (space, address), count + 1)
        for bucket, amount in batch.merkle.items():
            before = self._get("merkle", (space, bucket)) or 0
            self._put("merkle", (space, bucket), (before + amount) % MODULUS)
        self._add_used(batch.owner, batch.used_delta_bytes)

    async def missing(self, space: bytes, addresses: Iterable[bytes]) -> frozenset[bytes]:
        """See Turn."""
        return frozenset(one for one in addresses if self._held_chunk(space, one) is None)

    async def upload(self, upload: bytes) -> Upload | None:
        """See Turn."""
        await self._hold("upload", upload)
        row: Upload | None = self._get("uploads", upload)
        return row

    async def put_upload(self, upload: Upload, reserve_delta_bytes: int) -> bool:
        """See Turn."""
        await self._hold("owner", upload.owner)
        used_bytes = self._used_bytes(upload.owner) + reserve_delta_bytes
        quota_bytes = self._tables.accounts[upload.owner].quota_bytes
        if reserve_delta_bytes > 0 and used_bytes > quota_bytes:
            return False
        self._put("uploads", upload.upload, upload)
        self._add_used(upload.owner, reserve_delta_bytes)
        return True

    async def conflicts(self, space: bytes, node: bytes) -> list[Conflict]:
        """See Turn."""
        records = [self._get("conflicts", one) for one in self._unresolved(space)]
        found = [record for record in records if record.node == node]
        return sorted(found, key=lambda record: (record.seq, record.conflict))

    async def conflict(self, conflict: bytes) -> Conflict | None:
        """See Turn."""
        row: Conflict | None = self._get("conflicts", conflict)
        return row

    async def put_conflict(self, conflict: Conflict) -> None:
        """See Turn."""
        space, node = conflict.space, conflict.node
        await self._hold("space", space)
        self._put("conflicts", conflict.conflict, conflict)
        unresolved = self._unresolved(space) - {conflict.conflict}
        if conflict.state != "resolved":
            unresolved |= {conflict.conflict}
        self._put("unresolved", space, unresolved)
        row: Node | None = self._get("nodes", (space, node))
        if row:
            conflicted = bool(await self.conflicts(space, node))
            self._put("nodes", (space, node), replace(row, conflicted=conflicted))

    async def open_conflicts(self, space: bytes) -> int:
        """See Turn."""
        return len(self._unresolved(space))

    # -- the end of the turn ----------------------------------------------------------------------

    def commit(self) -> list[Told]:
        """Make everything real at once; return what to send. Raises Overtaken, then nothing is."""
        told = self.outbox()
        inbox = self._tables.inbox.setdefault(self.address, {})
        if any(message_id in inbox for message_id, _ in self.answers):
            raise Overtaken("answered already")
        self._layer.pour()
        for owner, amount in self._used.items():
            self._tables.used[owner] = self._tables.used.get(owner, 0) + amount
        for first, last in self._forgotten:
            for message_id in [one for one in inbox if first <= one <= last]:
                del inbox[message_id]
        inbox.update(self.answers)
        return told

    def release(self) -> None:
        """Let the locks go."""
        for lock in self._locked.values():
            lock.release()
        self._locked.clear()

    def lease(self, space: bytes, chunks: Iterable[Chunk], from_ms: int) -> None:
        """Know chunks for a while. What the space holds already keeps its declared list."""
        until_ms = from_ms + limits.LEASE_S * 1000
        for chunk in chunks:
            held = self._held_chunk(space, chunk.address)
            kept = Chunk(chunk.address, held.size_bytes, held.refs) if held else chunk
            self._put("chunks", (space, chunk.address), ChunkRow(kept, until_ms))

    # -- helpers ----------------------------------------------------------------------------------

    def _get(self, table: str, key: Any) -> Any:
        return self._layer.get(getattr(self._tables, table), key)

    def _put(self, table: str, key: Any, row: Any) -> None:
        self._layer.put(getattr(self._tables, table), key, row)

    async def _hold(self, kind: str, key: bytes) -> None:
        if (kind, key) not in self._locked:
            lock = self._lock(kind, key)
            await lock.acquire()
            self._locked[kind, key] = lock

    def _used_bytes(self, owner: bytes) -> int:
        return self._tables.used.get(owner, 0) + self._used.get(owner, 0)

    def _add_used(self, owner: bytes, amount: int) -> None:
        self._used[owner] = self._used.get(owner, 0) + amount

    def _answered_op(self, device: bytes) -> int:
        return self._get("answered_ops", (self.address, device)) or 0

    def _unresolved(self, space: bytes) -> frozenset[bytes]:
        return self._get("unresolved", space) or frozenset()

    def _with_ancestors(self, space: bytes, nodes: Iterable[bytes]) -> dict[bytes, Node]:
        found: dict[bytes, Node] = {}
        for node in nodes:
            while node != ROOT and node not in found:
                row: Node | None = self._get("nodes", (space, node))
                if row is None:
                    break
                found[node] = row
                node = row.parent
        return found

    def _held_chunk(self, space: bytes, address: bytes) -> Held | None:
        row: ChunkRow | None = self._get("chunks", (space, address))
        referenced = bool(self._get("refs", (space, address)))
        if row is None or not (referenced or row.leased_ms > self.now_ms):
            return None
        return Held(row.chunk.size_bytes, referenced, row.chunk.refs)

    def _held(
        self, space: bytes, addresses: Iterable[bytes]
    ) -> tuple[dict[bytes, Held], set[bytes]]:
        held: dict[bytes, Held] = {}
        missing: set[bytes] = set()
        waiting = list(addresses)
        while waiting:
            address = waiting.pop()
            chunk = self._held_chunk(space, address)
            if chunk is None:
                missing.add(address)
            elif address not in held:
                held[address] = chunk
                waiting += [ref.address for ref in chunk.refs]
        return held, missing

    def _closure(self, space: bytes, version: Version) -> set[bytes]:
        """Return what a version refers to: its refs, and what the pages among them list."""
        refs = {ref.address for ref in version.refs}
        rows = [self._get("chunks", (space, address)) for address in refs]
        return refs | {ref.address for row in rows if row for ref in row.chunk.refs}

    def _put_nodes(self, space: bytes, nodes: Sequence[Node]) -> None:
        """Replace node rows, and the indexes over the live ones. First out, then in: swaps."""
        children: dict[bytes, tuple[set[bytes], set[bytes]]] = {}
        for node in nodes:
            before: Node | None = self._get("nodes", (space, node.node))
            if before and before.alive:
                self._put("holders", (space, before.parent, before.token), None)
                children.setdefault(before.parent, (set(), set()))[0].add(node.node)
        for node in nodes:
            self._put("nodes", (space, node.node), node)
            if node.alive:
                assert not self._get("holders", (space, node.parent, node.token)), "name taken"
                self._put("holders", (space, node.parent, node.token), node.node)
                children.setdefault(node.parent, (set(), set()))[1].add(node.node)
        for parent, (out, into) in children.items():
            before_ids = self._get("children", (space, parent)) or frozenset()
            self._put("children", (space, parent), (before_ids - out) | into)
