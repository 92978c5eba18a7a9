"""Which database is which: several of them are one ledger only in the order in which they joined it."""

import re

import asyncpg
import pytest
from contract.ledgers import Audience, HandClock, Shop, database_of, databases_of, postgres, shards, shop
from core.shop import a_draft, a_product, a_sale, an_attempt, refusal_of

from flashsale.backends.ids import shard_of
from flashsale.backends.postgres.joining import migrate_all
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.shards import ShardedLedger
from flashsale.core.catalogue import CreateSale
from flashsale.core.questions import FindSales, StockOf
from flashsale.core.refusal import Refusal
from flashsale.core.sale import Sale
from flashsale.ports import LedgerUnavailable, SchemaUnknown


async def opened(urls: list[str]) -> ShardedLedger:
    return await ShardedLedger.open(urls, [HandClock()] * len(urls), Audience(), 16, 16)


async def refused(urls: list[str]) -> str:
    with pytest.raises(SchemaUnknown) as caught:
        await (await opened(urls)).close()
    return str(caught.value)


async def ask(url: str, statement: str) -> object:
    db = await asyncpg.connect(url)
    try:
        return await db.fetchval(statement)
    finally:
        await db.close()


# -- At the start every database has to be the one that belongs in its place.


async def test_databases_in_another_order_are_refused_naming_the_one_that_is_wrong(tmp_path):
    first, second, third = await databases_of(tmp_path, 3)
    said = await refused([first, third, second])
    assert re.match(r"URL 2 of FLASHSALE_LEDGER names the database that is shard 2 \(URL 3\), not shard 1", said)
    assert "order" in said
    assert "URL 1 " in await refused([second, first, third])


async def test_a_database_of_another_ledger_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    first, _ = await databases_of(tmp_path)
    _, foreign = await databases_of(tmp_path / "other")
    assert "URL 2 of FLASHSALE_LEDGER names a database of another ledger" in await refused([first, foreign])


async def test_a_database_that_has_not_joined_is_refused_with_the_remedy(tmp_path):
    urls = await databases_of(tmp_path)
    fresh = await database_of(tmp_path, "_fresh")
    assert "run `flashsale migrate`" in await refused([*urls, fresh])
    assert "run `flashsale migrate`" in await refused([await database_of(tmp_path, "_alone"), fresh])


async def test_a_list_that_leaves_a_database_out_is_refused(tmp_path):
    first, second, _ = await databases_of(tmp_path, 3)
    assert "is in 3 databases, and FLASHSALE_LEDGER names 2" in await refused([first, second])
    for alone, said in ((first, "is in 3 databases"), (second, "is shard 1 of a ledger")):
        with pytest.raises(SchemaUnknown, match=said):
            await PostgresLedger.open(alone, HandClock(), Audience(), 16, 16)


# -- Joining.


async def test_migrate_gives_each_database_its_place_once(tmp_path):
    urls = [await database_of(tmp_path, f"_{number}") for number in range(3)]
    assert await migrate_all(urls) == ["joined as shard 1", "joined as shard 2"]
    assert await migrate_all(urls) == []
    assert [await ask(url, "SELECT shard_id FROM shard") for url in urls] == [0, 1, 2]
    await (await opened(urls)).close()


async def test_a_migrate_that_was_stopped_half_way_is_run_again(tmp_path):
    """The second database has joined, and the first does not count it yet."""
    urls = await databases_of(tmp_path)
    await ask(urls[0], "UPDATE shard SET shards = 1")
    assert "run `flashsale migrate`" in await refused(urls)
    assert await migrate_all(urls) == []
    await (await opened(urls)).close()


@pytest.mark.parametrize("change", ["reordered", "shortened", "an empty one in the place of one that is used"])
async def test_migrate_refuses_what_would_lose_a_shard(tmp_path, change):
    first, second = await databases_of(tmp_path)
    lists = {
        "reordered": [second, first],
        "shortened": [first],
        "an empty one in the place of one that is used": [first, await database_of(tmp_path, "_empty")],
    }
    with pytest.raises(SchemaUnknown, match="shard"):
        await migrate_all(lists[change])
    await (await opened([first, second])).close()


async def test_migrate_refuses_a_second_database_that_holds_a_ledger_of_its_own(tmp_path):
    async with shop(postgres, tmp_path) as alone:
        await alone.opens()
    with pytest.raises(SchemaUnknown, match=r"URL 2 .* holds a ledger of its own"):
        await migrate_all([await database_of(tmp_path, "_new"), await database_of(tmp_path)])


