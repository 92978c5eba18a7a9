"""The loops beside the requests: they look at the clock, sweep, resume, and survive whatever fails in them."""

import asyncio

from contract.ledgers import HandClock
from structlog.testing import capture_logs

from flashsale.flow import expire
from flashsale.flow.expire import NET_MS, Sweeping
from flashsale.flow.lease import Always, Never
from flashsale.flow.settle import Resuming
from flashsale.ports import LedgerUnavailable
from flashsale.worker import ClockWatch, Loop, Worker, last_sweep

PATIENCE_SECONDS = 5
SOON = 0.01


class Wrong(HandClock):
    """A clock that finds the wall clock wrong when it looks."""

    def follow(self) -> None:
        self.alarm = "the wall clock is +3600.0 s away"


class Counted:
    """A ledger and a till that only count; the first calls fail."""

    def __init__(self, failing: int = 0, error: type[Exception] = OSError) -> None:
        self.failing = failing
        self.error = error
        self.calls = 0
        self.enough = asyncio.Event()

    async def call(self) -> int:
        self.calls += 1
        if self.calls > self.failing + 1:
            self.enough.set()
        if self.calls <= self.failing:
            raise self.error("not now")
        return 0

    expire = resume = call


async def go_round(steps: Counted, loop: Loop) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), Worker([loop]):
        await steps.enough.wait()


# -- Loops


async def test_a_loop_that_fails_goes_on_at_its_next_tick():
    steps = Counted(failing=2)
    with capture_logs() as logs:
        await go_round(steps, Loop("sweep", SOON, steps.call))
    assert steps.calls == 4
    failures = [entry for entry in logs if "goes on at its next tick" in entry["event"]]
    assert len(failures) == 2


async def test_a_ledger_that_is_away_has_said_so_itself():
    steps = Counted(failing=2, error=LedgerUnavailable)
    with capture_logs() as logs:
        await go_round(steps, Loop("sweep", SOON, steps.call))
    assert (steps.calls, logs) == (4, [])


async def test_a_loop_is_woken_before_its_tick_and_the_others_are_not():
    ours, theirs = Counted(), Counted()
    worker = Worker([Loop("ours", 60, ours.call), Loop("theirs", 60, theirs.call)])
    async with asyncio.timeout(PATIENCE_SECONDS), worker:
        await asyncio.sleep(0)
        worker.wake("ours")
        await ours.enough.wait()
    assert (ours.calls, theirs.calls) == (2, 1)


async def test_an_alarm_of_the_clock_is_logged_once():
    watch = ClockWatch(Wrong())
    with capture_logs() as logs:
        for _ in range(3):
            await watch.look()
    assert [entry["alarm"] for entry in logs if entry["event"] == "clock"] == ["the wall clock is +3600.0 s away"]


# -- Sweeping


def test_lapsed_units_are_looked_for_five_times_a_second():
    assert expire.TICK_SECONDS <= 0.2


async def sweeps_of(turn: Always | Never, seconds: int) -> int:
    ledger, clock = Counted(), HandClock()
    sweeping = Sweeping(ledger, turn, clock)
    for _ in range(seconds * 5):
        await sweeping.sweep()
        clock.pass_ms(200)
    return ledger.calls


async def test_whose_turn_it_is_sweeps_at_every_tick():
    assert await sweeps_of(Always(), seconds=10) == 50


async def test_the_others_sweep_every_two_seconds_in_case_that_one_is_stuck():
    assert NET_MS == 2_000
    assert await sweeps_of(Never(), seconds=10) == 5


async def test_what_was_refused_is_written_down_before_a_process_ends_unless_the_ledger_is_away():
    ledger, away = Counted(), Counted(failing=1, error=LedgerUnavailable)
    await last_sweep(ledger)
    await last_sweep(away)
    assert (ledger.calls, away.calls) == (1, 1)


async def test_a_ledger_that_hangs_does_not_keep_a_process_from_ending():
    class Hanging:
        async def expire(self) -> int:
            await asyncio.Event().wait()
            return 0

    async with asyncio.timeout(PATIENCE_SECONDS):
        await last_sweep(Hanging())


# -- Resuming


async def test_whose_turn_it_is_resumes_whatever_is_owed():
    till = Counted()
    resuming = Resuming(till, Always())
    await resuming.resume()
    await resuming.resume()
    assert till.calls == 2


async def test_the_others_resume_only_what_they_were_woken_for():
    till = Counted()
    resuming = Resuming(till, Never())
    await resuming.resume()
    assert till.calls == 0
    resuming.wake()
    await resuming.resume()
    await resuming.resume()
    assert till.calls == 1
