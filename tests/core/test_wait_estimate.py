"""The estimated wait: what people are told comes true, and it only becomes longer where a reason says why."""

import math
from collections.abc import Callable, Iterator

import msgspec
import pytest
from core.line import START_MS, Line, Told, share, watched
from hypothesis import example, given
from hypothesis import strategies as st

from flashsale.core.wait_estimate import (
    REASON_MS,
    Estimate,
    Pace,
    Reason,
    came_true,
    estimate,
    estimate_before_draw,
)

MINUTE = 60.0
TARGET = 0.9
NOTICED = 20.0
"""Seconds after which a change is in what people are told."""

Rate = Callable[[float], float]


def constant(rate: float) -> Rate:
    return lambda _: rate


def halved(rate: float, at: float) -> Rate:
    return lambda now: rate if now < at else rate / 2


def paused(rate: float, at: float, until: float) -> Rate:
    return lambda now: 0.0 if at <= now < until else rate


def firsts(told: list[Told]) -> list[Told]:
    return [each for each in told if each.first]


def between(told: list[Told], at: float, until: float = math.inf) -> list[Told]:
    """What was told in that time, in seconds from the start, and came to an end in it."""
    lasting = [(each, (each.at_ms - START_MS) / 1000) for each in told]
    return [each for each, now in lasting if at <= now and now + each.real_seconds <= until]


def unexplained(told: list[Told]) -> list[Told]:
    """What was longer than the same person had been told before, without a reason."""
    before: dict[int, int] = {}
    found = []
    for each in told:
        likely = each.estimate.likely_seconds
        if likely > before.get(each.place, likely) and each.estimate.reason is None:
            found.append(each)
        before[each.place] = likely
    return found


def assert_true(told: list[Told]) -> None:
    """It came true for nine of ten at least."""
    part = share(told)
    assert part >= TARGET


def assert_explained(told: list[Told]) -> None:
    found = unexplained(told)
    assert found == []


def reasons(told: list[Told]) -> set[Reason | None]:
    return {each.estimate.reason for each in told}


# -- What people are told comes true. Each sale lasts ten minutes, at 10 places a second or at 1.


@pytest.mark.parametrize("rate", [1.0, 10.0])
@pytest.mark.parametrize("bursts", [1, 10])
def test_at_a_constant_pace_what_is_told_comes_true_first_and_along_the_way(rate, bursts):
    told = watched(line := Line(int(600 * rate), constant(rate), burst=int(bursts * rate)), Pace(rate, line.burst))
    assert_true(firsts(told))
    assert_true(told)
    within = sum(each.within for each in told)
    assert within >= TARGET * len(told)
    assert reasons(told) == {Reason.STARTING, None}
    assert_explained(told)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_who_joins_a_line_that_stays_as_long_as_it_is_is_told_the_truth(rate):
    line = Line(int(100 * rate), constant(rate), burst=int(rate), arrive_per_second=rate, seconds=20 * MINUTE)
    told = watched(line, Pace(rate, line.burst))
    assert_true(firsts(told))
    assert_true(told)
    assert_explained(told)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_where_30_percent_are_gone_when_their_turn_comes_it_still_comes_true(rate):
    """Some never show up, some lose patience: the head goes past them, and so all others are faster."""
    for patience in (0.0, 200.0):
        line = Line(int(600 * rate), constant(rate), burst=int(rate), gone=0.3, patience_seconds=patience)
        told = watched(line, Pace(rate, line.burst))
        assert_true(firsts(told))
        assert_true(told)
        assert_explained(told)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_a_pace_that_is_halved_in_the_middle_is_noticed_within_seconds_and_said(rate):
    """Nobody can tell a change before it comes: whose wait it falls into was told too little along the way."""
    line = Line(int(600 * rate), halved(rate, at=300), burst=int(rate))
    told = watched(line, Pace(rate, line.burst))
    assert_true(firsts(told))
    assert_true(between(told, 0, 300))
    after = between(told, 300 + NOTICED)
    assert_true(after)
    assert Reason.SLOWED in reasons(between(told, 300, 300 + REASON_MS / 1000))
    assert_explained(told)


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_a_pause_is_said_and_when_it_goes_on_what_is_told_comes_true(rate):
    line = Line(int(600 * rate), paused(rate, at=200, until=320), burst=int(rate))
    told = watched(line, Pace(rate, line.burst))
    assert_true(between(told, 0, 200))
    assert_true(between(told, 320))
    stand_still = [each for each in told if 200 + 10 <= (each.at_ms - START_MS) / 1000 < 320]
    assert reasons(stand_still) == {Reason.PAUSED}
    assert_explained(told)


