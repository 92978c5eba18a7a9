"""A queued sale on a fleet: whatever is killed, each 202 ends in an outcome, and every unit is sold once.

Two API processes, two consumers and two publishers on PostgreSQL, Valkey and Kafka, all of them real. One scenario runs
once: a crowd keeps coming, while an API process, a consumer, a publisher, Valkey, PostgreSQL and Kafka are killed with
-9 in turn, a consumer and a publisher are stopped for longer than their leases last, Valkey is emptied, and set back to
an older snapshot. FLASHSALE_KILLS says how often; each target has its turn.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import asyncpg
import msgspec
import pytest
import uvloop
from contract.topics import Topics
from e2e.scenario import ROUNDS, SEED, UNITS_A_ROUND, Aftermath, Scenario, a_scenario, children, faults_in_rows
from servers.kafka import KafkaServer
from servers.postgres import PostgresServer
from servers.process import running
from servers.valkey import ValkeyServer

from flashsale.backends.postgres.joining import migrate_all
from flashsale.core.event import Published, Topic
from flashsale.core.pending import is_genuine
from flashsale.rehearsal.crowd import Crowd
from flashsale.rehearsal.demo import allow_many_files
from flashsale.rehearsal.evidence import Ask, Reservation, asked, decode
from flashsale.rehearsal.http_client import HttpClient, LostReply
from flashsale.rehearsal.servers import Worker

TARGETS = ("api", "consumer", "publisher", "valkey", "postgres", "kafka", "stopped consumer", "stopped publisher",
           "flushed", "set back")  # fmt: skip
BLOWS_IN_ALL = int(os.environ.get("FLASHSALE_KILLS", str(len(TARGETS))))
BLOWS = min(BLOWS_IN_ALL, ROUNDS)
SALES = max(1, BLOWS_IN_ALL // ROUNDS)
API_PROCESSES = 2
WAIT_SECONDS = 8
STOPPED_SECONDS = 4.0
"""Longer than a lease, and than the consumers' session."""
PROBE_SECONDS = 30.0
HEALED_SECONDS = {
    "api": 3.0, "consumer": 4.0, "publisher": 3.0, "valkey": 3.0, "postgres": 10.0, "kafka": 15.0,
    "stopped consumer": 4.0, "stopped publisher": 4.0, "flushed": 3.0, "set back": 3.0,
}  # fmt: skip
"""How soon after the blow, or after a store is back, a buyer has the outcome of a new request."""
ARRIVING_SECONDS = 20.0


