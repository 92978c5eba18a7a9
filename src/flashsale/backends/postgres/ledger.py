"""The ledger port on PostgreSQL: any number of processes on one database, three connections each.

  writer   every change, in batches, one transaction each, as on SQLite (`backends/sqlite/ledger.py`)
  reader   short reads: attempts that have visibly lost, reservations by id
  scanner  the operators' long reads

A batch is loaded, decided and stored as a whole, because a statement is a journey:

    look    which orders, reservations and products hang on what was asked                (only for moves)
    lock    the products, in one order for everybody
    load    counters, limits, earlier requests, rows and the time, as they are now that nobody else can change them
    decide  moves first, one after the other, then the attempts; all by the rules of core/
    store   what has changed, with compare-and-set; the writer's mark; commit

Every transition of a reservation or an order happens under the locks of its products, so what was loaded cannot
change before it is stored. The lock is an advisory one and not that of the stock row: to wait for a row takes a
transaction id, to wait for an advisory lock does not. A transaction thus gets its id after it got its products, the
ids on one product rise in the order of its movements, and `journal.seq`, which is made of the transaction's id, does
too. A reader who stops before the oldest transaction under way (find.sql) misses nothing, and batches in which
everybody is refused write nothing at all. Rows whose uniqueness spans products (request keys, claims on provider
transactions) are held by unique indexes: whoever comes second runs again and sees the first.

The time of a decision is the database's, taken after the locks.
"""

import asyncio
from collections import Counter
from functools import partial
from typing import Any, TypeVar

import structlog

from flashsale.backends.batch import (
    AWAY,
    BUSY,
    FAILED,
    FULL,
    UNKNOWN,
    Asked,
    Committed,
    Item,
    Job,
    Undecided,
    answer,
    certain,
    count_refusals,
    deliver,
)
from flashsale.backends.ids import IdMint
from flashsale.backends.postgres import catalogue, connect, moves, rows
from flashsale.backends.postgres.find import ANSWERS, LONG
from flashsale.backends.postgres.lane import Lane
from flashsale.backends.postgres.moves import Desk, Move
from flashsale.backends.postgres.rows import SQL, Needs
from flashsale.backends.postgres.session import OutcomeUnknown, Session
from flashsale.core import exits, stock
from flashsale.core.books import Books, Line
from flashsale.core.catalogue import CreateSale, EditSale, SaleChange, sale_id_of
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.order import Order
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, refuse_early
from flashsale.ports import (
    Clock,
    LedgerUnavailable,
    Observer,
    Outcome,
    PaymentFact,
    PutOff,
    Query,
    RefundFact,
    Reply,
)

T = TypeVar("T")

LAPSED_MAX = 500
"""Reservations released in one batch."""
FAR = 2**62

log = structlog.get_logger("flashsale.ledger")


