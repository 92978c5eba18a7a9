"""What a waiting room costs as it fills to a million tickets: joining, asking, the draw, and memory.

One process, the embedded ledger with fsync on, without HTTP: the calls that the routes make, many at a time. The draw
is measured from the start of the sale until this process can tell every entrant his place.
"""

import argparse
import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import report
import uvloop
from machine import facts, resident_mib, say, scratch

from flashsale.core.catalogue import CreateSale, SaleDraft, SwitchSale
from flashsale.core.sale import Product, RoomTerms, Sale, Switch
from flashsale.core.waiting_room import Joining
from flashsale.engine import Engine
from flashsale.flow.visit import Seen
from flashsale.settings import Settings

AT_ONCE = 256
JOINS, QUESTIONS = 5_000, 20_000
STEPS = (1_000, 10_000, 100_000)
YEAR_MS = 365 * 86_400_000
NOBODY = "http://127.0.0.1:9"
"""A payment provider is not asked for anything."""


class Point(NamedTuple):
    tickets: int
    joins_per_second: float
    asks_per_second: float
    resident_mib: float


class Room:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.chance = random.Random(1)
        self.tickets: list[str] = []
        self.count = 0

    async def fill(self, count: int) -> None:
        """Up to so many tickets, by the shortest way."""
        while self.count < count:
            wanted = [Joining(f"user-{self.count + each}") for each in range(min(512, count - self.count))]
            await self.engine.ledger.join("room", wanted)
            self.count += len(wanted)

    async def join(self) -> None:
        seen = await self.engine.visiting.join("room", f"visitor-{self.chance.getrandbits(64):x}")
        assert isinstance(seen, Seen), seen
        self.tickets.append(seen.ticket)
        self.count += 1

    async def ask(self) -> None:
        seen = await self.engine.visiting.ask("room", self.chance.choice(self.tickets), None)
        assert isinstance(seen, Seen), seen

    async def measure(self) -> Point:
        count = self.count
        joins = await rate(self.join, JOINS)
        return Point(count, joins, await rate(self.ask, QUESTIONS), resident_mib(os.getpid()))


async def rate(call: Callable[[], Awaitable[None]], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(call() for _ in range(AT_ONCE)))
    return count // AT_ONCE * AT_ONCE / (time.perf_counter() - began)


async def measured(place: str, tickets: int) -> tuple[list[Point], float, float, float]:
    """A point for each size before the start; how long the draw took, what could be asked after it, and the memory."""
    async with Engine.open(Settings(data=place, sandbox_url=NOBODY)) as engine:
        terms = RoomTerms(admit_per_second=50, burst=50, max_waiting=10_000_000, prequeue_seconds=YEAR_MS // 500)
        starts_at_ms = engine.clock.now_ms() + YEAR_MS
        phone = Product("PHONE", "A phone", "USD", 129999, 99999, 1)
        sale = Sale("room", "A room", (phone,), starts_at_ms, waiting_room=terms)
        await engine.change_sale(CreateSale(SaleDraft(sale, {"PHONE": 1000}), "bench"))
        room, points = Room(engine), []
        for step in (*(each for each in STEPS if each < tickets), tickets):
            await room.fill(step)
            points.append(await room.measure())
            say(f"{points[-1].tickets:,} tickets: {points[-1].joins_per_second:,.0f} joins/s")
        began = time.perf_counter()
        await engine.change_sale(SwitchSale("room", Switch.START, "bench"))
        while engine.rooms.pictures["room"].drawing is None:  # noqa: ASYNC110 a loop of the engine does it
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        return points, took, await rate(room.ask, QUESTIONS), resident_mib(os.getpid())


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench room", description=__doc__)
    parser.add_argument("--tickets", type=int, default=1_000_000, help="how many there are in the end")
    options = parser.parse_args()
    with scratch() as place:
        machine = facts(place)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            points, took, asks, memory = runner.run(measured(str(place), options.tickets))
    head = ["tickets", "joins/s", "questions/s", "memory of the process, MiB"]
    rows = [[f"{p.tickets:,}", *(f"{each:,.0f}" for each in p[1:])] for p in points]
    rows.append([f"{points[-1].tickets:,}, drawn", "", f"{asks:,.0f}", f"{memory:,.0f}"])
    print(report.described(machine, report.command()), "", report.table(head, rows), sep="\n")
    print(f"\nFrom the start to the last entrant's place: {took:.1f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
