"""The loops beside the requests: they look at the clock, sweep, resume, and survive whatever fails in them."""

import asyncio

from contract.ledgers import HandClock
from structlog.testing import capture_logs

from flashsale.flow import expire
from flashsale.worker import Worker

PATIENCE_SECONDS = 5


class Wrong(HandClock):
    """A clock that finds the wall clock wrong when it looks."""

    def follow(self) -> None:
        self.alarm = "the wall clock is +3600.0 s away"


class Loops:
    """A ledger and a till that only count; the first calls fail."""

    def __init__(self, failing: int = 0) -> None:
        self.failing = failing
        self.sweeps = 0
        self.resumes = 0
        self.enough = asyncio.Event()

    async def expire(self) -> int:
        self.sweeps += 1
        if self.sweeps > self.failing + 1:
            self.enough.set()
        if self.sweeps <= self.failing:
            raise OSError("not now")
        return 0

    async def resume(self) -> int:
        self.resumes += 1
        return 0

    async def go_round(self, worker: Worker) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), worker:
            await self.enough.wait()


async def test_a_loop_that_fails_goes_on_at_its_next_tick():
    loops = Loops(failing=2)
    with capture_logs() as logs:
        await loops.go_round(Worker(loops, loops, HandClock()))
    assert loops.sweeps == 4
    failures = [entry for entry in logs if "goes on at its next tick" in entry["event"]]
    assert len(failures) == 2


async def test_an_alarm_of_the_clock_is_logged_once_and_the_sweep_goes_on():
    loops = Loops(failing=0)
    with capture_logs() as logs:
        await loops.go_round(Worker(loops, loops, Wrong()))
    assert [entry["alarm"] for entry in logs if entry["event"] == "clock"] == ["the wall clock is +3600.0 s away"]
    assert loops.sweeps == 2


async def test_what_is_owed_is_resumed_as_soon_as_the_loops_run_and_when_somebody_wakes_them():
    loops = Loops()
    worker = Worker(loops, loops, HandClock())
    async with worker:
        await asyncio.sleep(0)
        worker.wake()
        await loops.enough.wait()
    assert loops.resumes == 2


def test_lapsed_units_are_looked_for_five_times_a_second():
    assert expire.TICK_SECONDS <= 0.2


async def test_where_there_is_a_broker_events_are_published_until_the_loops_end():
    loops = Loops()
    published = asyncio.Event()

    class Publishing:
        async def publish(self) -> int:
            published.set()
            return 0

    async with asyncio.timeout(PATIENCE_SECONDS), Worker(loops, loops, HandClock(), publishing=Publishing()):
        await published.wait()
