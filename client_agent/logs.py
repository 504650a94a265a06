"""The agent's log: JSON lines in the home when it runs in the background, else on stderr."""

import logging
import sys
from typing import TextIO, cast

import structlog

from client_agent.settings import Settings

LOG_BYTES_MAX = 20_000_000  # at start the older log moves to `agent.log.1`


def set_up(settings: Settings, to_file: bool) -> None:
    """Configure structlog for this process."""
    level = getattr(logging, settings.values["log_level"].upper())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(ensure_ascii=False)
            if to_file
            else structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(
            cast(TextIO, Steady(_file(settings) if to_file else sys.stderr))
        ),
        cache_logger_on_first_use=False,
    )


class Steady:
    """A log that cannot stop the synchroniser: what a full disk refuses is lost, and counted."""

    def __init__(self, file: TextIO) -> None:
        """Write to this file."""
        self._file = file
        self.lost = 0

    def write(self, text: str) -> int:
        """Write, or lose it."""
        try:
            return self._file.write(text)
        except OSError:
            self.lost += 1
            return len(text)

    def flush(self) -> None:
        """Flush, or lose it."""
        try:
            self._file.flush()
        except OSError:
            self.lost += 1


def _file(settings: Settings) -> TextIO:
    path = settings.log
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(f"{path.name}.1"))
    file = open(path, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
    path.chmod(0o600)
    return file
