"""Questions that concern all shards: each is asked, and what they answer is put together.

Three kinds. What the shop shows and what is due (sales, stock, work, events, audit) leaves a shard out while it is
away, or shows what it last said: the others go on. A user's lists are whole or UNAVAILABLE: a list without the
reservation that is on the shard that is away would tell its owner that he has none. A thing whose id does not tell
its shard is looked for on all of them at once.

The cursor of a page over several shards is one number made of theirs, 64 bits for each, the first shard's lowest. So
the beginning is 0, and the cursors that a ledger had while it was one database are still good when it is several.
Rows of one shard come in the order of its commits, and none is left out; between shards they are merged by time.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from heapq import merge
from operator import attrgetter
from typing import Any, TypeVar

from msgspec.structs import replace

from flashsale.backends.ids import shard_of
from flashsale.backends.postgres.find import PAGE_MAX, AnnouncedSales
from flashsale.backends.postgres.shard import Round, Shard, called
from flashsale.core.books import Line
from flashsale.core.event import Told
from flashsale.core.journal import Stock
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.questions import (
    AuditEntry,
    AuditPage,
    DeadLetterCount,
    DeadLetters,
    DueWork,
    EventsAfter,
    EventsWaiting,
    FindActiveReservations,
    FindDeadLetter,
    FindOrder,
    FindOrders,
    FindReservations,
    FindRooms,
    FindSales,
    MovedProducts,
    PrunedTo,
    PruneReach,
    Query,
    Queued,
    QueuedPage,
    QueueFigures,
    StockOf,
    Waiting,
    Work,
)
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.waiting_room import Room
from flashsale.ports import LedgerUnavailable

T = TypeVar("T")

LIST_MAX = 200
"""Of a user's list, as on one shard."""
CURSOR_BITS = 64
CURSOR_MAX = 2**63 - 1
"""Of one shard."""
ROUNDS: tuple[type[Query[Any]], ...] = (
    FindSales, StockOf, DueWork, EventsAfter, AuditPage, FindReservations, QueuedPage, QueueFigures, DeadLetterCount,
    EventsWaiting, PrunedTo, FindRooms,
)  # fmt: skip
"""Questions whose answer may leave a shard out that is away."""


