"""Confirm against expire, and every other race for one reservation: exactly one way out wins, and it adds up."""

import asyncio
import os
from random import Random

import pytest
from contract.ledgers import LEDGERS, HandClock, Shop, shop, together
from core.audit import histories
from core.shop import AUTHORIZED, CAPTURED, HOLD_MS, a_product, a_sale, an_attempt, refusal_of

from flashsale.core.checkout import Opened
from flashsale.core.journal import Kind
from flashsale.core.payment import Due
from flashsale.core.questions import FindReservations
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import Status
from flashsale.core.stock import Granted
from flashsale.ports import LedgerUnavailable

SOAK = bool(os.environ.get("FLASHSALE_SOAK"))
INTERLEAVINGS = 100_000 if SOAK else 10_000
ROUND = 500


class Rivals:
    """Many orders about to be paid, and everybody who wants something else of their reservations."""

    def __init__(self, it: Shop, seed: int) -> None:
        self.shop = it
        self.chance = Random(seed)

    async def race(self, orders: list[Opened]) -> list:
        """All rivals of all orders ask, in random order, while time passes at a random moment of it."""
        calls = [call for opened in orders for call in self._rivals_of(opened)]
        self.chance.shuffle(calls)
        passes = self.chance.randrange(len(calls))
        return await asyncio.gather(*(self._ask(call, number == passes) for number, call in enumerate(calls)))

    async def _ask(self, call, time_is_over: bool) -> object:
        if time_is_over:
            self.shop.clock.pass_ms(HOLD_MS)
        return await call()

    def _rivals_of(self, opened: Opened) -> list:
        ledger, reservation_id = self.shop.ledger, opened.order.lines[0].reservation_id
        return [
            lambda: self.shop.hear(opened.payment, AUTHORIZED),
            *self.chance.sample(
                [
                    ledger.expire,
                    lambda: ledger.release(reservation_id, None),
                    lambda: ledger.cancel_order(opened.order.order_id, None, "rival"),
                    lambda: self.shop.open_order(reservation_id, transaction=opened.payment.transaction_id),
                    lambda: self.shop.open_order(reservation_id, transaction=opened.payment.transaction_id + "-2"),
                    lambda: self.shop.hear(opened.payment, AUTHORIZED),
                    lambda: self.shop.hear(opened.payment, CAPTURED),
                ],
                k=self.chance.randint(1, 4),
            ),
        ]


async def orders_about_to_be_paid(it: Shop, number: int) -> list[Opened]:
    granted = await asyncio.gather(*(it.asks(an_attempt(f"user-{number}-{user}")) for user in range(ROUND)))
    held = [outcome.reservations[0].reservation_id for outcome in granted]
    return await asyncio.gather(*(it.open_order(each, transaction=f"tx-{each}") for each in held))


