"""What the world is told: one event for each transition, written in the transition's own transaction.

Events of stock and reservations are the journal's rows (`journal.EVENT_OF`), ordered by the gapless `sku_seq`.
What moves no unit goes to the outbox: the events of orders, ordered by a sequence of each order. A consumer
drops what is not newer, and notices what is missing.
"""

from enum import StrEnum

import msgspec


class Topic(StrEnum):
    ORDERS = "flashsale.orders"


class Event(msgspec.Struct, frozen=True, array_like=True):
    """A row of the outbox. `subject` is what it is about; `sequence` rises with each event of the subject."""

    topic: Topic
    type: str
    subject: str
    sequence: int
    at_ms: int
    body: dict[str, object]
