"""Money and units under facts that come late, twice and in any order.

Whatever is told in whatever order, it ends in a sane state: paid with the units sold, or given back or owed
back; never money kept without units, never units sold without money.
"""

from collections.abc import Callable
from itertools import permutations, product

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
    a_fact,
    a_product,
    a_sale,
    refusal_of,
)

from flashsale.core.checkout import Opened
from flashsale.core.order import OrderStatus
from flashsale.core.payment import Due, PaymentStatus, Transaction
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import Status
from flashsale.core.sale import LatePayment

FACTS = (FAILED, AUTHORIZED, VOIDED, CAPTURED)
Happening = Callable[[Shop, Opened], object]


def fact(status: PaymentStatus) -> Happening:
    def happens(shop: Shop, opened: Opened) -> None:
        shop.hear(opened, status)

    happens.__name__ = status.name
    return happens


def expires(shop: Shop, opened: Opened) -> None:
    shop.pass_ms(HOLD_MS)
    shop.expire()


def lapses(shop: Shop, opened: Opened) -> None:
    """Its time is over, and nobody has swept yet."""
    shop.pass_ms(HOLD_MS)


def cancels(shop: Shop, opened: Opened) -> None:
    shop.cancel(opened.order.order_id)


def releases(shop: Shop, opened: Opened) -> None:
    for reservation in shop.books.lines_of(opened.order):
        shop.release(reservation.reservation_id)


def pays_again(shop: Shop, opened: Opened) -> None:
    ids = [line.reservation_id for line in opened.order.lines]
    shop.open_order(a_checkout(*ids, transaction="tx"))


def others_buy(shop: Shop, opened: Opened) -> None:
    """Whatever is free is gone."""
    for number in range(shop.counters()[0]):
        shop.held(f"other-{number}")


TOLD = [fact(status) for status in FACTS]
DISTURBANCES = [expires, lapses, cancels, releases, pays_again, others_buy]


def ends_sanely(shop: Shop, opened: Opened) -> None:
    """Everything that is due is done at a willing provider, and the books are looked at before and after."""
    audit(shop.books)
    for _ in range(3):
        for payment_id, due in shop.due().items():
            done = {Due.AUTHORISE: AUTHORIZED, Due.CAPTURE: CAPTURED, Due.VOID: VOIDED}[due]
            shop.settle(payment_id, a_fact(shop.books.payments[payment_id], done))
            audit(shop.books)
    for refund in shop.owed():
        shop.paid_back(refund.refund_id)
    assert shop.due() == {}, "a step goes round in circles"
    assert opened.order.status is not OrderStatus.REFUNDING


def names(happenings: tuple[Happening, ...]) -> str:
    return " ".join(each.__name__ for each in happenings)


@pytest.mark.parametrize("late", LatePayment)
@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize("disturbed", [(), *((each,) for each in DISTURBANCES), (expires, others_buy)], ids=names)
def test_every_order_of_the_facts_ends_sanely(late, lines, disturbed):
    for happenings in permutations([*TOLD, *disturbed]):
        shop, opened = an_order_of(lines, late)
        for happens in happenings:
            happens(shop, opened)
            audit(shop.books)
        ends_sanely(shop, opened)


@pytest.mark.parametrize("late", LatePayment)
def test_any_four_happenings_repeated_or_not_end_sanely(late):
    for happenings in product([*TOLD, *DISTURBANCES], repeat=4):
        shop, opened = an_order_of(1, late)
        for happens in happenings:
            happens(shop, opened)
        ends_sanely(shop, opened)


def an_order_of(lines: int, late: LatePayment) -> tuple[Shop, Opened]:
    shop = Shop(a_sale(a_product(limit=2), late_payment=late), units=3)
    ids = [shop.held("ann", key=str(number))[0].reservation_id for number in range(lines)]
    opened = shop.open_order(a_checkout(*ids))
    assert isinstance(opened, Opened)
    return shop, opened


@pytest.mark.parametrize("first", FACTS)
@pytest.mark.parametrize("second", FACTS)
def test_a_payment_keeps_the_highest_rank_it_heard_of(first, second):
    shop = Shop()
    opened = shop.hear(shop.ordered(), first, second)
    assert opened.payment.status is max(first, second)


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_told_twice_changes_nothing_the_second_time(fact):
    shop = Shop()
    opened = shop.hear(shop.ordered(), fact)
    before = (shop.counters(), len(shop.books.journal), len(shop.books.events), len(shop.books.refunds), shop.due())
    shop.hear(opened, fact)
    after = (shop.counters(), len(shop.books.journal), len(shop.books.events), len(shop.books.refunds), shop.due())
    assert after == before


