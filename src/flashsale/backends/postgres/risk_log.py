"""The log of risk decisions on PostgreSQL: on a connection of its own, it never stands before a commit of units."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from flashsale.backends.postgres.connect import FAILING, Connection, connect
from flashsale.backends.postgres.rows import columns
from flashsale.backends.queries import load_queries
from flashsale.core.risk import Decision, Kept
from flashsale.ports import LedgerUnavailable

T = TypeVar("T")

SQL = load_queries("postgres/risk.sql")

_text = msgspec.json.Encoder(enc_hook=str).encode


class PostgresRiskLog:
    def __init__(self, url: str) -> None:
        self._url = url
        self._db: Connection | None = None
        self._turn = asyncio.Lock()

    async def note(self, decisions: Sequence[Decision], kept: Kept) -> None:
        await self._run(lambda db: _note(db, decisions, kept))

    async def page(self, user_id: str | None, after: int, limit: int) -> list[tuple[int, Decision]]:
        values = (after, limit) if user_id is None else (after, limit, user_id)
        statement = SQL["page" if user_id is None else "page_of_user"]
        return [(row[0], _decision(tuple(row)[1:])) for row in await self._run(lambda db: db.fetch(statement, *values))]

    async def close(self) -> None:
        async with self._turn:
            self._give_up()

    async def _run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """In a transaction; a connection that failed is not used again."""
        async with self._turn:
            try:
                if self._db is None or self._db.is_closed():
                    self._db = await connect(self._url)
                async with self._db.transaction():
                    return await work(self._db)
            except FAILING as error:
                self._give_up()
                raise LedgerUnavailable(f"the log of risk decisions cannot be reached: {error!r}") from error

    def _give_up(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.terminate()


async def _note(db: Connection, decisions: Sequence[Decision], kept: Kept) -> None:
    await db.execute(SQL["turn"])
    await db.execute(SQL["note"], *columns([_values(each) for each in decisions], 9))
    await db.execute(SQL["forget_many"], kept.rows, kept.batch)
    await db.execute(SQL["forget_old"], kept.since_ms, kept.batch)


def _values(each: Decision) -> tuple[Any, ...]:
    return (
        each.at_ms, each.user_id, each.sale_id, each.verdict.value, each.score, _text(each.reasons).decode(),
        _text(each.facts).decode(), each.solved, each.times,
    )  # fmt: skip


def _decision(row: Sequence[Any]) -> Decision:
    return msgspec.convert((*row[:5], *map(msgspec.json.decode, row[5:7]), *row[7:]), Decision)
