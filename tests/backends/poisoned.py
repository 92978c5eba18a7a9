"""A connection to SQLite that fails where a test wants it to."""

import sqlite3
from collections.abc import Callable
from typing import Any


def failure(name: str) -> sqlite3.OperationalError:
    """The error that SQLite reports with this code."""
    error = sqlite3.OperationalError(f"poisoned: {name}")
    error.sqlite_errorcode = getattr(sqlite3, name)
    error.sqlite_errorname = name
    return error


class Poisoned:
    """Passes everything on to a connection, except what `fails` finds an error for."""

    def __init__(self, connection: sqlite3.Connection, fails: Callable[[str, Any], Exception | None]) -> None:
        self._connection = connection
        self._fails = fails

    def execute(self, statement: str, values: Any = ()) -> sqlite3.Cursor:
        if error := self._fails(statement, values):
            raise error
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, values: Any) -> sqlite3.Cursor:
        rows = list(values)
        if error := self._fails(statement, rows):
            raise error
        return self._connection.executemany(statement, rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
