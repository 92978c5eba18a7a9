"""An operator's change of a sale, made by the ledger's writer."""

import msgspec

from flashsale.backends.sqlite import rooms
from flashsale.backends.sqlite.moves import Desk
from flashsale.backends.sqlite.rows import SQL
from flashsale.core.catalogue import AUDITED, CreateSale, EditSale, SaleChange, Shelf, change_sale, sale_id_of
from flashsale.core.journal import Stock
from flashsale.core.refusal import Refused
from flashsale.core.sale import Sale


def alter(desk: Desk, change: SaleChange) -> Sale | Refused | None:
    now_ms = desk.clock.now_ms()
    sale_id = sale_id_of(change)
    stock_rows = {row[1]: Stock(*row) for row in desk.db.execute(SQL["stock_of_sale"], (sale_id,))}
    has_orders, was_used, has_line = (
        bool(desk.db.execute(SQL[name], (sale_id,)).fetchone()[0]) for name in ("has_orders", "was_used", "has_line")
    )
    shelf = Shelf(desk.sales, stock_rows, has_orders, was_used, has_line, _last_seq(desk, change, stock_rows))
    changed = change_sale(shelf, change, now_ms)
    if isinstance(changed, Refused) or changed.nothing:
        return changed if isinstance(changed, Refused) else changed.sale
    desk.wrote = True
    _put_sale(desk, sale_id, changed.sale)
    _put_stock(desk, sale_id, changed.sale, stock_rows)
    desk.store_journal(changed.movements)
    _audit(desk, change, sale_id, now_ms)
    return changed.sale


def _last_seq(desk: Desk, change: SaleChange, stock_rows: dict[str, Stock]) -> dict[str, int]:
    if not isinstance(change, CreateSale | EditSale):
        return {}
    sale_id, opened = change.draft.sale.sale_id, change.draft.units.keys() - stock_rows.keys()
    return {sku_id: desk.db.execute(SQL["last_seq"], (sale_id, sku_id)).fetchone()[0] for sku_id in opened}


def _put_sale(desk: Desk, sale_id: str, sale: Sale | None) -> None:
    desk.changed_sales[sale_id] = sale
    kept = {other_id: other for other_id, other in desk.sales.items() if other_id != sale_id}
    if sale is None:
        desk.db.execute(SQL["delete_stock"], (sale_id, None))
        desk.db.execute(SQL["delete_sale"], (sale_id,))
        rooms.delete_room(desk.db, sale_id)
        desk.sales = kept
        return
    terms = msgspec.json.encode(sale).decode()
    desk.db.execute(SQL["put_sale"], (sale_id, terms, sale.version, sale.created_at_ms))
    rooms.open_room(desk.db, sale)
    desk.sales = kept | {sale_id: sale}


def _put_stock(desk: Desk, sale_id: str, sale: Sale | None, stock_rows: dict[str, Stock]) -> None:
    if sale is None:
        return
    for sku_id, row in stock_rows.items():
        if sale.product(sku_id) is None:
            desk.db.execute(SQL["delete_stock"], (sale_id, sku_id))
            continue
        desk.db.execute(SQL["opened_stock"], (sale_id, sku_id))
        desk.db.execute(SQL["changed_stock"], (sale_id, sku_id, row.total, row.held, row.sold, row.sku_seq))
        desk.stock[sale_id, sku_id] = row


def _audit(desk: Desk, change: SaleChange, sale_id: str, now_ms: int) -> None:
    details = msgspec.json.encode(change).decode()
    desk.db.execute(SQL["audit"], (now_ms, change.actor, AUDITED[type(change)], sale_id, details))
