"""A ledger in several databases: what spans them, and what becomes of the others when one is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import asyncpg
import pytest
from contract.ledgers import Audience, HandClock, Shop, databases_of, shards, shop, together
from core.shop import HOLD_MS, a_draft, a_product, a_sale, an_attempt, refusal_of
from servers.proxy import Proxy

from flashsale.backends.ids import shard_of
from flashsale.backends.postgres import catalogue, placing
from flashsale.backends.postgres.shards import ShardedLedger
from flashsale.core.catalogue import CreateSale, DeleteSale, EditSale, SwitchSale
from flashsale.core.event import published
from flashsale.core.journal import Movement
from flashsale.core.order import OrderStatus
from flashsale.core.questions import (
    AuditPage,
    EventsAfter,
    FindActiveReservations,
    FindOrder,
    FindOrders,
    FindReservations,
    FindSales,
    StockOf,
)
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import Reservation, Status
from flashsale.core.sale import Sale, Switch
from flashsale.core.stock import Attempt, Granted
from flashsale.ports import LedgerUnavailable

SALE_OF = {"vase": "vases", "lamp": "sale"}
"""Vases are sold by the second database, lamps by the first."""


def wish(user: str, sku_id: str, key: str | None = None) -> Attempt:
    return an_attempt(user, (sku_id, 1), key=key, sale_id=SALE_OF[sku_id])


async def held(it: Shop, user: str, sku_id: str) -> Reservation:
    outcome = await it.asks(wish(user, sku_id))
    assert isinstance(outcome, Granted), outcome
    return outcome.reservations[0]


async def open_both(it: Shop, units: int = 1000) -> None:
    for sku_id, sale_id in SALE_OF.items():
        await it.opens(a_sale(a_product(sku_id, 5), sale_id=sale_id), units=units)


@pytest.fixture
async def both(tmp_path) -> AsyncIterator[Shop]:
    """A shop that sells vases and lamps, each in a database of its own."""
    async with shop(shards, tmp_path) as it:
        await open_both(it)
        yield it


async def units_of(it: Shop, sku_id: str) -> tuple[int, int, int]:
    (row,) = await it.ledger.find(StockOf(SALE_OF[sku_id]))
    return row.available, row.held, row.sold


async def ask(url: str, statement: str, *values: object) -> list:
    db = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await db.fetch(statement, *values)]
    finally:
        await db.close()


# -- A sale lives in one database, and a product in one sale that has not ended.


async def test_a_new_sale_goes_to_the_shard_with_the_fewest_that_have_not_ended(tmp_path):
    async with shop(shards, tmp_path) as it:
        for number in range(4):
            await it.opens(a_sale(a_product(f"p{number}"), sale_id=f"s{number}"))
        assert it.ledger.where.known == {"s0": 1, "s1": 0, "s2": 1, "s3": 0}
        for sale_id in ("s1", "s3"):
            await it.ledger.change_sale(SwitchSale(sale_id, Switch.END, "operator"))
        for number in (4, 5):
            await it.opens(a_sale(a_product(f"p{number}"), sale_id=f"s{number}"))
        assert [it.ledger.where.known[each] for each in ("s4", "s5")] == [0, 0]


class Operator:
    """A process of a fleet that makes a sale on the shard it is told."""

    def __init__(self, ledger: ShardedLedger) -> None:
        self.ledger = ledger

    async def creates(self, sale_id: str, sku_id: str, to: int) -> Sale | Refused | None:
        change = CreateSale(a_draft(a_sale(a_product(sku_id), sale_id=sale_id)), "operator")
        ledger = self.ledger
        return await placing.place(change, 2, to, ledger._clock.now_ms, ledger._alone, partial(ledger._write, change))


@asynccontextmanager
async def two_operators(tmp_path) -> AsyncIterator[tuple[Operator, Operator]]:
    async with shop(shards, tmp_path) as one, shop(shards, tmp_path) as other:
        yield Operator(one.ledger), Operator(other.ledger)


async def test_two_processes_that_sell_one_product_on_two_shards_at_once_do_not_both_succeed(tmp_path):
    async with two_operators(tmp_path) as (one, other):
        for number in range(20):
            outcomes = await asyncio.gather(
                one.creates(f"a{number}", f"sku{number}", 0), other.creates(f"b{number}", f"sku{number}", 1)
            )
            assert {refusal_of(each) for each in outcomes} == {None, Refusal.ILLEGAL_STATE}
        assert len(await one.ledger.find(FindSales())) == 20


async def test_two_processes_that_use_one_id_at_once_make_one_sale(tmp_path):
    async with two_operators(tmp_path) as (one, other):
        for number in range(20):
            outcomes = await asyncio.gather(
                one.creates(f"s{number}", f"a{number}", 0), other.creates(f"s{number}", f"b{number}", 1)
            )
            assert {refusal_of(each) for each in outcomes} == {None, Refusal.ILLEGAL_STATE}
        sales = await one.ledger.find(FindSales())
        assert sorted(sale.sale_id for sale in sales) == sorted(f"s{number}" for number in range(20))


async def test_a_product_added_to_a_draft_on_one_shard_is_taken_for_a_sale_on_the_other(tmp_path):
    async with shop(shards, tmp_path) as it:
        await it.opens(a_sale(a_product("vase"), sale_id="draft", starts_at_ms=None))
        wanted = a_draft(a_sale(a_product("vase"), a_product("lamp"), sale_id="draft", starts_at_ms=None))
        assert isinstance(await it.ledger.change_sale(EditSale(wanted, None, "operator")), Sale)
        created = await it.ledger.change_sale(CreateSale(a_draft(a_sale(a_product("lamp"))), "operator"))
        assert refusal_of(created) is Refusal.ILLEGAL_STATE
        assert created.details == {"skuId": "lamp", "saleId": "draft"}


async def test_a_product_of_a_sale_that_has_ended_or_is_gone_is_free_for_the_other_shard(both):
    await both.ledger.change_sale(SwitchSale("vases", Switch.END, "operator"))
    assert await both.ledger.change_sale(DeleteSale("sale", "operator")) is None
    for sku_id in SALE_OF:
        await both.opens(a_sale(a_product(sku_id), sale_id=f"new {sku_id}"))


class Stopped:
    """A process that was stopped after its sale was announced, with what it is about to do."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator
        self.announced = asyncio.Event()
        self.goes_on = asyncio.Event()

    async def creates(self, sale_id: str, sku_id: str, to: int) -> Sale | Refused | None:
        change = CreateSale(a_draft(a_sale(a_product(sku_id), sale_id=sale_id)), "operator")
        ledger = self._operator.ledger

        async def write(number: int, announced: catalogue.Announced):
            self.announced.set()
            await self.goes_on.wait()
            return await ledger._write(change, number, announced)

        return await placing.place(change, 2, to, ledger._clock.now_ms, ledger._alone, write)


