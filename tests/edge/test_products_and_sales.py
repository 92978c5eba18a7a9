"""The shop window: what everybody can see of products and sales."""

import asyncio

import pytest
from edge.shop import LONG_AGO, Shop, product, said

FIELDS = [
    "skuId", "name", "description", "category", "basePrice", "flashSalePrice", "discountPercentage", "currency",
    "availableCount", "totalInventory", "isAvailable", "isActive", "imageUrl", "saleId", "startsAt", "endsAt",
]  # fmt: skip


async def test_a_product_shows_its_prices_its_discount_and_what_is_left(shop: Shop) -> None:
    await shop.open(product(description="Good", category="phones", imageUrl="https://example.com/p.png"))
    await shop.held()
    answer = await shop.ask("GET", "products/PHONE")
    told = answer.json()
    assert (answer.status_code, list(told)) == (200, FIELDS)
    assert b'"basePrice":1299.99,"flashSalePrice":999.99,"discountPercentage":23' in answer.content
    assert (told["availableCount"], told["totalInventory"], told["isAvailable"], told["isActive"]) == (
        9,
        10,
        True,
        True,
    )
    assert (told["description"], told["category"]) == ("Good", "phones")
    assert (told["imageUrl"], told["saleId"]) == ("https://example.com/p.png", "S1")
    assert (told["startsAt"], told["endsAt"]) == (LONG_AGO, None)
    assert (await shop.ask("GET", "products/PHONE/availability")).json() == told
    assert (await shop.ask("GET", "products")).json() == [told]


async def test_what_is_sold_out_paused_or_not_begun_is_not_available(shop: Shop) -> None:
    await shop.open(product("GONE", stock=0), id="S1")
    await shop.open(product("SOON"), id="S2", startsAt="2999-01-01T00:00:00Z")
    await shop.open(product("HALT"), id="S3")
    await shop.operate("POST", "sales/S3/pause")
    told = {each["skuId"]: each for each in (await shop.ask("GET", "products")).json()}
    assert {sku: (each["isActive"], each["isAvailable"]) for sku, each in told.items()} == {
        "GONE": (True, False), "SOON": (False, False), "HALT": (False, False),
    }  # fmt: skip


async def test_availability_follows_a_reservation_within_100_ms(shop: Shop) -> None:
    await shop.open()
    assert (await shop.ask("GET", "products/PHONE/availability")).json()["availableCount"] == 10
    await shop.held()
    await asyncio.sleep(0.1)
    assert (await shop.ask("GET", "products/PHONE/availability")).json()["availableCount"] == 9


@pytest.mark.parametrize(
    ("currency", "base", "price", "shown"),
    [
        ("JPY", 130_000, 99_999, b'"basePrice":130000,"flashSalePrice":99999,'),
        ("USD", 1, 0.1, b'"basePrice":1.00,"flashSalePrice":0.10,'),
        ("KWD", 1.005, 0.001, b'"basePrice":1.005,"flashSalePrice":0.001,'),
        ("EUR", 9_999_999_999.99, 0, b'"basePrice":9999999999.99,"flashSalePrice":0.00,'),
    ],
)
async def test_prices_have_the_decimals_of_their_currency(
    shop: Shop, currency: str, base: float, price: float, shown: bytes
) -> None:
    await shop.open(product(currency=currency, basePrice=base, flashSalePrice=price))
    assert shown in (await shop.ask("GET", "products/PHONE")).content


async def test_a_sale_shows_its_state_its_products_and_the_time_of_the_server(shop: Shop) -> None:
    await shop.open(product("A"), product("B"), endsAt="2999-01-01T00:00:00Z")
    answer = await shop.ask("GET", "sales/S1")
    told = answer.json()
    assert (answer.status_code, told["id"], told["state"]) == (200, "S1", "ACTIVE")
    assert (told["startsAt"], told["endsAt"]) == (LONG_AGO, "2999-01-01T00:00:00Z")
    assert told["serverTime"] > "2026"
    assert [each["skuId"] for each in told["products"]] == ["A", "B"]
    assert list(told["products"][0]) == FIELDS
    assert (await shop.ask("GET", "sales")).json()[0] == told | {"serverTime": told["serverTime"]}


async def test_a_sale_tells_the_operator_s_secrets_to_nobody(shop: Shop) -> None:
    await shop.open()
    told = (await shop.ask("GET", "sales/S1")).json()
    assert not {"version", "latePayment", "createdAt"} & told.keys()
    assert not {"held", "sold"} & told["products"][0].keys()


@pytest.mark.parametrize(
    ("switches", "state"),
    [((), "ACTIVE"), (("pause",), "PAUSED"), (("pause", "resume"), "ACTIVE"), (("end",), "ENDED")],
)
async def test_a_sale_is_what_its_operator_has_made_it(shop: Shop, switches: tuple[str, ...], state: str) -> None:
    await shop.open()
    for switch in switches:
        await shop.operate("POST", f"sales/S1/{switch}")
    assert (await shop.ask("GET", "sales/S1")).json()["state"] == state


async def test_a_draft_is_not_shown_before_it_has_a_start(shop: Shop) -> None:
    await shop.open(startsAt=None)
    assert (await shop.ask("GET", "sales")).json() == []
    assert (await shop.ask("GET", "products")).json() == []
    assert said(await shop.ask("GET", "sales/S1")) == (404, "NOT_FOUND")
    await shop.operate("POST", "sales/S1/start")
    assert (await shop.ask("GET", "sales/S1")).json()["state"] == "ACTIVE"
    assert (await shop.ask("GET", "products/PHONE")).status_code == 200


@pytest.mark.parametrize("path", ["products/NONE", "products/NONE/availability", "sales/NONE", "sales/%20"])
async def test_what_does_not_exist_is_not_found(shop: Shop, path: str) -> None:
    assert said(await shop.ask("GET", path)) == (404, "NOT_FOUND")
