"""Limits over devices and addresses, as a ledger keeps them: in the reservation's own transaction, whoever asks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import DATABASES, LEDGERS, Shop, answered, postgres, shop, tampered
from core.shop import AUTHORIZED, CAPTURED, HOLD_MS, a_product, a_sale, an_attempt, refusal_of

from flashsale.core.dead_letters import attempt_of
from flashsale.core.order import OrderStatus
from flashsale.core.refusal import Refusal
from flashsale.core.request import Item, Request
from flashsale.core.reservation import Status
from flashsale.core.stock import Attempt

PHONE, TABLET = "d" + "1" * 16, "d" + "2" * 16
HOME = "a" + "1" * 16
LAMPS = (("lamp", 1),)
BULBS = (("bulb", 1),)


def from_there(user: str, *marks: str, items: tuple[tuple[str, int], ...] = LAMPS, key: str | None = None) -> Attempt:
    attempt = an_attempt(user, *items, key=key)
    attempt.marks = marks
    return attempt


def limited(**limits: int):
    return a_sale(a_product("lamp", 5), a_product("bulb", 5), **(limits or {"per_device_limit": 1}))


@pytest.fixture(params=LEDGERS)
def opening(request):
    return request.param


@pytest.fixture
async def store(opening, tmp_path) -> AsyncIterator[Shop]:
    async with shop(opening, tmp_path) as it:
        await it.opens(limited(), units=100)
        yield it


async def test_accounts_on_one_device_share_its_limit_whatever_they_buy(store):
    assert refusal_of(await store.asks(from_there("ann", PHONE))) is None
    refused = await store.asks(from_there("bob", PHONE, items=BULBS))
    assert refused.details == {"limitedBy": "device", "limit": 1, "alreadyHeld": 1}
    assert refusal_of(await store.asks(from_there("bob", TABLET, items=BULBS))) is None
    assert await store.discrepancies() == []


async def test_a_read_says_what_the_writer_would_say(store):
    assert (await answered(store.ledger.refuse, from_there("ann", PHONE))).reservations
    assert refusal_of(await answered(store.ledger.refuse, from_there("bob", PHONE))) is Refusal.LIMIT_EXCEEDED


async def test_a_batch_is_held_to_the_limit(store):
    outcomes = await asyncio.gather(*(store.asks(from_there(f"user-{number}", PHONE)) for number in range(40)))
    assert [refusal_of(each) for each in outcomes].count(None) == 1
    assert await store.discrepancies() == []


@pytest.mark.parametrize("way", ["release", "expire", "return"])
async def test_what_is_given_back_may_be_had_by_another_account(store, way):
    [held] = (await store.asks(from_there("ann", PHONE))).reservations
    if way == "release":
        await store.ledger.release(held.reservation_id, None)
    elif way == "expire":
        store.clock.pass_ms(HOLD_MS)
        await store.ledger.expire()
    else:
        opened = await store.open_order(held.reservation_id)
        await store.hear(opened.payment, AUTHORIZED, CAPTURED)
        await store.ledger.cancel_order(opened.order.order_id, None, "")
    assert await store.discrepancies() == []
    assert refusal_of(await store.asks(from_there("bob", PHONE))) is None
    assert await store.discrepancies() == []


async def test_late_money_is_honoured_and_counts_again_while_there_is_room(store):
    [held] = (await store.asks(from_there("ann", PHONE))).reservations
    opened = await store.open_order(held.reservation_id)
    store.clock.pass_ms(HOLD_MS)
    await store.ledger.expire()
    assert (await store.hear(opened.payment, CAPTURED)).order.status is OrderStatus.PAID
    assert refusal_of(await store.asks(from_there("bob", PHONE))) is Refusal.LIMIT_EXCEEDED
    assert await store.discrepancies() == []


async def test_late_money_is_paid_back_when_the_device_has_another_unit_by_now(store):
    [held] = (await store.asks(from_there("ann", PHONE))).reservations
    opened = await store.open_order(held.reservation_id)
    store.clock.pass_ms(HOLD_MS)
    await store.ledger.expire()
    await store.asks(from_there("bob", PHONE))
    assert (await store.hear(opened.payment, CAPTURED)).order.status is OrderStatus.REFUNDING
    assert await store.discrepancies() == []


async def test_a_cart_counts_with_all_of_its_items(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(limited(per_address_limit=3), units=100)
        cart = (("lamp", 2), ("bulb", 2))
        assert refusal_of(await it.asks(from_there("ann", HOME, items=cart))) is Refusal.LIMIT_EXCEEDED
        assert refusal_of(await it.asks(from_there("ann", HOME, items=(("lamp", 2), ("bulb", 1))))) is None
        assert refusal_of(await it.asks(from_there("bob", HOME))) is Refusal.LIMIT_EXCEEDED
        assert await it.discrepancies() == []


async def test_a_queued_request_carries_where_it_comes_from(store):
    requests = [
        Request((f"res_{user}",), user, "sale", (Item("lamp", 1),), store.clock.now_ms(), marks=(PHONE,))
        for user in ("ann", "bob")
    ]
    outcomes = [await store.asks(attempt_of(request)) for request in requests]
    assert [each.reservations[0].status for each in outcomes] == [Status.RESERVED, Status.REJECTED]
    assert await store.discrepancies() == []


async def test_it_counts_after_the_ledger_was_opened_again(opening, tmp_path):
    async with shop(opening, tmp_path) as before:
        await before.opens(limited(), units=100)
        [held] = (await before.asks(from_there("ann", PHONE, key="k"))).reservations
    async with shop(opening, tmp_path) as after:
        assert refusal_of(await after.asks(from_there("bob", PHONE))) is Refusal.LIMIT_EXCEEDED
        assert (await after.asks(from_there("ann", PHONE, key="k"))).reservations == [held]


@pytest.mark.parametrize("database", DATABASES)
async def test_the_proof_finds_a_place_that_is_miscounted(database, tmp_path):
    async with shop(database, tmp_path) as it:
        await it.opens(limited(), units=100)
        await it.asks(from_there("ann", PHONE))
        await tampered(tmp_path, "DELETE FROM origin")
        assert "counts with 0 units where it came from" in (await it.discrepancies())[0]


async def test_two_processes_that_sell_two_products_hold_a_device_to_its_limit_together(tmp_path):
    """Each product is locked by itself: without a lock of their own both would find the device with nothing."""
    async with shop(postgres, tmp_path) as one, shop(postgres, tmp_path) as other:
        await one.opens(limited(), units=100)
        await other.asks(from_there("first", TABLET))  # who hears of the sale with its first batch
        devices = ["d" + f"{number:016}" for number in range(60)]
        for device in devices:
            await asyncio.gather(
                one.asks(from_there(f"ann-{device}", device)),
                other.asks(from_there(f"bob-{device}", device, items=BULBS)),
            )
        counters = [await one.counters(sku_id) for sku_id in ("lamp", "bulb")]
        assert sum(held for _, held, _ in counters) == len(devices) + 1
        assert await one.discrepancies() == []
