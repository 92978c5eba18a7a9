"""Answers to the questions of `ports.Query`, each a function of a connection that reads."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from flashsale.backends.postgres import queue, rooms, rows
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.moves import storable
from flashsale.backends.queries import load_queries
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
    Query,
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

FIND = load_queries("postgres/find.sql")
PAGE_MAX = 1000


class ShardOfSale(Query[int | None], frozen=True):
    """Asked of a ledger's first database: where a sale is, or was."""

    sale_id: str


class AnnouncedSales(Query[list[Sale]], frozen=True):
    """Asked of a ledger's first database: the sales of a shard that cannot be asked itself."""

    shard_id: int


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


async def _waiting(db: Connection, query: EventsWaiting) -> Waiting:
    (found,) = await db.fetch(FIND["events_waiting"], query.relay, query.limit)
    return Waiting(*found)


async def _pruned_to(db: Connection, query: PrunedTo) -> int:
    return max(query.after, int(await db.fetchval(FIND["pruned_to"])))


async def _bases(db: Connection, query: BasesOf) -> list[Base]:
    return [Base(*row) for row in await db.fetch(FIND["bases"], query.sale_id)]


async def _prune_reach(db: Connection, query: PruneReach) -> tuple[int, int]:
    found = await db.fetch(FIND["prune_reach"], query.rows, list(query.relays))
    return found[0][0], found[0][1]


async def _moved_products(db: Connection, query: MovedProducts) -> list[Line]:
    """From one to the next by the index, however many movements each has."""
    found = [query.after]
    while len(found) <= query.limit:
        row = await db.fetchrow(FIND["next_product_of_sale"], *found[-1])
        row = row or await db.fetchrow(FIND["next_product"], found[-1][0])
        if row is None:
            break
        found.append((row[0], row[1]))
    return found[1:]


async def _work(db: Connection, query: DueWork) -> Work:
    payments = [rows.payment(row) for row in await db.fetch(FIND["due_payments"], query.now_ms, query.limit)]
    found = [tuple(row) for row in await db.fetch(FIND["due_refunds"], query.now_ms, query.limit)]
    return Work(payments, [(rows.refund(row[:8]), rows.payment(row[8:])) for row in found])


async def _figures(db: Connection, query: FiguresOf) -> SaleFigures:
    names = ("reservation_figures", "order_figures", "peak_orders")
    counted = [number for name in names for row in await db.fetch(FIND[name], query.sale_id) for number in row]
    refusals = {row[0]: row[1] for row in await db.fetch(FIND["refusal_figures"], query.sale_id)}
    return msgspec.convert((*counted, refusals), SaleFigures)


async def _shard_of_sale(db: Connection, query: ShardOfSale) -> int | None:
    for sale_id in storable(query.sale_id):
        found: int | None = await db.fetchval(rows.SHARDS["sale_shard"], sale_id)
        return found
    return None


async def _announced_sales(db: Connection, query: AnnouncedSales) -> list[Sale]:
    return [rows.sale_of(row[0]) for row in await db.fetch(rows.SHARDS["announced_terms"], query.shard_id)]


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
    ShardOfSale: _shard_of_sale,
    AnnouncedSales: _announced_sales,
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