class PostgresLedger:
    """The truth of a fleet. Made by `open`; used from one event loop."""

    def __init__(self, url: str, clock: Clock, observer: Observer, queue_max: int, batch_max: int) -> None:
        self._url = url
        self._clock = clock
        self._observer = observer
        self._session = Session(url)
        self._reads: dict[str, connect.Connection | None] = {"reader": None, "scanner": None}
        self._new_id = IdMint(clock.now_ms)
        self._sales: dict[str, Sale] = {}
        self._closing = False
        self._alarm: str | None = None
        self._next_expiry_ms = 0
        """Nothing that this process knows to be held lapses before this time."""
        self._undecided = Undecided()
        self._refusals: Counter[tuple[str, str]] = Counter()
        """How often each was said since that was last written."""
        self._writer: Lane[Item] = Lane("ledger-writer", self._write, batch_max, queue_max)
        self._reader: Lane[Item] = Lane("ledger-reader", self._read, batch_max, queue_max)
        self._scanner: Lane[Item] = Lane("ledger-scanner", self._scan, 1, 64)

    @classmethod
    async def open(cls, url: str, clock: Clock, observer: Observer, queue_max: int, batch_max: int) -> "PostgresLedger":
        """Connects. Raises LedgerUnavailable, and SchemaUnknown when `flashsale migrate` has to run first."""
        ledger = cls(url, clock, observer, queue_max, batch_max)
        try:
            db = await ledger._session.open()
            clock.hear(await db.fetchval(SQL["now"]))
            ledger._sales = await catalogue.known_sales(db, {})
        except BaseException:
            await ledger.close()
            raise
        return ledger

    # The port.

    @property
    def alarm(self) -> str | None:
        return self._alarm

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        if self._closing or not self._writer.put(Asked(attempt, reply)):
            reply(BUSY)
        else:
            self._undecided.add(attempt)

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        if attempt in self._undecided:
            self.reserve(attempt, reply)  # the first of two copies may win yet, and both must hear the same
        elif self._closing or not self._reader.put(Asked(attempt, reply)):
            reply(BUSY)

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self._ask(moves.release(reservation_id, user_id))

    async def expire(self) -> int:
        return await self._ask(moves.expire())

    async def open_order(self, checkout: Checkout) -> Opened | Refused:
        return await self._ask(moves.open_order(checkout))

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        return await self._ask(moves.settle(fact))

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
        return await self._ask(moves.cancel_order(order_id, user_id, reason))

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        return await self._ask(change)

    async def find(self, query: Query[T]) -> T:
        answering = ANSWERS[type(query)]
        job = Job(lambda db: answering(db, query), asyncio.get_running_loop().create_future())
        lane = self._scanner if type(query) in LONG else self._reader
        if self._closing or not lane.put_urgent(job):
            raise LedgerUnavailable(BUSY.message)
        found: T = await job.future
        return found

    async def close(self) -> None:
        """Finishes what is queued. New requests are refused from now on."""
        if self._closing:
            return
        self._closing = True
        for lane in (self._writer, self._reader, self._scanner):
            await lane.stop()
        await self._session.close()
        for db in self._reads.values():
            if db is not None and not db.is_closed():
                db.terminate()

    async def _ask(self, what: Move[T] | SaleChange) -> T:
        job = Job(what, asyncio.get_running_loop().create_future())
        if self._closing or not self._writer.put_urgent(job):
            raise LedgerUnavailable(BUSY.message)
        outcome: T = await job.future
        return outcome

    # The writer.

    async def _write(self, batch: list[Item]) -> None:
        """Changes of sales go alone, in their place; everything else together."""
        together: list[Item] = []
        for item in batch:
            if isinstance(item, Job) and not isinstance(item.run, Move):
                await self._finish(together)
                together = []
                self._deliver([item], await self._altered(item.run))
            else:
                together.append(item)
        await self._finish(together)

    async def _finish(self, batch: list[Item]) -> None:
        if batch:
            self._deliver(batch, await self._committed(batch))

    async def _committed(self, batch: list[Item]) -> Committed:
        counted, self._refusals = self._refusals, Counter()
        try:
            committed, wrote = await self._session.run(partial(self._decided, batch, counted))
        except Exception as error:
            self._refusals.update(counted)
            verdict = self._verdict(error, len(batch))
        else:
            self._alarm = None
            if not wrote:
                self._refusals.update(counted)
            return committed
        if verdict is not None or len(batch) == 1:
            return Committed([verdict or FAILED] * len(batch), {}, {}, self._sales)
        half = len(batch) // 2
        first, second = await self._committed(batch[:half]), await self._committed(batch[half:])
        changed = first.changed | second.changed
        return Committed(first.results + second.results, first.stock | second.stock, changed, second.sales)

    def _verdict(self, error: Exception, size: int) -> Refused | None:
        """What everybody in a failed batch is told. None: try parts of it."""
        self._next_expiry_ms = 0
        if isinstance(error, OutcomeUnknown | LedgerUnavailable):
            if self._alarm is None:
                log.error("the ledger cannot be reached", size=size, error=str(error))
            self._alarm = str(error)
            return UNKNOWN if isinstance(error, OutcomeUnknown) else AWAY
        if isinstance(error, connect.FULL):
            self._alarm = FULL.message
            log.error("disk full: nothing was changed", attempts=size)
            return FULL
        if isinstance(error, connect.BUSY):
            log.error("the ledger's rows are locked by somebody else", size=size, exc_info=error)
            return BUSY
        log.error("a batch failed and is tried in halves", size=size, exc_info=error)
        return None

    async def _decided(
        self, batch: list[Item], counted: Counter[tuple[str, str]], db: connect.Connection
    ) -> tuple[Committed, bool]:
        """One batch in one transaction, and whether it wrote anything."""
        asked = [item.run for item in batch if isinstance(item, Job)]
        attempts = [item.attempt for item in batch if isinstance(item, Asked)]
        lapsed = await self._lapsed(db, asked, attempts)
        wanted = Needs(reservation_ids=set(lapsed))
        wanted.lines = {(each.sale_id, item.sku_id) for each in attempts for item in each.items}
        for move in asked:
            wanted.add(move.needs)
        wanted, lines = await rows.resolve(db, wanted)
        await rows.lock(db, lines)
        books, now_ms = await self._loaded(db, wanted, lines, attempts)
        seq_before = {line: row.sku_seq for line, row in books.stock.items()}
        # Below this line nothing waits for anybody.
        released = exits.expire(books, now_ms) if lapsed else 0
        desk = Desk(books, now_ms, self._new_id, released)
        results: list[Any] = [move.decide(desk) for move in asked]
        results += stock.reserve(books, attempts, now_ms, self._new_id)
        wrote = not books.unchanged or (bool(counted) and any(move.after_lapsed for move in asked))
        if wrote:
            await self._store(db, books, seq_before, counted, now_ms)
        touched = {line: books.stock[line] for line in books.touched_stock}
        return Committed(results, touched, {}, dict(books.sales)), wrote

    async def _lapsed(self, db: connect.Connection, asked: list[Move[Any]], attempts: list[Attempt]) -> list[str]:
        """What is to be released first: a buyer's own, and what can be sold again."""
        sweeping = any(move.after_lapsed for move in asked)
        now_ms = self._clock.now_ms()
        if not (attempts or sweeping) or (now_ms < self._next_expiry_ms and not sweeping):
            return []
        found = [row[0] for row in await db.fetch(SQL["lapsed"], now_ms, LAPSED_MAX)]
        if len(found) == LAPSED_MAX and attempts:
            users = rows.columns(sorted({(each.user_id, each.sale_id) for each in attempts}))
            found += [row[0] for row in await db.fetch(SQL["lapsed_of_users"], *users, now_ms)]
        next_ms = await db.fetchval(SQL["next_expiry"]) if len(found) < LAPSED_MAX else 0
        self._next_expiry_ms = FAR if next_ms is None else next_ms
        return found

    async def _loaded(
        self, db: connect.Connection, needs: Needs, lines: set[Line], attempts: list[Attempt]
    ) -> tuple[Books, int]:
        books = Books(await catalogue.known_sales(db, self._sales))
        await rows.load_stock(db, books, lines)
        await rows.load_rows(db, books, needs, lines)
        users = {(each.user_id, each.sale_id) for each in attempts}
        users |= {(each.user_id, each.sale_id) for each in books.reservations.values()}
        await rows.load_users(db, books, users)
        await rows.load_requests(db, books, attempts)
        return books, self._clock.hear(await db.fetchval(SQL["now"]))

    async def _store(
        self, db: connect.Connection, books: Books, seq_before: dict[Line, int],
        counted: Counter[tuple[str, str]], now_ms: int,
    ) -> None:  # fmt: skip
        if not books.unchanged:
            await rows.store(db, books, seq_before)
        for reservation in books.new_reservations:
            self._next_expiry_ms = min(self._next_expiry_ms, reservation.expires_at_ms)
        if counted:
            await db.execute(SQL["refusals"], *rows.columns([(*key, times) for key, times in counted.items()]))
        await self._session.mark(db)

    async def _altered(self, change: SaleChange) -> Committed:
        try:
            altered = await self._session.run(partial(self._alter, change))
        except Exception as error:
            verdict = self._verdict(error, 1) or FAILED
            return Committed([verdict], {}, {}, self._sales)
        if not altered.changed:
            return Committed([altered.outcome], {}, {}, self._sales)
        kept = {sale_id: sale for sale_id, sale in self._sales.items() if sale_id != altered.sale_id}
        sale = altered.outcome if isinstance(altered.outcome, Sale) else None
        sales = kept | {altered.sale_id: sale} if sale else kept
        return Committed([altered.outcome], altered.stock, {altered.sale_id: sale}, sales)

    async def _alter(self, change: SaleChange, db: connect.Connection) -> catalogue.Altered:
        sale_id = sale_id_of(change)
        await db.execute(SQL["lock_catalogue"])
        skus = {row["sku_id"] for row in await db.fetch(SQL["stock_of_sale"], sale_id)}
        if isinstance(change, CreateSale | EditSale):
            skus |= change.draft.units.keys()
        await rows.lock(db, {(sale_id, sku_id) for sku_id in skus})
        now_ms = self._clock.hear(await db.fetchval(SQL["now"]))
        altered = await catalogue.alter(db, change, now_ms)
        if altered.changed:
            await self._session.mark(db)
        return altered

    # Reading.

    async def _read(self, batch: list[Item]) -> None:
        attempts = [item for item in batch if isinstance(item, Asked)]
        for item in batch:
            if isinstance(item, Job):
                answer(item, await self._found("reader", item))
        if attempts:
            self._deliver_read(attempts, await self._refused([item.attempt for item in attempts]))

    async def _scan(self, batch: list[Item]) -> None:
        """A long read; those that still wait when the ledger closes are not begun."""
        for item in batch:
            if isinstance(item, Job):
                answer(item, FAILED if self._closing else await self._found("scanner", item))

    async def _found(self, name: str, job: Job) -> Any:
        try:
            return await job.run(await self._connected(name))
        except Exception as error:
            self._doubt(name, error)
            if not isinstance(error, LedgerUnavailable):  # the writer says that, once
                log.error("a question failed", exc_info=error)
            return FAILED

    async def _refused(self, attempts: list[Attempt]) -> list[Outcome | None]:
        try:
            db = await self._connected("reader")
            books = Books(await catalogue.known_sales(db, self._sales))
            await rows.load_stock(db, books, {(each.sale_id, item.sku_id) for each in attempts for item in each.items})
            await rows.load_users(db, books, [(each.user_id, each.sale_id) for each in attempts])
            await rows.load_requests(db, books, attempts)
            now_ms = self._clock.hear(await db.fetchval(SQL["now"]))
            open_ends = {Refusal.LIMIT_EXCEEDED}
            if await db.fetch(SQL["lapsed"], now_ms, 1):
                open_ends.add(Refusal.SOLD_OUT)
        except Exception as error:
            self._doubt("reader", error)
            if not isinstance(error, LedgerUnavailable):
                log.error("a read failed", size=len(attempts), exc_info=error)
            return [FAILED] * len(attempts)
        return [certain(refuse_early(books, attempt, now_ms), open_ends) for attempt in attempts]

    def _doubt(self, name: str, error: Exception) -> None:
        """A connection that may be broken is not used again."""
        db = self._reads[name]
        if db is not None and isinstance(error, connect.LOST):
            db.terminate()
            self._reads[name] = None

    async def _connected(self, name: str) -> connect.Connection:
        db = self._reads[name]
        if db is None or db.is_closed():
            db = await connect.connect(self._url, connect.BY_INDEX if name == "reader" else connect.FREELY)
            self._reads[name] = db
        return db

    # Answering.

    def _deliver(self, batch: list[Item], committed: Committed) -> None:
        self._sales = committed.sales
        count_refusals(batch, committed.results, self._refusals)
        deliver(batch, committed, self._undecided, self._observer)

    def _deliver_read(self, batch: list[Asked], results: list[Any]) -> None:
        count_refusals(batch, results, self._refusals)
        for item, result in zip(batch, results, strict=True):
            if result is None:
                self.reserve(item.attempt, item.answer)
                continue
            answer(item, result)
