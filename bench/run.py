"""Compare this project with what else could sell: nginx as the ceiling, gin + Redis, Flask + Redis.

Every server runs in one session on this machine; the runs of the rivals alternate, the median counts.
Every count is checked: wrong statuses, or books that differ from what the buyers were told, end the run.
"""

import argparse
import contextlib
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import report
from load import CONNECTIONS, Counted, Timed, openloop, wrk
from machine import build_go, facts, say, scratch, versions
from rivals import RIVALS, STOCK, Rival, buy

KINDS = ("accepted", "sold-out", "availability")


@dataclass(frozen=True)
class Plan:
    rounds: int
    seconds: int
    settle: float


FULL, QUICK = Plan(rounds=3, seconds=10, settle=1), Plan(rounds=1, seconds=2, settle=0.3)


@dataclass
class Row:
    """The results of one rival: a figure for each round."""

    name: str
    per_second: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    open_loop: list[Timed] = field(default_factory=list)

    def median(self, kind: str) -> float:
        return statistics.median(self.per_second[kind])

    def latency(self, which: str) -> float:
        return float(statistics.median(getattr(timed, which) for timed in self.open_loop))


class Nonsense(Exception):
    """A run that measured something else than it was meant to."""


def demand(true: bool, rival: Rival, what: str) -> None:
    if not true:
        raise Nonsense(f"{rival.name}: {what}")


def measure(rival: Rival, kind: str, plan: Plan) -> float:
    runs = {"accepted": accepted, "sold-out": sold_out, "availability": availability}
    counted = runs[kind](rival, plan)
    demand(counted.broken == 0, rival, f"{kind}: {counted.broken} socket errors")
    say(f"{rival.name}, {kind}: {counted.per_second:,.0f}/s")
    time.sleep(plan.settle)
    return counted.per_second


def accepted(rival: Rival, plan: Plan) -> Counted:
    rival.open_sale(STOCK)
    demand(buy(rival.port, rival.sku)[0] == 201, rival, "a purchase is not answered 201")
    wrk(rival.port, "reserve.lua", rival.sku, 1)
    time.sleep(plan.settle)
    before = rival.sold()
    counted = wrk(rival.port, "reserve.lua", rival.sku, plan.seconds)
    demand(counted.refused == 0, rival, f"{counted.refused} purchases refused")
    check_books(rival, before, rival.sold(), counted.requests)
    return counted


def check_books(rival: Rival, before: int | None, after: int | None, told: int) -> None:
    """What was sold is what buyers were told, and at most one more for each connection that wrk cut off."""
    if before is None or after is None:
        return
    untold = after - before - told
    demand(0 <= untold <= CONNECTIONS, rival, f"sold {after - before}, but {told} buyers were told")
    say(f"{rival.name}: books say {after - before} sold, {told} buyers were told so, {untold} were cut off")


def sold_out(rival: Rival, plan: Plan) -> Counted:
    rival.sell_out()
    demand(buy(rival.port, rival.sku)[0] == 409, rival, "sold out is not answered 409")
    wrk(rival.port, "reserve.lua", rival.sku, 1)
    counted = wrk(rival.port, "reserve.lua", rival.sku, plan.seconds)
    demand(counted.refused == counted.requests, rival, "sold out, and yet somebody bought")
    return counted


def availability(rival: Rival, plan: Plan) -> Counted:
    rival.open_sale(STOCK)
    wrk(rival.port, "availability.lua", rival.sku, 1)
    counted = wrk(rival.port, "availability.lua", rival.sku, plan.seconds)
    demand(counted.refused == 0, rival, f"{counted.refused} reads refused")
    return counted


def at_half(rival: Rival, row: Row, plan: Plan) -> Timed:
    rival.open_sale(STOCK)
    timed = openloop(rival.port, rival.sku, row.median("accepted") / 2, plan.seconds)
    say(f"{rival.name}, {timed.rate:,.0f}/s: p50 {timed.p50:.2f} ms, p99 {timed.p99:.2f} ms, p99.9 {timed.p999:.2f} ms")
    demand(set(timed.statuses) == {"201"}, rival, f"open loop: {timed.statuses}")
    demand(timed.broken + timed.lost == 0, rival, f"open loop: {timed.broken} broken, {timed.lost} lost")
    time.sleep(plan.settle)
    return timed


def compare(rivals: dict[str, Rival], plan: Plan) -> dict[str, Row]:
    rows = {key: Row(rival.name) for key, rival in rivals.items()}
    for _ in range(plan.rounds):
        for kind in KINDS:
            for key, rival in rivals.items():
                rows[key].per_second[kind].append(measure(rival, kind, plan))
    for _ in range(plan.rounds):
        for key, rival in rivals.items():
            rows[key].open_loop.append(at_half(rival, rows[key], plan))
    return rows


def run(names: list[str], plan: Plan, place: Path) -> dict[str, Row]:
    build_go("openloop")
    with contextlib.ExitStack() as servers:
        return compare({name: servers.enter_context(RIVALS[name]().running(place)) for name in names}, plan)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s each instead of three of 10 s")
    parser.add_argument("--only", choices=RIVALS, nargs="+", default=list(RIVALS), metavar="RIVAL",
                        help=f"some of: {', '.join(RIVALS)}")  # fmt: skip
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    return parser.parse_args()


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = arguments()
    plan = QUICK if options.quick else FULL
    try:
        with scratch() as place:
            machine = facts(place) | {"software": versions()}
            rows = run(options.only, plan, place)
    except (Nonsense, RuntimeError) as reason:
        say(f"no result: {reason}")
        return 1
    machine["method"] = f"{CONNECTIONS} connections; {plan.rounds} x {plan.seconds} s each, 1 s of warm-up, median"
    text = report.comparison(rows, machine, report.command())
    print(text)
    if options.write:
        report.write("comparison", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
