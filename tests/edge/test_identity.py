"""Identity `open`: who is asking is what body, header and path say, and they must agree."""

import pytest
from edge.shop import Shop, faults, said, transaction

ALICE, BOB = {"X-User-ID": "alice"}, {"X-User-ID": "bob"}
DIFFERS = {"userId": "differs from header X-User-ID"}


async def test_the_header_alone_says_who_reserves(shop: Shop) -> None:
    await shop.open()
    answer = await shop.ask("POST", "reservations", {"skuId": "PHONE"}, headers=ALICE)
    assert (answer.status_code, answer.json()["userId"]) == (201, "alice")


async def test_somebody_must_reserve(shop: Shop) -> None:
    await shop.open()
    missing = {"userId": "is required, here or in header X-User-ID"}
    assert faults(await shop.ask("POST", "reservations", {"skuId": "PHONE"})) == missing
    assert faults(await shop.ask("POST", "reservations/cart", {"items": [{"skuId": "PHONE"}]})) == missing


async def test_body_header_and_path_must_agree(shop: Shop) -> None:
    await shop.open()
    cart = {"items": [{"skuId": "PHONE"}], "userId": "alice"}
    checkout = {"reservationId": "res_1", "paymentTransactionId": "p", "userId": "alice"}
    assert faults(await shop.ask("POST", "reservations", {"skuId": "PHONE", "userId": "alice"}, headers=BOB)) == DIFFERS
    assert faults(await shop.ask("POST", "reservations/cart", cart, headers=BOB)) == DIFFERS
    assert faults(await shop.ask("POST", "orders/checkout", checkout, headers=BOB)) == DIFFERS
    assert faults(await shop.ask("GET", "reservations/user/alice/active", headers=BOB)) == DIFFERS
    assert faults(await shop.ask("GET", "orders/user/alice", headers=BOB)) == DIFFERS
    assert (await shop.ask("POST", "reservations/cart", cart, headers=ALICE)).status_code == 201
    assert (await shop.ask("GET", "orders/user/alice", headers=ALICE)).status_code == 200


async def test_two_headers_that_differ_are_refused(shop: Shop) -> None:
    await shop.open()
    twice = [("X-User-ID", "alice"), ("X-User-ID", "bob")]
    assert list(faults(await shop.ask("POST", "reservations", {"skuId": "PHONE"}, headers=twice))) == ["x-user-id"]
    assert list(faults(await shop.ask("GET", "reservations/res_1", headers=twice))) == ["x-user-id"]


@pytest.mark.parametrize("name", ["a b", "", "x" * 129, "\u00e9".encode(), "a/b"])
@pytest.mark.parametrize("path", ["reservations/res_1", "orders/ord_1", "orders/user/alice"])
async def test_a_malformed_user_in_the_header_is_refused(shop: Shop, path: str, name: str | bytes) -> None:
    assert list(faults(await shop.ask("GET", path, headers={"X-User-ID": name}))) == ["userId"]


@pytest.mark.parametrize("name", ["a%20b", "x" * 129, "%C3%A9", "%00"])
async def test_a_malformed_user_in_the_path_is_refused(shop: Shop, name: str) -> None:
    assert list(faults(await shop.ask("GET", f"reservations/user/{name}/active"))) == ["userId"]
    assert list(faults(await shop.ask("GET", f"orders/user/{name}"))) == ["userId"]


async def test_its_id_alone_is_enough_to_read_pay_or_cancel(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held("alice")
    assert (await shop.ask("GET", f"reservations/{reservation_id}")).status_code == 200
    order_id = (await shop.checkout(reservation_id)).json()["orderId"]
    assert (await shop.ask("GET", f"orders/{order_id}")).status_code == 200
    assert (await shop.ask("DELETE", f"orders/{order_id}")).status_code == 200
    assert (await shop.ask("GET", f"orders/{order_id}/status")).status_code == 200


async def test_whoever_is_named_must_own_it(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held("alice")
    pay = {"reservationId": reservation_id, "paymentTransactionId": transaction()}
    assert said(await shop.ask("GET", f"reservations/{reservation_id}", headers=BOB)) == (404, "NOT_FOUND")
    assert said(await shop.ask("DELETE", f"reservations/{reservation_id}", headers=BOB)) == (404, "NOT_FOUND")
    assert said(await shop.ask("POST", "orders/checkout", pay, headers=BOB)) == (404, "NOT_FOUND")
    assert said(await shop.ask("POST", "orders/checkout", pay | {"userId": "bob"})) == (404, "NOT_FOUND")
    answer = await shop.ask("POST", "orders/checkout", pay, headers=ALICE)
    order_id = answer.json()["orderId"]
    for path in (f"orders/{order_id}", f"orders/{order_id}/status", f"orders/reservation/{reservation_id}"):
        assert said(await shop.ask("GET", path, headers=BOB)) == (404, "NOT_FOUND")
        assert (await shop.ask("GET", path, headers=ALICE)).status_code == 200
    assert said(await shop.ask("DELETE", f"orders/{order_id}", headers=BOB)) == (404, "NOT_FOUND")
    assert (await shop.ask("DELETE", f"orders/{order_id}", headers=ALICE)).status_code == 200
    assert (await shop.ask("GET", f"orders/{order_id}", headers=ALICE)).json()["status"] in ("REFUNDING", "REFUNDED")
