"""The decision: who of a batch gets the units.

Attempts are decided in the order of their arrival, each against what those before it have left. An
attempt is whole or refused; a later and smaller one may still win. Key first: a request key that has a
reservation is answered with it before sale state, limit and stock are looked at, so that nobody who
lost a reply is refused his own unit. Then the refusals stand in the order of `Refusal`; below the line
nothing can fail.
"""

from collections.abc import Callable, Sequence

import msgspec

from flashsale.core.books import Books
from flashsale.core.journal import Kind
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.reservation import RequestKind, Reservation, Status
from flashsale.core.sale import Sale, SaleState, Settlement, state_at

NewId = Callable[[str], str]
"""Makes a fresh id with the prefix given: `new_id("res_")`."""


ITEMS_MAX = 100
QUANTITY_MAX = 10_000


class Item(msgspec.Struct, frozen=True):
    sku_id: str
    quantity: int


class Attempt(msgspec.Struct):
    """A request for units of one sale: all of its items or none. A key makes it repeatable."""

    user_id: str
    sale_id: str
    items: tuple[Item, ...]
    key: str | None = None
    kind: RequestKind = RequestKind.SINGLE


class Granted(msgspec.Struct, frozen=True):
    """The reservations of an attempt; `replayed` when an earlier request with this key made them."""

    reservations: list[Reservation]
    now_ms: int
    """The ledger's time of the answer: what is left of `expires_at_ms` counts from here."""
    replayed: bool = False


def reserve(books: Books, attempts: Sequence[Attempt], now_ms: int, new_id: NewId) -> list[Granted | Refused]:
    """Decides a batch. One answer for each attempt, in its place."""
    asked = {attempt.sale_id for attempt in attempts} & books.sales.keys()
    closed = {sale_id: _closed(books.sales[sale_id], now_ms) for sale_id in asked}
    return [_decide(books, attempt, closed, now_ms, new_id) for attempt in attempts]


def refuse_early(books: Books, attempt: Attempt, now_ms: int) -> Granted | Refused | None:
    """What can be answered from a read: the reservation of a repeated request, or a refusal. None if it may win.

    For shortcuts that keep a lost crowd away from the ledger's writer. Nothing is changed.
    """
    return _replay(books, attempt, now_ms) or _refuse(books, attempt, _closed_of(books, attempt, now_ms))


def _decide(
    books: Books, attempt: Attempt, closed: dict[str, Refused | None], now_ms: int, new_id: NewId
) -> Granted | Refused:
    if attempt.key is not None and (replay := _replay(books, attempt, now_ms)):
        return replay
    if refused := _refuse(books, attempt, closed.get(attempt.sale_id)):
        return refused
    # Below this line nothing can fail.
    sale = books.sales[attempt.sale_id]
    return Granted([_grant(books, sale, attempt, item, now_ms, new_id) for item in attempt.items], now_ms)


def _replay(books: Books, attempt: Attempt, now_ms: int) -> Granted | Refused | None:
    if attempt.key is None:
        return None
    earlier = books.requests.get((attempt.user_id, attempt.sale_id, attempt.key))
    if earlier is None:
        return None
    if not _same_request(attempt, earlier):
        return Refused(Refusal.KEY_REUSED, "This request key was used for another request", {"requestKey": attempt.key})
    return Granted(_in_order_of(attempt, earlier), now_ms, replayed=True)


def _same_request(attempt: Attempt, earlier: list[Reservation]) -> bool:
    """Compares what was asked for, not its bytes: the kind of request and its items."""
    if attempt.kind is not earlier[0].request_kind:
        return False
    asked = sorted((item.sku_id, item.quantity) for item in attempt.items)
    return asked == sorted((reservation.sku_id, reservation.quantity) for reservation in earlier)


def _in_order_of(attempt: Attempt, earlier: list[Reservation]) -> list[Reservation]:
    place = {item.sku_id: number for number, item in enumerate(attempt.items)}
    return sorted(earlier, key=lambda reservation: place[reservation.sku_id])


def _refuse(books: Books, attempt: Attempt, closed: Refused | None) -> Refused | None:
    sale = books.sales.get(attempt.sale_id)
    if sale is None:
        return not_found("skuId", attempt.items[0].sku_id)
    for item in attempt.items:
        if (attempt.sale_id, item.sku_id) not in books.stock:
            return not_found("skuId", item.sku_id)
    if closed:
        return closed
    for item in attempt.items:
        if refused := _over_limit(books, sale, attempt, item):
            return refused
    for item in attempt.items:
        if item.quantity > (available := books.stock[attempt.sale_id, item.sku_id].available):
            return sold_out(item.sku_id, item.quantity, available)
    return None


def _closed_of(books: Books, attempt: Attempt, now_ms: int) -> Refused | None:
    sale = books.sales.get(attempt.sale_id)
    return _closed(sale, now_ms) if sale else None


def _closed(sale: Sale, now_ms: int) -> Refused | None:
    """Why the sale takes no new reservation at this time; None while it is ACTIVE."""
    state = state_at(sale, now_ms)
    if state is SaleState.ACTIVE:
        return None
    if state is SaleState.PAUSED:
        return Refused(Refusal.PAUSED, f"Sale {sale.sale_id} is paused", {"saleId": sale.sale_id})
    if state is SaleState.ENDED:
        return Refused(Refusal.ENDED, f"Sale {sale.sale_id} has ended", {"saleId": sale.sale_id})
    details = {"saleId": sale.sale_id, "startsAtMs": sale.starts_at_ms}
    return Refused(Refusal.NOT_STARTED, f"Sale {sale.sale_id} has not started", details)


def _over_limit(books: Books, sale: Sale, attempt: Attempt, item: Item) -> Refused | None:
    product = sale.by_sku[item.sku_id]
    has = books.claims.get((attempt.user_id, attempt.sale_id, item.sku_id), 0)
    if has + item.quantity <= product.per_user_limit:
        return None
    details = {"skuId": item.sku_id, "limit": product.per_user_limit, "alreadyHeld": has}
    message = f"Purchase limit of {item.sku_id} is {product.per_user_limit}; already held or bought: {has}"
    return Refused(Refusal.LIMIT_EXCEEDED, message, details)


def sold_out(sku_id: str, requested: int, available: int) -> Refused:
    message = f"Product {sku_id} is out of stock. Requested: {requested}, Available: {available}"
    details = {"skuId": sku_id, "requestedQuantity": requested, "availableQuantity": available}
    return Refused(Refusal.SOLD_OUT, message, details)


def _grant(books: Books, sale: Sale, attempt: Attempt, item: Item, now_ms: int, new_id: NewId) -> Reservation:
    product = sale.by_sku[item.sku_id]
    reservation = Reservation(
        new_id("res_"), attempt.user_id, attempt.sale_id, item.sku_id, item.quantity, Status.RESERVED,
        product.price_minor, product.currency, now_ms, now_ms + sale.reservation_seconds * 1000,
        attempt.kind, attempt.key,
    )  # fmt: skip
    books.grant(reservation, attempt.user_id)
    if sale.settlement is Settlement.NONE:
        books.transition(reservation, Kind.CONFIRM, now_ms, attempt.user_id)
    return reservation
