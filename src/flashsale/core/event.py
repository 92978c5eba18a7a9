"""What the world is told: each row that a transaction leaves behind, in its published form.

A movement of stock is a row of the journal; what moves no unit (the events of orders) is a row of the outbox. Both are
written in the transition's own transaction, and numbered together in the order of commits. Here they become events:

    a movement         ──► flashsale.inventory      the product's new counters, key: the SKU
      of a reservation ──► flashsale.reservations   what became of the reservation, key: the SKU
    an order's event   ──► flashsale.orders         key: the order

So a movement that concerns a reservation is told twice, once to each audience, and each topic is whole in itself:
whoever reads `flashsale.inventory` sees the `skuSeq` of a product in a sale without a gap, and needs no other topic to
know the counters. An event's id is made of what it is about and its number: it is the same whenever it is told again.
"""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from flashsale.core.journal import Kind, Movement

VERSION = 1
"""Of the published form. A field may be added to it; whatever else changes makes another version."""


class Topic(StrEnum):
    RESERVATIONS = "flashsale.reservations"
    INVENTORY = "flashsale.inventory"
    ORDERS = "flashsale.orders"
    DEAD_LETTERS = "flashsale.requests.dlq"


class Event(msgspec.Struct, frozen=True, array_like=True):
    """A row of the outbox. `subject` is what it is about; `sequence` rises with each event of the subject."""

    topic: Topic
    type: str
    subject: str
    sequence: int
    at_ms: int
    body: dict[str, object]
    trace_id: str | None = None


Told = Movement | Event
"""A row that the world is told of."""


class Published(msgspec.Struct, frozen=True, rename="camel"):
    """An event as the world reads it: the value of a message, an entry of the feed."""

    id: str
    """The same whenever this event is told again."""
    type: str
    topic: Topic
    key: str
    """Events of one key are told in their order: the SKU, or the order's id."""
    at: str
    version: int
    body: dict[str, Any]
    sku_seq: int | UnsetType = UNSET
    """The number of the movement among those of its product in its sale; `flashsale.inventory` has them all."""
    sequence: int | UnsetType = UNSET
    """The number of the event among those of its order."""
    trace_id: str | UnsetType = UNSET
    """The trace of the request that caused it, if it named one (`traceparent`)."""


STOCK_EVENT: dict[Kind, str] = {
    Kind.STOCK: "stock.opened",
    Kind.RESERVE: "stock.held",
    Kind.RELEASE: "stock.released",
    Kind.EXPIRE: "stock.released",
    Kind.CONFIRM: "stock.sold",
    Kind.HONOUR: "stock.sold",
    Kind.RETURN: "stock.returned",
    Kind.RESTOCK: "stock.restocked",
    Kind.ADJUST: "stock.adjusted",
}
"""What a movement is to those who count units."""

RESERVATION_EVENT: dict[Kind, str] = {
    Kind.RESERVE: "reservation.reserved",
    Kind.RELEASE: "reservation.cancelled",
    Kind.EXPIRE: "reservation.expired",
    Kind.CONFIRM: "reservation.confirmed",
    Kind.HONOUR: "reservation.confirmed",
    Kind.RETURN: "reservation.returned",
}
"""What a movement is to those who follow a reservation."""


def published(row: Told) -> list[Published]:
    """The events that a row is, in the order in which they are told."""
    if isinstance(row, Event):
        return [_of_event(row)]
    inventory = _of_stock(row)
    return [inventory] if row.reservation_id is None else [_of_reservation(row, row.reservation_id), inventory]


def _of_stock(row: Movement) -> Published:
    body: dict[str, object] = {
        "saleId": row.sale_id,
        "skuId": row.sku_id,
        "quantity": row.quantity,
        "total": row.total_after,
        "available": row.available_after,
        "held": row.held_after,
        "sold": row.sold_after,
        "actor": row.actor,
        "reason": row.reason,
    }
    event_id = f"{row.sale_id}.{row.sku_id}.{row.sku_seq}"
    return _of_movement(row, event_id, STOCK_EVENT[row.kind], Topic.INVENTORY, body)


def _of_reservation(row: Movement, reservation_id: str) -> Published:
    body: dict[str, object] = {
        "reservationId": reservation_id,
        "saleId": row.sale_id,
        "skuId": row.sku_id,
        "quantity": row.quantity,
        "actor": row.actor,
    }
    event_id = f"{reservation_id}.{row.sku_seq}"
    return _of_movement(row, event_id, RESERVATION_EVENT[row.kind], Topic.RESERVATIONS, body)


def _of_movement(row: Movement, event_id: str, name: str, topic: Topic, body: dict[str, object]) -> Published:
    at, trace_id = moment(row.at_ms), row.trace_id or UNSET
    return Published(event_id, name, topic, row.sku_id, at, VERSION, body, sku_seq=row.sku_seq, trace_id=trace_id)


SUBJECT: dict[Topic, str] = {
    Topic.ORDERS: "orderId",
    Topic.RESERVATIONS: "reservationId",
    Topic.DEAD_LETTERS: "deadLetterId",
}
"""What an event that is no movement calls the thing it is about."""


def _of_event(row: Event) -> Published:
    event_id = f"{row.subject}.{row.sequence}"
    key = str(row.body.get("skuId", row.subject))
    body = {SUBJECT[row.topic]: row.subject, **row.body}
    at, trace_id = moment(row.at_ms), row.trace_id or UNSET
    return Published(event_id, row.type, row.topic, key, at, VERSION, body, sequence=row.sequence, trace_id=trace_id)


def moment(ms: int) -> str:
    """RFC 3339 in UTC to the millisecond: `2026-01-15T10:02:00.000Z`."""
    seconds, milliseconds = divmod(ms, 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    """Thousands of events are of one second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
