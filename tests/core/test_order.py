"""The ways of an order: where each state may lead, and what a payment fact or a wish does to it in each."""

import pytest
from core.audit import audit
from core.shop import (
    AUTHORIZED,
    CAPTURED,
    FAILED,
    HOLD_MS,
    VOIDED,
    Shop,
    a_checkout,
    a_product,
    a_sale,
    an_attempt,
    refusal_of,
)

from flashsale.core.checkout import Opened
from flashsale.core.order import LINES_MAX, TRANSITIONS, OrderStatus
from flashsale.core.payment import Due
from flashsale.core.refusal import Refusal

LEADS_TO = {
    "PENDING_PAYMENT": {"PAID", "CANCELLED", "EXPIRED"},
    "EXPIRED": {"PAID", "REFUNDING"},
    "CANCELLED": {"REFUNDING"},
    "PAID": {"PROCESSING", "REFUNDING"},
    "PROCESSING": {"SHIPPED", "REFUNDING"},
    "SHIPPED": {"DELIVERED", "REFUNDING"},
    "DELIVERED": {"REFUNDING"},
    "REFUNDING": {"REFUNDED"},
    "REFUNDED": set(),
}


@pytest.mark.parametrize("status", OrderStatus)
def test_an_order_may_only_go_where_the_table_says(status):
    assert TRANSITIONS[status] == LEADS_TO[status]


def test_an_order_costs_the_sum_of_its_lines():
    shop = Shop(a_sale(a_product("lamp", 3, 1000), a_product("bulb", 5, 250)))
    assert shop.ordered("ann", ("lamp", 2), ("bulb", 3)).order.total_minor == 2 * 1000 + 3 * 250


# -- Bringing an order into a state, and what is asked of it there.


def in_state(status: OrderStatus) -> tuple[Shop, Opened]:
    shop = Shop()
    if status in (OrderStatus.PROCESSING, OrderStatus.SHIPPED, OrderStatus.DELIVERED):
        opened = shop.paid()
        opened.order.status = status
        return shop, opened
    ways = {
        OrderStatus.PENDING_PAYMENT: (),
        OrderStatus.PAID: (authorised, captured),
        OrderStatus.CANCELLED: (cancelled,),
        OrderStatus.EXPIRED: (swept,),
        OrderStatus.REFUNDING: (authorised, captured, cancelled),
        OrderStatus.REFUNDED: (authorised, captured, cancelled, paid_back),
    }
    opened = shop.ordered()
    for step in ways[status]:
        step(shop, opened)
    assert opened.order.status is status
    return shop, opened


def authorised(shop: Shop, opened: Opened) -> None:
    shop.hear(opened, AUTHORIZED)


def captured(shop: Shop, opened: Opened) -> None:
    shop.hear(opened, CAPTURED)


def cancelled(shop: Shop, opened: Opened) -> None:
    shop.cancel(opened.order.order_id, reason="changed my mind")


def swept(shop: Shop, opened: Opened) -> None:
    shop.pass_ms(HOLD_MS)
    shop.expire()


def paid_back(shop: Shop, opened: Opened) -> None:
    for refund in shop.owed():
        shop.paid_back(refund.refund_id)


CANCELLING = {
    # state: (refusal, then)
    "PENDING_PAYMENT": (None, "CANCELLED"),
    "CANCELLED": (None, "CANCELLED"),
    "EXPIRED": (Refusal.RESERVATION_EXPIRED, "EXPIRED"),
    "PAID": (None, "REFUNDING"),
    "PROCESSING": (None, "REFUNDING"),
    "SHIPPED": (Refusal.ILLEGAL_STATE, "SHIPPED"),
    "DELIVERED": (Refusal.ILLEGAL_STATE, "DELIVERED"),
    "REFUNDING": (None, "REFUNDING"),
    "REFUNDED": (None, "REFUNDED"),
}


