"""The ledgers that the contract is asked of, and one in the hand: with a clock that is set, and short cuts."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
from core.shop import AUTHORIZED, CAPTURED, LEASE_MS, OPENING_MS, Units, a_checkout, a_draft, a_fact, a_sale, an_attempt
from servers.postgres import database_url, server_url
from structlog.testing import capture_logs

from flashsale.backends.postgres.connect import migrate
from flashsale.backends.postgres.history import PostgresHistory
from flashsale.backends.postgres.joining import migrate_all
from flashsale.backends.postgres.leases import PostgresLeases
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.limits import PostgresLimits
from flashsale.backends.postgres.shards import ShardedLedger
from flashsale.backends.sqlite.history import SqliteHistory
from flashsale.backends.sqlite.leases import SqliteLeases
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.backends.sqlite.limits import SqliteLimits
from flashsale.core.catalogue import CreateSale
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.payment import Payment, PaymentStatus
from flashsale.core.questions import DueWork, FindOrder, FindReservations, JournalPage, LedgerCheck, StockOf, Work
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Granted
from flashsale.flow.in_force import LimitBook
from flashsale.ports import Clock, History, Leases, Ledger, Observer, Outcome, PaymentFact

FAR_MS = 10**12
"""Later than anything that is due."""


class HandClock:
    """A clock that stands until it is set."""

    alarm: str | None = None
    drift_ms = 0

    def __init__(self, now_ms: int = OPENING_MS) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms

    def follow(self) -> None:
        pass

    def hear(self, told_ms: int) -> int:
        return self.at_ms

    def pass_ms(self, duration_ms: int) -> None:
        self.at_ms += duration_ms


class Audience:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.stock: list[Stock] = []
        self.sales: list[tuple[str, Sale | None]] = []

    def stock_changed(self, rows: list[Stock]) -> None:
        self.stock += rows

    def sale_changed(self, sale_id: str, sale: Sale | None) -> None:
        self.sales.append((sale_id, sale))


Opening = Callable[..., AbstractAsyncContextManager[Ledger]]


@asynccontextmanager
async def sqlite(
    folder: Path,
    clock: Clock,
    observer: Observer,
    queue_max: int = 8192,
    batch_max: int = 512,
    on_fatal: Callable[[Exception], None] | None = None,
) -> AsyncIterator[SqliteLedger]:
    ledger = await SqliteLedger.open(folder / "ledger.db", clock, observer, queue_max, batch_max, on_fatal)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def postgres(
    folder: Path,
    clock: Clock,
    observer: Observer,
    queue_max: int = 8192,
    batch_max: int = 512,
    on_fatal: Callable[[Exception], None] | None = None,
) -> AsyncIterator[PostgresLedger]:
    """A database for each folder, so that the same folder finds the same ledger again."""
    ledger = await PostgresLedger.open(await database_of(folder), clock, observer, queue_max, batch_max)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def shards(
    folder: Path,
    clock: Clock,
    observer: Observer,
    queue_max: int = 8192,
    batch_max: int = 512,
    on_fatal: Callable[[Exception], None] | None = None,
    count: int = 2,
) -> AsyncIterator[ShardedLedger]:
    """Two databases. The first sale goes to the second of them, so that what spans both is in every test."""
    urls = await databases_of(folder, count)
    ledger = await ShardedLedger.open(urls, [clock] * len(urls), observer, queue_max, batch_max)
    try:
        yield ledger
    finally:
        await ledger.close()


@asynccontextmanager
async def leases_of(ledger: Ledger, folder: Path, clock: Clock) -> AsyncIterator[Leases]:
    """The leases beside a ledger that was opened in this folder."""
    if isinstance(ledger, SqliteLedger):
        leases: Leases = SqliteLeases(ledger.move)
    else:
        leases = PostgresLeases(await database_of(folder), clock)
    try:
        yield leases
    finally:
        await leases.close()


@asynccontextmanager
async def history_of(ledger: Ledger, folder: Path) -> AsyncIterator[History]:
    """The history of a ledger that was opened in this folder."""
    if isinstance(ledger, SqliteLedger):
        history: History = SqliteHistory(ledger.move)
    else:
        history = PostgresHistory(await database_of(folder))
    try:
        yield history
    finally:
        await history.close()


@asynccontextmanager
async def limits_of(ledger: Ledger, folder: Path) -> AsyncIterator[LimitBook]:
    """The book of limits of a ledger that was opened in this folder."""
    if isinstance(ledger, SqliteLedger):
        book: LimitBook = SqliteLimits(ledger.move)
    else:
        book = PostgresLimits(await database_of(folder))
    try:
        yield book
    finally:
        await book.close()


async def tampered(folder: Path, statement: str) -> None:
    """Somebody writes into the ledger of this folder who knows no rules."""
    if (folder / "ledger.db").exists():
        with closing(sqlite3.connect(folder / "ledger.db")) as file, file:
            file.execute(statement)
        return
    db = await asyncpg.connect(await database_of(folder))
    await db.execute(statement)
    await db.close()


async def databases_of(folder: Path, count: int = 2) -> list[str]:
    """The databases of a ledger in several, each in its place."""
    urls = [await database_of(folder, f"_{number}" if number else "") for number in range(count)]
    if not (folder / "joined").exists():
        await migrate_all(urls)
        (folder / "joined").touch()
    return urls


async def database_of(folder: Path, more: str = "") -> str:
    name = f"test_{sha256(str(folder).encode()).hexdigest()[:24]}{more}"
    url = database_url(await asyncio.to_thread(server_url), name)
    marker = folder / f"database{more}"
    if not marker.exists():
        db = await asyncpg.connect(server_url())
        await db.execute(f"DROP DATABASE IF EXISTS {name}")
        await db.execute(f"CREATE DATABASE {name} TEMPLATE {await _template(db)} STRATEGY FILE_COPY")
        await db.close()
        marker.touch()
    return url


async def _template(db: asyncpg.Connection) -> str:
    """A database with the schema in it, made once in a run."""
    if not await db.fetchval("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = 'flashsale_template')"):
        await db.execute("CREATE DATABASE flashsale_template")
        await migrate(database_url(server_url(), "flashsale_template"))
    return "flashsale_template"


LEDGERS: list[Opening] = [sqlite, postgres, shards]
"""Every backend that claims the port. A new one is one more line here."""
DATABASES: list[Opening] = [sqlite, postgres]
"""Those with leases and a history of their own: a ledger in several databases has them in each."""


class Shop:
    """A ledger with a clock in the hand: every call waits for its commit."""

    def __init__(self, ledger: Ledger, clock: HandClock, audience: Audience) -> None:
        self.ledger = ledger
        self.clock = clock
        self.audience = audience

    async def opens(self, *sales: Sale, units: int | Units = 10) -> None:
        for sale in sales or (a_sale(),):
            created = await self.ledger.change_sale(CreateSale(a_draft(sale, units), "operator"))
            assert isinstance(created, Sale), created

    def asks(self, attempt: Attempt) -> asyncio.Future[Outcome]:
        return answered(self.ledger.reserve, attempt)

    async def reserve(self, user: str, *items: tuple[str, int], key: str | None = None) -> Outcome:
        return await self.asks(an_attempt(user, *items, key=key))

    async def refuse(self, user: str, *items: tuple[str, int], key: str | None = None) -> Outcome:
        return await answered(self.ledger.refuse, an_attempt(user, *items, key=key))

    async def held(self, user: str = "ann", *items: tuple[str, int], key: str | None = None) -> list[Reservation]:
        outcome = await self.reserve(user, *items, key=key)
        assert isinstance(outcome, Granted), outcome
        return outcome.reservations

    async def open_order(self, *reservation_ids: str, transaction: str = "tx", user: str | None = None) -> Any:
        return await self.ledger.open_order(a_checkout(*reservation_ids, transaction=transaction, user=user))

    async def ordered(self, user: str = "ann", *items: tuple[str, int], transaction: str = "tx") -> Opened:
        reservations = await self.held(user, *items)
        opened = await self.open_order(*(each.reservation_id for each in reservations), transaction=transaction)
        assert isinstance(opened, Opened), opened
        return opened

    async def hear(self, payment: Payment, *statuses: PaymentStatus) -> Opened:
        for status in statuses:
            opened = await self.ledger.settle(PaymentFact(payment.payment_id, a_fact(payment, status), LEASE_MS))
        assert opened is not None
        return opened

    async def paid(self, user: str = "ann", *items: tuple[str, int], transaction: str = "tx") -> Opened:
        opened = await self.ordered(user, *items, transaction=transaction)
        return await self.hear(opened.payment, AUTHORIZED, CAPTURED)

    async def reservation(self, reservation_id: str) -> Reservation:
        return (await self.ledger.find(FindReservations((reservation_id,))))[0]

    async def order(self, order_id: str) -> Order:
        order = await self.ledger.find(FindOrder(order_id=order_id))
        assert order is not None
        return order

    async def due(self) -> Work:
        return await self.ledger.find(DueWork(self.clock.now_ms() + FAR_MS))

    async def counters(self, sku_id: str = "lamp") -> tuple[int, int, int]:
        """`(available, held, sold)`"""
        (row,) = [row for row in await self.ledger.find(StockOf("sale")) if row.sku_id == sku_id]
        return row.available, row.held, row.sold

    async def journal(self, sale_id: str = "sale") -> list[Movement]:
        rows: list[Movement] = []
        after = 0
        while page := await self.ledger.find(JournalPage(sale_id, after=after, limit=1000)):
            rows += [row for _, row in page]
            after = page[-1][0]
        return rows

    async def discrepancies(self, sale_id: str = "sale") -> list[str]:
        return await self.ledger.find(LedgerCheck(sale_id))


@asynccontextmanager
async def shop(opening: Opening, folder: Path, clock: HandClock | None = None, **options: Any) -> AsyncIterator[Shop]:
    """A ledger in the hand. What it logs is kept off the terminal."""
    clock, audience = clock or HandClock(), Audience()
    with capture_logs():
        async with opening(folder, clock, audience, **options) as ledger:
            yield Shop(ledger, clock, audience)


def answered(ask: Callable[[Attempt, Callable[[Outcome], None]], None], attempt: Attempt) -> asyncio.Future[Outcome]:
    """The outcome of an attempt, to be waited for; a second one is an error."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    ask(attempt, future.set_result)
    return future


async def together(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """All calls are asked before the first is answered; what one raises stands in its place."""
    return await asyncio.gather(*calls, return_exceptions=True)


__all__ = [
    "DATABASES", "LEDGERS", "Audience", "Checkout", "HandClock", "Opening", "Shop", "answered", "database_of",
    "databases_of", "history_of", "leases_of", "limits_of", "postgres", "shards", "shop", "sqlite", "tampered",
    "together",
]  # fmt: skip
