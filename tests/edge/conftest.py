"""A shop for each test: a real engine on a ledger of its own; one payment sandbox serves them all."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from contract.till import Sandbox
from edge.shop import Shop, opened


@pytest.fixture(scope="session")
def sandbox_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Sandbox(tmp_path_factory.mktemp("sandbox") / "books.db") as sandbox:
        yield sandbox.url


@pytest.fixture
async def shop(tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with opened(tmp_path, sandbox_url) as shop:
        yield shop