async def test_a_process_that_was_stopped_before_it_wrote_its_sale_finds_the_product_taken(tmp_path):
    """Without the fence it would write it, and two sales would have the product."""
    async with two_operators(tmp_path) as (one, other):
        stopped = Stopped(one)
        late = asyncio.ensure_future(stopped.creates("late", "lamp", 1))
        await stopped.announced.wait()
        assert isinstance(await other.creates("quick", "lamp", 0), Sale)
        stopped.goes_on.set()
        assert refusal_of(await late) is Refusal.ILLEGAL_STATE
        assert [sale.sale_id for sale in await one.ledger.find(FindSales())] == ["quick"]


async def test_a_crash_between_announcing_and_writing_is_completed_by_the_next_with_that_id(tmp_path):
    async with two_operators(tmp_path) as (one, other):
        stopped = Stopped(one)
        crashed = asyncio.ensure_future(stopped.creates("sale", "lamp", 1))
        await stopped.announced.wait()
        crashed.cancel()
        assert await other.ledger.find(FindSales()) == []
        assert isinstance(await other.creates("sale", "lamp", 0), Sale)
        assert other.ledger.where.known["sale"] == 1, "an id stays with its shard"


async def test_a_crash_between_announcing_and_writing_keeps_no_product_from_others(tmp_path):
    async with two_operators(tmp_path) as (one, other):
        stopped = Stopped(one)
        crashed = asyncio.ensure_future(stopped.creates("never", "lamp", 1))
        await stopped.announced.wait()
        crashed.cancel()
        assert isinstance(await other.creates("sale", "lamp", 0), Sale)


