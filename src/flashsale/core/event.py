"""What the world is told: one event for each transition, written in the transition's own transaction.

Reservation and order events go to the outbox. A stock event is the journal row itself: it carries the
gapless `sku_seq`, so that a consumer can drop what is not newer and notice what is missing.
"""

from enum import StrEnum

import msgspec


class Topic(StrEnum):
    RESERVATIONS = "flashsale.reservations"
    ORDERS = "flashsale.orders"
    INVENTORY = "flashsale.inventory"


class Event(msgspec.Struct, frozen=True):
    """A fact to publish. `subject` is what it is about; `sequence` rises per subject, so consumers can order."""

    topic: Topic
    type: str
    subject: str
    sequence: int
    at_ms: int
    body: dict[str, object]
