"""The loops beside the requests, supervised: each repeats a step at its pace until the block ends.

A loop that fails is logged and goes on at its next tick: these loops only repeat what is safe to repeat. Which of them
a process runs is the engine's to say (`Engine.open`), by the names in `settings.LOOPS`:

    sweep     gives lapsed units back, resumes payment steps that are owed, prunes events     one process at a time
    publish   passes events on to the broker                                                  one process at a time
    consume   takes the requests of queued sales                                              a share for each process

Beside these every process follows the clock, watches what others sell, and sweeps now and then (`flow/expire.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import structlog

from flashsale.flow.expire import sweep
from flashsale.ports import Clock, Ledger, LedgerUnavailable

CLOCK_SECONDS = 0.2
LAST_SWEEP_SECONDS = 1.0

log = structlog.get_logger("flashsale.worker")


class Loop(NamedTuple):
    """A step that is repeated every so many seconds, and sooner when somebody wakes it."""

    name: str
    seconds: float
    step: Callable[[], Awaitable[object]]


class Worker:
    """An async context: the loops run inside it."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = loops
        self._woken = {loop.name: asyncio.Event() for loop in loops}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Worker":
        self._tasks = [
            asyncio.create_task(_every(loop.seconds, loop.step, self._woken[loop.name]), name=loop.name)
            for loop in self._loops
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self, name: str) -> None:
        """There is something to do for a loop: it does not wait for its tick."""
        self._woken[name].set()


class ClockWatch:
    """Keeps the ledger's clock near the wall clock, and says once that it cannot."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def look(self) -> None:
        alarm = self._clock.alarm
        self._clock.follow()
        if self._clock.alarm and not alarm:
            log.error("clock", alarm=self._clock.alarm)


async def last_sweep(ledger: Ledger) -> None:
    """Before a process ends: what it has refused since its last sweep is written down, if the ledger takes it."""
    with suppress(LedgerUnavailable, TimeoutError):
        async with asyncio.timeout(LAST_SWEEP_SECONDS):
            await sweep(ledger)


async def _every(seconds: float, step: Callable[[], Awaitable[object]], woken: asyncio.Event) -> None:
    while True:
        try:
            await step()
        except LedgerUnavailable:
            pass  # the ledger has said why; the next tick asks again
        except Exception:
            log.exception("a loop failed and goes on at its next tick", loop=asyncio.current_task())
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation that meets the event
                await woken.wait()
        woken.clear()
