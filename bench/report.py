"""The tables, the targets, and their place in docs/benchmarks.md."""

import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from machine import ROOT

PAGE = ROOT / "docs/benchmarks.md"


class Row(Protocol):
    name: str
    per_second: dict[str, list[float]]

    def median(self, kind: str) -> float: ...
    def latency(self, which: str) -> float: ...


def command() -> str:
    name = Path(sys.argv[0]).stem
    kind = [] if name == "run" else [name]
    return shlex.join(["scripts/bench", *kind, *sys.argv[1:]])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also straight on a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(line(row, widths) for row in [head, rule, *rows])


def line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
    return f"| {' | '.join(cells)} |"


def described(machine: Mapping[str, str], command: str) -> str:
    return "\n".join(["- command: `" + command + "`", *(f"- {name}: {value}" for name, value in machine.items())])


def comparison(rows: Mapping[str, Row], machine: Mapping[str, str], command: str) -> str:
    head = ["", "accepted/s", "sold-out/s", "availability/s", "p50 at half, ms", "p99 at half, ms"]
    parts = [described(machine, command), table(head, [cells(row) for row in rows.values()])]
    note = "Each rate is the median and the spread of its runs; half is half of the server's own accepted/s, open loop."
    return "\n\n".join([*parts, note, *targets(rows)])


def cells(row: Row) -> list[str]:
    return [row.name, *(rate(row, kind) for kind in row.per_second), *(f"{row.latency(p):.2f}" for p in ("p50", "p99"))]


def rate(row: Row, kind: str) -> str:
    return spread(row.per_second[kind])


def spread(runs: Sequence[float]) -> str:
    """Their median, and how far they are apart."""
    median = statistics.median(runs)
    apart = (max(runs) - min(runs)) / 2 / median
    return f"{median:,.0f}" + (f" ±{apart:.0%}" if len(runs) > 1 else "")


def targets(rows: Mapping[str, Row]) -> list[str]:
    """The ratios that were promised, for the rivals that ran."""
    if "flashsale" not in rows:
        return []
    ours = rows["flashsale"]
    found = [
        at_least(f"{kind} / {rows[rival].name}", ours.median(kind) / rows[rival].median(kind), wanted)
        for rival, kind, wanted in RATIOS
        if rival in rows
    ]
    found += [at_most(f"open loop {which}, ms", ours.latency(which), wanted) for which, wanted in LATENCIES]
    return [table(["flashsale", "measured", "target", "verdict"], found)]


RATIOS = (
    ("nginx", "accepted", 0.35),
    ("gin", "accepted", 1.5),
    ("nginx", "sold-out", 0.5),
    ("nginx", "availability", 0.85),
)
LATENCIES = (("p50", 5.0), ("p99", 25.0))


def at_least(what: str, measured: float, wanted: float) -> list[str]:
    return [what, f"{measured:,.2f}", f">= {wanted:,g}", verdict(measured >= wanted, measured / wanted - 1)]


def at_most(what: str, measured: float, wanted: float) -> list[str]:
    return [what, f"{measured:.2f}", f"<= {wanted:g}", verdict(measured <= wanted, measured / wanted - 1)]


def verdict(met: bool, distance: float) -> str:
    return f"{'met' if met else 'MISSED'}, {abs(distance):.0%} {'above' if distance > 0 else 'below'}"


def growth(
    points: Sequence[Any], curves: Mapping[str, Mapping[str, float]], resident_mib: float, rows: int,
    machine: Mapping[str, str], command: str,
) -> str:  # fmt: skip
    head = ["reservations in the ledger", "CPU per reservation, us", "against the first", "reservations/s"]
    head += [f"ledger alone, users {order}, us" for order in curves]
    first = points[0].cpu_us
    lines = [
        [f"{p.rows:,}", f"{p.cpu_us:.1f}", f"{p.cpu_us / first - 1:+.1%}", f"{p.per_second:,.0f}"]
        + [f"{curve[str(p.rows)]:.1f}" for curve in curves.values()]
        for p in points
    ]
    largest = max((p.cpu_us / first - 1 for p in points), key=abs)
    judged = [
        at_most("largest deviation of the cost, %", abs(largest) * 100, 20),
        at_most(f"resident after {rows:,} reservations, MiB", resident_mib, 200),
    ]
    verdicts = table(["flashsale", "measured", "target", "verdict"], judged)
    return "\n\n".join([described(machine, command), table(head, lines), verdicts])


def write(section: str, text: str) -> None:
    """Put the text between the marks of its section; what people wrote around it stays."""
    page = PAGE.read_text()
    pattern = re.compile(rf"(?<=<!-- {section} -->\n).*?(?=<!-- /{section} -->)", re.DOTALL)
    changed, places = pattern.subn(lambda _: f"{text}\n", page)
    if places != 1:
        raise SystemExit(f"bench: {PAGE.name} has {places} places for {section}")
    PAGE.write_text(changed)
