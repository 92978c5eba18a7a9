"""The PostgreSQL ledger when something fails: a commit's answer is lost, the server is away, rivals are elsewhere."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import asyncpg
import pytest
from contract.ledgers import Audience, HandClock, Shop, database_of, postgres, shop, together
from core.shop import a_product, a_sale, an_attempt, refusal_of
from servers.postgres import database_url
from servers.proxy import Proxy

from flashsale.backends.clock import HeardClock
from flashsale.backends.postgres import session
from flashsale.backends.postgres.connect import FAILING, connect, migrate, require_current
from flashsale.backends.postgres.leases import STUCK_MS, PostgresLeases
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.session import Session
from flashsale.core.catalogue import SwitchSale
from flashsale.core.questions import FindOrder, FindReservations
from flashsale.core.refusal import Refusal
from flashsale.core.sale import Switch
from flashsale.core.stock import Granted
from flashsale.ports import LedgerUnavailable, SchemaUnknown


@asynccontextmanager
async def behind_a_proxy(tmp_path) -> AsyncIterator[tuple[Shop, Proxy]]:
    async with Proxy(await database_of(tmp_path)).running() as proxy:
        clock, audience = HandClock(), Audience()
        ledger = await PostgresLedger.open(proxy.url, clock, audience, 8192, 512)
        try:
            yield Shop(ledger, clock, audience), proxy
        finally:
            await ledger.close()


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_commit_whose_answer_is_lost_is_answered_truthfully_and_done_once(tmp_path, cut):
    """Without a key, so that nothing but the writer's mark can tell."""
    async with behind_a_proxy(tmp_path) as (it, proxy):
        await it.opens(a_sale(a_product(limit=5)))
        proxy.cut = cut
        outcomes = await asyncio.gather(*(it.asks(an_attempt("ann")) for _ in range(3)))
        assert proxy.was_cut.is_set()
        assert [refusal_of(each) for each in outcomes] == [None, None, None]
        assert await it.counters() == (7, 3, 0)
        found = [(await it.reservation(each.reservations[0].reservation_id)).user_id for each in outcomes]
        assert found == ["ann"] * 3
        assert await it.discrepancies() == []


async def test_without_the_mark_a_lost_answer_would_be_done_twice(tmp_path, monkeypatch):
    """What the mark is for: this is what happens when a lost commit is simply run again."""

    async def never(_: Session) -> bool:
        return False

    monkeypatch.setattr(Session, "_became", never)
    async with behind_a_proxy(tmp_path) as (it, proxy):
        await it.opens(a_sale(a_product(limit=5)))
        proxy.cut = "after"
        await it.held()
        assert await it.counters() == (8, 2, 0)


async def test_if_the_server_is_gone_after_a_lost_commit_nobody_is_told_what_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "UNKNOWN_SECONDS", 0.5)
    async with behind_a_proxy(tmp_path) as (it, proxy):
        await it.opens()
        proxy.cut = "after"
        wish = it.asks(an_attempt("ann", key="k"))
        await proxy.was_cut.wait()
        proxy.away = True
        refused = await wish
        assert refusal_of(refused) is Refusal.UNAVAILABLE
        assert "repeat it with the same key" in refused.message
        assert it.ledger.alarm
        proxy.away = False
        again = await it.reserve("ann", key="k")
        assert isinstance(again, Granted)
        assert again.replayed
        assert it.ledger.alarm is None
        assert await it.counters() == (9, 1, 0)


async def test_a_server_that_is_away_is_503_and_its_return_needs_nobody(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy):
        await it.opens()
        proxy.away = True
        await terminate_all(await database_of(tmp_path))
        assert refusal_of(await it.reserve("ann", key="k")) is Refusal.UNAVAILABLE
        with pytest.raises(LedgerUnavailable):
            await it.ledger.expire()
        with pytest.raises(LedgerUnavailable):
            await it.counters()
        proxy.away = False
        assert isinstance(await it.reserve("ann", key="k"), Granted)
        assert await it.counters() == (9, 1, 0)


