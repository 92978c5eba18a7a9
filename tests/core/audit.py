"""What must be true of the books at any moment: units, limits, journal and money.

Each check raises AssertionError with a sentence; `audit` makes them all.
"""

from collections import Counter

from flashsale.core.books import Books
from flashsale.core.journal import EFFECT, Kind, Movement
from flashsale.core.order import Order, OrderStatus
from flashsale.core.origin import limit_of, read_marks
from flashsale.core.payment import Due, Payment, PaymentStatus
from flashsale.core.reservation import TRANSITIONS, Reservation, Status

SETTLED = {OrderStatus.PAID, OrderStatus.PROCESSING, OrderStatus.SHIPPED, OrderStatus.DELIVERED}
LIVE = {Status.RESERVED, Status.CONFIRMED}


def audit(books: Books, *, limits: bool = True) -> None:
    _units_are_conserved(books)
    _counters_are_the_sum_of_the_journal(books)
    _each_reservation_went_a_way_of_the_table(books)
    _claims_are_what_users_have(books)
    _places_count_what_came_from_there(books)
    if limits:
        _no_place_has_more_than_its_limit(books)
        _nobody_has_more_than_the_limit(books)
    _units_are_sold_for_money_only(books)
    _money_is_kept_for_units_only(books)
    _an_open_order_has_its_units(books)
    _a_transaction_pays_once(books)


def _units_are_conserved(books: Books) -> None:
    held, sold = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in books.reservations.values():
        line = (each.sale_id, each.sku_id)
        held[line] += each.quantity * (each.status is Status.RESERVED)
        sold[line] += (each.quantity - each.returned_quantity) * (each.status in (Status.CONFIRMED, Status.RETURNED))
    for line, stock in books.stock.items():
        assert stock.available + stock.held + stock.sold == stock.total
        assert min(stock.available, stock.held, stock.sold) >= 0, f"{line} is oversold: {stock}"
        assert (stock.held, stock.sold) == (held[line], sold[line]), f"{line} has units that no reservation has"


def _counters_are_the_sum_of_the_journal(books: Books) -> None:
    for (sale_id, sku_id), stock in books.stock.items():
        rows = [row for row in books.journal if (row.sale_id, row.sku_id) == (sale_id, sku_id)]
        assert [row.sku_seq for row in rows] == list(range(1, stock.sku_seq + 1)), "sku_seq has a gap"
        assert (stock.total, stock.held, stock.sold) == sum_of(rows)
        if rows:
            assert (stock.total, stock.held, stock.sold) == (
                rows[-1].total_after, rows[-1].held_after, rows[-1].sold_after,
            )  # fmt: skip


def sum_of(rows: list[Movement]) -> tuple[int, int, int]:
    return tuple(sum(row.quantity * EFFECT[row.kind][counter] for row in rows) for counter in range(3))  # type: ignore[return-value]


def _each_reservation_went_a_way_of_the_table(books: Books) -> None:
    for reservation_id, kinds in histories(books.journal).items():
        assert kinds[0] is Kind.RESERVE
        status = Status.RESERVED
        for kind in kinds[1:]:
            assert (status, kind) in TRANSITIONS, f"{reservation_id} went {kinds}"
            status = TRANSITIONS[status, kind]
        assert books.reservations[reservation_id].status is status


def histories(journal: list[Movement]) -> dict[str, list[Kind]]:
    """Of each reservation, its movements."""
    found: dict[str, list[Kind]] = {}
    for row in journal:
        if row.reservation_id:
            found.setdefault(row.reservation_id, []).append(row.kind)
    return found


def _claims_are_what_users_have(books: Books) -> None:
    has = Counter[tuple[str, str, str]]()
    for each in books.reservations.values():
        has[each.user_id, each.sale_id, each.sku_id] += each.quantity * (each.status in LIVE)
    assert {claim: quantity for claim, quantity in books.claims.items() if quantity} == +has


