"""From an order to money: taking in what the provider says, and undoing it.

The provider is never called inside a transaction, so a checkout is three transactions with two calls
between them, and a crash may fall anywhere:

    open_order      (checkout.py) order PENDING_PAYMENT, payment CREATED, "authorise" is due
      authorise at the provider
    settle          payment AUTHORIZED, reservations CONFIRMED, "capture" is due      (one transaction)
      capture at the provider
    settle          payment CAPTURED, order PAID

The step that is due is committed before its call and carries an idempotency key made of the payment's id,
so whoever resumes after a crash repeats the call and gets its answer, not a second charge. If the
reservation is over before the authorisation arrives, "void" is due instead and no money moves.

`settle` takes facts in any order and any number of times. A fact that the order cannot accept is never
dropped: an authorisation becomes a void, captured money becomes a refund.
"""

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from flashsale.core.books import Books, Place
from flashsale.core.checkout import Opened, claims
from flashsale.core.exits import expire, expired, fall, illegal
from flashsale.core.journal import Kind
from flashsale.core.order import TRANSITIONS, Order, OrderStatus
from flashsale.core.origin import Shared, limit_of, read_marks
from flashsale.core.payment import Due, Payment, PaymentStatus, Refund, Transaction
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.reservation import Reservation, Status, lapsed
from flashsale.core.sale import LatePayment
from flashsale.core.stock import NewId

PROVIDER = "provider"
"""The actor of what a payment fact causes."""


def settle(
    books: Books, payment_id: str, fact: Transaction, now_ms: int, new_id: NewId,
    lease_ms: int, answers: Due | None = None,
) -> Opened:  # fmt: skip
    """Takes in what the provider says of a payment, and moves order and units by it. Idempotent, in any order.

    `answers` is the step that the fact is the answer to; None when the provider spoke without being asked.
    """
    payment = books.payments[payment_id]
    order = books.orders[payment.order_id]
    if answers is not None and answers is payment.due:
        fact = _meant(payment.due, fact)
    if _news(payment, fact) and not _claimed_by_another(books, payment):
        _take_in(books, order, payment, fact, now_ms, new_id, lease_ms)
    return Opened(order, payment)


def _meant(step: Due, fact: Transaction) -> Transaction:
    """A refusal has the meaning of the step it refuses: there is nothing (any more) to capture, or to void."""
    if fact.status > PaymentStatus.FAILED:
        return fact
    refused = PaymentStatus.FAILED if step is Due.AUTHORISE else PaymentStatus.VOIDED
    return replace(fact, status=refused, reason=fact.reason or "not authorised")


def _claimed_by_another(books: Books, payment: Payment) -> bool:
    """Once FAILED, a transaction is free for another order: what is said of it afterwards is said of that one."""
    if claims(payment):
        return False
    mine = (payment.provider, payment.transaction_id)
    return books.elsewhere(*mine) or any(
        (other.provider, other.transaction_id) == mine and claims(other) for other in books.payments.values()
    )


def _news(payment: Payment, fact: Transaction) -> bool:
    """A rank that rises; or a failed retry, whose rank is the same but whose step is still due."""
    return fact.status > payment.status or (fact.status is PaymentStatus.FAILED is payment.status and bool(payment.due))


def _take_in(
    books: Books, order: Order, payment: Payment, fact: Transaction, now_ms: int, new_id: NewId, lease_ms: int
) -> None:
    books.changed_payments[payment.payment_id] = payment
    wrong = (fact.amount_minor, fact.currency) != (payment.amount_minor, payment.currency)
    money = fact.status in (PaymentStatus.AUTHORIZED, PaymentStatus.CAPTURED)
    if wrong and money and payment.status <= PaymentStatus.FAILED:
        _fail(payment, Refusal.PAYMENT_MISMATCH, f"it is over {fact.amount_minor} {fact.currency} (minor units)")
        return
    expire(books, now_ms)
    match fact.status:
        case PaymentStatus.FAILED:
            _fail(payment, Refusal.PAYMENT_DECLINED, fact.reason)
        case PaymentStatus.AUTHORIZED:
            _authorised(books, order, payment, now_ms, lease_ms)
        case PaymentStatus.VOIDED:
            _voided(books, order, payment, now_ms)
        case PaymentStatus.CAPTURED if wrong:
            _captured_wrongly(books, order, payment, fact.amount_minor, now_ms, new_id)
        case PaymentStatus.CAPTURED:
            _captured(books, order, payment, now_ms, new_id)


