"""The ledger port on PostgreSQL: any number of processes on one database, three connections each: a writer, and two
that read (`reading.py`). The writer makes every change, in batches, one transaction each, as on SQLite.

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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog

from flashsale.answering import tell
from flashsale.backends.batch import (
    AWAY,
    BUSY,
    FULL,
    UNKNOWN,
    Asked,
    Committed,
    Item,
    Job,
    Undecided,
    count_refusals,
    deliver,
    failed,
    in_their_places,
    into,
    taken_in,
)
from flashsale.backends.ids import IdMint, mark_of
from flashsale.backends.postgres import catalogue, connect, moves, queue, rooms, rows
from flashsale.backends.postgres.alone import Alone, Altered
from flashsale.backends.postgres.catalogue import UNANNOUNCED
from flashsale.backends.postgres.lane import Lane
from flashsale.backends.postgres.moves import FAR, LAPSED_MAX, Desk, Move
from flashsale.backends.postgres.reading import Reading
from flashsale.backends.postgres.rows import SQL, Needs
from flashsale.backends.postgres.seat import ALONE, Seat
from flashsale.backends.postgres.session import OutcomeUnknown, Session
from flashsale.core import exits, stock
from flashsale.core.books import Books, Line
from flashsale.core.catalogue import SaleChange
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.questions import Query
from flashsale.core.refusal import Refused
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Decided
from flashsale.core.waiting_room import DrawStep, Joining, Room, Ticket, Turn, Turned
from flashsale.ports import Clock, LedgerUnavailable, Observer, PaymentFact, PutOff, RefundFact, Reply
from flashsale.tracing import TRACE_ID

T = TypeVar("T")

log = structlog.get_logger("flashsale.ledger")


class PostgresLedger:
    """The truth of a fleet. Made by `open`; used from one event loop."""

    def __init__(self, url: str, clock: Clock, observer: Observer, queue_max: int, batch_max: int) -> None:
        self._url = url
        self._clock = clock
        self._observer = observer
        self._session = Session(url)
        self._new_id = IdMint(clock.now_ms)
        self._sales: dict[str, Sale] = {}
        self._secret = b""
        self._closing = False
        self._alarm: str | None = None
        self._next_expiry_ms = 0
        """Nothing that this process knows to be held lapses before this time."""
        self._undecided = Undecided()
        self._refusals: Counter[tuple[str, str]] = Counter()
        """How often each was said since that was last written."""
        self._writer: Lane[Item] = Lane("ledger-writer", self._write, batch_max, queue_max)
        self._reading = Reading(url, clock, lambda: self._sales, self._deliver_read, queue_max, batch_max)

    @classmethod
    async def open(
        cls, url: str, clock: Clock, observer: Observer, queue_max: int, batch_max: int, seat: Seat = ALONE
    ) -> "PostgresLedger":
        """Connects. Raises LedgerUnavailable, and SchemaUnknown when this is not the database that is wanted."""
        ledger = cls(url, clock, observer, queue_max, batch_max)
        ledger._new_id = IdMint(clock.now_ms, mark_of(seat.shard_id))
        try:
            db = await seat.require(await ledger._session.open())
            clock.hear(await db.fetchval(SQL["now"]))
            ledger._sales = dict(await rows.known_sales(db, {}, await db.fetch(SQL["versions"])))
            ledger._secret = await queue.secret(db)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    # The port.

    @property
    def alarm(self) -> str | None:
        return self._alarm

    @property
    def secret(self) -> bytes:
        return self._secret

    def mark_of(self, sale_id: str) -> str:
        return ""

    @property
    def waiting(self) -> int:
        return len(self._writer)

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        if self._closing or not self._writer.put(Asked(attempt, reply)):
            reply(BUSY)
        else:
            self._undecided.add(attempt)

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        if attempt in self._undecided:
            self.reserve(attempt, reply)  # the first of two copies may win yet, and both must hear the same
        elif self._closing or not self._reading.put(Asked(attempt, reply)):
            reply(BUSY)

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self.ask(moves.release(reservation_id, user_id))

    async def withdraw(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self.ask(moves.withdraw(reservation_id, user_id))

    def enqueue(self, request: Request, reply: Callable[[bool], None]) -> None:
        if self._closing or not self._writer.put(Job(moves.enqueue(request), taken_in(reply))):
            reply(False)

    async def bury(self, letter: DeadLetter, request: Request | None, place: int | None = None) -> None:
        await self.ask(moves.bury(letter, request, place))

    async def redrive(self, letter_id: str, request: Request, actor: str) -> Decided | Refused:
        return await self.ask(moves.redrive(self._secret, letter_id, request, actor))

    async def join(self, sale_id: str, wanted: Sequence[Joining]) -> list[Ticket | Refused]:
        return await self.alone(partial(rooms.join, self._clock, sale_id, wanted))  # type: ignore[no-any-return]

    async def leave(self, sale_id: str, number: int) -> None:
        await self.alone(partial(rooms.leave, sale_id, number))

    async def draw(self, sale_id: str, step: DrawStep) -> Room | None:
        return await self.alone(partial(rooms.draw, self._clock, sale_id, step))  # type: ignore[no-any-return]

    async def admit(self, turn: Turn) -> Turned:
        return await self.alone(partial(rooms.admit, self._clock, turn))  # type: ignore[no-any-return]

    async def expire(self) -> int:
        return await self.ask(moves.expire())

    async def open_order(self, checkout: Checkout) -> Opened | Refused:
        return await self.ask(moves.open_order(checkout))

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        return await self.ask(moves.settle(fact))

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
        return await self.ask(moves.cancel_order(order_id, user_id, reason))

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        return await self.alone(partial(catalogue.alter, self._clock, change, UNANNOUNCED, TRACE_ID.get()))  # type: ignore[no-any-return]

    async def find(self, query: Query[T]) -> T:
        return await self._reading.find(query)

    async def close(self) -> None:
        """Finishes what is queued. New requests are refused from now on."""
        if self._closing:
            return
        self._closing = True
        await self._writer.stop()
        await self._reading.stop()
        await self._session.close()

    async def ask(self, move: Move[T]) -> T:
        """Has a move decided in the next batch."""
        return await self.alone(move)  # type: ignore[no-any-return]

    async def alone(self, what: Move[Any] | Alone) -> Any:
        """Has work done in a transaction of its own, in its turn; answers its outcome."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closing or not self._writer.put_urgent(Job(what, into(future))):
            raise LedgerUnavailable(BUSY.message)
        return await future

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
            verdict, fault = self._verdict(error, len(batch)), failed(error)
        else:
            self._alarm = None
            if not wrote:
                self._refusals.update(counted)
            return committed
        if verdict is not None or len(batch) == 1:
            return Committed([verdict or fault] * len(batch), {}, {}, self._sales)
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
        wanted.decided_ids = {each for a in attempts if a.slip for each in a.slip.ids}
        wanted.lines = {(each.sale_id, item.sku_id) for each in attempts for item in each.items}
        for move in asked:
            wanted.add(move.needs)
        wanted, lines = await rows.resolve(db, wanted)
        await rows.lock(db, lines, wanted.transactions, self._limited(lines))
        books, now_ms = await self._loaded(db, wanted, lines, attempts)
        seq_before = {line: row.sku_seq for line, row in books.stock.items()}
        # Below this line nothing waits for anybody.
        released = exits.expire(books, now_ms) if lapsed else 0
        desk = Desk(books, now_ms, self._new_id, released)
        moved = [_traced(item.trace_id, item.run, desk) for item in batch if isinstance(item, Job)]
        results = in_their_places(batch, moved, stock.reserve(books, attempts, now_ms, self._new_id))
        wrote = not books.unchanged or (bool(counted) and any(move.after_lapsed for move in asked))
        if wrote:
            await self._store(db, books, seq_before, counted, now_ms)
        touched = {line: books.stock[line] for line in books.touched_stock}
        return Committed(results, touched, {}, dict(books.sales)), wrote

    def _limited(self, lines: set[Line]) -> set[str]:
        """The sales among these whose limits on devices and addresses span products: they are decided one by one."""
        sales = {sale_id: self._sales.get(sale_id) for sale_id, _ in lines}
        return {sale_id for sale_id, sale in sales.items() if sale and sale.shared}

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
        books = Books(self._sales)
        await rows.load_rows(db, books, needs, lines)
        await queue.load_letters(db, books, needs.letter_ids)
        users = needs.users | {(each.user_id, each.sale_id) for each in attempts}
        users |= {(each.user_id, each.sale_id) for each in books.reservations.values()}
        now_ms = self._clock.hear(await rows.load(db, books, lines, users, attempts))
        await rows.load_origins(db, books, attempts, needs.places)
        return books, now_ms

    async def _store(
        self, db: connect.Connection, books: Books, seq_before: dict[Line, int],
        counted: Counter[tuple[str, str]], now_ms: int,
    ) -> None:  # fmt: skip
        if not books.unchanged:
            await rows.store(db, books, seq_before)
            await queue.store(db, books)
        for reservation in books.new_reservations:
            self._next_expiry_ms = min(self._next_expiry_ms, reservation.expires_at_ms)
        if counted:
            await db.execute(SQL["refusals"], *rows.columns([(*key, times) for key, times in counted.items()]))
        await self._session.mark(db)

    async def _altered(self, work: Alone) -> Committed:
        try:
            altered = await self._session.run(partial(self._alone, work))
        except Exception as error:
            return Committed([self._verdict(error, 1) or failed(error)], {}, {}, self._sales)
        if not altered.sale_id:
            return Committed([altered.outcome], {}, {}, self._sales)
        changed = {altered.sale_id: altered.outcome}
        sales = {sale_id: sale for sale_id, sale in (self._sales | changed).items() if sale}
        return Committed([altered.outcome], altered.stock, changed, sales)

    async def _alone(self, work: Alone, db: connect.Connection) -> Altered:
        altered = await work(db)
        if altered.changed:
            await self._session.mark(db)
        return altered

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
            tell(item.answer, result)


def _traced(trace_id: str | None, move: Move[T], desk: Desk) -> T:
    """Has a move decided in the name of its request."""
    desk.books.trace_id = trace_id
    return move.decide(desk)