async def test_a_ledger_that_gets_a_second_database_keeps_what_it_has(tmp_path):
    async with shop(postgres, tmp_path) as alone:
        await alone.opens()
        (held,) = await alone.held("ann", key="k")
        paid = await alone.paid("bob")
    async with shop(shards, tmp_path) as both:
        assert await both.reservation(held.reservation_id) == held
        assert await both.held("ann", key="k") == [held]
        assert await both.order(paid.order.order_id) == paid.order
        again = await both.ledger.change_sale(CreateSale(a_draft(a_sale(sale_id="again")), "operator"))
        assert refusal_of(again) is Refusal.ILLEGAL_STATE, "its product is in the first sale"
        await both.opens(a_sale(a_product("vase"), sale_id="new"))
        assert both.ledger.where.known == {"sale": 0, "new": 1}
        assert await both.discrepancies() == []


async def test_a_transaction_of_the_time_before_pays_for_no_order_in_the_new_database(tmp_path):
    async with shop(postgres, tmp_path) as alone:
        await alone.opens()
        await alone.paid("ann", transaction="tx")
    async with shop(shards, tmp_path) as both:
        await both.opens(a_sale(a_product("vase"), sale_id="new"))
        outcome = await both.asks(vase("bob"))
        opened = await both.open_order(outcome.reservations[0].reservation_id, transaction="tx")
        assert refusal_of(opened) is Refusal.PAYMENT_REUSED


async def test_a_process_that_knows_the_first_database_only_makes_no_sale_any_more(tmp_path):
    """It was started before the second one joined. What it sells meanwhile is right."""
    async with shop(postgres, tmp_path) as old:
        await old.opens()
        async with shop(shards, tmp_path) as new:
            with pytest.raises(LedgerUnavailable, match="restart it with all of them"):
                await old.opens(a_sale(a_product("vase"), sale_id="new"))
            await old.held("ann")
            assert await new.counters() == (9, 1, 0)
            await new.opens(a_sale(a_product("vase"), sale_id="new"))


async def test_a_first_database_that_was_restored_to_an_earlier_moment_knows_the_sales_again_after_migrate(tmp_path):
    """Or else their products could be put into another sale, and the turns of its announcements would be too low."""
    urls = await databases_of(tmp_path)
    async with shop(shards, tmp_path) as before:
        await two_sales(before)
    for statement in ("DELETE FROM sale_shard", "UPDATE shard SET last_turn = 0"):
        await ask(urls[0], statement)
    assert await migrate_all(urls) == []
    async with shop(shards, tmp_path) as after:
        for sku_id in ("vase", "lamp"):
            again = await after.ledger.change_sale(
                CreateSale(a_draft(a_sale(a_product(sku_id), sale_id=f"again {sku_id}")), "operator")
            )
            assert refusal_of(again) is Refusal.ILLEGAL_STATE
        for number in range(2):
            await after.opens(a_sale(a_product(f"new {number}"), sale_id=f"new {number}"))


# -- Ids.


async def test_ids_of_the_first_database_are_what_they_were_and_the_others_end_with_their_shard(tmp_path):
    async with shop(shards, tmp_path) as it:
        await two_sales(it)
        for sku_id, form, number in (("vase", r"res_[0-9a-f]{44}s01", 1), ("lamp", r"res_[0-9a-f]{44}", 0)):
            outcome = await it.asks(wish("ann", sku_id))
            reservation_id = outcome.reservations[0].reservation_id
            assert re.fullmatch(form, reservation_id)
            assert shard_of(reservation_id) == number
    assert shard_of("res_qABCdef") is None
    assert shard_of("res_0") is None


async def two_sales(it: Shop) -> None:
    """Vases on the second database, lamps on the first."""
    await it.opens(a_sale(a_product("vase", 5), sale_id="vases"))
    await it.opens(a_sale(a_product("lamp", 5), sale_id="sale"))
    assert await it.ledger.find(StockOf("vases"))
    assert isinstance((await it.ledger.find(FindSales()))[0], Sale)


def wish(user: str, sku_id: str):
    return an_attempt(user, (sku_id, 1), sale_id={"vase": "vases", "lamp": "sale"}[sku_id])


def vase(user: str):
    return an_attempt(user, ("vase", 1), sale_id="new")