@pytest.mark.parametrize("opening", LEDGERS)
@pytest.mark.parametrize("seed", range(INTERLEAVINGS // ROUND))
async def test_of_all_ways_out_of_a_reservation_exactly_one_wins(opening, seed, tmp_path):
    async with shop(opening, tmp_path, HandClock()) as it:
        await it.opens(units=2 * ROUND)
        orders = await orders_about_to_be_paid(it, seed)
        answers = await Rivals(it, seed).race(orders)
        assert [answer for answer in answers if isinstance(answer, BaseException)] == []
        while await it.ledger.expire():
            pass
        await one_won_each(it, orders)
        await nobody_was_told_otherwise(it, answers)


AFTERWARDS = {
    Kind.CONFIRM: ([], [Kind.RETURN]),
    Kind.EXPIRE: ([], [Kind.HONOUR], [Kind.HONOUR, Kind.RETURN]),
    Kind.RELEASE: ([],),
}
"""What may follow on each way out: a paid order may be cancelled, late money may be honoured."""


async def one_won_each(it: Shop, orders: list[Opened]) -> None:
    went = histories(await it.journal())
    assert len(went) == len(orders)
    for kinds in went.values():
        assert sum(kind in AFTERWARDS for kind in kinds) == 1
        assert kinds[2:] in AFTERWARDS[kinds[1]]
    assert await it.discrepancies() == []
    sold = sum(kinds[-1] in (Kind.CONFIRM, Kind.HONOUR) for kinds in went.values())
    assert await it.counters() == (2 * ROUND - sold, 0, sold)


async def nobody_was_told_otherwise(it: Shop, answers: list) -> None:
    """Whoever heard that his capture is due, or that his release was done, reads the same now."""
    released = [each.reservation_id for each in answers if getattr(each, "status", None) is Status.CANCELLED]
    for each in await it.ledger.find(FindReservations(tuple(released))):
        assert each.status is Status.CANCELLED
    confirmed = [each for each in answers if isinstance(each, Opened) and each.payment.due is Due.CAPTURE]
    ids = tuple(line.reservation_id for each in confirmed for line in each.order.lines)
    for each in await it.ledger.find(FindReservations(ids)):
        assert each.status in (Status.CONFIRMED, Status.RETURNED)


@pytest.mark.parametrize("opening", LEDGERS)
async def test_of_50_requests_of_one_user_exactly_one_wins_in_every_round(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(units=10_000)
        for number in range(100):
            outcomes = await asyncio.gather(*(it.asks(an_attempt(f"user-{number}")) for _ in range(50)))
            assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 1
        assert await it.counters() == (9_900, 100, 0)
        assert await it.discrepancies() == []


@pytest.mark.parametrize("opening", LEDGERS)
@pytest.mark.parametrize("units", [1, 7])
async def test_a_crowd_buys_what_there_is_and_no_more_while_units_come_and_go(opening, units, tmp_path):
    chance = Random(units)
    async with shop(opening, tmp_path) as it:
        await it.opens(a_sale(a_product(limit=2)), units=units)
        held: list[str] = []
        for number in range(60):
            wishes = [
                it.asks(an_attempt(f"user-{number}-{user}", ("lamp", chance.choice((1, 2))))) for user in range(20)
            ]
            back = [it.ledger.release(each, None) for each in held if chance.random() < 0.3]
            released = await together(back)
            held = [each for each in held if each not in {one.reservation_id for one in released}]
            outcomes = await asyncio.gather(*wishes)
            held += [each.reservations[0].reservation_id for each in outcomes if isinstance(each, Granted)]
            assert {refusal_of(each) for each in outcomes} <= {None, Refusal.SOLD_OUT}
            available, in_hands, sold = await it.counters()
            assert (available + in_hands, sold) == (units, 0)
        assert await it.discrepancies() == []


@pytest.mark.parametrize("opening", LEDGERS)
async def test_a_repeated_request_is_not_refused_while_its_first_one_is_still_waiting(opening, tmp_path):
    """The first copy waits for the writer, the second is answered from a read: both speak of one reservation."""
    async with shop(opening, tmp_path) as it:
        await it.opens(units=1)
        (bobs,) = await it.held("bob")
        first = it.asks(an_attempt("ann", key="k"))
        back = asyncio.ensure_future(it.ledger.release(bobs.reservation_id, None))
        second = it.refuse("ann", key="k")
        outcomes = await asyncio.gather(first, second)
        await back
        if any(isinstance(each, Granted) for each in outcomes):
            assert not any(isinstance(each, Refused) for each in outcomes)


@pytest.mark.parametrize("opening", LEDGERS)
async def test_nothing_is_lost_when_the_ledger_closes_in_the_middle(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(units=10_000)
        wishes = [it.asks(an_attempt(f"user-{number}")) for number in range(2_000)]
        closing = asyncio.ensure_future(it.ledger.close())
        outcomes = await asyncio.wait_for(asyncio.gather(*wishes), 30)
        await closing
    told = {each.reservations[0].reservation_id for each in outcomes if isinstance(each, Granted)}
    async with shop(opening, tmp_path) as again:
        found = await again.ledger.find(FindReservations(tuple(told)))
        assert {each.reservation_id for each in found} == told
        with pytest.raises(LedgerUnavailable):
            await it.ledger.expire()
