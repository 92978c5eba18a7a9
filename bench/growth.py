"""What a reservation costs over HTTP while the ledger grows from 1,000 to 1,000,000 rows.

A closed loop buys until the ledger holds a given number of rows, then the next few thousand are measured:
processor time of the server and wall time. Processor time is the steadier of the two: the generator and
the neighbours of a shared machine do not enter it. Several servers are filled; the median counts.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import report
from load import CONNECTIONS, generator
from machine import build_go, cpu_seconds, facts, resident_mib, say, scratch
from rivals import STOCK, Flashsale

START = {1_000: 2_000, 10_000: 5_000}  # rows in the ledger: reservations measured
REST = {100_000: 20_000, 300_000: 20_000, 980_000: 20_000}


@dataclass(frozen=True)
class Point:
    rows: int
    cpu_us: float
    per_second: float


@dataclass(frozen=True)
class Filled:
    points: list[Point]
    resident_mib: float
    rows: int


class Buyers:
    """The generator, held open between steps so that no step pays for its connections."""

    def __init__(self, asked: IO[str], told: IO[str], pid: int) -> None:
        self.asked, self.told, self.pid, self.rows = asked, told, pid, 0

    def buy(self, count: int) -> Point:
        """`count` reservations; the point carries the rows that were there before."""
        before, cpu = self.rows, cpu_seconds(self.pid)
        self.asked.write(f"{count}\n")
        self.asked.flush()
        said = json.loads(self.told.readline())
        cpu = cpu_seconds(self.pid) - cpu
        if said["statuses"] != {"201": count}:
            raise RuntimeError(f"{count} reservations asked for, answered: {said}")
        self.rows += count
        return Point(before, cpu / count * 1e6, said["perSecond"])


@contextmanager
def buyers(server: Flashsale) -> Iterator[Buyers]:
    command = generator(server.port, server.sku, "-steps")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        try:
            yield Buyers(child.stdin, child.stdout, server.pid)
        finally:
            child.terminate()


def fill(place: Path, windows: dict[int, int]) -> Filled:
    server = Flashsale()
    with server.running(place):
        server.open_sale(STOCK)
        with buyers(server) as crowd:
            points = [reach(crowd, rows, count) for rows, count in windows.items()]
        if server.sold() != crowd.rows:
            raise RuntimeError(f"{crowd.rows} buyers were told, the ledger says {server.sold()}")
        return Filled(points, resident_mib(server.pid), crowd.rows)


def reach(crowd: Buyers, rows: int, count: int) -> Point:
    crowd.buy(rows - crowd.rows)
    time.sleep(0.5)  # work put off by the server belongs to the rows before
    point = crowd.buy(count)
    say(f"{point.rows:,} rows: {point.cpu_us:.1f} us of CPU, {point.per_second:,.0f}/s")
    return point


def median(runs: list[Filled]) -> list[Point]:
    """One point for each number of rows, from all servers that came so far."""
    points = [point for run in runs for point in run.points]
    return [middle([p for p in points if p.rows == rows]) for rows in sorted({p.rows for p in points})]


def middle(points: list[Point]) -> Point:
    return Point(
        rows=points[0].rows,
        cpu_us=statistics.median(p.cpu_us for p in points),
        per_second=statistics.median(p.per_second for p in points),
    )


def ledger_alone(rows: int) -> dict[str, dict[str, float]]:
    """Microseconds per reservation without HTTP, by the rows that were there before."""
    command = [sys.executable, str(Path(__file__).with_name("ledger.py")), "--rows", str(rows)]
    curves: dict[str, dict[str, float]] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return curves


def measure(plan: list[dict[int, int]]) -> tuple[list[Filled], dict[str, str]]:
    build_go("openloop")
    with scratch() as place:
        machine = facts(place)
        homes = [place / str(number) for number in range(len(plan))]
        for home in homes:
            home.mkdir()
        return [fill(home, windows) for home, windows in zip(homes, plan, strict=True)], machine


def planned(quick: bool) -> list[dict[int, int]]:
    """The first points last milliseconds, so more servers are asked for them."""
    if quick:
        return [START, START, START | {100_000: REST[100_000]}]
    return [START] * 6 + [START | REST] * 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 120,000 rows")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    return parser.parse_args()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    plan = planned(options.quick)
    try:
        filled, machine = measure(plan)
    except RuntimeError as reason:
        say(f"no result: {reason}")
        return 1
    machine["method"] = f"closed loop, {CONNECTIONS} connections; median of {len(plan)} new servers"
    resident = max(run.resident_mib for run in filled)
    curves = ledger_alone(max(rows for windows in plan for rows in windows))
    text = report.growth(median(filled), curves, resident, max(run.rows for run in filled), machine, report.command())
    print(text)
    if options.write:
        report.write("growth", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
