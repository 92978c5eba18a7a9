"""Asking for units: by which way, and what is refused before any ledger is asked."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import HandClock, Shop, sqlite
from core.shop import HOLD_MS, OPENING_MS, a_draft, a_product, a_sale, refusal_of
from flow.line import a_queueing

from flashsale.core.catalogue import CreateSale, DeleteSale, Restock, SwitchSale
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item
from flashsale.core.sale import Switch
from flashsale.core.stock import Granted
from flashsale.core.visitor import Visitor
from flashsale.flow.expire import sweep
from flashsale.flow.reserve import Reserving
from flashsale.flow.storefront import Storefront


class Window:
    """A shop window before a ledger; `ways` says which way each attempt went."""

    def __init__(self, it: Shop, storefront: Storefront) -> None:
        self.shop = it
        self.storefront = storefront
        self.ways: list[str] = []
        self.bars: dict[str, Refused] = {}
        """What is against whom."""
        queueing = a_queueing(self, storefront, it.clock)
        self.reserving = Reserving(self, storefront, it.clock, queueing, judge=self._judge)

    def _judge(self, visitor, sale, attempt, then) -> None:
        attempt.barred = self.bars.get(visitor.user_id)
        then()

    def reserve(self, attempt, reply) -> None:
        self.ways.append("write")
        self.shop.ledger.reserve(attempt, reply)

    def refuse(self, attempt, reply) -> None:
        self.ways.append("read")
        self.shop.ledger.refuse(attempt, reply)

    async def wants(self, user: str, sku_id: str = "lamp", quantity: int = 1, key: str | None = None):
        future = asyncio.get_running_loop().create_future()
        self.reserving.reserve(Visitor(user), sku_id, quantity, key, future.set_result)
        return await future

    async def wants_all(self, user: str, *items: tuple[str, int], key: str | None = None):
        future = asyncio.get_running_loop().create_future()
        self.reserving.reserve_cart(Visitor(user), tuple(Item(*item) for item in items), key, future.set_result)
        return await future

    def shows(self, sku_id: str = "lamp") -> int:
        return self.storefront.offers[sku_id].available


@pytest.fixture
async def window(tmp_path) -> AsyncIterator[Window]:
    clock = HandClock()
    storefront = Storefront(clock)
    async with sqlite(tmp_path, clock, storefront) as ledger:
        it = Window(Shop(ledger, clock, storefront), storefront)
        await it.shop.opens(a_sale(a_product("lamp"), a_product("bulb", 5)), units={"lamp": 1, "bulb": 5})
        yield it


async def test_what_may_win_is_written_and_what_has_visibly_lost_is_read(window):
    assert isinstance(await window.wants("ann"), Granted)
    assert refusal_of(await window.wants("bob")) is Refusal.SOLD_OUT
    assert window.ways == ["write", "read"]


async def test_the_window_shows_a_commit_when_it_is_answered(window):
    assert window.shows() == 1
    outcome = await window.wants("ann")
    assert window.shows() == 0
    await window.shop.ledger.release(outcome.reservations[0].reservation_id, None)
    assert window.shows() == 1
    assert isinstance(await window.wants("bob"), Granted)


async def test_whoever_lost_a_reply_gets_his_reservation_although_all_is_sold(window):
    first = await window.wants("ann", key="k")
    again = await window.wants("ann", key="k")
    assert again.reservations == first.reservations
    assert window.ways == ["write", "read"]


async def test_a_product_that_no_sale_has_is_not_found(window):
    assert refusal_of(await window.wants("ann", "vase")) is Refusal.NOT_FOUND
    assert refusal_of(await window.wants_all("ann", ("lamp", 1), ("vase", 1))) is Refusal.NOT_FOUND
    assert window.ways == []


@pytest.mark.parametrize("quantity", [0, -1, -(10**30), 10**30])
async def test_a_quantity_that_makes_no_sense_is_refused_and_harms_nobody(window, quantity):
    outcomes = await asyncio.gather(
        window.wants("ann", quantity=quantity), window.wants_all("bob", ("lamp", quantity)), window.wants("cyd")
    )
    assert [refusal_of(each) for each in outcomes] == [Refusal.VALIDATION_FAILED, Refusal.VALIDATION_FAILED, None]
    assert await window.shop.discrepancies() == []


async def test_a_product_named_twice_in_a_cart_is_refused(window):
    outcome = await window.wants_all("ann", ("bulb", 3), ("bulb", 3))
    assert refusal_of(outcome) is Refusal.VALIDATION_FAILED
    assert refusal_of(await window.wants_all("ann")) is Refusal.VALIDATION_FAILED
    assert await window.shop.counters("bulb") == (5, 0, 0)


async def test_a_cart_holds_products_of_one_sale(window):
    await window.shop.opens(a_sale(a_product("vase"), sale_id="other"))
    assert refusal_of(await window.wants_all("ann", ("bulb", 1), ("vase", 1))) is Refusal.VALIDATION_FAILED
    assert isinstance(await window.wants_all("ann", ("bulb", 1), ("lamp", 1)), Granted)


async def test_before_its_start_a_sale_is_refused_from_a_read_and_at_its_start_it_sells(tmp_path):
    clock = HandClock(OPENING_MS - 1)
    storefront = Storefront(clock)
    async with sqlite(tmp_path, clock, storefront) as ledger:
        window = Window(Shop(ledger, clock, storefront), storefront)
        await window.shop.opens()
        assert refusal_of(await window.wants("ann")) is Refusal.NOT_STARTED
        clock.pass_ms(1)
        assert isinstance(await window.wants("ann"), Granted)
        assert window.ways == ["read", "write"]


async def test_a_unit_that_lapsed_is_on_sale_again_after_one_sweep(window):
    await window.wants("ann")
    window.shop.clock.pass_ms(HOLD_MS)
    assert await sweep(window.shop.ledger) == 1
    assert window.shows() == 1
    assert isinstance(await window.wants("bob"), Granted)


async def test_a_sweep_goes_on_until_nothing_is_left(window):
    await window.shop.ledger.change_sale(Restock("sale", "bulb", 1500, "more", "operator"))
    await asyncio.gather(*(window.wants(f"user-{number}", "bulb") for number in range(1400)))
    window.shop.clock.pass_ms(HOLD_MS)
    assert await sweep(window.shop.ledger) == 1400
    assert window.shows("bulb") == 1505


# -- What is barred.

BLOCKED, PASS_REQUIRED = Refused(Refusal.BLOCKED, "no"), Refused(Refusal.PASS_REQUIRED, "no pass")


async def test_what_is_barred_and_has_no_key_is_refused_without_asking_the_ledger(window):
    window.bars["ann"] = BLOCKED
    assert await window.wants("ann") == BLOCKED
    assert await window.wants_all("ann", ("lamp", 1), ("bulb", 1)) == BLOCKED
    assert window.ways == []
    assert isinstance(await window.wants("bob"), Granted)


async def test_what_is_barred_and_has_a_key_is_read_and_finds_its_earlier_reservation(window):
    first = await window.wants("ann", key="k")
    window.bars["ann"] = BLOCKED
    assert (await window.wants("ann", key="k")).reservations == first.reservations
    assert await window.wants("ann", "bulb", key="other") == BLOCKED
    assert window.ways == ["write", "read", "read"]


async def test_that_a_sale_is_over_is_said_before_that_a_pass_is_missing(window):
    window.bars["ann"] = PASS_REQUIRED
    assert await window.wants("ann") == PASS_REQUIRED
    await window.shop.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    assert refusal_of(await window.wants("ann")) is Refusal.ENDED
    assert refusal_of(await window.wants("ann", key="k")) is Refusal.ENDED


# -- The window.


async def test_a_product_means_the_sale_that_has_not_ended_else_the_latest(window):
    await window.shop.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    assert window.storefront.offers["lamp"].sale.sale_id == "sale"
    window.shop.clock.pass_ms(1)
    await window.shop.opens(a_sale(a_product("lamp"), sale_id="second"), units=3)
    assert (window.storefront.offers["lamp"].sale.sale_id, window.shows()) == ("second", 3)
    assert window.storefront.offers["bulb"].sale.sale_id == "sale"
    await window.shop.ledger.change_sale(SwitchSale("second", Switch.END, "operator"))
    assert window.storefront.offers["lamp"].sale.sale_id == "second"


async def test_a_deleted_sale_is_no_longer_shown(window):
    await window.shop.ledger.change_sale(DeleteSale("sale", "operator"))
    assert window.storefront.offers == {}
    assert refusal_of(await window.wants("ann")) is Refusal.NOT_FOUND
    await window.shop.ledger.change_sale(CreateSale(a_draft(a_sale(), 7), "operator"))
    assert window.shows() == 7


async def test_each_change_of_units_is_a_new_version_of_the_offer(window):
    versions = [window.storefront.offers["bulb"].version]
    for user in ("ann", "bob"):
        await window.wants(user, "bulb")
        versions.append(window.storefront.offers["bulb"].version)
    assert versions == sorted(set(versions))