class Merged:
    """Of the shards of one ledger."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._rounds: dict[type[Query[Any]], Round] = {kind: Round(shards) for kind in ROUNDS}
        self._sales: dict[int, list[Sale]] = {}
        self._stock: dict[int, list[Stock]] = {}
        self._last: dict[type[Query[Any]], dict[int, Any]] = {}

    async def sales(self, query: FindSales) -> list[Sale]:
        """Those of a shard that is away as it last said them."""
        answers = await self._rounds[FindSales].ask(lambda shard: shard.find(query))
        self._sales |= answers
        for shard in self._shards:
            if shard.number not in self._sales:
                self._sales[shard.number] = await self._shards[0].find(AnnouncedSales(shard.number))
        return sorted(_all(self._sales), key=lambda sale: (sale.created_at_ms, sale.sale_id))

    async def open_sales(self, is_open: Callable[[Sale], bool]) -> dict[int, int]:
        """How many sales each shard has that answers now."""
        answers = await self._rounds[FindSales].ask(lambda shard: shard.find(FindSales()))
        return {number: sum(map(is_open, sales)) for number, sales in answers.items()}

    @property
    def shard_of_sale(self) -> dict[str, int]:
        return {sale.sale_id: number for number, sales in self._sales.items() for sale in sales}

    async def stock(self, query: StockOf) -> list[Stock]:
        answers = await self._rounds[StockOf].ask(lambda shard: shard.find(query))
        if query.sale_id is not None:
            return _all(answers)
        self._stock |= answers
        return sorted(_all(self._stock), key=lambda row: (row.sku_id, row.sale_id))

    async def work(self, query: DueWork) -> Work:
        answers = (await self._rounds[DueWork].ask(lambda shard: shard.find(query))).values()
        payments = sorted((each for work in answers for each in work.payments), key=attrgetter("due_at_ms"))
        refunds = sorted((each for work in answers for each in work.refunds), key=lambda each: each[0].due_at_ms)
        return Work(payments[: query.limit], refunds[: query.limit])

    async def events(self, query: EventsAfter) -> list[tuple[int, Told]]:
        limit, cursors = min(query.limit, PAGE_MAX), parted(query.after, len(self._shards))
        pages = await self._rounds[EventsAfter].ask(
            lambda shard: shard.find(replace(query, after=cursors[shard.number], limit=limit))
        )
        told = _merged(pages, cursors, limit, lambda row: row[0], lambda row: row[1].at_ms)
        return [(cursor, row[1]) for cursor, row in told]

    async def audit(self, query: AuditPage) -> list[AuditEntry]:
        limit, cursors = min(query.limit, PAGE_MAX), parted(query.after, len(self._shards))
        pages = await self._rounds[AuditPage].ask(lambda shard: shard.find(AuditPage(cursors[shard.number], limit)))
        told = _merged(pages, cursors, limit, attrgetter("seq"), attrgetter("at_ms"))
        return [replace(entry, seq=cursor) for cursor, entry in told]

    async def active_reservations(self, query: FindActiveReservations) -> list[Reservation]:
        lists = await asyncio.gather(*(shard.find(query) for shard in self._shards))
        return [*merge(*lists, key=lambda each: -each.created_at_ms)][:LIST_MAX]

    async def orders(self, query: FindOrders) -> list[Order]:
        lists = await asyncio.gather(*(shard.find(query) for shard in self._shards))
        return [*merge(*lists, key=attrgetter("order_id"), reverse=True)][:LIST_MAX]

    async def reservations(self, query: FindReservations) -> list[Reservation]:
        """Whoever is found is found, also while a shard is away; who is not may be there."""
        if not query.whole:
            return _all(await self._rounds[FindReservations].ask(lambda shard: shard.find(self._part(query, shard))))
        found: list[Reservation] = []
        async with aclosing(self._each(query)) as parts:
            async for part in parts:
                found += part
                if len(found) == len(set(query.reservation_ids)):
                    break
        return found

    async def order(self, query: FindOrder) -> Order | None:
        return await self._first(query)

    async def _first(self, query: Query[T | None]) -> T | None:
        """Of whoever has it."""
        async with aclosing(self._each(query)) as answers:
            async for answer in answers:
                if answer is not None:
                    return answer
        return None

    def _part(self, query: FindReservations, shard: Shard) -> FindReservations:
        """What a shard is asked: not for ids that tell of another one."""
        ids = tuple(each for each in query.reservation_ids if shard_of(each) in (None, shard.number))
        return FindReservations(ids)

    # What waits, and what was forgotten.

    async def figures(self, query: QueueFigures) -> dict[str, int]:
        return {sale_id: times for each in (await self._kept(query)).values() for sale_id, times in each.items()}

    async def letter_count(self, query: DeadLetterCount) -> int:
        return sum((await self._kept(query)).values())

    async def waiting(self, query: EventsWaiting) -> Waiting:
        answers = [*(await self._kept(query)).values()]
        oldest = [each.oldest_ms for each in answers if each.oldest_ms is not None]
        return Waiting(sum(each.rows for each in answers), min(oldest, default=None))

    async def _kept(self, query: Query[T]) -> dict[int, T]:
        """A shard's answer stands until it gives another one."""
        kept = self._last.setdefault(type(query), {})
        kept |= await self._rounds[type(query)].ask(lambda shard: shard.find(query))
        return kept

    async def queued(self, query: QueuedPage) -> list[Queued]:
        pages = await self._rounds[QueuedPage].ask(lambda shard: shard.find(query))
        told = [[each._replace(partition=number) for each in page] for number, page in pages.items()]
        return [*merge(*told, key=attrgetter("place"))][: query.limit]

    async def rooms(self, query: FindRooms) -> list[Room]:
        """Those of a shard that is away as it last said them."""
        asked = set(query.sale_ids)
        return [room for room in _all(await self._kept(query)) if room.sale_id in asked]

    async def letters(self, query: DeadLetters) -> list[DeadLetter]:
        """Whole or UNAVAILABLE: who goes on after a page would never see what it has left out."""
        lists = await asyncio.gather(*(shard.find(query) for shard in self._shards))
        return [*merge(*lists, key=attrgetter("letter_id"))][: min(query.limit, PAGE_MAX)]

    async def letter(self, query: FindDeadLetter) -> DeadLetter | None:
        return await self._first(query)

    async def pruned_to(self, query: PrunedTo) -> int:
        cursors = parted(query.after, len(self._shards))
        answers = await self._rounds[PrunedTo].ask(lambda shard: shard.find(PrunedTo(cursors[shard.number])))
        return joined([answers.get(number, cursor) for number, cursor in enumerate(cursors)])

    async def prune_reach(self, query: PruneReach) -> tuple[int, int]:
        """As cursors over all shards; `rows` are those of each."""
        answers = await asyncio.gather(*(shard.find(query) for shard in self._shards))
        return joined([passed for passed, _ in answers]), joined([beyond for _, beyond in answers])

    async def moved_products(self, query: MovedProducts) -> list[Line]:
        lists = await asyncio.gather(*(shard.find(query) for shard in self._shards))
        return [*merge(*lists)][: query.limit]

    async def _each(self, query: Query[T]) -> AsyncGenerator[T, None]:
        """The shards' answers as they come. In the end, raises LedgerUnavailable if one has not answered."""
        trouble: LedgerUnavailable | None = None
        asked = [asyncio.ensure_future(called(shard.find, query)) for shard in self._shards]
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    yield await answer
                except LedgerUnavailable as error:
                    trouble = error
        finally:
            for task in asked:
                task.cancel()
        if trouble is not None:
            raise trouble


