"""The history port on PostgreSQL: batches of deletions on a connection of its own.

Deleting takes no lock that a sale waits for: the rows are read by nobody who writes. A batch is one transaction, and
one process at a time is at it, so that a base is never put by two.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from flashsale.backends.postgres.connect import FAILING, Connection, connect
from flashsale.backends.queries import load_queries
from flashsale.core.books import Line
from flashsale.core.journal import Movement
from flashsale.core.retention import Base, Reach, carried, oldest, quiet
from flashsale.ports import LedgerUnavailable

T = TypeVar("T")

SQL = load_queries("postgres/prune.sql")
BATCH = 1_000
"""Rows deleted in one transaction."""


class PostgresHistory:
    def __init__(self, url: str) -> None:
        self._url = url
        self._db: Connection | None = None
        self._turn = asyncio.Lock()

    async def prune_events(self, reach: Reach) -> int:
        return await self._alone(lambda db: _prune_events(db, reach), 0)

    async def prune_movements(self, line: Line, reach: Reach) -> int | None:
        return await self._alone(lambda db: _prune_movements(db, line, reach), 0)

    async def close(self) -> None:
        async with self._turn:
            self._give_up()

    async def _alone(self, work: Callable[[Connection], Awaitable[T]], nothing: T) -> T:
        """In a transaction; a connection that failed is not used again."""
        async with self._turn:
            try:
                if self._db is None or self._db.is_closed():
                    self._db = await connect(self._url)
                async with self._db.transaction():
                    return await work(self._db) if await self._db.fetchval(SQL["alone"]) else nothing
            except FAILING as error:
                self._give_up()
                raise LedgerUnavailable(f"the history cannot be reached: {error!r}") from error

    def _give_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()


async def _prune_events(db: Connection, reach: Reach) -> int:
    rows = await db.fetch(SQL["oldest_events"], reach.passed, BATCH)
    size = oldest([(row[0], row[1]) for row in rows], reach)
    if size:
        await db.execute(SQL["delete_events"], rows[size - 1][0])
        await db.execute(SQL["pruned_to"], rows[size - 1][0])
    return size


async def _prune_movements(db: Connection, line: Line, reach: Reach) -> int | None:
    newest_ms = await db.fetchval(SQL["newest_movement"], *line)
    rows = [tuple(row) for row in await db.fetch(SQL["oldest_movements"], *line, BATCH)]
    size = oldest([(row[0], row[-1]) for row in rows], quiet(reach, newest_ms or 0))
    if not size:
        return 0
    base = await db.fetchrow(SQL["base"], *line)
    movements = [msgspec.convert(row[1:], Movement) for row in rows[:size]]
    after = carried(Base(*base) if base else Base(*line), movements)
    if after is None:
        return None
    # Below this line nothing is decided any more.
    await db.execute(SQL["delete_movements"], *line, after.sku_seq)
    await db.execute(SQL["put_base"], *msgspec.structs.astuple(after))
    await db.execute(SQL["pruned_to"], rows[size - 1][0])
    return size
