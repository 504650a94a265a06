"""What the agent answers on its control socket; `syncline`'s commands print it."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from client_agent.adapters.control import Declined, Document
from client_agent.adapters.devices import iso, listing
from client_agent.adapters.server import Offline, ServerFault
from client_agent.agent import Agent
from client_agent.cli.output import PASSING
from client_agent.core.events import Approved, Happened, Rescan
from client_agent.core.status import Status
from protocol.faults import MEANINGS

OFFLINE_S = 15.0  # `sync` gives the server this long to answer


class Service:
    """The requests by name."""

    def __init__(self, agent: Agent) -> None:
        """Answer for one agent."""
        self._agent = agent
        self._requests: dict[str, Callable[..., Awaitable[Document]]] = {
            "ping": self._ping, "status": self._status, "wait": self._wait,
            "pause": self._pause, "resume": self._resume, "rescan": self._rescan,
            "stop": self._stop, "filestatus": self._filestatus, "activity": self._activity,
            "conflicts": self._conflicts, "history": self._history, "devices": self._devices,
            "hold": self._hold,
        }

    async def answer(self, do: str, arguments: Document) -> Document:
        """Answer one request. Raises Declined."""
        request = self._requests.get(do)
        if request is None:
            raise Declined("usage", f"The agent does not know {do!r}", "", "Restart it.")
        return await request(**arguments)

    async def _ping(self) -> Document:
        return {"started_at": iso(self._agent.started_ms)}

    async def _status(self) -> Document:
        return self.status()

    def status(self) -> Document:
        """Return the data of `status --json`."""
        agent, now = self._agent, self._agent.engine.status()
        counts = now.counts
        return {
            "state": "signed_out" if agent.signed_out else now.state,
            "as_of": iso(agent.now_ms()),
            "pid": os.getpid(),
            "cursor": now.cursor_seq,
            "counts": {
                "queued": counts.queued, "uploading": counts.uploading,
                "downloading": counts.downloading, "conflicts": counts.conflicts,
                "held": counts.held, "errors": counts.errors, "ignored": counts.ignored,
            },
            "bytes": {
                "up_left": now.up_left_bytes, "down_left": now.down_left_bytes,
                "up_total": agent.state.counted("up_bytes"),
                "down_total": agent.state.counted("down_bytes"),
            },
            "server": {
                "reachable": now.connected, "head": now.head_seq, "push": agent.feed.up,
                "url": agent.me.profile.server,
            },
            "folder": str(agent.root.path),
            "synced_at": iso(now.synced_at_ms) if now.synced_at_ms else None,
            "holds": now.holds,
            "faults": now.faults,
            "watch": {"mode": agent.watch_mode},
            "keystore": agent.me.profile.keystore,
        }

    # ------------------------------------------------------------ waiting

    async def _wait(
        self, paths: list[str] | None = None, timeout_s: float | None = None,
        patient: bool = True,
    ) -> Document:
        """Return when everything, or each path, is in sync here and accepted by the server."""
        agent = self._agent
        inside = [self._relative(path) for path in paths or []]
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard(patient)
                agent.emit(Rescan())  # what was written just now is seen, hint or no hint
                await agent.next_turn()
                self._stopped()
                while not self._agreed(inside):
                    if agent.engine.idle() or agent.signed_out:  # looking costs: not every turn
                        self._hopeless()
                    await agent.next_turn()
                self._stopped()
        except TimeoutError:
            now = agent.engine.status()
            raise Declined(
                "not_yet", "Not in sync yet", f"{now.counts.queued} changes are left",
                "Ask again, or look at: syncline status",
            ) from None
        return self.status()

    async def _heard(self, patient: bool) -> None:
        """Learn where the server stands now."""
        agent = self._agent
        if not agent.signed_out and await agent.feed.beat():
            await agent.next_turn()
            return
        self._hopeless()
        if not patient:
            try:
                async with asyncio.timeout(OFFLINE_S):
                    while not agent.engine.status().connected:
                        await agent.next_turn()
                        self._hopeless()
            except TimeoutError:
                raise Declined(
                    "offline", "The server does not answer", "Changes wait in the queue.",
                    "They are sent by themselves once it answers.",
                ) from None

    def _agreed(self, paths: list[str]) -> bool:
        engine = self._agent.engine
        if not paths:
            return engine.in_sync()
        return all(engine.in_sync(path) for path in paths)

    def _stopped(self) -> None:
        """Raise Declined if the agent does not know, or may not do, what agreement needs."""
        agent = self._agent
        holds = agent.engine.status().holds
        if agent.signed_out:
            raise Declined(
                agent.signed_out, "This device was signed out", "Files stay as they are.",
                "Run: syncline login",
            )
        if holds:
            raise Declined(
                "held", "A safety stop waits for you", _lines(holds),
                "Look at it with: syncline hold list",
            )

    def _hopeless(self) -> None:
        """Raise Declined if only a person can bring agreement."""
        self._stopped()
        agent = self._agent
        now = agent.engine.status()
        if now.state == "paused":
            raise Declined("paused", "Synchronising is paused", "", "Run: syncline resume")
        lasting = {path: why for path, why in now.faults.items() if why not in PASSING}
        if "disk_full" in lasting.values():  # all downloads wait, not only those that were tried
            raise Declined(
                "disk_full", "The disk is full", _lines(lasting),
                "Make room; downloads go on by themselves.",
            )
        if lasting and now.counts.queued <= len(lasting):
            raise Declined("attention", "Some files cannot be synchronised", _lines(lasting))

    # ------------------------------------------------------------ verbs

    async def _pause(self, for_s: float = 0) -> Document:
        until_ms = self._agent.now_ms() + int(for_s * 1000) if for_s else 0
        await self._agent.pause(True, until_ms)
        data = await self._after_turn()
        return {**data, "paused_until": iso(until_ms) if until_ms else None}

    async def _resume(self) -> Document:
        await self._agent.pause(False)
        return await self._after_turn()

    async def _rescan(self) -> Document:
        self._agent.emit(Rescan())
        return await self._after_turn()

    async def _after_turn(self) -> Document:
        await self._agent.next_turn()
        return self.status()

    async def _stop(self) -> Document:
        self._agent.stopping.set()
        return {"state": "stopping"}

    async def _hold(self, approve: str | None = None) -> Document:
        if approve is not None:
            self._agent.emit(Approved(approve))
            await self._agent.next_turn()
        now = self._agent.engine.status()
        return {"held": _held(now)}

    # ------------------------------------------------------------ looks

    async def _filestatus(self, paths: list[str]) -> Document:
        engine = self._agent.engine
        return {
            "files": [
                {"path": path, "status": engine.file_status(self._relative(path))}
                for path in paths
            ]
        }

    async def _activity(self, limit: int = 20) -> Document:
        data = self.status()
        recent = await asyncio.to_thread(self._agent.state.history, None, limit)
        return {
            "state": data["state"], "counts": data["counts"], "bytes": data["bytes"],
            "recent": [_line(happened) for happened in recent],
            "notices": [
                {"at": iso(at_ms), "kind": tell.kind, "path": tell.path, "detail": tell.detail}
                for at_ms, tell in self._agent.notices
            ],
        }

    async def _history(self, path: str | None = None, limit: int = 100) -> Document:
        inside = None if path is None else self._relative(path)
        found = await asyncio.to_thread(self._agent.state.history, inside, limit)
        return {"history": [_line(happened) for happened in found]}

    async def _conflicts(self) -> Document:
        agent = self._agent
        names, engine = agent.book.names, agent.engine

        def side(version: bytes, device: bytes) -> Document:
            known = agent.state.content(version)
            manifest = known.manifest if known else None
            return {
                "device": names.get(device, device.hex()[:8]),
                "time": iso(manifest.mtime_ns // 1_000_000) if manifest else None,
                "size": manifest.size_bytes if manifest else None,
            }

        rows = []
        for conflict in engine.conflicts():
            head = side(conflict.head, conflict.head_device)
            loser = side(conflict.loser, conflict.loser_device)
            mine_lost = conflict.loser_device == agent.me.device
            rows.append(
                {
                    "id": conflict.loser.hex(), "path": engine.path_of(conflict.node),
                    "policy": "automatic", "opened_at": iso(conflict.at_ms),
                    "mine": loser if mine_lost else head,
                    "theirs": head if mine_lost else loser,
                    "copies": [engine.path_of(conflict.copy)] if conflict.copied else [],
                }
            )
        return {"conflicts": rows}

    async def _devices(self) -> Document:
        agent = self._agent
        try:
            return {"devices": listing(await agent.server.devices(), agent.me)}
        except Offline as error:
            raise Declined("offline", "The server does not answer", str(error)) from None
        except ServerFault as error:
            meaning = MEANINGS[error.code]
            raise Declined(
                error.fault.code, meaning.title, error.fault.about, meaning.hint
            ) from None

    def _relative(self, path: str) -> str:
        """Return a path as the engine names it. Raises Declined: it is not in the folder."""
        root = str(self._agent.root.path)
        if path == root:
            return ""
        if not path.startswith(f"{root}/"):
            raise Declined("usage", f"{path} is not in {root}")
        return path[len(root) + 1 :].rstrip("/")


def _held(now: Status) -> list[Document]:
    return [
        {"id": kind, "kind": kind, "count": now.counts.held, "bytes": 0, "sample": [],
         "detail": detail}
        for kind, detail in now.holds.items()
    ]


def _line(happened: Happened) -> Document:
    return {
        "at": iso(happened.at_ms), "verb": happened.verb, "path": happened.path,
        "detail": happened.detail,
    }


def _lines(facts: dict[str, Any]) -> str:
    shown = [f"{name}: {value}" if value else name for name, value in list(facts.items())[:5]]
    return "; ".join(shown) + ("" if len(facts) <= 5 else f"; and {len(facts) - 5} more")
