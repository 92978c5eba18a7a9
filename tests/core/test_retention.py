"""What may be forgotten, and what stays of it."""

import pytest
from core.shop import OPENING_MS, a_sale
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.journal import Kind, Stock, move
from flashsale.core.retention import EVERYTHING, Base, Reach, carried, kept_sales, oldest, quiet

MOVES = st.lists(st.tuples(st.sampled_from(Kind), st.integers(-5, 5), st.sampled_from([None, "res_1"])), min_size=1)


def movements(moves):
    stock = Stock("sale", "lamp", 0)
    return [move(stock, kind, quantity, 7, reservation_id, "ann") for kind, quantity, reservation_id in moves]


# -- The base


@given(MOVES, st.data())
def test_a_base_is_what_the_movements_have_come_to_wherever_they_are_cut(moves, data):
    rows = movements(moves)
    cut = data.draw(st.integers(0, len(rows)))
    base = carried(carried(Base("sale", "lamp"), rows[:cut]), rows[cut:])
    last = rows[-1]
    counters = (last.sku_seq, last.total_after, last.held_after, last.sold_after)
    reserved = sum(row.reservation_id is not None for row in rows)
    assert base == Base("sale", "lamp", *counters, reserved)


@pytest.mark.parametrize("field", ["sku_seq", "quantity", "total_after", "held_after", "sold_after"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_movements_that_do_not_add_up_have_no_base(field, place):
    rows = movements([(Kind.STOCK, 10, None), *[(Kind.RESERVE, 2, "res_1")] * 4])
    rows[place] = rows[place]._replace(**{field: getattr(rows[place], field) + 1})
    assert carried(Base("sale", "lamp"), rows) is None


def test_a_movement_that_is_missing_has_no_base():
    rows = movements([(Kind.STOCK, 10, None), *[(Kind.RESERVE, 2, "res_1")] * 4])
    assert carried(Base("sale", "lamp"), rows[:2] + rows[3:]) is None
    assert carried(Base("sale", "lamp"), rows[1:]) is None


# -- How far


@pytest.mark.parametrize(
    ("seq", "at_ms", "may_go"),
    [
        (5, 99, True),  # old
        (5, 100, False),  # neither old nor too many
        (3, 100, True),  # too many
        (8, 99, True),  # the last that was passed on
        (9, 99, False),  # not passed on, however old
    ],
)
def test_a_row_may_go_when_it_was_passed_on_and_is_old_or_one_too_many(seq, at_ms, may_go):
    assert Reach(passed=8, beyond=3, before_ms=100).allows(seq, at_ms) is may_go


def test_rows_go_from_the_oldest_on_and_never_from_behind_one_that_stays():
    reach = Reach(EVERYTHING, 0, before_ms=100)
    assert oldest([(1, 98), (2, 99), (3, 100), (4, 99)], reach) == 2
    assert oldest([(1, 100), (2, 99)], reach) == 0
    assert oldest([], reach) == 0


def test_the_movements_of_a_product_are_as_old_as_its_newest():
    reach = Reach(EVERYTHING, 3, before_ms=100)
    assert quiet(reach, newest_ms=99).allows(5, 1)
    assert not quiet(reach, newest_ms=100).allows(5, 1)
    assert quiet(reach, newest_ms=100).allows(3, 1), "one too many is one too many"


# -- Which sales


def test_of_a_sale_that_has_not_ended_everything_is_kept():
    sales = [
        a_sale(sale_id="draft", starts_at_ms=None),
        a_sale(sale_id="scheduled", starts_at_ms=OPENING_MS + 1),
        a_sale(sale_id="active", starts_at_ms=OPENING_MS),
        a_sale(sale_id="paused", starts_at_ms=OPENING_MS, paused=True),
        a_sale(sale_id="ended", starts_at_ms=OPENING_MS, ended=True),
        a_sale(sale_id="over", starts_at_ms=0, ends_at_ms=OPENING_MS),
    ]
    assert kept_sales(sales, OPENING_MS) == {"draft", "scheduled", "active", "paused"}
