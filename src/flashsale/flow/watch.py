"""Watching a ledger that other processes write too, so that the window shows what they sold.

What this process commits it shows at once; what others commit is seen at the next look. A look may be older than
what the window shows already: a product's counters are taken over only with a higher `sku_seq`. Whoever asks for a
product that the window does not show may know of a newer sale than we do: he waits for the next look.
"""

from collections.abc import Callable

from flashsale.core.journal import Stock
from flashsale.core.questions import FindSales, StockOf
from flashsale.flow.storefront import Storefront
from flashsale.ports import Clock, Ledger

LOOK_SECONDS = 0.05
SEEN_SECONDS = 0.15
"""After this time a change of a sale is seen by every process that is not overloaded."""
WAITING_MAX = 1_000
"""Requests for unknown products that wait for a look; those beyond are answered from what is known."""


class Watch:
    """Looks when it is told to; `worker.py` tells it."""

    def __init__(self, ledger: Ledger, storefront: Storefront, clock: Clock) -> None:
        self._ledger = ledger
        self._storefront = storefront
        self._waiting: list[Callable[[], None]] = []
        self._clock = clock
        storefront.seen_at_ms = 0  # others sell too, and nobody has looked yet

    def after_look(self, call: Callable[[], None]) -> bool:
        """Calls after the next look that begins from now on; False when too many wait."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        self._waiting.append(call)
        return True

    async def look(self) -> int:
        """Brings the window up to date. Returns how many sales and products had changed."""
        waiting, self._waiting = self._waiting, []
        now_ms = self._clock.now_ms()
        try:
            changed = await look_around(self._ledger, self._storefront)
            self._storefront.seen_at_ms = now_ms
            return changed
        finally:
            for call in waiting:
                call()


async def look_around(ledger: Ledger, storefront: Storefront) -> int:
    stock = await ledger.find(StockOf())
    sales = {sale.sale_id: sale for sale in await ledger.find(FindSales())}
    changed = [sale for sale_id, sale in sales.items() if storefront.sales.get(sale_id) != sale]
    gone = storefront.sales.keys() - sales.keys()
    for sale_id in gone:
        storefront.sale_changed(sale_id, None)
    for sale in changed:
        storefront.sale_changed(sale.sale_id, sale)
    moved = [row for row in stock if _newer(row, storefront)]
    storefront.stock_changed(moved)
    return len(gone) + len(changed) + len(moved)


def _newer(row: Stock, storefront: Storefront) -> bool:
    shown = storefront.stock(row.sale_id, row.sku_id)
    return shown is None or row.sku_seq > shown.sku_seq
