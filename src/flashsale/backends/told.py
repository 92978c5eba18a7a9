"""A row of journal or outbox as both ledgers read it: in one shape, because a page is one statement over both."""

from typing import Any

import msgspec

from flashsale.core.event import Event, Told
from flashsale.core.journal import Movement


def told(row: Any) -> tuple[int, Told]:
    """A row of `events_page` with its number: an order event has a topic, a movement has none."""
    seq, topic, *values = row
    if topic is None:
        return seq, msgspec.convert(values, Movement)
    name, subject, sequence, body, at_ms = values[:5]
    return seq, msgspec.convert((topic, name, subject, sequence, at_ms, msgspec.json.decode(body), values[-1]), Event)
