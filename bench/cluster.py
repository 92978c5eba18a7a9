"""Measure the fleet: queued sales from HTTP to the published event, and direct sales by processes and shards.

Everything runs on this machine at once: API processes, worker, PostgreSQL (fsync on), Valkey, Kafka, load generator.
A rate is kept up when every request is accepted, and when after its end everything that was accepted is decided and
published within BEHIND_SECONDS.
"""

import argparse
import asyncio
import contextlib
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import load
import report
from fleet import Fleet, stores
from load import Timed, openloop, wrk
from machine import build_go, cpu_seconds, facts, say, scratch, versions
from rivals import RESERVE, STOCK, Gin, call

BEHIND_SECONDS = 2.0
MUST, GOAL = 8_000, 16_667
RATES = (6_000, 8_000, 9_000, 10_000, 11_000, 12_000, 13_000, 14_000, GOAL)
WATCH_SECONDS = 0.1
ASKED_SECONDS = 0.05
"""Between two of those who wait for their outcome."""
PROCESSES = (1, 2, 4, 8)


@dataclass
class Run:
    """A rate, and what became of it."""

    rate: float
    timed: Timed
    behind_seconds: float
    outcome_ms: list[float]
    share: dict[str, float]
    """Of a core, by process."""

    @property
    def kept_up(self) -> bool:
        accepted = set(self.timed.statuses) == {"202"} and self.timed.broken + self.timed.lost == 0
        return accepted and self.behind_seconds <= BEHIND_SECONDS


class Asker:
    """Buyers among the crowd who hold the line until they know: one after the other."""

    def __init__(self, port: int, sku: str) -> None:
        self.port, self.sku, self.times_ms = port, sku, []

    def run(self, until: float) -> None:
        number = 0
        while time.monotonic() < until:
            number += 1
            body = {"skuId": self.sku, "quantity": 1, "userId": f"asker-{number}"}
            began = time.monotonic()
            status, _ = call(self.port, "POST", RESERVE, body, Prefer="wait=10")
            if status == 201:
                self.times_ms.append((time.monotonic() - began) * 1000)
            time.sleep(ASKED_SECONDS)


def queued(fleet: Fleet, ledger: str, pids: dict[str, int], rate: float, seconds: int) -> Run:
    sku = fleet.open_sale(STOCK)
    time.sleep(1.0)
    asker = Asker(fleet.port, sku)
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    began = time.monotonic()
    with ticking(asker, began + seconds):
        timed = openloop(fleet.port, sku, rate, seconds)
    took = time.monotonic() - began
    share = {name: (cpu_seconds(pid) - before[name]) / took for name, pid in pids.items()}
    behind = asyncio.run(published(ledger, fleet.sale))
    run = Run(rate, timed, behind, asker.times_ms, share)
    decided = fleet.held()
    told = sum(timed.statuses.values()) + round(rate) + len(asker.times_ms)
    if run.kept_up and abs(decided - told) > load.CONNECTIONS:
        raise RuntimeError(f"{told} were accepted, {decided} have units")
    kept_up = "kept up" if run.kept_up else "not kept up"
    say(f"{rate:,.0f}/s: {kept_up}, behind by {behind:.1f} s, p50 {timed.p50:.1f} ms")
    return run


@contextlib.contextmanager
def ticking(asker: Asker, until: float) -> Iterator[None]:
    thread = threading.Thread(target=asker.run, args=(until,))
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def published(ledger: str, sale: str) -> float:
    """How long it takes until nothing waits: no message, no movement that was not published."""
    db = await asyncpg.connect(ledger)
    began = time.monotonic()
    quiet, last = 0, -1
    try:
        while quiet < 3:
            count = await db.fetchval("SELECT max(sku_seq) FROM journal WHERE sale_id = $1", sale)
            behind = await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM journal WHERE seq > (SELECT cursor FROM relay WHERE relay = 'broker'))"
            )
            quiet = quiet + 1 if count == last and not behind else 0
            last = count
            await asyncio.sleep(WATCH_SECONDS)
    finally:
        await db.close()
    return time.monotonic() - began - 3 * WATCH_SECONDS


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def queued_part(place: Path, seconds: int, sustained: int, rates: tuple[float, ...]) -> list[Run]:
    """Up the ladder until a rate is not kept up; then the last one that was, for long."""
    with stores() as found:
        settings = {
            "FLASHSALE_GATE": found["valkey"].url,
            "FLASHSALE_BROKER": f"kafka://{found['kafka'].servers}",
            "FLASHSALE_PARTITIONS": "4",
        }
        fleet = Fleet(found["ledger"], 1, **settings)
        with fleet.running(place):
            pids = fleet.pids | {"Kafka": found["kafka"].pid, "Valkey": found["valkey"].pid}
            queued(fleet, found["ledger"], pids, 2_000, 3)  # topics, leases, caches
            runs: list[Run] = []
            for rate in rates:
                runs.append(queued(fleet, found["ledger"], pids, rate, seconds))
                if not runs[-1].kept_up:
                    break
            kept = [run.rate for run in runs if run.kept_up]
            for rate in sorted({min(max(kept), GOAL), MUST} if kept else {MUST}, reverse=True):
                runs.append(queued(fleet, found["ledger"], pids, rate, sustained))
                if runs[-1].kept_up:
                    break
            return runs


