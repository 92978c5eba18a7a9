"""Ids: 48 bits of time and 128 random bits, in hex.

They begin with their time, so that rows are appended to an index instead of scattered over it; they cannot
be guessed, because in identity `open` an id alone opens what it names. Those of queued reservations have a form of
their own (core/pending.py).

Where a ledger is several databases, an id ends with a letter that no hex number has and the number of its shard, but
for the first shard: `ord_...s02`. Ids that were made elsewhere, in another form, do not tell.
"""

import os
import re
from collections.abc import Callable

_POOL_IDS = 256
_TELLING = re.compile(r"[a-z]+_(?:[0-9a-f]{44}|q[0-9a-f]{56})(?:s([0-9a-f]{2}))?").fullmatch


def mark_of(shard_id: int) -> str:
    """What the ids of a shard end with."""
    return f"s{shard_id:02x}" if shard_id else ""


def shard_of(each: str) -> int | None:
    """The shard that an id tells of; None when it does not tell."""
    told = _TELLING(each)
    return int(told[1] or "0", 16) if told else None


class IdMint:
    """Makes ids: `mint("res_")`. Randomness is drawn for many ids at a time. For one thread."""

    __slots__ = ("_at", "_mark", "_now_ms", "_pool")

    def __init__(self, now_ms: Callable[[], int], mark: str = "") -> None:
        self._now_ms = now_ms
        self._mark = mark
        self._pool = ""
        self._at = 0

    def __call__(self, prefix: str) -> str:
        if self._at == len(self._pool):
            self._pool, self._at = os.urandom(16 * _POOL_IDS).hex(), 0
        start = self._at
        self._at = start + 32
        return f"{prefix}{self._now_ms():012x}{self._pool[start : start + 32]}{self._mark}"
