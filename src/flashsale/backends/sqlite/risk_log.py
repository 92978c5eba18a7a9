"""The log of risk decisions on SQLite: batches among the writer's other transactions."""

from collections.abc import Sequence
from typing import Any

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.leases import Moving
from flashsale.backends.sqlite.moves import Desk
from flashsale.backends.sqlite.write import write
from flashsale.core.risk import Decision, Kept

SQL = load_queries("sqlite/risk.sql")

_text = msgspec.json.Encoder(enc_hook=str).encode


class SqliteRiskLog:
    def __init__(self, move: Moving) -> None:
        self._move = move

    async def note(self, decisions: Sequence[Decision], kept: Kept) -> None:
        await self._move(_note, decisions, kept)

    async def page(self, user_id: str | None, after: int, limit: int) -> list[tuple[int, Decision]]:
        found: list[tuple[int, Decision]] = await self._move(_page, user_id, after, limit)
        return found

    async def close(self) -> None:
        """There is nothing of its own to close."""


def _note(desk: Desk, decisions: Sequence[Decision], kept: Kept) -> None:
    desk.wrote = True
    write(desk.db, SQL["note"], [_values(each) for each in decisions])
    desk.db.execute(SQL["forget_many"], (kept.rows, kept.batch))
    desk.db.execute(SQL["forget_old"], (kept.since_ms, kept.batch))


def _values(each: Decision) -> tuple[Any, ...]:
    return (
        each.at_ms, each.user_id, each.sale_id, each.verdict.value, each.score, _text(each.reasons).decode(),
        _text(each.facts).decode(), int(each.solved), each.times,
    )  # fmt: skip


def _page(desk: Desk, user_id: str | None, after: int, limit: int) -> list[tuple[int, Decision]]:
    values = (after, limit) if user_id is None else (after, limit, user_id)
    found = desk.db.execute(SQL["page" if user_id is None else "page_of_user"], values)
    return [(row[0], _decision(row[1:])) for row in found]


def _decision(row: Sequence[Any]) -> Decision:
    reasons, facts = msgspec.json.decode(row[5]), msgspec.json.decode(row[6])
    return msgspec.convert((*row[:5], reasons, facts, bool(row[7]), row[8]), Decision)
