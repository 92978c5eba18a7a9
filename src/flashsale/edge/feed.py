"""The event feed: what a broker would be told, for a shop that has none, by cursor.

It is the same events in the same form (core/event.py), in the order of commits. Whoever has read a page asks for what
comes after its `next`, as often as he likes; on the last page too, because a feed has no end. A reader who comes
so late that something behind his cursor was forgotten is told so, and from where on nothing is missing.
"""

from collections.abc import Sequence

from flashsale.core.event import Published, Told, Topic, published
from flashsale.core.refusal import Refusal, Refused
from flashsale.edge.call import CURSOR_MAX, Param, shown_cursor
from flashsale.edge.schema import Shown

AFTER = Param(
    "after",
    "`next` of the page before; left out: from the oldest event that is kept",
    {
        "oneOf": [
            {"type": "integer", "minimum": 0, "maximum": CURSOR_MAX},
            {"type": "string", "pattern": "^x[0-9a-f]{1,1024}$"},
        ]
    },
)


class Feed(Shown):
    """A page, in commit order; `next` goes into `after` as it is, now or when there may be more."""

    events: list[Published]
    next: int | str


def forgotten(after: int, oldest: int) -> Refused:
    shown = {"after": shown_cursor(after), "oldest": shown_cursor(oldest)}
    message = (
        f"Events after {shown['after']} were pruned: read the ledger's state anew, then go on after {shown['oldest']}"
    )
    return Refused(Refusal.NOT_FOUND, message, dict(shown))


def page(after: int, rows: Sequence[tuple[int, Told]], topic: Topic | None) -> Feed:
    told = [event for _, row in rows for event in published(row) if topic in (None, event.topic)]
    return Feed(told, shown_cursor(rows[-1][0] if rows else after))
