"""What a scrape tells: every number is one that somebody can check, and none names a user."""

import asyncio
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from edge.shop import Shop, product
from prometheus_client.parser import text_string_to_metric_families

from flashsale.core.letter import DeadLetter
from flashsale.core.questions import EventsWaiting, Waiting
from flashsale.core.refusal import kept
from flashsale.core.request import Item, Request, encode
from flashsale.core.reservation import Reservation, Status
from flashsale.core.stock import Decided, sold_out
from flashsale.counts import BOUNDS_SECONDS, Counts
from flashsale.edge import metrics as edge_metrics
from flashsale.edge import operations as edge_operations
from flashsale.edge.metrics import PRODUCTS_MAX, Metrics, Slot, render
from flashsale.edge.operations import Backlog, Operations
from flashsale.edge.wire import Answer
from flashsale.flow.lease import Lease
from flashsale.ports import LedgerUnavailable
from flashsale.telemetry import METRICS

DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Numbers:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Scraped:
    """The numbers of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._numbers = read(text)

    def number(self, name: str, **labels: str) -> float:
        """The one number with these labels, and perhaps others."""
        (found,) = [
            value
            for (each, told), value in self._numbers.items()
            if each == name and labels.items() <= dict(told).items()
        ]
        return found

    def count(self, name: str) -> int:
        return len([each for each, _ in self._numbers if each == name])


async def scrape(shop: Shop) -> Scraped:
    answer = await shop.ask("GET", "/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return Scraped(answer.text)


# -- What is counted


async def test_answers_are_counted_by_class_of_route_and_status(shop: Shop) -> None:
    await shop.open()
    await shop.reserve("alice")
    await shop.reserve("bob", sku="NOTHING")
    for _ in range(3):
        await shop.ask("GET", "products/PHONE/availability")
    await shop.ask("GET", "products")
    await shop.ask("GET", "/nowhere")
    told = await scrape(shop)
    counted = {
        (route, status): told.number("flashsale_requests_total", route=route, status=status)
        for route, status in [
            ("reserve", "201"), ("reserve", "404"), ("availability", "200"), ("buyers", "200"), ("operators", "201"),
            ("none", "404"),
        ]
    }  # fmt: skip
    assert list(counted.values()) == [1, 1, 3, 1, 1, 1]


async def test_refusals_are_counted_once_by_their_code(shop: Shop) -> None:
    await shop.open(product(stock=1))
    for user in ("alice", "bob", "cid"):
        await shop.reserve(user)
    await shop.ask("POST", "reservations", b"no json")
    await shop.ask("GET", "orders/ord_1")
    told = await scrape(shop)
    codes = {
        code: told.number("flashsale_refusals_total", code=code)
        for code in ("SOLD_OUT", "VALIDATION_FAILED", "NOT_FOUND")
    }
    assert codes == {"SOLD_OUT": 2, "VALIDATION_FAILED": 1, "NOT_FOUND": 1}


async def test_the_time_of_each_attempt_is_in_one_bucket_and_all_above(shop: Shop) -> None:
    await shop.open()
    for number in range(7):
        await shop.reserve(f"user-{number}")
    told = await scrape(shop)
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    below = [told.number("flashsale_reserve_seconds_bucket", le=bound) for bound in bounds]
    assert below == sorted(below) and below[-1] == told.number("flashsale_reserve_seconds_count") == 7
    assert 0 < told.number("flashsale_reserve_seconds_sum") < 7 * BOUNDS_SECONDS[-1]


@pytest.mark.parametrize(
    ("seconds", "bucket"),
    [(0.0, 0), (0.001, 0), (0.0011, 1), (5.0, len(BOUNDS_SECONDS) - 1), (60.0, len(BOUNDS_SECONDS))],
)
def test_a_bucket_holds_what_took_no_longer_than_its_bound(seconds: float, bucket: int) -> None:
    counts = Counts()
    counts.took(seconds)
    assert counts.buckets.index(1) == bucket
    assert sum(counts.buckets) == 1


async def test_units_are_told_for_each_product(shop: Shop) -> None:
    await shop.open()
    await shop.paid("alice")
    await shop.reserve("bob")
    told = await scrape(shop)
    units = {state: told.number("flashsale_units", sku="PHONE", state=state) for state in ("available", "held", "sold")}
    assert units == {"available": 8, "held": 1, "sold": 1}


async def test_the_number_of_products_that_are_told_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_metrics, "PRODUCTS_MAX", 2)
    await shop.open(*(product(f"SKU-{number}") for number in range(5)))
    assert (await scrape(shop)).count("flashsale_units") == 2 * 3
    assert PRODUCTS_MAX == 100


async def test_no_number_names_a_user_a_reservation_or_a_token(shop: Shop) -> None:
    await shop.open()
    reserved = (await shop.reserve("alice-the-buyer")).json()
    text = (await scrape(shop)).text
    assert "alice" not in text and reserved["reservationId"] not in text and "token" not in text


# -- Parts


async def test_every_part_is_up_degraded_or_down(shop: Shop) -> None:
    shop.app.state.draining = True
    shop.engine.publishing = SimpleNamespace(trouble="nobody listens")
    told = await scrape(shop)
    states = {
        (part, state): told.number("flashsale_part_state", part=part, state=state)
        for part in ("ledger", "server", "broker")
        for state in ("up", "degraded", "down")
    }
    assert {told for told, one in states.items() if one == 1} == {
        ("ledger", "up"),
        ("server", "down"),
        ("broker", "degraded"),
    }
    assert sum(states.values()) == 3


@pytest.mark.parametrize(("trouble", "state"), [(None, "up"), ("redis://gate:6379: no answer", "degraded")])
async def test_a_gate_is_up_or_degraded(shop: Shop, monkeypatch: pytest.MonkeyPatch, trouble, state) -> None:
    monkeypatch.setattr(type(shop.engine.gate), "trouble", trouble)
    told = await scrape(shop)
    states = {each: told.number("flashsale_part_state", part="gate", state=each) for each in ("up", "degraded", "down")}
    assert states == {"up": 0, "degraded": 0, "down": 0} | {state: 1}


async def test_requests_that_wait_in_the_ledgers_queue_are_told_together(shop: Shop) -> None:
    for sale_id, sku_id in (("S1", "A"), ("S2", "B")):
        await shop.open(product(sku_id), id=sale_id, mode="queued")
        await shop.operate("POST", f"sales/{sale_id}/pause")  # so that they wait
        for number in range(2):
            assert await queued(shop, sale_id, sku_id, f"user-{number}")
    assert (await scrape(shop)).number("flashsale_queued_requests") == 4


async def queued(shop: Shop, sale_id: str, sku_id: str, user_id: str) -> bool:
    """Puts a request into the ledger's queue."""
    acknowledged: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    ids = (f"res_{sale_id}{user_id}",)
    request = Request(ids, user_id, sale_id, (Item(sku_id, 1),), shop.engine.clock.now_ms())
    shop.engine.ledger.enqueue(request, acknowledged.set_result)
    return await acknowledged


