"""Opening the engine from the command line: every way in which that fails, in words for the user."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from flashsale.backends.sandbox import SandboxNotStarted
from flashsale.backends.sqlite.file import FileLock
from flashsale.cli.problem import Problem
from flashsale.engine import Engine, Fatal
from flashsale.ports import LedgerBroken, LedgerInUse, LedgerUnavailable, SchemaUnknown
from flashsale.settings import Settings

IN_USE = (
    "Only one process may open a ledger, so that nothing can be sold twice.",
    "ask the server that runs there (`flashsale sale ... --url`), stop it first, or name another --data directory",
)

NOT_WRITABLE = "choose another one with --data DIR (or FLASHSALE_DATA), or give this user the right to write there"
NO_LEDGER = "restore the ledger from a backup, or name another one with --data or FLASHSALE_LEDGER"
SQLITE_MAGIC = b"SQLite format 3\0"
SERVER_URL = "server-url"
OTHER_FILES = 100
"""What a server has open besides its connections."""


def remember_url(settings: Settings, url: str) -> None:
    """Leaves word in the data directory where its server listens, for the operator's commands."""
    (Path(settings.data) / SERVER_URL).write_text(f"{url}\n")


def last_url(settings: Settings) -> str:
    """Where the data directory's server listened last; empty if there has been none."""
    path = Path(settings.data) / SERVER_URL
    return path.read_text().strip() if path.is_file() else ""


@asynccontextmanager
async def open_engine(settings: Settings, on_fatal: Fatal | None = None) -> AsyncIterator[Engine]:
    """`Engine.open`, in a data directory that can be written."""
    prepare(settings)
    with opening_problems(settings):
        async with Engine.open(settings, on_fatal) as engine:
            yield engine


@contextmanager
def opening_problems(settings: Settings) -> Iterator[None]:
    """Turns what can be wrong with a ledger into a Problem."""
    path = settings.ledger_path
    try:
        yield
    except LedgerInUse as error:
        raise Problem(str(error), *IN_USE) from error
    except SchemaUnknown as error:
        remedy = f"run the newer version, or name another ledger than {path}"
        raise Problem(str(error), "This version could damage what it does not understand.", remedy) from error
    except LedgerBroken as error:
        raise Problem(*broken(settings, error)) from error
    except LedgerUnavailable as error:
        remedy = "make room on the disk if it is full; then try again"
        raise Problem(f"the ledger {path} cannot be used now: {error}", "Nothing has changed.", remedy) from error
    except SandboxNotStarted as error:
        remedy = "see the message above, or run one yourself and name it in FLASHSALE_SANDBOX_URL"
        raise Problem(f"the payment sandbox did not start: {error}", "", remedy) from error


def broken(settings: Settings, error: Exception) -> tuple[str, str, str]:
    """The three parts of the message about a store that has failed."""
    return (
        f"the ledger {settings.ledger_path} has failed: {error}",
        "After an I/O error nobody knows what reached the disk, so nothing may go on from memory.\n"
        "What was acknowledged before is in the file; what was under way was not acknowledged.",
        "look at the disk (`dmesg`, free space, `flashsale doctor`), then start again: it recovers by itself",
    )


def prepare(settings: Settings) -> None:
    """Makes the data directory and the ledger's if they are missing.

    Raises a Problem if they cannot be written, or if the ledger's file is something else.
    """
    for directory in {Path(settings.data), settings.ledger_path.parent}:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"the data directory {directory} cannot be made: {error.strerror}"
            raise Problem(message, remedy=NOT_WRITABLE) from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise Problem(f"the data directory {directory} cannot be written", remedy=NOT_WRITABLE)
    if not may_be_ledger(settings.ledger_path):
        raise Problem(f"{settings.ledger_path} is no SQLite file", "It has been left alone.", NO_LEDGER)


def may_be_ledger(path: Path) -> bool:
    """Whether the file begins as SQLite's do, is empty, or is not there yet."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) in (SQLITE_MAGIC, b"")


def writable_place(directory: Path) -> Path | None:
    """The directory, or the one in which it would be made; None if that cannot be written."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    return place if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else None


def held(ledger: Path) -> str | None:
    """The sentence about who has the ledger open; None: nobody."""
    lock = FileLock(ledger)
    try:
        lock.take()
    except LedgerInUse as error:
        return str(error)
    lock.give_back()
    return None
