"""The ways out of a reservation that nobody has paid for: the user gives it back, or its time is over.

An order that waits for a payment of such a reservation falls with it: CANCELLED or EXPIRED. Its other
reservations stay held for their time and may be checked out anew.
"""

from flashsale.core.books import Books
from flashsale.core.journal import Kind
from flashsale.core.order import Order, OrderStatus
from flashsale.core.payment import Due, PaymentStatus
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.reservation import Reservation, Status, is_bare, lapsed, status_at

SWEEPER = "sweeper"


def release(books: Books, reservation_id: str, user_id: str | None, now_ms: int) -> Reservation | Refused:
    """Gives a reservation back. `user_id` None means that its id alone is enough. Repeated: the same answer."""
    reservation = books.reservations.get(reservation_id)
    if reservation is None or user_id not in (None, reservation.user_id):
        return not_found("reservationId", reservation_id)
    status = status_at(reservation, now_ms)
    if status is Status.CANCELLED:
        return reservation
    if status is Status.EXPIRED:
        return expired(reservation)
    if status is not Status.RESERVED:
        return illegal("reservationId", reservation_id, f"is {status}: only what is held can be given back")
    # Below this line nothing can fail.
    _abandon(books, reservation, Kind.RELEASE, OrderStatus.CANCELLED, now_ms, reservation.user_id)
    return reservation


def withdraw(books: Books, reservation_id: str, user_id: str | None, now_ms: int) -> Reservation | Refused:
    """Gives a queued reservation back, or up: before its decision there is no row, and the one written here is what the
    decision finds. Its id is known to be genuine, and the user's."""
    known = books.reservations.get(reservation_id)
    if known is not None:
        return known if is_bare(known) else release(books, reservation_id, user_id, now_ms)
    bare = Reservation(reservation_id, user_id or "", "", "", 1, Status.CANCELLED, 0, "", now_ms, now_ms)
    books.withdraw(bare)
    return bare


def expire(books: Books, now_ms: int) -> int:
    """Releases every lapsed reservation among the rows loaded. Returns how many there were."""
    over = [reservation for reservation in books.reservations.values() if lapsed(reservation, now_ms)]
    for reservation in over:
        expire_one(books, reservation, now_ms)
    return len(over)


def expire_one(books: Books, reservation: Reservation, now_ms: int) -> None:
    _abandon(books, reservation, Kind.EXPIRE, OrderStatus.EXPIRED, now_ms, SWEEPER)


def expired(reservation: Reservation) -> Refused:
    details = {"reservationId": reservation.reservation_id, "expiresAtMs": reservation.expires_at_ms}
    return Refused(
        Refusal.RESERVATION_EXPIRED, f"Reservation {reservation.reservation_id} has expired: reserve anew", details
    )


def illegal(field: str, name: str, why: str) -> Refused:
    return Refused(Refusal.ILLEGAL_STATE, f"{name} {why}", {field: name})


def _abandon(
    books: Books, reservation: Reservation, kind: Kind, falls_to: OrderStatus, now_ms: int, actor: str
) -> None:
    books.transition(reservation, kind, now_ms, actor)
    order = books.orders.get(reservation.order_id) if reservation.order_id else None
    if order and order.status is OrderStatus.PENDING_PAYMENT:
        fall(books, order, falls_to, now_ms)


def fall(books: Books, order: Order, falls_to: OrderStatus, now_ms: int) -> None:
    """Closes an unpaid order: what is still held leaves it, and a payment on its way will be voided."""
    order.status = falls_to
    books.announce(order, falls_to.lower(), now_ms)
    for other in books.lines_of(order):
        if other.status is Status.RESERVED:
            books.attach(other, None)
    for payment in books.payments_of(order.order_id):
        if payment.due is not None and payment.status < PaymentStatus.VOIDED:
            payment.due, payment.due_at_ms = Due.VOID, now_ms
            books.changed_payments[payment.payment_id] = payment
