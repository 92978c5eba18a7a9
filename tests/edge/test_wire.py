"""The JSON of the hot routes and of errors: what is read and refused, what is shown."""

import json
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import Reservation, Status
from flashsale.core.sale import Product, Sale
from flashsale.core.stock import Granted, sold_out
from flashsale.edge import wire
from flashsale.edge.strict_json import parse_json
from flashsale.flow.storefront import Offer

NOW = 1_768_471_320_000  # 2026-01-15T10:02:00Z
PATH = "/api/v1/reservations"


def fields(refused: object) -> dict[str, str]:
    assert isinstance(refused, Refused), refused
    assert refused.refusal is Refusal.VALIDATION_FAILED
    return {each["field"]: each["message"] for each in refused.details["errors"]}


def parse(body: Any, key: bytes | None = None, user: bytes | None = None) -> object:
    return wire.parse_reserve(body if isinstance(body, bytes) else json.dumps(body).encode(), key, user)


# POST /reservations

READ = {
    "everything in the body": (
        {"skuId": "A-1_b", "quantity": 2, "userId": "a.b@c:d-e_1", "requestKey": "k 1"}, None, None,
        ("a.b@c:d-e_1", "A-1_b", 2, "k 1"),
    ),
    "one unit unless said": ({"skuId": "A", "userId": "u"}, None, None, ("u", "A", 1, None)),
    "key and user in headers": ({"skuId": "A"}, b"k", b"u", ("u", "A", 1, "k")),
    "both, and they agree": ({"skuId": "A", "userId": "u", "requestKey": "k"}, b"k", b"u", ("u", "A", 1, "k")),
    "null for what is not known": ({"skuId": "A", "userId": None, "requestKey": None}, b"k", b"u", ("u", "A", 1, "k")),
    "null and no header": ({"skuId": "A", "userId": "u", "requestKey": None}, None, None, ("u", "A", 1, None)),
    "the longest": (
        {"skuId": "A" * 64, "userId": "u" * 128, "requestKey": "k" * 255, "quantity": 10_000}, None, None,
        ("u" * 128, "A" * 64, 10_000, "k" * 255),
    ),
    "a key with quotes": ({"skuId": "A", "userId": "u", "requestKey": '"k"\\'}, None, None, ("u", "A", 1, '"k"\\')),
    "escapes": (b'{"sku\\u0049d":"\\u0041","userId":"u"}', None, None, ("u", "A", 1, None)),
    "white space": (b' {"skuId" : "A",\n\t"userId":"u" }\r\n', None, None, ("u", "A", 1, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_a_request_in_good_form_is_read(name):
    body, key, user, (user_id, sku_id, quantity, request_key) = READ[name]
    assert parse(body, key, user) == wire.ReserveCall(user_id, sku_id, quantity, request_key)


OK = {"skuId": "A", "userId": "u"}
REFUSED: dict[str, tuple[Any, bytes | None, bytes | None, set[str]]] = {
    "no user anywhere": ({"skuId": "A"}, None, None, {"userId"}),
    "an empty user": (OK | {"userId": ""}, None, None, {"userId"}),
    "an empty user in the header": ({"skuId": "A"}, None, b"", {"userId"}),
    "a user with a newline": (OK | {"userId": "u\n"}, None, None, {"userId"}),
    "a user that is too long": (OK | {"userId": "u" * 129}, None, None, {"userId"}),
    "a user in another alphabet": (OK | {"userId": "ü"}, None, None, {"userId"}),
    "a user in bytes": ({"skuId": "A"}, None, b"\xff", {"userId"}),
    "users that differ": (OK, None, b"v", {"userId"}),
    "no product": ({"userId": "u"}, None, None, {"skuId"}),
    "an empty product": (OK | {"skuId": ""}, None, None, {"skuId"}),
    "a product with a newline": (OK | {"skuId": "A\n"}, None, None, {"skuId"}),
    "a product that is too long": (OK | {"skuId": "A" * 65}, None, None, {"skuId"}),
    "a product with a dot": (OK | {"skuId": "A.B"}, None, None, {"skuId"}),
    "no units": (OK | {"quantity": 0}, None, None, {"quantity"}),
    "less than none": (OK | {"quantity": -1}, None, None, {"quantity"}),
    "too many units": (OK | {"quantity": 10_001}, None, None, {"quantity"}),
    "beyond 64 bits": (OK | {"quantity": 10**30}, None, None, {"quantity"}),
    "half a unit": (OK | {"quantity": 1.5}, None, None, {"quantity"}),
    "a float": (OK | {"quantity": 1.0}, None, None, {"quantity"}),
    "a string of a number": (OK | {"quantity": "1"}, None, None, {"quantity"}),
    "true": (OK | {"quantity": True}, None, None, {"quantity"}),
    "null units": (OK | {"quantity": None}, None, None, {"quantity"}),
    "not a number": (b'{"skuId":"A","userId":"u","quantity":NaN}', None, None, {"body"}),
    "an empty key": (OK | {"requestKey": ""}, None, None, {"requestKey"}),
    "an empty key in the header": (OK, b"", None, {"requestKey"}),
    "a key that is too long": (OK, b"k" * 256, None, {"requestKey"}),
    "a key with a tab": (OK, b"a\tb", None, {"requestKey"}),
    "keys that differ": (OK | {"requestKey": "k"}, b"l", None, {"requestKey"}),
    "several faults at once": ({"skuId": "!", "quantity": 0}, b"", None, {"skuId", "quantity", "userId", "requestKey"}),
    "an unknown field": (OK | {"unitPrice": 1}, None, None, {"unitPrice"}),
    "a status": (OK | {"status": "CONFIRMED"}, None, None, {"status"}),
    "a product twice": (b'{"skuId":"A","skuId":"A","userId":"u"}', None, None, {"skuId"}),
    "units twice": (b'{"quantity":1,"skuId":"A","quantity":1,"userId":"u"}', None, None, {"quantity"}),
    "twice, once in escapes": (b'{"skuId":"A","sku\\u0049d":"B","userId":"u"}', None, None, {"skuId"}),
    "twice, once null": (b'{"skuId":"A","userId":"u","userId":null}', None, b"u", {"userId"}),
    "an array": ([], None, None, {"body"}),
    "a string": ("x", None, None, {"body"}),
    "nothing": (b"", None, None, {"body"}),
    "half of it": (b'{"skuId":"A"', None, None, {"body"}),
    "two of it": (b'{"skuId":"A","userId":"u"}{}', None, None, {"body"}),
    "not UTF-8": (b'{"skuId":"\xff","userId":"u"}', None, None, {"body"}),
    "half a surrogate": (b'{"skuId":"\\ud800","userId":"u"}', None, None, {"body"}),
    "a byte order mark": (b'\xef\xbb\xbf{"skuId":"A","userId":"u"}', None, None, {"body"}),
    "a field deep inside": (b'{"skuId":' + b"[" * 10_000, None, None, {"skuId"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_in_bad_form_is_refused_naming_its_fields(name):
    body, key, user, expected = REFUSED[name]
    assert fields(parse(body, key, user)).keys() == expected


def test_what_is_wrong_is_said_in_the_clients_words():
    assert fields(parse({"skuId": 1}))["skuId"] == "must be a string"
    assert fields(parse({"userId": "u"}))["skuId"] == "is required"
    assert fields(parse(OK | {"price": 1}))["price"] == "is not a known field"
    assert fields(parse(OK, user=b"v"))["userId"] == "differs from header X-User-ID"


keys = st.sampled_from(["skuId", "quantity", "userId", "requestKey"])
values = st.one_of(st.none(), st.integers(0, 3), st.text('ab"\\é', max_size=3))


@given(st.lists(st.tuples(keys, values), max_size=5))
def test_a_key_given_twice_is_always_noticed(pairs):
    body = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in pairs) + "}"
    twice = len({key for key, _ in pairs}) != len(pairs)
    if twice:
        assert isinstance(parse(body.encode()), Refused)


# Every other body


class Line(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    sku_id: str
    quantity: int = 1
    wrapping: Literal["paper", "box"] | None = None


class Cart(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    items: list[Line]
    more: dict[str, Any] = {}


def test_a_body_is_read_into_its_shape():
    assert parse_json(b'{"items":[{"skuId":"A"}]}', Cart) == Cart([Line("A")])


def nested(depth: int) -> bytes:
    """A body whose innermost array is `depth` levels deep."""
    return b'{"items":[],"more":{"a":' + b"[" * (depth - 2) + b"]" * (depth - 2) + b"}}"


BODIES = {
    "a field of an item": (b'{"items":[{"skuId":1}]}', "items[0].skuId", "must be a string"),
    "a field that is missing": (b'{"items":[{}]}', "items[0].skuId", "is required"),
    "a field that is unknown": (b'{"items":[{"skuId":"A","price":1}]}', "items[0].price", "is not a known field"),
    "a list that is none": (b'{"items":{}}', "items", "must be an array"),
    "a key twice": (b'{"items":[{"skuId":"A"},{"skuId":"A","skuId":"B"}]}', "items[1].skuId", "is given twice"),
    "a key twice in a free object": (b'{"items":[],"more":{"a":[{"b":1,"b":2}]}}', "more.a[0].b", "is given twice"),
    "an empty key twice": (b'{"items":[],"more":{"":1,"":2}}', "more.", "is given twice"),
    "a character that no ledger keeps": (
        b'{"items":[{"skuId":"A\\u0000"}]}',
        "body",
        "must not contain the character U+0000",
    ),
    "too deep": (nested(33), "body", "is nested deeper than 32 levels"),
    "far too deep": (b"[" * 1_000_000, "body", "is nested deeper than 32 levels"),
    "not UTF-8": (b'{"items":[{"skuId":"\xff"}]}', "body", "must be UTF-8"),
    "a word that is none of those it may be": (
        b'{"items":[{"skuId":"A"},{"skuId":"B","wrapping":"foil"}]}',
        "items[1].wrapping",
        "must be one of box, paper",
    ),
    "a number without end": (b'{"items":[],"more":{"a":1e400}}', "more", "has a number that is out of range"),
    "infinity": (b'{"items":[],"more":{"a":Infinity}}', "body", "must be valid JSON: invalid character (byte 24)"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused_with_the_path_of_what_is_wrong(name):
    body, field, message = BODIES[name]
    assert fields(parse_json(body, Cart)) == {field: message}


def test_depth_is_counted_and_brackets_in_strings_are_not():
    assert isinstance(parse_json(nested(32), Cart), Cart)
    text = json.dumps({"items": [], "more": {"a": '[[{"\\' * 100}}).encode()
    assert isinstance(parse_json(text, Cart), Cart)


def test_a_large_body_with_a_long_number_is_no_trouble():
    assert isinstance(parse_json(b'{"items":[],"more":{"a":' + b"9" * 9000 + b"}}", Cart), Cart | Refused)


# What is shown


def reservation(**more: Any) -> Reservation:
    made = Reservation(
        "res_1", "alice", "S1", "PHONE", 2, Status.RESERVED, 99_999, "USD", NOW, NOW + 120_000, request_key="k"
    )
    return msgspec.structs.replace(made, **more)


def test_a_reservation_is_shown_as_the_interface_says():
    assert wire.reservation(reservation(), NOW) == (
        b'{"reservationId":"res_1","userId":"alice","skuId":"PHONE","quantity":2,"status":"RESERVED",'
        b'"unitPrice":999.99,"currency":"USD","expiresAt":"2026-01-15T10:04:00Z",'
        b'"createdAt":"2026-01-15T10:02:00Z","expiresInSeconds":120}'
    )


@pytest.mark.parametrize(
    ("status", "passed_ms", "shown", "seconds"),
    [
        (Status.RESERVED, 1, "RESERVED", 120),
        (Status.RESERVED, 119_001, "RESERVED", 1),
        (Status.RESERVED, 119_999, "RESERVED", 1),
        (Status.RESERVED, 120_000, "EXPIRED", 0),
        (Status.CONFIRMED, 0, "CONFIRMED", 0),
        (Status.CONFIRMED, 130_000, "CONFIRMED", 0),
        (Status.CANCELLED, 0, "CANCELLED", 0),
    ],
)
def test_what_is_left_of_a_reservation_is_rounded_up_while_it_is_held(status, passed_ms, shown, seconds):
    told = json.loads(wire.reservation(reservation(status=status), NOW + passed_ms))
    assert (told["status"], told["expiresInSeconds"]) == (shown, seconds)


@pytest.mark.parametrize(("currency", "shown"), [("USD", b"999.99"), ("JPY", b"99999"), ("KWD", b"99.999")])
def test_a_price_has_the_decimals_of_its_currency(currency, shown):
    assert b'"unitPrice":%b,' % shown in wire.reservation(reservation(currency=currency), NOW)


def test_a_replay_has_the_same_status_code_and_says_what_it_is():
    assert wire.granted(Granted([reservation()], NOW)).headers == ()
    again = wire.granted(Granted([reservation()], NOW, replayed=True))
    assert (again.status, again.headers) == (201, ((b"idempotent-replay", b"true"),))


def test_a_cart_lists_its_reservations():
    answer = wire.cart(Granted([reservation(), reservation(reservation_id="res_2")], NOW))
    assert answer.status == 201
    assert [each["reservationId"] for each in json.loads(answer.body)["reservations"]] == ["res_1", "res_2"]


def offer(available: int = 3, **terms: Any) -> Offer:
    product = Product("PHONE", 'A "phone"', "USD", 129_999, 99_999, 1)
    return Offer(Sale("S1", "Sale", (product,), **({"starts_at_ms": NOW} | terms)), product, 10, available)


def test_availability_is_shown_as_the_interface_says():
    assert wire.availability(offer(ends_at_ms=NOW + 1000), NOW) == (
        b'{"skuId":"PHONE","name":"A \\"phone\\"","description":"","category":"","basePrice":1299.99,'
        b'"flashSalePrice":999.99,"discountPercentage":23,"currency":"USD","availableCount":3,"totalInventory":10,'
        b'"isAvailable":true,"isActive":true,"imageUrl":null,"saleId":"S1","startsAt":"2026-01-15T10:02:00Z",'
        b'"endsAt":"2026-01-15T10:02:01Z"}'
    )


@pytest.mark.parametrize(
    ("left", "terms", "now_ms", "active", "available"),
    [
        (3, {}, NOW, True, True),
        (0, {}, NOW, True, False),
        (3, {}, NOW - 1, False, False),
        (3, {"paused": True}, NOW, False, False),
        (3, {"ends_at_ms": NOW}, NOW, False, False),
        (3, {"starts_at_ms": None}, NOW, False, False),
    ],
)
def test_a_product_is_available_while_its_sale_is_active_and_units_are_left(left, terms, now_ms, active, available):
    told = json.loads(wire.availability(offer(left, **terms), now_ms))
    assert (told["isActive"], told["isAvailable"]) == (active, available)


def test_an_error_is_shown_as_the_interface_says():
    assert wire.refusal(sold_out("PHONE", 1, 0), PATH, NOW).body == (
        b'{"timestamp":"2026-01-15T10:02:00Z","status":409,"error":"Out of Stock","code":"SOLD_OUT",'
        b'"message":"Product PHONE is out of stock. Requested: 1, Available: 0","path":"/api/v1/reservations",'
        b'"details":{"skuId":"PHONE","requestedQuantity":1,"availableQuantity":0}}'
    )


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_has_its_status_and_code(refusal):
    details = {"limit": 20, "remaining": 0, "resetSeconds": 1} if refusal is Refusal.RATE_LIMITED else {}
    answer = wire.refusal(Refused(refusal, "No", details), "/x", NOW)
    told = json.loads(answer.body)
    assert (answer.status, told["status"], told["error"], told["code"]) == (
        refusal.status, refusal.status, refusal.title, refusal.name,
    )  # fmt: skip
    assert dict(answer.headers).get(b"retry-after") == (b"1" if refusal.status in (429, 503) else None)


def test_instants_become_timestamps_and_the_time_to_wait_a_header():
    details = {"startsAtMs": NOW, "endsAtMs": None, "retryAfterSeconds": 7, "limit": 1}
    answer = wire.refusal(Refused(Refusal.NOT_STARTED, "No", details), "/x", NOW)
    assert json.loads(answer.body)["details"] == {"startsAt": "2026-01-15T10:02:00Z", "endsAt": None, "limit": 1}
    assert answer.headers == ((b"retry-after", b"7"),)


def test_who_asks_too_often_is_told_how_he_stands_in_two_families_of_headers():
    details = {
        "scope": "tier", "limit": 50, "remaining": 3, "resetSeconds": 57, "retryAfterSeconds": 2, "tier": "STANDARD",
    }  # fmt: skip
    answer = wire.refusal(Refused(Refusal.RATE_LIMITED, "No", details), "/x", NOW + 1)
    assert dict(answer.headers) == {
        b"retry-after": b"2",
        b"ratelimit-limit": b"50", b"ratelimit-remaining": b"3", b"ratelimit-reset": b"57",
        b"x-ratelimit-limit": b"50", b"x-ratelimit-remaining": b"3",
        b"x-ratelimit-reset": b"%d" % (NOW // 1000 + 1 + 57), b"x-ratelimit-tier": b"STANDARD",
    }  # fmt: skip
    assert "retryAfterSeconds" not in json.loads(answer.body)["details"]


def test_a_path_is_escaped():
    body = wire.refusal(Refused(Refusal.NOT_FOUND, "No"), '/a"b\\\x01ü', NOW).body
    assert json.loads(body)["path"] == '/a"b\\\x01ü'


def test_an_answer_without_a_body_has_no_content_headers():
    assert wire.layout(wire.Answer(204, b"")) == []
    assert [name for name, _ in wire.layout(wire.Answer(200, b"{}", ((b"etag", b'"1"'),)))] == [
        b"content-type", b"content-length", b"etag",
    ]  # fmt: skip


def test_a_timestamp_has_whole_seconds():
    assert wire.timestamp(NOW + 999) == "2026-01-15T10:02:00Z"
