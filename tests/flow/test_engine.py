"""The engine as a whole, in real time: units come back within a second, and a jumping wall clock changes nothing."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from core.shop import a_draft, a_product, a_sale, refusal_of
from structlog.testing import capture_logs

import flashsale.composition
from flashsale.backends import kafka
from flashsale.backends.clock import SteadyClock
from flashsale.backends.kafka import KafkaBroker
from flashsale.composition import ExtraMissing
from flashsale.core.catalogue import CreateSale
from flashsale.core.event import published
from flashsale.core.questions import EventsAfter, FindReservations, LedgerCheck, StockOf
from flashsale.core.refusal import Refusal
from flashsale.core.request import Item
from flashsale.core.sale import Sale
from flashsale.core.stock import Granted
from flashsale.edge.door import Door
from flashsale.edge.hot_routes import HotRoutes
from flashsale.edge.wire import Answer
from flashsale.engine import Engine
from flashsale.ports import Message
from flashsale.settings import Settings

NO_PROVIDER = "http://127.0.0.1:9"
"""Nothing here is paid for, so no sandbox is started."""
NO_BROKER = "kafka://127.0.0.1:9"
CROWD = 1_000
HOUR_MS = 3_600_000


@asynccontextmanager
async def an_engine(folder: Path) -> AsyncIterator[Engine]:
    with capture_logs():
        async with Engine.open(Settings(data=str(folder), sandbox_url=NO_PROVIDER)) as engine:
            yield engine


async def opens(engine: Engine, sale: Sale, units: int) -> None:
    assert isinstance(await engine.change_sale(CreateSale(a_draft(sale, units), "operator")), Sale)


# -- Expiry.


async def test_a_unit_that_lapses_is_sold_again_within_a_second_a_thousand_at_once(tmp_path):
    async with an_engine(tmp_path) as engine:
        sale = a_sale(starts_at_ms=engine.clock.now_ms(), reservation_seconds=1)
        await opens(engine, sale, CROWD)
        first = await asyncio.gather(*(engine.reserve(f"first-{number}", "lamp") for number in range(CROWD)))
        lapse_ms = sorted(outcome.reservations[0].expires_at_ms for outcome in first)
        sold_ms = sorted([at_ms async for at_ms in sold_again(engine)])
        waits_ms = sorted(sold - lapsed for sold, lapsed in zip(sold_ms, lapse_ms, strict=True))
        assert waits_ms[0] >= 0, "a unit was sold before it lapsed"
        assert waits_ms[CROWD * 99 // 100] < 1_000
        assert await engine.find(LedgerCheck("sale")) == []


async def sold_again(engine: Engine) -> AsyncIterator[int]:
    """A crowd that goes on asking until everything is sold again; yields when each unit was."""
    missing, number = CROWD, 0
    while missing:
        wishes = [engine.reserve(f"second-{number + nth}", "lamp") for nth in range(min(missing, 250))]
        number += len(wishes)
        for outcome in await asyncio.gather(*wishes):
            if isinstance(outcome, Granted):
                missing -= 1
                yield outcome.reservations[0].created_at_ms
        await asyncio.sleep(0.02)


# -- The clock.


class Jumping:
    """A wall clock that somebody sets."""

    def __init__(self) -> None:
        self.jump_ms = 0

    def ns(self) -> int:
        return time.time_ns() + self.jump_ms * 1_000_000


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Jumping:
    jumping = Jumping()
    made: Callable[[], SteadyClock] = lambda: SteadyClock(jumping.ns)  # noqa: E731
    monkeypatch.setattr(flashsale.composition, "SteadyClock", made)
    return jumping


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -5_000, 5_000, HOUR_MS])
async def test_when_the_wall_clock_jumps_nobody_buys_early_and_nothing_expires(tmp_path, wall, jump_ms):
    async with an_engine(tmp_path) as engine:
        now_ms = engine.clock.now_ms()
        await opens(engine, a_sale(starts_at_ms=now_ms, reservation_seconds=30), 20)
        await opens(engine, a_sale(a_product("bulb"), sale_id="soon", starts_at_ms=now_ms + 30_000), 20)
        held = [(await engine.reserve(f"user-{number}", "lamp")).reservations[0] for number in range(10)]
        wall.jump_ms = jump_ms
        engine.clock.follow()
        assert await engine.ledger.expire() == 0
        assert refusal_of(await engine.reserve("ann", "bulb")) is Refusal.NOT_STARTED
        assert isinstance(await engine.reserve("ann", "lamp"), Granted)
        assert len(await engine.active_reservations("user-0")) == 1
        ids = tuple(each.reservation_id for each in held)
        assert len(await engine.find(FindReservations(ids))) == 10
        assert [(row.available, row.held) for row in await engine.find(StockOf("sale"))] == [(9, 11)]


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
async def test_an_alarm_says_that_the_clocks_disagree_until_they_agree_again(tmp_path, wall, jump_ms):
    async with an_engine(tmp_path) as engine:
        assert engine.clock.alarm is None
        wall.jump_ms = jump_ms
        engine.clock.follow()
        assert f"{jump_ms // 1000:+}.0 s" in engine.clock.alarm
        wall.jump_ms = 0
        engine.clock.follow()
        assert engine.clock.alarm is None


# -- The library.


async def test_a_cart_is_held_released_and_found_through_the_library(tmp_path):
    async with an_engine(tmp_path) as engine:
        await opens(engine, a_sale(a_product("lamp"), a_product("bulb"), starts_at_ms=engine.clock.now_ms()), 5)
        outcome = await engine.reserve_cart("ann", (Item("lamp", 1), Item("bulb", 1)), "k")
        first, second = outcome.reservations
        assert await engine.reservation(first.reservation_id, "ann") == first
        assert refusal_of(await engine.reservation(first.reservation_id, "bob")) is Refusal.NOT_FOUND
        await engine.release(second.reservation_id)
        assert await engine.active_reservations("ann") == [first]


async def test_an_engine_that_is_opened_again_shows_and_sells_what_is_left(tmp_path):
    async with an_engine(tmp_path) as engine:
        await opens(engine, a_sale(starts_at_ms=engine.clock.now_ms()), 2)
        mine = await engine.reserve("ann", "lamp", key="k")
    async with an_engine(tmp_path) as engine:
        assert engine.storefront.offers["lamp"].available == 1
        assert (await engine.reserve("ann", "lamp", key="k")).reservations == mine.reservations
        assert isinstance(await engine.reserve("bob", "lamp"), Granted)
        assert refusal_of(await engine.reserve("cyd", "lamp")) is Refusal.SOLD_OUT


# -- The broker.


async def test_while_the_broker_is_away_the_engine_sells_and_ends_without_waiting_for_it(tmp_path, monkeypatch):
    begun = asyncio.Event()

    class Asked(KafkaBroker):
        async def publish(self, messages: Sequence[Message]) -> None:
            begun.set()
            await super().publish(messages)

    monkeypatch.setattr(kafka, "KafkaBroker", Asked)
    settings = Settings(data=str(tmp_path), sandbox_url=NO_PROVIDER, broker=NO_BROKER)
    with capture_logs():
        async with Engine.open(settings) as engine:
            await opens(engine, a_sale(starts_at_ms=engine.clock.now_ms()), 2)
            await asyncio.wait_for(begun.wait(), 5)
            assert isinstance(await engine.reserve("ann", "lamp"), Granted)
            began = time.monotonic()
    assert time.monotonic() - began < 5
    async with an_engine(tmp_path) as engine:
        told = [event.type for _, row in await engine.find(EventsAfter(0)) for event in published(row)]
        assert told == ["stock.opened", "reservation.reserved", "stock.held"]


async def test_a_broker_whose_driver_is_not_installed_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(flashsale.composition, "installed_kafka", None)
    settings = Settings(data=str(tmp_path), sandbox_url=NO_PROVIDER, broker=NO_BROKER)
    with pytest.raises(ExtraMissing, match=r"pip install 'flashsale\[kafka\]'"):
        async with Engine.open(settings):
            pass


# -- The window.


async def test_a_buyer_who_has_his_answer_sees_a_window_that_knows_of_it(tmp_path):
    """Availability is at most 100 ms old; after one's own reservation it is not old at all, also under load."""
    async with an_engine(tmp_path) as engine:
        await opens(engine, a_sale(starts_at_ms=engine.clock.now_ms()), CROWD)
        routes = HotRoutes(engine, Door.of(engine.settings, "token", None, engine.clock.now_ms))
        shown = []

        async def reserves(number: int) -> None:
            await engine.reserve(f"user-{number}", "lamp")
            shown.append(availability_of(routes.availability("lamp", "/")))

        availability_of(routes.availability("lamp", "/"))
        await asyncio.gather(*(reserves(number) for number in range(CROWD)))
        assert all(left <= CROWD - 1 - place for place, left in enumerate(shown))
        assert shown[-1] == 0


def availability_of(answer: Answer) -> int:
    return json.loads(answer.body)["availableCount"]
