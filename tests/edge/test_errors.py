"""Whatever goes wrong has one shape, and is never a 500 for what a client can cause."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from edge.shop import API, TOKEN, Shop, faults, said

from flashsale.edge.app import create_app
from flashsale.ports import LedgerUnavailable


@pytest.mark.parametrize(
    "path",
    ["/", "/nothing", "/api", "/api/v1", "/api/v1/reservation", "/api/v1/products/A/B", "/api/v1/%00", "/%F0%9F"],
)
async def test_an_unknown_path_is_not_found(shop: Shop, path: str) -> None:
    assert said(await shop.ask("GET", path)) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/v1/reservations", "OPTIONS, POST"),
        ("PUT", "/api/v1/reservations/res_1", "DELETE, GET, HEAD, OPTIONS"),
        ("PATCH", "/api/v1/admin/sales/S1", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("DELETE", "/health", "GET, HEAD, OPTIONS"),
        ("TRACE", "/api/v1/products/A", "GET, HEAD, OPTIONS"),
        ("BREW", "/api/v1/orders/checkout", "OPTIONS, POST"),
    ],
)
async def test_a_method_that_a_path_does_not_have_is_answered_with_those_it_has(
    shop: Shop, method: str, path: str, allowed: str
) -> None:
    answer = await shop.ask(method, path)
    assert said(answer) == (405, "VALIDATION_FAILED")
    assert answer.headers["allow"] == allowed
    options = await shop.ask("OPTIONS", path)
    assert (options.status_code, options.headers["allow"], options.content) == (204, allowed, b"")


async def test_head_is_answered_like_get_without_the_body(shop: Shop) -> None:
    get, head = await shop.ask("GET", "/api/v1/products"), await shop.ask("HEAD", "/api/v1/products")
    assert (head.status_code, head.content, head.headers) == (200, b"", get.headers)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("path", ["reservations", "reservations/cart", "orders/checkout"])
async def test_a_body_over_16_kib_is_refused_whether_or_not_it_says_its_length(
    shop: Shop, path: str, announced: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(17):
            yield b" " * 1024

    body: Any = b" " * 17 * 1024 if announced else chunks()
    answer = await shop.client.post(f"{API}/{path}", content=body)
    assert said(answer) == (413, "VALIDATION_FAILED")


async def test_a_body_of_exactly_16_kib_is_read(shop: Shop) -> None:
    body = b'{"skuId":"A","userId":"u"}'.ljust(16 * 1024)
    assert said(await shop.ask("POST", "reservations", body)) == (404, "NOT_FOUND")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
async def test_the_content_type_of_a_request_is_not_asked_for(shop: Shop, kind: str) -> None:
    await shop.open()
    body = b'{"skuId":"PHONE","userId":"alice"}'
    answer = await shop.ask("POST", "reservations", body, headers={"Content-Type": kind})
    assert answer.status_code == 201


@pytest.mark.parametrize("path", ["reservations/cart", "orders/checkout"])
async def test_nesting_without_end_is_refused(shop: Shop, path: str) -> None:
    assert list(faults(await shop.ask("POST", path, b"[" * 5000))) == ["body"]
    assert list(faults(await shop.ask("POST", path, b'{"a":' * 2000 + b"1" + b"}" * 2000))) == ["body"]


async def test_a_query_has_its_limits(shop: Shop) -> None:
    query = "&".join(f"f{number}=1" for number in range(33))
    assert list(faults(await shop.ask("GET", f"reservations/res_1?{query}"))) == ["query"]


async def test_an_unavailable_ledger_is_told_with_the_time_to_try_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(*_: object) -> None:
        raise LedgerUnavailable("the queue is full")

    for name in ("release", "open_order", "cancel_order", "change_sale", "find"):
        monkeypatch.setattr(shop.engine.ledger, name, unavailable)
    pay = {"reservationId": "r", "paymentTransactionId": "p"}
    answers = [
        await shop.ask("DELETE", "reservations/res_1"),
        await shop.ask("GET", "reservations/res_1"),
        await shop.ask("GET", "orders/ord_1"),
        await shop.ask("DELETE", "orders/ord_1"),
        await shop.ask("POST", "orders/checkout", pay),
        await shop.operate("GET", "sales"),
        await shop.operate("DELETE", "sales/S1"),
    ]
    for answer in answers:
        assert said(answer) == (503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"


async def test_a_defect_of_ours_is_a_500_that_tells_nothing_and_is_logged(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(shop.engine.ledger, "find", broken)
    answer = await shop.ask("GET", "orders/ord_1", headers={"Authorization": f"Bearer {TOKEN}"})
    assert said(answer) == (500, "UNAVAILABLE")
    assert "secret" not in answer.text


def test_an_empty_token_is_refused_at_once(shop: Shop) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        create_app(shop.engine, "")


async def test_nothing_is_logged_for_what_a_client_causes(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await shop.ask("POST", "reservations", b"{")
        await shop.operate("GET", "sales/NONE")
    assert [record for record in caplog.records if record.name.startswith("flashsale")] == []


async def test_a_client_that_vanishes_before_its_body_is_complete_gets_no_answer(shop: Shop) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "http", "method": "POST", "path": f"{API}/reservations", "raw_path": f"{API}/reservations".encode(),
        "query_string": b"", "headers": [],
    }  # fmt: skip
    await shop.app(scope, receive, send)
    assert sent == []


async def test_slashes_too_many_do_not_matter(shop: Shop) -> None:
    answer: httpx.Response = await shop.ask("GET", "/api/v1/products/")
    assert (answer.status_code, answer.json()) == (200, [])
