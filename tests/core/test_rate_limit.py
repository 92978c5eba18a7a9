"""What the buckets of a process promise: exactly the limit at any way of asking, whole requests, bounded memory."""

from collections.abc import Iterable
from fractions import Fraction

import pytest

from flashsale.core.limits import Bucket, inside, rates_of
from flashsale.core.rate_limit import Buckets, Draft
from flashsale.core.thresholds import Thresholds

SECONDS = 60
PATTERNS: dict[str, Iterable[int]] = {
    "steadily at the limit": range(0, SECONDS * 1000, 100),
    "steadily below the limit": range(0, SECONDS * 1000, 130),
    "just too fast": range(0, SECONDS * 1000, 99),
    "1,000 times a second": range(0, SECONDS * 1000, 1),
    "in bursts larger than the bucket": [second * 1000 for second in range(0, SECONDS, 7) for _ in range(50)],
    "in bursts as large as the bucket": [second * 1000 for second in range(0, SECONDS, 2) for _ in range(20)],
    "hammering with pauses": [at for at in range(SECONDS * 1000) if at // 1000 % 10 < 3],
    "in pairs": [at + more for at in range(0, SECONDS * 1000, 200) for more in (0, 1)],
}


def ideal(times: Iterable[int], rate: int, burst: int, early_ms: int = 0) -> int:
    """What a bucket allows that is counted in fractions; what is there `early_ms` later is there now."""
    room = 1 - Fraction(early_ms * rate, 1000)
    content, last, allowed = Fraction(burst), 0, 0
    for at in times:
        content = min(Fraction(burst), content + Fraction((at - last) * rate, 1000))
        last = at
        if content >= room:
            content -= 1
            allowed += 1
    return allowed


def wanted(rate: float, burst: int) -> list[Bucket]:
    return inside(rates_of(Thresholds(user_per_second=rate, user_burst=burst)), "ann", None)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("burst", [1, 10, 25])
def test_a_limit_is_exact_within_1_percent_however_it_is_asked(pattern, burst):
    buckets, bucket = Buckets(10), wanted(10, burst)
    allowed = sum(buckets.admits(bucket, at * 1000.0) for at in PATTERNS[pattern])
    least, most = ideal(PATTERNS[pattern], 10, burst), ideal(PATTERNS[pattern], 10, burst, early_ms=1)
    assert least * 0.99 <= allowed <= most * 1.01, (least, allowed, most)
    assert allowed <= (10 * SECONDS + burst) * 1.01


@pytest.mark.parametrize("pattern", PATTERNS)
def test_to_be_admitted_and_to_be_answered_is_the_same(pattern):
    fast, slow, bucket = Buckets(10), Buckets(10), wanted(10, 10)
    draft = Draft("u:ann", 10, 10)
    times = [at * 1000.0 for at in PATTERNS[pattern]]
    assert [fast.admits(bucket, at) for at in times] == [slow.take(draft, at).allowed for at in times]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_fast_limit_is_exact_when_it_is_asked_more_often_than_a_draft_takes(pattern):
    fast, slow, bucket, draft = Buckets(10), Buckets(10), wanted(2_000, 1), Draft("u:ann", 2_000, 1)
    times = [each / 10 for each in range(50_000)]  # ten times for each draft: a second in all
    allowed = sum(fast.admits(bucket, at * 1000) for at in times)
    told = sum(slow.take_together([draft], at * 1000)[0].allowed for at in times)
    assert allowed == told == pytest.approx(10_000, rel=0.01)


def test_who_asks_a_thousand_times_a_second_gains_nothing_over_who_asks_at_the_limit():
    hammering, steady, bucket = Buckets(10), Buckets(10), wanted(10, 10)
    hammered = sum(hammering.admits(bucket, at * 1000.0) for at in range(SECONDS * 1000))
    asked = sum(steady.admits(bucket, at * 1000.0) for at in range(0, SECONDS * 1000, 100))
    assert asked == SECONDS * 10
    assert hammered - asked <= 10, "the burst, once"


def test_who_is_refused_by_one_bucket_takes_nothing_out_of_the_others():
    buckets = Buckets(10)
    rates = rates_of(Thresholds(user_per_second=1, user_burst=1, sale_per_second=1, sale_burst=10))
    both = inside(rates, "ann", None, "S1")
    assert [buckets.admits(both, 0.0) for _ in range(5)] == [True] + [False] * 4
    others = [inside(rates, f"user-{number}", None, "S1") for number in range(10)]
    assert [buckets.admits(each, 0.0) for each in others] == [True] * 9 + [False]


def test_buckets_are_bounded_and_those_that_were_not_asked_for_lately_are_forgotten():
    buckets = Buckets(8)
    drafts = {name: Draft(name, 0.001, 1) for name in "abcdefghijkl"}
    for name in "abcdefg":
        buckets.take(drafts[name], 0.0)
    assert not buckets.take(drafts["a"], 0.0).allowed  # asked for again: it is among the latest now
    for name in "hi":
        buckets.take(drafts[name], 0.0)
    assert [buckets.take(drafts[name], 0.0).allowed for name in "aghi"] == [False] * 4
    assert buckets.take(drafts["b"], 0.0).allowed


def test_whoever_fills_the_memory_with_buckets_fills_no_more_than_there_is():
    buckets = Buckets(100)
    rates = rates_of(Thresholds(user_per_second=1))
    for number in range(1000):
        buckets.admits(inside(rates, f"user-{number}", None), 0.0)
    assert 50 <= len(buckets) <= 100


def test_a_request_that_is_refused_pushes_no_bucket_out():
    buckets, full, door = Buckets(100), Draft("address", 0.01, 1), Draft("victim", 0.01, 1)
    assert buckets.take(full, 0.0).allowed
    assert buckets.take(door, 0.0).allowed
    for number in range(1_000):
        told = buckets.take_together([full, Draft(f"user-{number}", 1, 5)], 1.0)
        assert [each.allowed for each in told] == [False, True]
    assert len(buckets) == 2
    assert not buckets.take(door, 1.0).allowed
