"""The pure rules behind the ledger's port, with nothing stored: what a simulated process finds after its crash."""

from collections.abc import Awaitable, Callable
from typing import Any

from contract.ledgers import HandClock
from core.shop import Shop

from flashsale.core import exits
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.order import Order
from flashsale.core.questions import DueWork, Work
from flashsale.core.refusal import Refused
from flashsale.core.reservation import Reservation
from flashsale.core.settlement import settle
from flashsale.core.stock import Attempt, refuse_early
from flashsale.ports import Observer, PaymentFact, PutOff, RefundFact, Reply

Stumble = Callable[[], Awaitable[None]]


class BooksLedger:
    """A `Ledger` for one simulated world. Each step is whole; before and after it, others may come first."""

    def __init__(self, shop: Shop, clock: HandClock, stumble: Stumble) -> None:
        self._shop = shop
        self._books = shop.books
        self._clock = clock
        self._stumble = stumble
        self.observer: Observer | None = None

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        (outcome,) = self._now().decide(attempt)
        self._tell()
        reply(outcome)

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        outcome = refuse_early(self._books, attempt, self._now().now_ms)
        if outcome is None:
            self.reserve(attempt, reply)
        else:
            reply(outcome)

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self._whole(lambda: self._shop.release(reservation_id, user_id))

    async def expire(self) -> int:
        return await self._whole(self._shop.expire)

    async def open_order(self, checkout: Checkout) -> Opened | Refused:
        return await self._whole(lambda: self._shop.open_order(checkout))

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        return await self._whole(lambda: self._settle(fact))

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
        return await self._whole(lambda: self._shop.cancel(order_id, user_id, reason))

    async def find(self, query: Any) -> Any:
        assert isinstance(query, DueWork), "the flows of a simulation ask for nothing else"
        return await self._whole(lambda: self._work(query))

    def _now(self) -> Shop:
        self._shop.now_ms = self._clock.now_ms()
        return self._shop

    async def _whole(self, step: Callable[[], Any]) -> Any:
        await self._stumble()
        self._now()
        outcome = step()
        self._tell()
        await self._stumble()
        return outcome

    def _tell(self) -> None:
        if self.observer:
            self.observer.stock_changed(list(self._books.stock.values()))

    def _settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        now_ms = self._clock.now_ms()
        match fact:
            case PaymentFact():
                exits.expire(self._books, now_ms)
                return settle(
                    self._books, fact.payment_id, fact.transaction, now_ms, self._shop.new_id,
                    fact.lease_ms, fact.answers,
                )  # fmt: skip
            case RefundFact():
                self._shop.paid_back(fact.refund_id)
            case PutOff():
                self._put_off(fact, now_ms + fact.delay_ms)
        return None

    def _put_off(self, step: PutOff, until_ms: int) -> None:
        if step.payment_id and (payment := self._books.payments[step.payment_id]).due:
            payment.due_at_ms = until_ms
        if step.refund_id:
            self._books.refunds[step.refund_id].due_at_ms = until_ms

    def _work(self, query: DueWork) -> Work:
        payments = [each for each in self._books.payments.values() if each.due and each.due_at_ms <= query.now_ms]
        owed = [each for each in self._shop.owed() if each.due_at_ms <= query.now_ms]
        return Work(payments[: query.limit], [(each, self._books.payments[each.payment_id]) for each in owed])
