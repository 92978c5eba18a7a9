"""`GET /metrics`: what a process counts and how its parts are, in Prometheus' text form.

The numbers are kept elsewhere (`counts.py`, the ledger, the leases) and gathered when somebody scrapes: nothing here is
in the way of a request. The names stand in `telemetry.METRICS`.

Several workers share one socket, so a scrape reaches any one of them. Each leaves its own numbers every LEAVE_SECONDS
in a file of its slot in the data directory, and whoever is asked adds those of the others that are fresh, each under
the label of its slot. A slot is given again when a worker is replaced, so there are never more files than workers and
one; that its counters begin anew is what Prometheus expects of a restart. What is the same for all workers, because
it stands in the ledger, is told by the one that is asked, without that label.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from flashsale import __version__
from flashsale.counts import BOUNDS_SECONDS, Counts
from flashsale.edge.call import Ask, Audience, Call, Page
from flashsale.edge.operations import Operations
from flashsale.engine import Engine
from flashsale.telemetry import METRICS

LEAVE_SECONDS = 2.0
FRESH_SECONDS = 10.0
PRODUCTS_MAX = 100
"""Products whose units are told: those of the latest sales."""
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Sample(NamedTuple):
    """One number. `name` may go on behind that of its metric: `..._bucket`."""

    metric: str
    name: str
    labels: dict[str, str]
    value: float


class Slot(NamedTuple):
    """Which one of the workers this is, and where they leave their numbers."""

    number: int
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / f"worker-{self.number}.json"


class Metrics:
    def __init__(self, engine: Engine, operations: Operations, slot: Slot | None = None) -> None:
        self._engine = engine
        self._operations = operations
        self._slot = slot

    async def scrape(self, ask: Ask) -> Page:
        samples = [*_labelled(self._own(), str(self._slot.number if self._slot else 0)), *self._others()]
        samples += await self._shared()
        return Page(CONTENT_TYPE, render(samples))

    async def leave(self) -> None:
        """Puts this worker's numbers where the others find them; whole, or not at all."""
        if self._slot is not None:
            self._slot.folder.mkdir(mode=0o700, exist_ok=True)
            fresh = self._slot.file.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(list(self._own())))
            fresh.replace(self._slot.file)

    def _own(self) -> Iterator[Sample]:
        engine = self._engine
        yield from _counted(engine.counts)
        yield _one("flashsale_ledger_queue", engine.ledger.waiting)
        for lease in engine.leases:
            yield _one("flashsale_lease_held", lease.cursor is not None, lease=lease.shown)
        yield _one("flashsale_clock_drift_seconds", engine.clock.drift_ms / 1000)
        yield _one("flashsale_clock_alarm", engine.clock.alarm is not None)
        yield _one("flashsale_build_info", 1, version=__version__)

    def _others(self) -> list[Sample]:
        if self._slot is None:
            return []
        return [
            sample
            for file in sorted(self._slot.folder.glob("worker-*.json"))
            if file != self._slot.file
            for sample in _labelled(_left(file), file.stem.removeprefix("worker-"))
        ]

    async def _shared(self) -> list[Sample]:
        found: list[Sample] = []
        for name, part in (await self._operations.parts()).items():
            found += [
                _one("flashsale_part_state", state == part.grade, part=name, state=state)
                for state in ("up", "degraded", "down")
            ]
        if (waiting := self._operations.waiting) is not None:
            found.append(_one("flashsale_outbox_rows", waiting.rows))
            found.append(_one("flashsale_outbox_oldest_seconds", waiting.age_ms / 1000))
            found.append(_one("flashsale_outbox_alarm", waiting.alarm is not None))
        if (queued := self._operations.queued) is not None:
            found.append(_one("flashsale_queued_requests", queued.requests))
            found.append(_one("flashsale_dead_letters", queued.dead_letters))
        for picture in list(self._engine.rooms.pictures.values())[-PRODUCTS_MAX:]:
            room = picture.room
            found.append(_one("flashsale_people_waiting", room.arrivals - room.head, sale=room.sale_id))
        return [*found, *self._units()]

    def _units(self) -> Iterator[Sample]:
        storefront = self._engine.storefront
        for offer in list(storefront.offers.values())[-PRODUCTS_MAX:]:
            stock = storefront.stock(offer.sale.sale_id, offer.product.sku_id)
            if stock is not None:
                units = {"available": stock.available, "held": stock.held, "sold": stock.sold}
                labels = {"sale": stock.sale_id, "sku": stock.sku_id}
                yield from (_one("flashsale_units", value, **labels, state=state) for state, value in units.items())


def _one(metric: str, value: float, **labels: str) -> Sample:
    return Sample(metric, metric, labels, float(value))


def _counted(counts: Counts) -> Iterator[Sample]:
    for route, statuses in counts.answers.items():
        for status, times in statuses.items():
            yield _one("flashsale_requests_total", times, route=route, status=str(status))
    for code, times in counts.refusals.items():
        yield _one("flashsale_refusals_total", times, code=code)
    for near, times in zip(("no", "yes"), counts.waits, strict=True):
        yield _one("flashsale_waits_total", times, near=near)
    metric, below = "flashsale_reserve_seconds", 0
    for bound, times in zip((*map(str, BOUNDS_SECONDS), "+Inf"), counts.buckets, strict=True):
        below += times
        yield Sample(metric, metric + "_bucket", {"le": bound}, below)
    yield Sample(metric, metric + "_count", {}, below)
    yield Sample(metric, metric + "_sum", {}, counts.seconds)


def _labelled(samples: Iterable[Sample], worker: str) -> Iterator[Sample]:
    return (sample._replace(labels={**sample.labels, "worker": worker}) for sample in samples)


def _left(file: Path) -> list[Sample]:
    """What another worker has left, unless that was long ago."""
    with suppress(OSError, msgspec.MsgspecError):
        if time.time() - file.stat().st_mtime < FRESH_SECONDS:
            return msgspec.json.decode(file.read_bytes(), type=list[Sample])
    return []


class _Gathered(Collector):
    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_metric: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            self._by_metric[sample.metric].append(sample)

    def collect(self) -> Iterator[Metric]:
        for name, told in METRICS.items():
            metric = Metric(name.removesuffix("_total"), told.meaning, told.kind)
            for sample in self._by_metric[name]:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def render(samples: Iterable[Sample]) -> bytes:
    """The text that Prometheus reads. A registry of its own for each scrape, so that nothing is left behind."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gathered(samples))
    return generate_latest(registry)


def calls(metrics: Metrics) -> list[Call]:
    return [Call("GET", "/metrics", Audience.OPERATIONS, "Numbers for Prometheus", metrics.scrape, {})]