@dataclass
class Curve:
    name: str
    per_second: list[float]


def direct_part(place: Path, seconds: int, rounds: int) -> list[Curve]:
    """Against gin in the same run; by processes, and with two databases."""
    curves = []
    with Gin().running(place) as gin:
        gin.open_sale(STOCK)
        wrk(gin.port, "reserve.lua", gin.sku, 1)
        curves.append(Curve("gin + Redis, nothing durable", [rate(gin.port, gin.sku, seconds) for _ in range(rounds)]))
    for databases in (1, 2):
        with stores(kafka=False, databases=databases) as found:
            for apis in PROCESSES if databases == 1 else PROCESSES[:3]:
                fleet = Fleet(found["ledger"], apis, FLASHSALE_GATE=found["valkey"].url)
                with fleet.running(place):
                    skus = [fleet.open_sale(STOCK, "direct") for _ in range(databases)]  # one on each
                    for sku in skus:
                        wrk(fleet.port, "reserve.lua", sku, 1)
                    shards = f", {databases} shards" if databases > 1 else ""
                    name = f"flashsale, {apis} API process{'es' if apis > 1 else ''}{shards}"
                    curves.append(Curve(name, [rate_of_all(fleet.port, skus, seconds) for _ in range(rounds)]))
                    say(f"{name}: {curves[-1].per_second[-1]:,.0f}/s")
    return curves


def rate_of_all(port: int, skus: list[str], seconds: int) -> float:
    """Of as many crowds at once."""
    with ThreadPoolExecutor(len(skus)) as crowds:
        return sum(crowds.map(lambda sku: rate(port, sku, seconds), skus))


def rate(port: int, sku: str, seconds: int) -> float:
    counted = wrk(port, "reserve.lua", sku, seconds)
    if counted.refused or counted.broken:
        raise RuntimeError(f"{counted.refused} refused, {counted.broken} broken")
    return counted.per_second


def tables(runs: list[Run], curves: list[Curve], machine: dict[str, str]) -> str:
    parts, judged = [report.described(machine, report.command())], []
    if runs:
        parts.append(_queued_table(runs))
        sustained = max((run.rate for run in runs[-2:] if run.kept_up), default=0.0)
        judged.append(report.at_least("queued, sustained, must", sustained, MUST))
        judged.append(report.at_least("queued, sustained, goal", sustained, GOAL))
    if curves:
        gin, best = curves[0], max(curves[1:], key=lambda curve: statistics.median(curve.per_second))
        ratio = statistics.median(best.per_second) / statistics.median(gin.per_second)
        judged.append(report.at_least("PostgreSQL direct / gin + Redis", ratio, 1.2))
        lines = [[curve.name, report.spread(curve.per_second)] for curve in curves]
        parts.append(report.table(["direct", "accepted/s"], lines))
    return "\n\n".join([*parts, report.table(["flashsale", "measured", "target", "verdict"], judged)])


def _queued_table(runs: list[Run]) -> str:
    head = ["queued, requests/s", "s", "202: p50, ms", "p99, ms", "outcome: p50, ms", "p99, ms", "behind, s", "kept up"]
    head += [f"{name}, cores" for name in runs[0].share]
    rows = [
        [f"{run.rate:,.0f}", f"{sum(run.timed.statuses.values()) / run.rate:.0f}", f"{run.timed.p50:.1f}",
         f"{run.timed.p99:.1f}", f"{percentile(run.outcome_ms, 0.5):.0f}", f"{percentile(run.outcome_ms, 0.99):.0f}",
         f"{run.behind_seconds:.1f}", "yes" if run.kept_up else "no",
         *(f"{share:.2f}" for share in run.share.values())]
        for run in runs
    ]  # fmt: skip
    return report.table(head, rows)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench cluster", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short runs, two rates")
    parser.add_argument("--only", choices=("queued", "direct"), help="one half of it")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    options = parser.parse_args()
    seconds, sustained, rounds = (4, 5, 1) if options.quick else (15, 60, 3)
    rates = RATES[:2] if options.quick else RATES
    build_go("openloop")
    with scratch() as place:
        machine = facts(place) | {"software": versions()}
        runs = queued_part(place, seconds, sustained, rates) if options.only != "direct" else []
        curves = direct_part(place, seconds if options.quick else 10, rounds) if options.only != "queued" else []
    machine["method"] = f"{load.CONNECTIONS} connections, open loop, {seconds} s a rate, {sustained} s at the end"
    text = tables(runs, curves, machine)
    print(text)
    if options.write:
        report.write("cluster", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
