"""What may be forgotten of what was told, and what stays of it.

An event that everybody has read is of no more use; a movement of stock is, because the counters are proven by adding
their movements up. So the movements of a product go from the oldest on, and what they have come to stays in one row,
its base: from there on the sums still have to meet the counters, and the numbers still have no gap. Movements that do
not add up are evidence, and stay.

Of a sale that has not ended everything is kept. Of one that has, the movements of a product go when nothing has moved
it for the time that events are kept: a late refund brings that time back, and goes with what comes after the base.
"""

from collections.abc import Iterable, Sequence
from itertools import takewhile

import msgspec

from flashsale.core.journal import EFFECT, Movement
from flashsale.core.sale import Sale, SaleState, state_at

EVERYTHING = 2**63 - 1
"""A number that no row has."""


class Base(msgspec.Struct, frozen=True, array_like=True):
    """What the forgotten movements of a product have come to; the first that is kept has the number after `sku_seq`."""

    sale_id: str
    sku_id: str
    sku_seq: int = 0
    total: int = 0
    held: int = 0
    sold: int = 0
    reservations: int = 0
    """How many of the movements were a reservation's."""


class Reach(msgspec.Struct, frozen=True):
    """How far may be forgotten: what has been passed on, and is old or one of too many."""

    passed: int
    """Everybody who passes events on has passed on the rows up to this number."""
    beyond: int
    """The rows up to this number are not among the newest that are kept."""
    before_ms: int
    """What happened before is old."""

    def allows(self, seq: int, at_ms: int) -> bool:
        return seq <= self.passed and (seq <= self.beyond or at_ms < self.before_ms)


def kept_sales(sales: Iterable[Sale], now_ms: int) -> frozenset[str]:
    """The sales of which everything is kept."""
    return frozenset(sale.sale_id for sale in sales if state_at(sale, now_ms) is not SaleState.ENDED)


def oldest(rows: Sequence[tuple[int, int]], reach: Reach) -> int:
    """How many of the rows (number and time, in their order) may go: never one behind one that stays."""
    return sum(1 for _ in takewhile(lambda row: reach.allows(*row), rows))


def quiet(reach: Reach, newest_ms: int) -> Reach:
    """The same for one product: its movements are as old as its newest."""
    return reach if newest_ms < reach.before_ms else Reach(reach.passed, reach.beyond, 0)


def carried(base: Base, movements: Sequence[Movement]) -> Base | None:
    """The base with the movements that follow it added; None when they do not add up."""
    sku_seq, total, held, sold = base.sku_seq, base.total, base.held, base.sold
    for row in movements:
        effect = EFFECT[row.kind]
        sku_seq += 1
        total += effect.total * row.quantity
        held += effect.held * row.quantity
        sold += effect.sold * row.quantity
        if (sku_seq, total, held, sold) != (row.sku_seq, row.total_after, row.held_after, row.sold_after):
            return None
    reserved = sum(1 for row in movements if row.reservation_id is not None)
    return Base(base.sale_id, base.sku_id, sku_seq, total, held, sold, base.reservations + reserved)
