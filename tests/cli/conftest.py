"""One server for the tests that only talk to it; each makes sales of its own there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.program import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("shop")) as running:
        yield running


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A data directory whose server has gone: nothing listens where it says, whatever runs on this machine."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "server-url").write_text("http://127.0.0.1:1\n")
    return data
