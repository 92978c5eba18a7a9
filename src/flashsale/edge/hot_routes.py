"""The three routes that a crowd calls, as functions from request to `Answer`. Both lanes call them.

No framework, no coroutine: an answer that has to wait (for a commit, for a read) is handed to `send` later, on
the event loop. A `send` for a client that has gone must do nothing.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import structlog

from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.reservation import Reservation
from flashsale.core.stock import Granted
from flashsale.edge.wire import (
    ECHO_MAX,
    USER_FORM,
    Answer,
    availability,
    granted,
    is_user,
    parse_reserve,
    refusal,
    reservation,
)
from flashsale.flow.storefront import Offer, Storefront
from flashsale.ports import Clock, FindReservations, LedgerUnavailable, Outcome, Query, Reply

log = structlog.get_logger("flashsale.edge")

Send = Callable[[Answer], None]
T = TypeVar("T")

RENDERED_FOR_MS = 50
"""A sale opens and ends without any event, so a rendering is not kept longer than this."""
READ_MAX = 256
"""Reservations read from the ledger in one question."""


class Shop(Protocol):
    """What the hot routes need of the engine."""

    @property
    def clock(self) -> Clock: ...
    @property
    def storefront(self) -> Storefront: ...
    def reserve_soon(self, user_id: str, sku_id: str, quantity: int, key: str | None, reply: Reply) -> None: ...
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


class HotRoutes:
    def __init__(self, shop: Shop) -> None:
        self._reserve_soon = shop.reserve_soon
        self._find = shop.find
        self._storefront = shop.storefront
        self._now_ms = shop.clock.now_ms
        self._rendered: dict[str, _Rendered] = {}
        self._questions: list[_Question] = []
        self._reads: set[asyncio.Task[None]] = set()

    def reserve(self, body: bytes, key: bytes | None, user_header: bytes | None, path: str, send: Send) -> None:
        """POST /reservations. `key` and `user_header` are Idempotency-Key and X-User-ID, if there are any."""
        call = parse_reserve(body, key, user_header)
        if isinstance(call, Refused):
            send(refusal(call, path, self._now_ms()))
        else:
            reply = partial(self._decided, path, send)
            self._reserve_soon(call.user_id, call.sku_id, call.quantity, call.key, reply)

    def _decided(self, path: str, send: Send, outcome: Outcome) -> None:
        send(granted(outcome) if isinstance(outcome, Granted) else refusal(outcome, path, self._now_ms()))

    def availability(self, sku_id: str, path: str) -> Answer:
        """GET /products/{sku}/availability. The same object while nothing has changed, for 50 ms at most."""
        now_ms = self._now_ms()
        offer = self._storefront.offers.get(sku_id)
        if offer is None or offer.sale.starts_at_ms is None:  # a draft is nobody's business
            self._rendered.pop(sku_id, None)
            return refusal(not_found("skuId", sku_id[:ECHO_MAX]), path, now_ms)
        kept = self._rendered.get(sku_id)
        if kept and kept.offer is offer and kept.version == offer.version and now_ms < kept.until_ms:
            return kept.answer
        answer = Answer(200, availability(offer, now_ms))
        self._rendered[sku_id] = _Rendered(offer, offer.version, now_ms + RENDERED_FOR_MS, answer)
        return answer

    def reservation(self, reservation_id: str, user_header: bytes | None, path: str, send: Send) -> None:
        """GET /reservations/{id}. What is asked in one turn of the event loop is one question to the ledger."""
        user_id = user_header.decode("latin-1") if user_header is not None else None
        if user_id is not None and not is_user(user_id):
            send(refusal(invalid("userId", USER_FORM), path, self._now_ms()))
            return
        if not self._questions:
            asyncio.get_running_loop().call_soon(self._ask)
        self._questions.append(_Question(reservation_id, user_id, path, send))

    def _ask(self) -> None:
        questions, self._questions = self._questions, []
        for start in range(0, len(questions), READ_MAX):
            read = asyncio.create_task(self._read(questions[start : start + READ_MAX]))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)

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
            _send(question, self._told(question, found.get(question.reservation_id)))

    def _told(self, question: _Question, held: Reservation | None) -> Answer:
        if held is None or question.user_id not in (None, held.user_id):
            refused = not_found("reservationId", question.reservation_id[:ECHO_MAX])
            return refusal(refused, question.path, self._now_ms())
        return Answer(200, reservation(held, self._now_ms()))

    def _unavailable(self, questions: list[_Question]) -> None:
        refused = Refused(Refusal.UNAVAILABLE, "The ledger cannot be read now: try again", {"retryAfterSeconds": 1})
        for question in questions:
            _send(question, refusal(refused, question.path, self._now_ms()))


def _send(question: _Question, answer: Answer) -> None:
    """A client who cannot take his answer does not keep it from the others of the same read."""
    try:
        question.send(answer)
    except Exception:
        log.exception("an answer could not be delivered")