async def test_dead_letters_are_told_until_they_are_redriven(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_operations, "KEPT_SECONDS", 0.0)
    await shop.open(mode="queued")
    request = Request(("res_dead",), "alice", "S1", (Item("PHONE", 1),), shop.engine.clock.now_ms())
    for letter_id, message in (("dlq_1", encode(request)), ("dlq_2", b"?")):
        letter = DeadLetter(letter_id, 0, "flashsale.requests", 0, 0, message, "a fault", 3)
        await shop.engine.ledger.bury(letter, None)
    assert (await scrape(shop)).number("flashsale_dead_letters") == 2
    assert (await shop.operate("POST", "dead-letters/dlq_1/redrive")).status_code == 200
    assert (await scrape(shop)).number("flashsale_dead_letters") == 1


async def test_what_the_ledger_does_not_say_now_is_told_as_it_was(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_operations, "KEPT_SECONDS", 0.0)
    await shop.engine.ledger.bury(DeadLetter("dlq_1", 0, "flashsale.requests", 0, 0, b"?", "a fault", 1), None)
    await scrape(shop)

    async def unavailable(*_: object) -> None:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(shop.engine.ledger, "find", unavailable)
    told = await scrape(shop)
    assert told.number("flashsale_dead_letters") == 1
    assert told.number("flashsale_part_state", part="ledger", state="down") == 1


async def test_a_request_of_a_queued_sale_is_timed_and_its_refusal_counted(shop: Shop) -> None:
    await shop.open(product(stock=1), mode="queued")
    for user in ("alice", "bob"):
        await shop.ask("POST", "reservations", {"skuId": "PHONE", "userId": user}, headers={"Prefer": "wait=5"})
    told = await scrape(shop)
    assert told.number("flashsale_reserve_seconds_count") == 2
    assert told.number("flashsale_refusals_total", code="SOLD_OUT") == 1


async def test_a_refusal_that_a_waiting_client_is_told_is_counted(shop: Shop) -> None:
    why = kept(sold_out("PHONE", 1, 0))
    rejected = Reservation("res_1", "alice", "S1", "PHONE", 1, Status.REJECTED, 99999, "USD", 0, 0, refusal=why)
    answers: list[Answer] = []
    shop.app.state.hot.queued(Decided([rejected], 0), False, "/", answers.append, wait_seconds=5)
    assert [answer.status for answer in answers] == [409]
    assert (await scrape(shop)).number("flashsale_refusals_total", code="SOLD_OUT") == 1


async def test_a_lease_is_told_where_it_is_held(shop: Shop) -> None:
    held, lost = Lease(None, "sweep", "ann", None), Lease(None, "resume", "ann", None)
    held.cursor = 0
    shop.engine.leases = (held, lost)
    told = await scrape(shop)
    assert told.number("flashsale_lease_held", lease="sweep") == 1
    assert told.number("flashsale_lease_held", lease="resume") == 0


