"""The ways of a reservation: every state, and what each movement and each wish does to it."""

from itertools import product

import pytest
from core.audit import audit
from core.shop import AUTHORIZED, CAPTURED, HOLD_MS, Shop, a_checkout, a_product, a_sale, refusal_of

from flashsale.core.journal import Kind
from flashsale.core.order import OrderStatus
from flashsale.core.refusal import Refusal
from flashsale.core.reservation import TRANSITIONS, Reservation, Status, lapsed, status_at

LEADS_TO = {
    ("PENDING", "RESERVE"): "RESERVED",
    ("RESERVED", "CONFIRM"): "CONFIRMED",
    ("RESERVED", "RELEASE"): "CANCELLED",
    ("RESERVED", "EXPIRE"): "EXPIRED",
    ("EXPIRED", "HONOUR"): "CONFIRMED",
    ("CONFIRMED", "RETURN"): "RETURNED",
}
UNITS_AFTER = {
    Kind.CONFIRM: (9, 0, 1),
    Kind.RELEASE: (10, 0, 0),
    Kind.EXPIRE: (10, 0, 0),
    Kind.HONOUR: (9, 0, 1),
    Kind.RETURN: (10, 0, 0),
}
"""`(available, held, sold)` of 10 units after one unit went this way."""


def in_state(status: Status) -> tuple[Shop, Reservation]:
    """A shop with one reservation that came to its state by the ways of the table."""
    shop = Shop()
    (reservation,) = shop.held("ann")
    ways = {
        Status.RESERVED: [],
        Status.CONFIRMED: [Kind.CONFIRM],
        Status.CANCELLED: [Kind.RELEASE],
        Status.EXPIRED: [Kind.EXPIRE],
        Status.RETURNED: [Kind.CONFIRM, Kind.RETURN],
    }
    for kind in ways[status]:
        go(shop, reservation, kind)
    return shop, reservation


def go(shop: Shop, reservation: Reservation, kind: Kind) -> None:
    if kind is Kind.RETURN:
        reservation.returned_quantity = reservation.quantity
    shop.books.transition(reservation, kind, shop.now_ms, "test")


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("kind", Kind)
def test_a_movement_leads_where_the_table_says_or_nowhere(status, kind):
    assert TRANSITIONS.get((status, kind)) == LEADS_TO.get((status, kind))


REACHABLE = (Status.RESERVED, Status.CONFIRMED, Status.CANCELLED, Status.EXPIRED, Status.RETURNED)


@pytest.mark.parametrize(("status", "kind"), [pair for pair in product(REACHABLE, Kind) if pair in TRANSITIONS])
def test_units_move_with_the_reservation(status, kind):
    shop, reservation = in_state(status)
    go(shop, reservation, kind)
    assert reservation.status is TRANSITIONS[status, kind]
    assert shop.counters() == UNITS_AFTER[kind]
    assert shop.books.journal[-1].kind is kind
    audit(shop.books)


@pytest.mark.parametrize(("status", "kind"), [pair for pair in product(REACHABLE, Kind) if pair not in TRANSITIONS])
def test_what_is_not_in_the_table_changes_nothing(status, kind):
    shop, reservation = in_state(status)
    before = (shop.counters(), len(shop.books.journal), dict(shop.books.claims))
    with pytest.raises(KeyError):
        shop.books.transition(reservation, kind, shop.now_ms, "test")
    assert reservation.status is status
    assert (shop.counters(), len(shop.books.journal), dict(shop.books.claims)) == before


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("late_ms", [-1, 0, 1])
def test_from_its_expiry_on_a_held_reservation_is_expired_for_every_reader(status, late_ms):
    reservation = Reservation("res_1", "ann", "sale", "lamp", 1, status, 1, "EUR", 0, HOLD_MS)
    over = status is Status.RESERVED and late_ms >= 0
    assert status_at(reservation, HOLD_MS + late_ms) is (Status.EXPIRED if over else status)
    assert lapsed(reservation, HOLD_MS + late_ms) is over


# -- What a buyer may wish of a reservation, in each of its states.

RELEASED = {
    Status.RESERVED: None,
    Status.CANCELLED: None,
    Status.EXPIRED: Refusal.RESERVATION_EXPIRED,
    Status.CONFIRMED: Refusal.ILLEGAL_STATE,
    Status.RETURNED: Refusal.ILLEGAL_STATE,
}
PAID_FOR = {
    Status.RESERVED: None,
    Status.CANCELLED: Refusal.ILLEGAL_STATE,
    Status.EXPIRED: Refusal.RESERVATION_EXPIRED,
    Status.CONFIRMED: Refusal.ILLEGAL_STATE,
    Status.RETURNED: Refusal.ILLEGAL_STATE,
}


@pytest.mark.parametrize(("status", "refusal"), RELEASED.items())
def test_releasing(status, refusal):
    shop, reservation = in_state(status)
    assert refusal_of(shop.release(reservation.reservation_id)) is refusal
    assert reservation.status is (Status.CANCELLED if refusal is None else status)
    audit(shop.books)


@pytest.mark.parametrize(("status", "refusal"), PAID_FOR.items())
def test_checking_out(status, refusal):
    shop, reservation = in_state(status)
    assert refusal_of(shop.open_order(a_checkout(reservation.reservation_id))) is refusal
    assert reservation.status is status


@pytest.mark.parametrize("status", REACHABLE)
def test_the_sweeper_takes_only_what_is_held_and_over(status):
    shop, reservation = in_state(status)
    assert shop.expire() == 0
    shop.pass_ms(HOLD_MS)
    assert shop.expire() == (status is Status.RESERVED)
    assert reservation.status is (Status.EXPIRED if status is Status.RESERVED else status)
    assert shop.expire() == 0


def test_a_released_reservation_says_so_again_and_gives_nothing_back_twice():
    shop, reservation = in_state(Status.CANCELLED)
    assert shop.release(reservation.reservation_id) is reservation
    assert shop.counters() == (10, 0, 0)


def test_a_lapsed_reservation_cannot_be_released_before_it_is_swept_either():
    shop, reservation = in_state(Status.RESERVED)
    shop.pass_ms(HOLD_MS)
    assert refusal_of(shop.release(reservation.reservation_id)) is Refusal.RESERVATION_EXPIRED


def test_a_reservation_of_somebody_else_is_not_there():
    shop, reservation = in_state(Status.RESERVED)
    assert refusal_of(shop.release(reservation.reservation_id, "bob")) is Refusal.NOT_FOUND
    assert refusal_of(shop.release("res_0")) is Refusal.NOT_FOUND


def test_an_order_falls_with_the_first_of_its_reservations_and_the_others_stay_held():
    shop = Shop(a_sale(a_product(limit=2)))
    first, second = shop.held("ann", ("lamp", 1), key="1") + shop.held("ann", ("lamp", 1), key="2")
    opened = shop.open_order(a_checkout(first.reservation_id, second.reservation_id))
    shop.release(first.reservation_id)
    assert opened.order.status is OrderStatus.CANCELLED
    assert (second.status, second.order_id) == (Status.RESERVED, None)
    shop.hear(shop.open_order(a_checkout(second.reservation_id, transaction="tx2")), AUTHORIZED, CAPTURED)
    assert second.status is Status.CONFIRMED
    audit(shop.books)
