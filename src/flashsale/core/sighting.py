"""Sightings: how many different members a group has had lately. Accounts on one address, reservations nobody paid.

A group remembers at most MEMBERS_MAX members, the latest ones, each until it has not been seen for the window. More is
never needed: no rule asks for more than that. `lua/sightings.lua` does the same inside Redis.
"""

from collections import OrderedDict
from enum import IntEnum

import msgspec

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


class Groups:
    """The groups of one process; beyond `most` members in all, groups that were not seen for longest are forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: OrderedDict[str, Members | One] = OrderedDict()
        self._members = 0

    def sighted(self, sighting: Sighting, now_ms: int) -> int:
        """How many members the group has after this; MEMBERS_MAX means: or more."""
        group, member, window_seconds, how = sighting.group, sighting.member, sighting.window_seconds, sighting.how
        if how is How.SEEN:
            return self.see(group, member, window_seconds * 1000, now_ms)
        if how is How.GONE:
            self.forget(group, member)
        return self.ask(group, window_seconds * 1000, now_ms)

    def see(self, group: str, member: str, window_ms: int, now_ms: int) -> int:
        known = self._groups.get(group)
        if known is None or (isinstance(known, tuple) and (known[0] == member or known[1] <= now_ms - window_ms)):
            self._groups[group] = (member, now_ms)
            count, more = 1, int(known is None)
        else:
            members = {known[0]: known[1]} if isinstance(known, tuple) else known
            before = len(members)
            seen(members, member, window_ms, now_ms)
            self._groups[group] = members
            count, more = len(members), len(members) - before
        if known is not None:
            self._groups.move_to_end(group)
        self._members += more
        while self._members > self._most:
            self._members -= _size(self._groups.popitem(last=False)[1])
        return count

    def ask(self, group: str, window_ms: int, now_ms: int) -> int:
        known = self._groups.get(group)
        if known is None:
            return 0
        before = _size(known)
        if isinstance(known, tuple):
            count = int(known[1] > now_ms - window_ms)
        else:
            forget_lapsed(known, window_ms, now_ms)
            count = len(known)
        self._members -= before - count
        if not count:
            del self._groups[group]
        return count

    def forget(self, group: str, member: str) -> None:
        known = self._groups.get(group)
        if isinstance(known, tuple):
            if known[0] == member:
                del self._groups[group]
                self._members -= 1
        elif known is not None and known.pop(member, None) is not None:
            self._members -= 1


def _size(known: Members | One) -> int:
    return 1 if isinstance(known, tuple) else len(known)