def _from_places(books: Books) -> Counter[tuple[str, str]]:
    has = Counter[tuple[str, str]]()
    for each in books.reservations.values():
        for mark in read_marks(each.origin):
            has[each.sale_id, mark] += each.quantity * (each.status in LIVE)
    return has


def _places_count_what_came_from_there(books: Books) -> None:
    has = _from_places(books)
    assert {place: units for place, units in books.origins.items() if units} == +has, (
        "a device or network is miscounted"
    )


def _no_place_has_more_than_its_limit(books: Books) -> None:
    for (sale_id, mark), units in _from_places(books).items():
        sale = books.sales.get(sale_id)
        limit = limit_of(sale.shared, mark) if sale and sale.shared else None
        assert limit is None or units <= limit, f"{mark} has {units} units"


def _nobody_has_more_than_the_limit(books: Books) -> None:
    for (user_id, sale_id, sku_id), quantity in books.claims.items():
        limit = books.sales[sale_id].by_sku[sku_id].per_user_limit
        assert quantity <= limit, f"{user_id} has {quantity} of {sku_id}, the limit is {limit}"


def _units_are_sold_for_money_only(books: Books) -> None:
    for reservation in books.reservations.values():
        if reservation.status is Status.CONFIRMED and reservation.order_id:
            order = books.orders[reservation.order_id]
            assert _is_paid(books, order) or _is_being_captured(books, order), f"{order} got units without money"


def _money_is_kept_for_units_only(books: Books) -> None:
    for payment in books.payments.values():
        if payment.status is PaymentStatus.AUTHORIZED:
            assert payment.due in (Due.CAPTURE, Due.VOID), f"{payment} holds money that nobody takes or leaves"
        if payment.due is Due.CAPTURE:
            order = books.orders[payment.order_id]
            assert _is_being_captured(books, order), f"{payment} will be captured, but {order} is over"
            assert all(_belongs(each, order) for each in books.lines_of(order)), f"{order} has no units to be paid"
        if payment.status is PaymentStatus.CAPTURED:
            order = books.orders[payment.order_id]
            keeps = order.transaction_id == payment.transaction_id and _has_its_units(books, order)
            assert keeps ^ (_refunded(books, payment) == payment.amount_minor), f"{payment} of {order}"
        assert _refunded(books, payment) <= payment.amount_minor, f"{payment} is paid back more than once"


def _an_open_order_has_its_units(books: Books) -> None:
    for order in books.orders.values():
        if order.status is OrderStatus.PENDING_PAYMENT:
            lines = books.lines_of(order)
            assert all(each.order_id == order.order_id for each in lines), f"{order} is open without its lines"
            assert {each.status for each in lines} in ({Status.RESERVED}, {Status.CONFIRMED}), f"{order} is half open"


def _a_transaction_pays_once(books: Books) -> None:
    claims = Counter((each.provider, each.transaction_id) for each in books.payments.values() if claims_its(each))
    assert not [claim for claim, times in claims.items() if times > 1], f"claimed twice: {claims}"


def claims_its(payment: Payment) -> bool:
    return payment.status is not PaymentStatus.FAILED or payment.due is not None


def _is_paid(books: Books, order: Order) -> bool:
    captured = (each for each in books.payments_of(order.order_id) if each.status is PaymentStatus.CAPTURED)
    return order.status in SETTLED and any(each.transaction_id == order.transaction_id for each in captured)


def _is_being_captured(books: Books, order: Order) -> bool:
    return order.status is OrderStatus.PENDING_PAYMENT and any(
        each.status is PaymentStatus.AUTHORIZED and each.due is Due.CAPTURE
        for each in books.payments_of(order.order_id)
    )


def _has_its_units(books: Books, order: Order) -> bool:
    return order.status in SETTLED and all(_belongs(each, order) for each in books.lines_of(order))


def _belongs(reservation: Reservation, order: Order) -> bool:
    return reservation.status is Status.CONFIRMED and reservation.order_id == order.order_id


def _refunded(books: Books, payment: Payment) -> int:
    return sum(each.amount_minor for each in books.refunds.values() if each.payment_id == payment.payment_id)
