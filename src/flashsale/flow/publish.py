"""Publishing: passes on what the world is told, page by page, at least once and in order.

    lease ──► read a page after the cursor ──► publish ──► acknowledged ──► advance the cursor
      ▲                                                                          │
      └──────────────────────────────────────────────────────────────────────────┘

A crash between the acknowledgement and the advance tells a page twice, and none is left out. Of all processes of a
ledger the one with the lease publishes; when it dies, another takes over as soon as the lease has run out. A holder
that was only slow finds that it cannot advance any more, and what it has told is told again: consumers drop an event
whose id they know.

Sales do not wait for any of this: while the broker is away the rows stay where they are.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

import msgspec
import structlog

from flashsale.core.event import Told, published
from flashsale.core.questions import EventsAfter, Query
from flashsale.flow.lease import Lease
from flashsale.ports import Broker, BrokerUnavailable, Clock, Message

LEASE = "broker"
TICK_SECONDS = 0.1
PAGE = 500
"""Rows passed on at once; this also bounds what is in flight."""
REST_MS = (250, 500, 1_000, 2_000)
"""How long to wait after each failure in a row; the last holds from then on."""

log = structlog.get_logger("flashsale.publish")
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")


class Source(Protocol):
    """A ledger, or one of its databases, as far as it is asked here."""

    async def find(self, query: Query[T]) -> T: ...


class Publishing:
    """One relay's part in this process."""

    def __init__(self, ledger: Source, lease: Lease, broker: Broker, clock: Clock) -> None:
        self._ledger = ledger
        self._lease = lease
        self._broker = broker
        self._clock = clock
        self._rest_until_ms = 0
        self._failures = 0
        self.trouble: str | None = None
        """Why nothing gets out, in words for the operator."""

    async def publish(self) -> int:
        """Passes on everything there is. Returns how many rows."""
        passed = 0
        while size := await self._page():
            passed += size
        return passed

    async def _page(self) -> int:
        await self._lease.held()
        cursor = self._lease.cursor
        if cursor is None or self._clock.now_ms() < self._rest_until_ms:
            return 0
        page = await self._ledger.find(EventsAfter(cursor, PAGE))
        if not page or not await self._got_through(messages_of([row for _, row in page])):
            return 0
        await self._lease.advance(page[-1][0])
        return len(page)

    async def _got_through(self, page: Sequence[Message]) -> bool:
        try:
            await self._lease.during(self._broker.publish(page))
        except BrokerUnavailable as error:
            self._rest_until_ms = self._clock.now_ms() + REST_MS[min(self._failures, len(REST_MS) - 1)]
            self._failures += 1
            if self.trouble is None:
                log.warning("the broker is away", error=str(error))
            self.trouble = str(error) or "unavailable"
            return False
        if self.trouble is not None:
            log.warning("the broker is back", failures=self._failures)
        self._failures, self.trouble = 0, None
        return True


def messages_of(rows: Sequence[Told]) -> list[Message]:
    return [Message(event.topic, event.key, _encode(event)) for row in rows for event in published(row)]
