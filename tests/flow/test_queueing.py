"""Asking for units in a queued sale: who gets a place in the queue, and what everybody else is told."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from contract.ledgers import Audience, HandClock, Shop, answered, sqlite
from core.shop import a_product, a_sale, refusal_of
from structlog.testing import capture_logs

from flashsale.backends.memory import MemoryGate
from flashsale.core.books import Line
from flashsale.core.catalogue import Restock, SwitchSale
from flashsale.core.dead_letters import attempt_of
from flashsale.core.permits import FRESH_MS, Permit, Synchronised, Wish
from flashsale.core.questions import FindReservations, StockOf
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item, Request
from flashsale.core.reservation import RequestKind, Status
from flashsale.core.sale import Mode, Switch
from flashsale.core.stock import Attempt, Pending
from flashsale.flow import queueing
from flashsale.flow.queueing import TOGETHER_MAX, UNKNOWN, Queueing
from flashsale.flow.storefront import Storefront
from flashsale.ports import Answer, GateAway, LedgerUnavailable, Outcome

UNITS = 3
MANY = TOGETHER_MAX + 88
"""More than ask the gate together."""
EVERYTHING = frozenset({"permit", "queued", "appended", "settle"})
PATIENCE_SECONDS = 10.0


class Kept:
    """A queue that keeps what it is given. What it does not acknowledge may be in it or not: here it is."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.acknowledges: Callable[[Request], bool] = lambda _: True

    def append(self, request: Request, reply: Callable[[bool], None]) -> None:
        self.requests.append(request)
        asyncio.get_running_loop().call_soon(reply, self.acknowledges(request))

    async def close(self) -> None:
        pass


class Gate(MemoryGate):
    """One that can be taken away, or be deaf to some of its calls."""

    deaf_to: frozenset[str] = frozenset()

    async def permit(self, wishes: Sequence[Wish]) -> list[Permit]:
        self._hear("permit")
        return await super().permit(wishes)

    async def queued(self, wishes: Sequence[Wish]) -> list[bool]:
        self._hear("queued")
        return await super().queued(wishes)

    async def appended(self, wishes: Sequence[Wish]) -> None:
        self._hear("appended")
        await super().appended(wishes)

    async def settle(self, lines: Sequence[tuple[Line, Sequence[str]]], synchronised: Sequence[Synchronised]) -> None:
        self._hear("settle")
        await super().settle(lines, synchronised)

    def _hear(self, call: str) -> None:
        if call in self.deaf_to:
            raise GateAway("nobody listens")


class Door:
    """The way into a queued sale of lamps and vases. Others sell too: the window is as old as its last look."""

    def __init__(self, it: Shop) -> None:
        self.shop = it
        self.window = Storefront(it.clock)
        self.gate = Gate(it.clock)
        self.queue = Kept()
        self.queueing = self.queueing_with(self.gate)

    def queueing_with(self, gate: Gate | None) -> Queueing:
        return Queueing(self.shop.ledger, self.queue, gate, self.window, self.shop.clock, os.urandom)

    @property
    def queued(self) -> list[str]:
        """The users whose requests are in the queue."""
        return [request.user_id for request in self.queue.requests]

    async def looks(self) -> None:
        for sale_id, sale in self.shop.audience.sales:
            self.window.sale_changed(sale_id, sale)
        self.window.stock_changed(await self.shop.ledger.find(StockOf()))

    async def wants(self, user: str, *skus: str, key: str | None = None, barred: Refused | None = None) -> Answer:
        items = tuple(Item(sku, 1) for sku in skus or ("lamp",))
        kind = RequestKind.CART if len(items) > 1 else RequestKind.SINGLE
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        attempt = Attempt(user, "sale", items, key, kind, barred=barred)
        self.queueing.request(self.window.sales["sale"], attempt, told.set_result)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await told

    async def all_want(self, users: str, number: int, sku: str = "lamp") -> list[str]:
        """What so many are told who ask in one turn: PENDING or why not."""
        return list(map(said, await asyncio.gather(*(self.wants(f"{users}-{each}", sku) for each in range(number)))))

    async def sells(self, number: int, sku: str = "lamp") -> list[str]:
        """In another process, unseen by the window; the ids of the reservations."""
        made = await asyncio.gather(*(self.shop.held(f"early-{sku}-{each}", (sku, 1)) for each in range(number)))
        return [row.reservation_id for [row] in made]

    async def decided(self) -> list[tuple[str, Status]]:
        """What becomes of the requests in the queue, one after the other."""
        outcomes = [await answered(self.shop.ledger.reserve, attempt_of(each)) for each in self.queue.requests]
        return [(row.sku_id, row.status) for outcome in outcomes for row in outcome.reservations]