@pytest.mark.parametrize(("age_ms", "alarm"), [(0, 0), (30_000, 0), (30_001, 1)])
async def test_an_event_that_waits_for_the_broker_longer_than_30_seconds_is_an_alarm(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, age_ms: int, alarm: int
) -> None:
    async def looked(_: Operations) -> Backlog:
        return Backlog(7, age_ms)

    monkeypatch.setattr(Operations, "_outbox", looked)
    told = await scrape(shop)
    assert told.number("flashsale_outbox_rows") == 7
    assert told.number("flashsale_outbox_oldest_seconds") == age_ms / 1000
    assert told.number("flashsale_outbox_alarm") == alarm
    ready = (await shop.ask("GET", "/health/ready")).json()
    assert ready["status"] == ("degraded" if alarm else "ready")
    if alarm:
        assert ready["parts"]["outbox"]["state"] == "7 events wait for the broker, the oldest for 30 s"


async def test_without_a_broker_nothing_waits_for_it(shop: Shop) -> None:
    await shop.open()
    assert (await scrape(shop)).count("flashsale_outbox_rows") == 0


async def test_what_waits_is_counted_behind_what_was_passed_on(shop: Shop) -> None:
    await shop.open()
    for number in range(4):
        await shop.reserve(f"user-{number}")
    everything = await shop.engine.find(EventsWaiting("broker"))
    assert everything.rows == 5 and everything.oldest_ms is not None
    assert (await shop.engine.find(EventsWaiting("broker", limit=3))).rows == 3
    await shop.leases.lease("broker", "ann", 1000)
    await shop.leases.advance("broker", "ann", 4)
    assert (await shop.engine.find(EventsWaiting("broker"))).rows == 1
    await shop.leases.advance("broker", "ann", 5)
    assert await shop.engine.find(EventsWaiting("broker")) == Waiting(0, None)


# -- Several workers


@pytest.fixture
def workers(shop: Shop, tmp_path: Path) -> Iterator[list[Metrics]]:
    """Workers as far as a scrape is concerned: each with its slot."""
    operations = Operations(shop.engine, shop.engine.provider, lambda: False)
    yield [Metrics(shop.engine, operations, Slot(number, tmp_path / "metrics")) for number in range(3)]


async def told_by(worker: Metrics) -> Scraped:
    page = await worker.scrape(SimpleNamespace())
    return Scraped(page.body.decode())


async def test_whoever_is_asked_tells_for_all_workers_each_under_its_slot(shop: Shop, workers: list[Metrics]) -> None:
    for worker in workers:
        await worker.leave()
    for asked in workers:
        told = await told_by(asked)
        assert [told.number("flashsale_build_info", worker=str(number)) for number in range(3)] == [1, 1, 1]
        assert told.count("flashsale_build_info") == 3


async def test_what_stands_in_the_ledger_is_told_once(shop: Shop, workers: list[Metrics]) -> None:
    await shop.open()
    for worker in workers:
        await worker.leave()
    assert (await told_by(workers[0])).count("flashsale_units") == 3


async def test_a_worker_that_has_been_gone_for_ten_seconds_is_not_told(
    shop: Shop, workers: list[Metrics], tmp_path: Path
) -> None:
    for worker in workers:
        await worker.leave()
    long_ago = time.time() - 10.5
    os.utime(tmp_path / "metrics" / "worker-2.json", (long_ago, long_ago))
    assert (await told_by(workers[0])).count("flashsale_build_info") == 2


async def test_a_file_that_is_no_workers_is_not_told(shop: Shop, workers: list[Metrics], tmp_path: Path) -> None:
    for worker in workers:
        await worker.leave()
    (tmp_path / "metrics" / "worker-1.json").write_bytes(b'{"half": ')
    assert (await told_by(workers[0])).count("flashsale_build_info") == 2


# -- The list


async def test_every_metric_that_is_scraped_is_listed_with_its_labels(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def looked(_: Operations) -> Backlog:
        return Backlog(7, 0)

    monkeypatch.setattr(Operations, "_outbox", looked)
    shop.engine.leases = (Lease(None, "sweep", "ann", None),)
    await shop.open(waitingRoom={"enabled": True})
    await shop.engine.rooms.look()
    await shop.reserve("alice")
    await shop.reserve("bob", sku="NOTHING")
    await asyncio.sleep(0)
    found: dict[str, set[str]] = {}
    for name, labels in read((await scrape(shop)).text):
        metric = re.sub(r"_(bucket|count|sum)$", "", name)
        found.setdefault(metric, set()).update(label for label, _ in labels if label != "le")
    assert found == {name: set(told.labels) for name, told in METRICS.items()}


def test_the_document_lists_every_metric_with_its_labels_and_meaning() -> None:
    rows = re.findall(r"^\| `(flashsale_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", DOCUMENT, re.MULTILINE)
    assert rows == [
        (name, told.kind, " ".join(f"`{label}`" for label in told.labels), told.meaning)
        for name, told in METRICS.items()
    ]


def test_nothing_but_the_listed_is_rendered() -> None:
    assert render([]).count(b"# HELP flashsale_") == len(METRICS)
