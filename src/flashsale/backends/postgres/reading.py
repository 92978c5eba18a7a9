"""The ledger's reads on PostgreSQL: two connections beside the writer's, so that a read never stands before a commit.

reader   short reads: attempts that have visibly lost, reservations by id
scanner  the operators' long reads
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from flashsale.answering import tell
from flashsale.backends.batch import BUSY, Asked, Item, Job, from_a_read, into
from flashsale.backends.postgres import connect, rows
from flashsale.backends.postgres.find import ANSWERS, LONG
from flashsale.backends.postgres.lane import Lane
from flashsale.backends.postgres.rows import SQL
from flashsale.core.books import Books
from flashsale.core.questions import Query
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, refuse_early
from flashsale.ports import FAILED, Clock, LedgerUnavailable, Outcome

T = TypeVar("T")

log = structlog.get_logger("flashsale.ledger")


class Reading:
    def __init__(
        self, url: str, clock: Clock, sales: Callable[[], dict[str, Sale]],
        deliver: Callable[[list[Asked], list[Outcome | None]], None], queue_max: int, batch_max: int,
    ) -> None:  # fmt: skip
        """`sales`: those this process knows. `deliver` gets attempts with answers; None: only the writer knows."""
        self._url = url
        self._clock = clock
        self._sales = sales
        self._deliver = deliver
        self._closing = False
        self._connections: dict[str, connect.Connection | None] = {"reader": None, "scanner": None}
        self._reader: Lane[Item] = Lane("ledger-reader", self._read, batch_max, queue_max)
        self._scanner: Lane[Item] = Lane("ledger-scanner", self._scan, 1, 64)

    async def find(self, query: Query[T]) -> T:
        answering = ANSWERS[type(query)]
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        lane = self._scanner if type(query) in LONG else self._reader
        if self._closing or not lane.put_urgent(Job(lambda db: answering(db, query), into(future))):
            raise LedgerUnavailable(BUSY.message)
        return await future

    def put(self, asked: Asked) -> bool:
        """Answers an attempt from a read; False when it cannot be taken."""
        return not self._closing and self._reader.put(asked)

    async def stop(self) -> None:
        self._closing = True
        await self._reader.stop()
        await self._scanner.stop()
        for db in self._connections.values():
            if db is not None and not db.is_closed():
                db.terminate()

    async def _read(self, batch: list[Item]) -> None:
        attempts = [item for item in batch if isinstance(item, Asked)]
        for item in batch:
            if isinstance(item, Job):
                tell(item.answer, await self._found("reader", item))
        if attempts:
            self._deliver(attempts, await self._refused([item.attempt for item in attempts]))

    async def _scan(self, batch: list[Item]) -> None:
        """A long read; those that still wait when the ledger closes are not begun."""
        for item in batch:
            if isinstance(item, Job):
                tell(item.answer, FAILED if self._closing else await self._found("scanner", item))

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
            books = Books(self._sales())
            lines = {(each.sale_id, item.sku_id) for each in attempts for item in each.items}
            users = {(each.user_id, each.sale_id) for each in attempts}
            now_ms = self._clock.hear(await rows.load(db, books, lines, users, attempts))
            await rows.load_origins(db, books, attempts, set())
            await rows.load_decided(db, books, (each for a in attempts if a.slip for each in a.slip.ids))
            lapsed = bool(await db.fetch(SQL["lapsed"], now_ms, 1))
        except Exception as error:
            self._doubt("reader", error)
            if not isinstance(error, LedgerUnavailable):
                log.error("a read failed", size=len(attempts), exc_info=error)
            return [FAILED] * len(attempts)
        return [from_a_read(each, refuse_early(books, each, now_ms), lapsed, now_ms) for each in attempts]

    def _doubt(self, name: str, error: Exception) -> None:
        """A connection that may be broken is not used again."""
        db = self._connections[name]
        if db is not None and isinstance(error, connect.LOST):
            db.terminate()
            self._connections[name] = None

    async def _connected(self, name: str) -> connect.Connection:
        db = self._connections[name]
        if db is None or db.is_closed():
            db = await connect.connect(self._url, connect.BY_INDEX if name == "reader" else connect.FREELY)
            self._connections[name] = db
        return db
