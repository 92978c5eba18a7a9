"""How a rehearsal looks: a live bar while it runs, tables and one line at its end.

Where the output is not a terminal the bars become plain lines, one every few seconds.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flashsale.rehearsal.evidence import Ask, History, asked, percentile
from flashsale.rehearsal.verdict import Evidence, Stock, Verdict

PLAIN_LINE_EVERY_SECONDS = 3.0
EXAMPLES = 3
NO_ANSWER = "none"


class Display:
    """Shows how far the crowd and the stock are."""

    def __init__(self, console: Console, buyers: int, units: int) -> None:
        self._console, self._buyers, self._units = console, buyers, units
        columns = TextColumn("{task.description:<12}"), BarColumn(40), MofNCompleteColumn(), TimeElapsedColumn()
        self._progress = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
        self._live = console.is_terminal
        self._crowd = self._progress.add_task("buyers gone", total=buyers, note="")
        self._stock = self._progress.add_task("units sold", total=units, note="")
        self._next_line_at = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live:
            self._progress.stop()

    def show(self, gone: int, stock: Stock) -> None:
        self._progress.update(self._crowd, completed=gone)
        self._progress.update(self._stock, completed=stock.sold, note=f"{stock.held} held, {stock.available} free")
        if not self._live and time.monotonic() >= self._next_line_at:
            self._next_line_at = time.monotonic() + PLAIN_LINE_EVERY_SECONDS
            self._console.print(
                f"{stock.sold} of {self._units} sold, {stock.held} held, {stock.available} free; "
                f"{gone} of {self._buyers} buyers gone"
            )


def show_report(console: Console, evidence: Evidence, verdict: Verdict) -> None:
    """The tables, and the verdict as the last line."""
    console.print(answers_table(evidence.histories))
    console.print(units_table(evidence))
    console.print(verdict_table(verdict))
    console.print(verdict.line, style="bold green" if verdict.ok else "bold red", highlight=False)


def answers_table(histories: Sequence[History]) -> Table:
    latencies: dict[tuple[str, str], list[float]] = defaultdict(list)
    for ask in Ask:
        for _, exchange in asked(histories, ask):
            answer = f"{exchange.status} {exchange.code}".strip() if exchange.status else NO_ANSWER
            latencies[ask, answer].append(exchange.answered_at - exchange.sent_at)
    table = Table("request", "answer", title="What the buyers were told", title_justify="left")
    for column in ("count", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for (ask_name, answer), values in sorted(latencies.items()):
        times = _milliseconds(values) if answer != NO_ANSWER else ()
        table.add_row(ask_name, answer, f"{len(values):,}", *times)
    answered = [value for (_, answer), values in latencies.items() for value in values if answer != NO_ANSWER]
    table.add_section()
    table.add_row("all", "answered", f"{len(answered):,}", *_milliseconds(answered))
    return table


def units_table(evidence: Evidence) -> Table:
    states = Counter(told.status for told in evidence.reservations.values() if told is not None)
    refusals = Counter(exchange.code for _, exchange in asked(evidence.histories, Ask.CHECKOUT))
    unread = sum(not exchange.read for history in evidence.histories for exchange in history.exchanges)
    rows = {
        "units in the sale": evidence.stock.total,
        "units sold": evidence.stock.sold,
        "reservations given": len(evidence.reservations),
        "of them paid": states["CONFIRMED"],
        "of them expired": states["EXPIRED"],
        "of them cancelled": states["CANCELLED"],
        "units sold again after they came back": max(0, len(evidence.reservations) - evidence.stock.total),
        "payments declined": refusals["PAYMENT_DECLINED"],
        "replies lost on purpose": unread,
        "cents kept by the payment provider": sum(it.kept_minor for it in evidence.books.values()),
    }
    table = Table("units and money", title_justify="left")
    table.add_column("number", justify="right")
    for name, number in rows.items():
        table.add_row(name, f"{number:,}")
    return table


def verdict_table(verdict: Verdict) -> Table:
    table = Table("check", "faults", "examples", title="The verdict", title_justify="left")
    for name, faults in verdict.findings.items():
        table.add_row(name, str(len(faults)), "\n".join(faults[:EXAMPLES]))
    return table


def _milliseconds(values: list[float]) -> tuple[str, str]:
    ordered = sorted(values)
    return f"{percentile(ordered, 0.5) * 1000:.1f}", f"{percentile(ordered, 0.99) * 1000:.1f}"
