"""Signs of life of those who wait: who has been heard of lately, and who is back after he was passed over.

Alive is whoever was heard of within the grace time. He may count as alive for up to twice of it, because it is noted in
one bit for each ticket, in windows as long as the grace time. A million tickets are 125 KB a window, and there are two.

What has not been told is not known: a gate that has just begun, was emptied, or was away, must not take everybody for
gone. So as long as signs have not come in without a pause for one grace time, everybody counts as alive. Whoever has
signs to tell tells them every second or so, also when there are none (`PAUSE_MS`).

Wrong signs cost a wasted pass or a turn that comes a little later; nobody loses his place by them.
`lua/signs.lua` does the same inside Redis.
"""

from collections.abc import Sequence
from typing import NamedTuple

GRACE_MS = 30_000
PAUSE_MS = 10_000
"""After a longer silence nobody's signs are complete."""
NUMBER_MAX = 2**27
"""Tickets of higher numbers are alive."""
BACK_MAX = 10_000
"""People who are back and wait to be let in; those beyond are told of again when they ask again."""


class Back(NamedTuple):
    """Somebody who was passed over and is back."""

    place: int
    number: int


class Signs(NamedTuple):
    alive: list[bool]
    """Of each ticket that was asked for."""
    back: list[int]
    """Numbers of those who are back, in the order of their places."""


class Heard:
    """What is known of one waiting room."""

    __slots__ = ("back", "last_ms", "since_ms", "windows")

    def __init__(self, now_ms: int) -> None:
        self.since_ms = self.last_ms = now_ms
        self.windows: dict[int, bytearray] = {}
        self.back: dict[int, int] = {}
        """Places by numbers."""


def tell(heard: Heard, numbers: Sequence[int], back: Sequence[Back], now_ms: int, grace_ms: int) -> None:
    """These tickets' owners were heard of now."""
    if not 0 <= now_ms - heard.last_ms <= PAUSE_MS:
        heard.since_ms = now_ms
    heard.last_ms = now_ms
    window = now_ms // grace_ms
    for old in [each for each in heard.windows if not window - 1 <= each <= window]:
        del heard.windows[old]
    bits = heard.windows.setdefault(window, bytearray())
    for number in numbers:
        if 0 < number < NUMBER_MAX:
            _set(bits, number)
    for each in back:
        if len(heard.back) < BACK_MAX:
            heard.back[each.number] = each.place


def _set(bits: bytearray, number: int) -> None:
    if len(bits) <= number >> 3:
        bits.extend(bytes((number >> 3) + 1 - len(bits)))
    bits[number >> 3] |= 1 << (number & 7)


def ask(heard: Heard, numbers: Sequence[int], done: Sequence[int], most: int, now_ms: int, grace_ms: int) -> Signs:
    """Who of these is alive, and the first who are back. `done`: they are not to be told of any more."""
    for number in done:
        heard.back.pop(number, None)
    known = now_ms - heard.since_ms >= grace_ms and 0 <= now_ms - heard.last_ms <= PAUSE_MS
    window = now_ms // grace_ms
    lately = [heard.windows.get(each, b"") for each in (window, window - 1)]
    alive = [not known or number >= NUMBER_MAX or any(_has(bits, number) for bits in lately) for number in numbers]
    return Signs(alive, sorted(heard.back, key=lambda number: heard.back[number])[:most])


def _has(bits: bytes | bytearray, number: int) -> bool:
    return number >> 3 < len(bits) and bool(bits[number >> 3] & (1 << (number & 7)))