@pytest.mark.parametrize("status", OrderStatus)
def test_cancelling(status):
    shop, opened = in_state(status)
    refusal, then = CANCELLING[status]
    assert refusal_of(shop.cancel(opened.order.order_id)) is refusal
    assert opened.order.status == then
    assert shop.counters() == ((9, 0, 1) if then in ("SHIPPED", "DELIVERED") else (10, 0, 0))
    audit(shop.books)


CAPTURED_LATE = {
    # state: (then, refunds owed)     of an order whose money of another transaction turns up
    "PENDING_PAYMENT": ("PAID", 0),
    "CANCELLED": ("REFUNDING", 1),
    "EXPIRED": ("PAID", 0),
    "PAID": ("PAID", 1),
    "PROCESSING": ("PROCESSING", 1),
    "SHIPPED": ("SHIPPED", 1),
    "DELIVERED": ("DELIVERED", 1),
    "REFUNDING": ("REFUNDING", 2),
    "REFUNDED": ("REFUNDED", 1),
}


@pytest.mark.parametrize("status", OrderStatus)
def test_money_of_an_earlier_try_turning_up(status):
    shop = Shop()
    earlier = shop.hear(shop.ordered(transaction="tx1"), FAILED)
    (reservation,) = shop.books.reservations
    later = shop.open_order(a_checkout(reservation, transaction="tx2"))
    bring(shop, later, status)
    shop.hear(earlier, CAPTURED)
    then, owed = CAPTURED_LATE[status]
    assert (later.order.status, len(shop.owed())) == (then, owed)
    if status is not OrderStatus.PENDING_PAYMENT:
        audit(shop.books)


def bring(shop: Shop, opened: Opened, status: OrderStatus) -> None:
    """The way of an order that is on its second payment to a state."""
    if status in ("CANCELLED", "EXPIRED"):
        (cancelled if status == "CANCELLED" else swept)(shop, opened)
        return
    if status == "PENDING_PAYMENT":
        return
    shop.hear(opened, AUTHORIZED, CAPTURED)
    if status in ("REFUNDING", "REFUNDED"):
        cancelled(shop, opened)
    if status == "REFUNDED":
        paid_back(shop, opened)
    elif status != "REFUNDING":
        opened.order.status = status


def test_two_payments_of_one_order_captured_keep_the_first_and_owe_the_second():
    shop = Shop()
    first = shop.hear(shop.ordered(transaction="tx1"), FAILED)
    (reservation,) = shop.books.reservations
    second = shop.open_order(a_checkout(reservation, transaction="tx2"))
    shop.hear(first, CAPTURED)
    shop.hear(second, AUTHORIZED)
    assert shop.due() == {second.payment.payment_id: Due.VOID}
    shop.hear(second, CAPTURED)
    assert [refund.payment_id for refund in shop.owed()] == [second.payment.payment_id]
    assert first.order.status is OrderStatus.PAID
    audit(shop.books)


# -- Checking out again.


def test_the_same_checkout_finds_the_same_order_and_payment():
    shop = Shop()
    opened = shop.ordered()
    (reservation,) = shop.books.reservations
    again = shop.open_order(a_checkout(reservation))
    assert (again.order, again.payment) == (opened.order, opened.payment)
    assert len(shop.books.orders) == len(shop.books.payments) == 1


@pytest.mark.parametrize("status", ["PAID", "PROCESSING", "SHIPPED", "DELIVERED", "REFUNDING", "REFUNDED"])
def test_a_checkout_that_was_paid_is_answered_with_its_order_whatever_became_of_it(status):
    shop, opened = in_state(OrderStatus(status))
    (reservation,) = shop.books.reservations
    assert shop.open_order(a_checkout(reservation)) == opened


