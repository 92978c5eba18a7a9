"""A visitor in the waiting room: he joins, asks how far he has got, holds the line, leaves, and brings his pass.

Whatever comes in one turn of the event loop is one transaction (joins of a sale) or one read (questions about it). A
place is told from the ledger as it is now: whichever process is asked, a position never grows. Asking is a sign of
life; signs are gathered here and told to the gate every second. Nothing else of a room is the gate's, so that without
it everybody can join and ask, and nobody is let in (`flow/admit.py`).
"""

from collections import defaultdict
from typing import NamedTuple

from msgspec.structs import replace

from flashsale.core import draw
from flashsale.core.draw import Receipt, commitment, ticket_hash
from flashsale.core.passes import NoPass, Pass, new_pass, new_ticket, read_pass, read_ticket
from flashsale.core.questions import FindTickets
from flashsale.core.refusal import Refused, first_said, not_found
from flashsale.core.sale import Sale, SaleState, state_at
from flashsale.core.signs import NUMBER_MAX, Back
from flashsale.core.stock import Attempt, pass_required
from flashsale.core.visitor import Visitor
from flashsale.core.wait_estimate import Estimate, Reason, estimate, estimate_before_draw
from flashsale.core.waiting_room import (
    POLL_MAX_SECONDS,
    Joining,
    Phase,
    Room,
    Standing,
    Ticket,
    ahead,
    nowhere,
    poll_after_seconds,
    standing,
)
from flashsale.flow.gathering import Together
from flashsale.flow.rooms import Picture, RoomsSeen
from flashsale.ports import Clock, Gate, GateAway, WholeLedger

JOINS_MAX = 512
"""Joins in one transaction."""
QUESTIONS_MAX = 512
SIGNS_SECONDS = 1.0
SIGNS_MAX = 1_000_000
"""Tickets heard of since the gate was last told."""
ECHO_MAX = 64
NEW_MS = 5_000
"""Who has not waited longer than this has not seen the line stand still."""


class Seen(NamedTuple):
    """How a ticket stands."""

    ticket: str
    standing: Standing
    ahead: int | None
    """None: its place is not drawn yet, or it has none any more."""
    wait: Estimate | None
    poll_after_seconds: int
    pass_text: str | None = None
    pass_until_ms: int | None = None
    receipt: str | None = None


