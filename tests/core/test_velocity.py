"""What one process remembers of users and places: counted as a shared gate counts, and bounded."""

from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.rate_limit import Buckets, Draft, pace_of
from flashsale.core.sighting import MEMBERS_MAX, Groups, Known
from flashsale.core.velocity import User, Velocity

WINDOW_MS = 60_000


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 70_000)), max_size=150))
def test_a_record_counts_as_a_group_does(steps):
    velocity, groups, now_ms = Velocity(1_000, WINDOW_MS), Groups(1_000), 0
    place = velocity.place("place")
    for member, passes_ms in steps:
        now_ms += passes_ms
        velocity.enter("place", f"user-{member}", now_ms)
        groups.see("place", f"user-{member}", WINDOW_MS, now_ms)
        assert velocity.count(place.accounts, now_ms) == groups.ask("place", WINDOW_MS, now_ms) <= MEMBERS_MAX
    assert velocity.count(place.accounts, now_ms + WINDOW_MS) == 0


def test_attempts_are_counted_as_two_buckets_do_the_second_for_what_the_first_refuses():
    usual, beyond, user, buckets = pace_of(1, 3), pace_of(1, 2), User(), Buckets(10)
    for at_ms in [0] * 10 + [*range(0, 10_000, 300)]:
        over = not buckets.take(Draft("usual", 1, 3), at_ms * 1000.0).allowed
        far = over and not buckets.take(Draft("beyond", 1, 2), at_ms * 1000.0).allowed
        assert user.tries(usual, beyond, at_ms * 1000.0) == (over, far)


def test_users_and_places_that_were_not_seen_lately_are_forgotten():
    velocity = Velocity(100, WINDOW_MS)
    velocity.user("regular").early_ms = 7
    for number in range(1_000):
        velocity.user(f"user-{number}")
        velocity.place(f"192.0.2.{number}")
        assert velocity.user("regular").early_ms == 7, "who comes often is known"
    assert len(velocity._users) <= 100
    assert len(velocity._places) <= 100


def test_crowded_places_are_forgotten_before_their_crowds_are_more_than_there_may_be():
    velocity, kept = Velocity(1_000, WINDOW_MS), 0
    for number in range(1_000):
        for user in range(MEMBERS_MAX):
            velocity.enter(f"192.0.2.{number}", f"user-{user}", 1)
        records = {**velocity._places.old, **velocity._places.new}.values()
        kept = max(kept, sum(size(each.accounts) for each in records))
    assert kept <= 2 * 1_000 + MEMBERS_MAX


def test_crowds_that_come_once_in_a_while_are_counted_when_they_come():
    velocity, most = Velocity(1_000, WINDOW_MS), 0
    for era in range(60):
        for number in range(100):
            velocity.enter(f"192.0.2.{number}", f"user-{era}", 1)
        records = {**velocity._places.old, **velocity._places.new}.values()
        most = max(most, sum(size(each.accounts) for each in records))
    assert most <= 2 * 1_000 + MEMBERS_MAX


def size(known: Known) -> int:
    return len(known) if isinstance(known, dict) else int(known is not None)


def test_a_user_with_the_name_of_an_address_is_not_that_address():
    velocity = Velocity(100, WINDOW_MS)
    velocity.hold("192.0.2.1", (), "res_1", 1)
    assert velocity.count(velocity.place("192.0.2.1").unpaid, 1) == 0


def test_what_is_paid_counts_no_more_for_whoever_reserved_it_nor_where_he_did():
    velocity, places = Velocity(100, WINDOW_MS), ("192.0.2.1", "device")
    for reservation_id in ("res_1", "res_2", "res_3"):
        velocity.hold("alice", places, reservation_id, 1)
    assert velocity.paid("alice", "res_2") == places
    assert velocity.paid("alice", "res_2") == ()
    for known in (velocity.user("alice").unpaid, *(velocity.place(mark).unpaid for mark in places)):
        assert velocity.count(known, 1) == 2


def test_what_is_paid_is_known_however_many_came_meanwhile_and_got_nothing():
    velocity = Velocity(100, WINDOW_MS)
    velocity.hold("alice", ("192.0.2.1",), "res_1", 1)
    for number in range(1_000):
        velocity.user(f"user-{number}")
        velocity.enter("192.0.2.1", "bob", 1)
    assert velocity.count(velocity.place("192.0.2.1").unpaid, 1) == 1
    assert velocity.paid("alice", "res_1") == ("192.0.2.1",)
    assert velocity.count(velocity.place("192.0.2.1").unpaid, 1) == 0


def test_what_is_paid_counts_no_more_where_its_user_has_reserved_more_than_is_counted():
    velocity = Velocity(1_000, WINDOW_MS)
    for number in range(MEMBERS_MAX + 2):
        velocity.hold("alice", (f"192.0.2.{number}",), f"res_{number}", 1)
    for number in range(MEMBERS_MAX + 2):
        velocity.paid("alice", f"res_{number}")
        assert velocity.count(velocity.place(f"192.0.2.{number}").unpaid, 1) == 0


def test_a_record_that_was_just_made_is_not_forgotten_with_the_old_ones():
    """Users, places and crowds fill up at the same time: each would make room by itself."""
    velocity = Velocity(1_000, WINDOW_MS)
    for number in range(5_000):
        velocity.user(f"user-{number}").early_ms = number
        velocity.enter(f"192.0.2.{number // 2}", f"user-{number}", 1)
        assert velocity.user(f"user-{max(0, number - 249)}").early_ms == max(0, number - 249)
