"""A queued sale on one machine, whose requests wait in the ledger's own file: killed with -9 under load.

The same scenario as `test_survives_kill.py`, with buyers who hold the line for their outcome.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
import uvloop
from e2e.scenario import ROUNDS, SEED, UNITS_A_ROUND, Aftermath, a_scenario
from e2e.test_survives_kill import kill_and_restart, rows

from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.evidence import Ask, Reservation, asked, decode

KILLS_IN_ALL = int(os.environ.get("FLASHSALE_KILLS", "4"))
KILLS = min(KILLS_IN_ALL, ROUNDS)
SALES = max(1, KILLS_IN_ALL // ROUNDS)
WAIT_SECONDS = 5


async def hold(directory, seed: int) -> Aftermath:
    async with a_scenario(directory, KILLS, seed=seed, wait_seconds=WAIT_SECONDS) as scenario:
        await scenario.run(kill_and_restart)
    return scenario.aftermath


@pytest.fixture(scope="module", params=range(SALES))
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(tmp_path_factory.mktemp("queued-kill"), SEED + request.param))


@pytest.fixture
def ledger(aftermath: Aftermath) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{aftermath.data}/ledger.db?mode=ro", uri=True)) as connection:
        yield connection


def test_after_every_restart_all_that_clients_were_told_is_true(aftermath):
    assert aftermath.after_blow == [[]] * KILLS


def test_in_the_end_every_promise_was_kept(aftermath):
    assert {name: found for name, found in aftermath.verdict.findings.items() if found} == {}


def test_every_unit_was_sold_once(aftermath):
    units = KILLS * UNITS_A_ROUND
    assert aftermath.verdict.line == f"sold {units} of {units}, oversold 0, lost 0"


def test_every_202_has_an_outcome_and_nothing_waits_any_more(aftermath, ledger):
    told = [decode(it.body, Reservation) for _, it in asked(aftermath.evidence.histories, Ask.RESERVE)
            if it.status == 202]  # fmt: skip
    known = {row[0] for row in rows(ledger, "SELECT reservation_id FROM reservation")}
    assert {each.reservation_id for each in told} <= known
    assert rows(ledger, "SELECT * FROM queue") == rows(ledger, "SELECT * FROM dead_letter") == []


def test_the_server_ends_in_good_order_when_asked_to(aftermath):
    assert aftermath.exit_code == 0
