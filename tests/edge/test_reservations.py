"""Reserving, reading and giving back, as a buyer sees it over HTTP."""

import asyncio
import re

import pytest
from edge.shop import Shop, faults, product, said


async def test_a_reservation_tells_what_is_held_for_whom_until_when_and_at_which_price(shop: Shop) -> None:
    await shop.open()
    answer = await shop.reserve("alice", quantity=1)
    told = answer.json()
    assert answer.status_code == 201
    assert list(told) == [
        "reservationId", "userId", "skuId", "quantity", "status", "unitPrice", "currency", "expiresAt", "createdAt",
        "expiresInSeconds",
    ]  # fmt: skip
    assert re.fullmatch(r"res_[A-Za-z0-9]+", told["reservationId"])
    assert (told["userId"], told["skuId"], told["quantity"], told["status"]) == ("alice", "PHONE", 1, "RESERVED")
    assert b'"unitPrice":999.99,"currency":"USD"' in answer.content
    assert 119 <= told["expiresInSeconds"] <= 120


async def test_an_answer_carries_its_type_and_length_and_nothing_else(shop: Shop) -> None:
    await shop.open()
    answer = await shop.reserve()
    assert [name for name, _ in answer.headers.items()] == ["content-type", "content-length"]


async def test_a_request_repeated_with_its_key_has_the_same_answer_and_says_so(shop: Shop) -> None:
    await shop.open()
    first = await shop.reserve(requestKey="k1")
    again = await shop.ask(
        "POST", "reservations", {"skuId": "PHONE", "userId": "alice"}, headers={"Idempotency-Key": "k1"}
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["reservationId"] == first.json()["reservationId"]
    assert "idempotent-replay" not in first.headers
    assert again.headers["idempotent-replay"] == "true"


async def test_a_repeated_request_is_answered_even_after_the_sale_has_ended(shop: Shop) -> None:
    await shop.open()
    first = await shop.reserve(requestKey="k1")
    await shop.operate("POST", "sales/S1/end")
    again = await shop.reserve(requestKey="k1")
    assert (again.status_code, again.json()["reservationId"]) == (201, first.json()["reservationId"])


async def test_a_reservation_can_be_read_by_its_id_alone(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    answer = await shop.ask("GET", f"reservations/{reservation_id}")
    assert (answer.status_code, answer.json()["reservationId"]) == (200, reservation_id)


@pytest.mark.parametrize("wait", ["0", "10"])
async def test_waiting_for_a_reservation_that_is_decided_answers_at_once(shop: Shop, wait: str) -> None:
    await shop.open()
    reservation_id = await shop.held()
    async with asyncio.timeout(2):
        answer = await shop.ask("GET", f"reservations/{reservation_id}?wait={wait}")
    assert answer.json()["status"] == "RESERVED"


@pytest.mark.parametrize("wait", ["11", "-1", "1.5", "soon", "", "1" * 5000, "%D9%A3"])
async def test_a_wait_that_is_no_number_from_0_to_10_is_refused(shop: Shop, wait: str) -> None:
    answer = await shop.ask("GET", f"reservations/res_1?wait={wait}")
    assert faults(answer) == {"wait": "must be a whole number from 0 to 10"}


async def test_units_given_back_are_on_sale_again_and_giving_them_back_twice_changes_nothing(shop: Shop) -> None:
    await shop.open(product(stock=1))
    reservation_id = await shop.held("alice")
    assert said(await shop.reserve("bob")) == (409, "SOLD_OUT")
    for _ in range(2):
        answer = await shop.ask("DELETE", f"reservations/{reservation_id}")
        assert (answer.status_code, answer.content, dict(answer.headers)) == (204, b"", {})
    assert (await shop.reserve("bob")).status_code == 201
    assert (await shop.ask("GET", f"reservations/{reservation_id}")).json()["status"] == "CANCELLED"


async def test_a_user_sees_what_he_holds_and_nothing_of_others(shop: Shop) -> None:
    await shop.open(product("A"), product("B"))
    mine = {await shop.held("alice", "A"), await shop.held("alice", "B")}
    await shop.held("bob", "A")
    answer = await shop.ask("GET", "reservations/user/alice/active")
    assert answer.status_code == 200
    assert {each["reservationId"] for each in answer.json()} == mine
    assert (await shop.ask("GET", "reservations/user/nobody/active")).json() == []


# Carts


async def test_a_cart_is_reserved_as_a_whole(shop: Shop) -> None:
    await shop.open(product("A", perUserLimit=3), product("B"))
    items = [{"skuId": "B"}, {"skuId": "A", "quantity": 3}]
    answer = await shop.ask("POST", "reservations/cart", {"items": items, "userId": "alice"})
    assert answer.status_code == 201
    assert [(each["skuId"], each["quantity"]) for each in answer.json()["reservations"]] == [("B", 1), ("A", 3)]


async def test_a_cart_with_one_product_sold_out_reserves_nothing(shop: Shop) -> None:
    await shop.open(product("A"), product("B", stock=0))
    answer = await shop.ask("POST", "reservations/cart", {"items": [{"skuId": "A"}, {"skuId": "B"}], "userId": "alice"})
    assert said(answer) == (409, "SOLD_OUT")
    assert (await shop.ask("GET", "reservations/user/alice/active")).json() == []


async def test_a_cart_repeated_with_its_key_has_the_same_answer(shop: Shop) -> None:
    await shop.open(product("A"), product("B"))
    body = {"items": [{"skuId": "A"}, {"skuId": "B"}], "userId": "alice", "requestKey": "k1"}
    first, again = [await shop.ask("POST", "reservations/cart", body) for _ in range(2)]
    ids = [[each["reservationId"] for each in answer.json()["reservations"]] for answer in (first, again)]
    assert ids[0] == ids[1]
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")


async def test_a_cart_of_two_sales_is_refused(shop: Shop) -> None:
    await shop.open(product("A"))
    await shop.open(product("B"), id="S2")
    answer = await shop.ask("POST", "reservations/cart", {"items": [{"skuId": "A"}, {"skuId": "B"}], "userId": "alice"})
    assert faults(answer) == {"items": "must be products of one sale"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userId": "u"}, "items"),
        ({"items": [], "userId": "u"}, "items"),
        ({"items": [{"skuId": "A"}] * 21, "userId": "u"}, "items"),
        ({"items": [{"skuId": "A"}, {"skuId": "A"}], "userId": "u"}, "items[1].skuId"),
        ({"items": [{"skuId": "a b"}], "userId": "u"}, "items[0].skuId"),
        ({"items": [{"skuId": "A", "quantity": 0}], "userId": "u"}, "items[0].quantity"),
        ({"items": [{"skuId": "A", "unitPrice": 1}], "userId": "u"}, "items[0].unitPrice"),
        ({"items": [{"skuId": "A"}]}, "userId"),
        ({"items": [{"skuId": "A"}], "userId": "a b"}, "userId"),
        ({"items": [{"skuId": "A"}], "userId": "u", "requestKey": ""}, "requestKey"),
        ({"items": [{"skuId": "A"}], "userId": "u", "status": "CONFIRMED"}, "status"),
    ],
)
async def test_a_malformed_cart_is_refused_with_the_name_of_the_field(shop: Shop, body: object, field: str) -> None:
    assert list(faults(await shop.ask("POST", "reservations/cart", body))) == [field]


# Refusals and their precedence


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b"\xff", "body"),
        (b'{"skuId":"\xff","userId":"u"}', "body"),
        (b'{"skuId":"A","skuId":"A","userId":"u"}', "skuId"),
        ({"userId": "u"}, "skuId"),
        ({"skuId": "a b", "userId": "u"}, "skuId"),
        ({"skuId": "A\n", "userId": "u"}, "skuId"),
        ({"skuId": 1, "userId": "u"}, "skuId"),
        ({"skuId": "A", "userId": "u", "quantity": 0}, "quantity"),
        ({"skuId": "A", "userId": "u", "quantity": 10_001}, "quantity"),
        ({"skuId": "A", "userId": "u", "quantity": "1"}, "quantity"),
        ({"skuId": "A", "userId": "u", "quantity": True}, "quantity"),
        ({"skuId": "A", "userId": "u", "unitPrice": 0.01}, "unitPrice"),
        ({"skuId": "A", "userId": "u", "expiresInSeconds": 9999}, "expiresInSeconds"),
        ({"skuId": "A", "userId": "u", "status": "CONFIRMED"}, "status"),
        ({"skuId": "A", "userId": "a b"}, "userId"),
        ({"skuId": "A", "userId": "u", "requestKey": "\u00e9"}, "requestKey"),
        ({"skuId": "A", "userId": "u", "requestKey": "k" * 256}, "requestKey"),
    ],
)
async def test_a_malformed_request_is_refused_with_the_name_of_the_field(shop: Shop, body: object, field: str) -> None:
    assert list(faults(await shop.ask("POST", "reservations", body))) == [field]


