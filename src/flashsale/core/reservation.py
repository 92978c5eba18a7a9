"""A reservation: units held for a user for a while, and the ways out of it.

The lifecycle is the table `TRANSITIONS`; what is not in it cannot happen. Each transition that moves
units is named after its stock movement, so a reservation's history is the list of its journal rows.

    PENDING ──► RESERVED ──CONFIRM──► CONFIRMED ──RETURN──► RETURNED
       │           │ │                    ▲
       │           │ └──EXPIRE──► EXPIRED ┘ HONOUR (late money; stock and limit checked again)
       ▼           └──RELEASE──► CANCELLED
    REJECTED, CANCELLED

PENDING is a queued request before its decision: an id without a row (`core/pending.py`). Its user may withdraw it: then
there is a CANCELLED row that knows no more than the id, until the request itself arrives and fills it in.
"""

from enum import StrEnum

import msgspec

from flashsale.core.journal import Kind


class Status(StrEnum):
    PENDING = "PENDING"
    RESERVED = "RESERVED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    CONFIRMED = "CONFIRMED"
    EXPIRED = "EXPIRED"
    RETURNED = "RETURNED"


class RequestKind(StrEnum):
    """What was asked for: part of what makes two requests with one key the same request."""

    SINGLE = "single"
    CART = "cart"


TRANSITIONS: dict[tuple[Status, Kind], Status] = {
    (Status.PENDING, Kind.RESERVE): Status.RESERVED,
    (Status.RESERVED, Kind.CONFIRM): Status.CONFIRMED,
    (Status.RESERVED, Kind.EXPIRE): Status.EXPIRED,
    (Status.RESERVED, Kind.RELEASE): Status.CANCELLED,
    (Status.EXPIRED, Kind.HONOUR): Status.CONFIRMED,
    (Status.CONFIRMED, Kind.RETURN): Status.RETURNED,
}


CLAIMING = frozenset({Status.RESERVED, Status.CONFIRMED})
"""While a reservation counts against its user's purchase limit."""


class Reservation(msgspec.Struct, array_like=True):
    """One row. `unit_price_minor` and `currency` are copies: a later change of the sale does not reach them."""

    reservation_id: str
    user_id: str
    sale_id: str
    sku_id: str
    quantity: int
    status: Status
    unit_price_minor: int
    currency: str
    created_at_ms: int
    expires_at_ms: int
    request_kind: RequestKind = RequestKind.SINGLE
    request_key: str | None = None
    order_id: str | None = None
    returned_quantity: int = 0
    refusal: str | None = None
    """Of a REJECTED one: why, as `core.refusal.kept` writes it."""
    redrive_of: str | None = None
    """The reservation that a dead letter had, of which this is another try."""
    origin: str | None = None
    """The marks over which its sale limits units (core/origin.py), as `written` writes them."""


def is_bare(reservation: Reservation) -> bool:
    """Whether it was withdrawn before its request arrived: nothing but its id is known."""
    return not reservation.sale_id


def status_at(reservation: Reservation, now_ms: int) -> Status:
    """The status for every reader: from `expires_at_ms` on a held reservation is EXPIRED, swept or not."""
    return Status.EXPIRED if lapsed(reservation, now_ms) else reservation.status


def lapsed(reservation: Reservation, now_ms: int) -> bool:
    return reservation.status is Status.RESERVED and now_ms >= reservation.expires_at_ms
