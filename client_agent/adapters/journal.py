"""Running Commit and Pull: what this device sends to the journal, and what it reads there."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from client_agent.adapters.account import Identity
from client_agent.adapters.devices import DeviceBook
from client_agent.adapters.drafts import Draft, Drafts
from client_agent.adapters.ingest import FRAMING_BYTES, packs
from client_agent.adapters.opening import authors, open_rows
from client_agent.adapters.sealing import Unsealed, seal_commit
from client_agent.adapters.server import Offline, Server, ServerFault
from client_agent.adapters.state import Pending, State
from client_agent.core.events import (
    ChangeResult,
    Commit,
    CommitFailed,
    Committed,
    Event,
    Pull,
    Pulled,
    PullFailed,
    ResultAccepted,
    ResultConflicted,
    ResultRefused,
)
from client_agent.core.trees import Cursor
from client_agent.crypto.commits import RowBroken
from client_agent.crypto.devices import DeviceListBroken
from protocol import limits
from protocol.faults import MEANINGS, Code
from protocol.journal import CommitProof, leaf
from protocol.messages import sync
from protocol.messages.feed import Advanced
from protocol.messages.sync import CommitRequest, PackItem

INLINE_BYTES_MAX: Final = limits.PACK_BYTES_MAX - 64 * FRAMING_BYTES

log = structlog.get_logger()
Emit = Callable[[Event], None]


class Journal:
    """One space's journal, as this device writes and reads it."""

    def __init__(
        self, me: Identity, state: State, server: Server, drafts: Drafts, book: DeviceBook
    ) -> None:
        """Know nothing yet."""
        self._me, self._state, self._server = me, state, server
        self._drafts, self._book = drafts, book
        # Of the commit under way: its drafts, which a repeat needs again.
        self._carried: tuple[int, dict[bytes, Draft]] = (0, {})
        self.tip: Cursor | None = None  # the newest row that was verified in this run

    # ------------------------------------------------------------ commit

    async def commit(self, effect: Commit, emit: Emit) -> None:
        """Run a Commit. The same op is sent again byte for byte."""
        try:
            pending = await asyncio.to_thread(self._state.pending, effect.op)
            drafts = self._collect(effect)
            if pending is None:
                pending = await asyncio.to_thread(
                    seal_commit, effect, self._me, self._state, drafts
                )
                await self._state.put_pending(pending)
            inline = await self._inline(drafts)
            answer = await self._server.commit(
                CommitRequest(
                    header=pending.header, signature=pending.signature, changes=pending.changes,
                    inline=inline, upload=pending.upload,
                )
            )
        except Unsealed as error:
            emit(CommitFailed(effect.op, Code.CHUNKS_MISSING, retry=False, unread=error.nodes))
        except Offline as error:
            log.info("commit unanswered", op=effect.op, error=str(error))
            emit(CommitFailed(effect.op, "offline", retry=True))
        except ServerFault as error:
            emit(await self._failed(effect, error))
        else:
            await self._answered(effect, pending, answer, drafts, emit)

    def _collect(self, effect: Commit) -> dict[bytes, Draft]:
        op, drafts = self._carried
        if op != effect.op:
            found = {
                spec.version: self._drafts.get(spec.version)
                for spec in effect.changes
                if spec.version is not None
            }
            drafts = {version: draft for version, draft in found.items() if draft is not None}
            self._carried = (effect.op, drafts)
        return drafts

    async def _inline(self, drafts: dict[bytes, Draft]) -> tuple[PackItem, ...]:
        """Return the chunks that travel inside the commit; what is too much goes before it."""
        blobs = {item.blob: item for draft in drafts.values() for item in draft.blobs}
        inline: list[PackItem] = []
        ahead: list[PackItem] = []
        size = 0
        for item in blobs.values():
            size += len(item.blob) + FRAMING_BYTES
            fits = size <= INLINE_BYTES_MAX and len(inline) < limits.PACK_CHUNKS_MAX
            (inline if fits else ahead).append(item)
        for pack in packs(ahead):
            await self._server.put_pack(self._me.space, pack)
        return tuple(inline)

    async def _failed(self, effect: Commit, error: ServerFault) -> CommitFailed:
        fault = error.fault
        log.warning(
            "commit refused", op=effect.op, code=fault.code, about=fault.about,
            trace_id=error.trace_id,
        )
        unread: frozenset[bytes] = frozenset()
        retry = MEANINGS[error.code].retryable or error.session_over
        if error.code in (Code.CHUNKS_MISSING, Code.UPLOAD_EXPIRED):
            await self._forget(fault.facts)
            retry = False
            unread = frozenset(spec.node for spec in effect.changes if spec.version)
        return CommitFailed(effect.op, fault.code, retry, fault.retry_after_ms or 0, unread)

    async def _answered(
        self, effect: Commit, pending: Pending, answer: sync.Committed,
        drafts: dict[bytes, Draft], emit: Emit,
    ) -> None:
        results: list[ChangeResult] = []
        for spec, result in zip(effect.changes, answer.results, strict=True):
            draft = drafts.get(spec.version) if spec.version else None
            if isinstance(result, sync.Refused):
                results.append(ResultRefused(result.code, result.facts))
                if result.code == Code.CHUNKS_MISSING:
                    await self._forget(result.facts)
                continue  # its draft may be wanted for the next commit
            kind = ResultAccepted if isinstance(result, sync.Accepted) else ResultConflicted
            results.append(kind(result.seq))
            if draft is not None:
                self._state.learn((), draft.chunks)
                self._drafts.drop(draft.version)
        self._carried = (0, {})
        pushed = await self._own_rows(effect.cursor, pending, answer)
        emit(Committed(effect.op, tuple(results), answer.head_seq))
        if pushed is not None:
            emit(pushed)
        await self._close_uploads(drafts, pending)

    async def _own_rows(
        self, cursor: Cursor, pending: Pending, answer: sync.Committed
    ) -> Pulled | None:
        """Open the rows that a commit made, so that they need not be fetched."""
        if (answer.prev_seq, answer.history) != (cursor.seq, cursor.history):
            return None
        leaves = b"".join(leaf(change) for change in pending.changes)
        proof = CommitProof(pending.header, pending.signature, leaves)
        try:
            return await self._opened(
                cursor, answer.rows, (proof,), answer.head_seq, answer.head, asked=False
            )
        except (RowBroken, DeviceListBroken, Offline, ServerFault) as error:
            log.warning("own rows set aside", error=str(error))  # the pull decides
            return None

    async def _forget(self, facts: dict[str, str | int]) -> None:
        named = str(facts.get("chunks", ""))
        if named:
            await self._state.forget_chunks(bytes.fromhex(each) for each in named.split(","))

    async def _close_uploads(self, drafts: dict[bytes, Draft], pending: Pending) -> None:
        """End the sessions that the commit did not name: their reservations count twice."""
        for upload in {draft.upload for draft in drafts.values()} - {None, pending.upload}:
            assert upload is not None
            try:
                await self._server.cancel_upload(upload)
            except (Offline, ServerFault) as error:
                log.info("upload session left to expire", error=str(error))

    # ------------------------------------------------------------ pull

    async def pull(self, effect: Pull, emit: Emit) -> None:
        """Run a Pull."""
        after = effect.after
        try:
            page = await self._server.changes(
                self._me.space, after.history, after.seq, limits.PAGE_ROWS_MAX
            )
            if page.history != after.history:
                emit(PullFailed(Code.HISTORY_CHANGED))
            elif page.head_seq < after.seq:
                emit(PullFailed(Code.HISTORY_LOST))
            else:
                emit(
                    await self._opened(
                        after, page.rows, page.commits, page.head_seq, page.head, page.more
                    )
                )
        except Offline as error:
            log.info("pull unanswered", error=str(error))
            emit(PullFailed("offline"))
        except ServerFault as error:
            emit(PullFailed(error.fault.code, error.fault.retry_after_ms or 0))
        except RowBroken as error:
            log.error("journal refused", error=str(error), after=after.seq)
            emit(PullFailed("bad_head"))
        except DeviceListBroken as error:
            log.error("device list refused", error=str(error))
            emit(PullFailed(Code.BAD_SIGNATURE))

    async def pushed(self, frame: Advanced) -> Pulled:
        """Return what a push means: its rows if they follow the newest ones, else none."""
        empty = Pulled(frame.history, frame.prev_seq, (), frame.seq, asked=False)
        cursor = self.tip
        if cursor is None or not frame.rows:
            return empty
        if (frame.prev_seq, frame.history) != (cursor.seq, cursor.history):
            return empty
        try:
            return await self._opened(
                cursor, frame.rows, frame.commits, frame.seq, frame.head, asked=False
            )
        except (RowBroken, DeviceListBroken, Offline, ServerFault) as error:
            log.warning("pushed rows set aside", error=str(error))  # the pull decides
            return empty

    async def _opened(
        self, cursor: Cursor, rows: tuple[bytes, ...], commits: tuple[CommitProof, ...],
        head_seq: int, head: bytes, more: bool = False, asked: bool = True,
    ) -> Pulled:
        if not authors(commits) <= self._book.signers.keys():
            await self._book.refresh()
        opened = await asyncio.to_thread(
            open_rows, rows, commits, cursor, self._me, self._book.signers, self._state
        )
        if cursor.seq + len(rows) == head_seq and opened.head != head:
            raise RowBroken("the journal does not extend what this device has seen")
        self._state.learn(opened.contents, opened.chunks)
        after = Cursor(cursor.history, cursor.seq + len(rows), opened.head)
        if self.tip is None or after.seq > self.tip.seq:
            self.tip = after
        return Pulled(cursor.history, cursor.seq, opened.rows, head_seq, more, asked)
