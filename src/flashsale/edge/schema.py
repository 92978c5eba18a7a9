"""The shapes of requests and answers: bodies are read into them, and the OpenAPI document is made of them.

What a shape says (a pattern, a bound) is checked by msgspec when a body is read, and shown to clients by the
document, so the two cannot differ. A docstring here is the shape's description there. Prices are kept as the
JSON text of their number: no double ever touches them.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from flashsale.core.catalogue import UNITS_MAX
from flashsale.core.order import LINES_MAX, OrderStatus
from flashsale.core.request import QUANTITY_MAX
from flashsale.core.reservation import Status
from flashsale.core.sale import LatePayment, Mode, SaleState, Settlement
from flashsale.edge.room_terms import RoomTermsBody, RoomTermsShown

PRODUCTS_MAX = 100

NAME = r"^[A-Za-z0-9_-]{1,64}\Z"
USER = r"^[A-Za-z0-9_.@:-]{1,128}\Z"
PRINTABLE = r"^[ -~]{1,255}\Z"
TRANSACTION = r"^[A-Za-z0-9_.:-]{1,128}\Z"
CURRENCY = r"^[A-Z]{3}\Z"
IMAGE = r"^(https?://|/)"

IN_WORDS = {
    f"must be a string matching regex {pattern!r}": words
    for pattern, words in {
        NAME: "must be 1 to 64 letters, digits, '_' or '-'",
        USER: "must be 1 to 128 letters, digits or any of '_.@:-'",
        PRINTABLE: "must be 1 to 255 printable ASCII characters",
        TRANSACTION: "must be 1 to 128 letters, digits or any of '_.:-'",
        CURRENCY: "must be three capital letters (ISO 4217), such as USD",
        IMAGE: "must begin with https://, http:// or /",
    }.items()
}
"""What `wire.parse_json` says of a pattern, and what a client is told instead."""

Name = Annotated[str, Meta(pattern=NAME)]
UserId = Annotated[str, Meta(pattern=USER)]
RequestKey = Annotated[str, Meta(pattern=PRINTABLE)]
TransactionId = Annotated[str, Meta(pattern=TRANSACTION)]
Currency = Annotated[str, Meta(pattern=CURRENCY)]
Price = Annotated[Raw, Meta(extra_json_schema={"type": "number", "minimum": 0, "examples": [999.99]})]
MaybePrice = Annotated[Raw, Meta(extra_json_schema={"type": ["number", "null"], "minimum": 0})]
NOT_GIVEN = Raw(b"null")
"""A price that is left out, or null."""
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time", "examples": ["2026-01-15T10:02:00Z"]})]
Quantity = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]


NotYet = Annotated[bool, Meta(extra_json_schema={"const": False})]
"""A switch of a later version; `sale_body` says so to whoever turns it on."""
Shared = Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] | None
"""Units that those get together who come from one place."""


def choice(*values: str) -> dict[str, Any]:
    """A text that is one of these; checked where it is read, so that the refusal can tell them."""
    return {"enum": list(values)}


class Body(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A request body."""


class Shown(msgspec.Struct, rename="camel", gc=False):
    """An answer."""


# Errors


class Error(Shown):
    """Every error, whoever causes it. For VALIDATION_FAILED `details.errors` lists `{field, message}`."""

    timestamp: Moment
    status: int
    error: str
    code: str
    message: str
    path: str
    details: dict[str, Any]


# Buyers


class ReserveBody(Body):
    """A request for units of one product. User and key may come from the headers instead."""

    sku_id: Name
    quantity: Quantity = 1
    user_id: UserId | None = None
    request_key: RequestKey | None = None


class CartItem(Body):
    sku_id: Name
    quantity: Quantity = 1


class CartBody(Body):
    """Products of one sale: all of them are reserved, or none."""

    items: Annotated[list[CartItem], Meta(min_length=1, max_length=LINES_MAX)]
    user_id: UserId | None = None
    request_key: RequestKey | None = None


class Reservation(Shown):
    """Units held for a user until `expiresAt`."""

    reservation_id: str
    user_id: str
    sku_id: str
    quantity: int
    status: Status
    unit_price: Price
    currency: str
    expires_at: Moment
    created_at: Moment
    expires_in_seconds: int


class Cart(Shown):
    reservations: list[Reservation]


class CheckoutBody(Body):
    """Pays for one reservation or several of one sale. Name `reservationId` or `reservationIds`."""

    payment_transaction_id: TransactionId | None = None
    reservation_id: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    reservation_ids: (
        Annotated[list[Annotated[str, Meta(min_length=1, max_length=255)]], Meta(min_length=1, max_length=LINES_MAX)]
        | None
    ) = None
    payment_method: Annotated[str, Meta(max_length=64)] | None = None
    shipping_address: Annotated[str, Meta(max_length=1000)] | None = None
    user_id: UserId | None = None


class OrderLine(Shown):
    reservation_id: str
    sku_id: str
    quantity: int
    unit_price: Price


class Order(Shown, kw_only=True):
    """An order. One of several reservations has `lines` in place of `reservationId`, `skuId` and `quantity`."""

    order_id: str
    reservation_id: str | UnsetType = UNSET
    user_id: str
    sku_id: str | UnsetType = UNSET
    quantity: int | UnsetType = UNSET
    total_price: Price
    currency: str
    payment_transaction_id: str | None
    payment_method: str
    shipping_address: str
    status: OrderStatus
    created_at: Moment
    lines: list[OrderLine] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    """Why it was cancelled."""