# -- Authorised.


def test_an_authorisation_sells_the_units_and_makes_the_capture_due():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.PENDING_PAYMENT, Due.CAPTURE)
    assert shop.counters() == (9, 0, 1)


@pytest.mark.parametrize("over", [expires, lapses, cancels, releases])
def test_an_authorisation_that_comes_too_late_is_voided_and_no_money_moves(over):
    shop = Shop()
    opened = shop.ordered()
    over(shop, opened)
    opened = shop.hear(opened, AUTHORIZED)
    assert opened.payment.due is Due.VOID
    assert shop.counters() == (10, 0, 0)
    assert shop.hear(opened, VOIDED).payment.due is None
    assert shop.owed() == []


def test_an_order_is_paid_when_the_money_is_captured_not_before():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    assert opened.order.transaction_id is None
    opened = shop.hear(opened, CAPTURED)
    assert (opened.order.status, opened.order.transaction_id) == (OrderStatus.PAID, "tx")


def test_a_confirmed_reservation_does_not_expire_while_its_capture_is_due():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    shop.pass_ms(100 * HOLD_MS)
    assert shop.expire() == 0
    assert shop.hear(opened, CAPTURED).order.status is OrderStatus.PAID


# -- Cancelling between authorise and capture.


def test_cancelling_while_the_capture_is_due_gives_the_units_back_and_voids():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    cancels(shop, opened)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.CANCELLED, Due.VOID)
    assert shop.counters() == (10, 0, 0)
    assert shop.hear(opened, VOIDED).payment.due is None


def test_a_capture_that_overtook_the_void_is_owed_back():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    cancels(shop, opened)
    shop.hear(opened, CAPTURED, VOIDED)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.REFUNDING, None)
    (refund,) = shop.owed()
    assert refund.amount_minor == opened.order.total_minor


def test_an_authorisation_that_somebody_else_voids_takes_the_order_with_it():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED, VOIDED)
    assert opened.order.status is OrderStatus.CANCELLED
    assert shop.counters() == (10, 0, 0)


# -- Late money.


@pytest.mark.parametrize("over", [expires, lapses])
@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize(("late", "then"), [("honour", "PAID"), ("refund", "REFUNDING")])
def test_late_money_is_honoured_or_owed_back_as_the_sale_says(over, lines, late, then):
    """Whether the sweeper has come by makes no difference: from its expiry a reservation is EXPIRED for all."""
    shop = Shop(a_sale(a_product(limit=3), late_payment=LatePayment(late)))
    ids = [shop.held("ann", key=str(number))[0].reservation_id for number in range(lines)]
    opened = shop.open_order(a_checkout(*ids))
    over(shop, opened)
    assert shop.hear(opened, CAPTURED).order.status == then
    audit(shop.books)


def test_late_money_is_owed_back_when_its_units_are_gone():
    shop = Shop(units=1)
    opened = shop.ordered()
    expires(shop, opened)
    others_buy(shop, opened)
    assert shop.hear(opened, CAPTURED).order.status is OrderStatus.REFUNDING
    assert len(shop.owed()) == 1
    audit(shop.books)


def test_late_money_is_owed_back_when_its_user_has_bought_anew_up_to_the_limit():
    shop = Shop()
    opened = shop.ordered("ann")
    expires(shop, opened)
    shop.held("ann")
    assert shop.hear(opened, CAPTURED).order.status is OrderStatus.REFUNDING
    audit(shop.books)


def test_late_money_for_two_units_is_all_or_nothing():
    shop = Shop(a_sale(a_product(limit=2)), units=2)
    ids = [shop.held("ann", key=key)[0].reservation_id for key in "ab"]
    opened = shop.open_order(a_checkout(*ids))
    expires(shop, opened)
    shop.held("bob")
    assert shop.hear(opened, CAPTURED).order.status is OrderStatus.REFUNDING
    assert shop.counters() == (1, 1, 0)
    audit(shop.books)


def test_late_money_is_honoured_although_the_sale_has_ended_since():
    shop = Shop()
    opened = shop.ordered()
    expires(shop, opened)
    shop.terms(ended=True)
    assert shop.hear(opened, CAPTURED).order.status is OrderStatus.PAID


