"""Answers to the questions of `ports.Query`, each a function of a read-only connection."""

import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite import queue, rooms, rows
from flashsale.backends.sqlite.by_user import place
from flashsale.backends.sqlite.rows import array
from flashsale.backends.told import told
from flashsale.core.books import Line
from flashsale.core.event import Told
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.questions import (
    AdmissionOf,
    AuditEntry,
    AuditPage,
    BasesOf,
    DeadLetterCount,
    DeadLetters,
    DrawnOrder,
    DueWork,
    EntrantsOf,
    EventsAfter,
    EventsWaiting,
    FiguresOf,
    FindActiveReservations,
    FindDeadLetter,
    FindOrder,
    FindOrders,
    FindReservations,
    FindRooms,
    FindSales,
    FindTickets,
    JournalPage,
    LedgerCheck,
    MovedProducts,
    PrunedTo,
    PruneReach,
    QueuedPage,
    QueueFigures,
    SaleFigures,
    StockOf,
    Waiting,
    Work,
)
from flashsale.core.reservation import Reservation
from flashsale.core.retention import Base
from flashsale.core.sale import Sale

FIND = load_queries("sqlite/find.sql")
PAGE_MAX = 1000


def _reservations(db: sqlite3.Connection, query: FindReservations) -> list[Reservation]:
    found = db.execute(rows.SQL["reservations"], (array(query.reservation_ids),))
    return [rows.reservation(row) for row in found]


def _active_reservations(db: sqlite3.Connection, query: FindActiveReservations) -> list[Reservation]:
    sale_ids = [sale_id for (sale_id,) in db.execute(FIND["sale_ids"])]
    places = array((place(query.user_id, sale_id), query.user_id, sale_id) for sale_id in sale_ids)
    found = db.execute(FIND["active_reservations"], (places, query.now_ms))
    return [rows.reservation(row) for row in found]


def _order(db: sqlite3.Connection, query: FindOrder) -> Order | None:
    order_id = query.order_id
    if query.reservation_id is not None:
        found = db.execute(FIND["order_of_reservation"], (query.reservation_id,)).fetchone()
        order_id = found[0] if found else None
    row = db.execute(rows.SQL["orders"], (array([order_id]),)).fetchone()
    return rows.order(row) if row else None


def _orders(db: sqlite3.Connection, query: FindOrders) -> list[Order]:
    return [rows.order(row) for row in db.execute(FIND["orders_of_user"], (query.user_id,))]


def _sales(db: sqlite3.Connection, _: FindSales) -> list[Sale]:
    return list(rows.sales(db).values())


def _stock(db: sqlite3.Connection, query: StockOf) -> list[Stock]:
    return [Stock(*row) for row in db.execute(rows.SQL["stock_of_sale"], (query.sale_id,))]


def _check(db: sqlite3.Connection, query: LedgerCheck) -> list[str]:
    db.create_function("place", -1, place, deterministic=True)
    proofs = (name for name in FIND if name.startswith("proof_"))
    return [found for proof in proofs for (found,) in db.execute(FIND[proof], (query.sale_id,))]


def _journal(db: sqlite3.Connection, query: JournalPage) -> list[tuple[int, Movement]]:
    statement = FIND["journal_page" if query.sku_id is None else "journal_page_of_sku"]
    found = db.execute(statement, (query.sale_id, query.sku_id, query.after, min(query.limit, PAGE_MAX)))
    return [(row[0], msgspec.convert(row[1:], Movement)) for row in found]


def _events(db: sqlite3.Connection, query: EventsAfter) -> list[tuple[int, Told]]:
    found = db.execute(FIND["events_page"], (query.after, query.topic, min(query.limit, PAGE_MAX)))
    return [told(row) for row in found]


def _audit(db: sqlite3.Connection, query: AuditPage) -> list[AuditEntry]:
    found = db.execute(FIND["audit_page"], (query.after, min(query.limit, PAGE_MAX)))
    return [msgspec.convert((*row[:5], msgspec.json.decode(row[5])), AuditEntry) for row in found]


def _waiting(db: sqlite3.Connection, query: EventsWaiting) -> Waiting:
    return Waiting(*db.execute(FIND["events_waiting"], (query.relay, query.limit)).fetchone())


def _pruned_to(db: sqlite3.Connection, query: PrunedTo) -> int:
    return max(query.after, int(db.execute(FIND["pruned_to"]).fetchone()[0]))


def _bases(db: sqlite3.Connection, query: BasesOf) -> list[Base]:
    return [Base(*row) for row in db.execute(FIND["bases"], (query.sale_id,))]


def _prune_reach(db: sqlite3.Connection, query: PruneReach) -> tuple[int, int]:
    passed, beyond = db.execute(FIND["prune_reach"], (query.rows, array(query.relays))).fetchone()
    return passed, beyond


def _moved_products(db: sqlite3.Connection, query: MovedProducts) -> list[Line]:
    """From one to the next by the index, however many movements each has."""
    found = [query.after]
    while len(found) <= query.limit:
        row = db.execute(FIND["next_product_of_sale"], found[-1]).fetchone()
        row = row or db.execute(FIND["next_product"], found[-1][:1]).fetchone()
        if row is None:
            break
        found.append(row)
    return found[1:]


def _work(db: sqlite3.Connection, query: DueWork) -> Work:
    due = (query.now_ms, query.limit)
    payments = [rows.payment(row) for row in db.execute(FIND["due_payments"], due)]
    refunds = [(rows.refund(row[:8]), rows.payment(row[8:])) for row in db.execute(FIND["due_refunds"], due)]
    return Work(payments, refunds)


def _figures(db: sqlite3.Connection, query: FiguresOf) -> SaleFigures:
    sale = (query.sale_id,)
    counted = [
        db.execute(FIND[name], sale).fetchone() for name in ("reservation_figures", "order_figures", "peak_orders")
    ]
    refusals = dict(db.execute(FIND["refusal_figures"], sale).fetchall())
    return msgspec.convert((*counted[0], *counted[1], *counted[2], refusals), SaleFigures)


ANSWERS: dict[type[Any], Callable[[sqlite3.Connection, Any], Any]] = {
    FindReservations: _reservations,
    FindActiveReservations: _active_reservations,
    FindOrder: _order,
    FindOrders: _orders,
    FindSales: _sales,
    StockOf: _stock,
    LedgerCheck: _check,
    JournalPage: _journal,
    EventsAfter: _events,
    AuditPage: _audit,
    EventsWaiting: _waiting,
    PrunedTo: _pruned_to,
    BasesOf: _bases,
    PruneReach: _prune_reach,
    MovedProducts: _moved_products,
    DueWork: _work,
    FiguresOf: _figures,
    QueuedPage: queue.page,
    QueueFigures: queue.figures,
    DeadLetters: queue.letters,
    FindDeadLetter: queue.letter,
    DeadLetterCount: queue.letter_count,
    FindRooms: rooms.rooms,
    FindTickets: rooms.tickets,
    EntrantsOf: rooms.entrants,
    DrawnOrder: rooms.drawn,
    AdmissionOf: rooms.admission,
}

LONG: frozenset[type[Any]] = frozenset(
    {
        LedgerCheck,
        FiguresOf,
        JournalPage,
        AuditPage,
        EventsWaiting,
        PruneReach,
        MovedProducts,
        DeadLetters,
        DeadLetterCount,
        QueueFigures,
        EntrantsOf,
        DrawnOrder,
    }
)
"""Questions whose time grows with the ledger: they are answered apart from the buyers' short ones."""
