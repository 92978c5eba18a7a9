"""What the buyer of a queued sale is told: pending, and later what became of it.

A queued request is answered 202, also when it is repeated and decided meanwhile: the body has what it is now. A client
that sends `Prefer: wait=N` wants what a direct sale would have said, and gets it if it comes within N seconds.
"""

import re
from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from flashsale.core.refusal import Refused, invalid, recalled
from flashsale.core.reservation import Reservation, Status, is_bare
from flashsale.core.stock import Decided, Pending
from flashsale.edge import schema
from flashsale.edge.wire import REPLAY, Answer, Header, Rejection, shown

WAIT_SECONDS_MAX = 10
RETRY_AFTER: Header = (b"retry-after", b"1")

_encode = msgspec.json.Encoder().encode
_WAIT = re.compile(rb"(?:^|[;,])\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)


class ReservationState(schema.Shown):
    """A reservation of a queued sale: while it is PENDING, little more than its id."""

    reservation_id: str
    status: Status
    user_id: str | UnsetType = UNSET
    sku_id: str | UnsetType = UNSET
    quantity: int | UnsetType = UNSET
    unit_price: schema.Price | UnsetType = UNSET
    currency: str | UnsetType = UNSET
    expires_at: schema.Moment | UnsetType = UNSET
    created_at: schema.Moment | UnsetType = UNSET
    expires_in_seconds: int | UnsetType = UNSET
    refusal: Rejection | UnsetType = UNSET
    """Why it was REJECTED."""
    redrive_of: str | UnsetType = UNSET


class CartState(schema.Shown):
    reservations: list[ReservationState]


class Unknown(msgspec.Struct, gc=False, rename="camel"):
    """A reservation of which little is known: its request waits, or was given up while it did."""

    reservation_id: str
    status: str
    user_id: str | UnsetType = UNSET
    sku_id: str | UnsetType = UNSET
    quantity: int | UnsetType = UNSET


def wait_seconds(prefer: bytes | None) -> int | Refused:
    """How long the client wants to wait, by its header Prefer (RFC 7240); what is not understood there is ignored."""
    found = _WAIT.search(prefer) if prefer is not None else None
    if found is None:
        return 0
    said = found[1].strip()
    if not said.isdigit():
        return invalid("Prefer", f"wait must be a number of seconds from 0 to {WAIT_SECONDS_MAX}")
    return min(int(said[:9]), WAIT_SECONDS_MAX)


def one(row: Reservation, now_ms: int) -> object:
    """A row, as it is shown."""
    return Unknown(row.reservation_id, row.status, row.user_id or UNSET) if is_bare(row) else shown(row, now_ms)


def pending(reservation_id: str, user_id: str | None = None) -> Answer:
    """200 of a reservation that has no row."""
    return Answer(200, _encode(Unknown(reservation_id, Status.PENDING, user_id or UNSET)), (RETRY_AFTER,))


def waits(outcome: Pending, cart: bool) -> Answer:
    """202 of a request that waits."""
    shown = [
        Unknown(reservation_id, Status.PENDING, outcome.user_id, item.sku_id, item.quantity)
        for reservation_id, item in zip(outcome.reservation_ids, outcome.items, strict=True)
    ]
    return Answer(202, _body(shown, cart), (_location(outcome.reservation_ids[0]), RETRY_AFTER))


def decided(outcome: Decided, cart: bool) -> Answer:
    """202 of a request that was repeated: what has become of it."""
    shown = [one(row, outcome.now_ms) for row in outcome.reservations]
    headers = (_location(outcome.reservations[0].reservation_id), *REPLAY)
    return Answer(202, _body(shown, cart), headers if outcome.replayed else headers[:1])


def as_if_direct(rows: Sequence[Reservation], cart: bool, now_ms: int) -> Answer | Refused:
    """What a direct sale would have said: 201, or the refusal."""
    if any(is_bare(row) for row in rows):  # given up before it was decided: there is no outcome to tell
        body = _body([one(row, now_ms) for row in rows], cart)
        return Answer(202, body, (_location(rows[0].reservation_id),))
    for row in rows:
        if row.refusal is not None:
            refused = recalled(row.refusal)
            details = {**refused.details, "reservationId": row.reservation_id}
            return Refused(refused.refusal, refused.message, details)
    return Answer(201, _body([one(row, now_ms) for row in rows], cart))


def _body(shown: Sequence[object], cart: bool) -> bytes:
    return _encode({"reservations": shown} if cart else shown[0])


def _location(reservation_id: str) -> Header:
    return (b"location", b"/api/v1/reservations/" + reservation_id.encode())