async def test_each_refusal_of_a_reservation_has_its_status_code_and_details(shop: Shop) -> None:
    await shop.open(product("SOON"), id="SOON", startsAt="2999-01-01T00:00:00Z")
    await shop.open(product("OVER"), id="OVER")
    await shop.operate("POST", "sales/OVER/end")
    await shop.open(product("HALT"), id="HALT")
    await shop.operate("POST", "sales/HALT/pause")
    await shop.open(product("ONE", stock=1))

    answer = await shop.reserve(sku="NONE")
    assert (said(answer), answer.json()["details"]) == ((404, "NOT_FOUND"), {"skuId": "NONE"})
    answer = await shop.reserve(sku="SOON")
    assert said(answer) == (409, "NOT_STARTED")
    assert answer.json()["details"]["startsAt"] == "2999-01-01T00:00:00Z"
    assert said(await shop.reserve(sku="OVER")) == (409, "ENDED")
    assert said(await shop.reserve(sku="HALT")) == (409, "PAUSED")
    answer = await shop.reserve(sku="ONE", quantity=2)
    assert said(answer) == (403, "LIMIT_EXCEEDED")
    assert {"limit": 1, "alreadyHeld": 0}.items() <= answer.json()["details"].items()
    assert (await shop.reserve("alice", "ONE", requestKey="k")).status_code == 201
    answer = await shop.reserve("bob", "ONE")
    assert said(answer) == (409, "SOLD_OUT")
    assert answer.json()["details"] == {"skuId": "ONE", "requestedQuantity": 1, "availableQuantity": 0}
    assert answer.json()["message"] == "Product ONE is out of stock. Requested: 1, Available: 0"
    assert said(await shop.reserve("alice", "ONE", requestKey="k", quantity=2)) == (422, "KEY_REUSED")


