"""The journal: every movement of stock, and what each kind of movement does to the counters.

A counter never changes without a journal row, and a row never changes a counter by anything but its
entry in `EFFECT`. So the counters are, at any time, the sum of their journal: that is what
reconciliation proves. `sku_seq` is assigned under the stock lock and has no gaps.

The journal also is the outbox of stock and of reservations: every transition of a reservation moves units,
so its row says all there is to tell, once, in the transition's own transaction.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Kind(StrEnum):
    STOCK = "STOCK"
    """The units a sale opens with."""
    RESERVE = "RESERVE"
    RELEASE = "RELEASE"
    EXPIRE = "EXPIRE"
    CONFIRM = "CONFIRM"
    HONOUR = "HONOUR"
    """Late money: units are sold straight from what is available."""
    RETURN = "RETURN"
    RESTOCK = "RESTOCK"
    ADJUST = "ADJUST"
    """An operator changed the total; the quantity may be negative."""


class Effect(NamedTuple):
    """By how many units per unit of quantity each counter changes."""

    total: int
    held: int
    sold: int


EFFECT: dict[Kind, Effect] = {
    Kind.STOCK: Effect(1, 0, 0),
    Kind.RESERVE: Effect(0, 1, 0),
    Kind.RELEASE: Effect(0, -1, 0),
    Kind.EXPIRE: Effect(0, -1, 0),
    Kind.CONFIRM: Effect(0, -1, 1),
    Kind.HONOUR: Effect(0, 0, 1),
    Kind.RETURN: Effect(0, 0, -1),
    Kind.RESTOCK: Effect(1, 0, 0),
    Kind.ADJUST: Effect(1, 0, 0),
}


class Stock(msgspec.Struct):
    """The counters of one product in one sale. The ledger holds `held >= 0, sold >= 0, held + sold <= total`."""

    sale_id: str
    sku_id: str
    total: int
    held: int = 0
    sold: int = 0
    sku_seq: int = 0

    @property
    def available(self) -> int:
        return self.total - self.held - self.sold


class Movement(NamedTuple):
    """One journal row, with the counters after it."""

    sale_id: str
    sku_id: str
    sku_seq: int
    kind: Kind
    quantity: int
    total_after: int
    held_after: int
    sold_after: int
    reservation_id: str | None
    actor: str
    reason: str
    at_ms: int
    trace_id: str | None = None
    """The trace of the request that moved these units."""

    @property
    def available_after(self) -> int:
        return self.total_after - self.held_after - self.sold_after

    @property
    def available_before(self) -> int:
        effect = EFFECT[self.kind]
        return self.available_after - self.quantity * (effect.total - effect.held - effect.sold)


def move(
    stock: Stock, kind: Kind, quantity: int, now_ms: int, reservation_id: str | None, actor: str, reason: str = "",
    trace_id: str | None = None,
) -> Movement:  # fmt: skip
    """Changes the counters by one movement and returns its journal row. The caller has checked that it fits."""
    add_total, add_held, add_sold = EFFECT[kind]
    stock.total += add_total * quantity
    stock.held += add_held * quantity
    stock.sold += add_sold * quantity
    stock.sku_seq += 1
    return Movement(
        stock.sale_id, stock.sku_id, stock.sku_seq, kind, quantity, stock.total, stock.held, stock.sold,
        reservation_id, actor, reason, now_ms, trace_id,
    )  # fmt: skip
