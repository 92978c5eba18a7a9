"""How long somebody in the line will wait: an interval, learned from the pace at which places are called.

`head` is the highest place that has had its turn (`core/waiting_room.py`). It rises with those who are let in and with
those who are passed over, so its pace is what a waiting person feels, however many of those before him have gone.

The pace is measured from one movement of the head to another, in blocks of some seconds, and older blocks count less
and less. Not measured is what says nothing about the pace: a time in which nobody waits, a pause, and the seconds after
either, in which a full token bucket empties at once. It begins as if it had gone at the configured rate for a while.

What is told is not the measured pace but one that follows it in steps, when it is off by more than a quarter. So two
things hold that people notice. A likely wait is `places ahead / pace told`, and the places ahead never become more: it
can only grow where the pace told was lowered. And whenever that was done, a reason says so, for longer than anybody
takes to ask again.

A Pace is a few numbers. Where several processes answer, one should measure and the others use its Pace, or two of
them will tell one person two things.
"""

import math
from enum import StrEnum
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

REASON_MS = 120_000
"""So long a lowered pace is given a reason: everybody asks again before that."""
OFF = 0.25
"""The pace told follows the measured one when it is off by more than this part."""
BLOCK_SECONDS = 2.0
MEASURED_SECONDS = 10.0
"""From so much on the pace counts as measured."""
SETTLING_MS = 5_000
"""After a start or a pause what has been saved up goes through."""
PAUSE_SECONDS = 5.0
"""Without a movement for so long, or for some times as long as is usual, the line stands still."""
MEMORY_SECONDS = (25.0, 300.0)
"""How long a block counts, at least and at most; between them as long as it takes to call MEMORY_PLACES."""
MEMORY_PLACES = 20.0


class Reason(StrEnum):
    """Why a wait cannot be said well, or has become longer."""

    BEFORE_START = "BEFORE_START"
    """The places have not been drawn."""
    STARTING = "STARTING"
    """Nothing has been measured: it is what the configured rate makes."""
    SLOWED = "SLOWED"
    """It goes more slowly than it did, or much more slowly than was configured."""
    PAUSED = "PAUSED"
    """The line stands still. The wait is counted from when it goes on."""


class Estimate(NamedTuple):
    low_seconds: int
    likely_seconds: int
    high_seconds: int
    reason: Reason | None


SPREAD: dict[Reason | None, tuple[float, float]] = {
    None: (0.75, 1.35),
    Reason.STARTING: (0.5, 2.0),
    Reason.SLOWED: (0.6, 1.6),
    Reason.PAUSED: (1.0, 3.0),
}
"""Low and high as parts of likely."""


