"""Letting people in: at the start the draw, then one place after the other, as fast as the terms of the sale allow.

    start ──► close the draw ──► tell the root of its entrants ──► tell the seed, and with it the order ──► turns

One process of a fleet does it, by a lease; two that both believe it is their turn do no harm, because each step is
decided in a transaction on the room as it is then. Each step of the draw can be made again from what the ledger has:
the entrants do not change after the close, and the order follows from them and the seed.

Who is let in is the ledger's to decide; who has gone without a word is the gate's to know. While the gate is away
nobody is let in: it would be unfair to those whose signs cannot be heard.
"""

import asyncio
from array import array
from collections.abc import Collection
from typing import Any

import msgspec
import structlog

from flashsale.core.draw import merkle_root, order, ticket_hash
from flashsale.core.passes import new_ticket
from flashsale.core.questions import AdmissionOf, EntrantsOf
from flashsale.core.sale import Sale, SaleState, state_at
from flashsale.core.signs import Signs
from flashsale.core.wait_estimate import Pace, came_true
from flashsale.core.waiting_room import (
    ADMIT_MAX,
    Called,
    Closed,
    Drawn,
    DrawStep,
    Figures,
    Phase,
    Room,
    Rooted,
    Ticket,
    Turn,
    allowance,
    is_drawing,
    limits_active,
    overdrawn,
)
from flashsale.counts import Counts
from flashsale.flow.lease import Turn as LeaseTurn
from flashsale.flow.rooms import Picture, RoomsSeen, pace_of, under_terms
from flashsale.ports import Clock, Gate, GateAway, WholeLedger

LEASE = "admit"
TICK_SECONDS = 0.1
ROUNDS_MAX = 8
"""Steps in one tick for one room, while all of those whose turn it is have gone."""
PAGE = 10_000
ROOT_TOLD_MS = 1_000
"""How long the root is told before the seed: whoever watches can note it, and nobody is added after that."""

log = structlog.get_logger("flashsale.admit")


class Drawing(msgspec.Struct):
    """A draw on its way: its entrants in the order of arrival, and since when the world may know their root."""

    hashes: list[bytes]
    root: bytes
    rooted_ms: int | None = None


