"""The event feed: what a broker would be told, for a shop that has none, by cursor.

It is the same events in the same form (core/event.py), in the order of commits. Whoever has read a page asks for what
comes after its `next`, as often as he likes; on the last page too, because a feed has no end.
"""

from collections.abc import Sequence

from flashsale.core.event import Published, Told, Topic, published
from flashsale.edge.call import CURSOR_MAX, Param
from flashsale.edge.schema import Shown

AFTER = Param(
    "after",
    "`next` of the page before; 0: from the beginning",
    {"type": "integer", "minimum": 0, "maximum": CURSOR_MAX},
)


class Feed(Shown):
    """A page, in commit order; `next` goes into `after`, now or when there may be more."""

    events: list[Published]
    next: int


def page(after: int, rows: Sequence[tuple[int, Told]], topic: Topic | None) -> Feed:
    told = [event for _, row in rows for event in published(row) if topic in (None, event.topic)]
    return Feed(told, rows[-1][0] if rows else after)
