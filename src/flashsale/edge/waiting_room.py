"""The waiting room over HTTP: join, ask, hold the line, leave, and the draw for everybody to check.

Three ways to hear that one's turn has come: asking again after `pollAfterSeconds`, asking with `wait=N`, and a stream
of server-sent events. All three tell the same, and each counts as a sign of life.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from flashsale.core.draw import PUBLISHED_ENTRANTS_MAX, Published, commitment
from flashsale.core.questions import DrawnOrder, EntrantsOf, FindTickets
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.sale import Sale
from flashsale.core.wait_estimate import Reason
from flashsale.core.waiting_room import Phase, Room, Standing, nowhere
from flashsale.edge import schema, views
from flashsale.edge.buyer import API
from flashsale.edge.call import Ask, Audience, Call, Param, Refusing, Stream, buyer, caller
from flashsale.edge.strict_json import ECHO_MAX
from flashsale.edge.wire import Answer, timestamp
from flashsale.engine import Engine
from flashsale.flow.admit import hashes_of
from flashsale.flow.visit import Seen, closed

WAIT_SECONDS_MAX = 10
STREAM_SECONDS = 300.0
"""How long a stream lasts; a browser opens another one by itself."""
STREAM_TELL_SECONDS = 5.0
"""How often a stream tells where one stands, beside every change that matters."""
STREAM_REST_SECONDS = 0.2
"""Between two things that a stream tells, however much happens."""
STREAMS_MAX = 10_000
PAGES_KEPT = 16
"""Pages of draws that are over, kept as they were rendered."""

R = Refusal
WAIT = Param(
    "wait",
    "Seconds to hold the line until something changes",
    {"type": "integer", "minimum": 0, "maximum": WAIT_SECONDS_MAX},
)
AFTER = Param("after", "`next` of the page before", {"type": "integer", "minimum": 0, "maximum": 2**31})


_STATES: dict[tuple[bool, bool], Literal["OPEN", "CLOSED", "DRAWN"]] = {
    (False, False): "OPEN",
    (True, False): "CLOSED",
    (True, True): "DRAWN",
}
"""By whether the entry is shut, and whether nobody had come: then there is nothing to draw."""


class JoinBody(schema.Body):
    """Who wants to wait, unless the headers say so."""

    user_id: schema.UserId | None = None


class WaitShown(schema.Shown):
    """How long it will take, as far as the line's pace tells: likely, and an interval around it."""

    low: int
    likely: int
    high: int
    reason: Reason | None = None
    """Why this is not what it was, or not much more than a guess."""


class Place(schema.Shown):
    """A place in the waiting room. It counts from the places ahead, also of people who may have gone without a word."""

    ticket: str
    state: Standing
    position: int | None
    people_ahead: int | None
    estimated_wait_seconds: WaitShown | None
    poll_after_seconds: int
    pass_: str | UnsetType = msgspec.field(default=UNSET, name="pass")
    """The right to buy, for the header `X-Flashsale-Pass`."""
    pass_expires_at: schema.Moment | UnsetType = UNSET
    receipt: str | UnsetType = UNSET
    """Signed: that one came, and as which number (`flashsale verify-draw`)."""


def shown(seen: Seen) -> Place:
    wait = seen.wait
    return Place(
        seen.ticket,
        seen.standing,
        None if seen.ahead is None else seen.ahead + 1,
        seen.ahead,
        wait and WaitShown(*wait),
        seen.poll_after_seconds,
        seen.pass_text or UNSET,
        UNSET if seen.pass_until_ms is None else timestamp(seen.pass_until_ms),
        seen.receipt or UNSET,
    )