async def terminate_all(url: str) -> None:
    db = await asyncpg.connect(url)
    await db.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                   "WHERE datname = current_database() AND pid <> pg_backend_pid()")  # fmt: skip
    await db.close()


# -- Several processes on one database.


async def test_two_ledgers_grant_one_key_once_also_for_two_products(tmp_path):
    sale = a_sale(a_product("lamp"), a_product("bulb"))
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path) as other:
        await one.opens(sale, units=1000)
        for number in range(100):
            wishes = [
                one.asks(an_attempt(f"user-{number}", ("lamp", 1), key="k")),
                other.asks(an_attempt(f"user-{number}", ("bulb", 1), key="k")),
            ]
            said = {refusal_of(outcome) for outcome in await asyncio.gather(*wishes)}
            assert said == {None, Refusal.KEY_REUSED}
        assert await one.discrepancies() == []


async def test_two_ledgers_hold_one_limit(tmp_path):
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path) as other:
        await one.opens(units=1000)
        for number in range(100):
            wishes = [it.asks(an_attempt(f"user-{number}")) for it in (one, other) for _ in range(4)]
            outcomes = await asyncio.gather(*wishes)
            assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 1
        assert await one.counters() == (900, 100, 0)


async def test_carts_of_two_ledgers_in_opposite_order_do_not_block_each_other(tmp_path):
    sale = a_sale(a_product("lamp", limit=1000), a_product("bulb", limit=1000))
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path) as other:
        await one.opens(sale, units=1000)
        async with asyncio.timeout(20):
            for _ in range(50):
                outcomes = await asyncio.gather(
                    *(one.asks(an_attempt("ann", ("lamp", 1), ("bulb", 1))) for _ in range(4)),
                    *(other.asks(an_attempt("bob", ("bulb", 1), ("lamp", 1))) for _ in range(4)),
                )
                assert all(isinstance(outcome, Granted) for outcome in outcomes)
        assert await one.counters() == (600, 400, 0)
        assert await one.discrepancies() == []


async def test_a_pause_in_one_ledger_holds_in_the_other_from_its_answer_on(tmp_path):
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path) as other:
        await one.opens(units=1000)
        await one.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
        assert refusal_of(await other.reserve("ann")) is Refusal.PAUSED


async def test_two_ledgers_sweep_what_has_lapsed_once(tmp_path):
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path, one.clock) as other:
        await one.opens(units=100)
        for number in range(100):
            await one.held(f"user-{number}")
        one.clock.pass_ms(10**6)
        released = await together([one.ledger.expire(), other.ledger.expire()])
        assert sorted(released) == [0, 100]
        assert await one.counters() == (100, 0, 0)
        assert await one.discrepancies() == []


async def test_a_reader_of_the_journal_never_passes_a_transaction_under_way(tmp_path):
    """A later transaction that commits first is kept back until the earlier one has ended."""
    async with shop(postgres, tmp_path) as it:
        await it.opens(units=10)
        before = len(await it.journal())
        slow = await connect(await database_of(tmp_path))
        await slow.execute("BEGIN")
        await slow.fetchval("SELECT pg_current_xact_id()")
        await it.held("ann")
        assert len(await it.journal()) == before
        await slow.execute("ROLLBACK")
        await slow.close()
        assert len(await it.journal()) == before + 1


async def test_a_batch_in_which_everybody_is_refused_takes_no_transaction_id(tmp_path):
    async with shop(postgres, tmp_path) as it:
        await it.opens(units=1)
        await it.held("ann")
        db = await connect(await database_of(tmp_path))
        newest = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        before = await db.fetchval(newest)
        for number in range(10):
            assert refusal_of(await it.reserve(f"user-{number}")) is Refusal.SOLD_OUT
        assert await db.fetchval(newest) == before
        await db.close()


