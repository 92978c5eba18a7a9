"""A transaction of the payment provider pays for one order, also when its orders are in several databases."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from contract.ledgers import Shop, databases_of, shards, shop, together
from core.shop import (
    AUTHORIZED,
    CAPTURED,
    FAILED,
    HOLD_MS,
    VOIDED,
    a_checkout,
    a_product,
    a_sale,
    an_attempt,
    refusal_of,
)

from flashsale.backends.postgres import moves
from flashsale.backends.postgres import rows as rows_of_the_ledger
from flashsale.core.checkout import Opened
from flashsale.core.order import OrderStatus
from flashsale.core.payment import Right
from flashsale.core.refusal import Refusal
from flashsale.core.stock import Granted
from flashsale.ports import LedgerUnavailable

KEY = ("sandbox", "tx")
SALE_OF = {"vase": "vases", "lamp": "sale", "bowl": "bowls"}
"""Vases are sold by the third database, lamps by the second, bowls by the first."""


@pytest.fixture
async def three(tmp_path) -> AsyncIterator[Shop]:
    async with shop_of_three(tmp_path) as it:
        for sku_id, sale_id in SALE_OF.items():
            await it.opens(a_sale(a_product(sku_id, 100), sale_id=sale_id), units=1000)
        assert it.ledger.where.known == {"vases": 2, "sale": 1, "bowls": 0}
        yield it


def shop_of_three(tmp_path):
    return shop(shards, tmp_path, count=3)


async def held(it: Shop, sku_id: str, user: str = "ann") -> str:
    outcome = await it.asks(an_attempt(user, (sku_id, 1), sale_id=SALE_OF[sku_id]))
    assert isinstance(outcome, Granted), outcome
    return outcome.reservations[0].reservation_id


async def ordered(it: Shop, sku_id: str, transaction: str = "tx") -> Opened:
    opened = await it.open_order(await held(it, sku_id), transaction=transaction)
    assert isinstance(opened, Opened), opened
    return opened


async def reused(it: Shop, sku_id: str, transaction: str = "tx") -> bool:
    return refusal_of(await it.open_order(await held(it, sku_id), transaction=transaction)) is Refusal.PAYMENT_REUSED


async def rows(tmp_path, number: int, statement: str) -> list[tuple[Any, ...]]:
    db = await asyncpg.connect((await databases_of(tmp_path, 3))[number])
    try:
        return [tuple(row) for row in await db.fetch(statement)]
    finally:
        await db.close()


RIGHTS = "SELECT transaction_id, shard_id, turn FROM transaction_shard"

# -- Of all who come with one transaction, one gets an order.


async def test_one_transaction_used_on_all_shards_at_once_by_two_processes_pays_for_one_order(three, tmp_path):
    async with shop_of_three(tmp_path) as other:
        for number in range(15):
            wishes = [(it, await held(three, sku_id)) for sku_id in SALE_OF for it in (three, other)]
            opened = await asyncio.gather(*(it.open_order(each, transaction=f"tx{number}") for it, each in wishes))
            assert [refusal_of(each) for each in opened].count(None) == 1
            assert {refusal_of(each) for each in opened} == {None, Refusal.PAYMENT_REUSED}


@pytest.mark.parametrize("first", SALE_OF)
@pytest.mark.parametrize("second", SALE_OF)
async def test_a_transaction_that_has_paid_pays_for_no_other_order_anywhere(three, first, second):
    opened = await ordered(three, first)
    assert await reused(three, second)
    await three.hear(opened.payment, AUTHORIZED, CAPTURED)
    assert await reused(three, second)


@pytest.mark.parametrize("sku_id", SALE_OF)
async def test_a_checkout_can_be_repeated_on_any_shard(three, sku_id):
    reservation_id = await held(three, sku_id)
    opened = await asyncio.gather(*(three.open_order(reservation_id) for _ in range(5)))
    assert len({each.order.order_id for each in opened}) == 1
    await three.hear(opened[0].payment, AUTHORIZED, CAPTURED)
    again = await three.open_order(reservation_id)
    assert again.order.status is OrderStatus.PAID


@pytest.mark.parametrize("first", SALE_OF)
@pytest.mark.parametrize("second", SALE_OF)
async def test_a_transaction_that_was_declined_is_free_for_an_order_on_any_shard(three, first, second):
    declined = await ordered(three, first)
    await three.hear(declined.payment, FAILED)
    paid = await ordered(three, second)
    assert (await three.hear(paid.payment, AUTHORIZED, CAPTURED)).order.status is OrderStatus.PAID
    assert refusal_of(await three.open_order(declined.order.lines[0].reservation_id)) is Refusal.PAYMENT_REUSED


async def test_a_transaction_that_was_voided_stays_with_its_order(three):
    opened = await ordered(three, "lamp")
    three.clock.pass_ms(HOLD_MS)
    await three.hear(opened.payment, AUTHORIZED, VOIDED)
    for sku_id in SALE_OF:
        assert await reused(three, sku_id)


async def test_a_transaction_goes_from_shard_to_shard_as_often_as_it_is_declined(three):
    for sku_id in ("lamp", "bowl", "vase", "lamp", "vase", "bowl", "bowl", "lamp"):
        opened = await ordered(three, sku_id)
        assert all([await reused(three, other) for other in SALE_OF])
        await three.hear(opened.payment, FAILED)


async def test_a_checkout_that_is_refused_leaves_nothing_on_the_first_shard(three, tmp_path):
    lapsed = await held(three, "lamp")
    three.clock.pass_ms(HOLD_MS)
    assert refusal_of(await three.open_order(lapsed)) is Refusal.RESERVATION_EXPIRED
    strangers = await three.open_order(await held(three, "lamp", "bob"), user="ann")
    assert refusal_of(strangers) is Refusal.NOT_FOUND
    assert await rows(tmp_path, 0, RIGHTS) == []


# -- What is said of a declined transaction afterwards.


@pytest.mark.parametrize("elsewhere", ["vase", "bowl"])
async def test_money_of_a_declined_transaction_that_pays_elsewhere_now_belongs_there(three, elsewhere):
    declined = await ordered(three, "lamp")
    await three.hear(declined.payment, FAILED)
    await ordered(three, elsewhere)
    told = await three.hear(declined.payment, AUTHORIZED, CAPTURED)
    assert told.order.status is OrderStatus.PENDING_PAYMENT
    assert (await three.due()).refunds == []


@pytest.mark.parametrize("elsewhere", ["vase", "bowl"])
async def test_late_money_is_not_lost_when_the_transaction_was_declined_elsewhere_too(three, elsewhere):
    """The right to it went away and nobody claims it there: it comes back for what is said of this order."""
    first = await ordered(three, "lamp")
    await three.hear(first.payment, FAILED)
    second = await ordered(three, elsewhere)
    await three.hear(second.payment, FAILED)
    told = await three.hear(first.payment, CAPTURED)
    assert told.order.status is OrderStatus.PAID
    assert await reused(three, elsewhere)


# -- A process may be stopped, or end, between any two steps.


async def hold(it: Shop, asker: int, given_up_turn: int | None = None) -> Right:
    return await it.ledger._ask(0, moves.hold(KEY, asker, given_up_turn))


async def test_a_crash_before_the_order_blocks_neither_it_nor_an_order_elsewhere(three):
    """The right is written down, and nobody came to use it."""
    for asker, sku_id in ((1, "lamp"), (1, "vase"), (2, "bowl")):
        right = await hold(three, asker)
        assert right.shard_id == asker
        opened = await ordered(three, sku_id)
        await three.hear(opened.payment, FAILED)


async def test_a_crash_after_a_right_was_given_up_blocks_nobody(three):
    """The note is on the shard that gave it up, and the first shard does not know yet."""
    right = await hold(three, 1)
    assert await three.ledger._ask(1, moves.give_up(KEY, 2, right.turn))
    opened = await ordered(three, "lamp")
    assert opened.order.status is OrderStatus.PENDING_PAYMENT
    assert await reused(three, "vase")


async def late_order(it: Shop, sku_id: str, number: int, turn: int) -> Callable[[], Awaitable[object]]:
    """What a process that was stopped with its right in the hand does when it goes on."""
    opening = moves.open_order(a_checkout(await held(it, sku_id)))
    return lambda: it.ledger._ask(number, moves.with_right(opening, KEY, turn))


@pytest.mark.parametrize("elsewhere", ["vase", "bowl"])
async def test_a_process_that_was_stopped_with_a_right_cannot_use_it_after_it_went_to_another(three, elsewhere):
    right = await hold(three, 1)
    late = await late_order(three, "lamp", 1, right.turn)
    await ordered(three, elsewhere)
    assert await late() is None


async def test_a_note_of_long_ago_takes_no_right_away_that_was_given_since(three):
    first = await hold(three, 1)
    opened = await ordered(three, "lamp")
    await three.hear(opened.payment, FAILED)
    second = await ordered(three, "vase")
    await three.hear(second.payment, FAILED)
    third = await ordered(three, "lamp")
    await three.hear(third.payment, FAILED)
    assert await three.ledger._ask(1, moves.give_up(KEY, 2, first.turn)), "a process that asked long ago goes on"
    assert (await hold(three, 2, first.turn)).shard_id == 1
    assert (await ordered(three, "lamp")).payment.transaction_id == "tx"


async def test_without_the_first_shard_no_order_is_opened_elsewhere_and_nothing_changes(three, monkeypatch):
    reservation_id = await held(three, "lamp")
    away = LedgerUnavailable("away")

    async def asked(number: int, move: moves.Move[Any]) -> Any:
        if number == 0:
            raise away
        return await three.ledger.shards[number].ledger.ask(move)

    with monkeypatch.context() as first_is_away:
        first_is_away.setattr(three.ledger, "_ask", asked)
        assert await together([three.open_order(reservation_id)]) == [away]
        assert (await three.reservation(reservation_id)).order_id is None
    assert isinstance(await three.open_order(reservation_id), Opened)


async def test_of_two_processes_that_ask_for_a_right_at_one_moment_one_gets_it(three, tmp_path, monkeypatch):
    """The second asks after the first has read that nobody has it, and before it writes that it does."""
    store, asking = rows_of_the_ledger.store, []
    async with shop_of_three(tmp_path) as other:

        async def store_late(*given: Any) -> None:
            if not asking:
                asking.append(asyncio.ensure_future(hold(other, 2)))
                await blocked_or_done(tmp_path, asking[0])
            await store(*given)

        monkeypatch.setattr(rows_of_the_ledger, "store", store_late)
        mine, theirs = await hold(three, 1), await asking[0]
    assert (mine.shard_id, theirs.shard_id) == (1, 1)


async def blocked_or_done(tmp_path, task: asyncio.Task[Any]) -> None:
    waiting = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with asyncio.timeout(10):
        while not task.done() and not await rows(tmp_path, 0, waiting):
            pass
