"""The waiting room of a sale: who is before whom, and who is let in next.

A place in it is a ticket with a number, in the order of arrival. Who comes before the start is put in random order at
the start (`core/draw.py`); who comes later stands behind them, in the order of arrival. So a ticket's place is its
number, but for the entrants of the draw, who have the places 1 to N among themselves.

    OPEN ──start──► CLOSED ──root is told──► ROOTED ──seed is told──► DRAWN ──► one place after the other has its turn

`head` is the highest place that has had its turn. It only rises, and a position is the distance from it: nobody's ever
grows. Whoever has shown no sign of life when his turn comes is passed over, and keeps his number: when he is back he
is let in before anybody behind him. What is written here is the truth about all this; signs of life are the gate's, and
approximate.

How many are let in: as the token bucket says (`admit_per_second`, `burst`), and while no more than `max_active` hold a
pass that they may still use, or a reservation that they may still pay. While a sale is sold out nobody is let in; when
units come back after that, no more than there are units which no pass is out for.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from flashsale.core import rate_limit
from flashsale.core.rate_limit import Draft, at_us
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.sale import RoomTerms, Sale, SaleState, state_at, state_when_asked

SEED_BYTES = 32
PART_BYTES = 256 * 1024
"""Of the outcome of a draw, in one row."""
ADMIT_MAX = 512
"""Places that have their turn in one step."""


class Phase(StrEnum):
    OPEN = "OPEN"
    """Whoever comes before the start takes part in the draw."""
    CLOSED = "CLOSED"
    ROOTED = "ROOTED"
    """The entrants are told, by the root of their tree; nothing about them can be changed any more."""
    DRAWN = "DRAWN"


class Room(msgspec.Struct, array_like=True):
    """One row."""

    sale_id: str
    seed: bytes
    arrivals: int = 0
    """Tickets that were given."""
    entrants: int = 0
    """Those of them that take part in the draw: the first ones."""
    phase: Phase = Phase.OPEN
    root: bytes | None = None
    head: int = 0
    full_at_us: float = 0.0
    """Of the token bucket (`core/rate_limit.py`)."""
    sold_out: bool = False
    """Whether it was, at any time."""
    pace: bytes | None = None
    """How fast the head rises, as whoever lets people in has measured it (`core/wait_estimate.py`)."""


class Ticket(msgspec.Struct, array_like=True):
    """One row, and whether its pass is spent."""

    sale_id: str
    number: int
    user_id: str
    at_ms: int
    told_ms: int | None = None
    """How long he was told that he would wait, when he came."""
    pass_until_ms: int | None = None
    """He was let in, and may buy until then."""
    left: bool = False
    spent: bool = False


class Joining(NamedTuple):
    """Somebody who wants a ticket."""

    user_id: str
    told_ms: int | None = None


class Standing(StrEnum):
    """What a ticket is worth now."""

    PRE_QUEUE = "PRE_QUEUE"
    WAITING = "WAITING"
    ADMITTED = "ADMITTED"
    SOLD_OUT = "SOLD_OUT"
    CLOSED = "CLOSED"


class Figures(NamedTuple):
    """What the ledger counts when somebody is to be let in."""

    available: int
    """Units of all products."""
    reservations: int
    """Those that hold units and have not lapsed."""
    passes: int
    """Those that are neither spent nor expired."""


class Candidate(NamedTuple):
    """Whose turn is next. `alive`: he has shown a sign of life."""

    place: int
    ticket: Ticket
    alive: bool


def comes_back(room: Room, ticket: Ticket) -> bool:
    """Whether its owner, if he joins again, has this one again: he has left, and his turn has not come since. With a
    new number each time, one visitor who leaves and joins could fill a line all by himself."""
    if not ticket.left or ticket.pass_until_ms is not None:
        return False
    return room.phase is not Phase.DRAWN or ticket.number > max(room.entrants, room.head)


def is_over(ticket: Ticket, now_ms: int) -> bool:
    """Whether it is worth nothing now: its owner may join again."""
    expired = ticket.pass_until_ms is not None and ticket.pass_until_ms <= now_ms
    return ticket.left or ticket.spent or expired


def join(
    sale: Sale | None, room: Room | None, wanted: Joining, earlier: Ticket | None, now_ms: int
) -> Ticket | Refused:
    """A new ticket, or the one that he has."""
    if (
        sale is None
        or room is None
        or sale.waiting_room is None
        or (state := state_at(sale, now_ms)) is SaleState.DRAFT
    ):
        return nowhere(sale.sale_id if sale else None)
    if earlier is not None and not is_over(earlier, now_ms):
        return earlier
    if earlier is not None and comes_back(room, earlier) and state is not SaleState.ENDED:
        return replace(earlier, left=False)
    if refused := _shut(sale, sale.waiting_room, room, state, now_ms):
        return refused
    # Below this line nothing can fail.
    room.arrivals += 1
    if _draws(sale, room, now_ms):
        room.entrants = room.arrivals
    return Ticket(sale.sale_id, room.arrivals, wanted.user_id, now_ms, wanted.told_ms)


def nowhere(sale_id: str | None) -> Refused:
    message = "This sale has no waiting room: whoever comes may reserve without a pass"
    return Refused(Refusal.NOT_FOUND, message, {"saleId": sale_id} if sale_id else {})


def _shut(sale: Sale, terms: RoomTerms, room: Room, state: SaleState, now_ms: int) -> Refused | None:
    if state is SaleState.ENDED:
        return Refused(Refusal.ENDED, f"Sale {sale.sale_id} has ended", {"saleId": sale.sale_id})
    opens_at_ms = queue_opens_at_ms(sale)
    if state is SaleState.SCHEDULED and opens_at_ms is not None and now_ms < opens_at_ms:
        details = {"saleId": sale.sale_id, "startsAtMs": sale.starts_at_ms, "queueOpensAtMs": opens_at_ms}
        return Refused(Refusal.NOT_STARTED, f"The waiting room of sale {sale.sale_id} is not open yet", details)
    if room.arrivals - room.head >= terms.max_waiting:
        details = {"saleId": sale.sale_id, "retryAfterSeconds": 5}
        return Refused(Refusal.UNAVAILABLE, f"The line is full: {terms.max_waiting} wait already", details)
    return None


def _draws(sale: Sale, room: Room, now_ms: int) -> bool:
    """Whether the newest ticket takes part in the draw: as long as nobody has come after the start."""
    first_of_all_others = room.entrants == room.arrivals - 1
    return room.phase is Phase.OPEN and first_of_all_others and not has_begun(sale, now_ms)


def queue_opens_at_ms(sale: Sale) -> int | None:
    """When the room of a sale opens; None: it has none, or nobody knows yet."""
    if sale.waiting_room is None or sale.starts_at_ms is None:
        return None
    return sale.starts_at_ms - sale.waiting_room.prequeue_seconds * 1000


def has_begun(sale: Sale, now_ms: int) -> bool:
    return state_when_asked(sale, now_ms) in (SaleState.ACTIVE, SaleState.ENDED)


def is_drawing(room: Room) -> bool:
    """Whether a draw has begun and its seed is not told yet. It is told in any case, also if the sale ends before."""
    return room.phase in (Phase.CLOSED, Phase.ROOTED)


class Closed(NamedTuple):
    """Nobody takes part in the draw any more."""


class Rooted(NamedTuple):
    """The entrants are told."""

    root: bytes


class Drawn(NamedTuple):
    """The order is told: the numbers of the tickets by their places, four bytes each, the lowest first."""

    numbers: bytes


DrawStep = Closed | Rooted | Drawn
"""Each may be taken again: it changes nothing then."""


def take_step(sale: Sale, room: Room, step: DrawStep, now_ms: int) -> bool:
    """Whether the room was in the phase for it."""
    match step:
        case Closed():
            return _close(sale, room, now_ms)
        case Rooted(root):
            return _go_on(room, Phase.CLOSED, Phase.ROOTED, root)
        case Drawn():
            return _go_on(room, Phase.ROOTED, Phase.DRAWN, room.root)


def _close(sale: Sale, room: Room, now_ms: int) -> bool:
    """With nobody in it, a draw is over."""
    if not has_begun(sale, now_ms):
        return False
    return _go_on(room, Phase.OPEN, Phase.CLOSED if room.entrants else Phase.DRAWN, None)


def _go_on(room: Room, before: Phase, after: Phase, root: bytes | None) -> bool:
    if room.phase is not before:
        return False
    room.phase, room.root = after, root
    return True


def parted(numbers: bytes) -> list[bytes]:
    """The outcome of a draw in rows."""
    return [numbers[start : start + PART_BYTES] for start in range(0, len(numbers), PART_BYTES)]


def allowance(sale: Sale, room: Room, figures: Figures, now_ms: int) -> int:
    """How many may be let in now."""
    terms = sale.waiting_room
    if terms is None or room.phase is not Phase.DRAWN or state_at(sale, now_ms) is not SaleState.ACTIVE:
        return 0
    if figures.available <= 0:
        return 0
    allowed = min(ADMIT_MAX, _bucket(room, terms, now_ms, cost=0)[1])
    if terms.max_active is not None:
        allowed = min(allowed, terms.max_active - figures.passes - figures.reservations)
    if room.sold_out:
        allowed = min(allowed, figures.available - figures.passes)
    return max(0, allowed)


def limits_active(sale: Sale) -> bool:
    """Whether it counts how many hold an unpaid reservation."""
    return sale.waiting_room is not None and sale.waiting_room.max_active is not None


def overdrawn(sale: Sale, room: Room, now_ms: int) -> bool:
    """Whether more is owed to the bucket than its terms can make anybody owe: they were slower before."""
    return sale.waiting_room is not None and room.full_at_us > _full_at_us_max(sale.waiting_room, now_ms)


def _full_at_us_max(terms: RoomTerms, now_ms: int) -> float:
    return at_us(now_ms) + rate_limit.pace_of(terms.admit_per_second, terms.burst).room


def _bucket(room: Room, terms: RoomTerms, now_ms: int, cost: int) -> tuple[float, int]:
    """When the bucket is full after so many, and how many more it allows."""
    draft = Draft("", terms.admit_per_second, terms.burst, cost)
    full_at_us, allowed = rate_limit.take(room.full_at_us, draft, at_us(now_ms))
    return full_at_us, allowed.remaining


class Called(NamedTuple):
    """A place whose turn is next, as the caller knows it. `alive`: its owner has shown a sign of life."""

    place: int
    number: int
    alive: bool


class Turn(NamedTuple):
    """Those of a sale whose turn may have come."""

    sale_id: str
    returned: tuple[int, ...]
    """Numbers of tickets that were passed over and are back, in the order of their places."""
    line: tuple[Called, ...]
    """The places behind the head, in order."""
    pace: bytes | None = None
    """What is to be told of the pace from now on."""

    @property
    def numbers(self) -> list[int]:
        return [*self.returned, *(each.number for each in self.line)]

    def of(self, known: Mapping[int, Ticket]) -> tuple[list[Ticket], list[Candidate]]:
        """The same with their tickets."""
        back = [known[number] for number in self.returned if number in known]
        return back, [
            Candidate(each.place, known[each.number], each.alive) for each in self.line if each.number in known
        ]


class Turned(NamedTuple):
    """Who has had his turn in one step: let in, and passed over because he showed no sign of life."""

    admitted: list[Ticket]
    passed_over: int


def admit(
    sale: Sale, room: Room, figures: Figures, returned: Sequence[Ticket], line: Sequence[Candidate], now_ms: int
) -> Turned:
    """Lets in those whose turn it is: first those who were passed over and are back, then the line, in its order.

    `line` are the places behind the head; what is not (another process was faster) is left alone.
    """
    if figures.available <= 0 and state_at(sale, now_ms) is SaleState.ACTIVE:
        room.sold_out = True
    admitted: list[Ticket] = []
    passed_over = 0
    terms, left = sale.waiting_room, allowance(sale, room, figures, now_ms)
    if terms is not None:
        room.full_at_us = min(room.full_at_us, _full_at_us_max(terms, now_ms))
    if terms is None or not left:
        return Turned(admitted, passed_over)
    until_ms = now_ms + terms.pass_seconds * 1000
    for ticket in returned:
        if len(admitted) < left and waits(ticket):
            admitted.append(ticket)
    for candidate in line:
        waiting = waits(candidate.ticket)
        if candidate.place != room.head + 1 or (len(admitted) == left and waiting):
            break
        room.head += 1
        if waiting and candidate.alive:
            admitted.append(candidate.ticket)
        passed_over += waiting and not candidate.alive
    for ticket in admitted:
        ticket.pass_until_ms = until_ms
    room.full_at_us = _bucket(room, terms, now_ms, len(admitted))[0]
    return Turned(admitted, passed_over)


def waits(ticket: Ticket) -> bool:
    """Whether its owner still wants to be let in, as far as he has said."""
    return ticket.pass_until_ms is None and not ticket.left


def standing(sale: Sale | None, room: Room, ticket: Ticket, available: int, now_ms: int) -> Standing:
    if sale is None or sale.waiting_room is None or is_over(ticket, now_ms):
        return Standing.CLOSED
    state = state_at(sale, now_ms)
    if state is SaleState.ENDED:
        return Standing.CLOSED
    if ticket.pass_until_ms is not None:
        return Standing.ADMITTED
    if state is SaleState.SCHEDULED or (ticket.number <= room.entrants and room.phase is not Phase.DRAWN):
        return Standing.PRE_QUEUE
    return Standing.WAITING if available > 0 else Standing.SOLD_OUT


def ahead(room: Room, place: int) -> int:
    """How many places are before this one. It never rises; some of those who have them may have gone without a word."""
    return max(0, place - room.head - 1)


POLL_MAX_SECONDS = 15
POLLS_PER_SECOND = 2_000
"""What all who wait in a room are told to ask together, at most, as far as POLL_MAX_SECONDS allows."""


def poll_after_seconds(
    sale: Sale, room: Room, how: Standing, number: int, likely_seconds: float | None, now_ms: int
) -> int:
    """When to ask again: more often the nearer the turn is, less often the more people wait. At the start not everybody
    comes in the same second."""
    if how in (Standing.ADMITTED, Standing.CLOSED):
        return POLL_MAX_SECONDS
    share = min(POLL_MAX_SECONDS, 1 + (room.arrivals - room.head) // POLLS_PER_SECOND)
    if how is Standing.PRE_QUEUE:
        until_start = max(0, (sale.starts_at_ms or now_ms) - now_ms) // 1000
        return min(POLL_MAX_SECONDS, until_start + 1 + number % share)
    if likely_seconds is None:
        return max(share, 2)
    return max(1, min(share + int(likely_seconds) // 4, POLL_MAX_SECONDS))
