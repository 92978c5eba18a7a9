"""Between rows and books: loads what a transaction needs, stores what was decided on it."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite import queue
from flashsale.backends.sqlite.by_user import ByUser, entries, known, place
from flashsale.backends.sqlite.write import Row, write
from flashsale.core.books import Books, Place
from flashsale.core.event import Event
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.origin import read_marks
from flashsale.core.payment import Payment, Refund
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt

Users = Mapping[tuple[str, str], int]
"""`(user_id, sale_id)` and the place of its entries."""

SQL = load_queries("sqlite/decide.sql")

_sale = msgspec.json.Decoder(Sale)
_encode = msgspec.json.Encoder().encode


class RowChanged(Exception):
    """A row was not in the state it had been loaded in: the compare-and-set of a transaction failed."""


def array(values: Iterable[object]) -> str:
    """A list as the JSON text that `json_each` takes apart."""
    return _encode(list(values)).decode()


def reservation(row: Row) -> Reservation:
    return msgspec.convert(row, Reservation)


def order(row: Row) -> Order:
    return msgspec.convert((*row[:5], msgspec.json.decode(row[5]), *row[6:]), Order)


def payment(row: Row) -> Payment:
    return msgspec.convert(row, Payment)


def refund(row: Row) -> Refund:
    return msgspec.convert(row, Refund, strict=False)


def sales(db: sqlite3.Connection) -> dict[str, Sale]:
    found = (_sale.decode(terms) for (terms,) in db.execute(SQL["sales"]))
    return {sale.sale_id: sale for sale in found}


def books_of_attempts(db: sqlite3.Connection, sales: Mapping[str, Sale], attempts: Sequence[Attempt]) -> Books:
    """What deciding a batch of attempts needs: stock, limits, and earlier reservations of the same keys."""
    books = Books(sales)
    lines = array({(a.sale_id, item.sku_id) for a in attempts for item in a.items})
    for row in db.execute(SQL["stock"], (lines,)):
        books.stock[row[0], row[1]] = Stock(*row)
    _reservations(db, books, (each for a in attempts if a.slip for each in a.slip.ids))
    passes: defaultdict[str, set[int]] = defaultdict(set)
    for a in attempts:
        if a.pass_number is not None:
            passes[a.sale_id].add(a.pass_number)
    for sale_id, numbers in passes.items():
        books.spent |= dict.fromkeys(db.execute(SQL["spent_passes"], (sale_id, array(numbers))), "")
    users = {(a.user_id, a.sale_id): place(a.user_id, a.sale_id) for a in attempts}
    if seen := known(db, users.values()):
        users = {user: at for user, at in users.items() if at in seen}
        _claims(db, books, users)
        _requests(db, books, users, attempts)
    _origins(db, books, {(a.sale_id, mark) for a in attempts for mark in a.marks})
    return books


def books_of(
    db: sqlite3.Connection,
    sales: Mapping[str, Sale],
    reservation_ids: Iterable[str] = (),
    order_ids: Iterable[str] = (),
) -> Books:
    """What moving reservations and orders needs: both, with everything that hangs on them."""
    books = Books(sales)
    _reservations(db, books, reservation_ids)
    _orders(db, books, {*order_ids, *(each.order_id for each in books.reservations.values() if each.order_id)})
    _reservations(db, books, (line.reservation_id for each in books.orders.values() for line in each.lines))
    everything = books.reservations.values()
    for row in db.execute(SQL["stock"], (array({(each.sale_id, each.sku_id) for each in everything}),)):
        books.stock[row[0], row[1]] = Stock(*row)
    _claims(db, books, {(each.user_id, each.sale_id): place(each.user_id, each.sale_id) for each in everything})
    _origins(
        db, books, {(each.sale_id, mark) for each in everything if each.origin for mark in read_marks(each.origin)}
    )
    return books


def _claims(db: sqlite3.Connection, books: Books, users: Users) -> None:
    asked = array((at, *user) for user, at in users.items())
    for user_id, sale_id, sku_id, quantity in db.execute(SQL["claims"], (asked,)):
        books.claims[user_id, sale_id, sku_id] = quantity


def _origins(db: sqlite3.Connection, books: Books, places: set[Place]) -> None:
    if places:
        books.origins.update(((row[0], row[1]), row[2]) for row in db.execute(SQL["origins"], (array(places),)))


def _requests(db: sqlite3.Connection, books: Books, users: Users, attempts: Sequence[Attempt]) -> None:
    keys = {(a.user_id, a.sale_id, a.key) for a in attempts if a.key is not None and (a.user_id, a.sale_id) in users}
    asked = array((users[key[:2]], place(*key), *key) for key in keys)
    for row in db.execute(SQL["requests"], (asked,)):
        found = reservation(row)
        books.requests.setdefault((found.user_id, found.sale_id, row[11]), []).append(found)


def _reservations(db: sqlite3.Connection, books: Books, ids: Iterable[str]) -> None:
    missing = [each for each in ids if each not in books.reservations]
    if missing:
        for row in db.execute(SQL["reservations"], (array(missing),)):
            books.reservations[row[0]] = reservation(row)


def _orders(db: sqlite3.Connection, books: Books, ids: set[str]) -> None:
    if not ids:
        return
    wanted = array(ids)
    books.orders.update((row[0], order(row)) for row in db.execute(SQL["orders"], (wanted,)))
    books.payments.update((row[0], payment(row)) for row in db.execute(SQL["payments_of_orders"], (wanted,)))
    books.refunds.update((row[0], refund(row)) for row in db.execute(SQL["refunds_of_orders"], (wanted,)))


def add_claims(db: sqlite3.Connection, books: Books, provider: str, transaction_id: str) -> None:
    """The payment that holds a transaction already, if there is one."""
    for row in db.execute(SQL["payment_claims"], (provider, transaction_id)):
        books.payments.setdefault(row[0], payment(row))


def store(db: sqlite3.Connection, books: Books, by_user: ByUser) -> None:
    """Writes everything that was decided. Raises RowChanged when a row is not what it was when loaded."""
    _store_new(db, books.new_reservations, by_user)
    if books.spent:
        write(db, SQL["spend_passes"], books.newly_spent)
    _store_changed(db, books, by_user)
    _store_origins(db, books)
    store_journal(db, books.journal)
    for line in sorted(books.touched_stock):
        stock = books.stock[line]
        db.execute(SQL["changed_stock"], (*line, stock.total, stock.held, stock.sold, stock.sku_seq))
    _store_orders(db, books)
    queue.store(db, books)
    if books.events:
        write(db, SQL["outbox"], [_event(seq, each) for seq, each in enumerate(books.events, _next_told(db))])


def store_journal(db: sqlite3.Connection, movements: Sequence[Movement]) -> None:
    if movements:
        numbered = enumerate(movements, _next_told(db))
        write(db, SQL["journal"], [(seq, *each[:3], each.kind._value_, *each[4:]) for seq, each in numbered])


def _next_told(db: sqlite3.Connection) -> int:
    """The next number of journal and outbox."""
    (last,) = db.execute(SQL["last_told"]).fetchone()
    return int(last) + 1


def _store_new(db: sqlite3.Connection, reservations: Sequence[Reservation], by_user: ByUser) -> None:
    if not reservations:
        return
    (last,) = db.execute(SQL["last_reservation"]).fetchone()
    numbered = list(enumerate(reservations, last + 1))
    write(db, SQL["new_reservations"], [_reservation_values(seq, each) for seq, each in numbered])
    by_user.add([entry for seq, each in numbered for entry in entries(each, each.status, seq)])


def _reservation_values(seq: int, each: Reservation) -> Row:
    """As `astuple`, with enums as plain text: binding anything but a plain str takes sqlite3 1 us each."""
    return (
        seq, each.reservation_id, each.user_id, each.sale_id, each.sku_id, each.quantity, each.status._value_,
        each.unit_price_minor, each.currency, each.created_at_ms, each.expires_at_ms, each.request_kind._value_,
        each.request_key, each.order_id, each.returned_quantity, each.refusal, each.redrive_of, each.origin,
    )  # fmt: skip


def _event(seq: int, event: Event) -> Row:
    topic, name, subject, sequence, at_ms, body, trace_id = msgspec.structs.astuple(event)
    return (seq, topic, name, subject, sequence, at_ms, _encode(body).decode(), trace_id)


def _store_changed(db: sqlite3.Connection, books: Books, by_user: ByUser) -> None:
    fresh = {each.reservation_id for each in books.new_reservations} if books.changed_reservations else ()
    for reservation_id, before in books.changed_reservations.items():
        if reservation_id in fresh:
            continue
        row = books.reservations[reservation_id]
        values = (reservation_id, before, row.status, row.order_id, row.returned_quantity)
        stored = db.execute(SQL["changed_reservation"], values).fetchall()
        if not stored:
            raise RowChanged(f"reservation {reservation_id} is no longer {before}")
        ((seq,),) = stored
        by_user.move(entries(row, before, seq), entries(row, row.status, seq))


def _store_origins(db: sqlite3.Connection, books: Books) -> None:
    begin, cease = books.origins_moved()
    if begin:
        write(db, SQL["new_origins"], [(*key, each.quantity) for each in begin for key in _origin_keys(each)])
    for each in cease:
        db.executemany(SQL["gone_origins"], _origin_keys(each))


def _origin_keys(each: Reservation) -> list[Row]:
    return [(each.sale_id, mark, each.reservation_id) for mark in read_marks(each.origin)]


def _store_orders(db: sqlite3.Connection, books: Books) -> None:
    orders = {each.order_id: each for each in books.new_orders} | books.changed_orders
    for each in orders.values():
        lines = _encode(each.lines).decode()
        db.execute(SQL["order"], (
            each.order_id, each.user_id, each.sale_id, each.status, each.currency, lines, each.payment_method,
            each.shipping_address, each.created_at_ms, each.sequence, each.reason, each.transaction_id,
            each.total_minor,
        ))  # fmt: skip
    payments = {each.payment_id: each for each in books.new_payments} | books.changed_payments
    db.executemany(SQL["payment"], [msgspec.structs.astuple(each) for each in payments.values()])
    refunds = {each.refund_id: each for each in books.new_refunds} | books.changed_refunds
    db.executemany(SQL["refund"], [msgspec.structs.astuple(each) for each in refunds.values()])