class OrderState(Shown):
    order_id: str
    status: OrderStatus


class Product(Shown):
    """A product as everyone sees it, with what is left of it."""

    sku_id: str
    name: str
    description: str
    category: str
    base_price: Price
    flash_sale_price: Price
    discount_percentage: int
    currency: str
    available_count: int
    total_inventory: int
    is_available: bool
    is_active: bool
    image_url: str | None
    sale_id: str
    starts_at: Moment | None
    ends_at: Moment | None


class Sale(Shown):
    """A sale as everyone sees it."""

    id: str
    name: str
    state: SaleState
    starts_at: Moment | None
    ends_at: Moment | None
    server_time: Moment
    reservation_seconds: int
    mode: Mode
    settlement: Settlement
    queue_opens_at: Moment | None
    """When its waiting room opens, or opened; null: it has none, and whoever comes may buy."""
    products: list[Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Product"})]]


# Operators


class ProductBody(Body):
    """A product of a sale. `basePrice` is `flashSalePrice` where it is not given."""

    sku_id: Name
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    flash_sale_price: Price
    stock: Annotated[int, Meta(ge=0, le=UNITS_MAX)]
    base_price: MaybePrice = msgspec.field(default_factory=lambda: NOT_GIVEN)
    currency: Currency = "USD"
    per_user_limit: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)] = 1
    description: Annotated[str, Meta(max_length=10_000)] = ""
    category: Annotated[str, Meta(max_length=100)] = ""
    image_url: Annotated[str, Meta(max_length=2000, pattern=IMAGE)] | None = None


class SaleBody(Body):
    """The terms of a sale. Without `startsAt` it is a draft; without `endsAt` it ends when an operator ends it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    products: Annotated[list[ProductBody], Meta(min_length=1, max_length=PRODUCTS_MAX)]
    id: Name | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    reservation_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 120
    mode: Annotated[str, Meta(extra_json_schema=choice(*Mode))] = Mode.DIRECT.value
    late_payment: Annotated[str, Meta(extra_json_schema=choice(*LatePayment))] = LatePayment.HONOUR.value
    settlement: Annotated[str, Meta(extra_json_schema=choice("online", "none"))] = Settlement.ONLINE.value
    require_device: bool = False
    per_device_limit: Shared = None
    per_address_limit: Shared = None
    one_active_hold: NotYet = False
    waiting_room: RoomTermsBody | None = None


class RestockBody(Body):
    quantity: Annotated[int, Meta(ge=1, le=UNITS_MAX)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class OperatorProduct(Shown):
    """A product with its terms and counters."""

    sku_id: str
    name: str
    description: str
    category: str
    image_url: str | None
    currency: str
    base_price: Price
    flash_sale_price: Price
    stock: int
    per_user_limit: int
    available: int
    held: int
    sold: int


class OperatorSale(Shown):
    """A sale with everything an operator can set. `version` is its ETag."""

    id: str
    name: str
    state: SaleState
    starts_at: Moment | None
    ends_at: Moment | None
    reservation_seconds: int
    mode: Mode
    late_payment: LatePayment
    settlement: Settlement
    require_device: bool
    per_device_limit: int | None
    per_address_limit: int | None
    one_active_hold: bool
    waiting_room: RoomTermsShown
    products: list[OperatorProduct]
    version: int
    created_at: Moment
    server_time: Moment


class Counters(Shown):
    sku_id: str
    total: int
    available: int
    held: int
    sold: int


class LedgerView(Shown):
    """The counters as the ledger has them, proven against the rows they count."""

    sale_id: str
    products: list[Counters]
    consistent: bool
    discrepancies: list[str] | UnsetType = UNSET
    """One sentence for each, if there are any."""


class JournalEntry(Shown):
    """A movement of stock, and the counters after it."""

    sku_id: str
    sku_seq: int
    kind: str
    quantity: int
    available_before: int
    available_after: int
    total: int
    held: int
    sold: int
    reservation_id: str | None
    actor: str
    reason: str
    at: Moment


class Pruned(Shown):
    """What the movements of a product have come to that were pruned; the first that is kept follows `skuSeq`."""

    sku_id: str
    sku_seq: int
    total: int
    held: int
    sold: int


class Journal(Shown):
    """A page, oldest first; `next` goes into `after`, null on the last page."""

    entries: list[JournalEntry]
    next: int | None
    pruned: list[Pruned]


class AuditEntry(Shown):
    at: Moment
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


class Audit(Shown):
    """A page, oldest first; `next` goes into `after`, null on the last page."""

    entries: list[AuditEntry]
    next: int | str | None


class Stats(Shown):
    """What a sale has come to, counted from its rows. Money is null where its products differ in currency."""

    sale_id: str
    total_orders: int
    successful_orders: int
    failed_orders: int
    queued_orders: int
    """Requests that wait in the ledger's own queue; those in a broker are counted there."""
    total_reservations: int
    total_revenue: Price | None
    average_order_value: Price | None
    currency: str | None
    peak_orders_per_second: int
    current_queue_size: int
    is_active: bool
    start_time: Moment | None
    end_time: Moment | None
    conversion_rate: float
    """Paid orders for each reservation made."""
    unique_users: int
    refusals: dict[str, int]
