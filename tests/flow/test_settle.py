"""Checking out: the steps at the provider, and what becomes of them when anything breaks between two of them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import Shop, shop, sqlite
from core.shop import HOLD_MS, a_product, a_sale, refusal_of
from flow.bank import Bank, Line

from flashsale.core.order import Order, OrderStatus
from flashsale.core.payment import PaymentStatus, Transaction
from flashsale.core.questions import DueWork, FindOrders
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import Status
from flashsale.core.sale import LatePayment
from flashsale.flow.settle import RETRY_MS, Settling
from flashsale.ports import LedgerUnavailable, PutOff

PROVIDER_SECONDS = 10.0
LEASE_MS = 12_000


class Counter:
    """A shop with a till: reservations are checked out at a bank."""

    def __init__(self, it: Shop) -> None:
        self.shop = it
        self.bank = Bank()
        self.settling = Settling(it.ledger, self.bank, it.clock, PROVIDER_SECONDS)

    async def checks_out(self, *reservation_ids: str, transaction: str = "tx", user: str | None = None):
        return await self.settling.checkout(reservation_ids, user, transaction, "card", "Main Street 1")

    async def buys(self, user: str = "ann", transaction: str = "tx"):
        (held,) = await self.shop.held(user)
        return await self.checks_out(held.reservation_id, transaction=transaction)

    async def order_of(self, user: str = "ann") -> Order:
        (order,) = await self.shop.ledger.find(FindOrders(user))
        return order

    async def resumes(self, rounds: int = 8) -> None:
        """Enough time for everything that is due to be taken up."""
        for _ in range(rounds):
            self.shop.clock.pass_ms(LEASE_MS)
            await self.settling.resume()

    async def is_at_rest(self) -> bool:
        work = await self.shop.ledger.find(DueWork(2**60))
        return not work.payments and not work.refunds


@pytest.fixture
async def counter(tmp_path) -> AsyncIterator[Counter]:
    async with shop(sqlite, tmp_path) as it:
        await it.opens()
        yield Counter(it)


# -- The usual way.


async def test_a_checkout_authorises_confirms_and_captures(counter):
    order = await counter.buys()
    assert (order.status, order.transaction_id) == (OrderStatus.PAID, "tx")
    assert counter.bank.calls == ["authorise", "capture"]
    assert counter.bank.kept_minor() == {"tx": 1000}
    assert await counter.shop.counters() == (9, 0, 1)
    assert await counter.is_at_rest()


async def test_a_repeated_checkout_is_answered_with_the_same_order_and_moves_nothing(counter):
    order = await counter.buys()
    again = await counter.checks_out(order.lines[0].reservation_id)
    assert again == order
    assert counter.bank.calls == ["authorise", "capture"]


async def test_two_clicks_at_once_pay_once(counter):
    (held,) = await counter.shop.held("ann")
    orders = await asyncio.gather(*(counter.checks_out(held.reservation_id) for _ in range(10)))
    assert {order.order_id for order in orders} == {orders[0].order_id}
    assert {order.status for order in orders} == {OrderStatus.PAID}
    assert counter.bank.kept_minor() == {"tx": 1000}


async def test_a_decline_is_said_and_the_reservation_can_be_paid_with_another_transaction(counter):
    declined = await counter.buys(transaction="declined-1")
    assert refusal_of(declined) is Refusal.PAYMENT_DECLINED
    (held,) = (await counter.order_of()).lines
    assert (await counter.shop.reservation(held.reservation_id)).status is Status.RESERVED
    paid = await counter.checks_out(held.reservation_id, transaction="tx")
    assert paid.status is OrderStatus.PAID
    assert counter.bank.kept_minor() == {"tx": 1000}


async def test_a_transaction_over_another_amount_is_a_mismatch_and_is_left_alone(counter):
    await counter.bank.authorise("tx", 5, "EUR", "somebody-else")
    refused = await counter.buys()
    assert refusal_of(refused) is Refusal.PAYMENT_MISMATCH
    assert counter.bank.books["tx"].status is PaymentStatus.AUTHORIZED
    assert await counter.is_at_rest()


async def test_a_transaction_pays_once(counter):
    await counter.buys("ann")
    assert refusal_of(await counter.buys("bob")) is Refusal.PAYMENT_REUSED
    assert counter.bank.calls == ["authorise", "capture"]


async def test_a_transaction_that_is_captured_already_pays_for_its_order(counter):
    await counter.bank.authorise("tx", 1000, "EUR", "1")
    await counter.bank.capture("tx", 1000, "2")
    assert (await counter.buys()).status is OrderStatus.PAID


async def test_a_user_pays_for_his_own_reservations_only(counter):
    (held,) = await counter.shop.held("ann")
    assert refusal_of(await counter.checks_out(held.reservation_id, user="bob")) is Refusal.NOT_FOUND
    assert counter.bank.calls == []


# -- Bad lines. Each case: what is lost on the way, and how often.


@pytest.mark.parametrize("lost", [Line.REQUEST_LOST, Line.REPLY_LOST])
@pytest.mark.parametrize("step", ["authorise", "capture"])
@pytest.mark.parametrize("repeats", ["the buyer", "the resumer"])
async def test_whatever_is_lost_is_asked_again_and_paid_once(counter, step, lost, repeats):
    lose_once(counter.bank, step, lost)
    (held,) = await counter.shop.held("ann")
    assert refusal_of(await counter.checks_out(held.reservation_id)) is Refusal.UNAVAILABLE
    if repeats == "the buyer":
        assert (await counter.checks_out(held.reservation_id)).status is OrderStatus.PAID
    else:
        await counter.resumes(1)
    assert (await counter.order_of()).status is OrderStatus.PAID
    assert counter.bank.kept_minor() == {"tx": 1000}
    assert await counter.is_at_rest()


def lose_once(bank: Bank, step: str, lost: Line) -> None:
    losses = {step: 1}

    def line(asked: str) -> Line:
        losses[asked] = losses.get(asked, 0) - 1
        return lost if losses[asked] >= 0 else Line.GOOD

    bank.line = line


async def test_an_unanswered_step_is_not_asked_again_at_once(counter):
    counter.bank.line = lambda _: Line.REQUEST_LOST
    await counter.buys()
    await counter.settling.resume()
    assert counter.bank.calls == ["authorise"]
    counter.shop.clock.pass_ms(RETRY_MS)
    await counter.settling.resume()
    assert counter.bank.calls == ["authorise", "authorise"]


@pytest.mark.parametrize("lost", [Line.REQUEST_LOST, Line.REPLY_LOST])
@pytest.mark.parametrize("late", LatePayment)
async def test_an_authorisation_unanswered_until_the_time_is_over_is_voided(tmp_path, lost, late):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(late_payment=late))
        counter = Counter(it)
        lose_once(counter.bank, "authorise", lost)
        await counter.buys()
        it.clock.pass_ms(HOLD_MS)
        await it.ledger.expire()
        await counter.resumes()
        assert (await counter.order_of()).status is OrderStatus.EXPIRED
        assert counter.bank.kept_minor() == {}
        assert not any(each.status is PaymentStatus.AUTHORIZED for each in counter.bank.books.values())
        assert await counter.is_at_rest()
        assert await it.counters() == (10, 0, 0)


async def test_an_authorisation_that_reaches_the_provider_after_its_void_is_voided_too(counter):
    """Given up, voided for nothing because the provider had not heard of it yet, and then done after all."""
    lose_once(counter.bank, "authorise", Line.REQUEST_LATE)
    await counter.buys()
    counter.shop.clock.pass_ms(HOLD_MS)
    await counter.shop.ledger.expire()
    await counter.settling.resume()
    counter.bank.floating.pop()()
    await counter.resumes()
    assert not any(each.status is PaymentStatus.AUTHORIZED for each in counter.bank.books.values())


@pytest.mark.parametrize("lost", [Line.REQUEST_LOST, Line.REPLY_LOST])
async def test_a_lost_void_is_asked_again(counter, lost):
    counter.bank.line = lambda step: lost if step == "capture" else Line.GOOD
    await counter.buys()
    lose_once(counter.bank, "void", lost)
    await counter.shop.ledger.cancel_order((await counter.order_of()).order_id, None, "")
    await counter.resumes()
    assert counter.bank.kept_minor() == {}
    assert await counter.is_at_rest()
    assert (await counter.order_of()).status in (OrderStatus.CANCELLED, OrderStatus.REFUNDED)


@pytest.mark.parametrize("lost", [Line.GOOD, Line.REQUEST_LOST, Line.REPLY_LOST])
async def test_a_paid_order_that_is_cancelled_is_paid_back_once(counter, lost):
    order = await counter.buys()
    lose_once(counter.bank, "refund", lost)
    await counter.shop.ledger.cancel_order(order.order_id, None, "changed my mind")
    await counter.resumes()
    assert (await counter.order_of()).status is OrderStatus.REFUNDED
    assert counter.bank.books["tx"].refunded_minor == 1000
    assert await counter.is_at_rest()


# -- Refusals in the middle.


async def test_a_refund_that_the_provider_refuses_stays_owed(counter):
    order = await counter.buys()
    await counter.shop.ledger.cancel_order(order.order_id, None, "")
    counter.bank.refuses = {"refund"}
    await counter.resumes(2)
    assert (await counter.order_of()).status is OrderStatus.REFUNDING
    assert not await counter.is_at_rest()
    counter.bank.refuses = set()
    await counter.resumes(10)
    assert (await counter.order_of()).status is OrderStatus.REFUNDED


async def test_a_capture_that_the_provider_refuses_sells_nothing(counter):
    counter.bank.refuses = {"capture"}
    refused = await counter.buys()
    assert refusal_of(refused) in (Refusal.PAYMENT_DECLINED, Refusal.ILLEGAL_STATE)
    await counter.resumes()
    assert (await counter.order_of()).status is OrderStatus.CANCELLED
    assert await counter.shop.counters() == (10, 0, 0)
    assert await counter.is_at_rest()


async def test_a_void_that_the_provider_refuses_does_not_go_round_in_circles(counter):
    counter.bank.line = lambda step: Line.REQUEST_LOST if step == "capture" else Line.GOOD
    counter.bank.refuses = {"void"}
    await counter.buys()
    await counter.shop.ledger.cancel_order((await counter.order_of()).order_id, None, "")
    await counter.resumes()
    assert counter.bank.calls.count("void") == 1
    assert await counter.is_at_rest()


async def test_a_transaction_that_never_gets_authorised_is_a_decline(counter):
    """The buyer has opened a transaction at the provider and not completed it."""
    counter.bank.books["tx"] = Transaction("tx", PaymentStatus.CREATED, 1000, "EUR")
    assert refusal_of(await counter.buys()) is Refusal.PAYMENT_DECLINED
    assert counter.bank.calls == ["authorise"]


# -- Races with the provider: something happens while a call is on its way.


async def while_on_its_way(counter: Counter, happens, step: str = "authorise"):
    """A checkout whose call of `step` is held up until something has happened."""
    (held,) = await counter.shop.held("ann")
    gate = asyncio.Event()
    if step == "authorise":
        counter.bank.hangs = gate
    else:
        counter.bank.line = lambda asked: _hang_at(counter.bank, asked, step, gate)
    checkout = asyncio.ensure_future(counter.checks_out(held.reservation_id))
    await counter.bank.on_its_way.wait()
    counter.bank.line, counter.bank.hangs = (lambda _: Line.GOOD), None
    await happens(held.reservation_id)
    gate.set()
    return await checkout


def _hang_at(bank: Bank, asked: str, step: str, gate: asyncio.Event) -> Line:
    bank.hangs = gate if asked == step else None
    return Line.GOOD


@pytest.mark.parametrize("step", ["authorise", "capture"])
@pytest.mark.parametrize("resumed", [False, True])
async def test_a_cancellation_while_a_call_is_on_its_way_takes_no_money(counter, step, resumed):
    async def cancels(reservation_id: str) -> None:
        await counter.shop.ledger.cancel_order((await counter.order_of()).order_id, None, "changed my mind")
        if resumed:
            await counter.resumes(1)

    refused = await while_on_its_way(counter, cancels, step)
    assert refusal_of(refused) is not None or refused.status in (OrderStatus.REFUNDING, OrderStatus.CANCELLED)
    await counter.resumes()
    assert counter.bank.kept_minor() == {}
    assert (await counter.order_of()).status in (OrderStatus.CANCELLED, OrderStatus.REFUNDED)
    assert await counter.shop.counters() == (10, 0, 0)
    assert await counter.is_at_rest()
    assert not any(each.status is PaymentStatus.AUTHORIZED for each in counter.bank.books.values())


@pytest.mark.parametrize("resumed", [False, True])
async def test_a_reservation_that_expires_while_it_is_authorised_is_not_sold(counter, resumed):
    async def expires(reservation_id: str) -> None:
        counter.shop.clock.pass_ms(HOLD_MS)
        await counter.shop.ledger.expire()
        if resumed:
            await counter.settling.resume()

    refused = await while_on_its_way(counter, expires)
    assert refusal_of(refused) is Refusal.RESERVATION_EXPIRED
    await counter.resumes()
    assert counter.bank.kept_minor() == {}
    assert await counter.shop.counters() == (10, 0, 0)
    assert await counter.is_at_rest()
    assert not any(each.status is PaymentStatus.AUTHORIZED for each in counter.bank.books.values())


async def test_a_reservation_that_is_released_while_it_is_authorised_is_not_sold(counter):
    async def releases(reservation_id: str) -> None:
        await counter.shop.ledger.release(reservation_id, None)

    refused = await while_on_its_way(counter, releases)
    assert refusal_of(refused) is Refusal.ILLEGAL_STATE
    assert counter.bank.kept_minor() == {}
    assert await counter.shop.counters() == (10, 0, 0)


async def test_the_resumer_leaves_a_step_alone_that_somebody_is_working_on(counter):
    async def resumes(reservation_id: str) -> None:
        counter.shop.clock.pass_ms(LEASE_MS - 1)
        await counter.settling.resume()

    order = await while_on_its_way(counter, resumes)
    assert order.status is OrderStatus.PAID
    assert counter.bank.calls == ["authorise", "capture"]


# -- A crash between any two steps: the process is gone, the books are not.


@pytest.mark.parametrize("step", ["authorise", "capture", "refund"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
async def test_a_crash_around_any_step_is_taken_up_after_the_restart(tmp_path, step, done):
    async with shop(sqlite, tmp_path) as before:
        await before.opens()
        counter = Counter(before)
        await crash_at(counter, step, done)
        bank, clock = counter.bank, before.clock
    async with shop(sqlite, tmp_path, clock) as after:
        again = Counter(after)
        again.bank = bank
        bank.line = lambda _: Line.GOOD
        again.settling = Settling(after.ledger, bank, clock, PROVIDER_SECONDS)
        await again.resumes(2)
        kept, status = ({}, OrderStatus.REFUNDED) if step == "refund" else ({"tx": 1000}, OrderStatus.PAID)
        assert (await again.order_of()).status is status
        assert bank.kept_minor() == kept
        assert await after.discrepancies() == []
        assert await again.is_at_rest()


async def crash_at(counter: Counter, step: str, done: bool) -> None:
    """The process ends at a step, before the provider has heard of it or after; nothing more is written."""

    def line(asked: str) -> Line:
        if asked != step:
            return Line.GOOD
        if done:
            return Line.REPLY_LOST
        return Line.REQUEST_LOST

    counter.bank.line = line
    settle = counter.shop.ledger.settle

    async def dies(fact):
        if isinstance(fact, PutOff):
            raise ConnectionAbortedError("the process is gone")
        return await settle(fact)

    counter.shop.ledger.settle = dies
    with pytest.raises(ConnectionAbortedError):
        await counter.buys()
        await counter.shop.ledger.cancel_order((await counter.order_of()).order_id, None, "")
        await counter.settling.resume()


# -- One bad payment does not keep the others waiting.


async def test_a_step_that_fails_unexpectedly_does_not_keep_others_waiting(counter):
    counter.bank.line = lambda _: Line.REQUEST_LOST
    for user in ("ann", "bob", "cyd"):
        await counter.buys(user, transaction=f"tx-{user}")
        counter.shop.clock.pass_ms(1)
    counter.bank.line = lambda _: Line.GOOD
    authorise = counter.bank.authorise

    async def authorise_most(transaction_id, amount_minor, currency, key):
        if transaction_id == "tx-ann":
            raise ValueError("the provider speaks in riddles")
        return await authorise(transaction_id, amount_minor, currency, key)

    counter.bank.authorise = authorise_most
    for _ in range(5):
        counter.shop.clock.pass_ms(LEASE_MS)
        try:
            await counter.settling.resume()
        except ValueError:
            continue  # the worker logs it and calls again
    assert [(await counter.order_of(user)).status for user in ("bob", "cyd")] == 2 * [OrderStatus.PAID]


async def test_a_ledger_that_cannot_take_an_answer_now_gets_it_later(counter):
    settle = counter.shop.ledger.settle

    async def busy(fact):
        raise LedgerUnavailable("busy")

    counter.shop.ledger.settle = busy
    with pytest.raises(LedgerUnavailable):
        await counter.buys()
    counter.shop.ledger.settle = settle
    await counter.resumes(1)
    assert (await counter.order_of()).status is OrderStatus.PAID
    assert counter.bank.kept_minor() == {"tx": 1000}


async def test_several_reservations_are_paid_with_one_transaction(tmp_path):
    async with shop(sqlite, tmp_path) as it:
        await it.opens(a_sale(a_product("lamp", 5), a_product("bulb", 5)))
        counter = Counter(it)
        held = await it.held("ann", ("lamp", 2), ("bulb", 1))
        order = await counter.checks_out(*(each.reservation_id for each in held))
        assert (order.status, order.total_minor) == (OrderStatus.PAID, 3000)
        assert counter.bank.kept_minor() == {"tx": 3000}
        assert [await it.counters(each) for each in ("lamp", "bulb")] == [(8, 0, 2), (9, 0, 1)]
