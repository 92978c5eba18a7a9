"""The shop window: sales and units as the last commits left them, in memory.

Reads of products and sales are answered from here and are as old as the last commit's notice, a few
milliseconds. Nothing is decided here: the ledger decides.
"""

from flashsale.core.journal import Stock
from flashsale.core.sale import Product, Sale, SaleState, state_at
from flashsale.ports import Clock

FRESH_MS = 200


class Offer:
    """A product in a sale, with its units. `version` rises with every change, so that renderings can be kept."""

    __slots__ = ("available", "product", "sale", "total", "version")

    def __init__(self, sale: Sale, product: Product, total: int, available: int) -> None:
        self.sale = sale
        self.product = product
        self.total = total
        self.available = available
        self.version = 0


class Storefront:
    """An `Observer` of the ledger."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.sales: dict[str, Sale] = {}
        self.offers: dict[str, Offer] = {}
        """By SKU: the offer of the one sale that has not ended, else of the latest one."""
        self._stock: dict[tuple[str, str], Stock] = {}
        self.seen_at_ms: int | None = None
        """When somebody last looked what others have sold; None where nobody else sells."""

    def is_fresh(self, now_ms: int) -> bool:
        """Whether what it shows may be passed on as what there is."""
        return self.seen_at_ms is None or now_ms - self.seen_at_ms <= FRESH_MS

    def sale_changed(self, sale_id: str, sale: Sale | None) -> None:
        self.sales.pop(sale_id, None)
        if sale is not None:
            self.sales[sale_id] = sale
        self.offers = {}
        now_ms = self._clock.now_ms()
        for other in sorted(self.sales.values(), key=lambda each: _rank(each, now_ms)):
            for product in other.products:
                self._put(other, product)

    def _put(self, sale: Sale, product: Product) -> None:
        stock = self._stock.get((sale.sale_id, product.sku_id))
        total, available = (stock.total, stock.available) if stock else (0, 0)
        self.offers.pop(product.sku_id, None)  # the latest comes last
        self.offers[product.sku_id] = Offer(sale, product, total, available)

    def stock_changed(self, rows: list[Stock]) -> None:
        for row in rows:
            self._stock[row.sale_id, row.sku_id] = row
            offer = self.offers.get(row.sku_id)
            if offer is None or offer.sale.sale_id != row.sale_id:
                continue
            offer.total, offer.available = row.total, row.available
            offer.version += 1

    def stock(self, sale_id: str, sku_id: str) -> Stock | None:
        return self._stock.get((sale_id, sku_id))


def _rank(sale: Sale, now_ms: int) -> tuple[bool, int]:
    """Orders sales so that the one which a SKU means comes last: what has not ended, else the latest.

    Looking at the clock only when a sale changes is enough: a SKU gets into a second sale only by a change.
    """
    return (state_at(sale, now_ms) is not SaleState.ENDED, sale.created_at_ms)


def on_sale(offer: Offer, now_ms: int) -> bool:
    return state_at(offer.sale, now_ms) is SaleState.ACTIVE
