"""Money: drives the steps of a payment at its provider until none is due.

Every step was committed before it is called and is repeated with its own key, so any number of callers
may drive one payment: the buyer's request, his second click, the resumer after a crash.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from msgspec.structs import replace

from flashsale.core.checkout import Checkout, Opened
from flashsale.core.order import Order, OrderStatus
from flashsale.core.payment import Due, Payment, PaymentStatus, Refund, Transaction
from flashsale.core.questions import DueWork
from flashsale.core.refusal import Refusal, Refused
from flashsale.flow.lease import Turn
from flashsale.ports import Clock, Ledger, PaymentFact, PaymentProvider, ProviderUnavailable, PutOff, RefundFact

LEASE = "resume"
TICK_SECONDS = 1.0
STEPS_MAX = 6
"""Authorise, capture or void, and room for a retry: more in one run means that something goes in circles."""
RETRY_MS = 1_000
REFUSED_MS = 60_000
"""How long a step waits that failed in a way nobody expected."""

log = structlog.get_logger("flashsale.settle")


class RefundRefused(Exception):
    """The provider will not pay back what we owe. It stays owed, and an operator has to see to it."""


class Settling:
    def __init__(self, ledger: Ledger, provider: PaymentProvider, clock: Clock, provider_seconds: float) -> None:
        self._ledger = ledger
        self._provider = provider
        self._clock = clock
        self._lease_ms = int(provider_seconds * 1000) + 2_000

    async def checkout(
        self, reservation_ids: tuple[str, ...], user_id: str | None, transaction_id: str, method: str, address: str
    ) -> Order | Refused:
        """Pays for reservations. The answer is the PAID order, or why there is none."""
        wish = Checkout(reservation_ids, user_id, self._provider.name, transaction_id, method, address, self._lease_ms)
        opened = await self._ledger.open_order(wish)
        if isinstance(opened, Refused):
            return opened
        try:
            opened = await self._drive(opened)
        except ProviderUnavailable:
            await self._ledger.settle(PutOff(opened.payment.payment_id, None, RETRY_MS))
            return unknown_outcome(transaction_id)
        return _answer(opened)

    async def _drive(self, opened: Opened) -> Opened:
        for _ in range(STEPS_MAX):
            if opened.payment.due is None:
                return opened
            opened = await self._advance(opened.payment, opened.payment.due)
        raise ProviderUnavailable(f"payment {opened.payment.payment_id} is not settled after {STEPS_MAX} steps")

    async def _advance(self, payment: Payment, due: Due) -> Opened:
        fact = await self._step(payment, due)
        settled = await self._ledger.settle(PaymentFact(payment.payment_id, fact, self._lease_ms, due))
        assert settled is not None, "a payment fact is answered with its order"
        return settled

    def _step(self, payment: Payment, due: Due) -> Awaitable[Transaction]:
        key = payment.key(due)
        steps: dict[Due, Callable[[], Awaitable[Transaction]]] = {
            Due.AUTHORISE: lambda: self._provider.authorise(
                payment.transaction_id, payment.amount_minor, payment.currency, key
            ),
            Due.CAPTURE: lambda: self._provider.capture(payment.transaction_id, payment.amount_minor, key),
            Due.VOID: lambda: self._provider.void(payment.transaction_id, key),
        }
        return steps[due]()

    async def resume(self) -> int:
        """Takes up the steps that nobody is working on: after a crash, a lost reply, a provider that was away."""
        work = await self._ledger.find(DueWork(self._clock.now_ms()))
        steps = [
            self._in_peace(PutOff(each.payment_id, None, RETRY_MS), partial(self._resume, each))
            for each in work.payments
        ]
        steps += [
            self._in_peace(PutOff(None, refund.refund_id, RETRY_MS), partial(self._pay_back, refund, payment))
            for refund, payment in work.refunds
        ]
        for outcome in await asyncio.gather(*steps, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return len(steps)

    async def _in_peace(self, later: PutOff, step: Callable[[], Awaitable[None]]) -> None:
        """One payment that cannot be moved does not hold the others up: its step is put off."""
        try:
            await step()
        except ProviderUnavailable as error:
            log.warning("payment step put off", payment_id=later.payment_id, refund_id=later.refund_id, why=str(error))
            await self._ledger.settle(later)
        except Exception:
            log.exception("payment step failed", payment_id=later.payment_id, refund_id=later.refund_id)
            await self._ledger.settle(replace(later, delay_ms=REFUSED_MS))

    async def _resume(self, payment: Payment) -> None:
        if payment.due is not None:
            await self._drive(await self._advance(payment, payment.due))

    async def _pay_back(self, refund: Refund, payment: Payment) -> None:
        answer = await self._provider.refund(payment.transaction_id, refund.amount_minor, refund.refund_id)
        if answer.status is not PaymentStatus.CAPTURED or answer.refunded_minor < refund.amount_minor:
            raise RefundRefused(answer.reason or f"{answer.refunded_minor} of {refund.amount_minor} refunded")
        await self._ledger.settle(RefundFact(refund.refund_id))


class Resuming:
    """One process's part in taking steps up: what it was woken for, and whatever is owed while that is its turn."""

    def __init__(self, settling: Settling, turn: Turn) -> None:
        self._settling = settling
        self._turn = turn
        self._woken = False

    def wake(self) -> None:
        """This process has just left a step to be done."""
        self._woken = True

    async def resume(self) -> int:
        woken, self._woken = self._woken, False
        return await self._settling.resume() if woken or await self._turn.held() else 0


def _answer(opened: Opened) -> Order | Refused:
    order, payment = opened.order, opened.payment
    if payment.status is PaymentStatus.CAPTURED and payment.transaction_id == order.transaction_id:
        return order
    if payment.status is PaymentStatus.FAILED:
        details = {"orderId": order.order_id, "paymentTransactionId": payment.transaction_id}
        return Refused(Refusal[payment.failure], f"Payment {payment.transaction_id}: {payment.reason}", details)
    if order.status is OrderStatus.EXPIRED:
        message = f"Order {order.order_id} expired before its payment; no money was taken"
        return Refused(Refusal.RESERVATION_EXPIRED, message, {"orderId": order.order_id})
    message = f"Order {order.order_id} is {order.status}"
    return Refused(Refusal.ILLEGAL_STATE, message, {"orderId": order.order_id})


def unknown_outcome(transaction_id: str) -> Refused:
    message = "The payment provider did not answer: repeat this request with the same paymentTransactionId"
    return Refused(Refusal.UNAVAILABLE, message, {"paymentTransactionId": transaction_id, "retryAfterSeconds": 1})
