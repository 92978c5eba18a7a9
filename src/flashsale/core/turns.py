"""Whose turn it is: which of the requests that wait in a slice of the queue are decided together.

Requests of high priority go first, but never more than `HIGH_TURNS` before each one of normal priority that waits, so
that nobody starves. Each of the two lines keeps its order. A batch ends where it would hold more than `BATCH_MAX`
requests of one product; whoever comes after that one in his line waits with it, although his product may be another:
what has been taken out of a line is always its beginning, so that one number says how far a line is done.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from flashsale.core.request import BATCH_MAX, HIGH_TURNS

SLICE_BATCH_MAX = 500
"""Requests of all products of a slice decided together."""

T = TypeVar("T")


class Pick(NamedTuple, Generic[T]):
    """The next batch: how many it takes of each line, and how many of high priority have gone in a row after it."""

    items: list[T]
    high: int
    normal: int
    in_a_row: int


def pick(
    high: Sequence[T], normal: Sequence[T], product_of: Callable[[T], str], in_a_row: int = 0, more: bool = False
) -> Pick[T]:
    """`more`: requests of normal priority wait elsewhere, although none may be in `normal`."""
    items: list[T] = []
    of: Counter[str] = Counter()
    highs = normals = 0
    while len(items) < SLICE_BATCH_MAX:
        waits = more or normals < len(normal)
        is_high = highs < len(high) and not (waits and in_a_row >= HIGH_TURNS)
        if not is_high and normals == len(normal):
            break
        item = high[highs] if is_high else normal[normals]
        product = product_of(item)
        if of[product] == BATCH_MAX:
            break
        of[product] += 1
        items.append(item)
        highs, normals = highs + is_high, normals + (not is_high)
        in_a_row = in_a_row + 1 if is_high else 0
    return Pick(items, highs, normals, in_a_row)
