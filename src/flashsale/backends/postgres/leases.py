"""The leases port on PostgreSQL: a connection of its own, so that a lease never waits behind the ledger's batches.

Both statements may be run twice with the same effect. So nothing has to be known of one whose answer was lost: the
holder asks again on a new connection. The time of a lease is the database's, as that of every decision.

Because it never waits for a lock, this connection also ends the sessions of processes that were stopped in the middle
of a COPY, which the server itself would wait for as long as the network says that they are there.
"""

import asyncio
from typing import Any

import structlog

from flashsale.backends.postgres.connect import FAILING, Connection, connect
from flashsale.backends.postgres.rows import SQL as LEDGER
from flashsale.backends.queries import load_queries
from flashsale.ports import Clock, LedgerUnavailable

SQL = load_queries("postgres/leases.sql")
STUCK_MS = 3_000
"""As long as the server waits in a transaction for the next statement (`connect.py`)."""
LOOK_MS = 1_000

log = structlog.get_logger("flashsale.ledger")


class PostgresLeases:
    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._db: Connection | None = None
        self._turn = asyncio.Lock()
        self._look_at_ms = 0

    async def lease(self, name: str, owner: str, lease_ms: int) -> int | None:
        now_ms = self._clock.hear(await self._ask(LEDGER["now"]))
        await self._end_stuck(now_ms)
        cursor: int | None = await self._ask(SQL["lease"], name, owner, now_ms, now_ms + lease_ms)
        return cursor

    async def advance(self, name: str, owner: str, cursor: int) -> bool:
        return await self._ask(SQL["advance"], name, owner, cursor) is not None

    async def _end_stuck(self, now_ms: int) -> None:
        if self._look_at_ms - LOOK_MS <= now_ms < self._look_at_ms:
            return
        self._look_at_ms = now_ms + LOOK_MS
        if ended := await self._ask(SQL["end_stuck"], STUCK_MS):
            log.warning("sessions that were stopped in the middle of a batch were ended", sessions=ended)

    async def close(self) -> None:
        async with self._turn:
            self._give_up()

    async def _ask(self, statement: str, *values: object) -> Any:
        """One statement, committed. A connection that failed is not used again."""
        async with self._turn:
            try:
                if self._db is None or self._db.is_closed():
                    self._db = await connect(self._url)
                return await self._db.fetchval(statement, *values)
            except FAILING as error:
                self._give_up()
                raise LedgerUnavailable(f"the leases cannot be reached: {error!r}") from error

    def _give_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()