@pytest.mark.parametrize(
    ("status", "refusal"),
    [("CANCELLED", Refusal.ILLEGAL_STATE), ("EXPIRED", Refusal.RESERVATION_EXPIRED)],
)
def test_an_order_that_has_fallen_cannot_be_paid_again(status, refusal):
    shop, _ = in_state(OrderStatus(status))
    (reservation,) = shop.books.reservations
    assert refusal_of(shop.open_order(a_checkout(reservation, transaction="tx2"))) is refusal


def test_after_a_decline_the_buyer_may_try_the_same_transaction_again():
    shop = Shop()
    opened = shop.hear(shop.ordered(), FAILED)
    assert shop.due() == {}
    (reservation,) = shop.books.reservations
    again = shop.open_order(a_checkout(reservation))
    assert (again.payment.payment_id, again.payment.tries) == (opened.payment.payment_id, 2)
    assert shop.hear(again, AUTHORIZED, CAPTURED).order.status is OrderStatus.PAID
    audit(shop.books)


def test_each_try_is_a_new_request_to_the_provider():
    shop = Shop()
    opened = shop.hear(shop.ordered(), FAILED)
    first_key = opened.payment.key(Due.AUTHORISE)
    (reservation,) = shop.books.reservations
    assert shop.open_order(a_checkout(reservation)).payment.key(Due.AUTHORISE) != first_key


def test_a_second_decline_is_taken_in_as_the_first_was():
    shop = Shop()
    shop.hear(shop.ordered(), FAILED)
    (reservation,) = shop.books.reservations
    again = shop.hear(shop.open_order(a_checkout(reservation)), FAILED)
    assert (again.payment.due, again.payment.failure) == (None, "PAYMENT_DECLINED")


def test_while_a_payment_is_under_way_another_transaction_has_to_wait():
    shop = Shop()
    shop.ordered()
    (reservation,) = shop.books.reservations
    assert refusal_of(shop.open_order(a_checkout(reservation, transaction="tx2"))) is Refusal.ILLEGAL_STATE


# -- One transaction, one order.


def test_a_transaction_pays_for_one_order():
    shop = Shop()
    shop.paid("ann")
    (bobs,) = shop.held("bob")
    assert refusal_of(shop.open_order(a_checkout(bobs.reservation_id))) is Refusal.PAYMENT_REUSED


@pytest.mark.parametrize("fact", [AUTHORIZED, VOIDED, CAPTURED])
def test_a_transaction_stays_with_its_order_once_anything_but_a_decline_is_known_of_it(fact):
    shop = Shop()
    shop.hear(shop.ordered("ann"), fact)
    (bobs,) = shop.held("bob")
    assert refusal_of(shop.open_order(a_checkout(bobs.reservation_id))) is Refusal.PAYMENT_REUSED


def test_a_declined_transaction_may_pay_for_another_order():
    shop = Shop()
    shop.hear(shop.ordered("ann"), FAILED)
    (bobs,) = shop.held("bob")
    assert shop.hear(shop.open_order(a_checkout(bobs.reservation_id)), AUTHORIZED, CAPTURED).order.user_id == "bob"
    anns = next(iter(shop.books.reservations))
    assert refusal_of(shop.open_order(a_checkout(anns))) is Refusal.PAYMENT_REUSED
    audit(shop.books)


@pytest.mark.parametrize("late", [AUTHORIZED, CAPTURED])
def test_a_transaction_that_moved_to_another_order_stays_there_when_its_old_order_hears_of_it_late(late):
    """The old payment gave its claim up when it was declined; news of the transaction belong to its new order."""
    shop = Shop()
    old = shop.hear(shop.ordered("ann"), FAILED)
    shop.ordered("bob")
    shop.hear(old, late)
    audit(shop.books)


# -- What can be checked out together.


