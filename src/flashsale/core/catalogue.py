"""What an operator can do to a sale and its stock: create, change, switch, restock, delete.

Every change is refused or whole. A changed total is a journalled difference, never an absolute write, and
cannot go below what is held and sold. Currency, products and mode are fixed once a sale is SCHEDULED.
"""

import msgspec
from msgspec.structs import replace

from flashsale.core.journal import Kind, Movement, Stock, move
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.sale import Sale, SaleState, Switch, state_at, switched

UNITS_MAX = 1_000_000_000


class SaleDraft(msgspec.Struct, frozen=True, rename="camel"):
    """A sale as an operator asks for it, with the units of each product."""

    sale: Sale
    units: dict[str, int]


class CreateSale(msgspec.Struct, frozen=True, rename="camel"):
    draft: SaleDraft
    actor: str


class EditSale(msgspec.Struct, frozen=True, rename="camel"):
    draft: SaleDraft
    expected_version: int | None
    actor: str


class SwitchSale(msgspec.Struct, frozen=True, rename="camel"):
    sale_id: str
    switch: Switch
    actor: str


class DeleteSale(msgspec.Struct, frozen=True, rename="camel"):
    sale_id: str
    actor: str


class Restock(msgspec.Struct, frozen=True, rename="camel"):
    sale_id: str
    sku_id: str
    quantity: int
    reason: str
    actor: str


SaleChange = CreateSale | EditSale | SwitchSale | DeleteSale | Restock

AUDITED: dict[type[SaleChange], str] = {
    CreateSale: "sale.create",
    EditSale: "sale.edit",
    SwitchSale: "sale.switch",
    DeleteSale: "sale.delete",
    Restock: "stock.restock",
}
"""What the audit calls each."""


def sale_id_of(change: SaleChange) -> str:
    return change.draft.sale.sale_id if isinstance(change, CreateSale | EditSale) else change.sale_id


class Shelf(msgspec.Struct):
    """The rows a change of a sale needs: all sales, and the stock and use of the one in question."""

    sales: dict[str, Sale]
    stock: dict[str, Stock]
    has_orders: bool
    """Whether an order of the sale exists, whatever became of it."""
    was_used: bool = False
    """Whether anything was ever reserved under this sale's id, or its waiting room gave out a ticket."""
    has_line: bool = False
    """Whether the line of its waiting room has formed, by a draw or by coming after the start."""
    last_seq: dict[str, int] = {}
    """The last `sku_seq` of products that have no stock row now: a sequence goes on, also after a deletion."""


class Changed(msgspec.Struct, frozen=True):
    """The sale after the change (None: deleted), the stock rows to write and their movements."""

    sale: Sale | None
    movements: list[Movement]
    nothing: bool = False


def change_sale(shelf: Shelf, change: SaleChange, now_ms: int) -> Changed | Refused:
    match change:
        case CreateSale():
            return _create(shelf, change, now_ms)
        case EditSale():
            return _edit(shelf, change, now_ms)
        case SwitchSale():
            return _switch(shelf, change, now_ms)
        case DeleteSale():
            return _delete(shelf, change, now_ms)
        case Restock():
            return _restock(shelf, change, now_ms)


def _create(shelf: Shelf, change: CreateSale, now_ms: int) -> Changed | Refused:
    sale = change.draft.sale
    if sale.sale_id in shelf.sales:
        return Refused(Refusal.ILLEGAL_STATE, f"Sale {sale.sale_id} exists", {"saleId": sale.sale_id})
    if shelf.was_used:  # its request keys would find old reservations, and old passes would let people in
        message = f"{sale.sale_id} was the id of a sale with reservations or a line: choose another"
        return Refused(Refusal.ILLEGAL_STATE, message, {"saleId": sale.sale_id})
    if refused := _window(sale) or _taken(shelf, sale, now_ms):
        return refused
    # Below this line nothing can fail.
    sale = replace(sale, created_at_ms=now_ms, version=1)
    return Changed(
        sale, [_open(shelf, sale, sku, units, change.actor, now_ms) for sku, units in change.draft.units.items()]
    )


def _window(sale: Sale) -> Refused | None:
    if sale.starts_at_ms is not None and sale.ends_at_ms is not None and sale.ends_at_ms <= sale.starts_at_ms:
        return invalid("endsAt", "must be after startsAt")
    return None


def _taken(shelf: Shelf, sale: Sale, now_ms: int) -> Refused | None:
    """A product may be in one sale that is not ENDED, so that its SKU alone names the sale."""
    wanted = {product.sku_id for product in sale.products}
    for other in shelf.sales.values():
        if other.sale_id == sale.sale_id or state_at(other, now_ms) is SaleState.ENDED:
            continue
        for product in other.products:
            if product.sku_id in wanted:
                message = f"Product {product.sku_id} is in sale {other.sale_id}, which has not ended"
                return Refused(Refusal.ILLEGAL_STATE, message, {"skuId": product.sku_id, "saleId": other.sale_id})
    return None


def _open(shelf: Shelf, sale: Sale, sku_id: str, units: int, actor: str, now_ms: int) -> Movement:
    shelf.stock[sku_id] = Stock(sale.sale_id, sku_id, 0, sku_seq=shelf.last_seq.get(sku_id, 0))
    return move(shelf.stock[sku_id], Kind.STOCK, units, now_ms, None, actor, "opening stock")


