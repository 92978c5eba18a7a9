"""An operator's change of a sale.

Changes are rare, so they all exclude each other, and each is a transaction of its own.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from flashsale.backends.postgres import rooms, rows
from flashsale.backends.postgres.alone import Altered
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.rows import SHARDS, SQL
from flashsale.core.catalogue import AUDITED, CreateSale, EditSale, SaleChange, Shelf, change_sale, sale_id_of
from flashsale.core.journal import Stock
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.sale import Sale
from flashsale.ports import Clock


class Fenced(NamedTuple):
    """A change that was announced too early: others have been announced since, and have not seen it."""


class Announced(NamedTuple):
    """What a change has to know of the other databases of its ledger (placing.py)."""

    turn: int
    others: Mapping[str, Sale]
    """Their sales that may have the same products."""


UNANNOUNCED = Announced(0, {})
"""Of a ledger that is one database."""
NOT_THE_WHOLE_LEDGER = Refused(
    Refusal.UNAVAILABLE,
    "This process knows only the first database of its ledger, and a sale might be in another: restart it with all "
    "of them in FLASHSALE_LEDGER",
    {},
)


async def alter(
    clock: Clock, change: SaleChange, announced: Announced, trace_id: str | None, db: Connection
) -> Altered:
    """Decides and stores a change, under the catalogue's lock and those of the sale's products and room."""
    sale_id = sale_id_of(change)
    await db.execute(SQL["lock_catalogue"])
    if isinstance(change, CreateSale | EditSale) and not await pass_fence(db, announced.turn):
        return Altered(Fenced() if announced.turn else NOT_THE_WHOLE_LEDGER)
    before = [Stock(*row) for row in await db.fetch(SQL["stock_of_sale"], sale_id)]
    skus = {row.sku_id for row in before}
    if isinstance(change, CreateSale | EditSale):
        skus |= change.draft.units.keys()
    await rows.lock(db, {(sale_id, sku_id) for sku_id in skus})
    await rooms.lock(db, sale_id)  # last: whoever joins or draws holds no other lock
    return await _altered(db, change, announced, trace_id, clock.hear(await db.fetchval(SQL["now"])))


async def pass_fence(db: Connection, turn: int) -> bool:
    """Whether nothing of a later turn was here before; from now on, nothing of an earlier one comes behind."""
    if turn < await db.fetchval(SHARDS["fence"]):
        return False
    await db.execute(SHARDS["raise_fence"], turn)
    return True


async def _altered(
    db: Connection, change: SaleChange, announced: Announced, trace_id: str | None, now_ms: int
) -> Altered:
    sale_id = sale_id_of(change)
    before = [Stock(*row) for row in await db.fetch(SQL["stock_of_sale"], sale_id)]
    shelf = await _shelf(db, change, sale_id, before)
    shelf.sales.update(announced.others)
    changed = change_sale(shelf, change, now_ms)
    if isinstance(changed, Refused) or changed.nothing:
        return Altered(changed if isinstance(changed, Refused) else changed.sale)
    if changed.sale is None:
        await db.execute(SQL["delete_stock"], sale_id, None)
        await db.execute(SQL["delete_sale"], sale_id)
        await rooms.delete_room(db, sale_id)
    else:
        await _put(db, changed.sale, shelf.stock)
    movements = [each._replace(trace_id=trace_id) for each in changed.movements]
    await rows.store_journal(db, movements, await db.fetchval(SQL["seq"]))
    details = msgspec.json.encode(change).decode()
    await db.execute(SQL["audit"], now_ms, change.actor, AUDITED[type(change)], sale_id, details)
    stock = {(sale_id, sku_id): row for sku_id, row in shelf.stock.items()} if changed.sale else {}
    return Altered(changed.sale, sale_id, stock, changed=True)


async def _shelf(db: Connection, change: SaleChange, sale_id: str, before: Iterable[Stock]) -> Shelf:
    stock = {row.sku_id: row for row in before}
    opened = change.draft.units.keys() - stock.keys() if isinstance(change, CreateSale | EditSale) else ()
    return Shelf(
        sales={sale.sale_id: sale for sale in [rows.sale_of(row[0]) for row in await db.fetch(SQL["sales"])]},
        stock=stock,
        has_orders=await db.fetchval(SQL["has_orders"], sale_id),
        was_used=await db.fetchval(SQL["was_used"], sale_id),
        has_line=await db.fetchval(SQL["has_line"], sale_id),
        last_seq={sku_id: await db.fetchval(SQL["last_seq"], sale_id, sku_id) for sku_id in opened},
    )


async def _put(db: Connection, sale: Sale, stock: dict[str, Stock]) -> None:
    terms = msgspec.json.encode(sale).decode()
    await db.execute(SQL["put_sale"], sale.sale_id, terms, sale.version, sale.created_at_ms)
    await rooms.open_room(db, sale)
    for sku_id, row in sorted(stock.items()):
        if sale.product(sku_id) is None:
            await db.execute(SQL["delete_stock"], sale.sale_id, sku_id)
        else:
            await db.execute(SQL["opened_stock"], *msgspec.structs.astuple(row))
