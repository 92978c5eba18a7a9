"""Money is an integer of minor units: nothing is rounded, nothing is lost."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.money import PRICE_MINOR_MAX, decimals, discount_percentage, show, to_minor

AMOUNTS = [
    # amount    currency  minor    shown
    ("999.99", "USD", 99999, "999.99"),
    ("999.9", "USD", 99990, "999.90"),
    ("1000", "USD", 100000, "1000.00"),
    ("0", "USD", 0, "0.00"),
    ("0.01", "EUR", 1, "0.01"),
    ("1500", "JPY", 1500, "1500"),
    ("1.234", "KWD", 1234, "1.234"),
    ("1E+2", "USD", 10000, "100.00"),
    ("10000000000.00", "USD", PRICE_MINOR_MAX, "10000000000.00"),
]


@pytest.mark.parametrize(("amount", "currency", "minor", "shown"), AMOUNTS)
def test_an_amount_has_its_currencys_decimals(amount, currency, minor, shown):
    assert to_minor(Decimal(amount), currency) == minor
    assert show(minor, currency) == shown


@pytest.mark.parametrize(
    ("amount", "currency"),
    [("0.001", "USD"), ("0.5", "JPY"), ("1.2345", "KWD"), ("-0.01", "USD"), ("10000000000.01", "USD")],
)
def test_an_amount_that_does_not_fit_is_refused_not_rounded(amount, currency):
    with pytest.raises(ValueError, match=r"decimals|between"):
        to_minor(Decimal(amount), currency)


@given(st.integers(0, PRICE_MINOR_MAX), st.sampled_from(["USD", "JPY", "KWD", "XYZ"]))
def test_what_is_shown_reads_back_as_it_was(minor, currency):
    assert to_minor(Decimal(show(minor, currency)), currency) == minor


@given(st.integers(0, PRICE_MINOR_MAX))
def test_a_double_shows_every_price_exactly(minor):
    assert round(float(show(minor, "USD")) * 100) == minor


def test_an_unknown_currency_has_two_decimals():
    assert (decimals("XYZ"), decimals("JPY"), decimals("BHD")) == (2, 0, 3)


@pytest.mark.parametrize(
    ("base", "price", "percent"),
    [(129999, 99999, 23), (200, 100, 50), (1000, 995, 1), (1000, 996, 0), (100, 0, 100), (100, 100, 0), (100, 200, 0),
     (0, 0, 0)],
)  # fmt: skip
def test_a_discount_is_whole_percent_rounded_half_up(base, price, percent):
    assert discount_percentage(base, price) == percent
