"""Noting what risk has decided: gathered in memory, written down once a second.

What is noted is a help for operators and proves nothing, so no buyer waits for it: a crash loses the last second of it,
and beyond WAITING_MAX different ones that have not been written yet the oldest are dropped. Somebody who is refused the
same for the same reasons a thousand times in a second is one row.
"""

from collections.abc import Sequence
from typing import Protocol

import structlog
from msgspec.structs import replace

from flashsale.core.risk import Decision, Kept
from flashsale.ports import Clock, LedgerUnavailable

TICK_SECONDS = 1.0
WAITING_MAX = 10_000
BATCH = 500
KEPT_ROWS = 200_000
KEPT_MS = 30 * 86_400_000

log = structlog.get_logger("flashsale.risk")

Kind = tuple[str, str, str, tuple[str, ...], bool]


class RiskLog(Protocol):
    """What risk has decided, for the operators. Methods raise `LedgerUnavailable`."""

    async def note(self, decisions: Sequence[Decision], kept: Kept) -> None:
        """Writes them down in one transaction, and forgets a batch of what is beyond `kept`."""

    async def page(self, user_id: str | None, after: int, limit: int) -> list[tuple[int, Decision]]:
        """After a cursor, oldest first, with their cursors; of one user if one is named."""

    async def close(self) -> None: ...


class Decisions:
    """For one event loop. `worker.py` ticks `write`."""

    def __init__(self, risk_log: RiskLog, clock: Clock) -> None:
        self._log = risk_log
        self._clock = clock
        self._waiting: dict[Kind, Decision] = {}

    def note(self, decision: Decision) -> None:
        kind = (decision.user_id, decision.sale_id, decision.verdict, decision.reasons, decision.solved)
        before = self._waiting.pop(kind, None)
        if before is not None:
            decision = replace(decision, times=before.times + decision.times)
        elif len(self._waiting) >= WAITING_MAX:
            self._waiting.pop(next(iter(self._waiting)))
        self._waiting[kind] = decision

    async def write(self) -> int:
        """Writes down what waits. Returns how many rows that was."""
        waiting, self._waiting = list(self._waiting.values()), {}
        kept = Kept(KEPT_ROWS, self._clock.now_ms() - KEPT_MS, BATCH)
        written = 0
        try:
            while written < len(waiting):
                part = waiting[written : written + BATCH]
                await self._log.note(part, kept)
                written += len(part)
        except LedgerUnavailable as trouble:
            log.debug("risk decisions wait for the ledger", waiting=len(waiting) - written, error=str(trouble))
        finally:
            later, self._waiting = list(self._waiting.values()), {}
            for decision in (*waiting[written:], *later):
                self.note(decision)
        return written

    async def page(self, user_id: str | None, after: int, limit: int) -> list[tuple[int, Decision]]:
        """The log after a cursor, with what is known up to now."""
        await self.write()
        return await self._log.page(user_id, after, limit)
