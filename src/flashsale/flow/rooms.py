"""The waiting rooms as this process last saw them: how fast the line moves, who was drawn, who holds on.

Each process looks at the ledger several times a second. What is seen here is a little old and is used where that does
no harm: for estimates, to see whose turn has come, to wake those who hold the line. A place is never told from it: it
is told from a read of its own (`flow/visit.py`), because two processes whose pictures differ would tell a visitor that
he has lost places.
"""

import asyncio
from array import array
from contextlib import suppress
from heapq import heapify, heappop, heappush
from itertools import count
from typing import NamedTuple

import msgspec

from flashsale.core.questions import DrawnOrder, FindRooms
from flashsale.core.sale import RoomTerms, Sale, SaleState, state_at
from flashsale.core.wait_estimate import Pace
from flashsale.core.waiting_room import Phase, Room, is_drawing
from flashsale.flow.storefront import Storefront
from flashsale.ports import Clock, Ledger

LOOK_SECONDS = 0.1
OVER_MS = 60_000
"""How long a room of an ended sale is left alone before it is looked at again."""
HOLDING_MAX = 20_000
"""Visitors of one room who hold the line in this process; those beyond are told at once what there is."""

PASSED_OVER_SECONDS = 1.0
OVER_MIN = 100
EVERYBODY = 2**62
"""A place behind all others; of those whose place is not drawn."""


class Drawing:
    """The outcome of a draw."""

    def __init__(self, numbers: bytes) -> None:
        self.numbers = array("I")
        """Of tickets, by their places; the first place is at 0."""
        self.numbers.frombytes(numbers)
        self.places = array("I", bytes(len(numbers)))
        """By number; that of number 1 is at 0."""
        for place, number in enumerate(self.numbers, 1):
            self.places[number - 1] = place


class Mood(NamedTuple):
    """What concerns everybody: when it changes, all who hold the line are told."""

    state: SaleState
    phase: Phase
    sold_out: bool


