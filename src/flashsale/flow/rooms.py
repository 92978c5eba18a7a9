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

import msgspec

from flashsale.core.questions import DrawnOrder, FindRooms
from flashsale.core.sale import RoomTerms, Sale, SaleState, state_at
from flashsale.core.wait_estimate import Pace
from flashsale.core.waiting_room import Phase, Room
from flashsale.flow.storefront import Storefront
from flashsale.ports import Clock, Ledger

LOOK_SECONDS = 0.1
HOLDING_MAX = 20_000
"""Visitors of one room who hold the line in this process; those beyond are told at once what there is."""

PASSED_OVER_SECONDS = 1.0
OVER_MIN = 100


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


class Picture:
    """One room."""

    def __init__(self, sale: Sale, room: Room) -> None:
        self.room = room
        """As it was last read."""
        self.pace = pace_of(sale, room)
        self.drawing: Drawing | None = None
        self.mood: tuple[object, ...] = ()
        """What concerns everybody: when it changes, all who hold the line are told."""
        self._holding: list[tuple[int, int, asyncio.Future[None]]] = []
        self._over = 0
        """How many of them do not hold on any more."""
        self._numbers = count()

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
        while self._holding:
            _, _, future = heappop(self._holding)
            if not future.done():
                future.set_result(None)
        self._over = 0

    async def hold(self, place: int | None, seconds: float) -> None:
        """Until its turn has come, or something has changed for everybody, or the time is over. Whoever was passed
        over holds on for a moment only, because nothing here tells when he is let in."""
        if len(self._holding) - self._over >= HOLDING_MAX or seconds <= 0:
            return
        if place is not None and place <= self.room.head:
            place, seconds = None, min(seconds, PASSED_OVER_SECONDS)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._holding, (place or 2**62, next(self._numbers), future))
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(future, seconds)
        finally:
            self._over += future.cancelled()

    def wake(self, mood: tuple[object, ...]) -> None:
        """Those whose turn has come; all of them, if the mood has changed."""
        everybody, self.mood = mood != self.mood, mood
        while self._holding and (everybody or self._holding[0][0] <= self.room.head):
            _, _, future = heappop(self._holding)
            if future.done():
                self._over -= 1
            else:
                future.set_result(None)
        if self._over > max(OVER_MIN, len(self._holding) // 2):  # each is looked at once for each that came
            self._holding = [each for each in self._holding if not each[2].done()]
            heapify(self._holding)
            self._over = 0


class RoomsSeen:
    def __init__(self, ledger: Ledger, storefront: Storefront, clock: Clock) -> None:
        self._ledger = ledger
        self._storefront = storefront
        self._clock = clock
        self.pictures: dict[str, Picture] = {}
        self._drawing = asyncio.Lock()

    def sale(self, sale_id: str) -> Sale | None:
        """If it has a waiting room."""
        sale = self._storefront.sales.get(sale_id)
        return sale if sale is not None and sale.waiting_room is not None else None

    def available(self, sale: Sale) -> int:
        """Units of all its products, as the window shows them."""
        rows = (self._storefront.stock(sale.sale_id, product.sku_id) for product in sale.products)
        return sum(row.available for row in rows if row is not None)

    async def look(self) -> None:
        now_ms = self._clock.now_ms()
        wanted = {sale_id: sale for sale_id, sale in self._storefront.sales.items() if _is_open(sale, now_ms)}
        rooms = await self._ledger.find(FindRooms(tuple(wanted))) if wanted else []
        found = {room.sale_id: room for room in rooms}
        for gone in self.pictures.keys() - found.keys():
            self.pictures.pop(gone).let_go()
        for sale_id, room in found.items():
            await self.saw(wanted[sale_id], room)

    async def saw(self, sale: Sale, room: Room) -> Picture:
        """Takes in how a room is now."""
        picture = self.pictures.get(sale.sale_id)
        if picture is None or picture.room.seed != room.seed:
            picture = self.pictures[sale.sale_id] = Picture(sale, room)
        if _goes_on(picture.room, room):
            if room.pace != picture.room.pace:
                picture.pace = pace_of(sale, room)
            picture.room = room
        now_ms = self._clock.now_ms()
        state, sold_out = state_at(sale, now_ms), self.available(sale) <= 0
        if room.phase is Phase.DRAWN and room.entrants and picture.drawing is None and state is not SaleState.ENDED:
            await self._draw(picture)
        picture.wake((state, sold_out, picture.room.phase))
        return picture

    async def _draw(self, picture: Picture) -> None:
        async with self._drawing:
            if picture.drawing is None:
                numbers = await self._ledger.find(DrawnOrder(picture.room.sale_id))
                picture.drawing = await asyncio.to_thread(Drawing, numbers)


def _is_open(sale: Sale, now_ms: int) -> bool:
    """Whether it has a waiting room in which somebody may wait."""
    return sale.waiting_room is not None and state_at(sale, now_ms) is not SaleState.ENDED


def pace_of(sale: Sale, room: Room) -> Pace:
    """As the ledger has it; before anybody has measured it, as its terms say."""
    if room.pace is not None:
        return msgspec.json.decode(room.pace, type=Pace)
    terms = sale.waiting_room or RoomTerms()
    return Pace(terms.admit_per_second, terms.burst)


def _goes_on(before: Room, room: Room) -> bool:
    """Whether what was read is not older than what is known."""
    phases = [*Phase]
    pairs = ((before.head, room.head), (before.arrivals, room.arrivals))
    return phases.index(before.phase) <= phases.index(room.phase) and all(first <= then for first, then in pairs)