async def test_the_id_of_a_deleted_sale_stays_with_its_shard_and_its_journal(both):
    assert await both.ledger.change_sale(DeleteSale("vases", "operator")) is None
    for number in range(2):
        await both.opens(a_sale(a_product(f"more {number}"), sale_id=f"more {number}"))
    await both.opens(a_sale(a_product("vase"), sale_id="vases"))
    journal = await both.journal("vases")
    assert [row.sku_seq for row in journal] == [1, 2, 3]
    assert shard_of((await held(both, "ann", "vase")).reservation_id) == 1


# -- Buying: an attempt goes to its shard, an id tells its shard.


async def test_each_sale_is_sold_in_its_database(both, tmp_path):
    for sku_id in SALE_OF:
        await held(both, "ann", sku_id)
    for number, url in enumerate(await databases_of(tmp_path)):
        assert await ask(url, "SELECT sku_id, held FROM stock") == [(["lamp", "vase"][number], 1)]


@pytest.mark.parametrize("way", ["reserve", "refuse"])
async def test_an_attempt_for_a_sale_that_this_process_has_not_seen_yet_finds_it(both, tmp_path, way):
    async with shop(shards, tmp_path) as other:
        other.ledger.where.known.clear()
        for sku_id in SALE_OF:
            future = asyncio.get_running_loop().create_future()
            getattr(other.ledger, way)(wish("ann", sku_id), future.set_result)
            assert isinstance(await future, Granted)
        future = asyncio.get_running_loop().create_future()
        other.ledger.reserve(an_attempt("ann", ("lamp", 1), sale_id="no such sale"), future.set_result)
        assert refusal_of(await future) is Refusal.NOT_FOUND


async def test_an_id_that_does_not_tell_its_shard_is_found_on_any(both, tmp_path):
    """As those of queued sales, which are made before anybody knows the shard."""
    for number, (sku_id, url) in enumerate(zip(reversed(SALE_OF), await databases_of(tmp_path), strict=True)):
        made = await held(both, "ann", sku_id)
        name = f"res_q{number}abc"
        await ask(
            url, "UPDATE reservation SET reservation_id = $1 WHERE reservation_id = $2", name, made.reservation_id
        )
        await ask(url, "UPDATE journal SET reservation_id = $1 WHERE reservation_id = $2", name, made.reservation_id)
    found = await both.ledger.find(FindReservations(("res_q0abc", "res_q1abc", "res_q2abc")))
    assert {each.reservation_id for each in found} == {"res_q0abc", "res_q1abc"}
    for number in range(2):
        name = f"res_q{number}abc"
        opened = await both.open_order(name, transaction=f"tx{number}")
        assert await both.ledger.find(FindOrder(reservation_id=name)) == opened.order
        assert (await both.ledger.release(name, "ann")).status is Status.CANCELLED
    assert refusal_of(await both.ledger.release("res_q2abc", None)) is Refusal.NOT_FOUND
    assert refusal_of(await both.open_order("res_q2abc")) is Refusal.NOT_FOUND


async def test_reservations_of_two_sales_are_in_no_order_together(both):
    vase, lamp = await held(both, "ann", "vase"), await held(both, "ann", "lamp")
    opened = await both.open_order(vase.reservation_id, lamp.reservation_id)
    assert refusal_of(opened) is Refusal.VALIDATION_FAILED
    strangers = await both.open_order(vase.reservation_id, lamp.reservation_id, user="bob")
    assert refusal_of(strangers) is Refusal.NOT_FOUND
    assert refusal_of(await both.open_order(vase.reservation_id, "res_0")) is Refusal.NOT_FOUND


# -- Questions about everything are asked of all, and their answers put together in order.


async def test_a_users_lists_are_of_all_shards_newest_first_and_at_most_200(both):
    made: list[Reservation] = []
    for number in range(6):
        both.clock.pass_ms(1)
        made.insert(0, await held(both, "ann", ("vase", "lamp")[number % 2]))
    now_ms = both.clock.now_ms()
    assert await both.ledger.find(FindActiveReservations("ann", now_ms)) == made
    orders = [(await both.open_order(each.reservation_id, transaction=each.reservation_id)).order for each in made]
    listed = [each.order_id for each in await both.ledger.find(FindOrders("ann"))]
    assert listed == sorted((each.order_id for each in orders), reverse=True)


async def test_sales_and_stock_of_all_shards_are_one_list_in_order(both):
    assert [sale.sale_id for sale in await both.ledger.find(FindSales())] == ["sale", "vases"]
    assert [row.sku_id for row in await both.ledger.find(StockOf())] == ["lamp", "vase"]


