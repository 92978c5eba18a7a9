"""A connection that writes: transactions that are run again when that is right, and never twice.

A transaction can fail in three ways. Somebody else was faster (a deadlock, a key that has just been taken): it is
run again and sees what he did. The server or the connection is gone before the commit was sent: nothing has
happened, it is run again on a new connection. Or the connection is lost while the commit is under way: then nobody
knows, and to run it again might do it twice. So every transaction that writes also writes its number into the
process's own row of `writer`. After a lost commit a new connection locks that row, which waits for the old
transaction if it is still alive, and reads the number: it is there or it is not, and so is everything else.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import structlog

from flashsale.backends.postgres.connect import BY_INDEX, CROSSED, FAILING, LOST, Connection, connect, require_current
from flashsale.backends.postgres.rows import SQL, LinesMoved, RowChanged
from flashsale.ports import LedgerUnavailable

T = TypeVar("T")

AGAIN: tuple[type[Exception], ...] = (LinesMoved, RowChanged, *CROSSED)
TRIES = 5
"""Of a transaction that others were faster than, or whose connection was lost before its commit."""
UNKNOWN_SECONDS = 5.0
"""How long what became of a commit is asked for before it is said to be unknown."""
WRITER_LIFE_MS = 7 * 24 * 3600 * 1000

log = structlog.get_logger("flashsale.ledger")


class MarkGone(Exception):
    """The process's row of `writer` was deleted: it had not written for days."""


class OutcomeUnknown(LedgerUnavailable):
    """The connection was lost during a commit, and the server could not be asked since."""


class Session:
    """For one task. `run` gives it a transaction."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._db: Connection | None = None
        self._writer_id = secrets.token_hex(8)
        self._batch = 0

    async def open(self) -> Connection:
        db = await self._connected()
        await require_current(db)
        await db.execute(SQL["gone_writers"], WRITER_LIFE_MS)
        await db.execute(SQL["new_writer"], self._writer_id)
        return db

    async def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(*FAILING):
                await db.close(timeout=2)

    async def mark(self, db: Connection) -> None:
        """To be called in each transaction that writes, after its last row.

        The process's row has to be there before: a row that the same transaction makes cannot be waited for.
        """
        self._batch += 1
        if await db.fetchval(SQL["mark"], self._writer_id, self._batch) is None:
            raise MarkGone

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs a transaction. Raises LedgerUnavailable (nothing was changed) and OutcomeUnknown."""
        last: Exception | None = None
        for attempt in range(TRIES):
            marked, committing = self._batch, False
            try:
                db = await self._connected()
                await db.execute("BEGIN")
                result = await work(db)
                committing = True
                await db.execute("COMMIT" if self._batch > marked else "ROLLBACK")
                return result
            except MarkGone:
                await self._roll_back()
                await self._sign_in()
            except AGAIN:
                await self._roll_back()
                if attempt == TRIES - 1:
                    raise
            except ValueError:  # what the driver cannot send is no trouble of the connection
                await self._roll_back()
                raise
            except LOST as error:
                last = error
                await self._abandon()
                if committing and self._batch > marked and await self._became():
                    return result
            except BaseException:
                await self._roll_back()
                raise
            await asyncio.sleep(0.002 * attempt)
        raise LedgerUnavailable(f"the ledger could not take this: {last}; nothing was changed") from last

    async def _sign_in(self) -> None:
        db = await self._connected()
        await db.execute(SQL["new_writer"], self._writer_id)

    async def _connected(self) -> Connection:
        if self._db is None or self._db.is_closed():
            self._db = await connect(self._url, BY_INDEX)
        return self._db

    async def _roll_back(self) -> None:
        if self._db is None:
            return
        try:
            await self._db.execute("ROLLBACK")
        except FAILING:
            await self._abandon()

    async def _abandon(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()

    async def _became(self) -> bool:
        """Whether the batch whose commit was under way is there."""
        until = time.monotonic() + UNKNOWN_SECONDS
        while time.monotonic() < until:
            try:
                db = await self._connected()
                found = await db.fetchval(SQL["marked"], self._writer_id)
                log.warning("a commit's answer was lost", committed=found == self._batch)
                return bool(found == self._batch)
            except FAILING:
                await self._abandon()
                await asyncio.sleep(0.1)
        raise OutcomeUnknown(
            "PostgreSQL was lost during a commit; whether this was taken shows when it is back: "
            "repeat it with the same key"
        )
