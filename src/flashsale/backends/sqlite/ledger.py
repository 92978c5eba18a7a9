"""The ledger port on SQLite: three threads, each with a connection of its own.

  writer   every change, in batches, one transaction each (see `group`)
  reader   short reads in batches: attempts that have visibly lost, reservations by id
  scanner  the operators' long reads, so that they never stand before a buyer's

A batch of the writer holds two kinds of items, ways out first. A *move* (release, expiry, order, payment,
change of a sale) loads its rows, is decided and stored at once, so that the next one sees it. The
*attempts* are then loaded, decided and stored together. All share one commit. If anything in the batch
raises, the transaction is rolled back and each half is tried again, down to the one item at fault: only
that one fails. A batch is answered after its commit and never before.
"""

import asyncio
import os
import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import structlog

from flashsale.answering import tell
from flashsale.backends.batch import (
    BUSY,
    FULL,
    Asked,
    Committed,
    Item,
    Job,
    Undecided,
    count_refusals,
    deliver,
    failed,
    from_a_read,
    in_their_places,
    into,
    taken_in,
)
from flashsale.backends.sqlite import catalogue, moves, rooms, rows
from flashsale.backends.sqlite.file import FileLock, connect, is_fatal, is_full, is_passing, migrate, readable
from flashsale.backends.sqlite.find import ANSWERS, LONG
from flashsale.backends.sqlite.group import Deliver, Group
from flashsale.backends.sqlite.leases import SQL as LEASES
from flashsale.backends.sqlite.moves import Desk
from flashsale.backends.sqlite.rows import SQL
from flashsale.core.catalogue import SaleChange
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.questions import Query
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Decided, refuse_early
from flashsale.core.waiting_room import DrawStep, Joining, Room, Ticket, Turn, Turned
from flashsale.ports import (
    FAILED,
    Clock,
    LedgerBroken,
    LedgerUnavailable,
    Observer,
    Outcome,
    PaymentFact,
    PutOff,
    RefundFact,
    Reply,
)

T = TypeVar("T")
P = ParamSpec("P")
Fatal = Callable[[Exception], None]

EXIT_BROKEN = 70

BROKEN = Refused(
    Refusal.UNAVAILABLE,
    "The ledger's store has failed; whether this was taken shows after its restart: repeat it with the same key",
    {"retryAfterSeconds": 5},
)

log = structlog.get_logger("flashsale.ledger")


def end_process(error: Exception) -> None:
    """The default for a broken store: nothing that this process remembers can be trusted any more."""
    sys.stderr.write(
        f"flashsale: the ledger's store failed: {error}\n"
        "This process ends now, because what it remembers may differ from what is on the disk.\n"
        "Every acknowledged reservation is on the disk: check the disk, then start flashsale again.\n"
    )
    sys.stderr.flush()
    os._exit(EXIT_BROKEN)