def test_during_a_pause_the_wait_is_that_from_when_it_goes_on():
    line = Line(6000, paused(10.0, at=200, until=320), burst=10)
    told = watched(line, Pace(10.0, 10))
    last = [each for each in told if each.place == 6000 and 210 <= (each.at_ms - START_MS) / 1000 < 320]
    assert len({each.estimate for each in last}) == 1
    assert last[-1].real_seconds == pytest.approx(last[-1].estimate.likely_seconds, rel=0.1)


def test_where_it_goes_three_times_more_slowly_than_configured_that_is_learned_and_said():
    told = watched(Line(6000, constant(10 / 3), burst=10), Pace(10.0, 10))
    assert_true(between(told, 2 * NOTICED))
    assert reasons(between(told, MINUTE)) == {Reason.SLOWED}
    assert_explained(told)


def test_where_few_may_shop_at_a_time_the_pace_is_theirs():
    """They leave at random times: the first 150 at once, the others as soon as somebody has paid."""
    told = watched(Line(3000, constant(10), burst=10, max_active=150, shopping_seconds=60), Pace(10.0, 10))
    assert_true(between(told, MINUTE))
    assert_explained(told)


def test_what_is_told_without_learning_does_not_come_true():
    """The sale before, told by the configured rate: so the tests above can fail."""
    told = between(watched(Line(6000, constant(10 / 3), burst=10), Pace(10.0, 10)), MINUTE)
    left = [each.place - 10 * (each.at_ms - START_MS) / 3000 for each in told]
    true = sum(came_true(ahead / 10, each.real_seconds) for ahead, each in zip(left, told, strict=True))
    assert true < 0.1 * len(told)


# -- It becomes longer only where a reason says why

TIMES = st.lists(
    st.tuples(st.integers(1, 90), st.sampled_from([0.0, 0.3, 2.0, 5.0, 10.0, 30.0, 200.0]), st.booleans()), max_size=6
)
"""Seconds, the pace in them, and whether anybody waits."""


def looks(times: list[tuple[int, float, bool]]) -> Iterator[tuple[int, int, int | None]]:
    now_ms, head, due = START_MS, 0, 0.0
    for seconds, per_second, waiting in times:
        for _ in range(2 * seconds):
            now_ms, due = now_ms + 500, due + per_second / 2
            head, due = head + int(due), due - int(due)
            yield now_ms, head, None if waiting else head