def said(answer: Answer) -> str:
    refusal = refusal_of(answer)
    return refusal.code if refusal else "PENDING" if isinstance(answer, Pending) else repr(answer)


@asynccontextmanager
async def a_door(folder: Path, units: int = UNITS) -> AsyncIterator[Door]:
    clock, audience = HandClock(), Audience()
    with capture_logs() as logs:
        async with sqlite(folder, clock, audience) as ledger:
            it = Door(Shop(ledger, clock, audience))
            await it.shop.opens(a_sale(a_product(), a_product("vase"), mode=Mode.QUEUED), units=units)
            await it.looks()
            yield it
    assert logs == []  # a second answer would be logged


@pytest.fixture
async def door(tmp_path) -> AsyncIterator[Door]:
    async with a_door(tmp_path) as it:
        yield it


async def test_a_request_that_is_in_the_queue_is_pending_under_the_id_it_has_there(door):
    answer = await door.wants("ann")
    [request] = door.queue.requests
    assert answer == Pending(request.reservation_ids, "ann", (Item("lamp", 1),))
    assert await door.decided() == [("lamp", Status.RESERVED)]


# -- A gate that is not sure.


async def test_a_gate_that_knows_nothing_hears_what_the_ledger_has_and_permits_as_many(door):
    assert await door.all_want("buyer", UNITS + 2) == ["PENDING"] * UNITS + ["SOLD_OUT"] * 2
    assert len(door.queued) == UNITS
    assert await door.gate.availability([("sale", "lamp")]) == [UNITS]


async def test_what_others_have_sold_since_the_last_look_is_sold_out_and_nobody_is_queued_for_it(door):
    await door.sells(UNITS)
    answer = await door.wants("ann")
    assert (said(answer), answer.details["availableQuantity"]) == ("SOLD_OUT", 0)
    assert door.queued == []


async def test_from_an_old_figure_nobody_is_refused_a_unit_that_has_come_back(door):
    [first, *_] = await door.sells(UNITS)
    assert said(await door.wants("ann")) == "SOLD_OUT"
    await door.shop.ledger.release(first, None)
    door.shop.clock.pass_ms(FRESH_MS + 1)
    assert await door.all_want("buyer", 2) == ["PENDING", "SOLD_OUT"]


async def test_when_neither_gate_nor_ledger_can_say_a_request_is_queued_for_the_ledger_to_decide(door, monkeypatch):
    async def away(_: object) -> None:
        raise LedgerUnavailable("nobody listens")

    monkeypatch.setattr(door.shop.ledger, "find", away)
    assert await door.all_want("buyer", UNITS + 2) == ["PENDING"] * (UNITS + 2)


async def test_a_gate_that_goes_away_while_it_is_told_leaves_nobody_out_and_has_nobody_queued_twice(door):
    await door.gate.synchronise([Synchronised("sale", "lamp", UNITS, 1)])
    door.gate.deaf_to = frozenset({"settle"})  # it knows of lamps, and will not hear of vases
    told = await asyncio.gather(door.wants("ann"), door.wants("bob", "vase"))
    assert list(map(said, told)) == ["PENDING"] * 2
    assert door.queued == ["ann", "bob"]


# -- Permits that are not needed any more.


async def test_all_permits_of_requests_that_were_not_acknowledged_go_back(tmp_path):
    async with a_door(tmp_path, units=MANY) as door:
        door.queue.acknowledges = lambda _: False
        told = await asyncio.gather(door.all_want("first", MANY), door.all_want("first", MANY, "vase"))
        assert told == [["UNAVAILABLE"] * MANY] * 2
        door.queue.acknowledges = lambda _: True
        for sku in ("lamp", "vase"):
            assert await door.all_want("second", MANY + 1, sku) == ["PENDING"] * MANY + ["SOLD_OUT"]


