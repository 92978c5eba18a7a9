"""Writing many rows at once.

A bound row costs a third of one that json_each takes apart. Each statement gives the interpreter lock up and
has to wait for it again, so the last statement is filled up with rows of NULL instead of being cut into
small ones.
"""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

Row = tuple[Any, ...]
ROWS_A_STATEMENT = (1, 8, 32, 128)


def write(db: sqlite3.Connection, insert: str, values: Sequence[Row]) -> int:
    """Inserts rows by a statement that inserts one. Returns how many there are more. The first value is not NULL."""
    at = written = 0
    while at < len(values):
        left = len(values) - at
        size = next((size for size in ROWS_A_STATEMENT if size >= left), ROWS_A_STATEMENT[-1])
        chunk = values[at : at + size]
        padding = (None,) * (len(chunk[0]) * (size - len(chunk)))
        written += db.execute(_repeated(insert, size), (*chain.from_iterable(chunk), *padding)).rowcount
        at += size
    return written


@cache
def _repeated(insert: str, times: int) -> str:
    """An INSERT of one row as an INSERT of up to so many; rows that begin with NULL are left out."""
    head, _, row = insert.partition("VALUES ")
    many = ", ".join([row] * times)
    return f"{head}SELECT * FROM (VALUES {many}) WHERE column1 IS NOT NULL"  # noqa: S608  # from our own file
