"""Consuming: decides what waits in the queue, by the very ledger that decides direct attempts.

    take a batch ──► decide ──► all in the ledger? ──► give the permits back ──► done ──► take the next of this slice
                       ▲              │ no
                       └── after a rest┘

A batch is done when everything in it has its outcome in the ledger. A crash before that brings it again, and what was
decided is found decided. What can go wrong has two kinds:

- The store is in trouble (away, full, busy): nobody's fault. The slice rests, longer and longer; nothing is counted.
- One message cannot be decided though its neighbours can: its fault. The ledger has tried it alone. After three tries
  it is a dead letter: written down, its buyer told REJECTED. Where all of a batch fail in a way that nobody has
  foreseen, that is taken for the first kind for PATIENCE_SECONDS; a message that came alone is given LONELY_SECONDS.

Requests of a paused sale are not decided. From a broker they move to the ledger's queue, so that other products of
their slice go on; there they wait until the sale goes on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import structlog

from flashsale.answering import told
from flashsale.core.books import Line
from flashsale.core.dead_letters import TRIES_MAX, attempt_of
from flashsale.core.letter import DeadLetter, letter_id_of
from flashsale.core.permits import Synchronised
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item, Request, Unreadable, decode
from flashsale.core.sale import Mode, SaleState, state_at
from flashsale.core.stock import Attempt, Decided
from flashsale.core.visitor import Visitor
from flashsale.flow.ledger_queue import NAME as LEDGER_QUEUE
from flashsale.flow.queueing import synchronised
from flashsale.flow.reserve import Granting
from flashsale.flow.storefront import Storefront
from flashsale.flow.waiting import Waiting
from flashsale.ports import (
    FAILED,
    Batch,
    Clock,
    Deliveries,
    Delivery,
    Gate,
    GateAway,
    LedgerUnavailable,
    Outcome,
    WholeLedger,
)

REST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0)
"""After each round in a row that brought nothing; the last holds from then on."""

PATIENCE_SECONDS = 30.0
LONELY_SECONDS = (1.0, 4.0)
"""Before the second and the third try of a message that has no neighbours."""
LIVE = frozenset({SaleState.ACTIVE, SaleState.PAUSED})
LEASE = "consume"
"""Of the one process that takes from the ledger's queue; a broker shares its slices out by itself."""
TICK_SECONDS = 0.1
SYNCHRONISE_SECONDS = 0.1

log = structlog.get_logger("flashsale.consume")


class Waits(NamedTuple):
    """A message that can be read, and what the ledger is asked for it."""

    delivery: Delivery
    request: Request
    attempt: Attempt


