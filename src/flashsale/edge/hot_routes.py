"""The three routes that a crowd calls, as functions from request to `Answer`. Both lanes call them.

No framework, no coroutine: an answer that has to wait (for a commit, for a read) is handed to `send` later, on
the event loop. A `send` for a client that has gone must do nothing.
"""

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from time import perf_counter
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from flashsale.answering import tell
from flashsale.core.limits import Bucket, at_door, inside
from flashsale.core.pending import is_genuine
from flashsale.core.questions import FindReservations, Query
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.reservation import Reservation, is_bare
from flashsale.core.stock import Decided, Granted, Pending
from flashsale.core.visitor import Visitor
from flashsale.counts import Counts
from flashsale.edge import queued
from flashsale.edge.door import Door, device_in
from flashsale.edge.identity import LATER, Caller, Said
from flashsale.edge.strict_json import ECHO_MAX
from flashsale.edge.wire import (
    USER_FORM,
    Answer,
    ReserveCall,
    availability,
    granted,
    is_user,
    parse_reserve,
    refusal,
    reservation,
)
from flashsale.flow.gathering import Gathering
from flashsale.flow.limiting import Limiting
from flashsale.flow.storefront import Offer, Storefront
from flashsale.flow.waiting import Waiting
from flashsale.ports import Answer as Told
from flashsale.ports import Clock, LedgerUnavailable

Send = Callable[[Answer], None]
T = TypeVar("T")

RENDERED_FOR_MS = 50
"""A sale opens and ends without any event, so a rendering is not kept longer than this."""
READ_MAX = 256
"""Reservations read from the ledger in one question."""
NAMELESS = "-"
"""Stands for the user of a request, while it is read, whose caller is unknown and will be refused."""


class Shop(Protocol):
    """What the hot routes need of the engine."""

    @property
    def clock(self) -> Clock: ...
    @property
    def storefront(self) -> Storefront: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def waiting(self) -> Waiting: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def limiting(self) -> Limiting: ...
    def reserve_soon(
        self, visitor: Visitor, sku_id: str, quantity: int, key: str | None, reply: Callable[[Told], None]
    ) -> None: ...
    async def find(self, query: Query[T]) -> T: ...


class _Rendered(NamedTuple):
    offer: Offer
    version: int
    until_ms: int
    answer: Answer


class _Question(NamedTuple):
    reservation_id: str
    user_id: str | None
    path: str
    send: Send
    wait_seconds: int