def _edit(shelf: Shelf, change: EditSale, now_ms: int) -> Changed | Refused:
    asked = change.draft.sale
    sale = shelf.sales.get(asked.sale_id)
    if sale is None:
        return not_found("saleId", asked.sale_id)
    if change.expected_version not in (None, sale.version):
        return Refused(
            Refusal.ILLEGAL_STATE,
            f"Sale {sale.sale_id} has changed since: read it again",
            {"version": sale.version, "precondition": True},
        )
    state = state_at(sale, now_ms)
    if state is SaleState.ENDED:
        return Refused(Refusal.ILLEGAL_STATE, f"Sale {sale.sale_id} has ended", {"saleId": sale.sale_id})
    if refused := _window(asked) or _fixed(sale, asked, state) or _taken(shelf, asked, now_ms):
        return refused
    if shelf.has_line and asked.starts_at_ms != sale.starts_at_ms and (asked.starts_at_ms or 0) > now_ms:
        message = f"Sale {sale.sale_id} cannot start again: the line of its waiting room has formed. Pause it instead"
        return Refused(Refusal.ILLEGAL_STATE, message, {"field": "startsAt"})
    if refused := _too_low(shelf, change.draft.units):
        return refused
    # Below this line nothing can fail.
    sale = replace(
        asked, version=sale.version + 1, created_at_ms=sale.created_at_ms, paused=sale.paused, ended=sale.ended
    )
    return Changed(sale, _adjust(shelf, sale, change, now_ms))


def _fixed(sale: Sale, asked: Sale, state: SaleState) -> Refused | None:
    if state is SaleState.DRAFT:
        return None
    before = [(product.sku_id, product.currency) for product in sale.products]
    after = [(product.sku_id, product.currency) for product in asked.products]
    if sorted(before) != sorted(after):
        return _fixed_now(sale, "products", "products and currencies")
    if sale.mode is not asked.mode:
        return _fixed_now(sale, "mode", "mode")
    if asked.starts_at_ms is None:
        return _fixed_now(sale, "startsAt", "a start")
    return None


def _fixed_now(sale: Sale, field: str, what: str) -> Refused:
    return Refused(
        Refusal.ILLEGAL_STATE, f"{what} of sale {sale.sale_id} cannot change once it is scheduled", {"field": field}
    )


def _too_low(shelf: Shelf, units: dict[str, int]) -> Refused | None:
    for sku_id, total in units.items():
        stock = shelf.stock.get(sku_id)
        if stock and total < stock.held + stock.sold:
            message = f"stock of {sku_id} cannot be below the {stock.held + stock.sold} units held and sold"
            details = {"skuId": sku_id, "held": stock.held, "sold": stock.sold}
            return Refused(Refusal.ILLEGAL_STATE, message, details)
    return None


def _adjust(shelf: Shelf, sale: Sale, change: EditSale, now_ms: int) -> list[Movement]:
    movements: list[Movement] = []
    for sku_id, total in change.draft.units.items():
        stock = shelf.stock.get(sku_id)
        if stock is None:
            movements.append(_open(shelf, sale, sku_id, total, change.actor, now_ms))
        elif total != stock.total:
            difference = total - stock.total
            movements.append(move(stock, Kind.ADJUST, difference, now_ms, None, change.actor, "total changed"))
    gone = [stock for sku_id, stock in shelf.stock.items() if sku_id not in change.draft.units]
    return movements + [_close(stock, change.actor, now_ms) for stock in gone]


def _close(stock: Stock, actor: str, now_ms: int) -> Movement:
    """Takes what is left out of the journal's sum before the stock row goes."""
    return move(stock, Kind.ADJUST, -stock.total, now_ms, None, actor, "taken out of the sale")


def _switch(shelf: Shelf, change: SwitchSale, now_ms: int) -> Changed | Refused:
    sale = shelf.sales.get(change.sale_id)
    if sale is None:
        return not_found("saleId", change.sale_id)
    after = switched(sale, change.switch, now_ms)
    if after is None:
        state = state_at(sale, now_ms)
        message = f"Sale {sale.sale_id} is {state}: cannot {change.switch}"
        return Refused(Refusal.ILLEGAL_STATE, message, {"saleId": sale.sale_id, "state": state})
    if after.ends_at_ms is not None and change.switch is Switch.START and after.ends_at_ms <= now_ms:
        return invalid("endsAt", "is in the past")
    return Changed(after, [], nothing=after is sale)


def _delete(shelf: Shelf, change: DeleteSale, now_ms: int) -> Changed | Refused:
    sale = shelf.sales.get(change.sale_id)
    if sale is None:
        return not_found("saleId", change.sale_id)
    if shelf.has_orders or any(stock.held or stock.sold for stock in shelf.stock.values()):
        message = f"Sale {sale.sale_id} has units held or sold, or orders: end it instead"
        return Refused(Refusal.ILLEGAL_STATE, message, {"saleId": sale.sale_id})
    return Changed(None, [_close(stock, change.actor, now_ms) for stock in shelf.stock.values()])


def _restock(shelf: Shelf, change: Restock, now_ms: int) -> Changed | Refused:
    sale, stock = shelf.sales.get(change.sale_id), shelf.stock.get(change.sku_id)
    if sale is None:
        return not_found("saleId", change.sale_id)
    if stock is None:
        return not_found("skuId", change.sku_id)
    if stock.total + change.quantity > UNITS_MAX:
        return invalid("quantity", f"the total would exceed {UNITS_MAX}")
    movement = move(stock, Kind.RESTOCK, change.quantity, now_ms, None, change.actor, change.reason)
    return Changed(sale, [movement])
