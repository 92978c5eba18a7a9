"""The ledger's own queue, its dead letters, and what queued reservations need beyond the others."""

from collections.abc import Iterable
from typing import Any

import msgspec

from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.rows import RowChanged, columns
from flashsale.backends.queries import load_queries
from flashsale.core.books import Books
from flashsale.core.letter import DeadLetter
from flashsale.core.questions import DeadLetterCount, DeadLetters, FindDeadLetter, Queued, QueuedPage, QueueFigures
from flashsale.core.request import encode

SQL = load_queries("postgres/queue.sql")
PAGE_MAX = 1000


async def secret(db: Connection) -> bytes:
    return bytes(await db.fetchval(SQL["secret"]))


async def load_letters(db: Connection, books: Books, letter_ids: Iterable[str]) -> None:
    for letter_id in letter_ids:
        for row in await db.fetch(SQL["letter"], letter_id):
            books.letters[letter_id] = _letter(row)


async def store(db: Connection, books: Books) -> None:
    """Writes what queued requests have left in the books. Raises RowChanged when a row is not as it was."""
    if books.queued:
        rows = [(each.name, each.sale_id, each.slice_key, each.priority, encode(each)) for each in books.queued]
        await db.execute(SQL["enqueue"], *columns(rows))
    if books.taken:
        await db.execute(SQL["taken"], books.taken)
    for row in books.filled:
        known = (row.reservation_id, row.user_id, row.sale_id, row.sku_id, row.quantity, row.unit_price_minor)
        if await db.fetchval(SQL["fill"], *known, row.currency, row.request_kind) is None:
            raise RowChanged(f"reservation {row.reservation_id} was filled in by another")
    for letter in books.new_letters:
        await db.execute(SQL["bury"], *msgspec.structs.astuple(letter))
    for letter in books.redriven:
        values = (letter.letter_id, list(letter.redriven_as), letter.redriven_at_ms)
        if await db.fetchval(SQL["redriven"], *values) is None:
            raise RowChanged(f"dead letter {letter.letter_id} was redriven by another")

    for at_ms, actor, action, subject, details in books.audited:
        await db.execute(SQL["audit"], at_ms, actor, action, subject, msgspec.json.encode(details).decode())


def _letter(row: Any) -> DeadLetter:
    values = tuple(row)
    rejected, redriven = (tuple(each) for each in values[8:10])
    return DeadLetter(*(*values[:8], rejected, redriven, values[10]))


async def page(db: Connection, query: QueuedPage) -> list[Queued]:
    values = (query.priority, list(query.but_not), min(query.limit, PAGE_MAX))
    return [Queued(*tuple(row)) for row in await db.fetch(SQL["page"], *values)]


async def figures(db: Connection, _: QueueFigures) -> dict[str, int]:
    return {row[0]: row[1] for row in await db.fetch(SQL["figures"])}


async def letters(db: Connection, query: DeadLetters) -> list[DeadLetter]:
    found = await db.fetch(SQL["letters"], query.after, min(query.limit, PAGE_MAX), query.waiting)
    return [_letter(row) for row in found]


async def letter(db: Connection, query: FindDeadLetter) -> DeadLetter | None:
    row = await db.fetchrow(SQL["letter"], query.letter_id)
    return _letter(row) if row else None


async def letter_count(db: Connection, _: DeadLetterCount) -> int:
    return int(await db.fetchval(SQL["letter_count"]))
