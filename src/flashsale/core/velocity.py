"""Velocity: what one process has seen lately of a user, and of a place (an address or a device), for risk.

One record of each, found by one look, holds all that the rules ask for. A crowd is new people: each leaves two records,
and what is not known of him costs no look of its own. `core/sighting.py` counts the same by names, as a gate does that
all processes share.
"""

from typing import TypeVar

import msgspec

from flashsale.core.lately import Lately
from flashsale.core.rate_limit import Pace, after_one
from flashsale.core.sighting import Known, Member, Members, count_of, with_member, without_member


class User(msgspec.Struct, gc=False):
    """`gc`: nothing in it leads back to it, and there are very many."""

    usual_full_at_us: float = 0.0
    beyond_full_at_us: float = 0.0
    """Of the buckets of his attempts."""
    early_ms: int = 0
    """When he last tried before a start."""
    unpaid: Known = None

    @property
    def members(self) -> int:
        return members(self.unpaid)

    def tries(self, usual: Pace, beyond: Pace, now_us: float) -> tuple[bool, bool]:
        """One more attempt: whether it is more than usual, and more than what is allowed beyond that."""
        full_at_us = after_one(self.usual_full_at_us, usual, now_us)
        if full_at_us is not None:
            self.usual_full_at_us = full_at_us
            return False, False
        full_at_us = after_one(self.beyond_full_at_us, beyond, now_us)
        if full_at_us is not None:
            self.beyond_full_at_us = full_at_us
        return True, full_at_us is None


class Place(msgspec.Struct, gc=False):
    """An address or a device."""

    accounts: Known = None
    unpaid: Known = None

    @property
    def members(self) -> int:
        return members(self.accounts) + members(self.unpaid)


R = TypeVar("R", User, Place)


class Velocity:
    """`most` users and as many places at most, as many members of crowded records, and as many reservations: those that
    were not seen lately are forgotten. A member counts for `window_ms`."""

    def __init__(self, most: int, window_ms: int) -> None:
        self._users: Lately[User] = Lately(most)
        self._places: Lately[Place] = Lately(most)
        self._holds: Lately[tuple[str, ...]] = Lately(most)
        """From which places each reservation was made. Kept apart: whoever comes and gets nothing pushes none of them
        out before it is paid."""
        self._window_ms = window_ms
        self._crowded = 0
        """Members of records with several, since something was last forgotten."""

    def user(self, user_id: str) -> User:
        user = self._users.new.get(user_id)
        return self._kept(self._users, user_id, User) if user is None else user

    def place(self, mark: str) -> Place:
        place = self._places.new.get(mark)
        return self._kept(self._places, mark, Place) if place is None else place

    def _kept(self, records: Lately[R], name: str, make: type[R]) -> R:
        """What is known of it, else what is made now; either counts as seen."""
        record = records.old.get(name)
        more = 0 if record is None else record.members
        record = records.new[name] = make() if record is None else record
        self._grow(more)
        return record

    def enter(self, mark: str, user_id: str, now_ms: int) -> tuple[int, int]:
        """An account is at a place. How many have been there lately, and how many of its reservations are unpaid."""
        place = self.place(mark)
        accounts = place.accounts = self._see(place.accounts, Member(user_id, now_ms))
        return len(accounts) if isinstance(accounts, dict) else 1, self.count(place.unpaid, now_ms)

    def hold(self, user_id: str, places: tuple[str, ...], reservation_id: str, now_ms: int) -> None:
        """A user has reserved something, from these places."""
        self._holds.set(reservation_id, places)
        held, user = Member(reservation_id, now_ms), self.user(user_id)
        user.unpaid = self._see(user.unpaid, held)
        for mark in places:
            place = self.place(mark)
            place.unpaid = self._see(place.unpaid, held)

    def paid(self, user_id: str, reservation_id: str) -> tuple[str, ...]:
        """It counts no more. From which places it was reserved, if that is known."""
        places = self._holds.get(reservation_id) or ()
        self._holds.forget(reservation_id)
        user = self.user(user_id)
        user.unpaid = without_member(user.unpaid, reservation_id)
        for place in map(self.place, places):
            place.unpaid = without_member(place.unpaid, reservation_id)
        return places

    def _see(self, known: Known, member: Member) -> Members | Member:
        """With this member, and without those that have not been seen for the window."""
        if known is None:
            return member
        before = members(known)
        after = with_member(known, member, self._window_ms)
        if isinstance(after, dict):
            self._grow(len(after) - before)
        return after

    def _grow(self, more: int) -> None:
        """There are so many more members, maybe of a record that was almost forgotten. What is old goes all at once:
        what was seen lately is known until half of what there may be has come after it."""
        self._crowded += more
        half = self._users.half
        if self._crowded >= half or len(self._users.new) >= half or len(self._places.new) >= half:
            self._users.age()
            self._places.age()
            self._crowded = 0

    def count(self, known: Known, now_ms: int) -> int:
        return 0 if known is None else count_of(known, self._window_ms, now_ms)


def members(known: Known) -> int:
    """Of a crowded record; the only member of another one is part of it."""
    return len(known) if isinstance(known, dict) else 0
