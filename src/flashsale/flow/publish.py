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

import asyncio
from collections.abc import Sequence

import msgspec
import structlog

from flashsale.core.event import Told, published
from flashsale.ports import Broker, BrokerUnavailable, Clock, EventsAfter, Ledger, Message, Outbox

RELAY = "broker"
TICK_SECONDS = 0.1
PAGE = 500
"""Rows passed on at once; this also bounds what is in flight."""
LEASE_MS = 2_000
PROLONG_MS = 1_000
ASK_MS = 500
"""How often a relay that somebody else has is asked for: it is taken over within LEASE_MS + ASK_MS and a tick."""
REST_MS = (250, 500, 1_000, 2_000)
"""How long to wait after each failure in a row; the last holds from then on."""

log = structlog.get_logger("flashsale.publish")
_encode = msgspec.json.Encoder().encode


class Publishing:
    """One relay's part in this process."""

    def __init__(self, ledger: Ledger, outbox: Outbox, broker: Broker, clock: Clock, owner: str) -> None:
        """`owner` is a name that no other process has."""
        self._ledger = ledger
        self._outbox = outbox
        self._broker = broker
        self._clock = clock
        self._owner = owner
        self._cursor: int | None = None
        self._ask_at_ms = 0
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

    async def close(self) -> None:
        """Gives the relay back, so that another process goes on at once."""
        if self._cursor is not None:
            await self._outbox.lease(RELAY, self._owner, 0)

    async def _page(self) -> int:
        cursor = await self._position()
        if cursor is None or self._clock.now_ms() < self._rest_until_ms:
            return 0
        page = await self._ledger.find(EventsAfter(cursor, PAGE))
        if not page or not await self._got_through(messages_of([row for _, row in page])):
            return 0
        last = page[-1][0]
        self._cursor = last if await self._outbox.advance(RELAY, self._owner, last) else None
        return len(page)

    async def _position(self) -> int | None:
        """The cursor, while the relay is ours."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._ask_at_ms:
            self._cursor = await self._outbox.lease(RELAY, self._owner, LEASE_MS)
            self._ask_at_ms = now_ms + (ASK_MS if self._cursor is None else PROLONG_MS)
        return self._cursor

    async def _got_through(self, page: Sequence[Message]) -> bool:
        try:
            await self._sent(page)
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

    async def _sent(self, page: Sequence[Message]) -> None:
        """A broker may take longer than a lease: it is prolonged meanwhile."""
        sending = asyncio.ensure_future(self._broker.publish(page))
        try:
            while not (await asyncio.wait({sending}, timeout=PROLONG_MS / 1000))[0]:
                await self._outbox.lease(RELAY, self._owner, LEASE_MS)
            await sending
        finally:
            sending.cancel()


def messages_of(rows: Sequence[Told]) -> list[Message]:
    return [Message(event.topic, event.key, _encode(event)) for row in rows for event in published(row)]
