"""A shop whose every step is done twice: by the pure rules on books that are never stored, and by a ledger.

Both must answer the same, ids aside. It takes the place of a `core.shop.Shop`.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
from contract.ledgers import FAR_MS, Audience, HandClock, Opening
from contract.ledgers import Shop as LedgerShop
from core.shop import LEASE_MS, OPENING_MS, Shop, Units, a_draft

from flashsale.core.catalogue import Changed, CreateSale, SaleChange
from flashsale.core.checkout import Checkout
from flashsale.core.payment import Transaction
from flashsale.core.questions import DueWork, FindOrder, FindReservations, StockOf
from flashsale.core.refusal import Refused
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Granted
from flashsale.ports import LedgerUnavailable, PaymentFact, RefundFact

ID = re.compile(r"(?:res|ord|pay|rfd)_\w+")


class Twin(Shop):
    """The pure shop, with a ledger at its side."""

    def __init__(self, runner: asyncio.Runner, opening: Opening, folder: Path, sale: Sale, units: Units) -> None:
        super().__init__(msgspec.structs.replace(sale, created_at_ms=OPENING_MS), units=units)
        self._runner = runner
        self._clock = HandClock()
        self._theirs: dict[str, str] = {}
        """Of each id of ours, the ledger's."""
        self._opened = opening(folder, self._clock, Audience())
        self._shop = LedgerShop(self._run(self._opened.__aenter__()), self._clock, Audience())
        self._ledger = self._shop.ledger
        self._run(self._ledger.change_sale(CreateSale(a_draft(sale, units), "operator")))

    def close(self) -> None:
        self._run(self._opened.__aexit__(None, None, None))

    def pass_ms(self, duration_ms: int) -> None:
        super().pass_ms(duration_ms)
        self._clock.pass_ms(duration_ms)

    # The steps.

    def decide(self, *attempts: Attempt) -> list[Granted | Refused]:
        return self._same(super().decide(*attempts), self._run(self._reserved(attempts)))

    async def _reserved(self, attempts: tuple[Attempt, ...]) -> list[Any]:
        return await asyncio.gather(*(self._shop.asks(attempt) for attempt in attempts))

    def expire(self) -> int:
        ours = super().expire()
        assert self._run(self._ledger.expire()) == ours
        return ours

    def release(self, reservation_id: str, user: str | None = None) -> Any:
        theirs = self._run(self._ledger.release(self._theirs[reservation_id], user))
        return self._same(super().release(reservation_id, user), theirs)

    def open_order(self, checkout: Checkout) -> Any:
        ids = tuple(self._theirs[each] for each in checkout.reservation_ids)
        theirs = self._run(self._ledger.open_order(msgspec.structs.replace(checkout, reservation_ids=ids)))
        return self._same(super().open_order(checkout), theirs)

    def settle(self, payment_id: str, fact: Transaction) -> Any:
        theirs = self._run(self._ledger.settle(PaymentFact(self._theirs[payment_id], fact, LEASE_MS)))
        super().expire()  # a ledger gives back what has lapsed first
        return self._same(super().settle(payment_id, fact), theirs)

    def cancel(self, order_id: str, user: str | None = None, reason: str = "") -> Any:
        theirs = self._run(self._ledger.cancel_order(self._theirs[order_id], user, reason))
        ours = self._same(super().cancel(order_id, user, reason), theirs)
        self._meet_refunds()
        return ours

    def paid_back(self, refund_id: str) -> Any:
        self._meet_refunds()
        self._run(self._ledger.settle(RefundFact(self._theirs[refund_id])))
        return super().paid_back(refund_id)

    def change(self, change: SaleChange) -> Changed | Refused:
        ours, theirs = super().change(change), self._run(self._ledger.change_sale(change))
        self._same(ours.sale if isinstance(ours, Changed) else ours, theirs)
        return ours

    # Comparing.

    def _same(self, ours: Any, theirs: Any) -> Any:
        """Checks that both said the same, and learns from it which id is which."""
        mine, yours = _text(ours), _text(theirs)
        for one, other in zip(ID.findall(mine), ID.findall(yours), strict=True):
            assert self._theirs.setdefault(one, other) == other, f"{one} is {self._theirs[one]}, now {other}"
        mine = self._translated(mine)
        assert mine == yours, f"the rules say\n  {mine}\nthe ledger says\n  {yours}"
        return ours

    def _translated(self, text: str) -> str:
        return ID.sub(lambda found: self._theirs[found[0]], text)

    def _meet_refunds(self) -> None:
        """A refund's id is in no answer: it is found by the payment it gives back."""
        work = self._run(self._ledger.find(DueWork(self._clock.now_ms() + FAR_MS, 1000)))
        their_ids = {refund.payment_id: refund.refund_id for refund, _ in work.refunds}
        assert len(their_ids) == len(work.refunds), "a payment is refunded twice"
        for refund in self.books.refunds.values():
            if not refund.done:
                self._theirs[refund.refund_id] = their_ids[self._theirs[refund.payment_id]]

    def compare_everything(self) -> None:
        """What both have in their books, row by row."""
        self._meet_refunds()
        self._same_rows()
        assert self._run(self._shop.discrepancies()) == []
        assert self._run(self._ledger.find(StockOf("sale"))) == sorted(
            self.books.stock.values(), key=lambda row: row.sku_id
        )
        journal = [self._translated(_text(row._asdict())) for row in self.books.journal]
        assert [_text(row._asdict()) for row in self._run(self._shop.journal())] == journal

    def _same_rows(self) -> None:
        reservations = sorted(self.books.reservations.values(), key=lambda each: self._theirs[each.reservation_id])
        ids = tuple(self._theirs[each.reservation_id] for each in reservations)
        theirs = self._run(self._ledger.find(FindReservations(ids)))
        self._same(reservations, sorted(theirs, key=lambda each: each.reservation_id))
        for order in self.books.orders.values():
            self._same(order, self._run(self._ledger.find(FindOrder(order_id=self._theirs[order.order_id]))))
        self._same_work()

    def _same_work(self) -> None:
        theirs = self._run(self._ledger.find(DueWork(self._clock.now_ms() + FAR_MS, 1000)))
        payments = [payment for payment in self.books.payments.values() if payment.due]
        payments.sort(key=lambda each: self._theirs[each.payment_id])
        self._same(payments, sorted(theirs.payments, key=lambda each: each.payment_id))
        refunds = sorted(self.owed(), key=lambda each: self._theirs[each.refund_id])
        self._same(refunds, sorted((refund for refund, _ in theirs.refunds), key=lambda each: each.refund_id))

    def _run(self, call: Any) -> Any:
        try:
            return self._runner.run(call)
        except LedgerUnavailable as error:
            raise AssertionError("the ledger failed where the rules did not") from error


def _text(outcome: Any) -> str:
    return msgspec.json.encode(outcome).decode()
