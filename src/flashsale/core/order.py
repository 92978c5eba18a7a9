"""An order: reservations that are paid together, all of them or none.

    PENDING_PAYMENT ──► PAID ──► PROCESSING ──► SHIPPED ──► DELIVERED
       │      │          ▲           │             │            │
       │      └► EXPIRED ┘ honoured  └──────┬──────┴────────────┘
       ▼            │                       ▼
    CANCELLED ──────┴──────────────────► REFUNDING ──► REFUNDED

EXPIRED and CANCELLED reach REFUNDING when money turns up that nothing can be given for.
"""

from enum import StrEnum

import msgspec

LINES_MAX = 20


class OrderStatus(StrEnum):
    PENDING_PAYMENT = "PENDING_PAYMENT"
    PAID = "PAID"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    PROCESSING = "PROCESSING"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    REFUNDING = "REFUNDING"
    REFUNDED = "REFUNDED"


_O = OrderStatus
TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    _O.PENDING_PAYMENT: frozenset({_O.PAID, _O.CANCELLED, _O.EXPIRED}),
    _O.EXPIRED: frozenset({_O.PAID, _O.REFUNDING}),
    _O.CANCELLED: frozenset({_O.REFUNDING}),
    _O.PAID: frozenset({_O.PROCESSING, _O.REFUNDING}),
    _O.PROCESSING: frozenset({_O.SHIPPED, _O.REFUNDING}),
    _O.SHIPPED: frozenset({_O.DELIVERED, _O.REFUNDING}),
    _O.DELIVERED: frozenset({_O.REFUNDING}),
    _O.REFUNDING: frozenset({_O.REFUNDED}),
    _O.REFUNDED: frozenset(),
}
"""Where an order may go. (A partial refund leads back to the former state; there is none yet.)"""


class OrderLine(msgspec.Struct, frozen=True):
    reservation_id: str
    sku_id: str
    quantity: int
    unit_price_minor: int


class Order(msgspec.Struct, array_like=True):
    order_id: str
    user_id: str
    sale_id: str
    status: OrderStatus
    currency: str
    lines: tuple[OrderLine, ...]
    payment_method: str
    shipping_address: str
    created_at_ms: int
    sequence: int = 0
    """The number of the order's latest event."""
    reason: str = ""
    """Why it was cancelled, in the words of whoever did."""
    transaction_id: str | None = None

    @property
    def total_minor(self) -> int:
        return sum(line.quantity * line.unit_price_minor for line in self.lines)
