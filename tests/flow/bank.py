"""A payment provider in the hand: its books are true, its line to us is as bad as a test wants it."""

import asyncio
from collections.abc import Callable
from enum import Enum

from msgspec.structs import replace

from flashsale.core.payment import PaymentStatus, Transaction
from flashsale.ports import ProviderUnavailable

S = PaymentStatus
Change = Callable[[Transaction | None], Transaction]


class Line(Enum):
    """What becomes of a call."""

    GOOD = "asked and answered"
    REQUEST_LOST = "never reached the provider"
    REPLY_LOST = "done, but the answer is lost"
    REQUEST_LATE = "given up by us, and done some time later"


class Bank:
    """`PaymentProvider`. A transaction id that begins with `declined` is declined, `instant` is captured at once."""

    name: str = "sandbox"

    def __init__(self) -> None:
        self.books: dict[str, Transaction] = {}
        self.calls: list[str] = []
        self.refuses: set[str] = set()
        """Steps that are refused whatever the books say."""
        self.hangs: asyncio.Event | None = None
        """If set, calls wait for it before they are done."""
        self.on_its_way = asyncio.Event()
        """Set when a call waits."""
        self.line: Callable[[str], Line] = lambda _: Line.GOOD
        self.said: list[Transaction] = []
        """All it ever answered or would have, oldest first."""
        self.floating: list[Callable[[], Transaction]] = []
        """Calls that we gave up and that are still on their way to it."""
        self._answers: dict[str, Transaction] = {}

    async def authorise(self, transaction_id: str, amount_minor: int, currency: str, key: str) -> Transaction:
        prefix, _, _ = transaction_id.partition("-")
        status = {"declined": S.FAILED, "instant": S.CAPTURED}.get(prefix, S.AUTHORIZED)
        fresh = Transaction(transaction_id, status, amount_minor, currency, reason="declined" * (status is S.FAILED))
        return await self._call("authorise", transaction_id, key, lambda now: now or fresh)

    async def capture(self, transaction_id: str, amount_minor: int, key: str) -> Transaction:
        return await self._call("capture", transaction_id, key, _moves(S.AUTHORIZED, S.CAPTURED))

    async def void(self, transaction_id: str, key: str) -> Transaction:
        unseen = Transaction(transaction_id, S.VOIDED, 0, "")
        voids = _moves(S.AUTHORIZED, S.VOIDED)
        return await self._call("void", transaction_id, key, lambda now: voids(now) if now else unseen)

    async def refund(self, transaction_id: str, amount_minor: int, key: str) -> Transaction:
        def pay_back(now: Transaction | None) -> Transaction:
            assert now is not None
            assert now.refunded_minor + amount_minor <= now.amount_minor, "more is paid back than was taken"
            return replace(now, refunded_minor=now.refunded_minor + amount_minor)

        return await self._call("refund", transaction_id, key, pay_back)

    async def look_up(self, transaction_id: str) -> Transaction | None:
        return self.books.get(transaction_id)

    async def close(self) -> None:
        pass

    def kept_minor(self) -> dict[str, int]:
        """What it took of each transaction and did not pay back."""
        return {
            each.transaction_id: each.amount_minor - each.refunded_minor
            for each in self.books.values()
            if each.status is S.CAPTURED and each.amount_minor > each.refunded_minor
        }

    async def _call(self, step: str, transaction_id: str, key: str, change: Change) -> Transaction:
        self.calls.append(step)
        line = self.line(step)
        if self.hangs:
            self.on_its_way.set()
            await self.hangs.wait()
        if line is Line.REQUEST_LATE:
            self.floating.append(lambda: self._answered(step, transaction_id, key, change))
        if line in (Line.REQUEST_LOST, Line.REQUEST_LATE):
            raise ProviderUnavailable(f"{step} was never heard")
        answer = self._answered(step, transaction_id, key, change)
        if line is Line.REPLY_LOST:
            raise ProviderUnavailable(f"{step} was answered to nobody")
        return answer

    def _answered(self, step: str, transaction_id: str, key: str, change: Change) -> Transaction:
        """A key repeats its answer. Nothing but a void can be done to what was never authorised, or leaves a trace."""
        now = self.books.get(transaction_id)
        if step in self.refuses or (now is None and step not in ("authorise", "void")):
            return Transaction(transaction_id, S.FAILED, 0, "", reason=f"{step} refused")
        if key not in self._answers:
            self.books[transaction_id] = self._answers[key] = change(now)
            self.said.append(self._answers[key])
        return self._answers[key]


def _moves(before: PaymentStatus, after: PaymentStatus) -> Change:
    def change(now: Transaction | None) -> Transaction:
        assert now is not None
        return replace(now, status=after) if now.status is before else now

    return change