@given(st.sampled_from([1.0, 10.0, 50.0]), st.sampled_from([0, 1, 100]), TIMES)
@example(10.0, 0, [(60, 10.0, True), (60, 5.0, True)])
@example(1.0, 100, [(90, 2.0, True), (90, 0.3, True), (90, 30.0, True), (90, 2.0, True)])
def test_whatever_the_head_does_no_wait_grows_without_a_reason(rate, burst, times):
    pace, place = Pace(rate, burst), 100_000
    pace.look(START_MS, 0)
    said = [(START_MS, estimate(pace, place - 1, START_MS).likely_seconds)]
    for now_ms, head, last in looks(times):
        pace.look(now_ms, head, last)
        now = estimate(pace, place - head - 1, now_ms)
        least = min((likely for at_ms, likely in said[-2 * REASON_MS // 1000 :] if now_ms - at_ms < REASON_MS))
        assert now.reason is not None or now.likely_seconds <= least
        assert now.low_seconds <= now.likely_seconds <= now.high_seconds
        said.append((now_ms, now.likely_seconds))


@given(st.sampled_from([1.0, 50.0]), TIMES)
def test_who_stands_before_another_is_told_no_more(rate, times):
    pace = Pace(rate, 10)
    for now_ms, head, last in looks(times):
        pace.look(now_ms, head, last)
        likely = [estimate(pace, ahead, now_ms).likely_seconds for ahead in (0, 1, 10, 100, 10_000)]
        assert likely == sorted(likely)


# -- What is measured, and what is not


def after(pace: Pace, seconds: float, per_second: float, *, last: int | None = None) -> int:
    """Looks four times a second while the head moves; the time of the last look."""
    start_ms, head = max(pace.seen_ms, START_MS), max(pace.head, 0)
    for look in range(1, int(seconds * 4) + 1):
        pace.look(start_ms + look * 250, head + int(look * per_second / 4), last)
    return pace.seen_ms


def test_before_anything_is_measured_the_configured_rate_and_the_bucket_count():
    pace = Pace(10.0, 100)
    pace.look(START_MS, 0)
    assert estimate(pace, 599, START_MS) == Estimate(25, 50, 100, Reason.STARTING)
    assert estimate(pace, 99, START_MS).likely_seconds == 0


def test_a_pace_that_has_seen_nothing_yet_does_not_speak_of_a_pause():
    assert estimate(Pace(10.0, 100), 99, START_MS) == Estimate(5, 10, 20, Reason.STARTING)


def test_a_line_in_which_nobody_waits_is_not_paused_and_teaches_nothing():
    pace = Pace(10.0)
    after(pace, 60, 10)
    for per_second in (0.5, 0):
        now_ms = after(pace, 600, per_second, last=0)
        assert estimate(pace, 99, now_ms) == Estimate(7, 10, 14, None)
    now_ms = after(pace, 60, 10)
    assert estimate(pace, 99, now_ms) == Estimate(7, 10, 14, None)


def test_a_bucket_that_empties_after_a_pause_is_not_taken_for_a_pace():
    pace = Pace(10.0, 400)
    after(pace, 60, 10)
    now_ms = after(pace, 60, 0)
    assert estimate(pace, 99, now_ms).reason is Reason.PAUSED
    after(pace, 1, 400)
    now_ms = after(pace, 30, 10)
    assert pace.told_per_second == 10.0
    assert estimate(pace, 99, now_ms).reason is None


def test_a_full_bucket_that_is_not_emptied_makes_the_wait_longer_and_that_is_said():
    pace = Pace(10.0, 1000)
    pace.look(START_MS, 0)
    before = estimate(pace, 1999, START_MS).likely_seconds
    now_ms = after(pace, 30, 10)
    now = estimate(pace, 1999 - pace.head, now_ms)
    assert now.likely_seconds > before
    assert now.reason is Reason.SLOWED


def test_late_and_repeated_looks_change_nothing():
    pace = Pace(10.0)
    now_ms = after(pace, 60, 10)
    known = msgspec.json.encode(pace)
    pace.look(now_ms - 1000, pace.head + 50)
    pace.look(now_ms, pace.head + 50)
    pace.look(now_ms + 1000, pace.head - 1)
    assert msgspec.json.encode(pace) == known


def test_a_pace_can_be_kept_and_handed_on_and_does_not_grow():
    pace = Pace(10.0, 100)
    now_ms = after(pace, 3000, 9)
    kept = msgspec.json.encode(pace)
    assert len(kept) < 500
    other = msgspec.json.decode(kept, type=Pace)
    assert estimate(other, 700, now_ms) == estimate(pace, 700, now_ms)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_pace_is_above_0(rate):
    with pytest.raises(ValueError, match="a pace is above 0"):
        Pace(rate)


# -- Before the draw


def test_before_the_draw_every_place_is_as_likely_as_any_other():
    pace = Pace(10.0, 100)
    told = estimate_before_draw(pace, 1100, START_MS + 60_000, START_MS)
    assert told == Estimate(60, 110, 195, Reason.BEFORE_START)
    assert estimate_before_draw(pace, 1100, START_MS, START_MS + 1).low_seconds == 0


@pytest.mark.parametrize(
    ("told", "real", "true"),
    [(10, 5, True), (10, 15, True), (10, 4.9, False), (10, 15.1, False), (0, 1, True), (1, 2.1, False)],
)
def test_a_wait_came_true_within_half_of_what_was_told_or_a_second(told, real, true):
    assert came_true(told, real) is true
