"""The ledger's clock on one machine: it follows the wall clock and never jumps with it.

A reservation lives by this clock, so a jump of the wall clock must neither open a sale early nor expire
everything that is held. Time therefore advances with the monotonic clock, starting from the wall clock at
the start of the process. A small difference that appears later (NTP slewing, a leap second) is followed
slowly, at most 1 part in 20. A difference above five seconds is somebody's mistake: it is not followed but
reported, and goes away when the wall clock comes back or the process is restarted.
"""

import time
from collections.abc import Callable

DRIFT_MAX_MS = 5_000
FOLLOW_PART = 20


class SteadyClock:
    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._checked_ns = monotonic_ns()
        self._offset_ms = wall_ns() // 1_000_000 - self._checked_ns // 1_000_000
        self._floor_ms = 0
        self._drift_ms = 0
        self._alarm: str | None = None

    def now_ms(self) -> int:
        now_ms = self._monotonic_ns() // 1_000_000 + self._offset_ms
        return now_ms if now_ms > self._floor_ms else self._floor_ms

    def follow(self) -> None:
        """Compares with the wall clock. To be called regularly; the sweeper does, on every tick."""
        monotonic_ns = self._monotonic_ns()
        passed_ms = (monotonic_ns - self._checked_ns) // 1_000_000
        drift_ms = self._wall_ns() // 1_000_000 - monotonic_ns // 1_000_000 - self._offset_ms
        self._drift_ms = drift_ms
        self._checked_ns += passed_ms * 1_000_000
        if abs(drift_ms) > DRIFT_MAX_MS:
            self._alarm = (
                f"the wall clock is {drift_ms / 1000:+.1f} s away from the ledger's clock, which does not follow it: "
                "set the machine's clock right, or restart flashsale if it is right now"
            )
            return
        self._alarm = None
        self._floor_ms = self.now_ms()  # following backwards is standing still for a while
        step_ms = min(abs(drift_ms), passed_ms // FOLLOW_PART)
        self._offset_ms += step_ms if drift_ms > 0 else -step_ms

    def hear(self, told_ms: int) -> int:
        """A store on this machine has no other clock than ours."""
        return self.now_ms()

    @property
    def drift_ms(self) -> int:
        return self._drift_ms

    @property
    def alarm(self) -> str | None:
        return self._alarm


class HeardClock:
    """The ledger's clock where the ledger is a server: it is heard with every batch, and kept running in between.

    All processes of a fleet hear the same clock, so their own ones need not agree. A jump of the heard clock is no
    more followed than one of the wall clock.
    """

    def __init__(self, monotonic_ns: Callable[[], int] = time.monotonic_ns, wall_ns: Callable[[], int] = time.time_ns):
        self._monotonic_ns = monotonic_ns
        self._offset_ms = wall_ns() // 1_000_000 - monotonic_ns() // 1_000_000
        self._floor_ms = 0
        self._heard = False
        self._drift_ms = 0
        self._alarm: str | None = None

    def now_ms(self) -> int:
        now_ms = self._monotonic_ns() // 1_000_000 + self._offset_ms
        return now_ms if now_ms > self._floor_ms else self._floor_ms

    def hear(self, told_ms: int) -> int:
        drift_ms = told_ms - self.now_ms()
        self._drift_ms = drift_ms if self._heard else 0
        if self._heard and abs(drift_ms) > DRIFT_MAX_MS:
            self._alarm = (
                f"the database's clock has jumped by {drift_ms / 1000:+.1f} s and is not followed: set it right, or "
                "restart flashsale if it is right now"
            )
            return self.now_ms()
        self._alarm = None
        if self._heard:
            self._floor_ms = max(self._floor_ms, self.now_ms())
        self._heard = True
        self._offset_ms = told_ms - self._monotonic_ns() // 1_000_000
        return self.now_ms()

    def follow(self) -> None:
        """What there is to follow is heard."""

    @property
    def drift_ms(self) -> int:
        return self._drift_ms

    @property
    def alarm(self) -> str | None:
        return self._alarm
