"""A sale as an operator writes it, turned into a sale as the rules know it. Used by the API and by `flashsale sale`.

What is wrong is told all at once, each mistake with the JSON path of its field and its remedy. Amounts are read
from the text of the number, never through a double.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from msgspec import Raw

from flashsale.core.catalogue import SaleDraft
from flashsale.core.money import to_minor
from flashsale.core.refusal import Refused
from flashsale.core.sale import LatePayment, Mode, Product, Sale, Settlement
from flashsale.edge.call import Refusing, read
from flashsale.edge.room_terms import room_terms
from flashsale.edge.schema import NOT_GIVEN, ProductBody, SaleBody
from flashsale.edge.wire import Fault, invalid_fields

NOT_YET = "is not available yet"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MS = 253_402_300_799_999
"""The end of the year 9999."""

_encode = msgspec.json.Encoder(decimal_format="number").encode
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_NUMBER = re.compile(r"-?\d{1,15}(\.\d{1,10})?([eE][+-]?\d{1,2})?", re.ASCII)
"""Fewer digits than the 28 that decimal keeps, so that nothing is rounded on its way."""


def sale_draft(body: bytes | Mapping[str, Any], sale_id: str | None = None) -> SaleDraft | Refused:
    """The sale that a body asks for. `sale_id` is the one its path names; without any, the sale gets a new id.

    A mapping is what a TOML or JSON file holds.
    """
    try:
        asked = read(body if isinstance(body, bytes) else _encode(body), SaleBody)
    except Refusing as refusing:
        return refusing.refused
    faults = [*_unavailable(asked), *_choices(asked), *_misnamed(asked, sale_id), *_twice(asked)]
    starts_at_ms = _moment("startsAt", asked.starts_at, faults)
    ends_at_ms = _moment("endsAt", asked.ends_at, faults)
    products = tuple(_product(number, product, faults) for number, product in enumerate(asked.products))
    if faults:
        return invalid_fields(faults)
    sale = Sale(
        sale_id or asked.id or f"sale_{secrets.token_hex(8)}",
        asked.name,
        products,
        starts_at_ms,
        ends_at_ms,
        reservation_seconds=asked.reservation_seconds,
        mode=Mode(asked.mode),
        late_payment=LatePayment(asked.late_payment),
        settlement=Settlement(asked.settlement),
        require_device=asked.require_device,
        per_device_limit=asked.per_device_limit,
        per_address_limit=asked.per_address_limit,
        waiting_room=room_terms(asked.waiting_room),
    )
    return SaleDraft(sale, {product.sku_id: product.stock for product in asked.products})


def _unavailable(asked: SaleBody) -> Iterator[Fault]:
    if asked.settlement == Settlement.MANUAL:
        yield "settlement", f"manual {NOT_YET}: use online or none"
    if asked.one_active_hold:
        yield "oneActiveHold", f"true {NOT_YET}: use false"


def _choices(asked: SaleBody) -> Iterator[Fault]:
    if asked.mode not in tuple(Mode):
        yield "mode", "must be direct or queued"
    if asked.late_payment not in tuple(LatePayment):
        yield "latePayment", "must be honour or refund"
    if asked.settlement not in tuple(Settlement):
        yield "settlement", "must be online or none"


def _misnamed(asked: SaleBody, sale_id: str | None) -> Iterator[Fault]:
    if sale_id is not None and asked.id not in (None, sale_id):
        yield "id", "differs from the id in the path: leave it out"


def _twice(asked: SaleBody) -> Iterator[Fault]:
    seen: set[str] = set()
    for number, product in enumerate(asked.products):
        if product.sku_id in seen:
            yield f"products[{number}].skuId", "is another product's already"
        seen.add(product.sku_id)


def _moment(field: str, text: str | None, faults: list[Fault]) -> int | None:
    if text is None:
        return None
    ms = _ms(text) if _RFC3339.fullmatch(text) else None
    if ms is None:
        faults.append((field, "must be a time with its offset (RFC 3339), such as 2026-01-15T10:00:00Z"))
    elif not 0 <= ms <= LAST_MS:
        faults.append((field, "must be between the years 1970 and 9999"))
    return ms


def _ms(text: str) -> int | None:
    try:
        return (datetime.fromisoformat(text.upper()) - EPOCH) // timedelta(milliseconds=1)
    except ValueError:
        return None


def _product(number: int, asked: ProductBody, faults: list[Fault]) -> Product:
    place = f"products[{number}]"
    price = _price(f"{place}.flashSalePrice", asked.flash_sale_price, asked.currency, faults)
    base = price
    if bytes(asked.base_price) != bytes(NOT_GIVEN):
        base = _price(f"{place}.basePrice", asked.base_price, asked.currency, faults)
    return Product(
        asked.sku_id,
        asked.name,
        asked.currency,
        base,
        price,
        asked.per_user_limit,
        asked.description,
        asked.category,
        asked.image_url or "",
    )


def _price(field: str, raw: Raw, currency: str, faults: list[Fault]) -> int:
    text = bytes(raw).decode()
    if not _NUMBER.fullmatch(text):
        faults.append((field, "must be a number such as 999.99, with at most 15 digits and 10 decimals"))
        return 0
    try:
        return to_minor(Decimal(text), currency)
    except InvalidOperation:
        faults.append((field, "is out of range"))
    except ValueError as trouble:
        faults.append((field, str(trouble)))
    return 0
