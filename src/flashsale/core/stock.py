"""The decision: who of a batch gets the units.

Attempts are decided in the order of their arrival, each against what those before it have left. An
attempt is whole or refused; a later and smaller one may still win. Key first: a request key that has a
reservation is answered with it before sale state, limit and stock are looked at, so that nobody who
lost a reply is refused his own unit. Then the refusals stand in the order of `Refusal`; below the line
nothing can fail.

A queued attempt (one with a `Slip`) is decided by the same rules, once: whoever finds its rows finds its answer. Its
sale is judged by the time at which it was taken into the queue, and a refusal is a row too (REJECTED): its buyer has
been told to come back for an answer. While its sale is paused it is not decided at all.
"""

from collections.abc import Callable, Sequence

import msgspec

from flashsale.core.books import Books
from flashsale.core.journal import Kind
from flashsale.core.origin import Shared, kind_of, limit_of, written
from flashsale.core.refusal import Refusal, Refused, first_said, kept, not_found
from flashsale.core.request import Item, Priority
from flashsale.core.reservation import RequestKind, Reservation, Status, is_bare
from flashsale.core.sale import Sale, SaleState, Settlement, state_at, state_when_asked

NewId = Callable[[str], str]
"""Makes a fresh id with the prefix given: `new_id("res_")`."""


class Slip(msgspec.Struct, frozen=True):
    """What a queued request has been given before its decision."""

    reservation_ids: tuple[str, ...]
    """One for each item."""
    at_ms: int
    """When it was taken into the queue."""
    redrive_of: str | None = None
    place: int | None = None
    """In the ledger's own queue, which it leaves with its decision."""
    beyond: str | None = None
    """The id that one more item of a request with this key would have."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Of every row that matters to its decision."""
        return self.reservation_ids if self.beyond is None else (*self.reservation_ids, self.beyond)


class Attempt(msgspec.Struct):
    """A request for units of one sale: all of its items or none. A key makes it repeatable."""

    user_id: str
    sale_id: str
    items: tuple[Item, ...]
    key: str | None = None
    kind: RequestKind = RequestKind.SINGLE
    slip: Slip | None = None
    """Of a queued one."""
    trace_id: str | None = None
    priority: Priority = Priority.NORMAL
    """Of a request in a queue."""
    barred: Refused | None = None
    """What whoever asked before the ledger has against it (risk, a missing pass). It is said at its place in the order
    of refusals: behind an earlier reservation with this key, and behind the rules that stand before it."""
    pass_number: int | None = None
    """Of the pass that it brings, which was found genuine."""
    marks: tuple[str, ...] = ()
    """Where it comes from, as far as its sale limits that (core/origin.py)."""
    hold_seconds: int | None = None
    """How long its units are held, if not as long as the sale says."""


class Granted(msgspec.Struct, frozen=True):
    """The reservations of an attempt; `replayed` when an earlier request with this key made them."""

    reservations: list[Reservation]
    now_ms: int
    """The ledger's time of the answer: what is left of `expires_at_ms` counts from here."""
    replayed: bool = False


class Pending(msgspec.Struct, frozen=True):
    """A queued request that is not decided yet."""

    reservation_ids: tuple[str, ...]
    user_id: str
    items: tuple[Item, ...]


class Decided(msgspec.Struct, frozen=True):
    """What became of a queued attempt: a row for each item, RESERVED, REJECTED or CANCELLED; later, what came of it."""

    reservations: list[Reservation]
    now_ms: int
    replayed: bool = False


def reserve(books: Books, attempts: Sequence[Attempt], now_ms: int, new_id: NewId) -> list[Granted | Refused | Decided]:
    """Decides a batch. One answer for each attempt, in its place."""
    asked = {attempt.sale_id for attempt in attempts} & books.sales.keys()
    closed = {sale_id: _closed(books.sales[sale_id], now_ms) for sale_id in asked}
    return [
        _decide(books, attempt, closed, now_ms, new_id)
        if attempt.slip is None
        else _decide_queued(books, attempt, attempt.slip, closed.get(attempt.sale_id), now_ms)
        for attempt in attempts
    ]


