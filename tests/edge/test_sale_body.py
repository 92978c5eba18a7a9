"""What a sale may be, and how its mistakes are told: all at once, with field and remedy."""

import tomllib
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from edge.shop import product, sale

from flashsale.core.catalogue import SaleDraft
from flashsale.core.refusal import Refused
from flashsale.edge.sale_body import sale_draft


def accepted(body: dict[str, Any] | bytes) -> SaleDraft:
    draft = sale_draft(body)
    assert isinstance(draft, SaleDraft), draft
    return draft


def refused(body: dict[str, Any] | bytes) -> dict[str, str]:
    outcome = sale_draft(body)
    assert isinstance(outcome, Refused)
    return {each["field"]: each["message"] for each in outcome.details["errors"]}


def test_a_sale_that_says_the_least_has_the_documented_defaults() -> None:
    least = {"name": "Sale", "products": [{"skuId": "A", "name": "a", "flashSalePrice": 1, "stock": 0}]}
    draft = accepted(least)
    sale, [only] = draft.sale, draft.sale.products
    assert (sale.starts_at_ms, sale.ends_at_ms, sale.reservation_seconds) == (None, None, 120)
    assert (sale.mode, sale.late_payment, sale.settlement) == ("direct", "honour", "online")
    assert (only.currency, only.base_price_minor, only.price_minor, only.per_user_limit) == ("USD", 100, 100, 1)
    assert draft.units == {"A": 0}


def test_a_toml_file_is_read_like_json() -> None:
    text = """
        name = "Sale"
        startsAt = 2026-01-15T10:00:00+01:00
        [[products]]
        skuId = "A"
        name = "a"
        basePrice = 1299.99
        flashSalePrice = 999.99
        stock = 1000
    """
    draft = accepted(tomllib.loads(text))
    assert draft.sale.starts_at_ms == 1_768_467_600_000
    assert draft.sale.products[0].price_minor == 99_999
    assert accepted(tomllib.loads(text, parse_float=Decimal)).sale.products == draft.sale.products


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        (b"999.99", "USD", 99_999),
        (b"0.1", "USD", 10),
        (b"0.29", "USD", 29),
        (b"1.005", "KWD", 1005),
        (b"99999", "JPY", 99_999),
        (b"1.50e2", "USD", 15_000),
        (b"9999999999.99", "USD", 999_999_999_999),
        (b"0", "USD", 0),
        (b"1.0", "JPY", 1),
    ],
)
def test_prices_are_exact(text: bytes, currency: str, minor: int) -> None:
    body = msgspec.json.encode(sale(product(currency=currency, flashSalePrice=msgspec.Raw(text), basePrice=None)))
    assert accepted(body).sale.products[0].price_minor == minor


@pytest.mark.parametrize(
    "text",
    [b"-0.01", b'"9.99"', b"true", b"null", b"9.999", b"1e99", b"1e-3", b"1000000000000000000", b"999.9900000000000001",
     b"10000000000.01", b"[1]", b"{}"],
)  # fmt: skip
def test_what_is_no_price_is_refused(text: bytes) -> None:
    body = msgspec.json.encode(sale(product(flashSalePrice=msgspec.Raw(text))))
    assert list(refused(body)) == ["products[0].flashSalePrice"]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-01-15T10:00:00Z", 1_768_471_200_000),
        ("2026-01-15T11:00:00+01:00", 1_768_471_200_000),
        ("2026-01-15t10:00:00.250z", 1_768_471_200_250),
        ("1970-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
    ],
)
def test_times_are_rfc_3339(text: str, ms: int) -> None:
    assert accepted(sale(startsAt=text)).sale.starts_at_ms == ms


@pytest.mark.parametrize(
    "text",
    ["", "2026-01-15", "2026-01-15T10:00:00", "2026-01-15T10:00Z", "15.01.2026", "2026-02-30T00:00:00Z",
     "2026-01-15T25:00:00Z", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00Z", "now"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text: str) -> None:
    assert list(refused(sale(startsAt=text))) == ["startsAt"]
    assert list(refused(sale(endsAt=text))) == ["endsAt"]


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"settlement": "manual"}, "settlement"),
        ({"oneActiveHold": True}, "oneActiveHold"),
    ],
)
def test_what_comes_later_says_so(terms: dict[str, Any], field: str) -> None:
    assert "not available yet" in refused(sale(**terms))[field]


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": 5}, "name"),
        ({"id": "a b"}, "id"),
        ({"id": "x" * 65}, "id"),
        ({"products": None}, "products"),
        ({"products": []}, "products"),
        ({"products": [product(f"P{number}") for number in range(101)]}, "products"),
        ({"reservationSeconds": 0}, "reservationSeconds"),
        ({"reservationSeconds": 86_401}, "reservationSeconds"),
        ({"mode": "fast"}, "mode"),
        ({"latePayment": "keep"}, "latePayment"),
        ({"settlement": "barter"}, "settlement"),
        ({"waitingRoom": {"colour": "red"}}, "waitingRoom.colour"),
        ({"state": "ACTIVE"}, "state"),
        ({"requireDevice": "yes"}, "requireDevice"),
        ({"perDeviceLimit": 0}, "perDeviceLimit"),
        ({"perAddressLimit": 10_001}, "perAddressLimit"),
        ({"version": 3}, "version"),
    ],
)
def test_a_mistake_in_the_terms_names_its_field(terms: dict[str, Any], field: str) -> None:
    assert list(refused(sale(**terms))) == [field]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"skuId": "a b"}, "skuId"),
        ({"skuId": ""}, "skuId"),
        ({"name": ""}, "name"),
        ({"currency": "usd"}, "currency"),
        ({"currency": "USDT"}, "currency"),
        ({"currency": "USD\n"}, "currency"),
        ({"stock": -1}, "stock"),
        ({"stock": 10**9 + 1}, "stock"),
        ({"stock": 1.5}, "stock"),
        ({"perUserLimit": 0}, "perUserLimit"),
        ({"perUserLimit": 10_001}, "perUserLimit"),
        ({"description": "x" * 10_001}, "description"),
        ({"category": "x" * 101}, "category"),
        ({"imageUrl": "javascript:alert(1)"}, "imageUrl"),
        ({"held": 3}, "held"),
    ],
)
def test_a_mistake_in_a_product_names_its_field(change: dict[str, Any], field: str) -> None:
    assert list(refused(sale(product("A"), product(**change)))) == [f"products[1].{field}"]


def test_all_mistakes_are_told_at_once() -> None:
    body = sale(
        product("A", flashSalePrice=9.999),
        product("A", basePrice="9"),
        mode="fast",
        startsAt="soon",
        oneActiveHold=True,
    )
    assert set(refused(body)) == {
        "mode", "oneActiveHold", "startsAt", "products[1].skuId", "products[0].flashSalePrice", "products[1].basePrice",
    }  # fmt: skip


def test_a_name_given_twice_is_refused() -> None:
    assert list(refused(b'{"name":"a","name":"b","products":[]}')) != []
    text = msgspec.json.encode(sale()).replace(b'"stock":10', b'"stock":10,"stock":11')
    assert list(refused(text)) == ["products[0].stock"]
