"""All workers of a server are replaced while a crowd buys, and nobody notices."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import uvloop
from e2e.scenario import Scenario, a_scenario
from servers.postgres import fresh_database

from flashsale.backends.postgres.connect import migrate
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.http_client import HttpClient, LostReply

WORKERS = 2
BUYERS = 48
REPLACED_SECONDS = 20.0


def workers(scenario: Scenario) -> set[int]:
    pid = scenario.server.pid
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


async def replaced(scenario: Scenario, old: set[int]) -> None:
    """Waits until none of the old workers is left, and as many new ones are there."""
    async with asyncio.timeout(REPLACED_SECONDS):
        while workers(scenario) & old or len(workers(scenario)) != WORKERS:  # noqa: ASYNC110  # no event tells
            await asyncio.sleep(0.05)


async def buy_and_look(client: HttpClient, sku: str, number: int, stop: asyncio.Event) -> Counter[str]:
    """One client: reserves and reads in turn, and counts what it is answered."""
    heard: Counter[str] = Counter()
    turn = 0
    while not stop.is_set():
        turn += 1
        user = f"user-{number}-{turn}"
        asks = (
            ("POST", "/api/v1/reservations", {"skuId": sku, "quantity": 1, "userId": user}),
            ("GET", f"/api/v1/products/{sku}/availability", None),
        )
        for method, path, body in asks:
            try:
                heard[str((await client.fetch(method, path, body)).status)] += 1
            except LostReply as lost:
                heard[f"lost: {lost}"] += 1
    return heard


async def rehearse(directory: Path) -> tuple[Counter[str], int]:
    ledger = await fresh_database("rolling")
    await migrate(ledger)
    async with a_scenario(directory, 1, ledger, WORKERS) as scenario:
        await scenario.operator.create_sale(opens_in_seconds=0.0)
        stop, sku = asyncio.Event(), scenario.shop.sku
        with closing(HttpClient(scenario.server.url, BUYERS)) as client:
            crowd = asyncio.gather(*(buy_and_look(client, sku, number, stop) for number in range(BUYERS)))
            generations = [workers(scenario)]
            for _ in range(2):
                await asyncio.sleep(0.5)
                os.kill(scenario.server.pid, signal.SIGHUP)
                await replaced(scenario, generations[-1])
                generations.append(workers(scenario))
            stop.set()
            heard = sum(await crowd, Counter())
        return heard, len(set.union(*generations))


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counter[str], int]:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(rehearse(tmp_path_factory.mktemp("rolling")))


def test_every_worker_was_replaced_twice(rehearsed):
    assert rehearsed[1] == 3 * WORKERS


def test_no_request_failed_meanwhile(rehearsed):
    heard, _ = rehearsed
    assert heard.keys() <= {"200", "201", "409"}
    assert heard["200"] > 500
