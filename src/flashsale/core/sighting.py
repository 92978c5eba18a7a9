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


Members = OrderedDict[str, int]
"""When each was last seen, in milliseconds; the latest stands last."""


def sighted(members: Members, sighting: Sighting, now_ms: int) -> int:
    """How many there are after this; `MEMBERS_MAX` means: or more."""
    before_ms = now_ms - sighting.window_seconds * 1000
    while members and next(iter(members.values())) <= before_ms:
        members.popitem(last=False)
    if sighting.how is How.SEEN:
        members[sighting.member] = now_ms
        members.move_to_end(sighting.member)
        if len(members) > MEMBERS_MAX:
            members.popitem(last=False)
    elif sighting.how is How.GONE:
        members.pop(sighting.member, None)
    return len(members)