class HotRoutes:
    """Each route comes twice: for the fast lane, which knows nothing yet; and `_as`, for the ordinary one, which has
    let the request in at the door and knows who asks."""

    def __init__(self, shop: Shop, door: Door) -> None:
        self._limiting = shop.limiting
        self._door = door
        self._caller = door.caller
        self._visitor = door.visitor
        self._believes = door.believes
        self._verifies = door.verifies
        self._reserve_soon = shop.reserve_soon
        self._find = shop.find
        self._storefront = shop.storefront
        self._now_ms = shop.clock.now_ms
        self._secret = shop.secret
        self._waiting = shop.waiting
        self.counts = shop.counts
        self._rendered: dict[str, _Rendered] = {}
        self._questions = Gathering(self._read, READ_MAX)

    def reserve(self, body: bytes, said: Said, path: str, send: Send) -> None:
        """POST /reservations."""
        if self._verifies and self._limiting.rates.door:
            self._count(self._at_door(said), path, send, partial(self._reserve, body, said, path, send))
        else:
            self._reserve(body, said, path, send, self._at_door(said))

    def _reserve(self, body: bytes, said: Said, path: str, send: Send, wanted: Sequence[Bucket] = ()) -> None:
        """Of somebody who is still to be identified."""
        who = self._caller(said)
        if who is LATER and self._again(said, lambda known: self.reserve_as(known, body, said, path, send)):
            return
        self.reserve_as(who, body, said, path, send, 0, wanted)

    def reserve_as(
        self, who: Caller | Refused, body: bytes, said: Said, path: str, send: Send, wait_seconds: int = 0,
        wanted: Sequence[Bucket] = (),
    ) -> None:  # fmt: skip
        """POST /reservations. A malformed one is refused before anybody asks who sends it. `wanted`: what it is counted
        for at the door, if that is still to be done; then all of it is counted in one."""
        known = NAMELESS if isinstance(who, Refused) else who.user_id
        call = parse_reserve(body, said.key, said.user if self._believes else None, known)
        device = device_in(said)
        if isinstance(call, Refused):
            self._refuse(call, wanted, path, send)
        elif isinstance(device, Refused):
            self._refuse(device, wanted, path, send)
        elif isinstance(who, Refused):
            self._refuse(who, wanted, path, send)
        elif call.user_id != known and not who.free:
            self._refuse(not_found("userId", call.user_id[:ECHO_MAX]), wanted, path, send)
        else:
            reply = partial(self._decided, path, send, wait_seconds, perf_counter())
            visitor = self._visitor(call.user_id, who, said, device)
            self.count_attempt(visitor, call.sku_id, partial(self._counted, visitor, call, reply), wanted)

    def _refuse(self, refused: Refused, wanted: Sequence[Bucket], path: str, send: Send) -> None:
        """Unless it is one too many at the door: that is said first."""
        self._limiting.take(wanted, lambda limited: send(self._refusal(limited or refused, path)))

    def _counted(
        self, visitor: Visitor, call: ReserveCall, reply: Callable[[Told], None], limited: Refused | None
    ) -> None:
        if limited is None:
            self._reserve_soon(visitor, call.sku_id, call.quantity, call.key, reply)
        else:
            reply(limited)

    def count_attempt(
        self, visitor: Visitor, sku_id: str, told: Callable[[Refused | None], None], wanted: Sequence[Bucket] = ()
    ) -> None:
        """A purchase attempt of somebody who is known; `told` hears whether he may. `wanted` is counted with it."""
        offer = self._storefront.offers.get(sku_id)
        sale_id = "" if offer is None else offer.sale.sale_id
        self._limiting.attempt(visitor.user_id, visitor.tier, sale_id, told, wanted)

    def _at_door(self, said: Said) -> Sequence[Bucket]:
        rates = self._limiting.rates
        return at_door(rates, self._door.address(said)) if rates.door else ()

    def _count(self, wanted: Sequence[Bucket], path: str, send: Send, go_on: Callable[[], None]) -> None:
        """Goes on, unless it is one too many."""

        def told(limited: Refused | None) -> None:
            if limited is None:
                go_on()
            else:
                send(self._refusal(limited, path))

        self._limiting.take(wanted, told)

    def _again(self, said: Said, then: Callable[[Caller | Refused], None]) -> bool:
        """Asks who it is once more when there is news. False: there will be none. What `then` does belongs to the
        request, so it does it in its context."""
        return self._door.look_again(partial(copy_context().run, lambda: then(self._caller(said))))

    def _decided(self, path: str, send: Send, wait_seconds: int, began: float, outcome: Told) -> None:
        self.counts.took(perf_counter() - began)
        if isinstance(outcome, Granted):
            send(granted(outcome))
        elif isinstance(outcome, Refused):
            send(self._refusal(outcome, path))
        else:
            self.queued(outcome, False, path, send, wait_seconds)

    def queued(self, outcome: Pending | Decided, cart: bool, path: str, send: Send, wait_seconds: int) -> None:
        """The answer to a request of a queued sale, after waiting for its outcome if the client wants that."""
        if isinstance(outcome, Decided):
            rows, now_ms = outcome.reservations, outcome.now_ms
            send(self._as_if_direct(rows, cart, path, now_ms) if wait_seconds else queued.decided(outcome, cart))
            return

        def told(rows: list[Reservation]) -> None:
            send(self._as_if_direct(rows, cart, path, self._now_ms()) if rows else queued.waits(outcome, cart))

        self._waiting.wait(outcome.reservation_ids, wait_seconds, told)

    def _as_if_direct(self, rows: Sequence[Reservation], cart: bool, path: str, now_ms: int) -> Answer:
        said = queued.as_if_direct(rows, cart, now_ms)
        return self._refusal(said, path) if isinstance(said, Refused) else said

    def _refusal(self, refused: Refused, path: str) -> Answer:
        self.counts.refusals[refused.refusal.code] += 1
        return refusal(refused, path, self._now_ms())

    def availability(self, sku_id: str, path: str) -> Answer:
        """GET /products/{sku}/availability. The same object while nothing has changed, for 50 ms at most."""
        now_ms = self._now_ms()
        offer = self._storefront.offers.get(sku_id)
        if offer is None or offer.sale.starts_at_ms is None:  # a draft is nobody's business
            self._rendered.pop(sku_id, None)
            return self._refusal(not_found("skuId", sku_id[:ECHO_MAX]), path)
        kept = self._rendered.get(sku_id)
        if kept and kept.offer is offer and kept.version == offer.version and now_ms < kept.until_ms:
            return kept.answer
        answer = Answer(200, availability(offer, now_ms))
        self._rendered[sku_id] = _Rendered(offer, offer.version, now_ms + RENDERED_FOR_MS, answer)
        return answer

    def show(self, sku_id: str, path: str, said: Said, send: Send) -> None:
        """GET /products/{sku}/availability."""
        if self._limiting.rates.door:
            self._count(self._at_door(said), path, send, lambda: send(self.availability(sku_id, path)))
        else:
            send(self.availability(sku_id, path))

    def reservation(self, reservation_id: str, said: Said, path: str, send: Send) -> None:
        """GET /reservations/{id}."""
        if self._verifies and self._limiting.rates.door:
            self._count(self._at_door(said), path, send, partial(self._reservation, reservation_id, said, path, send))
        else:
            self._reservation(reservation_id, said, path, send, self._at_door(said))

    def _reservation(
        self, reservation_id: str, said: Said, path: str, send: Send, wanted: Sequence[Bucket] = ()
    ) -> None:
        """Of somebody who is still to be identified."""
        who = self._caller(said)
        if who is LATER and self._again(said, lambda known: self._poll(known, reservation_id, said, path, send, ())):
            return
        self._poll(who, reservation_id, said, path, send, wanted)

    def _poll(
        self, who: Caller | Refused, reservation_id: str, said: Said, path: str, send: Send, wanted: Sequence[Bucket]
    ) -> None:
        """Counts, then answers."""
        owner = self._owner(who, said)
        if isinstance(owner, Refused):
            self._refuse(owner, wanted, path, send)
            return
        ask = partial(self._questions.add, _Question(reservation_id, owner, path, send, 0))
        self._count([*wanted, *inside(self._limiting.rates, owner, None)], path, send, ask)

    def reservation_as(
        self, who: Caller | Refused, reservation_id: str, said: Said, path: str, send: Send, wait_seconds: int = 0
    ) -> None:
        """GET /reservations/{id}. What is asked in one turn of the event loop is one question to the ledger."""
        owner = self._owner(who, said)
        if isinstance(owner, Refused):
            send(self._refusal(owner, path))
        else:
            self._questions.add(_Question(reservation_id, owner, path, send, wait_seconds))

    def _owner(self, who: Caller | Refused, said: Said) -> str | Refused | None:
        """Whose reservations are found; None: anybody's."""
        if self._believes and said.user is not None:
            user_id = said.user.decode("latin-1")
            return user_id if is_user(user_id) else invalid("userId", USER_FORM)
        if isinstance(who, Refused):
            return who
        return None if who.free else who.user_id

    async def _read(self, questions: list[_Question]) -> None:
        ids = tuple(dict.fromkeys(question.reservation_id for question in questions))
        try:
            found = {each.reservation_id: each for each in await self._find(FindReservations(ids))}
        except LedgerUnavailable:
            self._unavailable(questions)
            return
        except BaseException:
            self._unavailable(questions)
            raise
        for question in questions:
            held = found.get(question.reservation_id)
            if held is None and self._genuine(question):
                self._wait(question)
            else:
                tell(question.send, self._told(question, held))

    def _genuine(self, question: _Question) -> bool:
        """Whether the reservation is pending: no row can tell, but its id can."""
        return is_genuine(self._secret, question.reservation_id, question.user_id)

    def _wait(self, question: _Question) -> None:
        def told(rows: list[Reservation]) -> None:
            pending = queued.pending(question.reservation_id, question.user_id)
            tell(question.send, self._told(question, rows[0]) if rows else pending)

        self._waiting.wait((question.reservation_id,), question.wait_seconds, told)

    def _told(self, question: _Question, held: Reservation | None) -> Answer:
        if held is not None and is_bare(held) and self._genuine(question):
            return Answer(200, msgspec.json.encode(queued.one(held, self._now_ms())))
        if held is None or question.user_id not in (None, held.user_id):
            refused = not_found("reservationId", question.reservation_id[:ECHO_MAX])
            return self._refusal(refused, question.path)
        return Answer(200, reservation(held, self._now_ms()))

    def _unavailable(self, questions: list[_Question]) -> None:
        refused = Refused(Refusal.UNAVAILABLE, "The ledger cannot be read now: try again", {"retryAfterSeconds": 1})
        for question in questions:
            tell(question.send, self._refusal(refused, question.path))
