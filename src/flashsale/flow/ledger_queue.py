"""The queue in the ledger itself: where there is no broker, and where the requests of a paused sale wait.

Both ends of it. A request is acknowledged when its row is committed; its row goes in the transaction that decides it,
so here nothing is decided twice and nothing need be remembered as done. One process at a time takes from it, under a
lease; what two take at once is decided once all the same.

A ledger in several databases has such a queue in each. A request waits where its sale is, so that one that is away
holds up nobody else, and so that the transaction that decides it finds its row.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from flashsale.core.questions import Queued, QueuedPage
from flashsale.core.request import Priority, Request
from flashsale.core.sale import SaleState, state_at
from flashsale.core.turns import SLICE_BATCH_MAX, pick
from flashsale.flow.publish import Source
from flashsale.flow.storefront import Storefront
from flashsale.ports import Batch, Clock, Delivery, LedgerUnavailable, Origin, WholeLedger

NAME = "ledger"
LOOK_SECONDS = 0.05


class LedgerQueue:
    """For one event loop."""

    def __init__(
        self, ledger: WholeLedger, storefront: Storefront, clock: Clock, held: Callable[[], Awaitable[bool]],
        source: Source | None = None, partition: int = 0,
    ) -> None:  # fmt: skip
        """`held`: whether it is this process that takes from the queue now. `source`: the database that it is in, if
        that is not the whole ledger, and `partition` its number."""
        self._ledger = ledger
        self._source = source or ledger
        self._partition = partition
        self._storefront = storefront
        self._clock = clock
        self._held = held
        self._free = asyncio.Event()
        self._free.set()
        self._news = asyncio.Event()
        self._in_a_row = 0

    # In.

    def append(self, request: Request, reply: Callable[[bool], None]) -> None:
        def acknowledged(there: bool) -> None:
            self.wake()
            reply(there)

        self._ledger.enqueue(request, acknowledged)

    def wake(self) -> None:
        """There is something new."""
        self._news.set()

    # Out.

    async def take(self) -> Batch:
        await self._free.wait()
        while True:
            self._news.clear()
            with suppress(LedgerUnavailable):
                if await self._held() and (queued := await self._head()):
                    self._free.clear()
                    deliveries = [Delivery(Origin(NAME, self._partition, each.place), each.message) for each in queued]
                    return Batch(NAME, deliveries)
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._news.wait()

    def done(self, batch: Batch) -> None:
        self._free.set()

    async def close(self) -> None:
        """Nothing to give back: what was taken and not decided is still there."""

    async def _head(self) -> Sequence[Queued]:
        now_ms = self._clock.now_ms()
        sales = self._storefront.sales.values()
        paused = tuple(sale.sale_id for sale in sales if state_at(sale, now_ms) is SaleState.PAUSED)
        high = await self._source.find(QueuedPage(Priority.HIGH, paused, SLICE_BATCH_MAX))
        normal = await self._source.find(QueuedPage(Priority.NORMAL, paused, SLICE_BATCH_MAX))
        picked = pick(high, normal, lambda each: each.sku_id, self._in_a_row)
        self._in_a_row = picked.in_a_row
        return picked.items


class LedgerQueues:
    """The way into those of several databases: the ledger knows which one a request belongs to."""

    def __init__(self, ledger: WholeLedger, ends: Sequence[LedgerQueue]) -> None:
        self._ledger = ledger
        self._ends = ends

    def append(self, request: Request, reply: Callable[[bool], None]) -> None:
        def acknowledged(there: bool) -> None:
            for end in self._ends:
                end.wake()
            reply(there)

        self._ledger.enqueue(request, acknowledged)

    async def close(self) -> None:
        """As in `LedgerQueue`."""
