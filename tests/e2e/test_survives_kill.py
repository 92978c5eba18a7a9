"""What a client was told stays true, however often the server is killed with -9 under load.

One scenario runs once for every twenty kills: a crowd that keeps coming, a real server killed at random
moments (some of them while it is starting again) and restarted on the same files. The tests read what came
of it. The evidence is what the clients saw: every answer they were given, those before a kill included.
FLASHSALE_KILLS and FLASHSALE_SEED say how often and which moments.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import uvloop
from e2e.scenario import ROUNDS, SEED, UNITS_A_ROUND, Aftermath, Scenario, a_scenario

from flashsale.rehearsal import verdict
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.evidence import Ask, asked

KILLS_IN_ALL = int(os.environ.get("FLASHSALE_KILLS", "10"))
KILLS = min(KILLS_IN_ALL, ROUNDS)
SALES = max(1, KILLS_IN_ALL // ROUNDS)


async def kill_and_restart(scenario: Scenario) -> None:
    await kill(scenario)
    if scenario.dice.random() < 0.25:
        await scenario.server.launch()
        await asyncio.sleep(scenario.dice.uniform(0.1, 1.5))
        await kill(scenario)
    await scenario.server.start()


async def kill(scenario: Scenario) -> None:
    await scenario.server.kill()
    scenario.aftermath.kills += 1


async def hold(directory: Path, seed: int) -> Aftermath:
    async with a_scenario(directory, KILLS, seed=seed) as scenario:
        await scenario.run(kill_and_restart)
    return scenario.aftermath


@pytest.fixture(scope="module", params=range(SALES))
def aftermath(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Aftermath:
    print(f"FLASHSALE_SEED={SEED} FLASHSALE_KILLS={KILLS_IN_ALL}, sale {request.param}")
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(tmp_path_factory.mktemp("kill"), SEED + request.param))


@pytest.fixture
def ledger(aftermath: Aftermath) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{aftermath.data}/ledger.db?mode=ro", uri=True)) as connection:
        yield connection


def test_the_kills_hit_a_shop_in_full_trade(aftermath, evidence):
    unanswered = [exchange for ask in Ask for _, exchange in asked(evidence.histories, ask) if exchange.status == 0]
    assert aftermath.kills >= KILLS and len(aftermath.after_blow) == KILLS
    assert len(unanswered) > 10 * KILLS
    assert len(evidence.reserved) > 100 * KILLS and len(evidence.paid) > 100 * KILLS


def test_after_every_restart_all_that_clients_were_told_is_true(aftermath):
    assert aftermath.after_blow == [[]] * KILLS


def test_in_the_end_every_promise_was_kept(aftermath):
    assert {name: found for name, found in aftermath.verdict.findings.items() if found} == {}


def test_every_unit_was_sold_once(aftermath):
    units = KILLS * UNITS_A_ROUND
    assert aftermath.verdict.line == f"sold {units} of {units}, oversold 0, lost 0"


def test_a_retry_with_the_same_key_gets_its_own_reservation_also_after_the_sale_has_ended(evidence):
    assert list(verdict.broken_keys(evidence)) == []
    repeated = [exchange for _, exchange in asked(evidence.histories, Ask.RESERVE) if exchange.status == 201]
    assert len(repeated) >= 3 * len(evidence.reservations)


def test_the_books_of_the_provider_equal_the_orders_to_the_cent(evidence):
    assert list(verdict.books_differ(evidence)) == []
    assert sum(booking.kept_minor for booking in evidence.books.values()) == evidence.stock.sold * 99999


def test_the_server_ends_in_good_order_when_asked_to(aftermath):
    assert aftermath.exit_code == 0


def test_the_ledger_file_is_sound(ledger):
    assert rows(ledger, "PRAGMA integrity_check") == [("ok",)]
    assert rows(ledger, "PRAGMA foreign_key_check") == []


def test_the_counters_equal_the_sums_of_the_rows(ledger):
    counted = """
        SELECT sku_id AS sku, sum(quantity) FILTER (WHERE status = 'RESERVED') AS held_rows,
               sum(quantity - returned_quantity) FILTER (WHERE status IN ('CONFIRMED', 'RETURNED')) AS sold_rows
        FROM reservation GROUP BY sku_id"""
    differing = f"""
        SELECT * FROM stock LEFT JOIN ({counted}) ON sku = sku_id
        WHERE held <> coalesce(held_rows, 0) OR sold <> coalesce(sold_rows, 0) OR held + sold > total"""
    assert rows(ledger, differing) == []
    assert rows(ledger, "SELECT total, sold FROM stock") == [(KILLS * UNITS_A_ROUND, KILLS * UNITS_A_ROUND)]


def test_nobody_has_more_than_the_limit(ledger):
    live = "SELECT user_id FROM reservation WHERE status IN ('RESERVED', 'CONFIRMED')"
    assert rows(ledger, f"{live} GROUP BY user_id HAVING sum(quantity) > 1") == []


def test_the_journal_has_no_gap_and_ends_at_the_counters(ledger):
    assert rows(ledger, "SELECT count(*), max(sku_seq) FROM journal") == rows(
        ledger, "SELECT sku_seq, sku_seq FROM stock"
    )
    final = "SELECT total_after, held_after, sold_after FROM journal ORDER BY sku_seq DESC LIMIT 1"
    assert rows(ledger, final) == rows(ledger, "SELECT total, held, sold FROM stock")


def test_every_reservation_and_order_has_its_events(ledger):
    """What is to be told was committed with what it tells of; a movement in the journal is an event too."""
    moved = "SELECT reservation_id FROM journal WHERE reservation_id IS NOT NULL"
    assert rows(ledger, f"SELECT reservation_id FROM reservation WHERE reservation_id NOT IN ({moved})") == []
    told = "SELECT subject FROM outbox"
    assert rows(ledger, f"SELECT order_id FROM orders WHERE order_id NOT IN ({told})") == []


def test_no_payment_step_is_left_open(ledger):
    assert rows(ledger, "SELECT * FROM payment WHERE due IS NOT NULL") == []
    paid = "SELECT count(*), sum(total_minor) FROM orders WHERE status = 'PAID'"
    assert rows(ledger, paid) == [(KILLS * UNITS_A_ROUND, KILLS * UNITS_A_ROUND * 99999)]


def rows(ledger: sqlite3.Connection, query: str) -> Sequence[tuple[object, ...]]:
    return ledger.execute(query).fetchall()