async def test_requests_that_were_acknowledged_beside_others_that_were_not_keep_their_permits(tmp_path):
    async with a_door(tmp_path, units=MANY) as door:
        door.queue.acknowledges = lambda request: request.user_id.endswith(("0", "2", "4", "6", "8"))
        told = await door.all_want("first", MANY)
        assert told.count("PENDING") == told.count("UNAVAILABLE") == MANY // 2
        door.queue.acknowledges = lambda _: True
        assert (await door.all_want("second", MANY)).count("PENDING") == MANY // 2


async def test_a_cart_of_which_one_product_is_sold_out_keeps_no_permit_for_the_other(door):
    await door.sells(UNITS, "vase")
    answer = await door.wants("ann", "lamp", "vase")
    assert (said(answer), answer.details["skuId"]) == ("SOLD_OUT", "vase")
    assert door.queued == []
    assert await door.all_want("buyer", UNITS + 1) == ["PENDING"] * UNITS + ["SOLD_OUT"]


# -- Keys.


async def test_whoever_is_told_that_it_is_unknown_repeats_with_his_key_and_gets_the_same_reservation(tmp_path):
    async with a_door(tmp_path, units=1) as door:
        door.queue.acknowledges = lambda _: False
        answer = await door.wants("ann", key="k")
        assert answer == UNKNOWN
        assert answer.refusal is Refusal.UNAVAILABLE and "repeat it with the same key" in answer.message
        door.queue.acknowledges = lambda _: True
        again = await door.wants("ann", key="k")
        first, second = door.queue.requests
        assert first.reservation_ids == second.reservation_ids == again.reservation_ids
        assert await door.decided() == [("lamp", Status.RESERVED)] * 2
        assert await door.shop.counters() == (0, 1, 0)  # in the queue twice, sold once


async def test_whoever_repeats_a_request_that_waits_is_not_queued_again_nor_another_one_with_its_key(door):
    first = await door.wants("ann", key="k")
    assert await door.wants("ann", key="k") == first
    assert said(await door.wants("ann", "lamp", "vase", key="k")) == "KEY_REUSED"
    assert door.queued == ["ann"]


@pytest.mark.parametrize("since", ["sold out", "ended"])
async def test_a_request_that_is_decided_while_its_repeat_is_looked_at_is_answered_with_its_reservation(
    door, monkeypatch, since
):
    first = await door.wants("ann", key="k")
    await door.sells(UNITS - 1)
    door.shop.clock.pass_ms(1)
    asks, asked = door.shop.ledger.refuse, 0

    def refuse(attempt: Attempt, reply: Callable[[Outcome], None]) -> None:
        """The consumer comes between the ledger's answer and the gate's."""
        nonlocal asked
        asked += 1
        asks(attempt, reply if asked > 1 else lambda outcome: asyncio.ensure_future(decide(outcome, reply)))

    async def decide(outcome: Outcome, reply: Callable[[Outcome], None]) -> None:
        await door.decided()
        await door.gate.settle([(("sale", "lamp"), first.reservation_ids)], [Synchronised("sale", "lamp", 0, 99)])
        reply(outcome)

    if since == "ended":
        await door.shop.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    monkeypatch.setattr(door.shop.ledger, "refuse", refuse)
    [row] = (await door.wants("ann", key="k")).reservations
    assert (row.reservation_id, row.status) == (first.reservation_ids[0], Status.RESERVED)


async def test_whoever_repeats_when_the_ledger_cannot_say_is_told_to_try_again_and_not_that_it_is_sold_out(
    door, monkeypatch
):
    await door.sells(UNITS)
    asks = door.shop.ledger.find

    async def away(query: object) -> object:
        if isinstance(query, FindReservations):
            raise LedgerUnavailable("nobody listens")
        return await asks(query)

    monkeypatch.setattr(door.shop.ledger, "find", away)
    assert said(await door.wants("ann", key="k")) == "UNAVAILABLE"
    monkeypatch.undo()
    assert said(await door.wants("ann", key="k")) == "SOLD_OUT"


async def test_whoever_asks_for_more_than_his_limit_hears_what_he_has_on_the_way(door):
    assert said(await door.wants("ann")) == "PENDING"
    answer = await door.wants("ann")
    assert (answer.details["limit"], answer.details["alreadyHeld"]) == (1, 1)


async def test_a_mistake_in_the_queue_leaves_nobody_without_an_answer_and_makes_room(door, monkeypatch):
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(queueing, "WAITING_MAX", 1)
    monkeypatch.setattr(door.queue, "append", fails)
    for user in ("ann", "bob"):
        assert await door.wants(user) == UNKNOWN


