"""The sweeper: gives back what has lapsed, every 200 ms in bounded batches.

Correctness does not hang on it: from its expiry on, a reservation is EXPIRED for every reader and for
confirm. The sweeper only decides how soon the units are on sale again.
"""

from flashsale.ports import Ledger

TICK_SECONDS = 0.2


async def sweep(ledger: Ledger) -> int:
    """Releases everything that has lapsed, batch after batch. Returns how many."""
    swept = 0
    while batch := await ledger.expire():
        swept += batch
    return swept