def _fail(payment: Payment, refusal: Refusal, reason: str) -> None:
    """Nothing of this transaction is ours, so its claim is free for whoever it belongs to."""
    payment.status, payment.due = PaymentStatus.FAILED, None
    payment.failure, payment.reason = refusal.code, reason


def _authorised(books: Books, order: Order, payment: Payment, now_ms: int, lease_ms: int) -> None:
    payment.status, payment.due_at_ms = PaymentStatus.AUTHORIZED, now_ms + lease_ms
    if not _awaits_payment(books, order):
        payment.due = Due.VOID
        return
    payment.due = Due.CAPTURE
    for reservation in books.lines_of(order):
        books.transition(reservation, Kind.CONFIRM, now_ms, PROVIDER)


def _awaits_payment(books: Books, order: Order) -> bool:
    held = all(reservation.status is Status.RESERVED for reservation in books.lines_of(order))
    return order.status is OrderStatus.PENDING_PAYMENT and held


def _voided(books: Books, order: Order, payment: Payment, now_ms: int) -> None:
    """Voided by us: the order has fallen before. By somebody else, after we confirmed: it falls now."""
    confirmed_by_it = payment.status is PaymentStatus.AUTHORIZED and payment.due is Due.CAPTURE
    payment.status, payment.due = PaymentStatus.VOIDED, None
    payment.failure = payment.failure or Refusal.PAYMENT_DECLINED.code
    if order.status is OrderStatus.PENDING_PAYMENT and confirmed_by_it:
        _give_back(books, order, now_ms, PROVIDER)
        fall(books, order, OrderStatus.CANCELLED, now_ms)


def _captured(books: Books, order: Order, payment: Payment, now_ms: int, new_id: NewId) -> None:
    confirmed_by_it = payment.status is PaymentStatus.AUTHORIZED and payment.due is Due.CAPTURE
    payment.status, payment.due = PaymentStatus.CAPTURED, None
    if _awaits_payment(books, order):
        for reservation in books.lines_of(order):
            books.transition(reservation, Kind.CONFIRM, now_ms, PROVIDER)
    elif order.status is OrderStatus.EXPIRED and _room_for(books, order, now_ms):
        _honour(books, order, now_ms)
    elif not (order.status is OrderStatus.PENDING_PAYMENT and confirmed_by_it):
        _owe_back(books, order, payment, payment.amount_minor, "the order could not be given", now_ms, new_id)
        return
    order.status, order.transaction_id = OrderStatus.PAID, payment.transaction_id
    books.announce(order, "paid", now_ms)


def _captured_wrongly(
    books: Books, order: Order, payment: Payment, amount_minor: int, now_ms: int, new_id: NewId
) -> None:
    """The provider took another amount than it had authorised: nothing is sold for it, and it is owed back."""
    payment.status, payment.due, payment.failure = PaymentStatus.CAPTURED, None, Refusal.PAYMENT_MISMATCH.code
    if order.status is OrderStatus.PENDING_PAYMENT:
        _give_back(books, order, now_ms, PROVIDER)
        fall(books, order, OrderStatus.CANCELLED, now_ms)
    _owe_back(books, order, payment, amount_minor, "captured with another amount", now_ms, new_id)


def _room_for(books: Books, order: Order, now_ms: int) -> bool:
    """Whether late money can still be honoured: for all lines together, stock and limit are checked again."""
    if books.sales[order.sale_id].late_payment is not LatePayment.HONOUR:
        return False
    lines = books.lines_of(order)
    if not all(_can_come_back(reservation, now_ms) for reservation in lines):
        return False
    wanted: Counter[str] = Counter()
    for reservation in lines:
        if reservation.status is Status.EXPIRED:
            wanted[reservation.sku_id] += reservation.quantity
    if not all(_fits(books, order, sku_id, quantity) for sku_id, quantity in wanted.items()):
        return False
    limits = books.sales[order.sale_id].shared
    return limits is None or _fit_where_they_come_from(books, limits, lines)


def _fit_where_they_come_from(books: Books, limits: Shared, lines: Sequence[Reservation]) -> bool:
    more: Counter[Place] = Counter()
    for each in lines:
        for mark in read_marks(each.origin):
            more[each.sale_id, mark] += each.quantity * (each.status is Status.EXPIRED)
    return all(
        (limit := limit_of(limits, place[1])) is None or books.origins.get(place, 0) + quantity <= limit
        for place, quantity in more.items()
    )


