"""The history port on SQLite: batches of deletions among the writer's other transactions.

The pages that become free are used again for what comes: the file does not shrink, and does not grow on.
"""

import sqlite3

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.leases import Moving
from flashsale.backends.sqlite.moves import Desk
from flashsale.core.books import Line
from flashsale.core.journal import Movement
from flashsale.core.retention import Base, Reach, carried, oldest, quiet

SQL = load_queries("sqlite/prune.sql")
BATCH = 500
"""Rows deleted in one transaction; whoever buys meanwhile waits for it."""


class SqliteHistory:
    def __init__(self, move: Moving) -> None:
        self._move = move

    async def prune_events(self, reach: Reach) -> int:
        gone: int = await self._move(_prune_events, reach)
        return gone

    async def prune_movements(self, line: Line, reach: Reach) -> int | None:
        gone: int | None = await self._move(_prune_movements, line, reach)
        return gone

    async def close(self) -> None:
        """There is nothing of its own to close."""


def _prune_events(desk: Desk, reach: Reach) -> int:
    rows = desk.db.execute(SQL["oldest_events"], (reach.passed, BATCH)).fetchall()
    size = oldest(rows, reach)
    if size:
        desk.wrote = True
        desk.db.execute(SQL["delete_events"], (rows[size - 1][0],))
        desk.db.execute(SQL["pruned_to"], (rows[size - 1][0],))
    return size


def _prune_movements(desk: Desk, line: Line, reach: Reach) -> int | None:
    rows = desk.db.execute(SQL["oldest_movements"], (*line, BATCH)).fetchall()
    size = oldest([(row[0], row[-1]) for row in rows], _of_product(desk.db, line, reach))
    if not size:
        return 0
    base = desk.db.execute(SQL["base"], line).fetchone()
    movements = [msgspec.convert(row[1:], Movement) for row in rows[:size]]
    after = carried(Base(*base) if base else Base(*line), movements)
    if after is None:
        return None
    # Below this line nothing can fail.
    desk.wrote = True
    desk.db.execute(SQL["delete_movements"], (*line, after.sku_seq))
    desk.db.execute(SQL["put_base"], msgspec.structs.astuple(after))
    desk.db.execute(SQL["pruned_to"], (rows[size - 1][0],))
    return size


def _of_product(db: sqlite3.Connection, line: Line, reach: Reach) -> Reach:
    found = db.execute(SQL["newest_movement"], line).fetchone()
    return quiet(reach, found[0]) if found else reach