class Fleet:
    """The stores and the processes beside the server."""

    def __init__(self, postgres: PostgresServer, kafka: KafkaServer, valkey: ValkeyServer) -> None:
        self.postgres, self.kafka, self.valkey = postgres, kafka, valkey
        self.consumers: list[Worker] = []
        self.publishers: list[Worker] = []
        self.settings = {
            "FLASHSALE_GATE": valkey.url,
            "FLASHSALE_PARTITIONS": "4",
            "FLASHSALE_LOOPS": "sweep",
        }

    @asynccontextmanager
    async def at_work(self, directory: Path, settings: dict[str, str]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for each in range(2):
                consumer = Worker(directory, f"consumer-{each}", ["consume"], settings)
                publisher = Worker(directory, f"publisher-{each}", ["publish"], settings)
                self.consumers.append(await stack.enter_async_context(consumer))
                self.publishers.append(await stack.enter_async_context(publisher))
            yield


class Blows:
    """The hand that hurts: one target after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.probes = 0
        hands: dict[str, Callable[[Scenario], Awaitable[None]]] = {
            "api": self._api,
            "consumer": lambda _: self._killed(self.fleet.consumers),
            "publisher": lambda _: self._killed(self.fleet.publishers),
            "valkey": lambda scenario: self._store(scenario, fleet.valkey),
            "postgres": lambda scenario: self._store(scenario, fleet.postgres),
            "kafka": lambda scenario: self._store(scenario, fleet.kafka),
            "stopped consumer": lambda _: self._stopped(self.fleet.consumers),
            "stopped publisher": lambda _: self._stopped(self.fleet.publishers),
            "flushed": lambda _: self._flushed(),
            "set back": lambda _: self._set_back(),
        }
        self._targets = cycle([(name, hands[name]) for name in TARGETS])
        self._back_at = 0.0

    async def __call__(self, scenario: Scenario) -> None:
        name, hit = next(self._targets)
        self._back_at = time.monotonic()
        await hit(scenario)
        scenario.aftermath.kills += 1
        await self._probe(scenario)
        scenario.aftermath.healed("queued", name, time.monotonic() - self._back_at)
        for worker in (*self.fleet.consumers, *self.fleet.publishers):
            if not worker.running:
                await worker.start()

    async def _api(self, scenario: Scenario) -> None:
        os.kill(scenario.dice.choice(children(scenario.server.pid)), signal.SIGKILL)

    async def _killed(self, workers: list[Worker]) -> None:
        """The one that has worked longest goes first; it comes again when the others have taken over."""
        workers.append(workers.pop(0))
        await workers[-1].kill()

    async def _store(self, scenario: Scenario, store: PostgresServer | KafkaServer | ValkeyServer) -> None:
        await asyncio.to_thread(store.kill)
        await asyncio.sleep(scenario.dice.uniform(0.0, 0.5))
        await asyncio.to_thread(store.start)
        self._back_at = time.monotonic()

    async def _stopped(self, workers: list[Worker]) -> None:
        workers.append(workers.pop(0))
        os.kill(workers[-1].pid, signal.SIGSTOP)
        await asyncio.sleep(STOPPED_SECONDS)
        os.kill(workers[-1].pid, signal.SIGCONT)
        self._back_at = time.monotonic()

    async def _flushed(self) -> None:
        await asyncio.to_thread(self.fleet.valkey.ask, "FLUSHALL")

    async def _set_back(self) -> None:
        """To what was true a second ago: permits of then, an older synchronisation."""
        await asyncio.to_thread(self.fleet.valkey.ask, "SAVE")
        await asyncio.sleep(1.0)
        await asyncio.to_thread(self.fleet.valkey.kill)
        await asyncio.to_thread(self.fleet.valkey.start)
        self._back_at = time.monotonic()

    async def _probe(self, scenario: Scenario) -> None:
        """Somebody asks until he is told what has become of a request."""
        self.probes += 1
        client = HttpClient(scenario.server.url, connections=1, timeout=WAIT_SECONDS + 2.0)
        body = {"skuId": scenario.shop.sku, "quantity": 1, "userId": f"probe-{scenario.shop.run}-{self.probes}"}
        headers = {"Idempotency-Key": "probe", "Prefer": f"wait={WAIT_SECONDS}"}
        until = time.monotonic() + PROBE_SECONDS
        try:
            while time.monotonic() < until:
                try:
                    answer = await client.fetch("POST", "/api/v1/reservations", body, headers)
                except LostReply:
                    continue
                if answer.status in (201, 409):
                    return
                await asyncio.sleep(0.02)
            raise TimeoutError(f"no outcome within {PROBE_SECONDS} s: {answer.status} {answer.body!r}")
        finally:
            client.close()


class Outcome(msgspec.Struct):
    aftermath: Aftermath
    pending: list[tuple[str, str]]
    """`(user, reservation id)` of every 202."""
    arrived: list[Published]
    secret: bytes


async def hold(directory: Path, fleet: Fleet, seed: int) -> Outcome:
    url = fleet.postgres.url()
    await migrate_all([url])
    broker = f"kafka://{fleet.kafka.servers}"
    async with a_scenario(
        directory, BLOWS, url, API_PROCESSES, seed, broker, wait_seconds=WAIT_SECONDS, **fleet.settings
    ) as scenario:
        settings = {**scenario.server.settings, "FLASHSALE_LOOPS": ""}
        del settings["FLASHSALE_LOOPS"]
        async with fleet.at_work(directory, settings):
            await scenario.run(Blows(fleet))
            arrived = await asyncio.to_thread(until_all_arrived, fleet, url)
    db = await asyncpg.connect(url)
    secret = await db.fetchval("SELECT value FROM secret WHERE name = 'ids'")
    await db.close()
    return Outcome(scenario.aftermath, told_to_wait(scenario.crowds), arrived, secret)


def told_to_wait(crowds: list[Crowd]) -> list[tuple[str, str]]:
    histories = [history for crowd in crowds for history in crowd.histories]
    waited = [(user, decode(it.body, Reservation)) for user, it in asked(histories, Ask.RESERVE) if it.status == 202]
    return [(user, told.reservation_id) for user, told in waited if told is not None]


def until_all_arrived(fleet: Fleet, url: str) -> list[Published]:
    """The events of stock, once the last movement is among them or no more are waited for."""
    until = time.monotonic() + ARRIVING_SECONDS
    with Topics(fleet.kafka.servers, Topic.INVENTORY) as topics:
        while True:
            read = [msgspec.json.decode(value, type=Published) for key in topics.read_all().values() for value in key]
            numbers = {event.sku_seq for event in read}
            if max(numbers, default=0) >= asyncio.run(last_movement(url)) or time.monotonic() > until:
                return read


async def last_movement(url: str) -> int:
    db = await asyncpg.connect(url)
    try:
        return int(await db.fetchval("SELECT max(sku_seq) FROM journal"))
    finally:
        await db.close()


@pytest.fixture(scope="module", params=range(SALES))
def sale_number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def fleet(sale_number: int) -> Iterator[Fleet]:
    """Of each sale its own."""
    with running(PostgresServer()) as postgres, running(KafkaServer()) as kafka, running(ValkeyServer()) as valkey:
        yield Fleet(postgres, kafka, valkey)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory, fleet: Fleet, sale_number: int) -> Outcome:
    allow_many_files()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(hold(tmp_path_factory.mktemp("queued"), fleet, SEED + sale_number))


@pytest.fixture
def aftermath(outcome: Outcome) -> Aftermath:
    return outcome.aftermath


def test_the_blows_hit_a_shop_in_full_trade(aftermath, evidence):
    assert aftermath.kills == BLOWS
    assert len(evidence.reserved) > 100 * BLOWS and len(evidence.paid) > 100 * BLOWS


def test_after_every_blow_all_that_clients_were_told_is_true(aftermath):
    assert aftermath.after_blow == [[]] * BLOWS


def test_in_the_end_every_promise_was_kept(aftermath):
    assert {name: found for name, found in aftermath.verdict.findings.items() if found} == {}


def test_every_unit_was_sold_once(aftermath):
    units = BLOWS * UNITS_A_ROUND
    assert aftermath.verdict.line == f"sold {units} of {units}, oversold 0, lost 0"


async def test_every_202_has_an_outcome(outcome, fleet):
    db = await asyncpg.connect(fleet.postgres.url())
    try:
        ids = [reservation_id for _, reservation_id in outcome.pending]
        rows = await db.fetch("SELECT reservation_id FROM reservation WHERE reservation_id = ANY ($1)", ids)
        assert {row[0] for row in rows} == set(ids)
        assert await db.fetch("SELECT * FROM queue") == []
    finally:
        await db.close()
    assert all(is_genuine(outcome.secret, reservation_id, user) for user, reservation_id in outcome.pending)


async def test_no_trouble_of_a_store_makes_a_dead_letter(outcome, fleet):
    db = await asyncpg.connect(fleet.postgres.url())
    try:
        assert await db.fetch("SELECT error FROM dead_letter") == []
    finally:
        await db.close()


async def test_events_of_the_product_have_arrived_without_a_gap(outcome, fleet):
    numbers = {event.sku_seq for event in outcome.arrived}
    assert numbers == set(range(1, await last_movement(fleet.postgres.url()) + 1))


def test_a_new_request_is_decided_again_soon(aftermath):
    late = [(name, seconds) for name, seconds in aftermath.healed_seconds if seconds > HEALED_SECONDS[name]]
    assert late == []


def test_the_server_ends_in_good_order_when_asked_to(aftermath):
    assert aftermath.exit_code == 0


async def test_the_rows_add_up(outcome, fleet):
    assert await faults_in_rows(fleet.postgres.url(), BLOWS * UNITS_A_ROUND) == []