def refuse_early(books: Books, attempt: Attempt, now_ms: int) -> Granted | Refused | Decided | None:
    """What can be answered from a read: the reservation of a repeated request, or a refusal. None if it may win.

    For shortcuts that keep a lost crowd away from the ledger's writer. Nothing is changed.
    """
    return (
        replay_queued(books, attempt, now_ms)
        or _replay(books, attempt, now_ms)
        or _refuse(books, attempt, _closed_of(books, attempt, now_ms))
    )


def _decide(
    books: Books, attempt: Attempt, closed: dict[str, Refused | None], now_ms: int, new_id: NewId
) -> Granted | Refused:
    if attempt.key is not None and (replay := _replay(books, attempt, now_ms)):
        return replay
    if refused := _refuse(books, attempt, closed.get(attempt.sale_id)):
        return refused
    # Below this line nothing can fail.
    books.trace_id = attempt.trace_id
    return Granted(_grant_all(books, attempt, [(new_id("res_"), item) for item in attempt.items], now_ms), now_ms)


def decide_queued(books: Books, attempt: Attempt, now_ms: int) -> Decided | Refused:
    """Decides one queued attempt by itself."""
    assert attempt.slip is not None
    return _decide_queued(books, attempt, attempt.slip, _closed_of(books, attempt, now_ms), now_ms)


def reject_queued(books: Books, attempt: Attempt, refused: Refused, now_ms: int) -> None:
    """Refuses a queued attempt whatever its rows and rules would say; what was decided before stays."""
    assert attempt.slip is not None
    if not _answered(_rows_of(books, attempt.slip)):
        _write_answers(books, attempt, attempt.slip, lambda _: refused, now_ms)


def _decide_queued(
    books: Books, attempt: Attempt, slip: Slip, closed: Refused | None, now_ms: int
) -> Decided | Refused:
    answered = _answered(_rows_of(books, slip))
    if closed and closed.refusal is Refusal.PAUSED and not answered:
        return closed
    # Below this line nothing can fail.
    if slip.place is not None:
        books.taken.append(slip.place)
    if answered:
        # What has no row beside those of another request with this key was promised an answer all the same.
        _write_answers(books, attempt, slip, lambda _: key_reused(None), now_ms)
    else:
        when_asked = _closed_when_asked(books, attempt, slip)
        _write_answers(books, attempt, slip, lambda asked: _refuse(books, asked, when_asked), now_ms)
    return Decided(_rows_of(books, slip), now_ms)


def _rows_of(books: Books, slip: Slip) -> list[Reservation]:
    found = (books.reservations.get(reservation_id) for reservation_id in slip.reservation_ids)
    return [row for row in found if row]


def _answered(rows: Sequence[Reservation]) -> bool:
    """All rows of a request are written at once, but for those withdrawn before. So where there is one, this request,
    or another one with its key, has been decided."""
    return any(not is_bare(row) for row in rows)


def _write_answers(
    books: Books, attempt: Attempt, slip: Slip, refuse: Callable[[Attempt], Refused | None], now_ms: int
) -> None:
    """A row for each item that has none: of what was withdrawn meanwhile nothing is asked any more."""
    books.trace_id = attempt.trace_id
    left: list[tuple[str, Item]] = []
    for reservation_id, item in zip(slip.reservation_ids, attempt.items, strict=True):
        row = books.reservations.get(reservation_id)
        if row is None:
            left.append((reservation_id, item))
        elif is_bare(row):
            books.fill(_row(books, attempt, item, reservation_id, Status.CANCELLED, now_ms))
    if not left:
        return
    refused = refuse(msgspec.structs.replace(attempt, items=tuple(item for _, item in left)))
    if refused is None:
        _grant_all(books, attempt, left, now_ms, slip.redrive_of)
        return
    for reservation_id, item in left:
        row = _row(books, attempt, item, reservation_id, Status.REJECTED, now_ms)
        row.refusal, row.redrive_of = kept(refused), slip.redrive_of
        books.reject(row)


def _closed_when_asked(books: Books, attempt: Attempt, slip: Slip) -> Refused | None:
    sale = books.sales.get(attempt.sale_id)
    return _closed_as(sale, state_when_asked(sale, slip.at_ms)) if sale else None


def _replay(books: Books, attempt: Attempt, now_ms: int) -> Granted | Refused | None:
    if attempt.key is None:
        return None
    earlier = books.requests.get((attempt.user_id, attempt.sale_id, attempt.key))
    if earlier is None:
        return None
    if not _same_request(attempt, earlier):
        return key_reused(attempt.key)
    return Granted(_in_order_of(attempt, earlier), now_ms, replayed=True)


