"""What forgetting what was told promises; asked of every ledger."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest
from contract.ledgers import DATABASES, HandClock, Shop, history_of, leases_of, shop, tampered
from core.shop import a_product, a_sale

from flashsale.core.catalogue import DeleteSale, SwitchSale
from flashsale.core.event import Event
from flashsale.core.questions import BasesOf, EventsAfter, MovedProducts, PrunedTo, PruneReach
from flashsale.core.refusal import Refused
from flashsale.core.retention import EVERYTHING, Base, Reach
from flashsale.core.sale import Switch
from flashsale.ports import History, Leases

LINE = ("sale", "lamp")


class Attic(NamedTuple):
    """A shop, and what was told in it."""

    shop: Shop
    history: History
    leases: Leases

    @property
    def everything(self) -> Reach:
        return Reach(EVERYTHING, 0, self.shop.clock.now_ms() + 1)

    async def sells(self, units: int = 20) -> None:
        """A sale with everything in it: paid, given back, lapsed."""
        await self.shop.opens(units=units)
        await self.shop.paid("ann", transaction="tx-ann")
        (held,) = await self.shop.held("bob")
        await self.shop.ledger.release(held.reservation_id, None)
        await self.shop.held("cid")
        self.shop.clock.pass_ms(10 * 60 * 1000)
        await self.shop.ledger.expire()

    async def numbers(self) -> list[int]:
        return [seq for seq, _ in await self.shop.ledger.find(EventsAfter(0, 1000))]

    async def bases(self, sale_id: str = "sale") -> list[Base]:
        return await self.shop.ledger.find(BasesOf(sale_id))

    async def pruned_to(self) -> int:
        return await self.shop.ledger.find(PrunedTo())

    async def prune_all(self, reach: Reach | None = None, line: tuple[str, str] = LINE) -> int:
        reach = reach or self.everything
        events = await every(lambda: self.history.prune_events(reach))
        return events + await every(lambda: self.history.prune_movements(line, reach))


async def every(batch: Callable[[], Awaitable[int | None]]) -> int:
    gone = 0
    while size := await batch():
        gone += size
    return gone


@pytest.fixture(params=DATABASES)
def opening(request):
    return request.param


@pytest.fixture
async def attic(opening, tmp_path) -> AsyncIterator[Attic]:
    clock = HandClock()
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(shop(opening, tmp_path, clock))
        history = await stack.enter_async_context(history_of(it.ledger, tmp_path))
        yield Attic(it, history, await stack.enter_async_context(leases_of(it.ledger, tmp_path, clock)))


# -- The proofs hold


async def test_the_counters_are_proven_by_what_is_kept_wherever_the_journal_was_cut(attic):
    await attic.sells()
    rows = [(seq, row) for seq, row in await attic.shop.ledger.find(EventsAfter(0, 1000)) if not isinstance(row, Event)]
    for seq, row in rows:
        assert await attic.history.prune_movements(LINE, Reach(EVERYTHING, seq, 0)) == 1
        (base,) = await attic.bases()
        assert (base.sku_seq, base.total, base.held, base.sold) == (
            row.sku_seq, row.total_after, row.held_after, row.sold_after,
        )  # fmt: skip
        assert await attic.shop.discrepancies() == []
    assert await attic.shop.journal() == []


async def test_what_comes_after_a_base_is_proven_too(attic):
    await attic.sells()
    await attic.prune_all()
    await attic.shop.paid("dan", transaction="tx-dan")
    assert await attic.shop.discrepancies() == []
    assert [row.sku_seq for row in await attic.shop.journal()] == [8, 9]
    await attic.prune_all()
    (base,) = await attic.bases()
    assert (base.sku_seq, base.sold, base.reservations) == (9, 2, 8)
    assert await attic.shop.discrepancies() == []


async def test_a_counter_that_is_wrong_is_found_behind_a_base(attic, tmp_path):
    await attic.sells()
    await attic.prune_all()
    await tampered(tmp_path, "UPDATE stock SET sold = sold + 1")
    assert any("the journal sums to" in found for found in await attic.shop.discrepancies())


async def test_a_base_that_is_wrong_is_found(attic, tmp_path):
    await attic.sells()
    await attic.prune_all()
    await tampered(tmp_path, "UPDATE journal_base SET sold = sold - 1")
    assert any("the journal sums to" in found for found in await attic.shop.discrepancies())


@pytest.mark.parametrize("number", [8, 9])
async def test_a_movement_that_is_missing_is_found_behind_a_base(attic, tmp_path, number):
    await attic.sells()
    await attic.prune_all()
    await attic.shop.paid("dan", transaction="tx-dan")
    await tampered(tmp_path, f"DELETE FROM journal WHERE sku_seq = {number}")
    assert any("the journal sums to" in found for found in await attic.shop.discrepancies())


async def test_movements_that_do_not_add_up_are_not_pruned(attic, tmp_path):
    await attic.sells()
    before = await attic.numbers()
    await tampered(tmp_path, "UPDATE journal SET quantity = quantity + 1 WHERE sku_seq = 3")
    assert await attic.history.prune_movements(LINE, attic.everything) is None
    assert await attic.numbers() == before
    assert await attic.bases() == []


# -- What stays


async def test_nothing_goes_that_no_relay_has_passed_on(attic):
    await attic.sells()
    assert await attic.prune_all(attic.everything) > 0
    await attic.shop.paid("dan", transaction="tx-dan")
    assert await attic.prune_all(Reach(await attic.pruned_to(), 0, EVERYTHING)) == 0


async def test_nothing_goes_that_is_neither_old_nor_one_too_many(attic):
    await attic.sells()
    assert await attic.prune_all(Reach(EVERYTHING, 0, 0)) == 0


async def test_a_product_that_moved_lately_keeps_all_its_movements_however_old(attic):
    await attic.sells()
    attic.shop.clock.pass_ms(60_000)
    yesterday = attic.shop.clock.now_ms()
    attic.shop.clock.pass_ms(60_000)
    await attic.shop.held("dan")
    reach = Reach(EVERYTHING, 0, yesterday)
    assert await attic.history.prune_movements(LINE, reach) == 0
    assert await attic.history.prune_events(reach) > 0


async def test_only_the_product_that_is_named_loses_movements(attic):
    await attic.shop.opens(a_sale(a_product("lamp"), a_product("vase")), units=5)
    await attic.history.prune_movements(LINE, attic.everything)
    assert [row.sku_id for row in await attic.shop.journal()] == ["vase"]
    assert await attic.shop.discrepancies() == []


async def test_two_that_prune_at_once_take_every_row_once(attic):
    await attic.sells()
    rows = len(await attic.numbers())
    gone = await asyncio.gather(*(attic.prune_all() for _ in range(4)))
    await attic.prune_all()
    assert sum(gone) <= rows
    assert await attic.numbers() == []
    assert await attic.shop.discrepancies() == []


# -- Numbers


async def test_a_number_is_never_given_again(attic):
    await attic.sells()
    last = (await attic.numbers())[-1]
    await attic.prune_all()
    assert await attic.pruned_to() == last
    await attic.shop.paid("dan", transaction="tx-dan")
    numbers = await attic.numbers()
    assert numbers and min(numbers) > last


async def test_a_product_that_comes_back_goes_on_in_its_numbers(attic):
    await attic.shop.opens(units=5)
    await attic.shop.ledger.change_sale(DeleteSale("sale", "operator"))
    await attic.prune_all()
    await attic.shop.opens(units=5)
    assert [row.sku_seq for row in await attic.shop.journal()] == [3]
    assert await attic.shop.discrepancies() == []


async def test_the_id_of_a_sale_that_was_reserved_from_is_not_free_when_its_movements_are_forgotten(attic):
    await attic.shop.opens(units=5)
    (held,) = await attic.shop.held("ann")
    await attic.shop.ledger.release(held.reservation_id, None)
    await attic.shop.ledger.change_sale(DeleteSale("sale", "operator"))
    await attic.prune_all()
    with pytest.raises(AssertionError) as refused:
        await attic.shop.opens(units=5)
    assert isinstance(refused.value.args[0], Refused)


# -- How far


async def test_without_a_relay_everything_that_readers_may_see_counts_as_passed_on(attic):
    await attic.sells()
    passed, _ = await attic.shop.ledger.find(PruneReach(10, ()))
    assert passed >= (await attic.numbers())[-1]


async def test_with_a_relay_what_it_has_passed_on_counts_and_nothing_before_it_has_begun(attic):
    await attic.sells()
    third = (await attic.numbers())[2]
    assert (await attic.shop.ledger.find(PruneReach(10, ("broker",))))[0] == 0
    await attic.leases.lease("broker", "ann", 1000)
    await attic.leases.advance("broker", "ann", third)
    assert (await attic.shop.ledger.find(PruneReach(10, ("broker",))))[0] == third


@pytest.mark.parametrize("kept", [0, 1, 3, 1000])
async def test_the_newest_rows_are_counted_over_movements_and_order_events(attic, kept):
    await attic.sells()
    numbers = await attic.numbers()
    _, beyond = await attic.shop.ledger.find(PruneReach(kept, ()))
    assert len([seq for seq in numbers if seq > beyond]) == min(kept, len(numbers))


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_the_products_that_have_movements_are_listed_page_by_page(attic, limit):
    for sale_id, skus in (("a", ("lamp", "vase")), ("b", ("cup",)), ("c", ("bowl", "dish", "jug"))):
        await attic.shop.opens(a_sale(*map(a_product, skus), sale_id=sale_id), units=5)
    await attic.prune_all(line=("c", "dish"))
    found, after = [], ("", "")
    while page := await attic.shop.ledger.find(MovedProducts(after, limit)):
        assert len(page) <= limit
        found += page
        after = page[-1]
    assert found == [("a", "lamp"), ("a", "vase"), ("b", "cup"), ("c", "bowl"), ("c", "jug")]


async def test_bases_are_there_when_the_ledger_is_opened_again(opening, tmp_path):
    clock = HandClock()
    async with shop(opening, tmp_path, clock) as it, history_of(it.ledger, tmp_path) as history:
        await it.opens(units=5)
        await it.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
        await history.prune_movements(LINE, Reach(EVERYTHING, 0, EVERYTHING))
    async with shop(opening, tmp_path, clock) as it:
        assert await it.ledger.find(BasesOf("sale")) == [Base("sale", "lamp", 1, 5)]
        assert await it.discrepancies() == []
