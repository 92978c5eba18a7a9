"""Everything that happens in a sale arrives in Kafka, in order and without a gap, whoever is killed meanwhile.

Real servers, a real broker, and a crowd that keeps coming. Three scenarios, each run once: the server (and with it the
publisher) is killed with -9 and started again; workers of a fleet are killed one after the other; Kafka is killed
and comes back after some seconds. What arrived is compared with the event feed of the ledger, which knows what
happened.
"""

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import uvloop
from contract.queues import until
from contract.topics import Topics
from e2e.scenario import Aftermath, Scenario, a_scenario, children
from servers.kafka import KafkaServer
from servers.postgres import PostgresServer
from servers.process import running

from flashsale.backends.postgres.connect import migrate
from flashsale.core.event import Published, Topic, moment
from flashsale.edge.feed import Feed
from flashsale.rehearsal.demo import allow_many_files

SOAK = bool(os.environ.get("FLASHSALE_SOAK"))
ROUNDS = 20 if SOAK else 2
AWAY_SECONDS = 3.0
FIRST_AWAY_SECONDS = 60.0 if SOAK else AWAY_SECONDS
NEXT_CROWD_SECONDS = 120.0
ARRIVING_SECONDS = 30.0

Told = Sequence[Published]


class Outcome(msgspec.Struct):
    """What happened, and what arrived of it."""

    aftermath: Aftermath
    happened: Told
    arrived: Told
    away: list[tuple[str, str]]
    """When the broker was gone, and when it was started again; RFC 3339."""
    ready_meanwhile: list[bool]


class Blows:
    """What is killed in each scenario."""

    def __init__(self, kafka: KafkaServer) -> None:
        self._kafka = kafka
        self.away: list[tuple[str, str]] = []
        self.ready: list[bool] = []
        self._healing: asyncio.Task[None] | None = None

    async def server(self, scenario: Scenario) -> None:
        await scenario.server.kill()
        await scenario.server.start()

    async def worker(self, scenario: Scenario) -> None:
        """The oldest of two: after two blows the one that published in the beginning has been hit."""
        os.kill(children(scenario.server.pid)[0], signal.SIGKILL)
        await scenario.server.wait_until_ready()

    async def broker(self, scenario: Scenario) -> None:
        """It stays away while the next crowd comes."""
        await self.healed()
        await asyncio.to_thread(self._kafka.kill)
        self._healing = asyncio.create_task(self._start_later(scenario, now()))

    async def _start_later(self, scenario: Scenario, gone: str) -> None:
        awaited = min(len(scenario.crowds) + 1, scenario.rounds)
        await until(lambda: len(scenario.crowds) >= awaited, NEXT_CROWD_SECONDS)
        await asyncio.sleep(AWAY_SECONDS if self.away else FIRST_AWAY_SECONDS)
        self.ready.append(await scenario.server.ready())
        self.away.append((gone, now()))
        await asyncio.to_thread(self._kafka.start)

    async def healed(self) -> None:
        if self._healing is not None:
            await self._healing


def now() -> str:
    return moment(time.time_ns() // 1_000_000)


async def hold(directory: Path, kafka: KafkaServer, name: str, ledger: str = "", workers: int = 1) -> Outcome:
    blows = Blows(kafka)
    async with a_scenario(directory, ROUNDS, ledger, workers, broker=f"kafka://{kafka.servers}") as scenario:
        await scenario.run(getattr(blows, name))
        await blows.healed()
        happened = await feed(scenario)
        arrived = await asyncio.to_thread(until_arrived, kafka.servers, happened)
    return Outcome(scenario.aftermath, happened, arrived, blows.away, blows.ready)


async def feed(scenario: Scenario) -> Told:
    happened: list[Published] = []
    after, more = 0, True
    while more:
        answer = await scenario.operator.ask(f"/api/v1/admin/events?after={after}")
        page = msgspec.json.decode(answer.body, type=Feed)
        happened += page.events
        after, more = page.next, bool(page.events)
    return happened


def until_arrived(servers: str, happened: Told) -> Told:
    """All events of this sale, once each of them is there or no more are waited for."""
    sale_id = happened[0].body["saleId"]
    awaited = {event.id for event in happened}
    give_up_at = time.monotonic() + ARRIVING_SECONDS
    with Topics(servers, *Topic) as topics:
        while True:
            read = [msgspec.json.decode(value, type=Published) for key in topics.read_all().values() for value in key]
            arrived = [event for event in read if event.body["saleId"] == sale_id]
            if awaited <= {event.id for event in arrived} or time.monotonic() > give_up_at:
                return arrived


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    with running(KafkaServer()) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running(PostgresServer()) as server:
        asyncio.run(migrate(server.url()))
        yield server


@pytest.fixture(scope="module", params=["server", "worker", "broker"])
def outcome(request, tmp_path_factory, kafka, postgres) -> Outcome:
    allow_many_files()
    directory = tmp_path_factory.mktemp(request.param)
    ledger, workers = (postgres.url(), 2) if request.param == "worker" else ("", 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(directory, kafka, request.param, ledger, workers))


def test_the_crowd_was_served(outcome):
    assert len(outcome.happened) > 1_000 * ROUNDS
    assert outcome.aftermath.after_blow == [[]] * ROUNDS


def test_everything_that_happened_arrived_at_least_once_and_nothing_else(outcome):
    assert {event.id for event in outcome.arrived} == {event.id for event in outcome.happened}


def test_a_consumer_that_drops_the_ids_it_knows_sees_every_key_in_order(outcome):
    happened = by_key(outcome.happened)
    assert {key: once(events) for key, events in by_key(outcome.arrived).items()} == happened


def test_a_consumer_that_drops_what_is_not_newer_misses_nothing(outcome):
    for (topic, _), events in by_key(outcome.arrived).items():
        newest, taken = 0, []
        for event in events:
            number = event.sequence if topic == Topic.ORDERS else event.sku_seq
            if number > newest:
                newest = number
                taken.append(event.id)
        assert len(taken) == len(once(events))


def test_inventory_has_every_number_of_the_product_and_orders_every_number_of_the_order(outcome):
    for (topic, _), events in by_key(outcome.arrived).items():
        numbers = [event.sequence if topic == Topic.ORDERS else event.sku_seq for event in once(events)]
        if topic != Topic.RESERVATIONS:
            assert numbers == list(range(1, len(numbers) + 1))


def test_while_kafka_is_away_the_shop_is_ready_and_sells(outcome):
    assert outcome.ready_meanwhile == [True] * len(outcome.away)
    held = [event.at for event in outcome.happened if event.type == "stock.held"]
    for gone, back in outcome.away[:1]:  # later crowds find little left
        assert sum(gone < at < back for at in held) > 10


def by_key(events: Told) -> dict[tuple[Topic, str], list[Published]]:
    keys: defaultdict[tuple[Topic, str], list[Published]] = defaultdict(list)
    for event in events:
        keys[event.topic, event.key].append(event)
    return dict(keys)


def once(events: Told) -> list[Published]:
    return list({event.id: event for event in events}.values())
