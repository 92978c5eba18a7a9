"""The journal: what each kind of movement does to the counters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.journal import EFFECT, Kind, Movement, Stock, move

EFFECTS = {
    #            total held sold
    "STOCK": (1, 0, 0),
    "RESERVE": (0, 1, 0),
    "RELEASE": (0, -1, 0),
    "EXPIRE": (0, -1, 0),
    "CONFIRM": (0, -1, 1),
    "HONOUR": (0, 0, 1),
    "RETURN": (0, 0, -1),
    "RESTOCK": (1, 0, 0),
    "ADJUST": (1, 0, 0),
}


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_movement_has_its_effect(kind):
    assert EFFECT[kind] == EFFECTS[kind]


@given(st.lists(st.tuples(st.sampled_from(Kind), st.integers(-5, 5)), min_size=1))
def test_counters_are_the_sum_of_their_journal_and_numbers_have_no_gaps(movements):
    stock = Stock("sale", "lamp", 0)
    rows = [move(stock, kind, quantity, 7, None, "ann") for kind, quantity in movements]
    for counter, now in enumerate((stock.total, stock.held, stock.sold)):
        assert now == sum(EFFECT[row.kind][counter] * row.quantity for row in rows)
    assert [row.sku_seq for row in rows] == list(range(1, len(rows) + 1))
    assert after(rows[-1]) == (stock.total, stock.held, stock.sold)


@given(st.sampled_from(Kind), st.integers(-5, 5))
def test_a_row_tells_what_was_available_before_and_after(kind, quantity):
    stock = Stock("sale", "lamp", 100, 20, 20)
    row = move(stock, kind, quantity, 7, "res_1", "ann")
    assert (row.available_before, row.available_after) == (60, stock.available)


def after(row: Movement) -> tuple[int, int, int]:
    return row.total_after, row.held_after, row.sold_after
