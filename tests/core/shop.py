"""A shop in the hand: the pure rules over books that are never stored, with a clock that is set.

It does what a ledger does (load, decide, store), except that there is nothing to load or store. Tests of the
rules drive it; the model test compares a ledger with it.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from msgspec.structs import replace

from flashsale.core import exits, settlement, stock
from flashsale.core.books import Books
from flashsale.core.catalogue import Changed, Restock, SaleChange, SaleDraft, Shelf, change_sale
from flashsale.core.checkout import Checkout, Opened, open_order
from flashsale.core.journal import Kind, Stock, move
from flashsale.core.order import Order
from flashsale.core.payment import Due, Payment, PaymentStatus, Refund, Transaction
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item
from flashsale.core.reservation import RequestKind, Reservation
from flashsale.core.sale import Product, Sale
from flashsale.core.stock import Attempt, Granted

OPENING_MS = 1_800_000_000_000
"""When the sales of the tests begin."""
HOLD_MS = 120_000
"""How long their reservations are held."""
LEASE_MS = 10_000
FAILED, AUTHORIZED = PaymentStatus.FAILED, PaymentStatus.AUTHORIZED
VOIDED, CAPTURED = PaymentStatus.VOIDED, PaymentStatus.CAPTURED

Units = Mapping[str, int]


def a_product(sku_id: str = "lamp", limit: int = 1, price_minor: int = 1000, currency: str = "EUR") -> Product:
    return Product(sku_id, sku_id.title(), currency, 2 * price_minor, price_minor, limit)


def a_sale(*products: Product, sale_id: str = "sale", **terms: Any) -> Sale:
    """A sale that has begun and has no end, unless its terms say so."""
    given = {"name": "A sale", "starts_at_ms": OPENING_MS, **terms}
    return Sale(sale_id, products=products or (a_product(),), **given)


def a_draft(sale: Sale, units: int | Units = 10) -> SaleDraft:
    return SaleDraft(sale, _units(sale, units))


def an_attempt(user: str, *items: tuple[str, int], key: str | None = None, sale_id: str = "sale") -> Attempt:
    """A wish for one product, or a cart of several."""
    kind = RequestKind.SINGLE if len(items) <= 1 else RequestKind.CART
    wanted = tuple(Item(*item) for item in items) or (Item("lamp", 1),)
    return Attempt(user, sale_id, wanted, key, kind)


def a_checkout(*reservation_ids: str, transaction: str = "tx", user: str | None = None) -> Checkout:
    return Checkout(reservation_ids, user, "sandbox", transaction, "card", "Main Street 1", LEASE_MS)


def a_fact(payment: Payment, status: PaymentStatus, amount_minor: int | None = None) -> Transaction:
    """What a provider says of a payment; unless told otherwise, over the right amount."""
    amount = payment.amount_minor if amount_minor is None else amount_minor
    reason = "declined by the issuer" if status is FAILED else ""
    return Transaction(payment.transaction_id, status, amount, payment.currency, reason=reason)


def refusal_of(outcome: object) -> Refusal | None:
    return outcome.refusal if isinstance(outcome, Refused) else None


class Shop:
    """The rules with their books, at `now_ms`."""

    def __init__(self, *sales: Sale, units: int | Units = 10, now_ms: int = OPENING_MS) -> None:
        self.now_ms = now_ms
        numbers = count(1)
        self.new_id = lambda prefix: f"{prefix}{next(numbers)}"
        self.sales = {sale.sale_id: sale for sale in sales or (a_sale(),)}
        self.books = Books(self.sales)
        for sale in self.sales.values():
            for sku_id, total in _units(sale, units).items():
                row = self.books.stock[sale.sale_id, sku_id] = Stock(sale.sale_id, sku_id, 0)
                self.books.journal.append(move(row, Kind.STOCK, total, now_ms, None, "operator", "opening stock"))

    # What can be asked of it, as of a ledger.

    def decide(self, *attempts: Attempt) -> list[Granted | Refused]:
        """A batch, as a ledger decides it: what has lapsed goes back first."""
        exits.expire(self.books, self.now_ms)
        return stock.reserve(self.books, attempts, self.now_ms, self.new_id)

    def reserve(self, user: str, *items: tuple[str, int], key: str | None = None) -> Granted | Refused:
        return self.decide(an_attempt(user, *items, key=key))[0]

    def expire(self) -> int:
        return exits.expire(self.books, self.now_ms)

    def release(self, reservation_id: str, user: str | None = None) -> Reservation | Refused:
        return exits.release(self.books, reservation_id, user, self.now_ms)

    def open_order(self, checkout: Checkout) -> Opened | Refused:
        return open_order(self.books, checkout, self.now_ms, self.new_id)

    def settle(self, payment_id: str, fact: Transaction) -> Opened:
        return settlement.settle(self.books, payment_id, fact, self.now_ms, self.new_id, LEASE_MS)

    def cancel(self, order_id: str, user: str | None = None, reason: str = "") -> Order | Refused:
        return settlement.cancel_order(self.books, order_id, user, reason, self.now_ms, self.new_id)

    def paid_back(self, refund_id: str) -> Order:
        return settlement.refunded(self.books, refund_id, self.now_ms)

    def change(self, change: SaleChange) -> Changed | Refused:
        sale_id = change.sale_id if hasattr(change, "sale_id") else change.draft.sale.sale_id
        rows = {sku_id: row for (its_sale, sku_id), row in self.books.stock.items() if its_sale == sale_id}
        used = any(each.sale_id == sale_id for each in self.books.reservations.values())
        changed = change_sale(Shelf(self.sales, rows, used), change, self.now_ms)
        if isinstance(changed, Changed) and not changed.nothing:
            self._put(sale_id, changed, rows)
        return changed

    def _put(self, sale_id: str, changed: Changed, rows: dict[str, Stock]) -> None:
        self.sales.pop(sale_id, None)
        if changed.sale is not None:
            self.sales[sale_id] = changed.sale
        for line in [line for line in self.books.stock if line[0] == sale_id]:
            del self.books.stock[line]
        self.books.stock.update({(sale_id, sku_id): row for sku_id, row in rows.items() if changed.sale})
        self.books.journal.extend(changed.movements)

    # Short cuts of the tests.

    def pass_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms

    def held(self, user: str, *items: tuple[str, int], key: str | None = None) -> list[Reservation]:
        """Reservations that must be granted."""
        outcome = self.reserve(user, *items, key=key)
        assert isinstance(outcome, Granted), outcome
        return outcome.reservations

    def ordered(self, user: str = "ann", *items: tuple[str, int], transaction: str = "tx") -> Opened:
        """An order that waits for its payment."""
        reservations = self.held(user, *items)
        opened = self.open_order(a_checkout(*(each.reservation_id for each in reservations), transaction=transaction))
        assert isinstance(opened, Opened), opened
        return opened

    def paid(self, user: str = "ann", *items: tuple[str, int], transaction: str = "tx") -> Opened:
        opened = self.ordered(user, *items, transaction=transaction)
        return self.hear(opened, AUTHORIZED, CAPTURED)

    def hear(self, opened: Opened, *facts: PaymentStatus) -> Opened:
        for status in facts:
            opened = self.settle(opened.payment.payment_id, a_fact(opened.payment, status))
        return opened

    def restock(self, quantity: int, sku_id: str = "lamp") -> Changed | Refused:
        return self.change(Restock("sale", sku_id, quantity, "found in the cellar", "operator"))

    def terms(self, **terms: Any) -> None:
        """Changes the terms of the sale behind everybody's back."""
        self.sales["sale"] = replace(self.sales["sale"], **terms)

    def counters(self, sku_id: str = "lamp", sale_id: str = "sale") -> tuple[int, int, int]:
        """`(available, held, sold)`"""
        row = self.books.stock[sale_id, sku_id]
        return row.available, row.held, row.sold

    def due(self) -> dict[str, Due]:
        return {each.payment_id: each.due for each in self.books.payments.values() if each.due}

    def owed(self) -> list[Refund]:
        return [refund for refund in self.books.refunds.values() if not refund.done]


def reservations_of(granted: Sequence[Granted | Refused]) -> list[Reservation]:
    return [each for outcome in granted if isinstance(outcome, Granted) for each in outcome.reservations]


def _units(sale: Sale, units: int | Units) -> dict[str, int]:
    if isinstance(units, int):
        return {product.sku_id: units for product in sale.products}
    return {product.sku_id: units[product.sku_id] for product in sale.products if product.sku_id in units}
