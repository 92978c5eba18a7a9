"""Whose turn it is: high priority first, nobody starves, every line in its order."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.request import BATCH_MAX, HIGH_TURNS
from flashsale.core.turns import SLICE_BATCH_MAX, pick

Waiting = tuple[str, str, int]
"""Line, product, number in the line."""


def line(name: str, *products: str) -> list[Waiting]:
    return [(name, product, number) for number, product in enumerate(products)]


def product_of(waiting: Waiting) -> str:
    return waiting[1]


def pattern(items: list[Waiting]) -> str:
    return "".join(name for name, _, _ in items)


def test_high_priority_goes_first_and_each_fifth_turn_is_for_normal():
    picked = pick(line("H", *"a" * 9), line("n", *"a" * 3), product_of)
    assert pattern(picked.items) == "HHHHnHHHHnHn"


def test_where_nobody_of_normal_priority_waits_high_priority_goes_on():
    assert pattern(pick(line("H", *"a" * 6), [], product_of).items) == "HHHHHH"


def test_turns_are_counted_across_batches():
    assert pattern(pick(line("H", "a"), line("n", "a"), product_of, in_a_row=4).items) == "nH"
    assert pick(line("H", "a", "a"), [], product_of, in_a_row=1).in_a_row == 3


def test_high_priority_waits_for_somebody_of_normal_priority_who_is_still_on_his_way():
    picked = pick(line("H", *"a" * 9), [], product_of, more=True)
    assert pattern(picked.items) == "HHHH"
    assert pick(line("H", "a"), [], product_of, picked.in_a_row, more=True).items == []


def test_a_batch_has_at_most_250_of_a_product():
    picked = pick([], line("n", *"a" * 300), product_of)
    assert len(picked.items) == picked.normal == BATCH_MAX == 250


def test_a_batch_has_at_most_500_in_all():
    picked = pick([], line("n", *"abc" * 200), product_of)
    assert len(picked.items) == SLICE_BATCH_MAX == 500


def test_whoever_comes_after_the_last_of_a_product_waits_with_him():
    picked = pick([], line("n", *"a" * 251, "b"), product_of)
    assert picked.normal == 250
    assert {product for _, product, _ in picked.items} == {"a"}


products = st.lists(st.sampled_from("abc"), max_size=700)


@given(products, products)
def test_batch_after_batch_everybody_gets_his_turn_in_order_and_nobody_starves(highs, normals):
    high, normal = line("H", *highs), line("n", *normals)
    in_a_row, went = 0, []
    while high or normal:
        picked = pick(high, normal, product_of, in_a_row)
        assert picked.items
        assert picked.high + picked.normal == len(picked.items)
        went += picked.items
        high, normal, in_a_row = high[picked.high :], normal[picked.normal :], picked.in_a_row
    assert [each for each in went if each[0] == "H"] == line("H", *highs)
    assert [each for each in went if each[0] == "n"] == line("n", *normals)
    runs = [(name, len(list(run))) for name, run in groupby(pattern(went))]
    assert all(length <= HIGH_TURNS for name, length in runs[:-1] if name == "H")