async def test_a_key_of_which_the_ledger_can_say_nothing_now_is_queued_and_looked_at_there(door, monkeypatch):
    monkeypatch.setattr(door.shop.ledger, "refuse", lambda _, reply: reply(Refused(Refusal.UNAVAILABLE, "busy")))
    assert said(await door.wants("ann", key="k")) == "PENDING"


async def sold_out(door: Door) -> None:
    """The last unit is promised to bob: the ledger still has it, the gate has not."""
    await door.shop.ledger.change_sale(Restock("sale", "lamp", 1 - UNITS, "fewer", "operator"))
    assert said(await door.wants("bob")) == "PENDING"


async def over_the_limit(door: Door) -> None:
    assert said(await door.wants("ann")) == "PENDING"


async def paused(door: Door) -> None:
    await door.shop.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))


@pytest.mark.parametrize(
    ("why", "refusal"), [(sold_out, "SOLD_OUT"), (over_the_limit, "LIMIT_EXCEEDED"), (paused, "PAUSED")]
)
async def test_what_is_refused_before_the_queue_leaves_its_key_unused(door, why, refusal):
    await why(door)
    assert said(await door.wants("ann", key="k")) == refusal
    await door.shop.ledger.change_sale(SwitchSale("sale", Switch.RESUME, "operator"))
    assert said(await door.wants("ann", "vase", key="k")) == "PENDING"
    assert (await door.decided())[-1] == ("vase", Status.RESERVED)


# -- What is barred.

BLOCKED = Refused(Refusal.BLOCKED, "no")


async def test_a_barred_request_never_goes_into_the_queue(door):
    assert said(await door.wants("ann", key="k", barred=BLOCKED)) == "BLOCKED"
    assert said(await door.wants("ann", key="k")) == "PENDING"
    assert door.queued == ["ann"]


async def test_whoever_is_in_the_queue_hears_that_he_waits_although_he_is_barred_now(door):
    assert said(await door.wants("ann", key="k")) == "PENDING"
    assert said(await door.wants("ann", key="k", barred=BLOCKED)) == "PENDING"


async def test_whoever_was_decided_hears_it_although_he_is_barred_now(door):
    assert said(await door.wants("ann", key="k")) == "PENDING"
    await door.decided()
    [row] = (await door.wants("ann", key="k", barred=BLOCKED)).reservations
    assert row.status is Status.RESERVED


async def test_a_barred_request_of_which_the_ledger_can_say_nothing_is_told_to_try_again(door, monkeypatch):
    monkeypatch.setattr(door.shop.ledger, "refuse", lambda _, reply: reply(Refused(Refusal.UNAVAILABLE, "busy")))
    assert said(await door.wants("ann", key="k", barred=BLOCKED)) == "UNAVAILABLE"
    assert door.queued == []


# -- Without a gate.


@pytest.fixture(params=["away", "none"])
def gateless(door: Door, request: pytest.FixtureRequest) -> Door:
    door.gate.deaf_to = EVERYTHING
    if request.param == "none":
        door.queueing = door.queueing_with(None)
    return door


async def test_while_the_gate_is_away_requests_go_into_the_queue(gateless):
    assert said(await gateless.wants("ann")) == "PENDING"
    assert said(await gateless.wants("bob", key="k")) == "PENDING"
    assert gateless.queued == ["ann", "bob"]


async def test_while_the_gate_is_away_the_shop_window_keeps_those_out_for_whom_nothing_is_left(gateless):
    await gateless.sells(UNITS)
    assert said(await gateless.wants("ann")) == "PENDING"  # the window has not looked: the ledger will refuse
    await gateless.looks()
    assert said(await gateless.wants("bob")) == "SOLD_OUT"
    assert said(await gateless.wants("cyd", key="k")) == "SOLD_OUT"
    assert gateless.queued == ["ann"]
    assert await gateless.decided() == [("lamp", Status.REJECTED)]


# -- A crowd.


async def test_beyond_so_many_on_their_way_the_answer_is_to_try_again_and_each_answer_makes_room(door, monkeypatch):
    monkeypatch.setattr(queueing, "WAITING_MAX", UNITS)
    assert await door.all_want("buyer", UNITS + 1) == ["PENDING"] * UNITS + ["UNAVAILABLE"]
    assert said(await door.wants("late")) == "SOLD_OUT"