class WaitingRoom:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._visiting = engine.visiting
        self._streams = 0
        self._pages: OrderedDict[tuple[bytes, int], Answer] = OrderedDict()

    async def join(self, ask: Ask) -> Answer | Refused:
        named = await ask.read_if_any(JoinBody)
        seen = await self._visiting.join(ask.params["saleId"], buyer(ask, named.user_id if named else None).user_id)
        return seen if isinstance(seen, Refused) else views.json(shown(seen), 201)

    async def place(self, ask: Ask) -> Answer | Refused:
        wait = ask.number("wait", 0, WAIT_SECONDS_MAX)
        seen = await self._visiting.ask(ask.params["saleId"], ask.params["ticket"], caller(ask), wait)
        return seen if isinstance(seen, Refused) else views.json(shown(seen))

    async def leave(self, ask: Ask) -> Answer | Refused:
        refused = await self._visiting.leave(ask.params["saleId"], ask.params["ticket"], caller(ask))
        return refused or Answer(204, b"")

    async def events(self, ask: Ask) -> Stream | Refused:
        sale_id, ticket, user_id = ask.params["saleId"], ask.params["ticket"], caller(ask)
        seen = await self._visiting.ask(sale_id, ticket, user_id)
        if isinstance(seen, Refused):
            return seen
        if self._streams >= STREAMS_MAX:
            busy = "This server has as many streams as it can keep: ask again, or ask without a stream"
            return Refused(R.UNAVAILABLE, busy, {"retryAfterSeconds": seen.poll_after_seconds})
        return Stream(b"text/event-stream", self._told(sale_id, ticket, user_id, seen))

    async def _told(self, sale_id: str, ticket: str, user_id: str | None, seen: Seen) -> AsyncIterator[bytes]:
        self._streams += 1
        try:
            until = asyncio.get_running_loop().time() + STREAM_SECONDS
            told: Seen | Refused = seen
            yield _event(seen)
            while isinstance(told, Seen) and not self._over(told, until):
                await asyncio.sleep(STREAM_REST_SECONDS)
                told = await self._visiting.ask(sale_id, ticket, user_id, STREAM_TELL_SECONDS)
                yield _event(told if isinstance(told, Seen) else closed(ticket))
        finally:
            self._streams -= 1

    def _over(self, seen: Seen, until: float) -> bool:
        """What comes after a pass is told by asking."""
        final = seen.standing in (Standing.ADMITTED, Standing.CLOSED)
        return final or asyncio.get_running_loop().time() >= until or self._visiting.leaving

    # The draw

    async def draw(self, ask: Ask) -> Answer | Refused:
        sale_id, after = ask.params["saleId"], ask.number("after", 0, 2**31)
        sale = self._engine.storefront.sales.get(sale_id)
        room, _ = await self._engine.find(FindTickets(sale_id, ()))
        if sale is None or not views.is_public(sale):
            return not_found("saleId", sale_id[:ECHO_MAX])
        if room is None or sale.waiting_room is None:
            return nowhere(sale_id)
        if room.phase is not Phase.DRAWN or room.root is None:
            return views.json(self._not_drawn(sale, room))
        if after % PUBLISHED_ENTRANTS_MAX or after > room.entrants:  # each page is made, and kept, once
            raise Refusing(invalid("after", f"must be `next` of a page: there are {room.entrants} entrants"))
        return await self._page(sale_id, room, after)

    def _not_drawn(self, sale: Sale, room: Room) -> Published:
        shut = room.phase is not Phase.OPEN
        nobody = shut and room.entrants == 0
        root = room.root.hex() if room.root else None
        seed = room.seed.hex() if nobody else None
        return Published(
            sale.sale_id, _STATES[shut, nobody], commitment(room.seed).hex(), self._visiting.public_key,
            room.entrants if shut else None, root, seed,
        )  # fmt: skip

    async def _page(self, sale_id: str, room: Room, after: int) -> Answer:
        key = (room.seed, after)
        if (kept := self._pages.get(key)) is None:
            kept = self._pages[key] = views.json(await self._drawn(sale_id, room, after))
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return kept

    async def _drawn(self, sale_id: str, room: Room, after: int) -> Published:
        assert room.root is not None
        limit = min(PUBLISHED_ENTRANTS_MAX, room.entrants - after)
        entrants = await self._engine.find(EntrantsOf(sale_id, after, limit))
        hashes = await asyncio.to_thread(hashes_of, self._engine.secret, sale_id, entrants)
        drawn: bytes = await self._engine.find(DrawnOrder(sale_id))
        numbers = memoryview(drawn).cast("I")
        end = after + limit
        return Published(
            sale_id, "DRAWN", commitment(room.seed).hex(), self._visiting.public_key, room.entrants, room.root.hex(),
            room.seed.hex(), [each.hex() for each in hashes], numbers[after:end].tolist(),
            end if end < room.entrants else None,
        )  # fmt: skip


def _event(seen: Seen) -> bytes:
    return b"event: place\nretry: %d\ndata: %b\n\n" % (
        seen.poll_after_seconds * 1000,
        msgspec.json.encode(shown(seen)),
    )


def calls(engine: Engine) -> list[Call]:
    """Every route of a waiting room."""
    room = WaitingRoom(engine)
    queue, ticket, none = "/sales/{saleId}/queue", "/sales/{saleId}/queue/{ticket}", (R.NOT_FOUND,)
    one: dict[int, Any] = {200: Place}
    joined = (R.NOT_FOUND, R.NOT_STARTED, R.ENDED)
    return [
        _call("POST", queue, "Join the waiting room; repeated: the same ticket", room.join, {201: Place}, joined,
              (), JoinBody),
        _call("GET", ticket, "How far one has got", room.place, one, none, (WAIT,)),
        _call("GET", ticket + "/events", "The same as server-sent events", room.events, {200: None}, none),
        _call("DELETE", ticket, "Give the place up", room.leave, {204: None}, none),
        _call("GET", "/sales/{saleId}/draw", "What makes the draw verifiable", room.draw, {200: Published}, none,
              (AFTER,), private=False),
    ]  # fmt: skip


def _call(
    method: str, path: str, summary: str, handle: Any, answers: dict[int, Any], refusals: tuple[Refusal, ...],
    params: tuple[Param, ...] = (), body: type | None = None, private: bool = True,
) -> Call:  # fmt: skip
    return Call(method, API + path, Audience.BUYERS, summary, handle, answers, body, refusals, params, private=private)