class Admitting:
    def __init__(
        self, ledger: WholeLedger, gate: Gate | None, rooms: RoomsSeen, turn: LeaseTurn, clock: Clock, counts: Counts,
        grace_ms: int,
    ) -> None:  # fmt: skip
        """`gate`: one that all processes share, or None: then everybody counts as alive."""
        self._ledger = ledger
        self._gate = gate
        self._rooms = rooms
        self._turn = turn
        self._clock = clock
        self._counts = counts
        self._grace_ms = grace_ms
        self._drawings: dict[str, Drawing] = {}
        self._paces: dict[str, Pace] = {}
        """Measured here, and told in the ledger: only who lets people in sees how fast it goes."""
        self._done: dict[str, list[int]] = {}
        """Of those who were back: they need not be told of again."""

    async def admit(self) -> None:
        """A tick. Trouble with one room is raised when all others have had their turn."""
        held = bool(self._rooms.pictures) and await self._turn.held()
        self._forget_all_but(self._rooms.pictures if held else ())
        if not held:
            return
        rooms = [self._room(sale_id, picture) for sale_id, picture in self._rooms.pictures.items()]
        for trouble in await asyncio.gather(*rooms, return_exceptions=True):
            if trouble is not None:
                raise trouble

    def _forget_all_but(self, sale_ids: Collection[str]) -> None:
        known: dict[str, Any]
        for known in (self._drawings, self._paces, self._done):
            for sale_id in known.keys() - sale_ids:
                del known[sale_id]

    async def _room(self, sale_id: str, picture: Picture) -> None:
        sale = self._rooms.sale(sale_id)
        if sale is None:
            return
        trades = state_at(sale, self._clock.now_ms()) in (SaleState.ACTIVE, SaleState.PAUSED)
        if is_drawing(picture.room) or (trades and picture.room.phase is Phase.OPEN):
            await self._draw(sale, picture)
            return
        if not trades:
            return
        self._drawings.pop(sale_id, None)
        for _ in range(ROUNDS_MAX):
            if not await self._let_in(sale, picture):
                return

    # The draw

    async def _draw(self, sale: Sale, picture: Picture) -> None:
        room = picture.room
        if room.phase is Phase.OPEN:
            await self._step(sale, Closed())
            return
        drawing = self._drawings.get(sale.sale_id)
        if drawing is None:
            drawing = self._drawings[sale.sale_id] = await self._read_entrants(sale.sale_id, room)
        if room.phase is Phase.CLOSED:
            await self._step(sale, Rooted(drawing.root))
        if drawing.rooted_ms is None:
            drawing.rooted_ms = self._clock.now_ms()
        if self._clock.now_ms() < drawing.rooted_ms + ROOT_TOLD_MS:
            return
        drawn = await asyncio.to_thread(order, room.seed, drawing.root, drawing.hashes)
        await self._step(sale, Drawn(array("I", drawn).tobytes()))
        log.info("a draw is over", sale=sale.sale_id, entrants=len(drawing.hashes), root=drawing.root.hex())

    async def _step(self, sale: Sale, step: DrawStep) -> None:
        room = await self._ledger.draw(sale.sale_id, step)
        if room is not None:
            await self._rooms.saw(sale, room)

    async def _read_entrants(self, sale_id: str, room: Room) -> Drawing:
        hashes: list[bytes] = []
        while len(hashes) < room.entrants:
            limit = min(PAGE, room.entrants - len(hashes))
            page = await self._ledger.find(EntrantsOf(sale_id, len(hashes), limit))
            hashes += await asyncio.to_thread(hashes_of, self._ledger.secret, sale_id, page)
        return Drawing(hashes, await asyncio.to_thread(merkle_root, hashes))

    # Turns

    async def _let_in(self, sale: Sale, picture: Picture) -> bool:
        """Whether more are to be let in at once: of those whose turn it was some had gone."""
        sale_id = sale.sale_id
        found = await self._ledger.find(AdmissionOf(sale_id, self._clock.now_ms(), limits_active(sale)))
        if found is None:
            return False
        room, figures = found
        pace = self._measured(sale, room, figures)
        allowed = allowance(sale, room, figures, self._clock.now_ms())
        if not allowed and not _newly_sold_out(room, figures) and not overdrawn(sale, room, self._clock.now_ms()):
            return False
        numbers = self._next(picture, room, allowed)
        signs = await self._signs(sale_id, [number for _, number in numbers], allowed)
        if signs is None or (not numbers and not signs.back and allowed):
            return False
        line = tuple(Called(place, number, alive) for (place, number), alive in zip(numbers, signs.alive, strict=True))
        turned = await self._ledger.admit(Turn(sale_id, tuple(signs.back), line, msgspec.json.encode(pace)))
        self._done[sale_id] = signs.back
        self._count(sale, room, picture, turned.admitted)
        return turned.passed_over > 0 and len(turned.admitted) < allowed

    def _measured(self, sale: Sale, room: Room, figures: Figures) -> Pace:
        """The pace, with what the head has done until now. Where nobody could be let in there is nothing to measure."""
        known = self._paces.get(sale.sale_id)
        pace = self._paces[sale.sale_id] = pace_of(sale, room) if known is None else under_terms(known, sale)
        now_ms = self._clock.now_ms()
        if figures.available > 0 and state_at(sale, now_ms) is SaleState.ACTIVE:
            pace.look(now_ms, room.head, room.arrivals)
        return pace

    def _next(self, picture: Picture, room: Room, allowed: int) -> list[tuple[int, int]]:
        """The places whose turn is next, with their tickets: more than are allowed, because some will have gone."""
        if not allowed:
            return []
        last = min(room.arrivals, room.head + min(ADMIT_MAX, 16 + 2 * allowed))
        return [(place, picture.number_at(place)) for place in range(room.head + 1, last + 1)]

    async def _signs(self, sale_id: str, numbers: list[int], most: int) -> Signs | None:
        if self._gate is None:
            return Signs([True] * len(numbers), [])
        try:
            return await self._gate.ask_signs(sale_id, numbers, self._done.pop(sale_id, []), most, self._grace_ms)
        except GateAway:
            return None

    def _count(self, sale: Sale, room: Room, picture: Picture, admitted: list[Ticket]) -> None:
        """How long they were told that they would wait, and how long it was."""
        now_ms = self._clock.now_ms()
        for ticket in admitted:
            told_ms, since_ms = ticket.told_ms, ticket.at_ms
            if ticket.number <= room.entrants and sale.waiting_room is not None and sale.starts_at_ms is not None:
                place, terms = picture.place_of(ticket.number) or 0, sale.waiting_room
                told_ms = int(max(0, place - terms.burst) / terms.admit_per_second * 1000)
                since_ms = sale.starts_at_ms
            if told_ms is not None:
                self._counts.waits[came_true(told_ms / 1000, (now_ms - since_ms) / 1000)] += 1


def _newly_sold_out(room: Room, figures: Figures) -> bool:
    return figures.available <= 0 and not room.sold_out


def hashes_of(secret: bytes, sale_id: str, page: list[tuple[int, str]]) -> list[bytes]:
    """What is told of tickets in public."""
    return [ticket_hash(new_ticket(secret, sale_id, number, user_id)) for number, user_id in page]
