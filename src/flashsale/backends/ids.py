"""Ids: 48 bits of time and 128 random bits, in hex.

They begin with their time, so that rows are appended to an index instead of scattered over it; they cannot
be guessed, because in identity `open` an id alone opens what it names.
"""

import os
from collections.abc import Callable

_POOL_IDS = 256


class IdMint:
    """Makes ids: `mint("res_")`. Randomness is drawn for many ids at a time. For one thread."""

    __slots__ = ("_at", "_now_ms", "_pool")

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._pool = ""
        self._at = 0

    def __call__(self, prefix: str) -> str:
        if self._at == len(self._pool):
            self._pool, self._at = os.urandom(16 * _POOL_IDS).hex(), 0
        start = self._at
        self._at = start + 32
        return f"{prefix}{self._now_ms():012x}{self._pool[start : start + 32]}"
