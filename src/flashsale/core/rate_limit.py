"""Rate limits: the generic cell rate algorithm (GCRA), one number for each bucket.

A bucket holds `burst` and gains `rate_per_second`. Instead of counting what is in it, it is remembered when it will be
full again; the time from now until then is what is owed. A draft of cost n adds n intervals to it and is allowed if no
more than a whole burst is owed then. A refused draft costs nothing.

Times are microseconds from ORIGIN_US on, as floats: near the origin they are exact to 1/64 us, so that rates above
10,000 a second come out right. What is owed is never more than a burst: a clock that is set back by an hour must not
close a bucket for an hour. `lua/buckets.lua` does the same inside Redis.
"""

import math
from typing import NamedTuple

import msgspec

ORIGIN_US = 1_700_000_000_000_000
TOLERANCE_US = 1000.0
"""Drafts are allowed so much early (half an interval at most): rounding must not refuse the last one of a burst."""


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


def take(full_at_us: float, draft: Draft, now_us: float) -> tuple[float, Allowance]:
    """When the bucket will be full after the draft, and the draft's answer. A new bucket has been full since 0."""
    interval = 1_000_000.0 / draft.rate_per_second
    whole = draft.burst * interval
    room = whole + min(TOLERANCE_US, interval / 2)
    before = min(max(full_at_us - now_us, 0.0), whole)
    after = before + draft.cost * interval
    allowed = after <= room
    owed = after if allowed else before
    remaining = max(math.floor((room - owed) / interval), 0)
    retry_after_ms = 0 if allowed else math.ceil(min(after - whole, whole) / 1000)
    full_at_us = now_us + owed if allowed else full_at_us
    return full_at_us, Allowance(allowed, min(remaining, draft.burst), retry_after_ms, math.ceil(owed / 1000))
