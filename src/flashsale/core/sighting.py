"""Sightings: how many different members a group has had lately. Accounts on one address, reservations nobody paid.

A group remembers at most MEMBERS_MAX members, the latest ones, each until it has not been seen for the window. More is
never needed: no rule asks for more than that. `lua/sightings.lua` does the same inside Redis.
"""

from enum import IntEnum

import msgspec

from flashsale.core.lately import Lately

MEMBERS_MAX = 64
WINDOW_SECONDS_MAX = 86_400


class How(IntEnum):
    GONE = -1
    """The member is to be forgotten."""
    ASKED = 0
    SEEN = 1


class Sighting(msgspec.Struct, frozen=True, array_like=True):
    group: str
    member: str
    window_seconds: int
    how: How = How.SEEN

    def __post_init__(self) -> None:
        if not 1 <= self.window_seconds <= WINDOW_SECONDS_MAX:
            raise ValueError(f"{self}: a window is 1 to {WINDOW_SECONDS_MAX} seconds")


Members = dict[str, int]
"""When each was last seen, in milliseconds; the latest stands last."""


def seen(members: Members, member: str, window_ms: int, now_ms: int) -> None:
    members.pop(member, None)
    members[member] = now_ms
    forget_lapsed(members, window_ms, now_ms)
    if len(members) > MEMBERS_MAX:
        del members[next(iter(members))]


def forget_lapsed(members: Members, window_ms: int, now_ms: int) -> None:
    before_ms = now_ms - window_ms
    while members and members[first := next(iter(members))] <= before_ms:
        del members[first]


One = tuple[str, int]
"""A group with one member, as most groups are. It has no dictionary of its own: every new buyer would leave some of
them to the garbage collector."""

Known = Members | One | None


def with_member(known: Known, member: str, window_ms: int, now_ms: int) -> Members | One:
    """The group when this member was seen now; a dictionary may be the same one."""
    if known is None:
        return member, now_ms
    if isinstance(known, tuple):
        if known[0] == member or known[1] <= now_ms - window_ms:
            return member, now_ms
        known = {known[0]: known[1]}
    seen(known, member, window_ms, now_ms)
    return known


def count_of(known: Members | One, window_ms: int, now_ms: int) -> int:
    if isinstance(known, tuple):
        return int(known[1] > now_ms - window_ms)
    forget_lapsed(known, window_ms, now_ms)
    return len(known)


def without_member(known: Known, member: str) -> Known:
    if isinstance(known, tuple):
        return None if known[0] == member else known
    if known is not None:
        known.pop(member, None)
    return known


class Groups:
    """The groups of one process; beyond `most` members in all, groups that were not seen lately are forgotten
    (`core/lately.py`)."""

    def __init__(self, most: int) -> None:
        self._groups: Lately[Members | One] = Lately(most)
        self._members = 0
        """Of the new groups."""

    def sighted(self, sighting: Sighting, now_ms: int) -> int:
        """How many members the group has after this; MEMBERS_MAX means: or more."""
        group, member, window_seconds, how = sighting.group, sighting.member, sighting.window_seconds, sighting.how
        if how is How.SEEN:
            return self.see(group, member, window_seconds * 1000, now_ms)
        if how is How.GONE:
            self.forget(group, member)
        return self.ask(group, window_seconds * 1000, now_ms)

    def see(self, group: str, member: str, window_ms: int, now_ms: int) -> int:
        kept = self._groups
        new = kept.new.get(group)
        before = 0 if new is None else _size(new)
        kept.new[group] = after = with_member(kept.old.get(group) if new is None else new, member, window_ms, now_ms)
        count = _size(after)
        self._members += count - before
        if self._members >= kept.half:
            kept.age()
            self._members = 0
        return count

    def ask(self, group: str, window_ms: int, now_ms: int) -> int:
        known = self._groups.get(group)
        return 0 if known is None else count_of(known, window_ms, now_ms)

    def forget(self, group: str, member: str) -> None:
        if without_member(self._groups.get(group), member) is None:
            self._groups.forget(group)


def _size(known: Members | One) -> int:
    return len(known) if isinstance(known, dict) else 1
