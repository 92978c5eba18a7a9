"""Connections to PostgreSQL: how they are set, what their failures mean, and the schema they find.

`enable_seqscan` and the joins that read whole tables are off for the ledger's own statements: each of them looks up
rows by an index, but the planner, which last looked at a table when it was small, would scan it when it has grown
(measured elsewhere: 5,000 reservations a second instead of 25,000). The operators' long reads are planned freely.
"""

import ssl
from collections.abc import Mapping

import asyncpg

from flashsale.backends import queries
from flashsale.backends.queries import load_queries, read_sql
from flashsale.ports import LedgerUnavailable, SchemaUnknown

Connection = asyncpg.Connection

SEQ = load_queries("postgres/seq.sql")
CONNECT_SECONDS = 3.0
COMMAND_SECONDS = 15.0
MIGRATION_LOCK = 0x666C617368  # "flash": migrations exclude each other

SETTINGS = {
    "application_name": "flashsale",
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "lock_timeout": "5s",
    "statement_timeout": "10s",
    # A process that was stopped in the middle of a transaction gives its locks back after this time.
    "idle_in_transaction_session_timeout": "3s",
    "jit": "off",
}
BY_INDEX = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "plan_cache_mode": "force_generic_plan",
}
FREELY = {"statement_timeout": "60s", "lock_timeout": "0"}
AT_LEISURE = {"statement_timeout": "0", "lock_timeout": "0"}
"""For a migration, which may go over every row there is."""

LOST: tuple[type[Exception], ...] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver says when a connection broke in the middle of its handshake
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TooManyConnectionsError,
    ConnectionError,
    TimeoutError,
    OSError,
    ssl.SSLError,
)
"""The connection, or the server behind it, is gone. Whether a commit under way took place is another question."""
FAILING: tuple[type[Exception], ...] = (asyncpg.PostgresError, LedgerUnavailable, *LOST)
"""Whatever a statement can end with."""
CROSSED: tuple[type[Exception], ...] = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
)
"""Another process was faster: run again, and what it did is seen."""
FULL = (asyncpg.DiskFullError,)
BUSY = (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, asyncpg.OutOfMemoryError)


async def connect(
    url: str, settings: Mapping[str, str] = BY_INDEX, command_seconds: float | None = COMMAND_SECONDS
) -> Connection:
    """Raises LedgerUnavailable when the server cannot be reached."""
    try:
        return await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=command_seconds,
            server_settings={**SETTINGS, **settings},
            statement_cache_size=200,
            max_cached_statement_lifetime=0,
        )
    except FAILING as error:
        raise LedgerUnavailable(f"PostgreSQL cannot be reached: {error!r}") from error


def migrations() -> dict[int, str]:
    """Every migration's number and file name."""
    return queries.migrations("postgres")


async def schema_version(db: Connection) -> int:
    """0: there is no ledger in this database."""
    if not await db.fetchval("SELECT to_regclass('flashsale_schema') IS NOT NULL"):
        return 0
    return int(await db.fetchval("SELECT max(version) FROM flashsale_schema"))


async def migrate(url: str) -> list[str]:
    """Applies what is missing, each migration in a transaction of its own. Returns their names."""
    db = await connect(url, AT_LEISURE, command_seconds=None)
    try:
        await db.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        await db.execute("CREATE TABLE IF NOT EXISTS flashsale_schema (version integer PRIMARY KEY)")
        await db.execute("INSERT INTO flashsale_schema VALUES (0) ON CONFLICT DO NOTHING")
        known, version = migrations(), await schema_version(db)
        require_known(version)
        pending = [number for number in known if number > version]
        for number in pending:
            async with db.transaction():
                await db.execute(read_sql("postgres/" + known[number]))
                await db.execute("INSERT INTO flashsale_schema VALUES ($1)", number)
        if await db.fetchval(SEQ["is_behind"]):
            await db.execute(SEQ["catch_up"])
        return [known[number] for number in pending]
    finally:
        await db.close()


def require_known(version: int) -> None:
    """Raises SchemaUnknown for a ledger that a newer version has written."""
    if version > max(migrations()):
        raise SchemaUnknown(
            f"the ledger has schema {version}, this version of flashsale knows {max(migrations())}: "
            "run a newer flashsale"
        )


async def require_current(db: Connection) -> None:
    """Raises SchemaUnknown unless the schema is the one this version works with."""
    version = await schema_version(db)
    require_known(version)
    if version < max(migrations()):
        what = f"has schema {version}" if version else "holds no ledger yet"
        raise SchemaUnknown(
            f"the database {what}, this version of flashsale works with {max(migrations())}: run `flashsale migrate`"
        )
    if await db.fetchval(SEQ["is_behind"]):
        raise SchemaUnknown("the ledger was restored from another database server: run `flashsale migrate`")
