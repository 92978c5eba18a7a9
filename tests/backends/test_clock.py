"""The ledger's clock: it follows the wall clock and never jumps with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashsale.backends.clock import DRIFT_MAX_MS, FOLLOW_PART, SteadyClock

TICK_MS = 200
HOUR_MS = 3_600_000
START_MS = 1_800_000_000_000


class Machine:
    """A machine's two clocks, in the hand, and the ledger's clock on it."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.passed_ms = 12_345
        self.clock = SteadyClock(lambda: self.wall_ms * 1_000_000, lambda: self.passed_ms * 1_000_000)

    def runs(self, duration_ms: int) -> None:
        """Time passes, and the sweeper looks at the clock on each of its ticks."""
        for _ in range(duration_ms // TICK_MS):
            self.wall_ms += TICK_MS
            self.passed_ms += TICK_MS
            self.clock.follow()

    def jumps(self, jump_ms: int) -> None:
        """Somebody sets the wall clock."""
        self.wall_ms += jump_ms

    @property
    def now_ms(self) -> int:
        return self.clock.now_ms()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_it_starts_with_the_wall_clock_and_goes_on_with_it(machine):
    assert machine.now_ms == START_MS
    machine.runs(10_000)
    assert machine.now_ms == START_MS + 10_000
    assert machine.clock.alarm is None


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -5_001, -5_000, -1, 1, 5_000, 5_001, HOUR_MS])
def test_a_jump_of_the_wall_clock_does_not_move_it(machine, jump_ms):
    machine.jumps(jump_ms)
    assert machine.now_ms == START_MS
    machine.clock.follow()
    assert machine.now_ms == START_MS


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, -5_001, 5_001, HOUR_MS])
def test_a_jump_of_more_than_five_seconds_is_an_alarm_and_is_not_followed(machine, jump_ms):
    machine.jumps(jump_ms)
    machine.runs(60_000)
    assert machine.now_ms == START_MS + 60_000
    assert f"{jump_ms / 1000:+.1f} s" in machine.clock.alarm


@pytest.mark.parametrize("jump_ms", [-5_000, -200, 200, 5_000])
def test_a_small_difference_is_followed_slowly_and_without_an_alarm(machine, jump_ms):
    machine.jumps(jump_ms)
    machine.runs(TICK_MS)
    assert abs(machine.now_ms - (START_MS + TICK_MS)) <= TICK_MS // FOLLOW_PART
    machine.runs(FOLLOW_PART * abs(jump_ms))
    assert machine.now_ms == machine.wall_ms
    assert machine.clock.alarm is None


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, HOUR_MS])
def test_the_alarm_ends_when_the_wall_clock_comes_back(machine, jump_ms):
    machine.jumps(jump_ms)
    machine.runs(TICK_MS)
    assert machine.clock.alarm
    machine.jumps(-jump_ms)
    machine.runs(TICK_MS)
    assert machine.clock.alarm is None
    assert machine.now_ms == machine.wall_ms


def test_a_restart_takes_the_wall_clock_as_it_is(machine):
    machine.jumps(HOUR_MS)
    machine.clock.follow()
    again = SteadyClock(lambda: machine.wall_ms * 1_000_000, lambda: machine.passed_ms * 1_000_000)
    assert again.now_ms() == machine.wall_ms
    assert again.alarm is None


def test_a_drift_that_creeps_in_is_followed_before_it_is_an_alarm(machine):
    for _ in range(1000):
        machine.jumps(5)
        machine.runs(TICK_MS)
    assert machine.clock.alarm is None
    assert abs(machine.now_ms - machine.wall_ms) <= 10


def test_following_does_not_turn_time_back(machine):
    machine.jumps(-5_000)
    before = machine.now_ms
    machine.runs(TICK_MS)
    readings = [before, machine.now_ms]
    for _ in range(100):
        machine.passed_ms += TICK_MS
        machine.wall_ms += TICK_MS
        readings.append(machine.now_ms)
        machine.clock.follow()
        readings.append(machine.now_ms)
    assert readings == sorted(readings)


jumps = st.sampled_from([-HOUR_MS, -5_000, -4_000, -100, 0, 100, 4_000, 5_000, HOUR_MS])


@given(st.lists(st.tuples(jumps, st.integers(1, 50)), max_size=10))
def test_whatever_the_wall_clock_does_time_passes_at_almost_its_pace(steps):
    machine = Machine()
    for jump_ms, ticks in steps:
        machine.jumps(jump_ms)
        before = machine.now_ms
        machine.runs(ticks * TICK_MS)
        passed = machine.now_ms - before
        assert abs(passed - ticks * TICK_MS) * FOLLOW_PART <= ticks * TICK_MS
        far = abs(machine.wall_ms - machine.now_ms) > DRIFT_MAX_MS + TICK_MS // FOLLOW_PART
        assert not far or machine.clock.alarm
