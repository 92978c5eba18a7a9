"""Between rows and books: loads what a batch needs, stores what was decided on it.

A batch is loaded whole, decided whole and stored whole: few statements, whatever its size, because each of them is
a journey to the server and back.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from flashsale.backends.postgres.connect import COMMAND_SECONDS, Connection
from flashsale.backends.queries import load_queries
from flashsale.core.books import Books, Line, Place
from flashsale.core.event import Event
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.origin import read_marks
from flashsale.core.payment import Payment, Refund, Right, TransactionKey
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt

SQL = load_queries("postgres/decide.sql")
SHARDS = load_queries("postgres/shards.sql")
ROOMS = load_queries("postgres/rooms.sql")

RESERVATION_COLUMNS = (*Reservation.__struct_fields__, "seq", "request_line")
ORIGIN_COLUMNS = ("sale_id", "mark", "reservation_id", "quantity")
JOURNAL_COLUMNS = (*Movement._fields, "seq")

_sale = msgspec.json.Decoder(Sale)
_encode = msgspec.json.Encoder().encode


class RowChanged(Exception):
    """A row was not in the state it had been loaded in: the compare-and-set of a transaction failed."""


class LinesMoved(Exception):
    """What hangs together has changed between looking and locking: look again."""


class Needs(msgspec.Struct):
    """The rows that a batch is decided on, by their keys."""

    reservation_ids: set[str] = msgspec.field(default_factory=set)
    decided_ids: set[str] = msgspec.field(default_factory=set)
    """Reservations that may not be there yet: whoever writes one of them first wins by the unique key of their ids."""
    letter_ids: set[str] = msgspec.field(default_factory=set)
    order_ids: set[str] = msgspec.field(default_factory=set)
    payment_ids: set[str] = msgspec.field(default_factory=set)
    refund_ids: set[str] = msgspec.field(default_factory=set)
    transactions: set[TransactionKey] = msgspec.field(default_factory=set)
    lines: set[Line] = msgspec.field(default_factory=set)
    users: set[tuple[str, str]] = msgspec.field(default_factory=set)
    """`(user_id, sale_id)` whose limits are asked for."""
    places: set[Place] = msgspec.field(default_factory=set)
    """Likewise, of devices and networks."""

    def add(self, other: "Needs") -> None:
        for name in self.__struct_fields__:
            getattr(self, name).update(getattr(other, name))

    @property
    def rows(self) -> bool:
        return bool(self.reservation_ids or self.order_ids or self.payment_ids or self.refund_ids)


def sale_of(terms: str) -> Sale:
    return _sale.decode(terms)


def reservation(row: Any) -> Reservation:
    return msgspec.convert(tuple(row), Reservation)


def order(row: Any) -> Order:
    values = tuple(row)
    return msgspec.convert((*values[:5], msgspec.json.decode(values[5]), *values[6:]), Order)


def payment(row: Any) -> Payment:
    return msgspec.convert(tuple(row), Payment)


def refund(row: Any) -> Refund:
    return msgspec.convert(tuple(row), Refund)


def columns(values: Collection[Sequence[Any]], width: int = 0) -> Sequence[Sequence[Any]]:
    """Rows as the arrays that `unnest` takes apart; without a row, `width` empty ones."""
    return list(zip(*values, strict=True)) or [()] * width


async def resolve(db: Connection, needs: Needs) -> tuple[Needs, set[Line]]:
    """Adds what hangs on what is needed; with it, the products whose locks that takes."""
    if not needs.rows:
        return needs, set(needs.lines)
    (row,) = await db.fetch(
        SQL["resolve"], [*needs.reservation_ids], [*needs.order_ids], [*needs.payment_ids], [*needs.refund_ids]
    )
    more = Needs(reservation_ids=set(row["reservation_ids"]), order_ids=set(row["order_ids"]))
    more.transactions = {_parted(each) for each in row["transactions"]}
    more.add(needs)
    return more, {_parted(line) for line in row["lines"]} | needs.lines


def _parted(pair: str) -> tuple[str, str]:
    first, _, rest = pair.partition(" ")
    return first, rest


async def lock(
    db: Connection, lines: Collection[Line], transactions: Collection[TransactionKey] = (), sales: Iterable[str] = ()
) -> None:
    """Products, transactions of the payment provider, and sales whose limits span products, all in one order."""
    places = [f"{sale_id} {sku_id}" for sale_id, sku_id in lines]
    places += [f"origins of {sale_id}" for sale_id in sales]
    places += [f"transaction {provider} {transaction_id}" for provider, transaction_id in transactions]
    if places:
        await db.fetchval(SQL["lock"], places)


async def load(
    db: Connection, books: Books, lines: Collection[Line], users: Iterable[tuple[str, str]], attempts: Iterable[Attempt]
) -> int:
    """The counters of these products, what counts against the limits of these `(user_id, sale_id)`, the earlier
    reservations of the attempts' keys, and the sales as they are now. Returns the ledger's time."""
    keys = sorted({(each.user_id, each.sale_id, each.key) for each in attempts if each.key is not None})
    asked = (*columns(lines, 2), *columns(sorted(users), 2), *columns(keys, 3))
    ((now_ms, versions, stock, claims, requests),) = await db.fetch(SQL["load"], *asked)
    books.sales = await known_sales(db, books.sales, versions)
    books.stock.update(((row[0], row[1]), Stock(*row)) for row in stock)
    books.claims.update((tuple(row)[:3], row[3]) for row in claims)
    for row in requests:
        found = books.reservations.get(row[0]) or reservation(row)  # one row is one object
        books.requests.setdefault((found.user_id, found.sale_id, row[11]), []).append(found)
    await _load_spent(db, books, attempts)
    return int(now_ms)


async def _load_spent(db: Connection, books: Books, attempts: Iterable[Attempt]) -> None:
    """Of passes that were brought those that are spent. Without the lock of anything: two that are spent at once
    collide in their rows, and whoever is second runs again."""
    if passes := sorted({(each.sale_id, each.pass_number) for each in attempts if each.pass_number is not None}):
        books.spent = {(row[0], row[1]): "" for row in await db.fetch(ROOMS["spent_passes"], *columns(passes))}


async def load_origins(db: Connection, books: Books, attempts: Iterable[Attempt], asked: set[Place]) -> None:
    """What counts against the limits of devices and addresses: of attempts, and of reservations that may come back."""
    places = asked | {(each.sale_id, mark) for each in attempts for mark in each.marks}
    places |= {(row.sale_id, mark) for row in books.reservations.values() for mark in read_marks(row.origin)}
    if places:
        for row in await db.fetch(SQL["origins"], *columns(list(places))):
            books.origins[row[0], row[1]] = row[2]


async def known_sales(db: Connection, known: Mapping[str, Sale], versions: Sequence[Any]) -> Mapping[str, Sale]:
    """The sales of these `(sale_id, version, created_at_ms)`; terms are read only where their version is new."""
    now = {row[0]: (row[1], row[2]) for row in versions}
    fresh = [sale_id for sale_id, version in now.items() if _version(known.get(sale_id)) != version]
    if not fresh and len(now) == len(known):
        return known
    read = [sale_of(row[0]) for row in await db.fetch(SQL["terms"], fresh)] if fresh else []
    kept = {sale_id: sale for sale_id, sale in known.items() if sale_id in now}
    return kept | {sale.sale_id: sale for sale in read}


def _version(sale: Sale | None) -> tuple[int, int] | None:
    """An id may be used again after its sale was deleted: then the versions begin anew."""
    return (sale.version, sale.created_at_ms) if sale else None


async def load_rows(db: Connection, books: Books, needs: Needs, locked: Collection[Line]) -> None:
    """The reservations, orders and payments of a batch, after their products were locked."""
    await load_decided(db, books, needs.decided_ids)
    if needs.rows:
        needs, lines = await resolve(db, needs)
        await _load_rows(db, books, needs, lines, locked)
    if needs.transactions:
        named = columns(list(needs.transactions))
        for row in await db.fetch(SQL["payment_claims"], *named):
            books.payments.setdefault(row[0], payment(row))
        for row in await db.fetch(SHARDS["rights"], *named):
            books.rights[row[0], row[1]] = Right(*row[2:])


async def _load_rows(db: Connection, books: Books, needs: Needs, lines: set[Line], locked: Collection[Line]) -> None:
    if not lines <= set(locked):
        raise LinesMoved
    for row in await db.fetch(SQL["reservations"], [*needs.reservation_ids]):
        books.reservations.setdefault(row[0], reservation(row))
    if needs.order_ids:
        wanted = [*needs.order_ids]
        books.orders.update((row[0], order(row)) for row in await db.fetch(SQL["orders"], wanted))
        books.payments.update((row[0], payment(row)) for row in await db.fetch(SQL["payments_of_orders"], wanted))
        books.refunds.update((row[0], refund(row)) for row in await db.fetch(SQL["refunds_of_orders"], wanted))


async def load_decided(db: Connection, books: Books, reservation_ids: Iterable[str]) -> None:
    """The rows that queued requests have already."""
    if wanted := [*reservation_ids]:
        for row in await db.fetch(SQL["reservations"], wanted):
            books.reservations[row[0]] = reservation(row)


async def store(db: Connection, books: Books, seq_before: dict[Line, int]) -> None:
    """Writes everything that was decided. Raises RowChanged when a row is not what it was when loaded."""
    seq = await _store_stock(db, books, seq_before)
    await _store_new(db, books.new_reservations, seq)
    if newly_spent := books.newly_spent:
        await db.execute(ROOMS["spend_passes"], *columns(newly_spent))
    await _store_changed(db, books)
    await _store_origins(db, books)
    await store_journal(db, books.journal, seq)
    await _store_orders(db, books)
    await _store_rights(db, books)
    if books.events:
        values = [_event_values(each) for each in books.events]
        await db.execute(SQL["outbox"], *columns(values), seq + len(books.journal))


async def _store_stock(db: Connection, books: Books, seq_before: dict[Line, int]) -> int:
    """Returns the number that those of this transaction's rows are counted from: its id, above the shard's base."""
    values = [
        (*msgspec.structs.astuple(each), seq_before[line])
        for line in sorted(books.touched_stock)
        for each in (books.stock[line],)
    ]
    ((changed, seq),) = await db.fetch(SQL["changed_stock"], *columns(values, 7))
    if changed != len(values):
        raise RowChanged("a stock row is no longer what it was when it was loaded")
    return int(seq)


async def _store_new(db: Connection, new: Sequence[Reservation], seq: int) -> None:
    """In the order of their unique key, so that two processes with the same keys do not wait for each other."""
    lines: Counter[tuple[str, str, str]] = Counter()
    values = []
    for place, each in enumerate(new, 1):
        request, line = (each.user_id, each.sale_id, each.request_key or ""), None
        if each.request_key is not None:
            line = lines[request]
            lines[request] += 1
        values.append((request, place, (*msgspec.structs.astuple(each), seq + place, line)))
    await _copy(db, "reservation", RESERVATION_COLUMNS, [each for *_, each in sorted(values)])


async def store_journal(db: Connection, movements: Sequence[Movement], seq: int) -> None:
    values = [(*each, seq + place) for place, each in enumerate(movements, 1)]
    await _copy(db, "journal", JOURNAL_COLUMNS, values)


async def _copy(db: Connection, table: str, names: Sequence[str], values: Sequence[Sequence[Any]]) -> None:
    """COPY writes a page of rows at a time: half the cost of an INSERT from arrays, on both sides.

    The driver bounds all of its waits but the one for room to send in; and the server bounds none while it waits for
    rows, so a process that is stopped here is ended by another (`leases.py`).
    """
    if values:
        async with asyncio.timeout(COMMAND_SECONDS):
            await db.copy_records_to_table(table, records=values, columns=names)


async def _store_changed(db: Connection, books: Books) -> None:
    fresh = {each.reservation_id for each in books.new_reservations}
    changed = [
        (each.reservation_id, before, each.status, each.order_id, each.returned_quantity)
        for reservation_id, before in sorted(books.changed_reservations.items())
        if reservation_id not in fresh
        for each in (books.reservations[reservation_id],)
    ]
    if changed and len(await db.fetch(SQL["changed_reservations"], *columns(changed))) != len(changed):
        raise RowChanged("a reservation is no longer what it was when it was loaded")


async def _store_origins(db: Connection, books: Books) -> None:
    begin, cease = books.origins_moved()
    await _copy(db, "origin", ORIGIN_COLUMNS, [(*key, each.quantity) for each in begin for key in _origin_keys(each)])
    if gone := [key for each in cease for key in _origin_keys(each)]:
        await db.execute(SQL["gone_origins"], *columns(gone))


def _origin_keys(each: Reservation) -> list[tuple[str, str, str]]:
    return [(each.sale_id, mark, each.reservation_id) for mark in read_marks(each.origin)]


async def _store_orders(db: Connection, books: Books) -> None:
    orders = {each.order_id: each for each in books.new_orders} | books.changed_orders
    if orders:
        await db.executemany(SQL["order"], [_order_values(each) for _, each in sorted(orders.items())])
    payments = {each.payment_id: each for each in books.new_payments} | books.changed_payments
    if payments:
        values = [msgspec.structs.astuple(each) for _, each in sorted(payments.items())]
        await db.executemany(SQL["payment"], values)
    refunds = {each.refund_id: each for each in books.new_refunds} | books.changed_refunds
    if refunds:
        await db.executemany(SQL["refund"], [msgspec.structs.astuple(each) for _, each in sorted(refunds.items())])


async def _store_rights(db: Connection, books: Books) -> None:
    put = [(*key, right.shard_id, right.turn) for key, right in books.changed_rights.items() if right]
    gone = [key for key, right in books.changed_rights.items() if right is None]
    if put:
        await db.execute(SHARDS["put_rights"], *columns(put))
    if gone:
        await db.execute(SHARDS["drop_rights"], *columns(gone))


def _event_values(each: Event) -> tuple[Any, ...]:
    topic, name, subject, sequence, at_ms, body, trace_id = msgspec.structs.astuple(each)
    return (topic, name, subject, sequence, at_ms, _encode(body).decode(), trace_id)


def _order_values(each: Order) -> tuple[Any, ...]:
    lines = _encode(each.lines).decode()
    return (
        each.order_id, each.user_id, each.sale_id, each.status, each.currency, lines, each.payment_method,
        each.shipping_address, each.created_at_ms, each.sequence, each.reason, each.transaction_id, each.total_minor,
    )  # fmt: skip
