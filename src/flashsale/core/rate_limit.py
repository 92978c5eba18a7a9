"""Rate limits: the generic cell rate algorithm (GCRA), one number for each bucket.

A bucket holds `burst` and gains `rate_per_second`. Instead of counting what is in it, it is remembered when it will be
full again; the time from now until then is what is owed. A draft of cost n adds n intervals to it and is allowed if no
more than a whole burst is owed then. A refused draft costs nothing.

Times are microseconds from ORIGIN_US on, as floats: near the origin they are exact to 1/64 us, so that rates above
10,000 a second come out right. What is owed is never more than a burst, and whoever looks writes that down: neither a
clock that is set back by an hour nor a rate that was a thousand times lower closes a bucket for longer than what is in
force now. `lua/buckets.lua` does the same inside Redis.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from flashsale.core.lately import Lately

ORIGIN_US = 1_700_000_000_000_000
TOLERANCE_US = 1000.0
"""Drafts are allowed so much early (half an interval at most): rounding must not refuse the last one of a burst."""


class Pace(NamedTuple):
    """What a bucket goes by, in microseconds."""

    interval: float
    """In which it gains 1."""
    whole: float
    """In which it gains its burst."""
    room: float
    """How much may be owed."""


class Paced(Protocol):
    @property
    def pace(self) -> Pace: ...


def pace_of(rate_per_second: float, burst: int) -> Pace:
    interval = 1_000_000.0 / rate_per_second
    whole = burst * interval
    return Pace(interval, whole, whole + min(TOLERANCE_US, interval / 2))


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """So much is to be taken out of a bucket. A cost above the burst is never allowed."""

    bucket: str
    rate_per_second: float
    burst: int
    cost: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.rate_per_second < math.inf and self.burst >= 1 and self.cost >= 0):
            raise ValueError(f"{self}: a bucket has a rate above 0 and a burst of at least 1, a cost is not below 0")


class Allowance(NamedTuple):
    allowed: bool
    remaining: int
    """What could be taken at once after this."""
    retry_after_ms: int
    """When the draft would be allowed; 0 if it was."""
    reset_ms: int
    """When the bucket will be full again."""


def after_one(full_at_us: float, pace: Pace, now_us: float) -> float | None:
    """When the bucket will be full after a draft of one; None: it is refused. Written for speed: this is `take` without
    an answer."""
    interval, _, room = pace
    owed = full_at_us - now_us
    owed = interval if owed < 0.0 else owed + interval
    return None if owed > room else now_us + owed


def at_us(now_ms: int) -> float:
    return float(now_ms * 1000 - ORIGIN_US)


def take(full_at_us: float, draft: Draft, now_us: float) -> tuple[float, Allowance]:
    """When the bucket will be full after the draft, and the draft's answer. A new bucket has been full since 0."""
    interval, whole, room = pace_of(draft.rate_per_second, draft.burst)
    before = min(max(full_at_us - now_us, 0.0), room)
    after = before + draft.cost * interval
    allowed = after <= room
    owed = after if allowed else before
    remaining = max(math.floor((room - owed) / interval), 0)
    retry_after_ms = 0 if allowed else math.ceil(min(after - whole, whole) / 1000)
    return now_us + owed, Allowance(allowed, min(remaining, draft.burst), retry_after_ms, math.ceil(owed / 1000))


class Buckets:
    """The buckets of one process, `most` of them at most: what was not asked for lately makes room (`core/lately.py`),
    and a bucket that was forgotten allows one burst more."""

    def __init__(self, most: int) -> None:
        self._full_at_us: Lately[float] = Lately(most)

    def __len__(self) -> int:
        return len(self._full_at_us)

    def take(self, draft: Draft, now_us: float) -> Allowance:
        full_at_us, answer = take(self._known(draft), draft, now_us)
        self._full_at_us.set(draft.bucket, full_at_us)
        return answer

    def take_together(self, drafts: Sequence[Draft], now_us: float) -> list[Allowance]:
        """All of them or none: while one is refused, the others are told what they would have been, and pay nothing."""
        tried = [take(self._known(draft), draft, now_us)[1] for draft in drafts]
        together = all(answer.allowed for answer in tried)
        return [
            self.take(draft, now_us) if together or not answer.allowed else self._look(draft, now_us)
            for draft, answer in zip(drafts, tried, strict=True)
        ]

    def _look(self, draft: Draft, now_us: float) -> Allowance:
        """Nothing is taken out, and so nothing is remembered: a refusal must not push others out. But what is owed too
        much is let off."""
        known = self._known(draft)
        full_at_us, answer = take(known, Draft(draft.bucket, draft.rate_per_second, draft.burst, 0), now_us)
        if full_at_us < known:
            self._full_at_us.set(draft.bucket, full_at_us)
        return answer

    def admits(self, wanted: Sequence[tuple[str, Paced]], now_us: float) -> bool:
        """One out of each of these buckets, each another one; or none out of any. Nobody is told how they stand."""
        kept = self._full_at_us
        new, old = kept.new, kept.old
        paid: dict[str, float] = {}
        for name, limit in wanted:
            full_at_us = new.get(name)
            after = after_one(old.get(name, 0.0) if full_at_us is None else full_at_us, limit.pace, now_us)
            if after is None:
                return False
            paid[name] = after
        new.update(paid)
        if len(new) >= kept.half:
            kept.age()
        return True

    def forget(self, names: Sequence[str]) -> None:
        """They are full again."""
        for name in names:
            self._full_at_us.forget(name)

    def _known(self, draft: Draft) -> float:
        return self._full_at_us.get(draft.bucket) or 0.0