async def test_where_several_refusals_apply_the_first_of_the_list_is_the_answer(shop: Shop) -> None:
    """Malformed, key reused, unknown, state of the sale, limit, sold out."""
    await shop.open(product("ONE", stock=1))
    await shop.held("alice", "ONE", requestKey="k")
    assert said(await shop.reserve("alice", "ONE")) == (403, "LIMIT_EXCEEDED"), "and it is sold out"
    await shop.operate("POST", "sales/S1/pause")
    assert said(await shop.reserve("alice", "ONE")) == (409, "PAUSED"), "and over the limit, and sold out"
    assert said(await shop.reserve("alice", "ONE", requestKey="k", quantity=2)) == (422, "KEY_REUSED"), "and paused"
    assert said(await shop.reserve("alice", "NONE", quantity=0)) == (400, "VALIDATION_FAILED"), "and unknown"


async def test_reading_and_giving_back_do_not_depend_on_the_state_of_the_sale(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    await shop.operate("POST", "sales/S1/end")
    assert (await shop.ask("GET", f"reservations/{reservation_id}")).status_code == 200
    assert (await shop.ask("DELETE", f"reservations/{reservation_id}")).status_code == 204


@pytest.mark.parametrize("reservation_id", ["res_unknown", "x", "res_" + "a" * 300, "%00", "%F0%9F%98%80", "a%2Fb"])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_reservation_that_does_not_exist_is_not_found(shop: Shop, method: str, reservation_id: str) -> None:
    assert said(await shop.ask(method, f"reservations/{reservation_id}")) == (404, "NOT_FOUND")


async def test_what_is_expired_reads_so_and_can_neither_be_given_back_nor_paid(shop: Shop) -> None:
    await shop.open(reservationSeconds=1)
    reservation_id = await shop.held()
    async with asyncio.timeout(5):
        while (await shop.ask("GET", f"reservations/{reservation_id}")).json()["status"] == "RESERVED":  # noqa: ASYNC110 it happens on the other side
            await asyncio.sleep(0.05)
    told = (await shop.ask("GET", f"reservations/{reservation_id}")).json()
    assert (told["status"], told["expiresInSeconds"]) == ("EXPIRED", 0)
    assert said(await shop.ask("DELETE", f"reservations/{reservation_id}")) == (410, "RESERVATION_EXPIRED")
    assert said(await shop.checkout(reservation_id)) == (410, "RESERVATION_EXPIRED")


async def test_what_is_paid_cannot_be_given_back(shop: Shop) -> None:
    await shop.open()
    order = await shop.paid()
    assert said(await shop.ask("DELETE", f"reservations/{order['reservationId']}")) == (409, "ILLEGAL_STATE")
