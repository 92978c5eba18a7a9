"""What the gate decides on one Valkey or Redis: permits a second, and the memory that one of them takes.

The server and the callers share the machine. Every permit is for another reservation and another user of one product,
and all of them are granted: that is the dearest answer. Each answer is looked at, and so is what the server holds then.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import report
from machine import ROOT, facts, say, scratch
from redis import Redis

from flashsale.backends.redis import RedisGate
from flashsale.core.permits import Permit, Synchronised, Verdict, Wish
from flashsale.core.rate_limit import Draft

sys.path.insert(0, str(ROOT / "tests"))
from servers.valkey import ValkeyServer

BATCHES = (1, 16, 64, 256, 512)
FLIGHTS = 4
"""Calls under way at once in each process."""
WANTED = 50_000
PLENTY = 10**9
PLENTY = 10**9
HELD = 100_000


class Point(NamedTuple):
    what: str
    per_second: list[float]
    p99_ms: float


class Taken(NamedTuple):
    decided: int
    seconds: float
    call_ms: list[float]


async def ask(url: str, seconds: float, batch: int, name: str) -> Taken:
    """One process: FLIGHTS callers, each with one call after the other."""
    gate = await RedisGate.open(url)
    await gate.synchronise([Synchronised("bench", "PHONE", PLENTY, 1)])
    taken: list[float] = []

    async def caller(number: int) -> int:
        decided = 0
        while time.perf_counter() < until:
            ids = [f"res_{name}{number:02d}{decided + each:018d}" for each in range(batch)]
            wishes = [Wish(each, each[4:8] + each[-12:], "bench", "PHONE", 1, 1, "0123456789abcdef") for each in ids]
            began = time.perf_counter()
            permits = await gate.permit(wishes)
            taken.append((time.perf_counter() - began) * 1000)
            if permits != [Permit(Verdict.PERMITTED)] * batch:
                raise RuntimeError(f"not permitted: {set(permits)}")
            decided += batch
        return decided

    began = time.perf_counter()
    until = began + seconds
    decided = sum(await asyncio.gather(*map(caller, range(FLIGHTS))))
    took = time.perf_counter() - began
    await gate.close()
    return Taken(decided, took, taken)


def asked(url: str, seconds: float, batch: int, name: str) -> Taken:
    return asyncio.run(ask(url, seconds, batch, name))


async def prepare(url: str) -> None:
    gate = await RedisGate.open(url)
    if gate.trouble:
        raise RuntimeError(gate.trouble)
    await gate.synchronise([Synchronised("bench", "PHONE", PLENTY, 1)])
    await gate.close()


def measure(url: str, processes: int, batch: int, seconds: float, rounds: int) -> Point:
    runs, slowest = [], []
    for _ in range(rounds):
        with Redis.from_url(url) as client:
            client.execute_command("FLUSHALL", "SYNC")
        asyncio.run(prepare(url))
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            found = pool.starmap(asked, [(url, seconds, batch, f"{number:02d}") for number in range(processes)])
        check(url, sum(each.decided for each in found))
        runs.append(sum(each.decided / each.seconds for each in found))
        slowest.append(statistics.quantiles([ms for each in found for ms in each.call_ms], n=100)[98])
    name = f"batches of {batch}" + (f", {processes} processes" if processes > 1 else "")
    say(f"{name}: {statistics.median(runs):,.0f}/s")
    return Point(name, runs, statistics.median(slowest))


def check(url: str, decided: int) -> None:
    """What was permitted is what the server counts: permits that have lapsed meanwhile included."""
    with Redis.from_url(url) as client:
        units = int(client.hget("fs:{bench/PHONE}:counter", "units") or 0)
        outstanding = client.hlen("fs:{bench/PHONE}:permits")
    if units != outstanding or not 0 < units <= decided:
        raise RuntimeError(f"{decided} were permitted, the server counts {units} units of {outstanding} permits")


async def fill(url: str) -> None:
    gate = await RedisGate.open(url)
    await gate.synchronise([Synchronised("bench", "HELD", PLENTY, 1)])
    for first in range(0, HELD, 500):
        ids = [f"res_{each:022d}" for each in range(first, first + 500)]
        wishes = [Wish(each, each[-16:], "bench", "HELD", 1, 1, "0123456789abcdef") for each in ids]
        if {permit.verdict for permit in await gate.permit(wishes)} != {Verdict.PERMITTED}:
            raise RuntimeError("a permit was refused")
        await gate.appended(wishes)
    await gate.close()


async def fill_buckets(url: str) -> None:
    gate = await RedisGate.open(url)
    for first in range(0, HELD, 500):
        await gate.take([Draft(f"address:10.{each:08d}", 0.01, 10) for each in range(first, first + 500)])
    await gate.close()


def bytes_each(url: str) -> tuple[float, float]:
    """Of a permit in the queue, and of a bucket."""
    with Redis.from_url(url) as client:
        client.execute_command("FLUSHALL", "SYNC")
        asyncio.run(prepare(url))
        used = []
        for filled in (fill, fill_buckets):
            asyncio.run(filled(url))
            used.append(int(client.info("memory")["used_memory"]))
            client.execute_command("FLUSHALL", "SYNC")
        empty = int(client.info("memory")["used_memory"])
    return (used[0] - empty) / HELD, (used[1] - empty) / HELD


@contextmanager
def server() -> Iterator[ValkeyServer]:
    started = ValkeyServer()
    try:
        started.start()
        yield started
    finally:
        started.stop()


def table(points: list[Point], sizes: tuple[float, float], machine: dict[str, str]) -> str:
    rows = [[each.what, report.spread(each.per_second), f"{each.p99_ms:.1f}"] for each in points]
    best = max(statistics.median(each.per_second) for each in points)
    judged = [report.at_least("permits/s in batches", best, WANTED)]
    sizes_told = [["of a permit in the queue", f"{sizes[0]:.0f}"], ["of a rate-limit bucket", f"{sizes[1]:.0f}"]]
    return "\n\n".join([
        report.described(machine, report.command()),
        report.table(["one product", "permits/s", "call p99, ms"], rows),
        report.table([f"memory, {HELD:,} of them", "bytes each"], sizes_told),
        report.table(["flashsale", "measured", "target", "verdict"], judged),
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench gate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 1 s each")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    options = parser.parse_args()
    seconds, rounds = (1.0, 1) if options.quick else (5.0, 3)
    with scratch() as place, server() as started:
        machine = facts(place)
        with Redis.from_url(started.url) as client:
            told = client.info("server")
        kind = "valkey" if "valkey_version" in told else "redis"
        machine["server"] = f"{kind} {told[f'{kind}_version']}, without persistence, on the same cores"
        machine["method"] = f"{FLIGHTS} calls under way in each process; {rounds} x {seconds} s, median"
        points = [measure(started.url, 1, batch, seconds, rounds) for batch in BATCHES]
        points.append(measure(started.url, 2, 256, seconds, rounds))
        text = table(points, bytes_each(started.url), machine)
    print(text)
    if options.write:
        report.write("gate", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
