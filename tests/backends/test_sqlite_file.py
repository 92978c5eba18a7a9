"""The ledger's file: one owner, durable, migrated, and proof against overselling by itself."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from contract.ledgers import Audience, HandClock, shop, sqlite
from core.shop import a_product, a_sale

from flashsale.backends.sqlite.file import connect, migrate, migrations, schema_version
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.ports import LedgerBroken, LedgerInUse, SchemaUnknown

OPEN_AND_WAIT = """
import asyncio, sys
from pathlib import Path
from flashsale.backends.clock import SteadyClock
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.flow.storefront import Storefront

async def main():
    clock = SteadyClock()
    ledger = await SqliteLedger.open(Path(sys.argv[1]), clock, Storefront(clock), 16, 16)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


def another_process(path: Path) -> subprocess.Popen[str]:
    """It has opened the ledger when this returns."""
    command = [sys.executable, "-c", OPEN_AND_WAIT, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def ends(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


async def opened(path: Path) -> SqliteLedger:
    return await SqliteLedger.open(path, HandClock(), Audience(), 16, 16)


# -- One owner.


async def test_a_second_process_is_refused_and_told_who_has_it(tmp_path):
    holder = another_process(tmp_path / "ledger.db")
    try:
        with pytest.raises(LedgerInUse, match=rf"ledger\.db is in use by the process with pid {holder.pid}$"):
            await opened(tmp_path / "ledger.db")
    finally:
        ends(holder)


async def test_the_file_is_free_when_its_owner_is_gone_however_it_went(tmp_path):
    ends(another_process(tmp_path / "ledger.db"))
    ledger = await opened(tmp_path / "ledger.db")
    await ledger.close()


async def test_the_same_process_cannot_open_it_twice(tmp_path):
    ledger = await opened(tmp_path / "ledger.db")
    with pytest.raises(LedgerInUse, match=f"pid {os.getpid()}"):
        await opened(tmp_path / "ledger.db")
    await ledger.close()
    await (await opened(tmp_path / "ledger.db")).close()


async def test_the_same_file_by_another_name_is_refused_too(tmp_path):
    ledger = await opened(tmp_path / "ledger.db")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "ledger.db")
    try:
        with pytest.raises(LedgerInUse):
            await (await opened(tmp_path / "elsewhere" / "link.db")).close()
    finally:
        await ledger.close()


async def test_a_ledger_that_could_not_be_opened_is_free_again(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as newer:
        newer.execute("PRAGMA user_version = 9999")
    for _ in range(2):
        with pytest.raises(SchemaUnknown):
            await opened(tmp_path / "ledger.db")


# -- Migrations.


async def test_a_newer_schema_is_refused_and_left_as_it_is(tmp_path):
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as newer:
        newer.execute(f"PRAGMA user_version = {max(migrations()) + 1}")
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(SchemaUnknown, match="run a newer flashsale"):
        await opened(tmp_path / "ledger.db")
    assert before[:16] == (tmp_path / "ledger.db").read_bytes()[:16]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as newer:
        assert newer.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


def test_migrations_run_once(tmp_path):
    with closing(connect(tmp_path / "ledger.db", writes=True)) as db:
        assert migrate(db) == list(migrations().values())
        schema = db.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
        assert migrate(db) == []
        assert schema_version(db) == max(migrations())
        assert db.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == schema


def test_migrations_are_numbered_without_gaps():
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


async def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"not a database, whatever its name says" * 100)
    before = (tmp_path / "ledger.db").read_bytes()
    with pytest.raises(LedgerBroken, match=r"ledger\.db"):
        await opened(tmp_path / "ledger.db")
    assert (tmp_path / "ledger.db").read_bytes() == before


# -- Durable.


def test_a_commit_waits_for_the_disk(tmp_path):
    with closing(connect(tmp_path / "ledger.db", writes=True)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL"
        assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


async def test_a_reading_connection_cannot_write(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        reading = closing(connect(tmp_path / "ledger.db", writes=False))
        with reading as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
            db.execute("DELETE FROM stock")


# -- The file itself refuses what must not be.

WRONG = {
    "oversold": "UPDATE stock SET held = total + 1",
    "sold more than there is": "UPDATE stock SET sold = total - held + 1",
    "held below nothing": "UPDATE stock SET held = -1",
    "sold below nothing": "UPDATE stock SET sold = -1",
    "a total below its units": "UPDATE stock SET total = held + sold - 1",
    "a reservation of nothing": "UPDATE reservation SET quantity = 0",
    "a reservation in no known state": "UPDATE reservation SET status = 'LOST'",
    "more returned than bought": "UPDATE reservation SET returned_quantity = quantity + 1",
    "one number for two movements": "UPDATE journal SET sku_seq = 1",
    "one transaction for two orders": "UPDATE payment SET transaction_id = 'tx-ann'",
    "a refund of nothing": "UPDATE refund SET amount_minor = 0",
    "an order of less than nothing": "UPDATE orders SET total_minor = -1",
    "a sale without its products' units": "DELETE FROM sale",
    "text for a number": "UPDATE stock SET held = 'many'",
}


@pytest.mark.parametrize("statement", WRONG.values(), ids=WRONG.keys())
async def test_the_file_refuses(statement, tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        await it.held("cyd")
        paid = await it.paid("ann", transaction="tx-ann")
        await it.paid("bob", transaction="tx-bob")
        await it.ledger.cancel_order(paid.order.order_id, None, "")
    with closing(connect(tmp_path / "ledger.db", writes=True)) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(statement)


async def test_what_the_ledger_leaves_passes_sqlites_own_check(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product("lamp", 5), a_product("bulb", 5)))
        await it.paid("ann", ("lamp", 2), ("bulb", 1))
        await it.held("bob", ("lamp", 1), key="k")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


# -- What a proof of the counters would find.

DOCTORED = {
    "a unit held by nobody": "UPDATE stock SET held = held + 1",
    "a unit sold to nobody": "UPDATE stock SET sold = sold + 1",
    "a reservation that is gone": "DELETE FROM reservation WHERE status = 'RESERVED'",
    "a total that nobody journalled": "UPDATE stock SET total = total + 1",
    "a journal that ends too early": "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)",
}


@pytest.mark.parametrize("statement", DOCTORED.values(), ids=DOCTORED.keys())
async def test_a_doctored_ledger_is_found_out(statement, tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        await it.paid("ann")
        await it.held("bob")
        assert await it.discrepancies() == []
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.execute(statement)
        db.commit()
    async with shop(sqlite, tmp_path) as it:
        assert len(await it.discrepancies()) >= 1
