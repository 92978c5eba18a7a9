"""Leases: of the processes that share a ledger, one at a time publishes, one sweeps, one resumes.

A lease is a row of the ledger with an owner and an end. Its holder prolongs it every PROLONG_MS; everybody else asks
for it every ASK_MS, and has it at the latest LEASE_MS + ASK_MS and a tick after the holder was last heard of.

Nothing may rest on there being one holder only. A process that was stopped and goes on later believes for a moment
that it still holds what another has taken over: until it asks, which it does before its next step, because its clock
has gone on. What is done under a lease is therefore safe to do twice: units go back by compare-and-set, a provider
is asked with the step's own key, a cursor advances only for the lease's owner. A lease saves work, and no more.
"""

import asyncio
from collections.abc import Awaitable
from typing import Protocol, TypeVar

from flashsale.ports import Clock, Leases

LEASE_MS = 2_000
PROLONG_MS = 1_000
ASK_MS = 500

T = TypeVar("T")


class Turn(Protocol):
    """Whether it is this process's turn to do what one of them does."""

    async def held(self) -> bool: ...


class Always:
    """The turn of a process that has its ledger to itself."""

    async def held(self) -> bool:
        return True


class Never:
    """The turn of a process that leaves this to others."""

    async def held(self) -> bool:
        return False


class Lease:
    """One process's part in a lease."""

    def __init__(self, leases: Leases, name: str, owner: str, clock: Clock, shown: str | None = None) -> None:
        """`owner` is a name that no other process has; `shown`: what operators read, if there are several of a name."""
        self._leases = leases
        self.owner = owner
        self._clock = clock
        self._ask_at_ms = 0
        self.name = name
        self.shown = shown or name
        self.cursor: int | None = None
        """How far the holder has got, as the ledger keeps it for his successor; None while the lease is not ours."""

    async def held(self) -> bool:
        """Whether the lease is ours, as far as can be known without asking too often. Raises LedgerUnavailable."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._ask_at_ms:
            await self._ask()
            self._ask_at_ms = now_ms + (ASK_MS if self.cursor is None else PROLONG_MS)
        return self.cursor is not None

    async def advance(self, cursor: int) -> None:
        """Keeps how far the holder has got; when the lease is not his any more, he finds out here."""
        self.cursor = cursor if await self._leases.advance(self.name, self.owner, cursor) else None

    async def during(self, work: Awaitable[T]) -> T:
        """Does what may take longer than the lease, and prolongs it meanwhile."""
        doing = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({doing}, timeout=PROLONG_MS / 1000))[0]:
                await self._ask()
            return await doing
        finally:
            doing.cancel()

    async def close(self) -> None:
        """Gives the lease back, so that another process goes on at once."""
        if self.cursor is not None:
            self.cursor = None
            await self._leases.lease(self.name, self.owner, 0)

    async def _ask(self) -> None:
        self.cursor = await self._leases.lease(self.name, self.owner, LEASE_MS)
