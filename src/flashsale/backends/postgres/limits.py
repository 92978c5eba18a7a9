"""The book of limits on PostgreSQL: a connection of its own, so that a new limit never waits behind a batch.

Of several databases it is in the first. Changes exclude each other by the lock that changes of sales take, so that the
audit of both is in the order of their commits.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from flashsale.backends.postgres.connect import FAILING, Connection, connect
from flashsale.backends.postgres.rows import SQL as LEDGER
from flashsale.backends.queries import load_queries
from flashsale.core.limits import AUDITED, LIVE_SECONDS, Fleet, LimitsChange, News, State, subject_of, turned
from flashsale.core.refusal import Refused
from flashsale.ports import LedgerUnavailable

T = TypeVar("T")

SQL = load_queries("postgres/limits.sql")


class PostgresLimits:
    def __init__(self, url: str) -> None:
        self._url = url
        self._db: Connection | None = None
        self._turn = asyncio.Lock()

    async def change(self, change: LimitsChange) -> int | Refused:
        return await self._do(lambda db: _change(db, change))

    async def news(self, after: int) -> News | None:
        return await self._do(lambda db: _news(db, after))

    async def present(self, process_id: str, version: int) -> Fleet:
        live_ms = int(LIVE_SECONDS * 1000)
        [others] = await self._do(lambda db: db.fetch(SQL["present"], process_id, version, live_ms))
        return Fleet(others[0] + 1, others[1])

    async def leave(self, process_id: str) -> None:
        await self._do(lambda db: db.execute(SQL["leave"], process_id))

    async def close(self) -> None:
        async with self._turn:
            self._give_up()

    async def _do(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """A connection that failed is not used again."""
        async with self._turn:
            try:
                if self._db is None or self._db.is_closed():
                    self._db = await connect(self._url)
                return await work(self._db)
            except FAILING as error:
                self._give_up()
                raise LedgerUnavailable(f"the limits cannot be reached: {error!r}") from error

    def _give_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()


async def _change(db: Connection, change: LimitsChange) -> int | Refused:
    subject = subject_of(change)
    async with db.transaction():
        await db.execute(LEDGER["lock_catalogue"])
        turn = turned(await _state(db), change, await db.fetchval(SQL["tier"], subject))
        if isinstance(turn, Refused):
            return turn
        # Below this line nothing is decided any more.
        for name, value in turn.thresholds.items():
            await _put(db, name, value)
        for row in turn.users:
            await db.execute(SQL["put_tier"], *row)
        await db.execute(SQL["put_state"], *turn.after(await db.fetchval(SQL["forget_users"], turn.forget_to)))
        await db.execute(SQL["bury"])
        details, now_ms = msgspec.json.encode(change).decode(), await db.fetchval(LEDGER["now"])
        await db.execute(LEDGER["audit"], now_ms, change.actor, AUDITED[type(change)], subject, details)
    return turn.state.version


async def _put(db: Connection, name: str, value: Any) -> None:
    if value is None:
        await db.execute(SQL["drop_threshold"], name)
    else:
        await db.execute(SQL["put_threshold"], name, msgspec.json.encode(value).decode())


async def _news(db: Connection, after: int) -> News | None:
    """Asked twenty times a second: as long as nothing has changed it is one statement."""
    if (await _state(db)).version == after:
        return None
    async with db.transaction(isolation="repeatable_read", readonly=True):
        state = await _state(db)
        whole = state.is_whole_after(after)
        found = await (db.fetch(SQL["all_users"]) if whole else db.fetch(SQL["changed_users"], after))
        rows = {row[0]: msgspec.json.decode(row[1]) for row in await db.fetch(SQL["thresholds"])}
    return News(state.version, rows, [(row[0], row[1]) for row in found], whole)


async def _state(db: Connection) -> State:
    [state] = await db.fetch(SQL["state"])
    return State(*state)