def test_reservations_of_one_user_and_one_sale_are_paid_together():
    shop = Shop(a_sale(a_product("lamp", 2)), a_sale(a_product("chair"), sale_id="other"))
    anns, bobs = shop.held("ann")[0].reservation_id, shop.held("bob")[0].reservation_id
    chair = shop.decide(an_attempt("ann", ("chair", 1), sale_id="other"))[0].reservations[0].reservation_id
    assert refusal_of(shop.open_order(a_checkout(anns, bobs))) is Refusal.VALIDATION_FAILED
    assert refusal_of(shop.open_order(a_checkout(anns, chair))) is Refusal.VALIDATION_FAILED
    assert refusal_of(shop.open_order(a_checkout(anns, "res_0"))) is Refusal.NOT_FOUND
    assert refusal_of(shop.open_order(a_checkout(anns, user="bob"))) is Refusal.NOT_FOUND


def test_an_order_has_one_currency():
    shop = Shop(a_sale(a_product("lamp"), a_product("bulb", currency="USD")))
    ids = [each.reservation_id for each in shop.held("ann", ("lamp", 1), ("bulb", 1))]
    assert refusal_of(shop.open_order(a_checkout(*ids))) is Refusal.VALIDATION_FAILED


def test_an_order_has_at_most_20_lines():
    shop = Shop(a_sale(a_product(limit=LINES_MAX + 1)), units=100)
    ids = [shop.held("ann", key=str(number))[0].reservation_id for number in range(LINES_MAX + 1)]
    assert refusal_of(shop.open_order(a_checkout(*ids))) is Refusal.VALIDATION_FAILED
    assert isinstance(shop.open_order(a_checkout(*ids[1:])), Opened)


def test_a_reservation_named_twice_is_not_paid_for_twice():
    shop = Shop()
    (reservation,) = shop.held("ann")
    opened = shop.open_order(a_checkout(reservation.reservation_id, reservation.reservation_id))
    assert refusal_of(opened) is Refusal.VALIDATION_FAILED


def test_a_reservation_is_in_one_open_order():
    shop = Shop(a_sale(a_product(limit=2)))
    first, second = (shop.held("ann", key=key)[0].reservation_id for key in "ab")
    shop.open_order(a_checkout(first))
    assert refusal_of(shop.open_order(a_checkout(first, second, transaction="tx2"))) is Refusal.ILLEGAL_STATE
    assert refusal_of(shop.open_order(a_checkout(second, first, transaction="tx2"))) is Refusal.ILLEGAL_STATE


@pytest.mark.parametrize("cancelled_first", [True, False])
def test_an_expired_line_is_said_before_an_illegal_one(cancelled_first):
    shop = Shop(a_sale(a_product(limit=2)))
    gone, over = (shop.held("ann", key=key)[0].reservation_id for key in "ab")
    shop.release(gone)
    shop.pass_ms(HOLD_MS)
    ids = (gone, over) if cancelled_first else (over, gone)
    assert refusal_of(shop.open_order(a_checkout(*ids))) is Refusal.RESERVATION_EXPIRED


# -- Events.


def test_every_step_of_an_order_is_an_event_with_the_next_number():
    shop = Shop()
    opened = shop.paid()
    cancelled(shop, opened)
    paid_back(shop, opened)
    events = [(event.type, event.sequence) for event in shop.books.events]
    assert events == [("order.created", 1), ("order.paid", 2), ("order.refunding", 3), ("order.refunded", 4)]


def test_an_order_is_refunded_when_its_last_refund_is_paid_back():
    shop = Shop()
    first = shop.hear(shop.ordered(transaction="tx1"), FAILED)
    (reservation,) = shop.books.reservations
    second = shop.open_order(a_checkout(reservation, transaction="tx2"))
    shop.cancel(second.order.order_id)
    shop.hear(first, CAPTURED)
    shop.hear(second, CAPTURED)
    one, other = shop.owed()
    assert shop.paid_back(one.refund_id).status is OrderStatus.REFUNDING
    assert shop.paid_back(one.refund_id).status is OrderStatus.REFUNDING
    assert shop.paid_back(other.refund_id).status is OrderStatus.REFUNDED
