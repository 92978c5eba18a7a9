"""Pruning with a clock in the hand: what is kept, and when rounds are made."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from contract.ledgers import HandClock, Shop, history_of, leases_of, shop, sqlite, tampered
from core.shop import a_product, a_sale
from structlog.testing import capture_logs

from flashsale.core.catalogue import SwitchSale
from flashsale.core.questions import EventsAfter
from flashsale.core.sale import Switch
from flashsale.flow import prune
from flashsale.flow.lease import Always, Never, Turn
from flashsale.flow.prune import ROUND_MS, Keeping, Pruning
from flashsale.ports import History, Leases

DAY_MS = 24 * 3600 * 1000


class Attic:
    """A shop with two sales, of which one ends."""

    def __init__(self, it: Shop, history: History, leases: Leases) -> None:
        self.shop = it
        self.history = history
        self.leases = leases

    def pruning(
        self, turn: Turn | None = None, days: int = 7, rows: int = 10**7, relays: tuple[str, ...] = ()
    ) -> Pruning:
        keeping = Keeping(days, rows, relays)
        return Pruning(self.shop.ledger, self.history, turn or Always(), self.shop.clock, keeping)

    async def sells(self) -> None:
        products = {"sale": (a_product("lamp"),), "other": (a_product("vase"),)}
        for sale_id, each in products.items():
            await self.shop.opens(a_sale(*each, sale_id=sale_id), units=5)
        await self.shop.paid("ann")
        await self.shop.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))

    async def left(self) -> list[str]:
        """The products and orders of which something is still told."""
        rows = [row for _, row in await self.shop.ledger.find(EventsAfter(0, 1000))]
        return sorted({getattr(row, "sku_id", "order") for row in rows})


@pytest.fixture
async def attic(tmp_path, monkeypatch) -> AsyncIterator[Attic]:
    monkeypatch.setattr(prune, "PAUSE_SECONDS", 0)
    clock = HandClock()
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(shop(sqlite, tmp_path, clock))
        history = await stack.enter_async_context(history_of(it.ledger, tmp_path))
        leases = await stack.enter_async_context(leases_of(it.ledger, tmp_path, clock))
        yield Attic(it, history, leases)


# -- What is kept


async def test_events_are_kept_for_their_days_and_movements_of_a_sale_that_has_not_ended_for_good(attic):
    await attic.sells()
    pruning = attic.pruning(days=7)
    attic.shop.clock.pass_ms(7 * DAY_MS)
    assert await pruning.prune() == 0
    attic.shop.clock.pass_ms(ROUND_MS)
    assert await pruning.prune() == 5
    assert await attic.left() == ["vase"]
    assert [await attic.shop.discrepancies(sale) for sale in ("sale", "other")] == [[], []]


async def test_when_there_are_too_many_the_oldest_go_at_once_but_none_of_a_sale_that_has_not_ended(attic):
    await attic.sells()
    assert await attic.pruning(rows=1).prune() == 4
    assert await attic.left() == ["order", "vase"]


async def test_what_the_broker_has_not_is_kept_however_old(attic):
    await attic.sells()
    attic.shop.clock.pass_ms(100 * DAY_MS)
    pruning = attic.pruning(relays=("broker",))
    assert await pruning.prune() == 0
    await attic.leases.lease("broker", "ann", 1000)
    await attic.leases.advance("broker", "ann", 10**6)
    attic.shop.clock.pass_ms(ROUND_MS)
    assert await pruning.prune() == 5


async def test_movements_that_do_not_add_up_are_kept_and_reported(attic, tmp_path):
    await attic.sells()
    await tampered(tmp_path, "UPDATE journal SET quantity = 2 WHERE sku_seq = 2 AND sku_id = 'lamp'")
    attic.shop.clock.pass_ms(100 * DAY_MS)
    with capture_logs() as logs:
        await attic.pruning().prune()
    assert await attic.left() == ["lamp", "vase"]
    (told,) = [entry for entry in logs if entry["event"] == "movements that do not add up are kept"]
    assert (told["sale_id"], told["sku_id"]) == ("sale", "lamp")


# -- When


async def test_whose_turn_it_is_not_prunes_nothing(attic):
    await attic.sells()
    attic.shop.clock.pass_ms(100 * DAY_MS)
    assert await attic.pruning(Never()).prune() == 0


async def test_a_round_is_made_every_five_minutes(attic):
    await attic.sells()
    pruning = attic.pruning()
    await pruning.prune()
    attic.shop.clock.pass_ms(100 * DAY_MS)
    await pruning.prune()
    asked = await pruning.prune()
    assert (asked, await attic.left()) == (0, ["vase"])
    assert ROUND_MS == 5 * 60 * 1000


async def test_a_turn_that_is_lost_ends_the_round_between_two_batches(attic):
    class Once(Always):
        times = 3

        async def held(self) -> bool:
            self.times -= 1
            return self.times > 0

    await attic.sells()
    attic.shop.clock.pass_ms(100 * DAY_MS)
    await attic.pruning(Once()).prune()
    assert await attic.left() == ["lamp", "vase"]
    assert await attic.shop.discrepancies() == []


async def test_many_rows_go_batch_by_batch(attic, monkeypatch):
    monkeypatch.setattr("flashsale.backends.sqlite.history.BATCH", 1)
    await attic.sells()
    attic.shop.clock.pass_ms(100 * DAY_MS)
    assert await attic.pruning().prune() == 5
    assert await attic.shop.discrepancies() == []