def replay_queued(books: Books, attempt: Attempt, now_ms: int) -> Decided | Refused | None:
    """The rows of a queued request that was decided already, or given up. Its key has made its ids."""
    if attempt.slip is None:
        return None
    known, slip = _rows_of(books, attempt.slip), attempt.slip
    if not _answered(known):
        given_up = len(known) == len(slip.reservation_ids)
        return Decided(known, now_ms, replayed=True) if given_up else None
    rows = {row.reservation_id: (row.sku_id, row.quantity, row.request_kind) for row in known}
    asked = [(item.sku_id, item.quantity, attempt.kind) for item in attempt.items]
    if slip.beyond in books.reservations or [rows.get(each) for each in slip.reservation_ids] != asked:
        return key_reused(attempt.key)
    return Decided(known, now_ms, replayed=True)


def key_reused(key: str | None) -> Refused:
    return Refused(Refusal.KEY_REUSED, "This request key was used for another request", {"requestKey": key})


def _same_request(attempt: Attempt, earlier: list[Reservation]) -> bool:
    """Compares what was asked for, not its bytes: the kind of request and its items."""
    if attempt.kind is not earlier[0].request_kind:
        return False
    asked = sorted((item.sku_id, item.quantity) for item in attempt.items)
    return asked == sorted((reservation.sku_id, reservation.quantity) for reservation in earlier)


def _in_order_of(attempt: Attempt, earlier: list[Reservation]) -> list[Reservation]:
    place = {item.sku_id: number for number, item in enumerate(attempt.items)}
    return sorted(earlier, key=lambda reservation: place[reservation.sku_id])


def turned_away(barred: Refused, sale: Sale, now_ms: int) -> Refused:
    """What a barred attempt is told that has no key: it can have no reservation, so that no ledger need be asked."""
    return first_said(barred, _closed(sale, now_ms)) or barred


def _refuse(books: Books, attempt: Attempt, closed: Refused | None) -> Refused | None:
    refused = _refused_by_the_rules(books, attempt, closed)
    return refused if attempt.barred is None else first_said(attempt.barred, refused)


def _refused_by_the_rules(books: Books, attempt: Attempt, closed: Refused | None) -> Refused | None:
    sale = books.sales.get(attempt.sale_id)
    if sale is None:
        return not_found("skuId", attempt.items[0].sku_id)
    for item in attempt.items:
        if (attempt.sale_id, item.sku_id) not in books.stock:
            return not_found("skuId", item.sku_id)
    if closed:
        return closed
    if refused := _without_pass(books, sale, attempt):
        return refused
    if refused := _over_limits(books, sale, attempt):
        return refused
    for item in attempt.items:
        if item.quantity > (available := books.stock[attempt.sale_id, item.sku_id].available):
            return sold_out(item.sku_id, item.quantity, available)
    return None


def _without_pass(books: Books, sale: Sale, attempt: Attempt) -> Refused | None:
    """Whoever looked at the pass may not have known yet that the sale has a waiting room."""
    if attempt.pass_number is None:
        return pass_required(sale.sale_id, "This sale has a waiting room") if sale.waiting_room else None
    if (attempt.sale_id, attempt.pass_number) in books.spent:
        return pass_required(sale.sale_id, "The pass was used before")
    return None


def pass_required(sale_id: str, why: str) -> Refused:
    details = {"saleId": sale_id, "queueUrl": f"/api/v1/sales/{sale_id}/queue"}
    return Refused(Refusal.PASS_REQUIRED, f"{why}: a pass is given out by the waiting room", details)


def _closed_of(books: Books, attempt: Attempt, now_ms: int) -> Refused | None:
    sale = books.sales.get(attempt.sale_id)
    return _closed(sale, now_ms) if sale else None


def _closed(sale: Sale, now_ms: int) -> Refused | None:
    """Why the sale takes no new reservation at this time; None while it is ACTIVE."""
    return _closed_as(sale, state_at(sale, now_ms))