def _can_come_back(reservation: Reservation, now_ms: int) -> bool:
    if reservation.status is Status.RESERVED:
        return reservation.order_id is None and not lapsed(reservation, now_ms)
    return reservation.status is Status.EXPIRED


def _fits(books: Books, order: Order, sku_id: str, quantity: int) -> bool:
    product = books.sales[order.sale_id].product(sku_id)
    claimed = books.claims.get((order.user_id, order.sale_id, sku_id), 0)
    in_limit = product is not None and claimed + quantity <= product.per_user_limit
    return in_limit and books.stock[order.sale_id, sku_id].available >= quantity


def _honour(books: Books, order: Order, now_ms: int) -> None:
    for reservation in books.lines_of(order):
        kind = Kind.CONFIRM if reservation.status is Status.RESERVED else Kind.HONOUR
        books.transition(reservation, kind, now_ms, PROVIDER)
        books.attach(reservation, order.order_id)


def cancel_order(
    books: Books, order_id: str, user_id: str | None, reason: str, now_ms: int, new_id: NewId
) -> Order | Refused:
    """Cancels an unpaid order, or starts the refund of a paid one that has not left the house."""
    order = books.orders.get(order_id)
    if order is None or user_id not in (None, order.user_id):
        return not_found("orderId", order_id)
    if order.status in (OrderStatus.CANCELLED, OrderStatus.REFUNDING, OrderStatus.REFUNDED):
        return order
    over = next((each for each in books.lines_of(order) if lapsed(each, now_ms)), None)
    if over or order.status is OrderStatus.EXPIRED:
        return expired(over or books.lines_of(order)[0])
    if order.status not in (OrderStatus.PENDING_PAYMENT, OrderStatus.PAID, OrderStatus.PROCESSING):
        return illegal("orderId", order_id, f"is {order.status} and can only be refunded by the shop")
    # Below this line nothing can fail.
    order.reason = reason
    _give_back(books, order, now_ms, order.user_id)
    if order.status is OrderStatus.PENDING_PAYMENT:
        fall(books, order, OrderStatus.CANCELLED, now_ms)
        return order
    for payment in books.payments_of(order_id):
        if payment.status is PaymentStatus.CAPTURED and payment.transaction_id == order.transaction_id:
            why = reason or "cancelled by the buyer"
            _owe_back(books, order, payment, payment.amount_minor, why, now_ms, new_id)
    return order


def _give_back(books: Books, order: Order, now_ms: int, actor: str) -> None:
    for reservation in books.lines_of(order):
        if reservation.status is Status.RESERVED:
            books.transition(reservation, Kind.RELEASE, now_ms, actor)
        elif reservation.status is Status.CONFIRMED:
            reservation.returned_quantity = reservation.quantity
            books.transition(reservation, Kind.RETURN, now_ms, actor)


def _owe_back(
    books: Books, order: Order, payment: Payment, amount_minor: int, reason: str, now_ms: int, new_id: NewId
) -> None:
    """Records the intent to refund. An order that another payment has settled stays as it is."""
    settled_by_another = order.transaction_id not in (None, payment.transaction_id)
    if OrderStatus.REFUNDING in TRANSITIONS[order.status] and not settled_by_another:
        order.status = OrderStatus.REFUNDING
        books.announce(order, "refunding", now_ms)
    if amount_minor == 0:
        _refunded_all(books, order, now_ms)
        return
    refund = Refund(
        new_id("rfd_"), order.order_id, payment.payment_id, amount_minor, reason,
        due_at_ms=now_ms, created_at_ms=now_ms,
    )  # fmt: skip
    books.refunds[refund.refund_id] = refund
    books.new_refunds.append(refund)


def refunded(books: Books, refund_id: str, now_ms: int) -> Order:
    """The provider has paid a refund back. The last one of an order makes it REFUNDED."""
    refund = books.refunds[refund_id]
    order = books.orders[refund.order_id]
    if refund.done:
        return order
    refund.done = True
    books.changed_refunds[refund_id] = refund
    _refunded_all(books, order, now_ms)
    return order


def _refunded_all(books: Books, order: Order, now_ms: int) -> None:
    owed = any(each.order_id == order.order_id and not each.done for each in books.refunds.values())
    if order.status is OrderStatus.REFUNDING and not owed:
        order.status = OrderStatus.REFUNDED
        books.announce(order, "refunded", now_ms)
