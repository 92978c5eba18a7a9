"""A fleet on two databases, each on a server of its own: a sale on each, and whatever is killed, both are sold once.

One scenario runs once: `flashsale serve --workers 2` with a crowd at each sale, while a worker and each of the two
PostgreSQL servers is killed with -9. The evidence is what the clients of each sale saw.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path

import msgspec
import pytest
import uvloop
from e2e.scenario import HOLD_SECONDS, UNITS_A_ROUND, Aftermath, Scenario, a_scenario, children, faults_in_rows
from servers.postgres import PostgresServer
from servers.process import running

from flashsale.backends.ids import shard_of
from flashsale.backends.postgres.joining import migrate_all
from flashsale.rehearsal.crowd import Shop
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.http_client import HttpClient
from flashsale.rehearsal.operator import Operator, SaleFacts
from flashsale.rehearsal.verdict import Evidence

WORKERS = 2
HEALED_SECONDS = 20.0

Blow = Callable[[Scenario], Awaitable[None]]


class _Health(msgspec.Struct):
    parts: dict[str, msgspec.Raw]


class Blows:
    """Each hits both sales, which wait for each other; the shop is whole again after each."""

    def __init__(self, postgres: list[PostgresServer]) -> None:
        self._meeting = asyncio.Barrier(2)
        self._hits: list[Blow] = [
            self._worker,
            *(self._database(server) for server in reversed(postgres)),
        ]
        self.number = len(self._hits)
        self._turns = count()

    async def __call__(self, scenario: Scenario) -> None:
        if await self._meeting.wait() == 0:
            await self._hits[next(self._turns)](scenario)
            async with asyncio.timeout(HEALED_SECONDS):
                while not await self._whole(scenario):  # noqa: ASYNC110  # another process's doing
                    await asyncio.sleep(0.1)
        await self._meeting.wait()
        scenario.aftermath.kills += 1

    async def _worker(self, scenario: Scenario) -> None:
        os.kill(scenario.dice.choice(children(scenario.server.pid)), signal.SIGKILL)

    def _database(self, server: PostgresServer) -> Blow:
        async def hit(scenario: Scenario) -> None:
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(scenario.dice.uniform(0.2, 0.8))
            await asyncio.to_thread(server.start)

        return hit

    async def _whole(self, scenario: Scenario) -> bool:
        """Ready is a server also while one of its databases is away."""
        if not await scenario.server.ready():
            return False
        with closing(HttpClient(scenario.server.url, 1)) as client:
            health = msgspec.json.decode((await client.fetch("GET", "/health")).body, type=_Health)
        return not any(name.startswith("shard") for name in health.parts)


@asynccontextmanager
async def beside(first: Scenario, rounds: int) -> AsyncIterator[Scenario]:
    """Another sale at the same servers, with clients of its own."""
    settings, run = first.server.settings, f"kill{secrets.token_hex(3)}"
    sale = SaleFacts(f"sale-{run}", f"VASE-{run}", rounds * UNITS_A_ROUND, HOLD_SECONDS)
    with (
        closing(HttpClient(first.server.url, 300)) as client,
        closing(HttpClient(first.server.url, 50)) as back_door,
        closing(HttpClient(settings["FLASHSALE_SANDBOX_URL"], 2)) as provider,
    ):
        operator = Operator(back_door, provider, settings["FLASHSALE_ADMIN_TOKEN"], sale)
        shop = Shop(client, sale.sku, 0.0, run, insist_seconds=60.0)
        yield Scenario(first.server, operator, shop, rounds, first.seed + 1)


async def hold(directory: Path, postgres: list[PostgresServer]) -> list[Aftermath]:
    urls = [server.url() for server in postgres]
    await migrate_all(urls)
    blows = Blows(postgres)
    ledger = " ".join(urls)
    async with a_scenario(directory, blows.number, ledger, WORKERS) as one, beside(one, blows.number) as other:
        await one.open()
        await other.open()  # not in the same moment: each goes where the fewest sales are that are known
        await asyncio.gather(one.sell(blows), other.sell(blows))
    return [one.aftermath, other.aftermath]


@pytest.fixture(scope="module")
def postgres() -> Iterator[list[PostgresServer]]:
    with running(PostgresServer()) as one, running(PostgresServer()) as other:
        yield [one, other]


@pytest.fixture(scope="module")
def aftermaths(tmp_path_factory: pytest.TempPathFactory, postgres: list[PostgresServer]) -> list[Aftermath]:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(tmp_path_factory.mktemp("shards"), postgres))


@pytest.fixture
def evidences(aftermaths: list[Aftermath]) -> list[Evidence]:
    return [aftermath.evidence for aftermath in aftermaths]


def test_each_sale_is_on_a_database_of_its_own(evidences):
    shards = [{shard_of(each) for each in evidence.reservations} for evidence in evidences]
    assert sorted(map(sorted, shards)) == [[0], [1]]


def test_orders_are_paid_on_both(aftermaths, evidences):
    assert all(len(evidence.paid) > 100 * aftermaths[0].kills for evidence in evidences)


def test_after_every_blow_all_that_clients_were_told_is_true(aftermaths):
    assert [aftermath.after_blow for aftermath in aftermaths] == [[[]] * aftermath.kills for aftermath in aftermaths]


def test_in_the_end_every_promise_was_kept_on_both(aftermaths):
    for aftermath in aftermaths:
        assert {name: found for name, found in aftermath.verdict.findings.items() if found} == {}
        units = aftermath.kills * UNITS_A_ROUND
        assert aftermath.verdict.line == f"sold {units} of {units}, oversold 0, lost 0"


def test_the_server_ends_in_good_order_when_asked_to(aftermaths):
    assert aftermaths[0].exit_code == 0


async def test_the_rows_add_up_in_each_database(aftermaths, postgres):
    for server in postgres:
        assert await faults_in_rows(server.url(), aftermaths[0].kills * UNITS_A_ROUND) == []
