"""Paying, reading orders, cancelling, as a buyer sees it over HTTP."""

import asyncio

import pytest
from edge.shop import Shop, faults, product, said, transaction


async def test_a_checkout_answers_with_the_paid_order(shop: Shop) -> None:
    await shop.open()
    reservation_id, pay = await shop.held("alice"), transaction()
    answer = await shop.checkout(reservation_id, pay=pay, paymentMethod="CARD", shippingAddress="1 Main St")
    told = answer.json()
    assert answer.status_code == 201
    assert list(told) == [
        "orderId", "reservationId", "userId", "skuId", "quantity", "totalPrice", "currency", "paymentTransactionId",
        "paymentMethod", "shippingAddress", "status", "createdAt",
    ]  # fmt: skip
    assert told["orderId"].startswith("ord_")
    assert (told["reservationId"], told["userId"], told["skuId"]) == (reservation_id, "alice", "PHONE")
    assert (told["status"], told["paymentTransactionId"], told["paymentMethod"]) == ("PAID", pay, "CARD")
    assert b'"totalPrice":999.99' in answer.content
    assert await shop.counters() == {"total": 10, "available": 9, "held": 0, "sold": 1}


async def test_a_repeated_checkout_answers_with_the_same_order(shop: Shop) -> None:
    await shop.open()
    reservation_id, pay = await shop.held(), transaction()
    first, again = [await shop.checkout(reservation_id, pay=pay) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content


async def test_two_checkouts_at_once_are_one_order(shop: Shop) -> None:
    await shop.open()
    reservation_id, pay = await shop.held(), transaction("pay_slow")
    answers = await asyncio.gather(*(shop.checkout(reservation_id, pay=pay) for _ in range(2)))
    assert {answer.json().get("orderId") for answer in answers if answer.status_code == 201} != set()
    assert await shop.counters() == {"total": 10, "available": 9, "held": 0, "sold": 1}


async def test_several_reservations_are_one_order_with_lines(shop: Shop) -> None:
    await shop.open(product("A", flashSalePrice=0.10, perUserLimit=3), product("B", flashSalePrice=0.20))
    a, b = await shop.held("alice", "A", quantity=3), await shop.held("alice", "B")
    answer = await shop.checkout(a, b)
    told = answer.json()
    assert answer.status_code == 201
    assert b'"totalPrice":0.50' in answer.content
    assert told["lines"] == [
        {"reservationId": a, "skuId": "A", "quantity": 3, "unitPrice": 0.1},
        {"reservationId": b, "skuId": "B", "quantity": 1, "unitPrice": 0.2},
    ]
    assert not {"reservationId", "skuId", "quantity"} & told.keys()


async def test_an_order_is_found_by_its_id_its_reservation_and_its_user(shop: Shop) -> None:
    await shop.open()
    order = await shop.paid("alice")
    for path in (f"orders/{order['orderId']}", f"orders/reservation/{order['reservationId']}"):
        answer = await shop.ask("GET", path)
        assert (answer.status_code, answer.json()) == (200, order)
    assert (await shop.ask("GET", "orders/user/alice")).json() == [order]
    assert (await shop.ask("GET", "orders/user/bob")).json() == []
    status = await shop.ask("GET", f"orders/{order['orderId']}/status")
    assert (status.status_code, status.json()) == (200, {"orderId": order["orderId"], "status": "PAID"})


async def test_cancelling_a_paid_order_starts_its_refund_and_puts_the_units_on_sale(shop: Shop) -> None:
    await shop.open(product(stock=1))
    order = await shop.paid("alice")
    answer = await shop.ask("DELETE", f"orders/{order['orderId']}?reason=changed%20my%20mind")
    assert answer.status_code == 200
    assert answer.json()["status"] in ("REFUNDING", "REFUNDED")
    assert answer.json()["reason"] == "changed my mind"
    assert (await shop.reserve("bob")).status_code == 201
    async with asyncio.timeout(5):
        while (await shop.ask("GET", f"orders/{order['orderId']}/status")).json()["status"] != "REFUNDED":  # noqa: ASYNC110 it happens on the other side
            await asyncio.sleep(0.05)
    again = await shop.ask("DELETE", f"orders/{order['orderId']}")
    assert (again.status_code, again.json()["status"]) == (200, "REFUNDED")
    assert (await shop.ask("GET", f"orders/{order['orderId']}")).json() == again.json()


async def test_a_declined_payment_says_so_and_another_one_may_be_tried(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    answer = await shop.checkout(reservation_id, pay=transaction("pay_declined"))
    assert said(answer) == (402, "PAYMENT_DECLINED")
    unpaid = (await shop.ask("GET", f"orders/reservation/{reservation_id}")).json()
    assert (unpaid["status"], unpaid["paymentTransactionId"]) == ("PENDING_PAYMENT", None)
    assert (await shop.checkout(reservation_id)).status_code == 201


async def test_an_unpaid_order_is_cancelled_at_once(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    await shop.checkout(reservation_id, pay=transaction("pay_declined"))
    order_id = (await shop.ask("GET", f"orders/reservation/{reservation_id}")).json()["orderId"]
    answer = await shop.ask("DELETE", f"orders/{order_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "CANCELLED")
    assert (await shop.ask("GET", f"orders/{order_id}/status")).json()["status"] == "CANCELLED"
    assert await shop.counters() == {"total": 10, "available": 10, "held": 0, "sold": 0}


async def test_a_transaction_pays_once(shop: Shop) -> None:
    await shop.open()
    pay = transaction()
    assert (await shop.checkout(await shop.held("alice"), pay=pay)).status_code == 201
    assert said(await shop.checkout(await shop.held("bob"), pay=pay)) == (409, "PAYMENT_REUSED")


async def test_a_payment_without_a_transaction_is_not_available_yet(shop: Shop) -> None:
    answer = await shop.ask("POST", "orders/checkout", {"reservationId": "res_1"})
    assert "not available yet" in faults(answer)["paymentTransactionId"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"paymentTransactionId": "p"}, "reservationId"),
        ({"paymentTransactionId": "p", "reservationIds": []}, "reservationIds"),
        ({"paymentTransactionId": "p", "reservationIds": ["r"] * 21}, "reservationIds"),
        ({"paymentTransactionId": "p", "reservationIds": ["r", "r"]}, "reservationIds"),
        ({"paymentTransactionId": "p", "reservationId": "r", "reservationIds": ["s"]}, "reservationIds"),
        ({"paymentTransactionId": "p q", "reservationId": "r"}, "paymentTransactionId"),
        ({"paymentTransactionId": "", "reservationId": "r"}, "paymentTransactionId"),
        ({"paymentTransactionId": 1, "reservationId": "r"}, "paymentTransactionId"),
        ({"paymentTransactionId": "p", "reservationId": 1}, "reservationId"),
        ({"paymentTransactionId": "p", "reservationId": "r", "shippingAddress": "x" * 1001}, "shippingAddress"),
        ({"paymentTransactionId": "p", "reservationId": "r", "paymentMethod": "x" * 65}, "paymentMethod"),
        ({"paymentTransactionId": "p", "reservationId": "r", "totalPrice": 0.01}, "totalPrice"),
        ({"paymentTransactionId": "p", "reservationId": "r", "status": "PAID"}, "status"),
        (b'{"reservationId":"r","reservationId":"s","paymentTransactionId":"p"}', "reservationId"),
    ],
)
async def test_a_malformed_checkout_is_refused_with_the_name_of_the_field(shop: Shop, body: object, field: str) -> None:
    assert list(faults(await shop.ask("POST", "orders/checkout", body))) == [field]


async def test_what_does_not_exist_cannot_be_paid_read_or_cancelled(shop: Shop) -> None:
    assert said(await shop.checkout("res_unknown")) == (404, "NOT_FOUND")
    assert said(await shop.ask("GET", "orders/ord_unknown")) == (404, "NOT_FOUND")
    assert said(await shop.ask("GET", "orders/ord_unknown/status")) == (404, "NOT_FOUND")
    assert said(await shop.ask("GET", "orders/reservation/res_unknown")) == (404, "NOT_FOUND")
    assert said(await shop.ask("DELETE", "orders/ord_unknown")) == (404, "NOT_FOUND")


async def test_what_was_given_back_cannot_be_paid(shop: Shop) -> None:
    await shop.open()
    reservation_id = await shop.held()
    await shop.ask("DELETE", f"reservations/{reservation_id}")
    assert said(await shop.checkout(reservation_id)) == (409, "ILLEGAL_STATE")


async def test_a_reason_has_its_limits(shop: Shop) -> None:
    assert list(faults(await shop.ask("DELETE", "orders/ord_1?reason=" + "x" * 501))) == ["reason"]
    assert list(faults(await shop.ask("DELETE", "orders/ord_1?reason=%00"))) == ["reason"]
    assert list(faults(await shop.ask("DELETE", "orders/ord_1?reason=a&reason=b"))) == ["reason"]
    assert list(faults(await shop.ask("DELETE", "orders/ord_1?reason=%ff"))) == ["query"]


async def test_a_sale_without_settlement_is_confirmed_in_the_reservation(shop: Shop) -> None:
    await shop.open(settlement="none")
    assert (await shop.reserve()).json()["status"] == "CONFIRMED"
