"""Lines and slices: what may be handed out, and how far a slice is done. No Kafka: only the books of its consumer."""

import pytest

from flashsale.backends.kafka.slices import FULL, HUNGRY, PATIENCE_SECONDS, Slices, Waiting
from flashsale.backends.kafka.topics import Names
from flashsale.ports import Batch, Delivery, Origin

NAMES = Names()
NORMAL, HIGH = NAMES.normal, NAMES.high


@pytest.fixture
def slices() -> Slices:
    slices = Slices(NAMES)
    slices.assign({0, 1}, now=0.0)
    return slices


def put(slices: Slices, topic: str, number: int, *offsets: int, product: str = "lamp") -> None:
    for offset in offsets:
        slices.put((topic, number), Waiting(product, Delivery(Origin(topic, number, offset), b"%d" % offset)), now=0.0)


def offsets(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [each.origin.offset for each in batch.deliveries]


def test_a_slice_has_one_batch_in_work(slices):
    put(slices, NORMAL, 0, 1, 2)
    first = slices.take(1.0)
    put(slices, NORMAL, 0, 3)
    assert slices.take(1.0) is None
    slices.done(first)
    assert offsets(slices.take(1.0)) == [3]


def test_slices_are_in_work_at_the_same_time_and_take_turns(slices):
    put(slices, NORMAL, 0, *range(600))
    put(slices, NORMAL, 1, *range(600))
    first, second = slices.take(1.0), slices.take(1.0)
    assert {first.slice_name, second.slice_name} == {"0", "1"}
    slices.done(second)
    slices.done(first)
    assert slices.take(1.0).slice_name == "0"
    assert slices.take(1.0).slice_name == "1"


def test_a_position_moves_when_the_batch_is_done_and_not_before(slices):
    put(slices, NORMAL, 0, 7, 8)
    put(slices, HIGH, 0, 3)
    batch = slices.take(1.0)
    assert slices.positions() == {}
    slices.done(batch)
    assert slices.positions() == {(NORMAL, 0): 9, (HIGH, 0): 4}


def test_done_of_a_batch_whose_slice_was_lost_does_nothing(slices):
    put(slices, NORMAL, 0, 1)
    batch = slices.take(1.0)
    slices.drop({0})
    slices.done(batch)
    assert slices.positions() == {}


def test_a_slice_that_comes_back_waits_for_its_old_batch_and_forgets_its_end(slices):
    put(slices, NORMAL, 0, 1)
    old = slices.take(1.0)
    slices.drop({0})
    slices.assign({0}, now=2.0)
    put(slices, NORMAL, 0, 1)
    assert slices.take(3.0) is None
    slices.done(old)
    assert slices.positions() == {}
    new = slices.take(3.0)
    slices.done(old)
    assert slices.positions() == {}
    slices.done(new)
    assert slices.positions() == {(NORMAL, 0): 2}


def test_a_slice_that_is_leaving_hands_nothing_out(slices):
    put(slices, NORMAL, 0, *range(300))
    batch = slices.take(1.0)
    slices.leave({0})
    assert slices.busy({0})
    slices.done(batch)
    assert not slices.busy({0})
    assert slices.take(1.0) is None
    assert slices.positions() == {(NORMAL, 0): 250}


def test_what_is_fetched_of_a_slice_that_is_not_ours_is_dropped(slices):
    put(slices, NORMAL, 5, 1)
    assert slices.take(1.0) is None


def test_a_line_that_is_full_is_paused_until_it_is_half_empty(slices):
    place = (NORMAL, 0)
    put(slices, NORMAL, 0, *range(FULL))
    assert list(slices.pauses()) == [place]
    assert list(slices.pauses()) == []
    while len(slices._line(place).waiting) > HUNGRY:
        assert list(slices.resumes()) == []
        slices.done(slices.take(1.0))
    assert list(slices.resumes()) == [place]
    assert list(slices.resumes()) == []


def test_high_priority_waits_a_while_for_a_line_of_normal_priority_that_has_not_been_read_to_its_end(slices):
    put(slices, HIGH, 0, *range(6))
    batch = slices.take(0.1)
    assert offsets(batch) == [0, 1, 2, 3]
    slices.done(batch)
    assert slices.take(0.1) is None
    assert offsets(slices.take(PATIENCE_SECONDS)) == [4, 5]


def test_a_line_that_has_been_read_to_its_end_is_not_waited_for(slices):
    put(slices, HIGH, 0, *range(6))
    slices.end((NORMAL, 0), now=0.0)
    assert len(offsets(slices.take(0.1))) == 6