def _all(answers: dict[int, list[T]]) -> list[T]:
    return [each for rows in answers.values() for each in rows]


def parted(cursor: int, shards: int) -> list[int]:
    """The shards' own cursors."""
    each = [cursor >> (CURSOR_BITS * number) & (2**CURSOR_BITS - 1) for number in range(shards)]
    return [min(cursor, CURSOR_MAX) for cursor in each]


def joined(cursors: Sequence[int]) -> int:
    """One of the shards' own."""
    return sum(each << (CURSOR_BITS * number) for number, each in enumerate(cursors))


def _merged(
    pages: dict[int, list[Any]], cursors: list[int], limit: int, seq_of: Callable[[Any], int],
    at_ms_of: Callable[[Any], int],
) -> list[tuple[int, Any]]:  # fmt: skip
    """The earliest rows of all pages, each with the cursor that goes on behind it."""
    numbered = [[(number, row) for row in page] for number, page in pages.items()]
    cursor = joined(cursors)
    told = []
    for number, row in [*merge(*numbered, key=lambda each: at_ms_of(each[1]))][:limit]:
        cursor += (seq_of(row) - cursors[number]) << (CURSOR_BITS * number)
        cursors[number] = seq_of(row)
        told.append((cursor, row))
    return told


Answering = Callable[[Merged, Any], Awaitable[Any]]
OF_ALL: dict[type[Query[Any]], Answering] = {
    FindSales: Merged.sales,
    StockOf: Merged.stock,
    DueWork: Merged.work,
    EventsAfter: Merged.events,
    AuditPage: Merged.audit,
    FindActiveReservations: Merged.active_reservations,
    FindOrders: Merged.orders,
    FindRooms: Merged.rooms,
    FindReservations: Merged.reservations,
    FindOrder: Merged.order,
    QueuedPage: Merged.queued,
    QueueFigures: Merged.figures,
    DeadLetters: Merged.letters,
    FindDeadLetter: Merged.letter,
    DeadLetterCount: Merged.letter_count,
    EventsWaiting: Merged.waiting,
    PrunedTo: Merged.pruned_to,
    PruneReach: Merged.prune_reach,
    MovedProducts: Merged.moved_products,
}
