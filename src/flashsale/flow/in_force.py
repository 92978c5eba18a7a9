"""What is in force: how each process comes by the thresholds and tiers that operators set, and knows that all have.

The ledger numbers its changes. A process asks for news twenty times a second, and says which version it goes by: at
once when that is a new one, else every second. So an operator's change is in every process that reaches the ledger
50 ms after its commit, and he is answered when all have said so. A process that does not come to say it (stopped, cut
off) counts as live for LIVE_SECONDS more, and for SETTLE_SECONDS is waited for.
"""

import asyncio
from contextlib import suppress
from time import monotonic
from typing import NamedTuple, Protocol

from flashsale.core.limits import Fleet, LimitsChange, News, SetThresholds
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.thresholds import TIERS, Thresholds, changed, with_rows
from flashsale.flow.limiting import Limiting
from flashsale.ports import GateAway, LedgerUnavailable

LOOK_SECONDS = 0.05
BEAT_SECONDS = 1.0
SETTLE_SECONDS = 1.0
ASK_SECONDS = 0.02
GATE_AWAY = Refused(
    Refusal.UNAVAILABLE,
    "This is set, but the gate cannot be asked now: the user's buckets there are as they were. Try again",
    {"retryAfterSeconds": 1},
)


class LimitBook(Protocol):
    """The thresholds and tiers that operators have set, and the processes that go by them. Every change makes a new
    version and is audited, in one transaction. Methods raise `LedgerUnavailable`; whether a change took place may then
    be unknown, and it may be repeated."""

    async def change(self, change: LimitsChange) -> int | Refused:
        """The version that it made. The caller has checked the values."""

    async def news(self, after: int) -> News | None:
        """What has changed since a version; 0: everything. None: nothing."""

    async def present(self, process_id: str, version: int) -> Fleet:
        """This process goes by this version now, and lives: until it leaves, or is silent for `LIVE_SECONDS`."""

    async def leave(self, process_id: str) -> None: ...

    async def close(self) -> None: ...


class Settled(NamedTuple):
    """A change is in force."""

    version: int
    fleet: Fleet


class InForce:
    """For one process, `process_id`; `defaults` are what its settings say."""

    def __init__(self, book: LimitBook, limiting: Limiting, defaults: Thresholds, process_id: str) -> None:
        self._book = book
        self.limiting = limiting
        self._process_id = process_id
        self._beat_at = 0.0
        self.defaults = defaults
        self.version = 0
        self.fleet = Fleet(1, 0)
        self.serving = False
        """Whether this process answers buyers: only these count, and go by limits."""

    def serve(self) -> None:
        self.serving = True

    async def look(self) -> None:
        """Takes in what is new, and says that this process lives."""
        if self.serving:
            await self.load()
            if monotonic() >= self._beat_at:
                await self._beat()

    async def load(self) -> None:
        news = await self._book.news(self.version)
        if news is None or not (news.whole or news.version > self.version):
            return
        self._take_in(news)
        self._beat_at = 0.0

    def _take_in(self, news: News) -> None:
        limiting = self.limiting
        tiers = {user_id: TIERS[tier] for user_id, tier in news.users if tier in TIERS}
        if news.whole:
            limiting.tiers = tiers
        else:
            for user_id, _ in news.users:
                limiting.tiers.pop(user_id, None)
                limiting.forget_here(user_id)
            limiting.tiers |= tiers
        limiting.set(with_rows(self.defaults, news.rows), self.fleet.live)
        self.version = news.version

    async def _beat(self) -> None:
        self.fleet = await self._book.present(self._process_id, self.version)
        self._beat_at = monotonic() + BEAT_SECONDS
        self.limiting.set(self.limiting.thresholds, self.fleet.live)

    async def change(self, change: LimitsChange) -> Settled | Refused:
        """Has it written down, and waits until all processes go by it, SETTLE_SECONDS at most."""
        if isinstance(change, SetThresholds):
            found = changed(self.defaults, change.values)
            if isinstance(found, Refused):
                return found
        version = await self._book.change(change)
        if isinstance(version, Refused):
            return version
        await self.load()
        if not isinstance(change, SetThresholds):
            try:
                await self.limiting.forget(change.user_id)
            except GateAway:
                return GATE_AWAY
        return await self._settled(version)

    async def _settled(self, version: int) -> Settled:
        until = monotonic() + SETTLE_SECONDS
        while True:
            await self._beat()
            if not self.fleet.behind or monotonic() >= until:
                return Settled(version, self.fleet)
            await asyncio.sleep(ASK_SECONDS)

    async def leave(self) -> None:
        """At the end of the process; if this is lost, it counts as live for a little longer."""
        if self.serving:
            with suppress(LedgerUnavailable):
                await self._book.leave(self._process_id)
