"""The book of limits on SQLite: its changes are moves of the ledger's own writer. One process has the file, and it is
the fleet."""

import sqlite3
from typing import Any

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.backends.sqlite.leases import Moving
from flashsale.backends.sqlite.moves import Desk
from flashsale.backends.sqlite.rows import SQL as LEDGER
from flashsale.core.limits import AUDITED, Fleet, LimitsChange, News, Row, State, subject_of, turned
from flashsale.core.refusal import Refused

SQL = load_queries("sqlite/limits.sql")


class SqliteLimits:
    def __init__(self, move: Moving) -> None:
        self._move = move

    async def change(self, change: LimitsChange) -> int | Refused:
        version: int | Refused = await self._move(_change, change)
        return version

    async def news(self, after: int) -> News | None:
        news: News | None = await self._move(_news, after)
        return news

    async def present(self, process_id: str, version: int) -> Fleet:
        return Fleet(1, 0)

    async def leave(self, process_id: str) -> None:
        """There is nobody to tell."""

    async def close(self) -> None:
        """There is nothing of its own to close."""


def _change(desk: Desk, change: LimitsChange) -> int | Refused:
    db, subject = desk.db, subject_of(change)
    tier = db.execute(SQL["tier"], (subject,)).fetchone()
    turn = turned(_state(db), change, tier[0] if tier else None)
    if isinstance(turn, Refused):
        return turn
    # Below this line nothing can fail.
    desk.wrote = True
    for name, value in turn.thresholds.items():
        _put(db, name, value)
    for row in turn.users:
        db.execute(SQL["put_tier"], row)
    gone = db.execute(SQL["forget_users"], (turn.forget_to,)).rowcount
    db.execute(SQL["put_state"], turn.after(gone))
    details = msgspec.json.encode(change).decode()
    db.execute(LEDGER["audit"], (desk.clock.now_ms(), change.actor, AUDITED[type(change)], subject, details))
    return turn.state.version


def _put(db: sqlite3.Connection, name: str, value: Any) -> None:
    if value is None:
        db.execute(SQL["drop_threshold"], (name,))
    else:
        db.execute(SQL["put_threshold"], (name, msgspec.json.encode(value).decode()))


def _news(desk: Desk, after: int) -> News | None:
    db, state = desk.db, _state(desk.db)
    if state.version == after:
        return None
    whole = state.is_whole_after(after)
    found: list[Row] = db.execute(
        SQL["all_users"] if whole else SQL["changed_users"], () if whole else (after,)
    ).fetchall()
    rows = {name: msgspec.json.decode(value) for name, value in db.execute(SQL["thresholds"])}
    return News(state.version, rows, found, whole)


def _state(db: sqlite3.Connection) -> State:
    return State(*db.execute(SQL["state"]).fetchone())
