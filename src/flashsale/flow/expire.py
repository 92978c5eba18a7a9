"""The sweeper: gives back what has lapsed, every 200 ms in bounded batches.

Correctness does not hang on it: from its expiry on, a reservation is EXPIRED for every reader and for
confirm. The sweeper only decides how soon the units are on sale again. So one process of a fleet sweeps, and the
others do it now and then, in case that one is stuck; with the same call each writes down what it has refused.
"""

from flashsale.flow.lease import Turn
from flashsale.ports import Clock, Ledger

LEASE = "sweep"
TICK_SECONDS = 0.2
NET_MS = 2_000
"""How often a process sweeps whose turn it is not."""


class Sweeping:
    """One process's part in it."""

    def __init__(self, ledger: Ledger, turn: Turn, clock: Clock) -> None:
        self._ledger = ledger
        self._turn = turn
        self._clock = clock
        self._net_at_ms = 0

    async def sweep(self) -> int:
        """A tick. Returns how many reservations were released."""
        now_ms = self._clock.now_ms()
        if now_ms < self._net_at_ms and not await self._turn.held():
            return 0
        self._net_at_ms = now_ms + NET_MS
        return await sweep(self._ledger)


async def sweep(ledger: Ledger) -> int:
    """Releases everything that has lapsed, batch after batch. Returns how many."""
    swept = 0
    while batch := await ledger.expire():
        swept += batch
    return swept
