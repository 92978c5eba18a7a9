"""Eight API processes, one product, one thousand units: all of them are sold, and nobody has two."""

import asyncio
import json
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import uvloop
from e2e.scenario import a_scenario
from servers.postgres import fresh_database

from flashsale.backends.postgres.connect import connect, migrate
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.http_client import HttpClient
from flashsale.rehearsal.operator import SaleFacts

WORKERS = 8
UNITS = 1_000
USERS = 5_000
TRIES = 4
HOLD_SECONDS = 600

Told = list[tuple[str, int, str | None]]
"""`(user, status, reservation id)` of each answer."""


async def rush(directory: Path, ledger: str) -> tuple[Told, list[tuple[int, int]]]:
    """What everybody was told, and what the rows say: `(held, most that one user has)`."""
    await migrate(ledger)
    async with a_scenario(directory, 1, ledger, WORKERS) as scenario:
        sale = SaleFacts("rush", "RUSH-1", UNITS, HOLD_SECONDS)
        scenario.operator.sale = sale
        await scenario.operator.create_sale(opens_in_seconds=0.0)
        with closing(HttpClient(scenario.server.url, 400)) as client:

            async def attempt(user: str, number: int) -> tuple[str, int, str | None]:
                body = {"skuId": sale.sku, "quantity": 1, "userId": user}
                answer = await client.fetch(
                    "POST", "/api/v1/reservations", body, {"Idempotency-Key": f"{user}-{number}"}
                )
                told = json.loads(answer.body)
                return user, answer.status, told.get("reservationId")

            tries = (attempt(f"user-{user}", number) for user in range(USERS) for number in range(TRIES))
            told = await asyncio.gather(*tries)
        db = await connect(ledger)
        held = """
            SELECT sum(quantity)::int, max(quantity)::int FROM (
                SELECT sum(quantity) AS quantity FROM reservation WHERE status = 'RESERVED' GROUP BY user_id) AS u"""
        rows = [tuple(row) for row in await db.fetch(held)]
        await db.close()
        return told, rows


@pytest.fixture(scope="module")
def told_and_rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Told, list[tuple[int, int]]]:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(rush(tmp_path_factory.mktemp("rush"), runner.run(fresh_database("rush"))))


def test_every_unit_is_sold_and_everybody_else_is_refused(told_and_rows):
    told, _ = told_and_rows
    assert len(told) == USERS * TRIES
    statuses = Counter(status for _, status, _ in told)
    assert statuses[201] == UNITS
    assert statuses.keys() <= {201, 403, 409}


def test_nobody_has_two(told_and_rows):
    told, rows = told_and_rows
    winners = [user for user, status, _ in told if status == 201]
    assert len(set(winners)) == len({reservation for _, _, reservation in told if reservation}) == UNITS
    assert rows == [(UNITS, 1)]
