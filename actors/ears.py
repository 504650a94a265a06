"""Ears: who listens to which topic in this process. Shared by the feeds."""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from actors.ports import Hear

PENDING_MAX = 1_000  # nudges a slow listener may be behind; the oldest are lost then

log = structlog.get_logger()


class Ears:
    """Listeners by topic. Each hears one nudge at a time, in order, without holding up others."""

    def __init__(self) -> None:
        """Start with nobody listening."""
        self._ears: dict[bytes, list[_Ear]] = {}

    def add(self, topic: bytes, hear: Hear) -> Callable[[], None]:
        """Hear a topic from now on; call the returned function to stop, once or more."""
        ear = _Ear(hear)
        self._ears.setdefault(topic, []).append(ear)

        def leave() -> None:
            ears = self._ears.get(topic, [])
            if ear in ears:
                ears.remove(ear)
                ear.pending.clear()
            if not ears:
                self._ears.pop(topic, None)

        return leave

    def hear(self, topic: bytes, body: bytes) -> None:
        """Pass a nudge to every listener of the topic. Never blocks, never raises."""
        for ear in self._ears.get(topic, ()):
            ear.hear(body)

    async def close(self) -> None:
        """Let every listener go, those in the middle of a nudge included."""
        ears = [ear for listeners in self._ears.values() for ear in listeners]
        self._ears.clear()
        tasks = [ear.task for ear in ears if ear.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Ear:
    def __init__(self, hear: Hear) -> None:
        self.pending: deque[bytes] = deque(maxlen=PENDING_MAX)
        self.task: asyncio.Task[None] | None = None
        self._hear = hear

    def hear(self, body: bytes) -> None:
        self.pending.append(body)
        if self.task is None:
            self.task = asyncio.create_task(self._drain(), name="ear")

    async def _drain(self) -> None:
        try:
            while self.pending:
                try:
                    await self._hear(self.pending.popleft())
                except Exception:  # one listener's bug is not the others' silence
                    log.exception("a nudge was not heard")
        finally:
            self.task = None
