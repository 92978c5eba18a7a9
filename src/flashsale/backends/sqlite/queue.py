"""The ledger's own queue, its dead letters, and what queued reservations need beyond the others."""

import sqlite3
from collections.abc import Iterable
from typing import Any

import msgspec

from flashsale.backends.queries import load_queries
from flashsale.core.books import Books
from flashsale.core.letter import DeadLetter
from flashsale.core.questions import DeadLetterCount, DeadLetters, FindDeadLetter, Queued, QueuedPage, QueueFigures
from flashsale.core.request import encode

SQL = load_queries("sqlite/queue.sql")
PAGE_MAX = 1000

_encode = msgspec.json.Encoder().encode


def secret(db: sqlite3.Connection) -> bytes:
    found: bytes = db.execute(SQL["secret"]).fetchone()[0]
    return found


def load_letters(db: sqlite3.Connection, books: Books, letter_ids: Iterable[str]) -> None:
    for letter_id in letter_ids:
        for row in db.execute(SQL["letter"], (letter_id,)):
            books.letters[letter_id] = _letter(row)


def store(db: sqlite3.Connection, books: Books) -> None:
    """Writes what queued requests have left in the books. A row that is not as it was raises KeyError."""
    if books.queued:
        rows = [(each.name, each.sale_id, each.slice_key, each.priority, encode(each)) for each in books.queued]
        db.executemany(SQL["enqueue"], rows)
    if books.taken:
        db.execute(SQL["taken"], (_encode(books.taken).decode(),))
    for row in books.filled:
        known = (row.reservation_id, row.user_id, row.sale_id, row.sku_id, row.quantity, row.unit_price_minor)
        if not db.execute(SQL["fill"], (*known, row.currency, row.request_kind)).fetchall():
            raise KeyError(row.reservation_id)
    for letter in books.new_letters:
        values = msgspec.structs.astuple(letter)
        db.execute(SQL["bury"], (*values[:8], *(_encode(ids).decode() for ids in values[8:10]), values[10]))
    for letter in books.redriven:
        values = (letter.letter_id, _encode(letter.redriven_as).decode(), letter.redriven_at_ms)
        if not db.execute(SQL["redriven"], values).fetchall():
            raise KeyError(letter.letter_id)

    for at_ms, actor, action, subject, details in books.audited:
        db.execute(SQL["audit"], (at_ms, actor, action, subject, _encode(details).decode()))


def _letter(row: Any) -> DeadLetter:
    rejected, redriven = (tuple(msgspec.json.decode(each)) for each in row[8:10])
    return DeadLetter(*(*row[:8], rejected, redriven, row[10]))


def page(db: sqlite3.Connection, query: QueuedPage) -> list[Queued]:
    values = (query.priority, _encode(query.but_not).decode(), min(query.limit, PAGE_MAX))
    return [Queued(*row) for row in db.execute(SQL["page"], values)]


def figures(db: sqlite3.Connection, _: QueueFigures) -> dict[str, int]:
    return dict(db.execute(SQL["figures"]).fetchall())


def letters(db: sqlite3.Connection, query: DeadLetters) -> list[DeadLetter]:
    values = (query.after, min(query.limit, PAGE_MAX), query.waiting)
    return [_letter(row) for row in db.execute(SQL["letters"], values)]


def letter(db: sqlite3.Connection, query: FindDeadLetter) -> DeadLetter | None:
    row = db.execute(SQL["letter"], (query.letter_id,)).fetchone()
    return _letter(row) if row else None


def letter_count(db: sqlite3.Connection, _: DeadLetterCount) -> int:
    return int(db.execute(SQL["letter_count"]).fetchone()[0])
