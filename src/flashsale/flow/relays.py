"""Publishing from a ledger in several databases: one relay for each, with a lease and a cursor of its own.

A product's events all come from one database, so their order is that of one relay. Which process has which relay is
chance; that one is away, or is slow, does not hold the others up.
"""

import asyncio
from collections.abc import Sequence

from flashsale.flow.publish import Publishing
from flashsale.ports import LedgerUnavailable


class Relays:
    """Several relays' part in this process: what `Publishing` is for one."""

    def __init__(self, parts: Sequence[Publishing]) -> None:
        self._parts = parts
        self._running: dict[int, asyncio.Task[int]] = {}

    @property
    def trouble(self) -> str | None:
        """Why nothing gets out of one of them, in words for the operator."""
        return next((part.trouble for part in self._parts if part.trouble), None)

    async def publish(self) -> int:
        """Passes on what there is. Returns how many rows; what still runs when the first is done is not waited for."""
        for number, part in enumerate(self._parts):
            if number not in self._running:
                self._running[number] = asyncio.ensure_future(part.publish())
        try:
            await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self.stop()
            raise
        done = [number for number, task in self._running.items() if task.done()]
        outcomes = [_outcome(self._running.pop(number)) for number in done]
        for trouble in outcomes:
            if isinstance(trouble, BaseException) and not isinstance(trouble, LedgerUnavailable):
                raise trouble
        return sum(outcome for outcome in outcomes if isinstance(outcome, int))

    async def stop(self) -> None:
        """Nothing is sent any more: before the brokers are closed, and those before the leases are given back."""
        running, self._running = [*self._running.values()], {}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _outcome(task: asyncio.Task[int]) -> int | BaseException:
    """A ledger that is away has said so itself."""
    return task.exception() or task.result()
