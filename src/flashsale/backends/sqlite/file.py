"""The ledger's file: opened by one process at a time, migrated, durable.

`synchronous=FULL` makes a commit wait for its fsync: an acknowledged row survives a power failure. After an
I/O error nothing in memory can be trusted (an fsync that failed once may succeed the next time without
having written), so the process has to end and recover from the disk.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashsale.backends import queries
from flashsale.backends.queries import read_sql
from flashsale.ports import LedgerBroken, LedgerInUse, SchemaUnknown

CACHE_KIB = 32 * 1024
CHECKPOINT_PAGES = 2_000
LOG_BYTES = 80 * 1024 * 1024
BUSY_MS = 5_000

_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM}
_FATAL = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_READONLY}


class FileLock:
    """An advisory lock beside the ledger's file, which goes with its process however that ends."""

    def __init__(self, ledger: Path) -> None:
        real = self._ledger = ledger.resolve()  # a link to the file is the same ledger
        self._path = real.with_name(real.name + ".lock")
        self._descriptor = -1

    def take(self) -> None:
        """Raises LedgerInUse, naming the holder."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._ledger.exists() and self._ledger.stat().st_nlink > 1:
            raise LedgerInUse(f"{self._ledger} has a second name (a hard link), under which it may be in use")
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise LedgerInUse(f"{self._path.with_suffix('')} is in use by {holder(self._path)}") from error
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        self._descriptor = descriptor

    def give_back(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def holder(lock: Path) -> str:
    """Who holds a lock file, in words."""
    pid = lock.read_text().strip() if lock.exists() else ""
    return f"the process with pid {pid}" if pid else "another process"


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """A connection for one thread: whichever it is handed to."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=128, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if not writes:
        connection.execute("PRAGMA query_only = ON")
        return connection
    connection.execute("PRAGMA temp_store = MEMORY")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system of {path} cannot keep a write-ahead log")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    return connection


def migrations() -> dict[int, str]:
    """Every migration's number and file name."""
    return queries.migrations("sqlite")


def schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> list[str]:
    """Applies what is missing, each migration in a transaction of its own. Returns their names.

    Raises SchemaUnknown when the file was written by a newer version.
    """
    known, version = migrations(), schema_version(connection)
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise SchemaUnknown("the file is a database of another program: name another place for the ledger")
    if version > max(known):
        raise SchemaUnknown(
            f"the ledger has schema {version}, this version of flashsale knows {max(known)}: run a newer flashsale"
        )
    pending = [number for number in known if number > version]
    for number in pending:
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{read_sql('sqlite/' + known[number])}\nPRAGMA user_version = {number};\nCOMMIT;"
        )
    return [known[number] for number in pending]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Opening a file that is damaged, or no ledger at all, is LedgerBroken."""
    try:
        yield
    except sqlite3.Error as error:
        raise LedgerBroken(f"{path} cannot be opened as a ledger: {error}") from error


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether the store itself has failed, rather than a statement."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _FATAL


def is_passing(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the file or memory is short: trying parts of the batch would not help."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def is_full(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
