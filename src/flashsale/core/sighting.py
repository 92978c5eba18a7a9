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


class Member(msgspec.Struct, frozen=True, gc=False):
    """Somebody or something that a group has seen. `gc`: nothing in it leads back to it, and there are very many."""

    name: str
    at_ms: int
    """When it was last seen."""


Members = dict[str, Member]
"""By their names; whoever was seen last stands last."""
Known = Members | Member | None
"""A group with one member, as most groups are, is that member: a dictionary of its own for every new buyer would be
three times the memory."""


def with_member(known: Known, member: Member, window_ms: int) -> Members | Member:
    """The group when this member has just been seen; a dictionary may be the same one."""
    if known is None:
        return member
    before_ms = member.at_ms - window_ms
    if isinstance(known, Member):
        if known.name == member.name or known.at_ms <= before_ms:
            return member
        known = {known.name: known}
    known.pop(member.name, None)
    known[member.name] = member
    forget_lapsed(known, before_ms)
    if len(known) > MEMBERS_MAX:
        del known[next(iter(known))]
    return known


def forget_lapsed(members: Members, before_ms: int) -> None:
    while members and members[first := next(iter(members))].at_ms <= before_ms:
        del members[first]


def count_of(known: Members | Member, window_ms: int, now_ms: int) -> int:
    if isinstance(known, Member):
        return int(known.at_ms > now_ms - window_ms)
    forget_lapsed(known, now_ms - window_ms)
    return len(known)


def without_member(known: Known, name: str) -> Known:
    if isinstance(known, Member):
        return None if known.name == name else known
    if known is not None:
        known.pop(name, None)
    return known


class Groups:
    """The groups of one process; beyond `most` members in all, groups that were not seen lately are forgotten
    (`core/lately.py`)."""

    def __init__(self, most: int) -> None:
        self._groups: Lately[Members | Member] = Lately(most)
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
        known = kept.old.get(group) if new is None else new
        kept.new[group] = after = with_member(known, Member(member, now_ms), window_ms)
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


def _size(known: Members | Member) -> int:
    return len(known) if isinstance(known, dict) else 1
