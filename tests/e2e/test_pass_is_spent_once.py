"""A pass buys once, however it is brought: 32 requests at the same moment, to two servers on one PostgreSQL.

The purchase limit is far away, so that nothing but the pass stands in their way, and neither server knows of the
other's requests before the ledger decides.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli.program import NO_SANDBOX, Server
from edge.shop import OPERATOR, TOKEN, product, sale
from servers.postgres import PostgresServer
from servers.process import running

from flashsale.backends.postgres.connect import migrate
from flashsale.rehearsal.http_client import HttpClient

AT_ONCE = 32
PEOPLE = 6
MODES = ("direct", "queued")
STOCK = 10_000


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running(PostgresServer()) as server:
        yield server


class Pair:
    """Two servers and a client of each."""

    def __init__(self, clients: list[HttpClient]) -> None:
        self.clients = clients

    async def fetch(self, number: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """What the server with this number, counted round and round, answers."""
        answer = await self.clients[number % 2].fetch(method, f"/api/v1{path}", body, headers)
        return answer.status, msgspec.json.decode(answer.body)

    async def open(self, name: str, mode: str) -> None:
        """A sale of one product; both have the same name."""
        room = {"enabled": True, "admitPerSecond": 1000, "burst": 1000}
        body = sale(product(name, stock=STOCK, perUserLimit=1000), id=name, mode=mode, waitingRoom=room)
        assert (await self.fetch(0, "POST", "/admin/sales", body, **OPERATOR))[0] == 201

    async def pass_of(self, name: str, user: str) -> str:
        async with asyncio.timeout(20):
            while True:
                status, place = await self.fetch(1, "POST", f"/sales/{name}/queue", {"userId": user})
                if status == 201 and place["state"] == "ADMITTED":
                    return str(place["pass"])
                await asyncio.sleep(0.05)

    async def rush(self, name: str, user: str, key: Callable[[int], str]) -> list[tuple[int, Any]]:
        """All at once, half of them to each server; of a queued sale, what became of each."""
        brought = {"X-Flashsale-Pass": await self.pass_of(name, user), "Prefer": "wait=10"}
        wish = {"skuId": name, "userId": user}
        asked = (
            self.fetch(number, "POST", "/reservations", wish | {"requestKey": key(number)}, **brought)
            for number in range(AT_ONCE)
        )
        return await asyncio.gather(*asked)

    async def held(self, name: str) -> int:
        _, told = await self.fetch(0, "GET", f"/admin/sales/{name}/ledger", **OPERATOR)
        assert told["consistent"] is True
        return int(told["products"][0]["held"])


@asynccontextmanager
async def a_pair(folder: Path, ledger: str) -> AsyncIterator[Pair]:
    await migrate(ledger)
    settings = {"FLASHSALE_LEDGER": ledger, "FLASHSALE_ADMIN_TOKEN": TOKEN, **NO_SANDBOX}
    for name in ("first", "second"):
        (folder / name).mkdir()
    with (
        Server(folder / "first", **settings) as first,
        Server(folder / "second", **settings) as second,
        closing(HttpClient(first.url, AT_ONCE)) as one,
        closing(HttpClient(second.url, AT_ONCE)) as other,
    ):
        yield Pair([one, other])


async def test_thirty_two_requests_with_one_pass_get_one_reservation(tmp_path, postgres):
    async with a_pair(tmp_path, postgres.url()) as pair:
        for mode in MODES:
            await pair.open(name := f"one-{mode}", mode)
            for person in range(PEOPLE):
                told = await pair.rush(name, f"user-{person}", lambda number: f"key-{number}")
                outcomes = Counter((status, answer.get("code", answer.get("status"))) for status, answer in told)
                assert outcomes == {(201, "RESERVED"): 1, (403, "PASS_REQUIRED"): AT_ONCE - 1}, mode
            assert await pair.held(name) == PEOPLE


async def test_thirty_two_times_the_same_request_get_the_same_reservation(tmp_path, postgres):
    async with a_pair(tmp_path, postgres.url()) as pair:
        for mode in MODES:
            await pair.open(name := f"same-{mode}", mode)
            for person in range(PEOPLE):
                told = await pair.rush(name, f"user-{person}", lambda _: "the same key")
                assert {status for status, _ in told} == {201}, mode
                assert len({answer["reservationId"] for _, answer in told}) == 1, mode
            assert await pair.held(name) == PEOPLE
