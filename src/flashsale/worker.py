"""The loops beside the requests, supervised: sweep what has lapsed, resume what is owed to providers, publish events.

A loop that fails is logged and goes on at its next tick: these loops only repeat what is safe to repeat.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from flashsale.flow.expire import TICK_SECONDS, sweep
from flashsale.flow.publish import TICK_SECONDS as PUBLISH_SECONDS
from flashsale.flow.publish import Publishing
from flashsale.flow.settle import Settling
from flashsale.flow.watch import LOOK_SECONDS, Watch
from flashsale.ports import Clock, Ledger, LedgerUnavailable

RESUME_SECONDS = 1.0

log = structlog.get_logger("flashsale.worker")


class Worker:
    """An async context: the loops run inside it."""

    def __init__(
        self,
        ledger: Ledger,
        settling: Settling,
        clock: Clock,
        watch: Watch | None = None,
        publishing: Publishing | None = None,
    ) -> None:
        """`watch`: of a ledger that other processes write too. `publishing`: where there is a broker."""
        self._ledger = ledger
        self._watch = watch
        self._publishing = publishing
        self._settling = settling
        self._clock = clock
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Worker":
        self._tasks = [
            asyncio.create_task(_every(TICK_SECONDS, self._sweep, asyncio.Event()), name="sweep"),
            asyncio.create_task(_every(RESUME_SECONDS, self._settling.resume, self._woken), name="resume"),
        ]
        if self._watch is not None:
            self._tasks.append(
                asyncio.create_task(_every(LOOK_SECONDS, self._watch.look, asyncio.Event()), name="watch")
            )
        if self._publishing is not None:
            self._tasks.append(
                asyncio.create_task(_every(PUBLISH_SECONDS, self._publishing.publish, asyncio.Event()), name="publish")
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wake(self) -> None:
        """There is something to resume: do not wait for the tick."""
        self._woken.set()

    async def _sweep(self) -> int:
        alarm = self._clock.alarm
        self._clock.follow()
        if self._clock.alarm and not alarm:
            log.error("clock", alarm=self._clock.alarm)
        return await sweep(self._ledger)


async def _every(seconds: float, step: Callable[[], Awaitable[int]], woken: asyncio.Event) -> None:
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