class Visiting:
    def __init__(self, ledger: WholeLedger, gate: Gate | None, rooms: RoomsSeen, clock: Clock, grace_ms: int) -> None:
        """`gate`: one that all processes share, or None: then everybody counts as alive."""
        self._ledger = ledger
        self._gate = gate
        self._rooms = rooms
        self._clock = clock
        self._grace_ms = grace_ms
        self._poll_max_seconds = max(1, grace_ms // 2000)
        """Whoever does as he is told asks twice before he counts as gone."""
        self._key = draw.signing_key(ledger.secret)
        self.public_key = draw.published_key(self._key)
        self._joins = Together(self._joined, JOINS_MAX)
        self._questions = Together(self._found, QUESTIONS_MAX)
        self.leaving = False
        self._signs: defaultdict[str, set[int]] = defaultdict(set)
        self._back: defaultdict[str, dict[int, int]] = defaultdict(dict)
        """Places by numbers, of those who were passed over and have asked."""

    # The buyer's calls

    async def join(self, sale_id: str, user_id: str) -> Seen | Refused:
        """A place in the line, or the one that he has."""
        sale = self._rooms.sale(sale_id)
        if sale is None or self._is_draft(sale):
            return self._no_room(sale_id)
        given = await self._joins.ask(sale_id, Joining(user_id, self._told_ms(sale)))
        if isinstance(given, Refused):
            return given
        self._hear(sale_id, given.number)
        found = await self._questions.ask(sale_id, given.number)
        if found is None:
            return self._no_room(sale_id)
        return (await self._seen(sale, *found))._replace(receipt=self._receipt(*found))

    async def ask(self, sale_id: str, ticket: str, user_id: str | None, wait_seconds: float = 0) -> Seen | Refused:
        """How a ticket stands; with `wait_seconds`, as soon as that changes, or after so long."""
        number = self._number(sale_id, ticket, user_id)
        seen = await self._see(sale_id, number) if number is not None else None
        if number is None or seen is None:
            return not_found("ticket", ticket[:ECHO_MAX])
        picture = self._rooms.pictures.get(sale_id)
        settled = seen.standing in (Standing.ADMITTED, Standing.CLOSED)
        if settled or wait_seconds <= 0 or picture is None or self.leaving:
            return seen
        await picture.hold(picture.place_of(number), wait_seconds, seen.standing is Standing.SOLD_OUT)
        return await self._see(sale_id, number) or closed(ticket)

    async def leave(self, sale_id: str, ticket: str, user_id: str | None) -> Refused | None:
        number = self._number(sale_id, ticket, user_id)
        if number is None:
            return not_found("ticket", ticket[:ECHO_MAX])
        await self._ledger.leave(sale_id, number)
        return None

    def leave_all(self) -> None:
        """The process is about to end: nobody holds the line any more."""
        self.leaving = True
        for picture in self._rooms.pictures.values():
            picture.let_go()

    def look_at_pass(self, visitor: Visitor, sale: Sale, attempt: Attempt) -> None:
        """Looks at the pass of an attempt, where one is needed. Nobody is asked: a pass tells by itself that it is
        genuine, and what is forged, or somebody else's, is not even worth a look for an earlier reservation."""
        if sale.waiting_room is not None:
            self._look_at(visitor.pass_text, sale, attempt)

    def _look_at(self, text: str | None, sale: Sale, attempt: Attempt) -> None:
        if text is None:
            self._bar(sale, attempt, "This sale has a waiting room")
            return
        found = read_pass(self._ledger.secret, sale.sale_id, attempt.user_id, text, self._clock.now_ms())
        if isinstance(found, Pass):
            attempt.pass_number = found.number
        elif found is NoPass.EXPIRED:
            self._bar(sale, attempt, "The pass has expired")
        else:
            attempt.key = None
            self._bar(sale, attempt, "The pass is not one for this user and sale")

    def _bar(self, sale: Sale, attempt: Attempt, why: str) -> None:
        attempt.barred = first_said(attempt.barred, pass_required(sale.sale_id, why))

    # The loop

    async def tell(self) -> None:
        """Tells the gate who was heard of, also when it is nobody: silence would mean that nothing is known."""
        if self._gate is None:
            return
        for over in self._signs.keys() - self._rooms.pictures.keys():
            del self._signs[over]
            self._back.pop(over, None)
        for sale_id in [*self._rooms.pictures]:
            numbers, back = self._signs.pop(sale_id, set()), self._back.pop(sale_id, {})
            try:
                told = [Back(place, number) for number, place in back.items()]
                await self._gate.tell_signs(sale_id, [*numbers], told, self._grace_ms)
            except GateAway:
                self._signs[sale_id] |= numbers  # they are told when it is back
                self._back[sale_id] |= back
                return

    # Inside

    def _no_room(self, sale_id: str) -> Refused:
        sale = self._rooms.any_sale(sale_id)
        if sale is None or self._is_draft(sale):
            return not_found("saleId", sale_id[:ECHO_MAX])
        return nowhere(sale_id)

    def _is_draft(self, sale: Sale) -> bool:
        return state_at(sale, self._clock.now_ms()) is SaleState.DRAFT

    def _number(self, sale_id: str, ticket: str, user_id: str | None) -> int | None:
        return read_ticket(self._ledger.secret, sale_id, ticket, user_id)

    def _told_ms(self, sale: Sale) -> int | None:
        """How long somebody who comes now is told that he will wait."""
        picture = self._rooms.pictures.get(sale.sale_id)
        if picture is None or picture.room.phase is not Phase.DRAWN:
            return None
        told = estimate(picture.pace, ahead(picture.room, picture.room.arrivals + 1), self._clock.now_ms())
        return int(told.likely_seconds * 1000)

    async def _see(self, sale_id: str, number: int) -> Seen | None:
        """None: the sale is gone, and all its tickets."""
        sale = self._rooms.any_sale(sale_id)
        found = await self._questions.ask(sale_id, number) if sale is not None else None
        if sale is None or found is None:
            return None
        if sale.waiting_room is None:  # it was switched off: whoever waited may buy without it
            return closed(self._text_of(found[1]))
        self._hear(sale_id, number)
        return await self._seen(sale, *found)

    def _hear(self, sale_id: str, number: int) -> None:
        if self._gate is None:
            return
        signs = self._signs[sale_id]
        if number < NUMBER_MAX and len(signs) < SIGNS_MAX:
            signs.add(number)

    async def _seen(self, sale: Sale, room: Room, ticket: Ticket) -> Seen:
        picture = await self._rooms.saw(sale, room)
        now_ms = self._clock.now_ms()
        how = standing(sale, room, ticket, self._rooms.available(sale), now_ms)
        place = picture.place_of(ticket.number)
        before = ahead(room, place) if place is not None and how in (Standing.WAITING, Standing.SOLD_OUT) else None
        if self._gate is not None and how is Standing.WAITING and place is not None and place <= room.head:
            self._back[sale.sale_id][ticket.number] = place
        wait = self._wait(sale, picture, ticket, how, before, now_ms)
        likely = wait.likely_seconds if wait is not None else None
        poll = min(poll_after_seconds(sale, room, how, ticket.number, likely, now_ms), self._poll_max_seconds)
        seen = Seen(self._text_of(ticket), how, before, wait, poll)
        return self._with_pass(seen, ticket) if how is Standing.ADMITTED else seen

    def _wait(
        self, sale: Sale, picture: Picture, ticket: Ticket, how: Standing, before: int | None, now_ms: int
    ) -> Estimate | None:
        if how is Standing.PRE_QUEUE and sale.starts_at_ms is not None:
            return estimate_before_draw(picture.pace, picture.room.entrants, sale.starts_at_ms, now_ms)
        if how is not Standing.WAITING or before is None:
            return None
        paused = state_at(sale, now_ms) is SaleState.PAUSED
        wait = estimate(picture.pace, before, now_ms, Reason.PAUSED if paused else None)
        if before == 0 and now_ms - ticket.at_ms < NEW_MS and state_at(sale, now_ms) is SaleState.ACTIVE:
            return wait._replace(reason=None)  # the line did not stand still, it was empty
        return wait

    def _with_pass(self, seen: Seen, ticket: Ticket) -> Seen:
        assert ticket.pass_until_ms is not None, "whoever was let in has a pass"
        until_ms = ticket.pass_until_ms
        made = new_pass(self._ledger.secret, ticket.sale_id, ticket.user_id, ticket.number, until_ms)
        return seen._replace(pass_text=made, pass_until_ms=until_ms)

    def _text_of(self, ticket: Ticket) -> str:
        return new_ticket(self._ledger.secret, ticket.sale_id, ticket.number, ticket.user_id)

    def _receipt(self, room: Room, ticket: Ticket) -> str:
        told = ticket_hash(self._text_of(ticket)).hex()
        receipt = Receipt(ticket.sale_id, told, "line", ticket.number, ticket.at_ms)
        if ticket.number <= room.entrants:
            receipt = replace(receipt, kind="prequeue", commitment=commitment(room.seed).hex())
        return draw.sign(receipt, self._key)

    async def _joined(self, sale_id: str, wanted: list[Joining]) -> list[Ticket | Refused]:
        return await self._ledger.join(sale_id, wanted)

    async def _found(self, sale_id: str, numbers: list[int]) -> list[tuple[Room, Ticket] | None]:
        room, tickets = await self._ledger.find(FindTickets(sale_id, tuple(set(numbers))))
        known = {ticket.number: ticket for ticket in tickets}
        return [(room, known[number]) if room is not None and number in known else None for number in numbers]


def closed(ticket: str) -> Seen:
    """There is nothing to wait for any more."""
    return Seen(ticket, Standing.CLOSED, None, None, POLL_MAX_SECONDS)
