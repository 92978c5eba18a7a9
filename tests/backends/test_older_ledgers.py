"""Ledgers that are older than a migration: what was told and granted before is found all the same."""

import sqlite3

import asyncpg
from contract.ledgers import Audience, HandClock, answered, database_of
from core.shop import an_attempt

from flashsale.backends.postgres import connect
from flashsale.backends.postgres.connect import migrate as migrate_database
from flashsale.backends.postgres.find import FIND as POSTGRES
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.queries import read_sql
from flashsale.backends.sqlite.file import migrate
from flashsale.backends.sqlite.find import FIND as SQLITE

MOVEMENT = "({seq}, 'sale', 'lamp', {number}, 'RESERVE', 1, 10, 1, 0, 'res_{number}', 'ann', '', 1)"
ORDER = "({seq}, 'flashsale.orders', 'order.created', 'ord_{number}', 1, 1, '{{}}')"

GRANTED = """
INSERT INTO reservation (seq, reservation_id, user_id, sale_id, sku_id, quantity, status, unit_price_minor, currency,
    created_at_ms, expires_at_ms, request_kind, request_key)
VALUES (1, $1, 'ann', 'sale', $2, 1, 'RESERVED', 100, 'EUR', 1, 9000000000000000, 'cart', 'k')
"""


def rows(row: str, *seqs: int) -> str:
    return ", ".join(row.format(seq=seq, number=number) for number, seq in enumerate(seqs, 1))


def test_in_a_file_order_events_follow_the_movements():
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.executescript(f"{read_sql('sqlite/0001_ledger.sql')}; PRAGMA user_version = 1;")
    db.execute(f"INSERT INTO journal VALUES {rows(MOVEMENT, 1, 2, 3)}")
    db.execute(f"INSERT INTO outbox VALUES {rows(ORDER, 1, 2)}")
    assert migrate(db)[0] == "0002_relay.sql"
    assert [row[0] for row in db.execute(SQLITE["events_page"], (0, None, 100))] == [1, 2, 3, 4, 5]
    db.close()


async def test_in_a_database_order_events_follow_the_movements_of_their_transaction(tmp_path):
    db = await asyncpg.connect(await database_of(tmp_path))
    try:
        first, second = 5 << 20, 6 << 20
        await db.execute(f"INSERT INTO journal VALUES {rows(MOVEMENT, first + 1, first + 2, second + 1)}")
        await db.execute(f"INSERT INTO outbox VALUES {rows(ORDER, first + 1, second + 1)}")
        await db.execute("DROP TABLE relay")
        await db.execute(read_sql("postgres/0002_relay.sql"))
        told = [(row["seq"] >> 20, row["topic"]) for row in await db.fetch(POSTGRES["events_page"], 0, None, 100)]
        orders = "flashsale.orders"
        assert told == [(5, None), (5, None), (5, orders), (6, None), (6, orders)]
    finally:
        await db.close()


async def test_in_a_database_a_request_that_was_granted_before_its_key_moved_finds_its_reservations(
    tmp_path, monkeypatch
):
    url = await database_of(tmp_path)
    db = await asyncpg.connect(url)
    await db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with monkeypatch.context() as patched:
        old = {number: name for number, name in connect.migrations().items() if number <= 5}
        patched.setattr(connect, "migrations", lambda: old)
        await migrate_database(url)
    for sku in ("fan", "lamp"):
        await db.execute(GRANTED, f"res_{sku}", sku)
    await db.execute("INSERT INTO request VALUES ('ann', 'sale', 'k', ARRAY['res_lamp', 'res_fan'])")
    await migrate_database(url)
    assert await db.fetch("SELECT reservation_id, request_line FROM reservation ORDER BY 2") == [
        ("res_lamp", 0), ("res_fan", 1),
    ]  # fmt: skip
    await db.close()
    ledger = await PostgresLedger.open(url, HandClock(), Audience(), 100, 100)
    outcome = await answered(ledger.reserve, an_attempt("ann", ("lamp", 1), ("fan", 1), key="k"))
    assert [each.reservation_id for each in outcome.reservations] == ["res_lamp", "res_fan"]
    await ledger.close()


async def test_a_migration_may_take_as_long_as_it_takes(tmp_path, monkeypatch):
    url, connects, settings = await database_of(tmp_path), asyncpg.connect, {}

    async def noted(*args: object, **options: object) -> asyncpg.Connection:
        settings.update(options)
        return await connects(*args, **options)

    monkeypatch.setattr(asyncpg, "connect", noted)
    await migrate_database(url)
    assert settings["command_timeout"] is None
    assert settings["server_settings"]["statement_timeout"] == "0"