class Holding:
    """Visitors who hold the line, by their places."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._over = 0
        """How many of them do not hold on any more."""
        self._numbers = count()

    @property
    def many(self) -> int:
        """How many hold on, or have just stopped."""
        return len(self._waiting) - self._over

    async def wait(self, place: int, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (place, next(self._numbers), future))
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self._over += future.cancelled()

    def let_go(self, up_to: int) -> None:
        """Those with a place up to this one."""
        while self._waiting and self._waiting[0][0] <= up_to:
            _, _, future = heappop(self._waiting)
            if future.done():
                self._over -= 1
            else:
                future.set_result(None)
        if self._over > max(OVER_MIN, len(self._waiting) // 2):  # each is looked at once for each that came
            before = len(self._waiting)
            self._waiting = [each for each in self._waiting if not each[2].done()]
            heapify(self._waiting)
            self._over -= before - len(self._waiting)  # not 0: who was just cancelled has not counted himself yet


class Picture:
    """One room."""

    def __init__(self, sale: Sale, room: Room) -> None:
        self.room = room
        """As it was last read."""
        self.pace = pace_of(sale, room)
        self.drawing: Drawing | None = None
        self.mood: Mood | None = None
        self._holding = Holding()
        self._resigned = Holding()
        """Those who were told that it is sold out: a unit that comes back is one person's, and is gone at once, so
        that is no news for all the others."""

    def place_of(self, number: int) -> int | None:
        """None: it is not drawn yet."""
        if number > self.room.entrants:
            return number
        return self.drawing.places[number - 1] if self.drawing else None

    def number_at(self, place: int) -> int:
        """The ticket that has a place, where the draw is over."""
        if place > self.room.entrants or self.drawing is None:
            return place
        return self.drawing.numbers[place - 1]

    def let_go(self) -> None:
        """Nobody is kept waiting any more."""
        for holding in (self._holding, self._resigned):
            holding.let_go(EVERYBODY)

    async def hold(self, place: int | None, seconds: float, resigned: bool) -> None:
        """Until its turn has come, or something has changed for everybody, or the time is over. Whoever was passed
        over holds on for a moment only, because nothing here tells when he is let in."""
        if self._holding.many + self._resigned.many >= HOLDING_MAX or seconds <= 0:
            return
        if place is not None and place <= self.room.head:
            place, seconds = None, min(seconds, PASSED_OVER_SECONDS)
        await (self._resigned if resigned else self._holding).wait(place or EVERYBODY, seconds)

    def wake(self, mood: Mood) -> None:
        """Those whose turn has come; all of them, if the mood has changed."""
        before, self.mood = self.mood, mood
        changed = before is None or (before.state, before.phase) != (mood.state, mood.phase)
        newly_sold_out = mood.sold_out and not (before and before.sold_out)
        self._resigned.let_go(EVERYBODY if changed else self.room.head)
        self._holding.let_go(EVERYBODY if changed or newly_sold_out else self.room.head)


class RoomsSeen:
    def __init__(self, ledger: Ledger, storefront: Storefront, clock: Clock) -> None:
        self._ledger = ledger
        self._storefront = storefront
        self._clock = clock
        self.pictures: dict[str, Picture] = {}
        self._drawing = asyncio.Lock()
        self._over: set[str] = set()
        """Sales that have ended, with nothing left to tell of their draws as far as was seen: what a shard that is away
        has last said, or what was read beside a step of the draw, may be older than the end."""
        self._over_until_ms = 0

    def sale(self, sale_id: str) -> Sale | None:
        """If it has a waiting room."""
        sale = self._storefront.sales.get(sale_id)
        return sale if sale is not None and sale.waiting_room is not None else None

    def any_sale(self, sale_id: str) -> Sale | None:
        """Whether or not it has one (now)."""
        return self._storefront.sales.get(sale_id)

    def available(self, sale: Sale) -> int:
        """Units of all its products, as the window shows them."""
        rows = (self._storefront.stock(sale.sale_id, product.sku_id) for product in sale.products)
        return sum(row.available for row in rows if row is not None)

    async def look(self) -> None:
        now_ms = self._clock.now_ms()
        sales = {sale_id: sale for sale_id, sale in self._storefront.sales.items() if sale.waiting_room is not None}
        ended = {sale_id for sale_id, sale in sales.items() if state_at(sale, now_ms) is SaleState.ENDED}
        if now_ms >= self._over_until_ms:
            self._over.clear()
            self._over_until_ms = now_ms + OVER_MS
        self._over &= ended
        wanted = tuple(sales.keys() - self._over)
        found = await self._ledger.find(FindRooms(wanted)) if wanted else []
        self._over |= {room.sale_id for room in found if room.sale_id in ended and not is_drawing(room)}
        rooms = [room for room in found if room.sale_id not in self._over]
        for gone in self.pictures.keys() - {room.sale_id for room in rooms}:
            self.pictures.pop(gone).let_go()
        for room in rooms:
            await self.saw(sales[room.sale_id], room)

    async def saw(self, sale: Sale, room: Room) -> Picture:
        """Takes in how a room is now."""
        picture = self.pictures.get(sale.sale_id)
        if picture is None or picture.room.seed != room.seed:
            picture = self.pictures[sale.sale_id] = Picture(sale, room)
        if _goes_on(picture.room, room):
            told = room.pace != picture.room.pace
            picture.pace = pace_of(sale, room) if told else under_terms(picture.pace, sale)
            picture.room = room
        now_ms = self._clock.now_ms()
        state, sold_out = state_at(sale, now_ms), self.available(sale) <= 0
        if room.phase is Phase.DRAWN and room.entrants and picture.drawing is None and state is not SaleState.ENDED:
            await self._draw(picture)
        picture.wake(Mood(state, picture.room.phase, sold_out))
        return picture

    async def _draw(self, picture: Picture) -> None:
        async with self._drawing:
            if picture.drawing is None:
                numbers = await self._ledger.find(DrawnOrder(picture.room.sale_id))
                picture.drawing = await asyncio.to_thread(Drawing, numbers)


def pace_of(sale: Sale, room: Room) -> Pace:
    """As the ledger has it; before anybody has measured it, as its terms say."""
    if room.pace is not None:
        return under_terms(msgspec.json.decode(room.pace, type=Pace), sale)
    terms = sale.waiting_room or RoomTerms()
    return Pace(terms.admit_per_second, terms.burst)


def under_terms(pace: Pace, sale: Sale) -> Pace:
    """As it is expected to go under the terms that the sale has now."""
    terms = sale.waiting_room or RoomTerms()
    return pace.under(terms.admit_per_second, terms.burst)


def _goes_on(before: Room, room: Room) -> bool:
    """Whether what was read is not older than what is known."""
    phases = [*Phase]
    pairs = ((before.head, room.head), (before.arrivals, room.arrivals))
    return phases.index(before.phase) <= phases.index(room.phase) and all(first <= then for first, then in pairs)
