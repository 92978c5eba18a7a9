"""Signed requests: where client keys are set, whatever changes something for a buyer is signed by one of them."""

import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from edge.shop import OPERATOR, Shop, faults, said, served, transaction

from flashsale.edge.signature import Signatures, Signing, canonical

DOCUMENT = (Path(__file__).parents[2] / "docs" / "identity.md").read_text()
SECRET = "the-secret-of-the-app-of-32-bytes"
OTHER = "the-secret-of-the-kiosk-32-bytes!"
NOW_MS = 1_767_225_600_000
WISH = {"skuId": "PHONE", "userId": "alice"}


@pytest.fixture(params=["on", "off"])
async def signing(request: pytest.FixtureRequest, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    """A shop that takes signed requests only."""
    keys = (f"app:{SECRET}", f"kiosk:{OTHER}")
    async with served(tmp_path, sandbox_url, request.param, client_keys=keys) as shop:
        await shop.open()
        yield shop


def headers(
    method: str, path: str, fields: dict[str, str], name: str = "app", secret: str = SECRET, at: int | None = None
) -> dict[str, str]:
    """As a client makes them; written without the code that reads them."""
    now = str(int(time.time()) if at is None else at)
    text = "\n".join([method, path, now, "&".join(sorted(f"{each}={value}" for each, value in fields.items()))])
    mac = hmac.new(secret.encode(), text.encode(), sha256).hexdigest()
    return {"X-Client-Key": name, "X-Timestamp": now, "X-Signature": mac}


def signed(
    path: str = "/api/v1/reservations", fields: dict[str, str] = WISH, method: str = "POST", **more: Any
) -> dict[str, str]:
    return headers(method, path, fields, **more)


async def test_a_signed_request_is_answered(signing: Shop) -> None:
    answer = await signing.ask("POST", "reservations", WISH, headers=signed())
    assert answer.status_code == 201
    reservation_id = answer.json()["reservationId"]
    kiosk = {"name": "kiosk", "secret": OTHER}
    pay = {"reservationId": reservation_id, "paymentTransactionId": transaction()}
    checkout = signed("/api/v1/orders/checkout", pay, **kiosk)
    order = await signing.ask("POST", "orders/checkout", pay, headers=checkout)
    assert order.status_code == 201
    path = f"/api/v1/orders/{order.json()['orderId']}"
    cancel = signed(path, {"reason": "too%20late%20%26%20too%20dear"}, "DELETE")
    assert (await signing.ask("DELETE", f"{path}?reason=too+late+%26+too+dear", headers=cancel)).status_code == 200


async def test_whatever_is_not_signed_is_refused_naming_what_is_wrong(signing: Shop) -> None:
    now = int(time.time())
    right = signed()
    wrong = {
        "X-Client-Key": [
            {}, {**right, "X-Client-Key": "APP"}, {**right, "X-Client-Key": ""},
            {name: right[name] for name in ("X-Timestamp", "X-Signature")},
        ],
        "X-Timestamp": [
            {name: right[name] for name in ("X-Client-Key", "X-Signature")}, signed(at=now - 310), signed(at=now + 310),
            {**right, "X-Timestamp": "now"}, {**right, "X-Timestamp": "1e9"}, {**right, "X-Timestamp": "9" * 13},
            {**right, "X-Timestamp": "-1"},
        ],
        "X-Signature": [
            {name: right[name] for name in ("X-Client-Key", "X-Timestamp")}, {**right, "X-Signature": ""},
            {**right, "X-Signature": right["X-Signature"][:-1]}, {**right, "X-Signature": right["X-Signature"].upper()},
            {**right, "X-Signature": "\u00e9".encode()}, {**right, "X-Timestamp": str(int(right["X-Timestamp"]) - 1)},
            {**right, "X-Client-Key": "kiosk"}, signed(secret=OTHER), signed(method="PUT"), signed("/api/v1/orders"),
            signed(fields={"skuId": "PHONE", "userId": "bob"}), signed(fields={"skuId": "PHONE"}),
            signed(fields=WISH | {"quantity": "1"}), signed("/api/v1/reservations/"),
        ],
    }  # fmt: skip
    for name, tried in wrong.items():
        for each in tried:
            answer = await signing.ask("POST", "reservations", WISH, headers=each)
            assert said(answer) == (401, "UNAUTHENTICATED")
            assert answer.json()["message"].startswith(name), (name, each)
    assert (await signing.counters())["held"] == 0


async def test_every_parameter_is_signed_wherever_it_stands(signing: Shop) -> None:
    path = "/api/v1/reservations?x=1"
    assert (await signing.ask("POST", path, WISH, headers=signed())).status_code == 401
    assert (await signing.ask("POST", path, WISH, headers=signed(fields=WISH | {"x": "1"}))).status_code == 201


async def test_reading_needs_no_signature_and_operators_none_for_their_routes(signing: Shop) -> None:
    for path in ("products", "products/PHONE/availability", "sales/S1", "orders/user/alice"):
        assert (await signing.ask("GET", path)).status_code == 200
    assert (await signing.operate("POST", "sales/S1/pause")).status_code == 200
    assert said(await signing.ask("POST", "reservations", WISH, headers=OPERATOR)) == (401, "UNAUTHENTICATED")


async def test_a_body_whose_parameters_cannot_be_told_is_malformed(signing: Shop) -> None:
    for body in (b"[]", b"{", b"null", b"\xff", b"1"):
        assert list(faults(await signing.ask("POST", "reservations", body, headers=signed()))) == ["body"]


async def test_every_route_that_changes_something_for_a_buyer_is_signed(signing: Shop) -> None:
    document = (await signing.ask("GET", "/api/openapi.json")).json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            wanted = operation["tags"] == ["Buyers"] and method in ("post", "put", "delete")
            named = {each["name"] for each in operation["parameters"]}
            assert ({"X-Client-Key", "X-Timestamp", "X-Signature"} <= named) is wanted, (method, path)
            if wanted:
                concrete = re.sub(r"\{\w+\}", "x", path)
                answer = await signing.ask(method.upper(), concrete, headers={"Content-Type": "application/json"})
                assert (said(answer), answer.json()["message"][:12]) == ((401, "UNAUTHENTICATED"), "X-Client-Key")
                assert "401" in operation["responses"]


# The form of what is signed


def test_the_example_in_the_document_is_computed_like_this() -> None:
    """The document's request, secret, text and signature."""
    blocks = re.findall(r"```(?:text|http)\n(.*?)```", DOCUMENT, re.DOTALL)
    [request] = [block for block in blocks if "X-Signature" in block]
    [text] = [block.rstrip("\n") for block in blocks if block.startswith("POST\n")]
    [secret] = re.findall(r"`app:(\S+)`", DOCUMENT)
    head, _, body = request.rstrip("\n").partition("\n\n")
    told = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    url = urlsplit(head.splitlines()[0].split()[1])
    given = Signing(*(told[name].encode() for name in ("X-Client-Key", "X-Timestamp", "X-Signature")))
    signatures = Signatures([f"app:{secret}"], lambda: int(told["X-Timestamp"]) * 1000)
    assert signatures.fault(given, "POST", url.path, url.query.encode(), body.encode()) is None
    assert hmac.new(secret.encode(), text.encode(), sha256).hexdigest() == told["X-Signature"]


def test_names_and_values_are_encoded_and_sorted_by_their_bytes() -> None:
    fields = [("b", "2"), ("a", "z"), ("B", "1"), ("a", "&=\n%"), ("\u00e9", "\u20ac"), ("~-._", " +")]
    assert canonical("PUT", "/p", "1", fields).decode() == (
        "PUT\n/p\n1\n%C3%A9=%E2%82%AC&B=1&a=%26%3D%0A%25&a=z&b=2&~-._=%20%2B"
    )


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"a": "x"}, {"a": "x"}), ({"a": 1}, {"a": "1"}), ({"a": True, "b": None}, {"a": "true", "b": "null"}),
        (b'{"a": 1.50}', {"a": "1.50"}), (b'{ "a" : [ 1, {"b": 2} ] }', {"a": '[ 1, {"b": 2} ]'}),
        (b'{"a":"\\u00e9\\n"}', {"a": "\u00e9\n"}), (b"", {}), (b"{}", {}), (b" ", {}),
    ],
)  # fmt: skip
def test_a_text_stands_as_it_is_and_any_other_value_as_it_is_written(body: Any, fields: dict[str, str]) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    text = canonical("POST", "/p", str(NOW_MS // 1000), [*fields.items(), ("q", "1")])
    mac = hmac.new(SECRET.encode(), text, sha256).hexdigest()
    given = Signing(b"app", b"%d" % (NOW_MS // 1000), mac.encode())
    assert Signatures([f"app:{SECRET}"], lambda: NOW_MS).fault(given, "POST", "/p", b"q=1", content) is None


def test_the_window_is_five_minutes_to_either_side() -> None:
    for seconds, accepted in ((0, True), (300, True), (-300, True), (301, False), (-301, False)):
        at = str(NOW_MS // 1000 + seconds)
        mac = hmac.new(SECRET.encode(), canonical("POST", "/p", at, []), sha256).hexdigest()
        fault = Signatures([f"app:{SECRET}"], lambda: NOW_MS).fault(
            Signing(b"app", at.encode(), mac.encode()), "POST", "/p", b"", b""
        )
        assert (fault is None) is accepted
