"""Asking for units: by which way an attempt goes to the ledger.

An attempt that may win is written. One that has visibly lost (sold out, not started, ended) is answered from
a read, so that a crowd of losers never queues before the writer. The window's picture only chooses the way;
both ways decide by the same rules, and the read sends on to the writer whatever might win after all.

Before that it is looked at (has it a pass, where does it come from) and judged, and may be barred. What is barred goes
to the ledger only where it has a key, and only to be read: an earlier reservation of that key is its answer.
"""

from collections.abc import Callable, Sequence
from functools import partial

from flashsale.core.refusal import Refused, invalid, not_found
from flashsale.core.request import ITEMS_MAX, QUANTITY_MAX, Item
from flashsale.core.reservation import RequestKind, Reservation
from flashsale.core.sale import Mode, Sale
from flashsale.core.stock import Attempt, Granted, turned_away
from flashsale.core.visitor import Visitor
from flashsale.flow.queueing import Queueing, Told
from flashsale.flow.storefront import Storefront, on_sale
from flashsale.flow.watch import Watch
from flashsale.ports import Answer, Clock, Ledger
from flashsale.tracing import TRACE_ID

Look = Callable[[Visitor, Sale, Attempt], None]
"""Notes at the attempt what it finds, at once; sets `barred` if something is against it."""
Judge = Callable[[Visitor, Sale, Attempt, Callable[[], None]], None]
"""The same, but it may take its time: then it calls, once."""
Granting = Callable[[Visitor, Sequence[Reservation]], None]


class Reserving:
    def __init__(
        self, ledger: Ledger, storefront: Storefront, clock: Clock, queueing: Queueing, watch: Watch | None = None,
        looks: tuple[Look, ...] = (), judge: Judge | None = None, granted: Granting | None = None,
    ) -> None:  # fmt: skip
        """`watch`: of a ledger that other processes write too. `granted` hears of what was reserved for whom."""
        self._ledger = ledger
        self._queueing = queueing
        self._watch = watch
        self._offers = storefront
        self._clock = clock
        self._looks = looks
        self._judge = judge
        self._granted = granted

    def reserve(self, visitor: Visitor, sku_id: str, quantity: int, key: str | None, reply: Told) -> None:
        """One product. `reply` is called exactly once, maybe before this returns."""
        if not 1 <= quantity <= QUANTITY_MAX:
            reply(invalid("quantity", f"must be 1 to {QUANTITY_MAX}"))
            return
        if refused := _unspeakable(visitor.user_id, key):
            reply(refused)
            return
        if self._watch is not None and sku_id not in self._offers.offers:
            ask = partial(self._reserve, visitor, sku_id, quantity, key, reply, TRACE_ID.get())
            if self._watch.after_look(ask):
                return
        self._reserve(visitor, sku_id, quantity, key, reply, TRACE_ID.get())

    def _reserve(
        self, visitor: Visitor, sku_id: str, quantity: int, key: str | None, reply: Told, trace_id: str | None
    ) -> None:
        offer = self._offers.offers.get(sku_id)
        if offer is None:
            reply(not_found("skuId", sku_id))
            return
        attempt = Attempt(
            visitor.user_id, offer.sale.sale_id, (Item(sku_id, quantity),), key,
            trace_id=trace_id, priority=visitor.priority,
        )  # fmt: skip
        self._look_at(visitor, offer.sale, attempt, reply)

    def reserve_cart(self, visitor: Visitor, items: tuple[Item, ...], key: str | None, reply: Told) -> None:
        """Several products of one sale: all of them or none."""
        if refused := _malformed(items) or _unspeakable(visitor.user_id, key):
            reply(refused)
            return
        known = all(item.sku_id in self._offers.offers for item in items)
        ask = partial(self._reserve_cart, visitor, items, key, reply, TRACE_ID.get())
        if known or self._watch is None or not self._watch.after_look(ask):
            ask()

    def _reserve_cart(
        self, visitor: Visitor, items: tuple[Item, ...], key: str | None, reply: Told, trace_id: str | None
    ) -> None:
        sale_id = self._sale_of(items)
        if isinstance(sale_id, Refused):
            reply(sale_id)
            return
        attempt = Attempt(
            visitor.user_id, sale_id, items, key, RequestKind.CART, trace_id=trace_id, priority=visitor.priority
        )
        self._look_at(visitor, self._offers.sales[sale_id], attempt, reply)

    def _look_at(self, visitor: Visitor, sale: Sale, attempt: Attempt, reply: Told) -> None:
        for look in self._looks:
            look(visitor, sale, attempt)
        told = reply if self._granted is None else partial(self._reply, visitor, reply)
        if self._judge is None:
            self._go(sale, attempt, told)
        else:
            self._judge(visitor, sale, attempt, partial(self._go, sale, attempt, told))

    def _reply(self, visitor: Visitor, reply: Told, answer: Answer) -> None:
        if self._granted is not None and isinstance(answer, Granted) and not answer.replayed:
            self._granted(visitor, answer.reservations)
        reply(answer)

    def _go(self, sale: Sale, attempt: Attempt, reply: Told) -> None:
        if attempt.barred is not None and attempt.key is None:
            reply(turned_away(attempt.barred, sale, self._clock.now_ms()))
        elif sale.mode is Mode.QUEUED:
            self._queueing.request(sale, attempt, reply)
        elif attempt.barred is None and self._may_win(attempt):
            self._ledger.reserve(attempt, reply)
        else:
            self._ledger.refuse(attempt, reply)

    def _may_win(self, attempt: Attempt) -> bool:
        """As far as the window shows. A cart is rare enough to be written in any case."""
        if attempt.kind is RequestKind.CART:
            return True
        [item] = attempt.items
        offer = self._offers.offers.get(item.sku_id)
        return offer is not None and offer.available >= item.quantity and on_sale(offer, self._clock.now_ms())

    def _sale_of(self, items: tuple[Item, ...]) -> str | Refused:
        sales: set[str] = set()
        for item in items:
            offer = self._offers.offers.get(item.sku_id)
            if offer is None:
                return not_found("skuId", item.sku_id)
            sales.add(offer.sale.sale_id)
        if len(sales) != 1:
            return invalid("items", "must be products of one sale")
        return sales.pop()


def _unspeakable(user_id: str, key: str | None) -> Refused | None:
    """Not every ledger can keep U+0000, and none needs to."""
    if "\0" in user_id:
        return invalid("userId", "must not contain the character U+0000")
    if key is not None and "\0" in key:
        return invalid("requestKey", "must not contain the character U+0000")
    return None


def _malformed(items: tuple[Item, ...]) -> Refused | None:
    if not 1 <= len(items) <= ITEMS_MAX:
        return invalid("items", f"must be 1 to {ITEMS_MAX}")
    for number, item in enumerate(items):
        if not 1 <= item.quantity <= QUANTITY_MAX:
            return invalid(f"items[{number}].quantity", f"must be 1 to {QUANTITY_MAX}")
    if len({item.sku_id for item in items}) != len(items):
        return invalid("items", "must name each product once")
    return None
