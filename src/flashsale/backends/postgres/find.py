"""Answers to the questions of `ports.Query`, each a function of a connection that reads."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from flashsale.backends.postgres import rows
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.moves import storable
from flashsale.backends.queries import load_queries
from flashsale.backends.told import told
from flashsale.core.event import Told
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.ports import (
    AuditEntry,
    AuditPage,
    DueWork,
    EventsAfter,
    FiguresOf,
    FindActiveReservations,
    FindOrder,
    FindOrders,
    FindReservations,
    FindSales,
    JournalPage,
    LedgerCheck,
    SaleFigures,
    StockOf,
    Work,
)

FIND = load_queries("postgres/find.sql")
PAGE_MAX = 1000


async def _reservations(db: Connection, query: FindReservations) -> list[Reservation]:
    wanted = [*storable(*query.reservation_ids)]
    return [rows.reservation(row) for row in await db.fetch(rows.SQL["reservations"], wanted)]


async def _active_reservations(db: Connection, query: FindActiveReservations) -> list[Reservation]:
    found = await db.fetch(FIND["active_reservations"], query.user_id, query.now_ms)
    return [rows.reservation(row) for row in found]


async def _order(db: Connection, query: FindOrder) -> Order | None:
    order_id = query.order_id
    for reservation_id in storable(query.reservation_id):
        order_id = await db.fetchval(FIND["order_of_reservation"], reservation_id)
    row = await db.fetchrow(rows.SQL["orders"], [*storable(order_id)])
    return rows.order(row) if row else None


async def _orders(db: Connection, query: FindOrders) -> list[Order]:
    return [rows.order(row) for row in await db.fetch(FIND["orders_of_user"], query.user_id)]


async def _sales(db: Connection, _: FindSales) -> list[Sale]:
    return [rows.sale_of(row[0]) for row in await db.fetch(rows.SQL["sales"])]


async def _stock(db: Connection, query: StockOf) -> list[Stock]:
    return [Stock(*row) for row in await db.fetch(rows.SQL["stock_of_sale"], query.sale_id)]


async def _check(db: Connection, query: LedgerCheck) -> list[str]:
    """All proofs look at one moment of the ledger."""
    async with db.transaction(isolation="repeatable_read", readonly=True):
        proofs = [statement for name, statement in FIND.items() if name.startswith("proof_")]
        return [row[0] for proof in proofs for row in await db.fetch(proof, query.sale_id)]


async def _journal(db: Connection, query: JournalPage) -> list[tuple[int, Movement]]:
    limit = min(query.limit, PAGE_MAX)
    found = await db.fetch(FIND["journal_page"], query.sale_id, query.sku_id, query.after, limit)
    return [(row[0], msgspec.convert(tuple(row)[1:], Movement)) for row in found]


async def _events(db: Connection, query: EventsAfter) -> list[tuple[int, Told]]:
    found = await db.fetch(FIND["events_page"], query.after, query.topic, min(query.limit, PAGE_MAX))
    return [told(row) for row in found]


async def _audit(db: Connection, query: AuditPage) -> list[AuditEntry]:
    found = await db.fetch(FIND["audit_page"], query.after, min(query.limit, PAGE_MAX))
    return [msgspec.convert((*tuple(row)[:5], msgspec.json.decode(row[5])), AuditEntry) for row in found]


async def _work(db: Connection, query: DueWork) -> Work:
    payments = [rows.payment(row) for row in await db.fetch(FIND["due_payments"], query.now_ms, query.limit)]
    found = [tuple(row) for row in await db.fetch(FIND["due_refunds"], query.now_ms, query.limit)]
    return Work(payments, [(rows.refund(row[:8]), rows.payment(row[8:])) for row in found])


async def _figures(db: Connection, query: FiguresOf) -> SaleFigures:
    names = ("reservation_figures", "order_figures", "peak_orders")
    counted = [number for name in names for row in await db.fetch(FIND[name], query.sale_id) for number in row]
    refusals = {row[0]: row[1] for row in await db.fetch(FIND["refusal_figures"], query.sale_id)}
    return msgspec.convert((*counted, refusals), SaleFigures)


ANSWERS: dict[type[Any], Callable[[Connection, Any], Awaitable[Any]]] = {
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
    DueWork: _work,
    FiguresOf: _figures,
}

LONG: frozenset[type[Any]] = frozenset({LedgerCheck, FiguresOf, JournalPage, AuditPage})
"""Questions whose time grows with the ledger: they are answered apart from the buyers' short ones."""