class Consuming:
    def __init__(
        self, ledger: WholeLedger, sources: Sequence[Deliveries], gate: Gate | None, storefront: Storefront,
        waiting: Waiting, clock: Clock, granted: Granting | None = None,
    ) -> None:  # fmt: skip
        """`granted` hears of what was reserved for whom."""
        self._ledger = ledger
        self._sources = sources
        self._gate = gate
        self._storefront = storefront
        self._waiting = waiting
        self._clock = clock
        self._granted = granted
        self._batches: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Consumes until it is cancelled."""
        try:
            await asyncio.gather(*(self._drain(source) for source in self._sources))
        finally:
            for task in self._batches:
                task.cancel()
            await asyncio.gather(*self._batches, return_exceptions=True)

    async def synchronise(self) -> int:
        """Tells the gate what there is of every product in a queued sale. Returns how many."""
        now_ms = self._clock.now_ms()
        if self._gate is None or not self._storefront.is_fresh(now_ms):
            return 0
        rows = [
            synchronised(row)
            for sale in self._storefront.sales.values()
            if sale.mode is Mode.QUEUED and state_at(sale, now_ms) in LIVE
            for product in sale.products
            if (row := self._storefront.stock(sale.sale_id, product.sku_id))
        ]
        if rows:
            with suppress(GateAway):  # which it says itself
                await self._gate.synchronise(rows)
        return len(rows)

    async def _drain(self, source: Deliveries) -> None:
        """One source that fails does not hold up the others."""
        while True:
            try:
                batch = await source.take()
            except Exception:
                log.exception("the queue could not be read and is asked again")
                await asyncio.sleep(REST_SECONDS[-1])
                continue
            task = asyncio.create_task(self._work_off(source, batch))
            self._batches.add(task)
            task.add_done_callback(self._batches.discard)

    async def _work_off(self, source: Deliveries, batch: Batch) -> None:
        """A slice whose batch is not done stays taken: nothing of it is lost, and nothing behind it overtakes."""
        while True:
            try:
                await self._decide_all(batch)
            except Exception:
                log.exception("a batch of the queue failed and is worked on again", size=len(batch.deliveries))
                await asyncio.sleep(REST_SECONDS[-1])
            else:
                source.done(batch)
                return

    async def _decide_all(self, batch: Batch) -> None:
        left = await self._readable(batch.deliveries)
        trying = Trying(asyncio.get_running_loop().time)
        idle = 0
        while left:
            outcomes = await self._decided([each.attempt for each in left])
            decided = [(each.request, it) for each, it in zip(left, outcomes, strict=True) if isinstance(it, Decided)]
            trying.in_company = trying.in_company or bool(decided)
            await self._settle(decided)
            left = await self._sorted_out(left, outcomes, trying)
            idle = 0 if decided else idle + 1
            if left:
                await asyncio.sleep(trying.rest() or REST_SECONDS[min(idle, len(REST_SECONDS) - 1)])

    async def _readable(self, deliveries: Sequence[Delivery]) -> list[Waits]:
        readable = []
        for delivery in deliveries:
            try:
                request = decode(delivery.message)
            except Unreadable as fault:
                await self._bury(delivery, None, str(fault), 1)
                continue
            place = delivery.origin.offset if delivery.origin.topic == LEDGER_QUEUE else None
            readable.append(Waits(delivery, request, attempt_of(request, place)))
        return readable

    async def _decided(self, attempts: Sequence[Attempt]) -> list[Outcome]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        outcomes: list[Outcome] = [FAILED] * len(attempts)
        open_ends = len(attempts)

        def told(number: int, outcome: Outcome) -> None:
            nonlocal open_ends
            outcomes[number] = outcome
            open_ends -= 1
            if not open_ends and not done.done():
                done.set_result(None)

        for number, attempt in enumerate(attempts):
            self._ledger.reserve(attempt, lambda outcome, number=number: told(number, outcome))  # type: ignore[misc]
        await done
        return outcomes

    async def _sorted_out(self, waits: Sequence[Waits], outcomes: Sequence[Outcome], trying: "Trying") -> list[Waits]:
        """What is still to be decided."""
        left = []
        counts = trying.counts(len(waits))
        for each, outcome in zip(waits, outcomes, strict=True):
            if isinstance(outcome, Decided):
                continue
            assert isinstance(outcome, Refused)
            if outcome.refusal is Refusal.PAUSED:
                left += await self._held_back(each)
                continue
            if counts and outcome.message == FAILED.message:
                trying.tries[each.delivery] += 1
            if trying.tries[each.delivery] < TRIES_MAX:
                left.append(each)
            else:
                await self._bury(each.delivery, each.request, str(outcome.details.get("error", "")), TRIES_MAX)
        return left

    async def _held_back(self, each: Waits) -> list[Waits]:
        """A request of a paused sale: it waits in the ledger's queue. Empty when it is there."""
        if each.delivery.origin.topic == LEDGER_QUEUE:
            return []
        taken_in: bool = await told(partial(self._ledger.enqueue, each.request))
        return [] if taken_in else [each]

    async def _bury(self, delivery: Delivery, request: Request | None, error: str, tries: int) -> None:
        origin, message = delivery
        error = error.replace("\0", "\\0")
        letter_id = letter_id_of(*origin, message)
        ids = request.reservation_ids if request else ()
        letter = DeadLetter(letter_id, self._clock.now_ms(), *origin, message, error[:1000], tries, ids)
        place = origin.offset if origin.topic == LEDGER_QUEUE else None
        log.error("a queued request is a dead letter", letter_id=letter_id, error=error[:200], tries=tries)
        idle = failures = 0
        while True:
            try:
                await self._ledger.bury(letter, request if failures < TRIES_MAX else None, place)
                break
            except LedgerUnavailable as trouble:
                failures += str(trouble) == FAILED.message  # then its own rows are what cannot be written
                await asyncio.sleep(REST_SECONDS[min(idle, len(REST_SECONDS) - 1)])
                idle += 1
        if request is not None:
            await self._give_back({(request.sale_id, item.sku_id): [id_] for id_, item in _each(request)}, ())

    async def _settle(self, decided: Sequence[tuple[Request, Decided]]) -> None:
        """Gives back the permits of what is decided, and tells the gate what there is now."""
        lines: dict[Line, list[str]] = {}
        for request, outcome in decided:
            self._waiting.decided(outcome.reservations)
            if self._granted is not None and not outcome.replayed:
                self._granted(Visitor(request.user_id), outcome.reservations)
            for reservation_id, item in _each(request):
                lines.setdefault((request.sale_id, item.sku_id), []).append(reservation_id)
        stock = [self._storefront.stock(*line) for line in lines]
        fresh = self._storefront.is_fresh(self._clock.now_ms())
        await self._give_back(lines, [synchronised(row) for row in stock if row and fresh])

    async def _give_back(self, lines: dict[Line, list[str]], rows: Sequence[Synchronised]) -> None:
        if not lines or self._gate is None:
            return
        try:
            await self._gate.settle(list(lines.items()), rows)
        except GateAway:
            log.debug("permits are not given back: the gate is away, they lapse")


class Trying:
    """What has been seen of a batch: whose fault it is that messages of it fail."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.tries: Counter[Delivery] = Counter()
        self.in_company = False
        """Whether the ledger has decided others of the batch: then it works, and who fails is himself at fault."""
        self._now = now
        self._since = now()

    def counts(self, size: int) -> bool:
        """Whether a failure counts as a try. Where all fail, that is the store's trouble for a long while."""
        return self.in_company or size == 1 or self._now() - self._since > PATIENCE_SECONDS

    def rest(self) -> float:
        """Before the next try of what has failed alone: a store that nobody knows to be in trouble gets some time."""
        most = max(self.tries.values(), default=0)
        return 0.0 if self.in_company or not most else LONELY_SECONDS[min(most, len(LONELY_SECONDS)) - 1]


def _each(request: Request) -> Iterable[tuple[str, Item]]:
    return zip(request.reservation_ids, request.items, strict=True)