class SqliteLedger:
    """The truth on one machine. Made by `open`; used from one event loop."""

    def __init__(
        self, path: Path, lock: FileLock, clock: Clock, observer: Observer,
        queue_max: int, batch_max: int, on_fatal: Fatal,
    ) -> None:  # fmt: skip
        loop = asyncio.get_running_loop()
        self._lock = lock
        self._clock = clock
        self._observer = observer
        self._on_fatal = on_fatal
        self._loop = loop
        self._closing = False
        self._broken = False
        self._connections = [connect(path, writes=index == 0) for index in range(3)]
        self._desk = Desk(self._connections[0], clock)
        self._sales = self._desk.sales
        self._undecided = Undecided()
        self._lost: Counter[tuple[str, str]] = Counter()
        read, scan = partial(self._read, self._connections[1]), partial(self._scan, self._connections[2])
        self._writer: Group[Item] = Group("ledger-writer", loop, self._write, self._break, batch_max, queue_max)
        self._reader: Group[Item] = Group("ledger-reader", loop, read, self._break, batch_max, queue_max)
        self._scanner: Group[Item] = Group("ledger-scanner", loop, scan, self._break, 1, 64)
        self._groups = (self._writer, self._reader, self._scanner)
        for group in self._groups:
            group.start()

    @classmethod
    async def open(
        cls, path: Path, clock: Clock, observer: Observer,
        queue_max: int, batch_max: int, on_fatal: Fatal | None = None,
    ) -> "SqliteLedger":  # fmt: skip
        """Opens and migrates the file. Raises LedgerInUse and SchemaUnknown."""
        lock = FileLock(path)
        lock.take()
        try:
            with readable(path):
                db = connect(path, writes=True)
                migrate(db)
                db.execute(SQL["take_over"])  # whoever had leased a payment step held the lock, and is gone
                db.execute(LEASES["take_over"])
                db.close()
                return cls(path, lock, clock, observer, queue_max, batch_max, on_fatal or end_process)
        except BaseException:
            lock.give_back()
            raise

    # The port.

    @property
    def alarm(self) -> str | None:
        if self._broken:
            return BROKEN.message
        return FULL.message if self._desk.full else None

    @property
    def secret(self) -> bytes:
        return self._desk.secret

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
        elif self._closing or not self._reader.put(Asked(attempt, reply)):
            reply(BUSY)

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self.move(moves.release, reservation_id, user_id)

    async def withdraw(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self.move(moves.withdraw, reservation_id, user_id)

    def enqueue(self, request: Request, reply: Callable[[bool], None]) -> None:
        job = Job(partial(_call, moves.enqueue, (request,), {}), taken_in(reply))
        if self._closing or not self._writer.put(job):
            reply(False)

    async def bury(self, letter: DeadLetter, request: Request | None, place: int | None = None) -> None:
        await self.move(moves.bury, letter, request, place)

    async def redrive(self, letter_id: str, request: Request, actor: str) -> Decided | Refused:
        return await self.move(moves.redrive, letter_id, request, actor)

    async def join(self, sale_id: str, wanted: Sequence[Joining]) -> list[Ticket | Refused]:
        return await self.move(rooms.join, sale_id, wanted)

    async def leave(self, sale_id: str, number: int) -> None:
        await self.move(rooms.leave, sale_id, number)

    async def draw(self, sale_id: str, step: DrawStep) -> Room | None:
        return await self.move(rooms.draw, sale_id, step)

    async def admit(self, turn: Turn) -> Turned:
        return await self.move(rooms.admit, turn)

    async def expire(self) -> int:
        refusals, self._lost = self._lost, Counter()
        try:
            return await self.move(moves.expire, refusals)
        finally:
            self._lost.update(refusals)  # what the writer has not taken over

    async def open_order(self, checkout: Checkout) -> Opened | Refused:
        return await self.move(moves.open_order, checkout)

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        return await self.move(moves.settle, fact)

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
        return await self.move(moves.cancel_order, order_id, user_id, reason)

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        return await self.move(catalogue.alter, change)

    async def find(self, query: Query[T]) -> T:
        answering = ANSWERS[type(query)]
        future: asyncio.Future[T] = self._loop.create_future()
        group = self._scanner if type(query) in LONG else self._reader
        if self._closing or not group.put_urgent(Job(lambda db: answering(db, query), into(future))):
            raise LedgerUnavailable(BUSY.message)
        return await future

    async def close(self) -> None:
        """Finishes what is queued, then closes the file. New requests are refused from now on."""
        if self._closing:
            return
        self._closing = True
        self._connections[-1].interrupt()  # nobody waits for an operator's long read
        for group in self._groups:
            await asyncio.to_thread(group.stop)
        for connection in reversed(self._connections):
            connection.close()
        self._lock.give_back()

    # The writer's thread.

    async def move(self, move: Callable[Concatenate[Desk, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Not of the port: a transaction in the writer's thread, together with those of others (also for `leases`)."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closing or not self._writer.put_urgent(Job(partial(_call, move, args, kwargs), into(future))):
            raise LedgerUnavailable(BUSY.message)
        return await future

    def _write(self, batch: list[Item]) -> Deliver:
        return partial(self._deliver, batch, self._committed(batch))

    def _committed(self, batch: Sequence[Item]) -> Committed:
        desk = self._desk
        if self._broken:
            return Committed([BROKEN] * len(batch), {}, {}, desk.sales)
        try:
            desk.begin()
            results = _decided(desk, batch)
            desk.commit()
            count_refusals(batch, results, desk.refusals)
            return Committed(results, desk.stock, desk.changed_sales, desk.sales)
        except Exception as error:
            verdict, fault = self._rolled_back(error, len(batch)), failed(error)
        if verdict is not None or len(batch) == 1:
            return Committed([verdict or fault] * len(batch), {}, {}, desk.sales)
        half = len(batch) // 2
        first, second = self._committed(batch[:half]), self._committed(batch[half:])
        return Committed(
            first.results + second.results, first.stock | second.stock, first.changed | second.changed, second.sales
        )

    def _rolled_back(self, error: Exception, size: int) -> Refused | None:
        """Undoes the transaction. A refusal means that trying parts of it is of no use."""
        if isinstance(error, sqlite3.Error) and is_fatal(error):
            return self._break(error)
        try:
            self._desk.roll_back()
        except sqlite3.Error as worse:
            return self._break(worse)
        if isinstance(error, sqlite3.Error) and is_full(error):
            log.error("disk full: nothing was changed", attempts=size)
            self._desk.full = True
            return FULL
        if isinstance(error, sqlite3.Error) and is_passing(error):
            log.error("the ledger's file is in use or memory is short", size=size, exc_info=error)
            return BUSY
        log.error("a batch failed and is tried in halves", size=size, exc_info=error)
        return None

    def _break(self, error: Exception) -> Refused:
        """From here on nothing is taken: memory and disk may differ."""
        self._broken = True
        self._on_fatal(LedgerBroken(f"{error} ({getattr(error, 'sqlite_errorname', '?')})"))
        return BROKEN

    # The readers' threads.

    def _read(self, db: sqlite3.Connection, batch: list[Item]) -> Deliver:
        try:
            db.execute("BEGIN")
            results = self._answered(db, batch)
            db.execute("ROLLBACK")
        except Exception as error:
            log.error("a read failed", size=len(batch), exc_info=error)
            broken = isinstance(error, sqlite3.Error) and is_fatal(error)
            results = [self._break(error) if broken else FAILED] * len(batch)
            if db.in_transaction:
                db.rollback()
        return partial(self._deliver_read, batch, results)

    def _scan(self, db: sqlite3.Connection, batch: list[Item]) -> Deliver:
        """A long read; those that still wait when the ledger closes are not begun."""
        return partial(self._deliver_read, batch, [FAILED]) if self._closing else self._read(db, batch)

    def _answered(self, db: sqlite3.Connection, batch: list[Item]) -> list[Any]:
        attempts = [item.attempt for item in batch if isinstance(item, Asked)]
        refused = iter(self._refused(db, attempts) if attempts else ())
        return [_found(item, db) if isinstance(item, Job) else next(refused) for item in batch]

    def _refused(self, db: sqlite3.Connection, attempts: list[Attempt]) -> list[Outcome | None]:
        books, now_ms = rows.books_of_attempts(db, self._sales, attempts), self._clock.now_ms()
        lapsed = db.execute(SQL["something_lapsed"], (now_ms,)).fetchone() is not None
        return [from_a_read(each, refuse_early(books, each, now_ms), lapsed, now_ms) for each in attempts]

    # The event loop.

    def _deliver(self, batch: list[Item], committed: Committed) -> None:
        self._sales = committed.sales
        deliver(batch, committed, self._undecided, self._observer)

    def _deliver_read(self, batch: list[Item], results: list[Any]) -> None:
        for item, result in zip(batch, results, strict=True):
            if result is None and isinstance(item, Asked):
                self.reserve(item.attempt, item.answer)
                continue
            if isinstance(result, Refused) and isinstance(item, Asked):
                self._lost[item.attempt.sale_id, result.refusal.code] += 1
            tell(item.answer, result)


def _found(job: Job, db: sqlite3.Connection) -> Any:
    """A question that cannot be answered fails alone."""
    try:
        return job.run(db)
    except (sqlite3.Error, ValueError) as error:
        if isinstance(error, sqlite3.Error) and is_fatal(error):
            raise
        log.error("a question failed", exc_info=error)
        return FAILED


def _call(move: Callable[..., T], args: Any, kwargs: Any, desk: Desk) -> T:
    return move(desk, *args, **kwargs)


def _decided(desk: Desk, batch: Sequence[Item]) -> list[Any]:
    moved: list[Any] = [desk.traced(item.trace_id, item.run) for item in batch if isinstance(item, Job)]
    attempts = [item.attempt for item in batch if isinstance(item, Asked)]
    return in_their_places(batch, moved, moves.reserve(desk, attempts)) if attempts else moved
