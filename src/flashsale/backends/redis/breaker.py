"""The circuit breaker before a gate: calls that would only wait for their time-out are not made.

FAILURES_MAX failures in a row open it; a success in between forgets them. Open, every call is refused at once. From the
first failure on, one probe a second goes through (open, that is half open). The breaker makes it itself, so that no
buyer waits for it, recovery needs no traffic, and no trouble is told for longer than it lasts. A probe that succeeds
closes the breaker.

It is not purgatory, which was looked at: there, all callers go through while it is half open, the caller is the probe,
and the wait is measured with the wall clock, so that a clock set back keeps it open.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from flashsale.ports import GateAway

FAILURES_MAX = 5
PROBE_SECONDS = 1.0

log = structlog.get_logger("flashsale.gate")


class Breaker:
    """For one event loop."""

    def __init__(self, probe: Callable[[], Awaitable[None]], healed: Callable[[], None]) -> None:
        """`probe` does what the calls do, and raises GateAway when that fails. `healed`: after a success of either."""
        self.trouble: str | None = None
        """Why the last call failed; None when it did not."""
        self.probe = probe
        self._healed = healed
        self._failures = 0
        self._open = False
        self._probing: asyncio.Task[None] | None = None
        self._asleep = False

    def require_closed(self) -> None:
        """Raises GateAway."""
        if self._open:
            raise GateAway(self.trouble)

    def succeeded(self) -> None:
        """While it is open or a probe is under way, that decides: calls of before may still succeed."""
        if self._probing is not None and self._asleep and not self._open:
            self._probing.cancel()
            self._heal()

    def failed(self, why: str) -> None:
        self.trouble = why
        self._failures += 1
        if self._probing is None:
            self._asleep = True
            self._probing = asyncio.create_task(self._until_well(), name="gate probe")
        if self._failures >= FAILURES_MAX:
            self.open(why)

    def open(self, why: str) -> None:
        """At once."""
        if self._open:
            return
        self._open = True
        log.warning("the gate is away", why=why)
        if self._probing is None:
            self.failed(why)

    async def close(self) -> None:
        """No more probes."""
        if self._probing is not None:
            self._probing.cancel()
            with suppress(asyncio.CancelledError):
                await self._probing

    async def _until_well(self) -> None:
        while True:
            self._asleep = True
            await asyncio.sleep(PROBE_SECONDS)
            self._asleep = False
            if await self._is_well():
                break
        if self._open:
            log.info("the gate is back", failures=self._failures)
        self._heal()

    def _heal(self) -> None:
        self.trouble, self._failures, self._open, self._probing = None, 0, False, None
        self._healed()

    async def _is_well(self) -> bool:
        try:
            await self.probe()
        except GateAway as away:
            self.trouble = str(away)
        except Exception as error:
            self.trouble = f"{type(error).__name__} in a probe"
            log.exception("a probe of the gate failed")
        else:
            return True
        self._failures += 1
        return False
