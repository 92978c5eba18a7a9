"""Ledgers that are older than their relays: what was told before is read in order all the same."""

import sqlite3

import asyncpg
from contract.ledgers import database_of

from flashsale.backends.postgres.find import FIND as POSTGRES
from flashsale.backends.queries import read_sql
from flashsale.backends.sqlite.file import migrate
from flashsale.backends.sqlite.find import FIND as SQLITE

MOVEMENT = "({seq}, 'sale', 'lamp', {number}, 'RESERVE', 1, 10, 1, 0, 'res_{number}', 'ann', '', 1)"
ORDER = "({seq}, 'flashsale.orders', 'order.created', 'ord_{number}', 1, 1, '{{}}')"


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
