"""Asking for units in a queued sale: from the buyer's call to his 202.

    ids ──► (with a key, or visibly lost: one read of the ledger) ──► permit ──► append ──► acknowledged: PENDING

A request gets its ids before anybody is asked (`core/pending.py`), so that it is the same request wherever it is
repeated, and however often it arrives. What is refused before the append leaves its key unused. A permit keeps the
losers out of the queue: there are as many as there are units. It is a courtesy of the gate; while the gate is away the
shop window has to do, and whatever either of them says, the ledger decides.

Everything that comes in one turn of the event loop goes together: one read, one call of the gate.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from flashsale.answering import tell
from flashsale.core.books import Books, Line
from flashsale.core.journal import Stock
from flashsale.core.pending import CHANCE_BYTES, fresh_id, keyed_id, keyed_ids
from flashsale.core.permits import Permit, Synchronised, Verdict, Wish
from flashsale.core.questions import FindReservations, StockOf
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item, Request
from flashsale.core.reservation import RequestKind, Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Decided, Pending, Slip, key_reused, replay_queued, sold_out
from flashsale.flow.gathering import Gathering
from flashsale.flow.storefront import Storefront, on_sale
from flashsale.ports import Answer, Backlog, Clock, Gate, GateAway, LedgerUnavailable, Outcome, Queue, WholeLedger

Told = Callable[[Answer], None]

WAITING_MAX = 20_000
"""Requests on their way into the queue; beyond that the answer is 503."""
TOGETHER_MAX = 512
"""Requests that ask the gate at once."""
_FINAL = frozenset({Refusal.KEY_REUSED, Refusal.NOT_FOUND})
"""What no request in the queue is refused with."""
_MAY_GO = frozenset({Verdict.PERMITTED, Verdict.QUEUED})
BUSY = Refused(Refusal.UNAVAILABLE, "The queue is busy: try again", {"retryAfterSeconds": 1})
UNKNOWN = Refused(
    Refusal.UNAVAILABLE,
    "The queue did not acknowledge this request: repeat it with the same key (without a key it may be another one)",
    {"retryAfterSeconds": 1},
)


class Asking:
    """A request on its way."""

    __slots__ = ("answered", "barred", "key", "reply", "request", "wishes")

    def __init__(self, request: Request, key: str | None, reply: Told, barred: Refused | None) -> None:
        self.request = request
        self.key = key
        self.reply = reply
        self.barred = barred
        """Why it never goes into the queue: at most an earlier request with its key is found."""
        self.answered = False
        """Or in the queue, which will answer."""
        self.wishes: list[Wish] = []

    def pending(self) -> Pending:
        return Pending(self.request.reservation_ids, self.request.user_id, self.request.items)

    def attempt(self, ledger: Backlog) -> Attempt:
        request, beyond = self.request, None
        if self.key is not None and request.kind is RequestKind.CART:
            mark = ledger.mark_of(request.sale_id)
            beyond = keyed_id(ledger.secret, request.user_id, request.sale_id, self.key, len(request.items), mark)
        slip = Slip(request.reservation_ids, request.at_ms, beyond=beyond)
        return Attempt(
            request.user_id, request.sale_id, request.items, self.key, request.kind, slip,
            barred=self.barred, pass_number=request.pass_number, marks=request.marks,
        )  # fmt: skip


class Queueing:
    def __init__(
        self, ledger: WholeLedger, queue: Queue, gate: Gate | None, storefront: Storefront, clock: Clock,
        chance: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        """`chance` gives so many random bytes."""
        self._ledger = ledger
        self._queue = queue
        self._gate = gate
        self._storefront = storefront
        self._clock = clock
        self._chance = chance
        self._asking = Gathering(self._permitted, TOGETHER_MAX)
        self._doubted = Gathering(self._told_apart, TOGETHER_MAX)
        self._refused = Gathering(self._last_word, TOGETHER_MAX)
        self._in_queue = Gathering(self._prolong, TOGETHER_MAX)
        self._returned = Gathering(self._settle_returned, TOGETHER_MAX)
        self._on_the_way = 0

    def request(self, sale: Sale, attempt: Attempt, reply: Told) -> None:
        """`reply` is called exactly once. The attempt is well-formed, and its products are in the sale; one that is
        barred has a key."""
        if self._on_the_way >= WAITING_MAX:
            reply(BUSY)
            return
        self._on_the_way += 1
        now_ms = self._clock.now_ms()
        user_id, sale_id, items = attempt.user_id, attempt.sale_id, attempt.items
        ids = self._ids(user_id, sale_id, attempt.key, items, now_ms)
        request = Request(
            ids, user_id, sale_id, items, now_ms, attempt.kind, attempt.priority, trace_id=attempt.trace_id,
            pass_number=attempt.pass_number, marks=attempt.marks, hold_seconds=attempt.hold_seconds,
        )  # fmt: skip
        asking = Asking(request, attempt.key, reply, attempt.barred)
        if attempt.key is not None or not self._may_win(asking):
            self._ledger.refuse(asking.attempt(self._ledger), partial(self._read, asking))
        else:
            self._ask(asking)

    def _ids(
        self, user_id: str, sale_id: str, key: str | None, items: tuple[Item, ...], now_ms: int
    ) -> tuple[str, ...]:
        secret, mark = self._ledger.secret, self._ledger.mark_of(sale_id)
        if key is None:
            return tuple(fresh_id(secret, user_id, now_ms, self._chance(CHANCE_BYTES), mark) for _ in items)
        return keyed_ids(secret, user_id, sale_id, key, items, mark)

    def _may_win(self, asking: Asking) -> bool:
        now_ms = self._clock.now_ms()
        offers = [self._storefront.offers.get(item.sku_id) for item in asking.request.items]
        return all(offer and on_sale(offer, now_ms) and offer.available > 0 for offer in offers)

    def _read(self, asking: Asking, outcome: Outcome) -> None:
        """What the ledger says before the append. Away, it cannot say whether the key was used: the consumer will."""
        if isinstance(outcome, Decided) and not outcome.reservations:
            self._go_on(asking, asking.barred)
        elif not isinstance(outcome, Refused) or outcome.refusal in _FINAL:
            self._answer(asking, outcome)
        elif outcome.refusal is Refusal.UNAVAILABLE:
            self._go_on(asking, asking.barred and outcome)
        else:
            self._doubt(asking, outcome)

    def _go_on(self, asking: Asking, barred: Refused | None) -> None:
        if barred is None:
            self._ask(asking)
        else:
            self._doubt(asking, barred)

    def _doubt(self, asking: Asking, refused: Refused) -> None:
        """Refused as it is now; but a request that is in the queue already has been taken in, and waits."""
        if self._gate is None or asking.key is None:
            self._answer(asking, refused)
        else:
            self._doubted.add((asking, refused))

    async def _told_apart(self, doubted: list[tuple[Asking, Refused]]) -> None:
        waits = [False] * len(doubted)
        try:
            with suppress(GateAway):
                wishes = [wish for asking, _ in doubted for wish in self._wished(asking)]
                found = iter(await self._there.queued(wishes))
                parts = [[next(found) for _ in asking.request.items] for asking, _ in doubted]
                waits = [all(part) for part in parts]
        finally:
            for (asking, refused), waiting in zip(doubted, waits, strict=True):
                if waiting:
                    self._answer(asking, asking.pending())
                else:
                    self._refuse(asking, refused)

    def _refuse(self, asking: Asking, refused: Refused) -> None:
        """A request that was in the queue before may have been decided since the ledger was asked: its permit is gone
        then, and the gate knows no more than of anybody else's. So the ledger has the last word on a key."""
        if asking.key is None:
            self._answer(asking, refused)
            return
        self._refused.add((asking, refused))
        asking.answered = True

    async def _last_word(self, refused: list[tuple[Asking, Refused]]) -> None:
        """Where the ledger cannot say now, nobody is refused: the unit might be his."""
        answers: list[Answer] = [BUSY] * len(refused)
        try:
            attempts = [asking.attempt(self._ledger) for asking, _ in refused]
            books = Books({})
            wanted = tuple(each for attempt in attempts if attempt.slip for each in attempt.slip.ids)
            rows: list[Reservation] = await self._ledger.find(FindReservations(wanted))
            books.reservations = {row.reservation_id: row for row in rows}
            now_ms = self._clock.now_ms()
            answers = [
                replay_queued(books, attempt, now_ms) or why
                for attempt, (_, why) in zip(attempts, refused, strict=True)
            ]
        except LedgerUnavailable:
            pass
        finally:
            for (asking, _), answer in zip(refused, answers, strict=True):
                self._answer(asking, answer)

    # The gate. What follows is only asked for where there is one: it comes through `_ask`.

    @property
    def _there(self) -> Gate:
        assert self._gate is not None
        return self._gate

    def _ask(self, asking: Asking) -> None:
        if self._gate is None:
            self._append(asking)
        else:
            self._asking.add(asking)

    async def _permitted(self, asking: list[Asking]) -> None:
        try:
            for each in await self._unsure_of(asking):
                self._append(each)  # nobody can say now: the ledger will
        finally:
            for each in asking:  # a mistake of ours leaves nobody without an answer
                if not each.answered:
                    self._answer(each, UNKNOWN)

    async def _unsure_of(self, asking: list[Asking]) -> list[Asking]:
        """Sends on all of whom the gate is sure, and gives back the others."""
        try:
            unsure = self._taken_up(asking, await self._permits(asking))
            if not unsure:
                return []
            await self._synchronise(unsure)
            return self._taken_up(unsure, await self._permits(unsure))
        except (GateAway, LedgerUnavailable):
            return [each for each in asking if not each.answered]

    async def _permits(self, asking: list[Asking]) -> list[list[Permit]]:
        permits = iter(await self._there.permit([wish for each in asking for wish in self._wished(each)]))
        return [[next(permits) for _ in each.request.items] for each in asking]

    async def _synchronise(self, asking: list[Asking]) -> None:
        """Tells the gate what there is: nobody has lately."""
        rows: list[Stock] = []
        for sale_id in {each.request.sale_id for each in asking}:
            found: list[Stock] = await self._ledger.find(StockOf(sale_id))
            rows += found
        await self._there.synchronise([synchronised(row) for row in rows])

    def _wished(self, asking: Asking) -> list[Wish]:
        """Made once: the gate is asked with them, and told of them when they are in the queue."""
        if not asking.wishes:
            asking.wishes = self._wishes(asking.request)
        return asking.wishes

    def _wishes(self, request: Request) -> list[Wish]:
        mark = request.fingerprint
        return [
            Wish(reservation_id, request.user_id, request.sale_id, item.sku_id, item.quantity,
                 self._limit(request, item), mark)
            for reservation_id, item in zip(request.reservation_ids, request.items, strict=True)
        ]  # fmt: skip

    def _limit(self, request: Request, item: Item) -> int:
        sale = self._storefront.sales.get(request.sale_id)
        product = sale.product(item.sku_id) if sale else None
        return product.per_user_limit if product else item.quantity

    def _taken_up(self, asking: list[Asking], permits: list[list[Permit]]) -> list[Asking]:
        """Sends each on his way; those of whom the gate is not sure are left."""
        return [each for each, of_each in zip(asking, permits, strict=True) if not self._take_up(each, of_each)]

    def _take_up(self, asking: Asking, permits: Sequence[Permit]) -> bool:
        verdicts = [permit.verdict for permit in permits]
        if all(verdict is Verdict.QUEUED for verdict in verdicts):
            self._answer(asking, asking.pending())
            return True
        if all(verdict in _MAY_GO for verdict in verdicts):
            self._append(asking)
            return True
        self._give_back(asking, verdicts)
        for item, permit in zip(asking.request.items, permits, strict=True):
            if permit.verdict not in _MAY_GO and permit.verdict is not Verdict.UNSURE:
                self._refuse(asking, self._refusal(asking, item, permit))
                return True
        return False

    def _refusal(self, asking: Asking, item: Item, permit: Permit) -> Refused:
        if permit.verdict is Verdict.KEY_REUSED:
            return key_reused(asking.key)
        if permit.verdict is Verdict.SOLD_OUT:
            return sold_out(item.sku_id, item.quantity, max(permit.units, 0))
        limit = self._limit(asking.request, item)
        details = {"skuId": item.sku_id, "limit": limit, "alreadyHeld": permit.units}
        message = (
            f"Purchase limit of {item.sku_id} is {limit}; in requests that are still to be decided: {permit.units}"
        )
        return Refused(Refusal.LIMIT_EXCEEDED, message, details)

    # The queue.

    def _append(self, asking: Asking) -> None:
        self._queue.append(asking.request, partial(self._appended, asking))
        asking.answered = True

    def _appended(self, asking: Asking, acknowledged: bool) -> None:
        request = asking.request
        if not acknowledged:
            self._give_back(asking, [Verdict.PERMITTED] * len(request.items))
            self._answer(asking, UNKNOWN)
            return
        if self._gate is not None:
            self._in_queue.add(*self._wished(asking))
        self._answer(asking, asking.pending())

    async def _prolong(self, wishes: list[Wish]) -> None:
        with suppress(GateAway):  # which it says itself; the permits lapse
            await self._there.appended(wishes)

    def _give_back(self, asking: Asking, verdicts: Sequence[Verdict]) -> None:
        """What was permitted and is not appended needs no permit any more. One that is not given back lapses."""
        request = asking.request
        if self._gate is None:
            return
        for reservation_id, item, verdict in zip(request.reservation_ids, request.items, verdicts, strict=True):
            if verdict is Verdict.PERMITTED:
                self._returned.add(((request.sale_id, item.sku_id), reservation_id))

    async def _settle_returned(self, permits: list[tuple[Line, str]]) -> None:
        lines: dict[Line, list[str]] = {}
        for line, reservation_id in permits:
            lines.setdefault(line, []).append(reservation_id)
        with suppress(GateAway):
            await self._there.settle(list(lines.items()), ())

    def _answer(self, asking: Asking, answer: Answer) -> None:
        self._on_the_way -= 1
        asking.answered = True
        tell(asking.reply, answer)


def synchronised(row: Stock) -> Synchronised:
    """What the ledger says of a product, for the gate."""
    return Synchronised(row.sale_id, row.sku_id, row.available, row.sku_seq)
