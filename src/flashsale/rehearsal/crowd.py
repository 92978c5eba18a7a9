"""Simulated buyers, most of them difficult: they double-click, lose replies, abandon, pay twice.

How a buyer gets a unit and what he then does with it are two small functions; a behaviour is a pair
of them, and the table below says how many buyers have which. Every buyer has a random generator of
his own, made from the seed and his number, so that the same seed makes the same choices.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from flashsale.rehearsal.evidence import Ask, Exchange, History, Reservation, decode
from flashsale.rehearsal.http_client import HttpClient, LostReply

ASK_AGAIN = (0, 202, 429, 503)
"""No answer, still waiting, slow down, unavailable: the same request again, a little later."""


class Shop(msgspec.Struct):
    """Where the crowd goes: one product, reached over HTTP, and the moment (monotonic) it opens.

    `run` marks every user and transaction of this crowd, so that they can be told from others'.
    `closed` sends home whoever still hopes for a unit. `insist_seconds`: how long a buyer repeats a
    request that gets no proper answer. `wait_seconds`: in a queued sale, how long he holds the line for the
    outcome; 0: the sale is direct.
    """

    client: HttpClient
    sku: str
    opens_at: float
    run: str
    insist_seconds: float = 30.0
    closed: bool = False
    wait_seconds: int = 0


class Buyer:
    """One person: asks, remembers every answer, asks again when there was none."""

    def __init__(self, shop: Shop, history: History, dice: random.Random) -> None:
        self.shop, self.history, self.dice = shop, history, dice
        self._transactions = 0

    @property
    def user(self) -> str:
        return self.history.user

    def new_transaction(self, kind: str = "ok") -> str:
        """A transaction id; the sandbox provider reads the outcome from its beginning."""
        self._transactions += 1
        return f"pay_{kind}_{self.user}_{self._transactions}"

    def reservation_request(self, key: str) -> bytes:
        body = {"skuId": self.shop.sku, "quantity": 1, "userId": self.user}
        headers = {"Idempotency-Key": key}
        if self.shop.wait_seconds:
            headers["Prefer"] = f"wait={self.shop.wait_seconds}"
        return self.shop.client.build("POST", "/api/v1/reservations", body, headers)

    def checkout_request(self, reservation_id: str, transaction: str) -> bytes:
        body = {
            "reservationId": reservation_id,
            "paymentTransactionId": transaction,
            "paymentMethod": "card",
            "shippingAddress": f"1 Queue Street, for {self.user}",
        }
        return self.shop.client.build("POST", "/api/v1/orders/checkout", body)

    async def reserve(self, key: str) -> Exchange:
        return await self._insist(Ask.RESERVE, key, self.reservation_request(key))

    async def pay(self, reservation_id: str, transaction: str) -> Exchange:
        request = self.checkout_request(reservation_id, transaction)
        return await self._insist(Ask.CHECKOUT, transaction, request, reservation_id)

    async def cancel(self, reservation_id: str) -> Exchange:
        request = self.shop.client.build("DELETE", f"/api/v1/reservations/{reservation_id}")
        return await self._insist(Ask.CANCEL, reservation_id, request, reservation_id)

    async def look(self) -> Exchange:
        request = self.shop.client.build("GET", f"/api/v1/products/{quote(self.shop.sku)}/availability")
        return await self._insist(Ask.LOOK, self.shop.sku, request)

    async def lose(self, ask: Ask, subject: str, request: bytes, reservation_id: str = "") -> None:
        """Ask and hang up: half the time at once, else when the answer is already there."""
        patience = self.dice.choice((0.002, 10.0))
        asked_at = time.monotonic()
        answer = await self.shop.client.send_and_hang_up(request, patience)
        status, body, sent_at, answered_at = answer or (0, b"", asked_at, time.monotonic())
        exchange = Exchange(ask, subject, status, body, sent_at, answered_at, reservation_id, read=False)
        self.history.exchanges.append(exchange)

    async def pause(self, shortest: float, longest: float) -> None:
        await asyncio.sleep(self.dice.uniform(shortest, longest))

    async def _insist(self, ask: Ask, subject: str, request: bytes, reservation_id: str = "") -> Exchange:
        """The same request until it gets an answer: the bytes are the same, so the key is."""
        give_up_at = time.monotonic() + self.shop.insist_seconds
        while True:
            exchange = await self._ask(ask, subject, request, reservation_id)
            if exchange.status not in ASK_AGAIN or time.monotonic() > give_up_at:
                return exchange
            await self.pause(0.05, 0.3)

    async def _ask(self, ask: Ask, subject: str, request: bytes, reservation_id: str) -> Exchange:
        asked_at = time.monotonic()
        try:
            status, body, sent_at, answered_at = await self.shop.client.send(request)
        except LostReply:
            status, body, sent_at, answered_at = 0, b"", asked_at, time.monotonic()
        exchange = Exchange(ask, subject, status, body, sent_at, answered_at, reservation_id)
        self.history.exchanges.append(exchange)
        return exchange


Getting = Callable[[Buyer, str], Awaitable[Exchange]]
"""How a buyer asks for a unit, given his request key; the exchange he goes by."""

Having = Callable[[Buyer, str], Awaitable[None]]
"""What a buyer does with his reservation."""


def better(one: Exchange, other: Exchange) -> Exchange:
    return other if other.status == 201 else one


async def click(buyer: Buyer, key: str) -> Exchange:
    return await buyer.reserve(key)


async def double_click(buyer: Buyer, key: str) -> Exchange:
    return better(*await asyncio.gather(buyer.reserve(key), buyer.reserve(key)))


async def two_tabs(buyer: Buyer, key: str) -> Exchange:
    """Two different keys at once: at most one of them may win."""
    return better(*await asyncio.gather(buyer.reserve(key), buyer.reserve(f"{key}-tab")))


async def lost_reply(buyer: Buyer, key: str) -> Exchange:
    """The connection breaks; asked again with the same key, the answer must be the same unit."""
    await buyer.lose(Ask.RESERVE, key, buyer.reservation_request(key))
    await buyer.pause(0.0, 0.3)
    return await buyer.reserve(key)


async def pay(buyer: Buyer, reservation_id: str) -> None:
    await buyer.pause(0.1, 0.6)
    await buyer.pay(reservation_id, buyer.new_transaction())


async def pay_twice(buyer: Buyer, reservation_id: str) -> None:
    """The same transaction twice at once, then once more: one order, one charge."""
    await buyer.pause(0.1, 0.6)
    transaction = buyer.new_transaction()
    await asyncio.gather(buyer.pay(reservation_id, transaction), buyer.pay(reservation_id, transaction))
    await buyer.pause(0.1, 1.0)
    await buyer.pay(reservation_id, transaction)


async def pay_with_two_cards(buyer: Buyer, reservation_id: str) -> None:
    """Two different transactions for one reservation at once: one order, one of them charged."""
    await buyer.pause(0.1, 0.6)
    one, other = buyer.new_transaction(), buyer.new_transaction()
    await asyncio.gather(buyer.pay(reservation_id, one), buyer.pay(reservation_id, other))


async def lose_the_receipt(buyer: Buyer, reservation_id: str) -> None:
    """The reply to the payment is lost; paying again with the same transaction must not charge again."""
    await buyer.pause(0.1, 0.6)
    transaction = buyer.new_transaction()
    request = buyer.checkout_request(reservation_id, transaction)
    await buyer.lose(Ask.CHECKOUT, transaction, request, reservation_id)
    await buyer.pay(reservation_id, transaction)


async def be_declined(buyer: Buyer, reservation_id: str) -> None:
    await buyer.pause(0.1, 0.6)
    await buyer.pay(reservation_id, buyer.new_transaction("declined"))


async def be_declined_then_pay(buyer: Buyer, reservation_id: str) -> None:
    await be_declined(buyer, reservation_id)
    await pay(buyer, reservation_id)


async def cancel(buyer: Buyer, reservation_id: str) -> None:
    await buyer.pause(0.1, 0.6)
    await buyer.cancel(reservation_id)


async def walk_away(buyer: Buyer, reservation_id: str) -> None:
    """Never pays: the unit must come back by itself."""


class Behaviour(NamedTuple):
    """So many buyers in a hundred get a unit in this way, and do this with it."""

    name: str
    share: int
    get: Getting | None
    have: Having
    pays: bool = True


BEHAVIOURS = (
    Behaviour("buys", 46, click, pay),
    Behaviour("double-clicks", 8, double_click, pay),
    Behaviour("buys in two tabs", 8, two_tabs, pay),
    Behaviour("loses the reply", 8, lost_reply, pay),
    Behaviour("loses the receipt", 4, click, lose_the_receipt),
    Behaviour("pays twice", 5, click, pay_twice),
    Behaviour("pays with two cards", 2, click, pay_with_two_cards),
    Behaviour("declined, pays anew", 4, click, be_declined_then_pay),
    Behaviour("declined, leaves", 3, click, be_declined, pays=False),
    Behaviour("cancels", 3, click, cancel, pays=False),
    Behaviour("abandons", 5, click, walk_away, pays=False),
    Behaviour("only looks", 4, None, walk_away, pays=False),
)


class Crowd:
    """All buyers of one sale. They come around the opening, `spread_seconds` on average after it, some
    before. `patient` of them do not take no for an answer until the shop is closed."""

    def __init__(
        self, shop: Shop, size: int, *, seed: int = 1, first: int = 0, patient: int = 0, spread_seconds: float = 0.4
    ) -> None:
        self.shop, self.spread_seconds = shop, spread_seconds
        self.gone = 0
        self._dice = random.Random(f"{seed}/{first}/crowd")
        self._buyers = [self._buyer(first + n, seed, patient / max(size, 1)) for n in range(size)]
        self.histories = [buyer.history for buyer, _ in self._buyers]

    async def run(self) -> None:
        """Everybody comes, tries and goes."""
        async with asyncio.TaskGroup() as group:
            for buyer, behaviour in self._buyers:
                group.create_task(self._visit(buyer, behaviour))

    async def ask_again(self, at_most: int | None = None) -> None:
        """Buyers who were given a reservation repeat the request with its key: all of them, or some."""
        given = {
            (buyer, exchange.subject)
            for buyer, _ in self._buyers
            for exchange in buyer.history.exchanges
            if exchange.ask is Ask.RESERVE and exchange.status == 201
        }
        repeated = sorted(given, key=lambda pair: (pair[0].user, pair[1]))
        if at_most is not None:
            repeated = self._dice.sample(repeated, min(at_most, len(repeated)))
        await asyncio.gather(*(buyer.reserve(key) for buyer, key in repeated))

    def _buyer(self, number: int, seed: int, patient_share: float) -> tuple[Buyer, Behaviour]:
        dice = random.Random(f"{seed}/{number}")
        behaviour = dice.choices(BEHAVIOURS, [row.share for row in BEHAVIOURS])[0]
        patient = behaviour.pays and dice.random() < patient_share
        history = History(f"{self.shop.run}-{number}", behaviour.name, patient)
        return Buyer(self.shop, history, dice), behaviour

    async def _visit(self, buyer: Buyer, behaviour: Behaviour) -> None:
        lateness = buyer.dice.expovariate(1 / self.spread_seconds) - self.spread_seconds / 4
        await asyncio.sleep(self.shop.opens_at + lateness - time.monotonic())
        if behaviour.get is None:
            await buyer.look()
        else:
            reservation = await self._get_one(buyer, behaviour.get)
            if reservation is not None:
                await behaviour.have(buyer, reservation.reservation_id)
        self.gone += 1

    async def _get_one(self, buyer: Buyer, get: Getting) -> Reservation | None:
        """Ask until there is a unit, or until the buyer has had enough. A refusal leaves the key unused."""
        leaves_at = self.shop.opens_at + (1e9 if buyer.history.patient else buyer.dice.expovariate(1 / 3))
        for number in count():
            # A direct refusal leaves the key unused; a queued one is the key's answer for good.
            exchange = await get(buyer, f"try-{number}" if self.shop.wait_seconds else "first")
            if exchange.status == 201:
                return decode(exchange.body, Reservation)
            refusal = exchange.code
            if refusal not in ("NOT_STARTED", "SOLD_OUT") or self.shop.closed or time.monotonic() > leaves_at:
                return None
            await (self._wait_for_the_opening(buyer) if refusal == "NOT_STARTED" else buyer.pause(0.8, 2.0))
        return None

    async def _wait_for_the_opening(self, buyer: Buyer) -> None:
        """By the shop's clock; if ours is ahead of it, ask a few times a second."""
        await asyncio.sleep(self.shop.opens_at - time.monotonic())
        await buyer.pause(0.02, 0.2)
