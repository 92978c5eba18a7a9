"""The bounds of permits; what they do for those who ask is in tests/contract/test_gate.py."""

from flashsale.core import permits
from flashsale.core.permits import LAPSED_MAX, Counter, Permit, Synchronised, Verdict, Wish


def told() -> Counter:
    """A product of which there is plenty."""
    counter = Counter()
    permits.settle(counter, [], Synchronised("S", "PHONE", 10 * LAPSED_MAX, 1), 0)
    return counter


def wishes(number: int, first: int = 0) -> list[Wish]:
    return [Wish(f"res_{each}", f"user-{each}", "S", "PHONE", 1, 1, "p") for each in range(first, first + number)]


def test_a_call_drops_a_bounded_number_of_lapsed_permits_and_the_next_goes_on():
    counter = told()
    permits.permit(counter, wishes(LAPSED_MAX + 10), now_ms=0)
    permits.permit(counter, [], now_ms=3000)
    assert len(counter.permits) == 10
    permits.permit(counter, [], now_ms=3000)
    assert (counter.permits, counter.by_user, counter.deadlines, counter.units) == ({}, {}, {}, 0)


def test_a_product_has_a_bounded_number_of_permits(monkeypatch):
    monkeypatch.setattr(permits, "PERMITS_MAX", 3)
    counter = told()
    assert permits.permit(counter, wishes(4), 0) == [Permit(Verdict.PERMITTED)] * 3 + [Permit(Verdict.UNSURE)]
    assert permits.permit(counter, wishes(3), 0) == [Permit(Verdict.PERMITTED)] * 3


def test_asking_again_and_again_for_the_same_does_not_fill_the_memory():
    counter = told()
    for now_ms in range(10_000):
        permits.permit(counter, wishes(2), now_ms)
    assert len(counter._queue) < 100