def test_a_unit_whose_time_is_over_is_free_for_late_money_swept_or_not():
    shop = Shop(units=1)
    late = shop.ordered("ann")
    expires(shop, late)
    shop.held("bob")
    shop.pass_ms(HOLD_MS)
    assert shop.hear(late, CAPTURED).order.status is OrderStatus.PAID
    audit(shop.books)


def test_a_reservation_that_went_into_another_order_is_not_taken_out_of_it_by_late_money():
    shop = Shop(a_sale(a_product(limit=2)))
    first, second = shop.held("ann", key="a")[0], shop.held("ann", key="b")[0]
    fallen = shop.open_order(a_checkout(first.reservation_id, second.reservation_id))
    shop.release(first.reservation_id)
    anew = shop.open_order(a_checkout(second.reservation_id, transaction="tx2"))
    shop.hear(fallen, CAPTURED)
    assert fallen.order.status is OrderStatus.REFUNDING
    assert second.order_id == anew.order.order_id
    assert shop.hear(anew, AUTHORIZED, CAPTURED).order.status is OrderStatus.PAID
    audit(shop.books)


# -- Declined, wrong, gone.


def test_a_declined_payment_leaves_the_reservation_held_and_the_order_open():
    shop = Shop()
    opened = shop.hear(shop.ordered(), FAILED)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.PENDING_PAYMENT, None)
    assert (opened.payment.failure, opened.payment.reason) == ("PAYMENT_DECLINED", "declined by the issuer")
    assert shop.counters() == (9, 1, 0)


@pytest.mark.parametrize("amount_minor", [0, 999, 1001, 10**9])
def test_an_authorisation_over_another_amount_pays_for_nothing(amount_minor):
    shop = Shop()
    opened = shop.ordered()
    opened = shop.settle(opened.payment.payment_id, a_fact(opened.payment, AUTHORIZED, amount_minor))
    assert (opened.payment.status, opened.payment.failure) == (FAILED, "PAYMENT_MISMATCH")
    assert shop.counters() == (9, 1, 0)


def test_a_capture_of_less_than_was_authorised_does_not_pay_the_order():
    shop = Shop()
    opened = shop.hear(shop.ordered(), AUTHORIZED)
    shop.settle(opened.payment.payment_id, a_fact(opened.payment, CAPTURED, 1))
    assert opened.order.status is not OrderStatus.PAID


@pytest.mark.parametrize("over", [lapses, expires])
def test_a_decline_after_the_time_is_over_leaves_an_expired_order(over):
    shop = Shop()
    opened = shop.ordered()
    over(shop, opened)
    opened = shop.hear(opened, FAILED)
    assert (opened.order.status, opened.payment.due) == (OrderStatus.EXPIRED, None)


def test_a_void_of_a_transaction_that_nobody_authorised_is_over_no_amount_and_closes_it():
    shop = Shop()
    opened = shop.ordered()
    cancels(shop, opened)
    opened = shop.settle(opened.payment.payment_id, Transaction("tx", VOIDED, 0, ""))
    assert (opened.payment.status, opened.payment.due) == (VOIDED, None)
    assert opened.payment.failure != Refusal.PAYMENT_MISMATCH.code


def test_a_void_of_nothing_is_not_asked_for_again():
    shop = Shop()
    opened = shop.ordered()
    cancels(shop, opened)
    assert shop.hear(opened, FAILED).payment.due is None


# -- Confirm against expire: who comes first wins, and there is one winner.


@pytest.mark.parametrize("ways", list(permutations([fact(AUTHORIZED), expires, releases, cancels], 2)), ids=names)
def test_the_first_way_out_of_a_reservation_wins(ways):
    shop = Shop()
    opened = shop.ordered()
    (reservation,) = shop.books.lines_of(opened.order)
    ways[0](shop, opened)
    won = reservation.status
    ways[1](shop, opened)
    took_back = won is Status.CONFIRMED and ways[1] is cancels
    assert reservation.status is (Status.RETURNED if took_back else won)
    audit(shop.books)


def test_a_lapsed_order_cannot_be_cancelled_and_a_second_checkout_hears_that_it_has_expired():
    shop = Shop()
    opened = shop.ordered()
    lapses(shop, opened)
    assert refusal_of(shop.cancel(opened.order.order_id)) is Refusal.RESERVATION_EXPIRED
    shop.expire()
    again = a_checkout(opened.order.lines[0].reservation_id, transaction="tx2")
    assert refusal_of(shop.open_order(again)) is Refusal.RESERVATION_EXPIRED
