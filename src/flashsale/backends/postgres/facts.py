"""What `flashsale doctor` wants to know of a database server; nothing is changed."""

import time
from typing import NamedTuple

from flashsale.backends.postgres.connect import FREELY, connect, migrations, schema_version
from flashsale.backends.postgres.rows import SQL
from flashsale.backends.postgres.seat import Seat, place_of


class Facts(NamedTuple):
    server: str
    schema: int
    newest: int
    fsync: bool
    read_only: bool
    ahead_ms: int
    """How far the database's clock is ahead of this machine's."""
    ledger_id: str | None
    misplaced: str | None
    """Why this database does not belong where the settings name it."""


async def facts(url: str, shard_id: int, shards: int, ledger_id: str | None) -> Facts:
    """Raises LedgerUnavailable."""
    db = await connect(url, FREELY)
    try:
        schema = await schema_version(db)
        place = await place_of(db) if schema == max(migrations()) else None
        return Facts(
            await db.fetchval("SHOW server_version"),
            schema,
            max(migrations()),
            await db.fetchval("SHOW fsync") == "on",
            await db.fetchval("SELECT pg_is_in_recovery()"),
            await db.fetchval(SQL["now"]) - time.time_ns() // 1_000_000,
            place.ledger_id if place else None,
            Seat(shard_id, shards, ledger_id).fault(place) if place else None,
        )
    finally:
        await db.close()