def _closed_as(sale: Sale, state: SaleState) -> Refused | None:
    if state is SaleState.ACTIVE:
        return None
    if state is SaleState.PAUSED:
        return Refused(Refusal.PAUSED, f"Sale {sale.sale_id} is paused", {"saleId": sale.sale_id})
    if state is SaleState.ENDED:
        return Refused(Refusal.ENDED, f"Sale {sale.sale_id} has ended", {"saleId": sale.sale_id})
    details = {"saleId": sale.sale_id, "startsAtMs": sale.starts_at_ms}
    return Refused(Refusal.NOT_STARTED, f"Sale {sale.sale_id} has not started", details)


def _over_limits(books: Books, sale: Sale, attempt: Attempt) -> Refused | None:
    for item in attempt.items:
        if refused := _over_limit(books, sale, attempt, item):
            return refused
    return _over_shared_limit(books, sale.shared, attempt) if sale.shared is not None else None


def _over_limit(books: Books, sale: Sale, attempt: Attempt, item: Item) -> Refused | None:
    product = sale.by_sku[item.sku_id]
    has = books.claims.get((attempt.user_id, attempt.sale_id, item.sku_id), 0)
    if has + item.quantity <= product.per_user_limit:
        return None
    details = {"skuId": item.sku_id, "limit": product.per_user_limit, "alreadyHeld": has}
    message = f"Purchase limit of {item.sku_id} is {product.per_user_limit}; already held or bought: {has}"
    return Refused(Refusal.LIMIT_EXCEEDED, message, details)


def _over_shared_limit(books: Books, limits: Shared, attempt: Attempt) -> Refused | None:
    """What all accounts together may have on one device, or in one network."""
    wanted = sum(item.quantity for item in attempt.items)
    for mark in attempt.marks:
        limit, has = limit_of(limits, mark), books.origins.get((attempt.sale_id, mark), 0)
        if limit is not None and has + wanted > limit:
            details = {"limitedBy": kind_of(mark), "limit": limit, "alreadyHeld": has}
            message = f"Purchase limit of one {kind_of(mark)} in this sale is {limit}; already held or bought: {has}"
            return Refused(Refusal.LIMIT_EXCEEDED, message, details)
    return None


def sold_out(sku_id: str, requested: int, available: int) -> Refused:
    message = f"Product {sku_id} is out of stock. Requested: {requested}, Available: {available}"
    details = {"skuId": sku_id, "requestedQuantity": requested, "availableQuantity": available}
    return Refused(Refusal.SOLD_OUT, message, details)


def _grant_all(
    books: Books, attempt: Attempt, items: Sequence[tuple[str, Item]], now_ms: int, redrive_of: str | None = None
) -> list[Reservation]:
    """A reservation for each item, under the id beside it; the pass that it brings is spent on them."""
    sale = books.sales[attempt.sale_id]
    made = [_grant(books, sale, attempt, item, now_ms, each, redrive_of) for each, item in items]
    if attempt.pass_number is not None:
        books.spend(made[0], attempt.pass_number)
    return made


def _grant(
    books: Books, sale: Sale, attempt: Attempt, item: Item, now_ms: int, reservation_id: str, redrive_of: str | None
) -> Reservation:
    product = sale.by_sku[item.sku_id]
    hold_seconds = sale.reservation_seconds if attempt.hold_seconds is None else attempt.hold_seconds
    reservation = Reservation(
        reservation_id, attempt.user_id, attempt.sale_id, item.sku_id, item.quantity, Status.RESERVED,
        product.price_minor, product.currency, now_ms, now_ms + hold_seconds * 1000,
        attempt.kind, attempt.key, redrive_of=redrive_of, origin=written(attempt.marks) if attempt.marks else None,
    )  # fmt: skip
    books.grant(reservation, attempt.user_id)
    if sale.settlement is Settlement.NONE:
        books.transition(reservation, Kind.CONFIRM, now_ms, attempt.user_id)
    return reservation


def _row(books: Books, attempt: Attempt, item: Item, reservation_id: str, status: Status, now_ms: int) -> Reservation:
    """A reservation that holds nothing."""
    sale = books.sales.get(attempt.sale_id)
    product = sale.product(item.sku_id) if sale else None
    price_minor, currency = (product.price_minor, product.currency) if product else (0, "")
    return Reservation(
        reservation_id, attempt.user_id, attempt.sale_id, item.sku_id, item.quantity, status,
        price_minor, currency, now_ms, now_ms, attempt.kind,
    )  # fmt: skip
