"""What a reservation costs in the ledger alone, without HTTP, while it grows: the curve beside `growth`.

Batches are decided and committed one after the other by the code that the server's writer runs, fsync on.
Once with users in random order, as a crowd comes, and once with users in the order of their ids: the
difference is what an index that is touched at random places costs.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from machine import scratch

from flashsale.backends.clock import SteadyClock
from flashsale.backends.sqlite import file, moves
from flashsale.core.catalogue import CreateSale, SaleDraft
from flashsale.core.request import Item
from flashsale.core.sale import Product, Sale
from flashsale.core.stock import Attempt

BATCH = 256
POINTS = (1_000, 10_000, 100_000, 300_000, 980_000)
WINDOW = 10_240
SALE = Sale(
    "bench", "Bench", (Product("BENCH-1", "Phone", "USD", 129999, 99999, 1),), 0, 2**60, reservation_seconds=3600
)
ITEMS = (Item("BENCH-1", 1),)

NewUser = Callable[[int], str]


def at_random(seed: int) -> NewUser:
    chance = random.Random(seed)
    return lambda _: f"{chance.getrandbits(64):016x}"


def in_order(number: int) -> str:
    return f"{number:016x}"


class Curve:
    """A fresh ledger that is filled, and timed on the way."""

    def __init__(self, place: Path, new_user: NewUser) -> None:
        db = file.connect(place / "ledger.db", writes=True)
        file.migrate(db)
        self.desk = moves.Desk(db, SteadyClock())
        self.new_user = new_user
        self.rows = 0
        self._commit(lambda: moves.alter_sale(self.desk, CreateSale(SaleDraft(SALE, {"BENCH-1": 10**9}), "bench")))

    def _commit(self, work: Callable[[], object]) -> None:
        self.desk.begin()
        work()
        self.desk.commit()

    def fill(self, until: int) -> float:
        """Seconds spent in the ledger."""
        spent = 0.0
        while self.rows < until:
            batch = [self._attempt() for _ in range(BATCH)]
            started = time.perf_counter()
            self._commit(lambda batch=batch: moves.reserve(self.desk, batch))
            spent += time.perf_counter() - started
        return spent

    def _attempt(self) -> Attempt:
        self.rows += 1
        user = self.new_user(self.rows)
        return Attempt(user, "bench", ITEMS, f"key-{user}")

    def measure(self, rows: int) -> float:
        """Microseconds per reservation over the window that begins at this many rows."""
        self.fill(rows)
        before = self.rows
        return self.fill(before + WINDOW) / (self.rows - before) * 1e6


def curve(new_user: NewUser, points: tuple[int, ...]) -> dict[int, float]:
    with scratch() as place:
        filled = Curve(place, new_user)
        return {rows: filled.measure(rows) for rows in points}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench ledger", description=__doc__)
    parser.add_argument("--rows", type=int, default=max(POINTS), help="how far to go")
    options = parser.parse_args()
    points = tuple(rows for rows in POINTS if rows <= options.rows)
    json.dump({"random": curve(at_random(1), points), "in order": curve(in_order, points)}, sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
