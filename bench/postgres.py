"""What a reservation costs in a ledger on PostgreSQL alone, without HTTP: by the size of the batch.

Batches of one product are decided and committed one after the other by the code that a server's writer runs, fsync on.
"Client" is the processor time of this process, "server" that of the connection's backend, both for each reservation;
what is missing to the whole is waiting: for the disk, and for each other.
"""

import argparse
import asyncio
import random
import time
from typing import Any, NamedTuple

import report
from fleet import stores
from machine import cpu_seconds, facts, say, scratch

from flashsale.backends.clock import HeardClock
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.core.catalogue import CreateSale, SaleDraft
from flashsale.core.request import Item
from flashsale.core.sale import Product, Sale
from flashsale.core.stock import Attempt, Granted
from flashsale.flow.storefront import Storefront

BATCHES = (16, 64, 256)
WARM = 20
"""Batches before the clock runs."""
SALE = Sale(
    "bench", "Bench", (Product("BENCH-1", "Phone", "USD", 129999, 99999, 1),), 0, 2**60, reservation_seconds=3600
)
ITEMS = (Item("BENCH-1", 1),)


class Point(NamedTuple):
    batch: int
    per_second: float
    whole_us: float
    client_us: float
    server_us: float


class Crowd:
    """Users in no order, each with one request and a key of his own."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self._ledger = ledger
        self._chance = random.Random(1)

    async def batch(self, size: int) -> None:
        """Asks for so many in one turn of the loop, and waits for all of them."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = size

        def told(outcome: Any) -> None:
            nonlocal left
            left -= 1
            if not isinstance(outcome, Granted):
                done.set_exception(RuntimeError(f"not granted: {outcome}"))
            elif not left:
                done.set_result(None)

        for _ in range(size):
            user = f"{self._chance.getrandbits(64):024x}"
            self._ledger.reserve(Attempt(user, "bench", ITEMS, f"key-{user}"), told)
        await done


async def measure(url: str, batch: int, reservations: int) -> Point:
    clock = HeardClock()
    ledger = await PostgresLedger.open(url, clock, Storefront(clock), 10_000, 4096)
    await ledger.change_sale(CreateSale(SaleDraft(SALE, {"BENCH-1": 10**9}), "bench"))
    crowd = Crowd(ledger)
    for _ in range(WARM):
        await crowd.batch(batch)
    backend = await (await ledger._session.open()).fetchval("SELECT pg_backend_pid()")
    server, client, began = cpu_seconds(backend), time.process_time(), time.perf_counter()
    for _ in range(reservations // batch):
        await crowd.batch(batch)
    took, us = time.perf_counter() - began, 1e6 / (reservations // batch * batch)
    spent = (took * us, (time.process_time() - client) * us, (cpu_seconds(backend) - server) * us)
    await ledger.close()
    say(f"batches of {batch}: {1e6 / spent[0]:,.0f}/s")
    return Point(batch, 1e6 / spent[0], *spent)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench postgres", description=__doc__)
    parser.add_argument("--reservations", type=int, default=50_000, help="for each size of batch")
    options = parser.parse_args()
    with scratch() as place:
        machine = facts(place)
    points = []
    for batch in BATCHES:
        with stores(kafka=False) as found:
            points.append(asyncio.run(measure(found["ledger"], batch, options.reservations)))
    head = ["batches of", "reservations/s", "whole, us", "client, us", "server, us"]
    rows = [[f"{p.batch}", f"{p.per_second:,.0f}", *(f"{each:.1f}" for each in p[2:])] for p in points]
    print(report.described(machine, report.command()), "", report.table(head, rows), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
