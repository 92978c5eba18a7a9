"""A line of people before a sale, second by second, and what they are told: for the tests of the estimated wait."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from flashsale.core.wait_estimate import Estimate, Pace, came_true, estimate

LOOK_MS = 250
POLL_MS = 5_000
START_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Told:
    at_ms: int
    place: int
    first: bool
    estimate: Estimate
    real_seconds: float

    @property
    def came_true(self) -> bool:
        return came_true(self.estimate.likely_seconds, self.real_seconds)

    @property
    def within(self) -> bool:
        return (
            self.estimate.low_seconds <= self.real_seconds + 1 and self.real_seconds <= self.estimate.high_seconds + 1
        )


@dataclass
class Line:
    """Places from 1 on. `rate` says how many are let in a second at a time; some of the people go without a word."""

    people: int
    rate: Callable[[float], float]
    burst: int = 100
    configured: float | None = None
    arrive_per_second: float = 0.0
    gone: float = 0.0
    patience_seconds: float = 0.0
    """How long those of them who go stay on average; 0: they were never there."""
    max_active: int | None = None
    shopping_seconds: float = 40.0
    seed: int = 1
    seconds: float = 3600.0
    stays_until: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    turns: list[tuple[float, int]] = field(default_factory=list)
    """(time, head) after each movement."""

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        for _ in range(self.people):
            self._arrive(0.0)

    def _arrive(self, at: float) -> None:
        goes = self.chance.random() < self.gone
        stays = self.chance.expovariate(1 / self.patience_seconds) if self.patience_seconds else 0.0
        self.arrived.append(at)
        self.stays_until.append(at + stays if goes else math.inf)

    def run(self) -> Iterator[tuple[int, int]]:
        """(now_ms, head) at each look, until nobody waits any more."""
        step, bucket, head, due = LOOK_MS / 1000, float(self.burst), 0, 0.0
        active: list[float] = []
        now = 0.0
        while now < self.seconds and (head < len(self.arrived) or now == 0):
            yield START_MS + round(now * 1000), head
            now += step
            bucket = min(float(max(self.burst, 1)), bucket + self.rate(now) * step) if self.rate(now) else 0.0
            due += self.arrive_per_second * step
            while due >= 1:
                self._arrive(now)
                due -= 1
            active = [until for until in active if until > now]
            before = head
            while head < len(self.arrived):
                stays = self.stays_until[head] > now
                full = self.max_active is not None and len(active) >= self.max_active
                if full or bucket < 1:
                    break
                head += 1
                if stays:
                    bucket -= 1
                    active.append(now + self.chance.expovariate(1 / self.shopping_seconds))
            if head > before:
                self.turns.append((now, head))


def watched(line: Line, pace: Pace) -> list[Told]:
    """What a hundred and more of the people are told: when they come, and whenever they ask."""
    said: list[tuple[int, int, bool, Estimate]] = []
    known = 0
    asked = 0
    for now_ms, head in line.run():
        last = len(line.arrived)
        pace.look(now_ms, head, last)
        new = range(known + 1, last + 1)
        known = last
        every = max(1, line.people // 150)
        said += [(now_ms, place, True, estimate(pace, place - head - 1, now_ms)) for place in new if place % every == 0]
        if now_ms - asked >= POLL_MS:
            asked = now_ms
            waiting = [place for place in range(head + 1, last + 1) if place % every == 0]
            said += [(now_ms, place, False, estimate(pace, place - head - 1, now_ms)) for place in waiting]
    return list(_with_what_came(line, said))


def _with_what_came(line: Line, said: list[tuple[int, int, bool, Estimate]]) -> Iterator[Told]:
    turn_of: dict[int, float] = {}
    head = 0
    for at, to in line.turns:
        turn_of.update(dict.fromkeys(range(head + 1, to + 1), at))
        head = to
    for now_ms, place, first, each in said:
        real = turn_of.get(place)
        now = (now_ms - START_MS) / 1000
        if real is not None and line.stays_until[place - 1] >= real:
            yield Told(now_ms, place, first, each, real - now)


def share(told: list[Told]) -> float:
    return sum(each.came_true for each in told) / len(told)
