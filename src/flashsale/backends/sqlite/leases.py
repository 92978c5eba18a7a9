"""The leases port on SQLite: leases and cursors are written by the ledger's own writer.

There is one process, so a lease keeps nobody away but a loop that forgot to end. It is here all the same, so that
publishing is the same on every ledger.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.moves import Desk

SQL = load_queries("sqlite/leases.sql")

Moving = Callable[..., Awaitable[Any]]
"""`SqliteLedger.move`"""


class SqliteLeases:
    def __init__(self, move: Moving) -> None:
        self._move = move

    async def lease(self, name: str, owner: str, lease_ms: int) -> int | None:
        cursor: int | None = await self._move(_lease, name, owner, lease_ms)
        return cursor

    async def advance(self, name: str, owner: str, cursor: int) -> bool:
        advanced: bool = await self._move(_advance, name, owner, cursor)
        return advanced

    async def close(self) -> None:
        """There is nothing of its own to close."""


def _lease(desk: Desk, name: str, owner: str, lease_ms: int) -> int | None:
    desk.wrote = True
    now_ms = desk.clock.now_ms()
    found = desk.db.execute(SQL["lease"], (name, owner, now_ms, now_ms + lease_ms)).fetchall()
    return found[0][0] if found else None


def _advance(desk: Desk, name: str, owner: str, cursor: int) -> bool:
    desk.wrote = True
    return bool(desk.db.execute(SQL["advance"], (name, owner, cursor)).fetchall())
