"""Opening an order: the first step of a checkout, before any provider is asked.

A checkout may be repeated. The reservations find their order again, the transaction finds its payment, and
the answer is where both stand; a transaction that was declined may be tried again, or another one instead.
"""

import msgspec

from flashsale.core.books import Books
from flashsale.core.exits import expired, illegal
from flashsale.core.order import LINES_MAX, Order, OrderLine, OrderStatus
from flashsale.core.payment import Due, Payment, PaymentStatus
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.reservation import Reservation, Status, lapsed
from flashsale.core.stock import NewId


class Checkout(msgspec.Struct, frozen=True):
    """A user's wish to pay for reservations of his with a transaction of his."""

    reservation_ids: tuple[str, ...]
    user_id: str | None
    """None: the reservation's id alone is enough (identity `open`)."""
    provider: str
    transaction_id: str
    payment_method: str
    shipping_address: str
    lease_ms: int
    """How long the caller may take for a provider's step before a resumer takes it up."""


class Opened(msgspec.Struct, frozen=True):
    """The order and the payment that settles it; a step may be due."""

    order: Order
    payment: Payment


def open_order(books: Books, checkout: Checkout, now_ms: int, new_id: NewId) -> Opened | Refused:
    """Makes the order of a checkout, or finds the one an earlier call has made."""
    reservations = _named(books, checkout)
    if isinstance(reservations, Refused):
        return reservations
    order = _order_of(books, reservations)
    if order is not None:
        return _again(books, checkout, order, now_ms, new_id)
    if refused := _unpayable(reservations, now_ms) or _reused(books, checkout, None):
        return refused
    # Below this line nothing can fail.
    order = _new_order(checkout, reservations, now_ms, new_id("ord_"))
    books.orders[order.order_id] = order
    books.new_orders.append(order)
    for reservation in reservations:
        books.attach(reservation, order.order_id)
    books.announce(order, "created", now_ms)
    return Opened(order, _new_payment(books, checkout, order, now_ms, new_id))


def _named(books: Books, checkout: Checkout) -> list[Reservation] | Refused:
    found: list[Reservation] = []
    for reservation_id in checkout.reservation_ids:
        reservation = books.reservations.get(reservation_id)
        if reservation is None or checkout.user_id not in (None, reservation.user_id):
            return not_found("reservationId", reservation_id)
        found.append(reservation)
    if not found or len(set(checkout.reservation_ids)) != len(found):
        return invalid("reservationIds", "must name at least one reservation, and none twice")
    if len(found) > LINES_MAX:
        return invalid("reservationIds", f"at most {LINES_MAX}")
    if len({(reservation.sale_id, reservation.user_id) for reservation in found}) != 1:
        return invalid("reservationIds", "must be of one sale and one user")
    if len({reservation.currency for reservation in found}) != 1:
        return invalid("reservationIds", "must be of one currency")
    return found


def _order_of(books: Books, reservations: list[Reservation]) -> Order | None:
    """The order these reservations, and only these, are in."""
    order = books.orders.get(reservations[0].order_id or "")
    if order is None:
        return None
    lines = {line.reservation_id for line in order.lines}
    return order if lines == {reservation.reservation_id for reservation in reservations} else None


def _unpayable(reservations: list[Reservation], now_ms: int) -> Refused | None:
    for reservation in reservations:
        if reservation.status is Status.EXPIRED or lapsed(reservation, now_ms):
            return expired(reservation)
    for reservation in reservations:
        if reservation.status is not Status.RESERVED:
            return illegal("reservationId", reservation.reservation_id, f"is {reservation.status}")
        if reservation.order_id is not None:
            return illegal("reservationId", reservation.reservation_id, "is in another order")
    return None


def _reused(books: Books, checkout: Checkout, order: Order | None) -> Refused | None:
    reused = books.elsewhere(checkout.provider, checkout.transaction_id)
    for payment in books.payments.values():
        same = (payment.provider, payment.transaction_id) == (checkout.provider, checkout.transaction_id)
        reused |= same and claims(payment) and (order is None or payment.order_id != order.order_id)
    if not reused:
        return None
    return Refused(
        Refusal.PAYMENT_REUSED,
        f"Transaction {checkout.transaction_id} pays for another order",
        {"paymentTransactionId": checkout.transaction_id},
    )


def _again(books: Books, checkout: Checkout, order: Order, now_ms: int, new_id: NewId) -> Opened | Refused:
    """A checkout of reservations that have their order already: a repeat, or another try after a decline."""
    payments = books.payments_of(order.order_id)
    same = next((payment for payment in payments if payment.transaction_id == checkout.transaction_id), None)
    if order.status is not OrderStatus.PENDING_PAYMENT:
        return _settled_before(books, order, same)
    if same and same.status is not PaymentStatus.FAILED:
        return Opened(order, same)
    if refused := _unpayable_again(books, order, payments, now_ms) or _reused(books, checkout, order):
        return refused
    # Below this line nothing can fail.
    if same:
        return Opened(order, _retried(books, same, checkout, now_ms))
    return Opened(order, _new_payment(books, checkout, order, now_ms, new_id))


def _settled_before(books: Books, order: Order, same: Payment | None) -> Opened | Refused:
    if order.status is OrderStatus.EXPIRED:
        return expired(books.lines_of(order)[0])
    if same is None or order.status is OrderStatus.CANCELLED:
        return illegal("orderId", order.order_id, f"is {order.status}")
    return Opened(order, same)


def _unpayable_again(books: Books, order: Order, payments: list[Payment], now_ms: int) -> Refused | None:
    for reservation in books.lines_of(order):
        if lapsed(reservation, now_ms):
            return expired(reservation)
    if any(payment.due for payment in payments):
        return illegal("orderId", order.order_id, "has a payment under way: ask for the order in a moment")
    return None


def _new_order(checkout: Checkout, reservations: list[Reservation], now_ms: int, order_id: str) -> Order:
    lines = tuple(
        OrderLine(each.reservation_id, each.sku_id, each.quantity, each.unit_price_minor) for each in reservations
    )
    first = reservations[0]
    return Order(
        order_id, first.user_id, first.sale_id, OrderStatus.PENDING_PAYMENT, first.currency, lines,
        checkout.payment_method, checkout.shipping_address, now_ms,
    )  # fmt: skip


def _new_payment(books: Books, checkout: Checkout, order: Order, now_ms: int, new_id: NewId) -> Payment:
    payment = Payment(
        new_id("pay_"), order.order_id, checkout.provider, checkout.transaction_id, order.total_minor,
        order.currency, due_at_ms=now_ms + checkout.lease_ms, created_at_ms=now_ms,
    )  # fmt: skip
    books.payments[payment.payment_id] = payment
    books.new_payments.append(payment)
    return payment


def _retried(books: Books, payment: Payment, checkout: Checkout, now_ms: int) -> Payment:
    payment.tries += 1
    payment.due, payment.due_at_ms = Due.AUTHORISE, now_ms + checkout.lease_ms
    payment.failure = payment.reason = ""
    books.changed_payments[payment.payment_id] = payment
    return payment


def claims(payment: Payment) -> bool:
    """Whether a payment holds its transaction, so that no other order can be paid with it."""
    return payment.status is not PaymentStatus.FAILED or payment.due is not None