async def test_a_writer_whose_row_was_cleared_away_signs_in_again_before_it_commits(tmp_path):
    """A row that the committing transaction itself made could not be waited for."""
    async with behind_a_proxy(tmp_path) as (it, proxy):
        await it.opens(a_sale(a_product(limit=5)))
        db = await connect(await database_of(tmp_path))
        await db.execute("DELETE FROM writer")
        proxy.cut = "after"
        await it.held()
        assert await it.counters() == (9, 1, 0)
        assert await db.fetchval("SELECT count(*) FROM writer") == 1
        await db.close()


async def test_an_id_that_no_row_can_have_is_not_found_and_costs_its_neighbours_nothing(tmp_path):
    nobody = "res_\0"
    async with shop(postgres, tmp_path) as it:
        await it.opens()
        (held,) = await it.held("ann")
        asked = [it.ledger.find(FindReservations((nobody, held.reservation_id))), it.ledger.release(nobody, None)]
        found, refused = await asyncio.gather(*asked)
        assert [each.reservation_id for each in found] == [held.reservation_id]
        assert refusal_of(refused) is Refusal.NOT_FOUND
        assert await it.ledger.find(FindOrder(order_id=nobody)) is None
        assert await it.ledger.find(FindOrder(reservation_id=nobody)) is None
        assert refusal_of(await it.open_order(nobody)) is Refusal.NOT_FOUND


# -- The schema.


async def test_a_ledger_from_another_server_goes_on_above_what_is_there(tmp_path):
    """Its transaction ids were higher than those that are given here."""
    url = await database_of(tmp_path)
    async with shop(postgres, tmp_path) as it:
        await it.opens()
        await it.held("ann")
    db = await asyncpg.connect(url)
    await db.execute("UPDATE journal SET seq = seq + (1::bigint << 50)")
    await db.close()
    with pytest.raises(SchemaUnknown, match="was restored"):
        await PostgresLedger.open(url, HandClock(), Audience(), 16, 16)
    assert await migrate(url) == []
    async with shop(postgres, tmp_path) as it:
        await it.held("bob")
        assert [row.sku_seq for row in await it.journal()] == [1, 2, 3]


async def test_a_database_without_a_ledger_is_refused_with_the_remedy(tmp_path):
    db = await asyncpg.connect(database_url(await database_of(tmp_path), "template1"))
    with pytest.raises(SchemaUnknown, match="run `flashsale migrate`"):
        await require_current(db)
    await db.close()


async def test_a_ledger_of_a_newer_version_is_refused(tmp_path):
    url = await database_of(tmp_path)
    db = await asyncpg.connect(url)
    await db.execute("INSERT INTO flashsale_schema VALUES (9999)")
    with pytest.raises(SchemaUnknown, match="run a newer flashsale"):
        await PostgresLedger.open(url, HandClock(), Audience(), 16, 16)
    await db.close()


async def test_a_server_that_does_not_answer_is_unavailable():
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://postgres:secret@127.0.0.1:{nobody.getsockname()[1]}/shop"
        with pytest.raises(LedgerUnavailable, match="PostgreSQL cannot be reached") as caught:
            await PostgresLedger.open(url, HandClock(), Audience(), 16, 16)
    assert "secret" not in str(caught.value)


async def test_a_session_that_was_stopped_in_the_middle_of_a_copy_is_ended_and_its_products_are_free(tmp_path):
    url = await database_of(tmp_path)
    stopped = await connect(url)
    await stopped.execute("BEGIN")
    await stopped.execute("SELECT pg_advisory_xact_lock(1)")

    async def half_a_row() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(3600)

    copying = asyncio.create_task(stopped.copy_to_table("pruned", source=half_a_row()))
    leases = PostgresLeases(url, HeardClock())
    other = await connect(url)
    async with asyncio.timeout(3 * STUCK_MS / 1000):
        while not await other.fetchval("SELECT pg_try_advisory_lock(1)"):
            await leases.lease("sweep", "ann", 2_000)
            await asyncio.sleep(0.1)
    copying.cancel()
    with pytest.raises((*FAILING, asyncio.CancelledError)):
        await copying
    stopped.terminate()
    await leases.close()
    await other.close()