async def test_what_is_due_is_due_wherever_it_is(both):
    for sku_id in SALE_OF:
        reservation = await held(both, "ann", sku_id)
        await both.open_order(reservation.reservation_id, transaction=sku_id)
        both.clock.pass_ms(1)
    assert [payment.transaction_id for payment in (await both.due()).payments] == ["vase", "lamp"]


async def test_the_audit_of_all_shards_is_read_in_pages_by_one_cursor(both):
    for number in range(6):
        both.clock.pass_ms(1)
        switch = (Switch.PAUSE, Switch.RESUME)[number // 2 % 2]
        await both.ledger.change_sale(SwitchSale(("sale", "vases")[number % 2], switch, f"operator {number}"))
    read, after = [], 0
    while page := await both.ledger.find(AuditPage(after, 3)):
        read += page
        after = page[-1].seq
    assert [entry.actor for entry in read][2:] == [f"operator {number}" for number in range(6)]


# -- Events: each shard's in the order of its commits, between shards by time.


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_of_events_tell_each_products_movements_without_a_gap_and_nothing_twice(both, limit):
    wishes = [wish(f"user-{number}", ("vase", "lamp")[number % 2]) for number in range(40)]
    await asyncio.gather(*(both.asks(each) for each in wishes))
    told, after = [], 0
    while page := await both.ledger.find(EventsAfter(after, limit)):
        told += [row for _, row in page]
        after = page[-1][0]
    ids = [event.id for row in told for event in published(row)]
    assert len(ids) == len(set(ids))
    for sku_id in SALE_OF:
        numbers = [row.sku_seq for row in told if isinstance(row, Movement) and row.sku_id == sku_id]
        assert numbers == list(range(1, 22))


async def test_any_cursor_of_a_page_leads_on_from_where_it_stands(both):
    for number in range(3):
        for sku_id in SALE_OF:
            both.clock.pass_ms(1)
            await held(both, f"user-{number}", sku_id)
    everything = await both.ledger.find(EventsAfter(0))
    for place, (cursor, _) in enumerate(everything):
        assert await both.ledger.find(EventsAfter(cursor)) == everything[place + 1 :]


# -- One shard away: what is on it is UNAVAILABLE, the others go on.


class Behind(NamedTuple):
    shop: Shop
    proxy: Proxy
    """Before one of the databases."""
    urls: list[str]


@asynccontextmanager
async def behind_a_proxy(tmp_path, number: int = 1) -> AsyncIterator[Behind]:
    urls = await databases_of(tmp_path)
    async with Proxy(urls[number]).running() as proxy:
        urls[number] = proxy.url
        clock, audience = HandClock(), Audience()
        ledger = await ShardedLedger.open(urls, [clock, clock], audience, 8192, 512)
        try:
            yield Behind(Shop(ledger, clock, audience), proxy, urls)
        finally:
            await ledger.close()


async def test_while_a_shard_is_away_the_other_sells_expires_and_takes_money(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy, _):
        await open_both(it)
        gone = await held(it, "ann", "vase")
        lapsing = await held(it, "ann", "lamp")
        proxy.cut_all()
        assert refusal_of(await it.asks(wish("bob", "vase"))) is Refusal.UNAVAILABLE
        for failing in (it.ledger.release(gone.reservation_id, None), it.open_order(gone.reservation_id)):
            with pytest.raises(LedgerUnavailable):
                await failing
        it.clock.pass_ms(HOLD_MS)
        assert await it.ledger.expire() == 1
        assert (await it.reservation(lapsing.reservation_id)).status is Status.EXPIRED
        paid = await it.open_order((await held(it, "bob", "lamp")).reservation_id)
        assert paid.order.status is OrderStatus.PENDING_PAYMENT
        assert await units_of(it, "lamp") == (999, 1, 0)
        assert it.ledger.alarm is None
        assert list(it.ledger.away) == [1]
        proxy.away = False
        await until(it, lambda: not it.ledger.away)
        assert await units_of(it, "vase") == (1000, 0, 0)
        assert isinstance(await it.asks(wish("bob", "vase")), Granted)


async def until(it: Shop, what) -> None:
    """As the sweeper does, until it is so."""
    async with asyncio.timeout(20):
        while not what():
            await together([it.ledger.expire()])


async def test_while_a_shard_is_away_its_sales_are_shown_as_they_were_last_seen(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy, _):
        await open_both(it)
        await held(it, "ann", "vase")
        sales, stock = await it.ledger.find(FindSales()), await it.ledger.find(StockOf())
        proxy.cut_all()
        await held(it, "bob", "lamp")
        assert await it.ledger.find(FindSales()) == sales
        assert [(row.sku_id, row.held) for row in await it.ledger.find(StockOf())] == [("lamp", 1), ("vase", 1)]
        assert [row.held for row in stock] == [0, 1]


async def test_while_a_shard_is_away_a_users_list_is_unavailable_and_not_shorter(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy, _):
        await open_both(it)
        await held(it, "ann", "vase")
        found = await held(it, "ann", "lamp")
        proxy.cut_all()
        for query in (FindActiveReservations("ann", it.clock.now_ms()), FindOrders("ann")):
            with pytest.raises(LedgerUnavailable):
                await it.ledger.find(query)
        assert await it.ledger.find(FindReservations((found.reservation_id,))) == [found]
        with pytest.raises(LedgerUnavailable):
            await it.ledger.find(FindReservations(("res_qmaybe",)))


async def test_while_a_shard_is_away_the_others_events_are_told_and_its_own_follow(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy, _):
        await open_both(it)
        await held(it, "ann", "vase")
        proxy.cut_all()
        await held(it, "bob", "lamp")
        page = await it.ledger.find(EventsAfter(0))
        assert {row.sku_id for _, row in page} == {"lamp"}
        proxy.away = False
        await until(it, lambda: not it.ledger.away)
        rest = await it.ledger.find(EventsAfter(page[-1][0]))
        assert [(row.sku_id, row.sku_seq) for _, row in rest] == [("vase", 1), ("vase", 2)]


async def test_a_shard_that_does_not_answer_holds_the_others_up_for_a_second_at_most(tmp_path):
    async with behind_a_proxy(tmp_path) as (it, proxy, _):
        await open_both(it)
        proxy.silent.clear()
        try:
            async with asyncio.timeout(3):
                for _ in range(20):
                    await it.ledger.expire()
            async with asyncio.timeout(3):
                for number in range(20):
                    await held(it, f"user-{number}", "lamp")
                    await it.ledger.find(FindSales())
        finally:
            proxy.silent.set()
            proxy.cut_all()


async def test_a_process_starts_while_a_shard_is_away_shows_its_sales_and_finds_it_when_it_is_back(tmp_path):
    async with shop(shards, tmp_path) as before:
        await open_both(before)
    urls = await databases_of(tmp_path)
    async with Proxy(urls[1]).running() as proxy:
        proxy.away = True
        clock = HandClock()
        ledger = await ShardedLedger.open([urls[0], proxy.url], [clock, clock], Audience(), 16, 16)
        it = Shop(ledger, clock, Audience())
        try:
            assert sorted(sale.sale_id for sale in await ledger.find(FindSales())) == ["sale", "vases"]
            assert refusal_of(await it.asks(wish("ann", "vase"))) is Refusal.UNAVAILABLE
            assert isinstance(await it.asks(wish("ann", "lamp")), Granted)
            assert "cannot be reached" in ledger.away[1]
            proxy.away = False
            await until(it, lambda: not ledger.away)
            assert isinstance(await it.asks(wish("ann", "vase")), Granted)
        finally:
            await ledger.close()


async def test_a_database_that_comes_late_and_is_the_wrong_one_is_not_used(tmp_path):
    urls = await databases_of(tmp_path)
    async with Proxy(urls[0]).running() as proxy:
        proxy.away = True
        clock = HandClock()
        ledger = await ShardedLedger.open([urls[0], proxy.url], [clock, clock], Audience(), 16, 16)
        it = Shop(ledger, clock, Audience())
        try:
            proxy.away = False
            await until(it, lambda: "is shard 0 (URL 1), not shard 1" in ledger.away.get(1, ""))
            with pytest.raises(LedgerUnavailable):
                await ledger.find(FindOrders("ann"))
        finally:
            await ledger.close()


async def test_without_the_first_shard_nothing_starts(tmp_path):
    urls = await databases_of(tmp_path)
    async with Proxy(urls[0]).running() as proxy:
        proxy.away = True
        with pytest.raises(LedgerUnavailable):
            await ShardedLedger.open([proxy.url, urls[1]], [HandClock()] * 2, Audience(), 16, 16)