class Pace(msgspec.Struct):
    """How fast the head rises. Of fixed size, and plain numbers: it can be kept and handed on."""

    admit_per_second: float
    burst: int = 0
    told_per_second: float = 0.0
    places: float = 0.0
    """Called in `seconds`, with the weight they still have."""
    seconds: float = 0.0
    measured_seconds: float = 0.0
    head: int = -1
    seen_ms: int = 0
    moved_ms: int = 0
    """When the head was last seen to move, or nobody to wait."""
    gap_seconds: float = 0.0
    """The longest time between two movements, lately."""
    block_ms: int | None = None
    """The block under measurement, from a movement on."""
    block_head: int = 0
    settled_ms: int | None = None
    """From when on it is measured; None before the first movement."""
    saved: int = 0
    """Places that a full bucket lets in at the start."""
    slowed_until_ms: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.admit_per_second < math.inf:
            raise ValueError(f"a pace is above 0, not {self.admit_per_second}")
        if self.told_per_second:
            return
        self.told_per_second = self.admit_per_second
        self.seconds = self._memory() / 2
        self.places = self.seconds * self.admit_per_second

    def look(self, now_ms: int, head: int, last: int | None = None) -> None:
        """Tells it where the head is, from when on people are let in; `last` is the highest place there is."""
        if self.head < 0:
            self.head, self.seen_ms, self.moved_ms = head, now_ms, now_ms
            self.saved = self.burst if head == 0 else 0
            return
        if now_ms <= self.seen_ms or head < self.head:
            return
        moved, self.head, self.seen_ms = head - self.head, head, now_ms
        if moved:
            self._move(now_ms, moved)
        if last is not None and head >= last:
            self._rest(now_ms)
        self._settle(now_ms)

    def under(self, admit_per_second: float, burst: int) -> "Pace":
        """What is to be expected when the configured rate is this one. It begins anew with it; but where something
        else than the rate has held the line up, and would hold it up now, what was measured goes on."""
        if self.head < 0 and (admit_per_second, burst) != (self.admit_per_second, self.burst):
            return Pace(admit_per_second, burst)
        if admit_per_second == self.admit_per_second:
            return self
        if self.told_per_second < min(self.admit_per_second / 2, admit_per_second):
            return replace(self, admit_per_second=admit_per_second)
        saved = burst if self.head == 0 else 0
        return Pace(admit_per_second, burst, head=self.head, seen_ms=self.seen_ms, moved_ms=self.seen_ms, saved=saved)

    def stands_still(self, now_ms: int) -> bool:
        return self.head >= 0 and now_ms - self.moved_ms > self._pause_ms()

    def _move(self, now_ms: int, moved: int) -> None:
        paused, gap = self.stands_still(now_ms), (now_ms - self.moved_ms) / 1000
        fading = self.gap_seconds * math.exp(-gap / MEMORY_SECONDS[1])
        self.gap_seconds = max(fading, min(gap, 2 * self._pause_ms() / 1000))
        self.moved_ms = now_ms
        if paused or self.settled_ms is None:
            self.block_ms, self.settled_ms = None, now_ms + SETTLING_MS
        self.saved = max(0, self.saved - moved)
        if now_ms >= self.settled_ms:
            self._measure(now_ms)

    def _rest(self, now_ms: int) -> None:
        """Nobody waits: whatever comes now says nothing, and a bucket fills."""
        self.moved_ms, self.block_ms = now_ms, None
        if self.settled_ms is not None:
            self.settled_ms = now_ms + SETTLING_MS

    def _settle(self, now_ms: int) -> None:
        """What a full bucket would have let in, and has not, takes its time like everybody."""
        if self.saved and self.settled_ms is not None and now_ms >= self.settled_ms:
            self.saved, self.slowed_until_ms = 0, now_ms + REASON_MS

    def _measure(self, now_ms: int) -> None:
        if self.block_ms is None:
            self.block_ms, self.block_head = now_ms, self.head
            return
        seconds = (now_ms - self.block_ms) / 1000
        if seconds < max(BLOCK_SECONDS, 2 * self.gap_seconds):
            return
        kept = math.exp(-seconds / self._memory())
        self.places = self.places * kept + self.head - self.block_head
        self.seconds = self.seconds * kept + seconds
        self.measured_seconds += seconds
        self.block_ms, self.block_head = now_ms, self.head
        self._follow(now_ms)

    def _follow(self, now_ms: int) -> None:
        measured = self.places / self.seconds
        if abs(measured - self.told_per_second) <= OFF * self.told_per_second:
            return
        if measured < self.told_per_second:
            self.slowed_until_ms = now_ms + REASON_MS
        self.told_per_second = measured

    def _memory(self) -> float:
        least, most = MEMORY_SECONDS
        return min(max(least, MEMORY_PLACES / self.told_per_second, 6 * self.gap_seconds), most)

    def _pause_ms(self) -> float:
        return 1000 * max(PAUSE_SECONDS, 10 / self.told_per_second, 1.5 * self.gap_seconds)


def estimate(pace: Pace, ahead: int, now_ms: int, why: Reason | None = None) -> Estimate:
    """The wait of somebody whose place is known. `why`: a reason that is known and need not be measured."""
    seconds = max(0, ahead + 1 - pace.saved) / pace.told_per_second
    reason = why or _reason(pace, now_ms)
    low, high = SPREAD[reason]
    return Estimate(math.floor(low * seconds), math.ceil(seconds), math.ceil(high * seconds), reason)


def estimate_before_draw(pace: Pace, entrants: int, starts_at_ms: int, now_ms: int) -> Estimate:
    """The wait of somebody who takes part in a draw: each of the places is as likely as any other."""
    start = max(0, starts_at_ms - now_ms) / 1000
    line = max(0, entrants - pace.burst) / pace.told_per_second
    return Estimate(math.floor(start), math.ceil(start + line / 2), math.ceil(start + 1.35 * line), Reason.BEFORE_START)


def came_true(told_seconds: float, real_seconds: float) -> bool:
    """Whether a real wait was within half of the likely one; a second, the unit in which it is told, is never off."""
    return abs(real_seconds - told_seconds) <= max(told_seconds / 2, 1.0)


def _reason(pace: Pace, now_ms: int) -> Reason | None:
    if pace.stands_still(now_ms):
        return Reason.PAUSED
    if pace.measured_seconds < MEASURED_SECONDS:
        return Reason.STARTING
    if now_ms < pace.slowed_until_ms or pace.told_per_second < pace.admit_per_second / 2:
        return Reason.SLOWED
    return None
