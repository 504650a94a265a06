"""Both engines for every end-to-end test, through the commands that users have."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.lab import Lab, Scaled, Server, Standalone


@pytest.fixture(params=["standalone", "scaled"])
def engine(request: pytest.FixtureRequest) -> Callable[[Path], Server]:
    """How to start a server in a folder: all in one process, or seven against real services."""
    if request.param == "standalone":
        return Standalone
    database_url = request.getfixturevalue("database_url")
    amqp_url = request.getfixturevalue("amqp_url")
    redis_url = request.getfixturevalue("redis_url")
    return lambda folder: Scaled(folder, database_url, amqp_url, redis_url)


@pytest.fixture
def lab(tmp_path: Path, engine: Callable[[Path], Server]) -> Iterator[Lab]:
    """A running server; devices are added by the test."""
    with Lab(tmp_path / "lab", engine) as running:
        yield running
