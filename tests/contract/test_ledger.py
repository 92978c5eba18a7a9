"""What a ledger promises to the purchase, one test per sentence of the port; asked of every backend."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import LEDGERS, HandClock, Shop, answered, shop, together
from core.shop import (
    AUTHORIZED,
    CAPTURED,
    FAILED,
    HOLD_MS,
    LEASE_MS,
    OPENING_MS,
    VOIDED,
    a_checkout,
    a_draft,
    a_fact,
    a_product,
    a_sale,
    an_attempt,
    refusal_of,
)

from flashsale.core.catalogue import CreateSale, DeleteSale, EditSale, Restock, SwitchSale
from flashsale.core.journal import Kind
from flashsale.core.order import OrderStatus
from flashsale.core.payment import Due
from flashsale.core.questions import (
    AuditPage,
    DueWork,
    FiguresOf,
    FindActiveReservations,
    FindOrder,
    FindOrders,
    FindReservations,
    FindSales,
    JournalPage,
    StockOf,
)
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import Status
from flashsale.core.sale import Sale, SaleState, Switch, state_at
from flashsale.core.stock import Granted
from flashsale.ports import LedgerUnavailable, PaymentFact, PutOff, RefundFact


@pytest.fixture(params=LEDGERS)
def opening(request):
    return request.param


@pytest.fixture
async def lamps(opening, tmp_path) -> AsyncIterator[Shop]:
    """A shop that sells 10 lamps, one to a buyer."""
    async with shop(opening, tmp_path) as open_shop:
        await open_shop.opens()
        yield open_shop


@pytest.fixture
async def store(opening, tmp_path) -> AsyncIterator[Shop]:
    """A shop that sells 10 lamps and 10 bulbs, five of each to a buyer."""
    async with shop(opening, tmp_path) as open_shop:
        await open_shop.opens(a_sale(a_product("lamp", 5), a_product("bulb", 5)))
        yield open_shop


# -- Every method commits before it answers, or changes nothing.


async def test_what_is_answered_is_there_when_the_ledger_is_opened_again(opening, tmp_path):
    async with shop(opening, tmp_path) as before:
        await before.opens()
        (kept,) = await before.held("ann", key="k")
        paid = await before.paid("bob")
    async with shop(opening, tmp_path) as after:
        assert await after.reservation(kept.reservation_id) == kept
        assert await after.order(paid.order.order_id) == paid.order
        assert await after.counters() == (8, 1, 1)
        assert await after.held("ann", key="k") == [kept]
        assert await after.discrepancies() == []


async def test_a_refusal_changes_nothing(lamps):
    await lamps.held("ann")
    before = await lamps.journal()
    assert refusal_of(await lamps.reserve("ann")) is Refusal.LIMIT_EXCEEDED
    assert refusal_of(await lamps.reserve("bob", ("lamp", 11))) is Refusal.LIMIT_EXCEEDED
    assert refusal_of(await lamps.reserve("bob", ("vase", 1))) is Refusal.NOT_FOUND
    assert await lamps.journal() == before


async def test_the_observer_hears_of_a_commit_before_the_answer(lamps):
    lamps.audience.stock.clear()
    heard_at_the_answer = []
    done = asyncio.get_running_loop().create_future()

    def reply(outcome):
        heard_at_the_answer.extend(lamps.audience.stock)
        done.set_result(outcome)

    lamps.ledger.reserve(an_attempt("ann"), reply)
    await done
    assert [(row.sku_id, row.held) for row in heard_at_the_answer] == [("lamp", 1)]


async def test_the_observer_hears_of_a_sale_that_changed_and_of_one_that_is_gone(lamps):
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    await lamps.ledger.change_sale(DeleteSale("sale", "operator"))
    heard = [(sale_id, sale.paused if sale else None) for sale_id, sale in lamps.audience.sales]
    assert heard == [("sale", False), ("sale", True), ("sale", None)]


# -- Attempts that arrive together are decided together, each in its place.


async def test_attempts_are_answered_once_each_and_in_the_order_of_their_arrival(lamps):
    outcomes = await asyncio.gather(*(lamps.asks(an_attempt(f"user-{number}")) for number in range(20)))
    assert [refusal_of(outcome) for outcome in outcomes] == 10 * [None] + 10 * [Refusal.SOLD_OUT]
    assert await lamps.counters() == (0, 10, 0)


async def test_the_journal_of_a_product_has_no_gaps(store):
    await asyncio.gather(*(store.asks(an_attempt(f"user-{number}", ("lamp", 1))) for number in range(12)))
    rows = [row for row in await store.journal() if row.sku_id == "lamp"]
    assert [row.sku_seq for row in rows] == list(range(1, 12))


@pytest.mark.parametrize("round", range(20))
async def test_of_50_requests_of_one_user_with_limit_1_exactly_one_wins(lamps, round):
    outcomes = await asyncio.gather(*(lamps.asks(an_attempt("ann", key=f"{round}-{n}")) for n in range(50)))
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 1
    assert {refusal_of(outcome) for outcome in outcomes} == {None, Refusal.LIMIT_EXCEEDED}
    assert await lamps.counters() == (9, 1, 0)


@pytest.mark.parametrize("key", ["k", "key with spaces ~!", 255 * "x"])
async def test_of_50_requests_with_one_key_all_get_the_one_reservation(lamps, key):
    outcomes = await asyncio.gather(*(lamps.asks(an_attempt("ann", key=key)) for _ in range(50)))
    assert len({outcome.reservations[0].reservation_id for outcome in outcomes}) == 1
    assert sum(not outcome.replayed for outcome in outcomes) == 1
    assert await lamps.counters() == (9, 1, 0)


async def test_ways_out_go_before_new_reservations(lamps):
    """The last lamp is given back after bob asked for it, and he gets it: his attempt was still waiting."""
    held = [(await lamps.held(f"user-{number}"))[0] for number in range(10)]
    wish = lamps.asks(an_attempt("bob"))
    await lamps.ledger.release(held[0].reservation_id, None)
    assert refusal_of(await wish) is None


async def test_beyond_its_queue_a_ledger_says_unavailable_and_takes_the_rest(opening, tmp_path):
    async with shop(opening, tmp_path, queue_max=16) as small:
        await small.opens(units=100)
        outcomes = await asyncio.gather(*(small.asks(an_attempt(f"user-{number}")) for number in range(20)))
        assert [refusal_of(outcome) for outcome in outcomes] == 16 * [None] + 4 * [Refusal.UNAVAILABLE]
        assert outcomes[-1].details["retryAfterSeconds"] >= 1
        assert await small.counters() == (84, 16, 0)


async def test_beyond_its_queue_a_ledger_raises_unavailable_for_everything_else(opening, tmp_path):
    async with shop(opening, tmp_path, queue_max=16) as small:
        await small.opens()
        released = await together(small.ledger.release("res_0", None) for _ in range(20))
        assert [type(each) is LedgerUnavailable for each in released] == 16 * [False] + 4 * [True]
        found = await together(small.ledger.find(StockOf()) for _ in range(20))
        assert [type(each) is LedgerUnavailable for each in found] == 16 * [False] + 4 * [True]


async def test_a_full_queue_of_attempts_keeps_nobody_from_paying_or_giving_back(opening, tmp_path):
    async with shop(opening, tmp_path, queue_max=16) as small:
        await small.opens(units=100)
        (held,) = await small.held("ann")
        wishes = [small.asks(an_attempt(f"user-{number}")) for number in range(20)]
        released, opened = await together([small.ledger.release("res_0", None), small.open_order(held.reservation_id)])
        assert refusal_of(released) is Refusal.NOT_FOUND
        assert refusal_of(opened) is None
        await asyncio.gather(*wishes)


async def test_a_closed_ledger_takes_nothing(opening, tmp_path):
    async with shop(opening, tmp_path) as closed:
        await closed.opens()
    assert refusal_of(await closed.reserve("ann")) is Refusal.UNAVAILABLE
    assert refusal_of(await closed.refuse("ann")) is Refusal.UNAVAILABLE
    with pytest.raises(LedgerUnavailable):
        await closed.ledger.release("res_0", None)
    with pytest.raises(LedgerUnavailable):
        await closed.ledger.find(StockOf())
    await closed.ledger.close()


async def test_closing_answers_what_was_asked_before(opening, tmp_path):
    async with shop(opening, tmp_path) as closing:
        await closing.opens()
        wishes = [closing.asks(an_attempt(f"user-{number}")) for number in range(20)]
        await closing.ledger.close()
        outcomes = await asyncio.wait_for(asyncio.gather(*wishes), 5)
    assert [refusal_of(outcome) for outcome in outcomes] == 10 * [None] + 10 * [Refusal.SOLD_OUT]


# -- `refuse` answers from a read where that is certain; otherwise it is like `reserve`.


async def test_a_read_refuses_what_has_lost(lamps):
    assert refusal_of(await lamps.refuse("ann", ("vase", 1))) is Refusal.NOT_FOUND
    for number in range(10):
        await lamps.held(f"user-{number}")
    assert refusal_of(await lamps.refuse("ann")) is Refusal.SOLD_OUT
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    assert refusal_of(await lamps.refuse("ann")) is Refusal.PAUSED


async def test_a_read_answers_a_repeated_request(lamps):
    (mine,) = await lamps.held("ann", key="k")
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    outcome = await lamps.refuse("ann", key="k")
    assert outcome.replayed
    assert outcome.reservations == [mine]
    assert refusal_of(await lamps.refuse("ann", ("lamp", 2), key="k")) is Refusal.KEY_REUSED


async def test_what_may_win_after_all_is_reserved(lamps):
    outcome = await lamps.refuse("ann", key="k")
    assert isinstance(outcome, Granted)
    assert await lamps.counters() == (9, 1, 0)


async def test_a_limit_taken_up_by_a_lapsed_reservation_is_not_certain(lamps):
    await lamps.held("ann")
    lamps.clock.pass_ms(HOLD_MS)
    assert isinstance(await lamps.refuse("ann"), Granted)


async def test_sold_out_is_not_certain_while_a_lapsed_reservation_has_not_been_swept(opening, tmp_path):
    async with shop(opening, tmp_path) as last_lamp:
        await last_lamp.opens(a_sale(a_product(limit=2)), units=1)
        await last_lamp.held("ann")
        last_lamp.clock.pass_ms(HOLD_MS)
        assert isinstance(await last_lamp.refuse("ann"), Granted)


async def test_lost_attempts_are_counted_too(lamps):
    for _ in range(3):
        await lamps.refuse("ann", ("lamp", 2))
        await lamps.refuse("ann", ("vase", 1))
    await lamps.ledger.expire()
    figures = await lamps.ledger.find(FiguresOf("sale"))
    assert figures.refusals == {"LIMIT_EXCEEDED": 3, "NOT_FOUND": 3}


# -- Releasing and expiring.


async def test_a_release_gives_the_unit_back_once(lamps):
    (held,) = await lamps.held("ann")
    released = await asyncio.gather(*(lamps.ledger.release(held.reservation_id, "ann") for _ in range(5)))
    assert {each.status for each in released} == {Status.CANCELLED}
    assert await lamps.counters() == (10, 0, 0)
    assert [row.kind for row in await lamps.journal()] == [Kind.STOCK, Kind.RESERVE, Kind.RELEASE]


async def test_expire_releases_what_has_lapsed_and_nothing_else(lamps):
    (early,) = await lamps.held("ann")
    lamps.clock.pass_ms(HOLD_MS - 1)
    (late,) = await lamps.held("bob")
    assert await lamps.ledger.expire() == 0
    lamps.clock.pass_ms(1)
    assert await lamps.ledger.expire() == 1
    assert (await lamps.reservation(early.reservation_id)).status is Status.EXPIRED
    assert (await lamps.reservation(late.reservation_id)).status is Status.RESERVED
    assert await lamps.ledger.expire() == 0


@pytest.mark.parametrize("lapsed", [499, 500, 501, 1203])
async def test_expire_works_in_bounded_batches_until_nothing_is_left(opening, tmp_path, lapsed):
    async with shop(opening, tmp_path) as crowded:
        await crowded.opens(units=2000)
        await asyncio.gather(*(crowded.asks(an_attempt(f"user-{number}")) for number in range(lapsed)))
        crowded.clock.pass_ms(HOLD_MS)
        batches = []
        while batch := await crowded.ledger.expire():
            batches.append(batch)
        assert sum(batches) == lapsed
        assert max(batches) <= 500
        assert await crowded.counters() == (2000, 0, 0)
        assert await crowded.discrepancies() == []


async def test_a_new_request_releases_its_users_own_lapsed_one_behind_any_backlog(opening, tmp_path):
    async with shop(opening, tmp_path) as crowded:
        await crowded.opens(units=1201)
        await asyncio.gather(*(crowded.asks(an_attempt(f"user-{number}")) for number in range(1200)))
        crowded.clock.pass_ms(1)
        await crowded.held("ann")
        crowded.clock.pass_ms(HOLD_MS)
        assert isinstance(await crowded.reserve("ann"), Granted)
        assert await crowded.discrepancies() == []


async def test_a_lapsed_unit_is_sold_again_without_a_sweep(opening, tmp_path):
    async with shop(opening, tmp_path) as last_lamp:
        await last_lamp.opens(units=1)
        await last_lamp.held("ann")
        last_lamp.clock.pass_ms(HOLD_MS)
        assert isinstance(await last_lamp.reserve("bob"), Granted)


async def test_after_a_restart_what_lapsed_meanwhile_is_released(opening, tmp_path):
    async with shop(opening, tmp_path) as before:
        await before.opens()
        await before.held("ann")
    async with shop(opening, tmp_path, HandClock(OPENING_MS + HOLD_MS)) as after:
        assert await after.ledger.expire() == 1
        assert await after.counters() == (10, 0, 0)


# -- Orders and payments.


async def test_an_order_of_several_lines_is_confirmed_in_one_piece(store):
    opened = await store.ordered("ann", ("lamp", 2), ("bulb", 3))
    await store.hear(opened.payment, AUTHORIZED)
    assert (await store.counters("lamp"), await store.counters("bulb")) == ((8, 0, 2), (7, 0, 3))
    paid = await store.hear(opened.payment, CAPTURED)
    assert paid.order.status is OrderStatus.PAID
    assert await store.order(paid.order.order_id) == paid.order


async def test_two_reservations_of_one_product_are_paid_in_one_order(store):
    (first,), (second,) = await store.held("ann", ("lamp", 1)), await store.held("ann", ("lamp", 2))
    opened = await store.open_order(first.reservation_id, second.reservation_id)
    paid = await store.hear(opened.payment, AUTHORIZED, CAPTURED)
    assert paid.order.total_minor == 3000
    assert await store.counters() == (7, 0, 3)
    await store.ledger.cancel_order(paid.order.order_id, None, "")
    assert await store.counters() == (10, 0, 0)
    assert await store.discrepancies() == []


async def test_if_one_line_of_an_order_lapses_none_is_confirmed(store):
    (early,) = await store.held("ann", ("lamp", 1))
    store.clock.pass_ms(1000)
    (late,) = await store.held("ann", ("bulb", 1))
    opened = await store.open_order(early.reservation_id, late.reservation_id)
    store.clock.pass_ms(HOLD_MS - 1000)
    opened = await store.hear(opened.payment, AUTHORIZED)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.EXPIRED, Due.VOID)
    assert (await store.reservation(late.reservation_id)).status is Status.RESERVED
    assert (await store.reservation(late.reservation_id)).order_id is None


async def test_a_step_is_due_from_the_moment_its_order_is_committed(lamps):
    opened = await lamps.ordered()
    (payment,) = (await lamps.due()).payments
    assert payment == opened.payment
    assert (payment.due, payment.due_at_ms) == (Due.AUTHORISE, OPENING_MS + LEASE_MS)


async def test_a_step_belongs_to_its_caller_until_its_lease_is_over(lamps):
    await lamps.ordered()
    for passed_ms, found in ((LEASE_MS - 1, 0), (1, 1)):
        lamps.clock.pass_ms(passed_ms)
        assert len((await lamps.ledger.find(DueWork(lamps.clock.now_ms()))).payments) == found


async def test_each_transaction_that_is_committed_names_the_next_step(lamps):
    opened = await lamps.ordered()
    steps = [(await lamps.due()).payments[0].due]
    await lamps.hear(opened.payment, AUTHORIZED)
    steps.append((await lamps.due()).payments[0].due)
    await lamps.hear(opened.payment, CAPTURED)
    assert steps == [Due.AUTHORISE, Due.CAPTURE]
    assert (await lamps.due()).payments == []


async def test_a_step_that_is_put_off_stays_due(lamps):
    opened = await lamps.ordered()
    lamps.clock.pass_ms(LEASE_MS)
    await lamps.ledger.settle(PutOff(opened.payment.payment_id, None, 1000))
    assert (await lamps.ledger.find(DueWork(lamps.clock.now_ms()))).payments == []
    lamps.clock.pass_ms(1000)
    (payment,) = (await lamps.ledger.find(DueWork(lamps.clock.now_ms()))).payments
    assert payment.due is Due.AUTHORISE


async def test_a_step_that_is_done_cannot_be_put_off(lamps):
    opened = await lamps.paid()
    await lamps.ledger.settle(PutOff(opened.payment.payment_id, None, 1000))
    assert (await lamps.due()).payments == []


async def test_a_fact_told_twice_is_taken_in_once(lamps):
    opened = await lamps.ordered()
    for status in (AUTHORIZED, AUTHORIZED, CAPTURED, CAPTURED, AUTHORIZED, FAILED, VOIDED):
        told = await lamps.hear(opened.payment, status)
    assert told.order.status is OrderStatus.PAID
    assert await lamps.counters() == (9, 0, 1)
    assert len(await lamps.journal()) == 3


async def test_a_refund_is_due_until_the_provider_has_paid_it_back(lamps):
    paid = await lamps.paid()
    await lamps.ledger.cancel_order(paid.order.order_id, None, "changed my mind")
    ((refund, payment),) = (await lamps.due()).refunds
    assert (refund.amount_minor, payment.transaction_id) == (1000, "tx")
    for _ in range(2):
        assert await lamps.ledger.settle(RefundFact(refund.refund_id)) is None
    assert (await lamps.due()).refunds == []
    assert (await lamps.order(paid.order.order_id)).status is OrderStatus.REFUNDED


async def test_a_refund_of_an_order_that_another_payment_settled_is_done_when_it_is_paid_back(lamps):
    first = await lamps.ordered(transaction="tx1")
    await lamps.hear(first.payment, FAILED)
    second = await lamps.open_order(first.order.lines[0].reservation_id, transaction="tx2")
    await lamps.hear(second.payment, AUTHORIZED, CAPTURED)
    await lamps.hear(first.payment, CAPTURED)
    ((refund, _),) = (await lamps.due()).refunds
    await lamps.ledger.settle(RefundFact(refund.refund_id))
    assert (await lamps.due()).refunds == []
    assert (await lamps.order(first.order.order_id)).status is OrderStatus.PAID


async def test_an_order_with_two_refunds_is_refunded_after_the_second(lamps):
    first = await lamps.ordered(transaction="tx1")
    await lamps.hear(first.payment, FAILED)
    second = await lamps.open_order(first.order.lines[0].reservation_id, transaction="tx2")
    await lamps.ledger.cancel_order(first.order.order_id, None, "")
    await lamps.hear(first.payment, CAPTURED)
    await lamps.hear(second.payment, CAPTURED)
    statuses = []
    for refund, _ in (await lamps.due()).refunds:
        await lamps.ledger.settle(RefundFact(refund.refund_id))
        statuses.append((await lamps.order(first.order.order_id)).status)
    assert statuses == [OrderStatus.REFUNDING, OrderStatus.REFUNDED]


async def test_a_refund_that_is_put_off_stays_due(lamps):
    paid = await lamps.paid()
    await lamps.ledger.cancel_order(paid.order.order_id, None, "")
    ((refund, _),) = (await lamps.due()).refunds
    await lamps.ledger.settle(PutOff(None, refund.refund_id, 1000))
    assert (await lamps.ledger.find(DueWork(lamps.clock.now_ms()))).refunds == []
    assert len((await lamps.due()).refunds) == 1


async def test_an_order_over_nothing_can_be_cancelled(opening, tmp_path):
    async with shop(opening, tmp_path) as free:
        await free.opens(a_sale(a_product(price_minor=0)))
        paid = await free.paid()
        assert paid.order.status is OrderStatus.PAID
        assert refusal_of(await free.ledger.cancel_order(paid.order.order_id, None, "")) is None
        for refund, _ in (await free.due()).refunds:
            await free.ledger.settle(RefundFact(refund.refund_id))
        assert (await free.order(paid.order.order_id)).status is OrderStatus.REFUNDED
        assert await free.counters() == (10, 0, 0)


async def test_a_declined_transaction_that_pays_for_another_order_stays_there(lamps):
    """News that its first order hears late are taken in without an error and without a second claim."""
    first = await lamps.ordered("ann")
    await lamps.hear(first.payment, FAILED)
    second = await lamps.ordered("bob")
    for status in (AUTHORIZED, CAPTURED):
        told = await lamps.hear(first.payment, status)
        assert told.order.status is not OrderStatus.PAID
    assert (await lamps.hear(second.payment, AUTHORIZED, CAPTURED)).order.status is OrderStatus.PAID
    assert refusal_of(await lamps.open_order(first.order.lines[0].reservation_id)) is Refusal.PAYMENT_REUSED


async def test_of_many_checkouts_with_one_transaction_one_gets_it(lamps):
    held = [(await lamps.held(f"user-{number}"))[0] for number in range(10)]
    opened = await asyncio.gather(*(lamps.open_order(each.reservation_id) for each in held))
    assert [refusal_of(each) for each in opened] == [None] + 9 * [Refusal.PAYMENT_REUSED]


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("swept", [True, False])
async def test_late_money_is_honoured_swept_or_not(store, lines, swept):
    opened = await store.ordered("ann", *[("lamp", 1), ("bulb", 1)][:lines])
    store.clock.pass_ms(HOLD_MS)
    if swept:
        await store.ledger.expire()
    assert (await store.hear(opened.payment, CAPTURED)).order.status is OrderStatus.PAID
    assert await store.counters() == (9, 0, 1)
    assert await store.discrepancies() == []


async def test_late_money_finds_the_unit_of_somebody_whose_time_is_over_too(opening, tmp_path):
    async with shop(opening, tmp_path) as last_lamp:
        await last_lamp.opens(units=1)
        opened = await last_lamp.ordered("ann")
        last_lamp.clock.pass_ms(HOLD_MS)
        await last_lamp.held("bob")
        last_lamp.clock.pass_ms(HOLD_MS)
        assert (await last_lamp.hear(opened.payment, CAPTURED)).order.status is OrderStatus.PAID


async def test_a_step_that_is_refused_for_good_is_over(lamps):
    """Nothing to capture any more: the order falls and its unit is free. Nothing to void: so be it."""
    opened = await lamps.ordered()
    await lamps.hear(opened.payment, AUTHORIZED)
    refused = PaymentFact(opened.payment.payment_id, a_fact(opened.payment, FAILED), LEASE_MS, Due.CAPTURE)
    told = await lamps.ledger.settle(refused)
    assert (told.order.status, told.payment.due) == (OrderStatus.CANCELLED, None)
    assert await lamps.counters() == (10, 0, 0)


# -- Sales.


async def test_a_sale_id_can_be_used_again_after_its_sale_was_deleted(lamps):
    assert await lamps.ledger.change_sale(DeleteSale("sale", "operator")) is None
    assert refusal_of(await lamps.reserve("ann")) is Refusal.NOT_FOUND
    await lamps.opens(units=3)
    assert await lamps.counters() == (3, 0, 0)
    await lamps.held("ann")
    assert await lamps.discrepancies() == []
    seqs = [row.sku_seq for row in await lamps.journal()]
    assert len(set(seqs)) == len(seqs)


async def test_a_product_taken_out_of_a_draft_can_come_back(opening, tmp_path):
    lamp, bulb = a_product("lamp"), a_product("bulb")
    async with shop(opening, tmp_path) as draft:
        await draft.opens(a_sale(lamp, bulb, starts_at_ms=None))
        for products in ((bulb,), (lamp, bulb)):
            asked = a_draft(a_sale(*products, starts_at_ms=None), 5)
            assert isinstance(await draft.ledger.change_sale(EditSale(asked, None, "operator")), Sale)
        assert await draft.counters("lamp") == (5, 0, 0)
        assert await draft.discrepancies() == []


async def test_a_switch_takes_effect_with_its_answer(lamps):
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    assert refusal_of(await lamps.reserve("ann")) is Refusal.PAUSED
    assert refusal_of(await lamps.refuse("ann")) is Refusal.PAUSED
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.RESUME, "operator"))
    assert refusal_of(await lamps.reserve("ann")) is None


async def test_nobody_buys_a_millisecond_early_or_late(opening, tmp_path):
    async with shop(opening, tmp_path, HandClock(OPENING_MS - 1)) as punctual:
        await punctual.opens(a_sale(ends_at_ms=OPENING_MS + 1000))
        assert refusal_of(await punctual.reserve("ann")) is Refusal.NOT_STARTED
        punctual.clock.pass_ms(1)
        assert refusal_of(await punctual.reserve("ann")) is None
        punctual.clock.pass_ms(999)
        assert refusal_of(await punctual.reserve("bob")) is None
        punctual.clock.pass_ms(1)
        assert refusal_of(await punctual.reserve("cyd")) is Refusal.ENDED


async def test_each_change_is_in_the_audit_with_who_made_it(lamps):
    await lamps.ledger.change_sale(Restock("sale", "lamp", 5, "found some", "olga"))
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "otto"))
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "nobody"))
    entries = await lamps.ledger.find(AuditPage())
    assert [(entry.actor, entry.action, entry.subject) for entry in entries] == [
        ("operator", "sale.create", "sale"),
        ("olga", "stock.restock", "sale"),
        ("otto", "sale.switch", "sale"),
    ]
    assert entries[1].details["quantity"] == 5
    (second,) = await lamps.ledger.find(AuditPage(after=entries[0].seq, limit=1))
    assert second == entries[1]


async def test_two_operators_changing_one_version_do_not_both_succeed(lamps):
    change = EditSale(a_draft(a_sale()), 1, "operator")
    outcomes = await together(lamps.ledger.change_sale(change) for _ in range(2))
    assert [refusal_of(outcome) for outcome in outcomes] == [None, Refusal.ILLEGAL_STATE]


# -- Questions.


async def test_reservations_are_found_by_id_and_by_user(store):
    (lamp,), (bulb,) = await store.held("ann", ("lamp", 1)), await store.held("ann", ("bulb", 1))
    await store.held("bob", ("bulb", 1))
    now_ms = store.clock.now_ms()
    assert await store.ledger.find(FindReservations(("res_0",))) == []
    found = await store.ledger.find(FindReservations((lamp.reservation_id, bulb.reservation_id, "res_0")))
    assert {each.reservation_id for each in found} == {lamp.reservation_id, bulb.reservation_id}
    assert await store.ledger.find(FindActiveReservations("ann", now_ms)) == [bulb, lamp]
    assert await store.ledger.find(FindActiveReservations("ann", now_ms + HOLD_MS)) == []


async def test_orders_are_found_by_id_by_reservation_and_by_user(lamps):
    opened = await lamps.ordered()
    for query in (FindOrder(opened.order.order_id), FindOrder(None, opened.order.lines[0].reservation_id)):
        assert await lamps.ledger.find(query) == opened.order
    assert await lamps.ledger.find(FindOrders("ann")) == [opened.order]
    assert await lamps.ledger.find(FindOrders("bob")) == []
    assert await lamps.ledger.find(FindOrder("ord_0")) is None


async def test_sales_are_found_oldest_first(lamps):
    lamps.clock.pass_ms(1)
    await lamps.ledger.change_sale(CreateSale(a_draft(a_sale(a_product("vase"), sale_id="new")), "operator"))
    sales = await lamps.ledger.find(FindSales())
    assert [sale.sale_id for sale in sales] == ["sale", "new"]
    assert state_at(sales[0], OPENING_MS) is SaleState.ACTIVE


async def test_the_journal_is_read_in_pages(store):
    for number in range(5):
        await store.held(f"user-{number}", ("lamp", 1), ("bulb", 1))
    everything = await store.ledger.find(JournalPage("sale"))
    assert [row.sku_seq for _, row in everything if row.sku_id == "lamp"] == [1, 2, 3, 4, 5, 6]
    for sku_id in (None, "lamp"):
        wanted = [entry for entry in everything if sku_id in (None, entry[1].sku_id)]
        paged, after = [], 0
        while page := await store.ledger.find(JournalPage("sale", sku_id, after, limit=2)):
            paged += page
            after = page[-1][0]
        assert paged == wanted


async def test_any_cursor_of_the_journal_leads_on_from_where_it_stands(store):
    for number in range(5):
        await store.held(f"user-{number}", ("lamp", 1))
    await store.held("user-0", ("bulb", 1))
    await store.held("user-0", ("lamp", 1))
    everything = await store.ledger.find(JournalPage("sale"))
    for after, _ in everything:
        rest = [entry for entry in everything if entry[0] > after and entry[1].sku_id == "lamp"]
        assert await store.ledger.find(JournalPage("sale", "lamp", after)) == rest
    assert await store.ledger.find(JournalPage("sale", "lamp", 2**62)) == []


async def test_figures_are_counted_from_the_rows(lamps):
    paid = await lamps.paid("ann", transaction="tx1")
    await lamps.ordered("bob", transaction="tx2")
    fallen = await lamps.ordered("cyd", transaction="tx3")
    await lamps.ledger.cancel_order(fallen.order.order_id, None, "")
    await lamps.reserve("ann")
    await lamps.ledger.expire()
    figures = await lamps.ledger.find(FiguresOf("sale"))
    assert (figures.reservations, figures.unique_users) == (3, 3)
    assert (figures.orders, figures.orders_paid, figures.orders_failed) == (3, 1, 1)
    assert (figures.revenue_minor, figures.peak_orders_per_second) == (paid.order.total_minor, 3)
    assert figures.refusals == {"LIMIT_EXCEEDED": 1}


async def test_a_question_that_fails_leaves_its_neighbours_alone(lamps):
    good, bad = await together([lamps.ledger.find(StockOf("sale")), lamps.ledger.find(FindReservations(("\ud800",)))])
    assert isinstance(bad, LedgerUnavailable)
    assert [row.sku_id for row in good] == ["lamp"]


# -- Answers reach whoever asked.


async def test_a_reply_that_fails_does_not_rob_others_of_theirs(lamps):
    def fails(_: object) -> None:
        raise RuntimeError("gone away")

    lamps.ledger.reserve(an_attempt("ann"), fails)
    assert isinstance(await asyncio.wait_for(lamps.asks(an_attempt("bob")), 5), Granted)
    lamps.ledger.refuse(an_attempt("ann"), fails)
    outcome = await asyncio.wait_for(answered(lamps.ledger.refuse, an_attempt("bob")), 5)
    assert refusal_of(outcome) is Refusal.LIMIT_EXCEEDED


async def test_whoever_stops_waiting_does_not_stop_what_he_asked_for(lamps):
    (held,) = await lamps.held("ann")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lamps.ledger.release(held.reservation_id, None)
    await lamps.ledger.expire()
    assert (await lamps.reservation(held.reservation_id)).status is Status.CANCELLED


async def test_a_checkout_that_its_caller_left_can_be_repeated(lamps):
    (held,) = await lamps.held("ann")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await lamps.open_order(held.reservation_id)
    opened = await lamps.ledger.open_order(a_checkout(held.reservation_id))
    assert opened.order.sequence == 1
    assert len((await lamps.due()).payments) == 1
