"""Pruning: forgets what has been told, when it is old or there is too much of it.

    how far? ──► order events, batch by batch ──► movements, product by product, batch by batch ──► until the next round
    (core/retention.py)

A batch is one short transaction, and between two of them there is a pause, so that nobody who buys waits for more than
one. A round that is cut short, by whatever, has left nothing half done; the next one goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from flashsale.core.books import Line
from flashsale.core.questions import FindSales, MovedProducts, PruneReach
from flashsale.core.retention import Reach, kept_sales
from flashsale.flow.lease import Turn
from flashsale.flow.publish import Source
from flashsale.ports import Clock, History

TICK_SECONDS = 10.0
ROUND_MS = 300_000
"""From the end of one round to the next."""
PAUSE_SECONDS = 0.05
PRODUCTS = 200
"""Looked up at once."""

log = structlog.get_logger("flashsale.prune")


class Keeping:
    """What is kept whatever happens: so many days, the newest so many rows, and what the relays have not passed on."""

    def __init__(self, days: int, rows: int, relays: tuple[str, ...]) -> None:
        self.ms = days * 24 * 3600 * 1000
        self.rows = rows
        self.relays = relays


class Pruning:
    """One process's part in it."""

    def __init__(self, ledger: Source, history: History, turn: Turn, clock: Clock, keeping: Keeping) -> None:
        self._ledger = ledger
        self._history = history
        self._turn = turn
        self._clock = clock
        self._keeping = keeping
        self._round_at_ms = 0

    async def prune(self) -> int:
        """A tick. Returns how many rows are gone."""
        if self._clock.now_ms() < self._round_at_ms or not await self._turn.held():
            return 0
        gone = await self._round()
        self._round_at_ms = self._clock.now_ms() + ROUND_MS
        return gone

    async def _round(self) -> int:
        now_ms = self._clock.now_ms()
        sales = await self._ledger.find(FindSales())
        kept = kept_sales(sales, now_ms)
        passed, beyond = await self._ledger.find(PruneReach(self._keeping.rows, self._keeping.relays))
        reach = Reach(passed, beyond, now_ms - self._keeping.ms)
        gone = await self._events(reach)
        after: Line = ("", "")
        while products := await self._ledger.find(MovedProducts(after, PRODUCTS)):
            for line in products:
                gone += await self._movements(line, reach) if line[0] not in kept else 0
            after = products[-1]
        if gone:
            log.info("events were pruned", rows=gone)
        return gone

    async def _events(self, reach: Reach) -> int:
        gone, _ = await self._until_none_goes(partial(self._history.prune_events, reach))
        return gone

    async def _movements(self, line: Line, reach: Reach) -> int:
        gone, last = await self._until_none_goes(partial(self._history.prune_movements, line, reach))
        if last is None:
            log.error("movements that do not add up are kept", sale_id=line[0], sku_id=line[1])
        return gone

    async def _until_none_goes(self, batch: Callable[[], Awaitable[int | None]]) -> tuple[int, int | None]:
        """Batch after batch; how many rows went in all, and in the last batch."""
        gone = 0
        while await self._turn.held():
            size = await batch()
            if not size:
                return gone, size
            gone += size
            await asyncio.sleep(PAUSE_SECONDS)
        return gone, 0
