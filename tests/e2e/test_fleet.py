"""Several API processes on one PostgreSQL: they sell what there is once, whichever of them, or the database, is killed.

One scenario runs once: `flashsale serve --workers 3` and a crowd that keeps coming, while at random moments a worker,
all of the server, or PostgreSQL itself is killed with -9, or a worker is stopped and continued. The evidence is what
the clients saw.
FLASHSALE_KILLS says how often; each target has its turn.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle
from pathlib import Path

import pytest
import uvloop
from e2e.scenario import ROUNDS, SEED, UNITS_A_ROUND, Aftermath, Scenario, a_scenario, children, faults_in_rows
from servers.postgres import PostgresServer
from servers.process import running

from flashsale.backends.postgres.connect import migrate
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.evidence import Ask, asked

BLOWS_IN_ALL = int(os.environ.get("FLASHSALE_KILLS", "4"))
BLOWS = min(BLOWS_IN_ALL, ROUNDS)
SALES = max(1, BLOWS_IN_ALL // ROUNDS)
WORKERS = 3
STOPPED_SECONDS = 5.0
"""Longer than the database waits for a process that has stopped in the middle of a transaction."""
HEALED_SECONDS = {"worker": 3.0, "server": 10.0, "postgres": 10.0, "stopped": STOPPED_SECONDS + 3.0}
"""How soon the shop serves again."""

Blow = Callable[[Scenario], Awaitable[None]]


class Blows:
    """The hand with the kill -9: one target after the other."""

    def __init__(self, postgres: PostgresServer) -> None:
        self._postgres = postgres
        self._targets = cycle(
            (
                ("worker", self._worker),
                ("postgres", self._database),
                ("stopped", self._stopped),
                ("server", self._server),
            )
        )

    async def __call__(self, scenario: Scenario) -> None:
        name, hit = next(self._targets)
        began = time.monotonic()
        await hit(scenario)
        scenario.aftermath.kills += 1
        await scenario.server.wait_until_ready()
        scenario.aftermath.healed("direct", name, time.monotonic() - began)

    async def _worker(self, scenario: Scenario) -> None:
        workers = children(scenario.server.pid)
        os.kill(scenario.dice.choice(workers), signal.SIGKILL)

    async def _database(self, scenario: Scenario) -> None:
        await asyncio.to_thread(self._postgres.kill)
        await asyncio.sleep(scenario.dice.uniform(0.0, 0.5))
        await asyncio.to_thread(self._postgres.start)

    async def _stopped(self, scenario: Scenario) -> None:
        worker = scenario.dice.choice(children(scenario.server.pid))
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS)
        os.kill(worker, signal.SIGCONT)

    async def _server(self, scenario: Scenario) -> None:
        await scenario.server.kill()
        await scenario.server.start()


async def hold(directory: Path, postgres: PostgresServer, seed: int) -> Aftermath:
    await migrate(postgres.url())
    async with a_scenario(directory, BLOWS, postgres.url(), WORKERS, seed) as scenario:
        await scenario.run(Blows(postgres))
    return scenario.aftermath


@pytest.fixture(scope="module", params=range(SALES))
def sale_number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def postgres(sale_number: int) -> Iterator[PostgresServer]:
    """Of each sale its own."""
    with running(PostgresServer()) as server:
        yield server


@pytest.fixture(scope="module")
def aftermath(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, sale_number: int) -> Aftermath:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(tmp_path_factory.mktemp("fleet"), postgres, SEED + sale_number))


def test_the_blows_hit_a_shop_in_full_trade(aftermath, evidence):
    unanswered = [exchange for ask in Ask for _, exchange in asked(evidence.histories, ask) if exchange.status == 0]
    assert aftermath.kills == BLOWS
    assert len(unanswered) > BLOWS
    assert len(evidence.reserved) > 100 * BLOWS and len(evidence.paid) > 100 * BLOWS


def test_after_every_blow_all_that_clients_were_told_is_true(aftermath):
    assert aftermath.after_blow == [[]] * BLOWS


def test_in_the_end_every_promise_was_kept(aftermath):
    assert {name: found for name, found in aftermath.verdict.findings.items() if found} == {}


def test_every_unit_was_sold_once(aftermath):
    units = BLOWS * UNITS_A_ROUND
    assert aftermath.verdict.line == f"sold {units} of {units}, oversold 0, lost 0"


def test_the_shop_serves_again_soon(aftermath):
    late = [(name, seconds) for name, seconds in aftermath.healed_seconds if seconds > HEALED_SECONDS[name]]
    assert late == []


def test_the_server_ends_in_good_order_when_asked_to(aftermath):
    assert aftermath.exit_code == 0


async def test_the_rows_add_up(aftermath, postgres):
    assert await faults_in_rows(postgres.url(), BLOWS * UNITS_A_ROUND) == []
