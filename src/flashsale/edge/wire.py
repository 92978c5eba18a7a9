"""The JSON of the hot routes and of every error: pure functions, shared by both lanes.

The fast lane and the ordinary app answer byte for byte alike because neither of them renders anything: both
call this file. msgspec does the rendering; it is faster than bytes templates and escapes what needs it. Reading is
strict (`strict_json.py`), and text that is allowed as a string may still be no id.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from flashsale.core.money import discount_percentage, show
from flashsale.core.refusal import Refusal, Refused, invalid, recalled
from flashsale.core.request import QUANTITY_MAX
from flashsale.core.reservation import Reservation, Status, status_at
from flashsale.core.stock import Granted
from flashsale.edge.rate_headers import rate_headers
from flashsale.edge.strict_json import duplicate, malformed
from flashsale.flow.storefront import Offer, on_sale

is_sku = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
is_user = re.compile(r"[A-Za-z0-9_.@:-]{1,128}").fullmatch
is_key = re.compile(r"[ -~]{1,255}").fullmatch

USER_FORM = "must be 1 to 128 letters, digits or any of '_.@:-'"

T = TypeVar("T")
Header = tuple[bytes, bytes]


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An answer of the API. The content type is JSON; the body of a 204 is empty."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = ()


def layout(answer: Answer) -> list[Header]:
    """The headers of an answer in their order on the wire; the server puts `date` before them."""
    if answer.status == 204:
        return list(answer.headers)
    return [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer.body)), *answer.headers]


# Rendering


def rendered(answer: Answer, defaults: list[Header], close: bool) -> bytes:
    """An answer as uvicorn would write it; `defaults` are its headers of the second."""
    told = [*defaults, *layout(answer)]
    if close:
        told.append((b"connection", b"close"))
    return STATUS_LINE[answer.status] + b"".join([b"%b: %b\r\n" % header for header in told]) + b"\r\n" + answer.body


class _Error(msgspec.Struct, gc=False):
    timestamp: str
    status: int
    error: str
    code: str
    message: str
    path: str
    details: dict[str, Any]


class Rejection(msgspec.Struct, gc=False):
    """Why a queued request was not granted."""

    code: str
    message: str
    details: dict[str, Any]


class _Reservation(msgspec.Struct, gc=False, rename="camel"):
    reservation_id: str
    user_id: str
    sku_id: str
    quantity: int
    status: str
    unit_price: Raw
    currency: str
    expires_at: str
    created_at: str
    expires_in_seconds: int
    refusal: Rejection | UnsetType = UNSET
    redrive_of: str | UnsetType = UNSET


class _Availability(msgspec.Struct, gc=False, rename="camel"):
    sku_id: str
    name: str
    description: str
    category: str
    base_price: Raw
    flash_sale_price: Raw
    discount_percentage: int
    currency: str
    available_count: int
    total_inventory: int
    is_available: bool
    is_active: bool
    image_url: str | None
    sale_id: str
    starts_at: str | None
    ends_at: str | None


_encode = msgspec.json.Encoder().encode


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC, whole seconds: `2026-01-15T10:02:00Z`."""
    return _second(ms // 1000)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=4096)
def price(minor: int, currency: str) -> Raw:
    """An amount as a JSON number with the currency's decimals."""
    return Raw(show(minor, currency).encode())


def error(
    refused: Refused, path: str, now_ms: int, status: int, title: str, headers: tuple[Header, ...] = ()
) -> Answer:
    """The error object under another status than the refusal's own (413, 405, ...)."""
    details = refused.details
    if status == 401:
        headers = (*headers, WHO_ARE_YOU)
    if status in _COME_BACK or "retryAfterSeconds" in details:
        headers = (*headers, (b"retry-after", b"%d" % max(1, details.get("retryAfterSeconds") or 1)))
    if refused.refusal is _RATE_LIMITED:
        headers = (*headers, *rate_headers(details, now_ms))
    if "Seconds" in (names := "".join(details)) or "AtMs" in names:
        details = _details(details)
    code = refused.refusal._name_  # `name` is a slow property
    return Answer(
        status, _encode(_Error(timestamp(now_ms), status, title, code, refused.message, path, details)), headers
    )


def refusal(refused: Refused, path: str, now_ms: int) -> Answer:
    """The answer to a refused request. `path` is that of the request, without its query."""
    return error(refused, path, now_ms, refused.refusal.status, refused.refusal.title)


WHO_ARE_YOU: Header = (b"www-authenticate", b"Bearer")
_OUR_OWN = frozenset({"retryAfterSeconds", "error"})
"""Details that are no client's: one is a header, the other is for the log and for dead letters."""
_RATE_LIMITED = Refusal.RATE_LIMITED
_COME_BACK = (429, 503)
"""What always says when to try again."""


def _details(details: dict[str, Any]) -> dict[str, Any]:
    """What a client may see: instants as timestamps."""
    shown = {}
    for name, value in details.items():
        if name.endswith("AtMs"):
            shown[name[:-2]] = None if value is None else timestamp(value)
        elif name not in _OUR_OWN:
            shown[name] = value
    return shown


def reservation(held: Reservation, now_ms: int) -> bytes:
    return _encode(shown(held, now_ms))


def shown(held: Reservation, now_ms: int) -> _Reservation:
    """A reservation as its buyer sees it."""
    status, expires_at_ms = status_at(held, now_ms), held.expires_at_ms
    return _Reservation(
        held.reservation_id, held.user_id, held.sku_id, held.quantity, status,
        price(held.unit_price_minor, held.currency), held.currency,
        _second(expires_at_ms // 1000), _second(held.created_at_ms // 1000),
        (expires_at_ms - now_ms + 999) // 1000 if status is _RESERVED else 0,
        UNSET if held.refusal is None else _rejection(held.refusal),
        held.redrive_of or UNSET,
    )  # fmt: skip


def _rejection(text: str) -> Rejection:
    refused = recalled(text)
    return Rejection(refused.refusal.code, refused.message, _details(refused.details))


_RESERVED = Status.RESERVED
REPLAY: tuple[Header, ...] = ((b"idempotent-replay", b"true"),)


def granted(outcome: Granted) -> Answer:
    """201 of one reservation."""
    return Answer(201, reservation(outcome.reservations[0], outcome.now_ms), REPLAY if outcome.replayed else ())


def cart(outcome: Granted) -> Answer:
    """201 of a cart."""
    rows = [shown(held, outcome.now_ms) for held in outcome.reservations]
    return Answer(201, _encode({"reservations": rows}), REPLAY if outcome.replayed else ())


def availability(offer: Offer, now_ms: int) -> bytes:
    """A product as everyone sees it, with what is left of it."""
    sale, product = offer.sale, offer.product
    active = on_sale(offer, now_ms)
    return _encode(
        _Availability(
            product.sku_id, product.name, product.description, product.category,
            price(product.base_price_minor, product.currency), price(product.price_minor, product.currency),
            discount_percentage(product.base_price_minor, product.price_minor), product.currency,
            offer.available, offer.total, active and offer.available > 0, active, product.image_url or None,
            sale.sale_id,
            None if sale.starts_at_ms is None else timestamp(sale.starts_at_ms),
            None if sale.ends_at_ms is None else timestamp(sale.ends_at_ms),
        )
    )  # fmt: skip


# Reading


class ReserveCall(msgspec.Struct, frozen=True, gc=False):
    """A request for units of one product, in good form."""

    user_id: str
    sku_id: str
    quantity: int
    key: str | None


class _Wish(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    """The body of POST /reservations. Clients that send what they do not know as null are understood."""

    sku_id: str
    quantity: int | UnsetType = UNSET
    user_id: str | UnsetType | None = UNSET
    request_key: str | UnsetType | None = UNSET


_wish = msgspec.json.Decoder(_Wish).decode


def parse_reserve(
    body: bytes, idempotency_key: bytes | None, user_header: bytes | None, caller: str | None = None
) -> ReserveCall | Refused:
    """Reads POST /reservations. A user or key may come from body or header; where both are given they must agree.

    It is for the `caller` if it names nobody."""
    try:
        wish = _wish(body)
    except ValueError as trouble:
        return malformed(trouble)
    sku, quantity, user, key = wish.sku_id, wish.quantity, wish.user_id, wish.request_key
    # Each key has two quotes, and so has each string. More than that: a key given twice, or an escaped quote.
    quotes = 4
    if quantity is UNSET:
        quantity = 1
    else:
        quotes += 2
    if user is UNSET:
        user = None
    else:
        quotes += 2 if user is None else 4
    if key is UNSET:
        key = None
    else:
        quotes += 2 if key is None else 4
    if body.count(b'"') != quotes and (twice := duplicate(body)):
        return twice
    said_user = user if user_header is None else user_header.decode("latin-1")
    if said_user is None:
        said_user = caller
    said_key = key if idempotency_key is None else idempotency_key.decode("latin-1")
    if (
        said_user is not None
        and is_user(said_user)
        and is_sku(sku)
        and 1 <= quantity <= QUANTITY_MAX
        and (said_key is None or is_key(said_key))
        and (user is None or user == said_user)
        and (key is None or key == said_key)
    ):
        return ReserveCall(said_user, sku, quantity, said_key)
    return invalid_fields(_faults(sku, quantity, (user, said_user), (key, said_key)))


Fault = tuple[str, str]
"""`(field, message)`"""
Said = tuple[str | None, str | None]
"""What the body says, and what counts: the header's word, if there is one."""


def _faults(sku: str, quantity: int, user: Said, key: Said) -> list[Fault]:
    faults = []
    if not is_sku(sku):
        faults.append(("skuId", "must be 1 to 64 letters, digits, '_' or '-'"))
    if not 1 <= quantity <= QUANTITY_MAX:
        faults.append(("quantity", f"must be from 1 to {QUANTITY_MAX}"))
    if user[1] is None:
        faults.append(("userId", "is required, here or in header X-User-ID"))
    elif user[0] not in (None, user[1]):
        faults.append(("userId", "differs from header X-User-ID"))
    elif not is_user(user[1]):
        faults.append(("userId", USER_FORM))
    if key[0] not in (None, key[1]):
        faults.append(("requestKey", "differs from header Idempotency-Key"))
    elif key[1] is not None and not is_key(key[1]):
        faults.append(("requestKey", "must be 1 to 255 printable ASCII characters"))
    return faults


def invalid_fields(faults: list[Fault]) -> Refused:
    """VALIDATION_FAILED naming every fault; the message tells the first."""
    if len(faults) == 1:
        return invalid(*faults[0])
    errors = [{"field": field, "message": message} for field, message in faults]
    field, message = faults[0]
    return Refused(Refusal.VALIDATION_FAILED, f"{field}: {message}", {"errors": errors})
