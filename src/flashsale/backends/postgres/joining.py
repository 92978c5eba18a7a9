"""`flashsale migrate` over a list: each database gets its schema, then its place in the ledger.

A database joins before the first one counts it, so whoever is stopped in between can simply run it again. What the
first database held while it was alone is entered in the catalogue in the transaction that counts the second one; the
same transaction raises its fence, so that a process which still knows the first database only cannot make a sale that
the catalogue does not know.

Whatever the shards hold is entered again each time: a first database that was restored to an earlier moment would not
know the sales made since, and number its turns below those that the shards have seen.
"""

import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack

from flashsale.backends.postgres.connect import FREELY, MIGRATION_LOCK, Connection, connect, migrate
from flashsale.backends.postgres.rows import SHARDS, SQL, columns
from flashsale.backends.postgres.seat import Place, joining, place_of
from flashsale.ports import SchemaUnknown


async def migrate_all(urls: Sequence[str]) -> list[str]:
    """Brings all databases up to date and into their places. Returns the names of what was applied, and where."""
    if len(urls) == 1:
        applied = await migrate(urls[0])
        await _join(urls)
        return applied
    applied = [f"{name} (shard {shard_id})" for shard_id, url in enumerate(urls) for name in await migrate(url)]
    return applied + await _join(urls)


async def _join(urls: Sequence[str]) -> list[str]:
    async with AsyncExitStack() as stack:
        dbs = []
        for url in urls:
            dbs.append(await connect(url, FREELY))
            stack.push_async_callback(dbs[-1].close)
        await dbs[0].execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
        places = [await place_of(db) for db in dbs]
        if faults := joining(places):
            raise SchemaUnknown("; ".join(faults))
        return await _joined(dbs, places) if len(dbs) > 1 else []


async def _joined(dbs: Sequence[Connection], places: Sequence[Place]) -> list[str]:
    first = dbs[0]
    await first.execute(SHARDS["name_ledger"], secrets.token_hex(8))
    ledger_id = (await place_of(first)).ledger_id
    fresh = [shard_id for shard_id, place in enumerate(places) if shard_id and place.ledger_id is None]
    for shard_id in fresh:
        await dbs[shard_id].execute(SHARDS["join_ledger"], shard_id, ledger_id)
    async with first.transaction():
        await first.execute(SQL["lock_catalogue"])
        if places[0].shards == 1:
            await first.execute(SHARDS["own_sales"])
            await first.execute(SHARDS["own_skus"])
        for shard_id, db in enumerate(dbs):
            await _known(first, shard_id, db)
        await first.execute(SHARDS["count_shards"], len(dbs))
    return [f"joined as shard {shard_id}" for shard_id in fresh]


async def _known(first: Connection, shard_id: int, db: Connection) -> None:
    await first.execute(SHARDS["know_turn"], await db.fetchval(SHARDS["fence"]))
    sales = columns([tuple(row) for row in await db.fetch(SHARDS["sales_here"])])
    if sales:
        await first.execute(SHARDS["know_sales"], shard_id, *sales)
        await first.execute(SHARDS["know_skus"], *sales)
