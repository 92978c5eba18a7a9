"""The rehearsal's other voice: opens the sale, reads the ledger, and afterwards asks the shop and the
payment provider again about everything they said. Gathers the evidence that the verdict judges.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import msgspec

from flashsale.rehearsal.evidence import (
    History,
    Order,
    Reservation,
    acknowledged_orders,
    acknowledged_reservations,
    decode,
)
from flashsale.rehearsal.http_client import NO_HEADERS, Answer, HttpClient, LostReply
from flashsale.rehearsal.verdict import Booking, Evidence, Stock

T = TypeVar("T")

PATIENCE_SECONDS = 10.0
AT_ONCE = 200


class SaleFacts(msgspec.Struct, frozen=True):
    """The sale of a rehearsal: one product, so many units, each held so long for its buyer."""

    sale_id: str
    sku: str
    units: int
    hold_seconds: int
    per_user_limit: int = 1
    mode: str = "direct"


class NotAnswered(Exception):
    """The shop or the provider gave no usable answer to the operator; the rehearsal cannot go on."""


class _Stock(msgspec.Struct, rename="camel"):
    sku_id: str
    total: int
    available: int
    held: int
    sold: int


class _Ledger(msgspec.Struct):
    products: list[_Stock]
    consistent: bool


class _Transaction(msgspec.Struct, rename="camel"):
    transaction_id: str
    status: str
    amount_minor: int
    refunded_minor: int = 0


class _Books(msgspec.Struct):
    transactions: list[_Transaction]
    next: int | None = None


class Operator:
    """Asks with the operator's token; repeats a question that got no answer."""

    def __init__(self, shop: HttpClient, provider: HttpClient, token: str, sale: SaleFacts) -> None:
        self._shop, self._provider, self.sale = shop, provider, sale
        self._token = {"Authorization": f"Bearer {token}"}

    async def create_sale(self, opens_in_seconds: float, lasts: timedelta = timedelta(hours=1)) -> None:
        now = datetime.now(UTC)
        product = {
            "skuId": self.sale.sku,
            "name": "Rehearsal phone, 256 GB",
            "description": "Not a real phone",
            "category": "rehearsal",
            "currency": "USD",
            "basePrice": 1299.99,
            "flashSalePrice": 999.99,
            "stock": self.sale.units,
            "perUserLimit": self.sale.per_user_limit,
        }
        sale = {
            "id": self.sale.sale_id,
            "name": "Rehearsal",
            "startsAt": _rfc3339(now + timedelta(seconds=opens_in_seconds)),
            "endsAt": _rfc3339(now + lasts),
            "reservationSeconds": self.sale.hold_seconds,
            "mode": self.sale.mode,
            "products": [product],
        }
        try:
            answer = await self._shop.fetch("POST", "/api/v1/admin/sales", sale, self._token)
        except LostReply as lost:
            raise NotAnswered(f"the sale could not be created: {lost}") from lost
        if answer.status != 201:
            raise NotAnswered(f"the sale was refused: {answer.status} {answer.body[:500]!r}")

    async def end_sale(self) -> None:
        await self._insist(self._shop, "POST", f"/api/v1/admin/sales/{self.sale.sale_id}/end", self._token)

    async def ledger(self) -> tuple[Stock, bool]:
        """The counters of the product, and what the ledger says of its own consistency."""
        path = f"/api/v1/admin/sales/{self.sale.sale_id}/ledger"
        ledger = _expect(await self._insist(self._shop, "GET", path, self._token), _Ledger)
        stock = next(stock for stock in ledger.products if stock.sku_id == self.sale.sku)
        return Stock(stock.total, stock.available, stock.held, stock.sold), ledger.consistent

    async def reservation(self, key: str) -> Reservation | None:
        return await self._find(f"/api/v1/reservations/{key}", Reservation)

    async def order(self, key: str) -> Order | None:
        return await self._find(f"/api/v1/orders/{key}", Order)

    async def order_of(self, reservation_id: str) -> Order | None:
        return await self._find(f"/api/v1/orders/reservation/{reservation_id}", Order)

    async def books(self, run: str) -> dict[str, Booking]:
        """The books, as far as they concern this run's transactions."""
        bookings: dict[str, Booking] = {}
        after: int | None = 0
        while after is not None:
            answer = await self._insist(self._provider, "GET", f"/books?after={after}&limit=1000")
            page = _expect(answer, _Books)
            bookings |= {it.transaction_id: _booking(it) for it in page.transactions if f"_{run}-" in it.transaction_id}
            after = page.next
        return bookings

    async def gather(self, histories: Sequence[History], run: str) -> Evidence:
        """Ask again about every reservation and order that was promised, then read ledger and books."""
        promised = {promise.told.reservation_id for promise in acknowledged_reservations(histories)}
        ordered = {promise.told.order_id for promise in acknowledged_orders(histories)}
        reservations = await each(promised, self.reservation)
        orders = await each(ordered, self.order)
        known = {order.reservation_id for order in orders.values() if order is not None}
        confirmed = {key for key, told in reservations.items() if told is not None and told.status == "CONFIRMED"}
        unheard = await each(confirmed - known, self.order_of)
        orders |= {order.order_id: order for order in unheard.values() if order is not None}
        stock, consistent = await self.ledger()
        books = await self.books(run)
        limit, hold = self.sale.per_user_limit, self.sale.hold_seconds
        return Evidence(histories, stock, consistent, reservations, orders, books, limit, hold)

    async def ask(self, path: str) -> Answer:
        """Whatever else an operator may read."""
        return await self._insist(self._shop, "GET", path, self._token)

    async def _find(self, path: str, kind: type[T]) -> T | None:
        answer = await self._insist(self._shop, "GET", path)
        return None if answer.status == 404 else _expect(answer, kind)

    async def _insist(
        self, client: HttpClient, method: str, path: str, headers: dict[str, str] | None = None
    ) -> Answer:
        """Repeat until there is a proper answer; the shop may just be starting again."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + PATIENCE_SECONDS
        while True:
            try:
                answer = await client.fetch(method, path, None, headers or NO_HEADERS)
                problem = f"{answer.status} {answer.body[:500]!r}"
                if answer.status not in (429, 503):
                    return answer
            except LostReply as lost:
                problem = str(lost)
            if loop.time() > give_up_at:
                raise NotAnswered(f"{method} {path}: {problem}")
            await asyncio.sleep(0.1)


async def each(keys: Iterable[str], ask: Callable[[str], Awaitable[T]]) -> dict[str, T]:
    """The answer for every key, a bounded number of questions at once."""
    waiting = iter(sorted(keys))
    answers: dict[str, T] = {}

    async def work() -> None:
        for key in waiting:
            answers[key] = await ask(key)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return answers


def _booking(it: _Transaction) -> Booking:
    return Booking(it.amount_minor if it.status == "CAPTURED" else 0, it.refunded_minor)


def _expect(answer: Answer, kind: type[T]) -> T:
    told = decode(answer.body, kind) if answer.status == 200 else None
    if told is None:
        raise NotAnswered(f"expected a {kind.__name__.lstrip('_')}, got {answer.status} {answer.body[:500]!r}")
    return told


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
