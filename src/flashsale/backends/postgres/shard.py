"""One database of several, and how several are asked at once without waiting for one that is away.

A process starts also while a shard is away, or else one broken database would, one restart after another, take all
processes with it. Such a shard is opened, and checked, when it is back; until then whatever needs it is UNAVAILABLE.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import structlog

from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.core.questions import Query
from flashsale.ports import LedgerUnavailable, SchemaUnknown

A = TypeVar("A")
T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""How long all shards together wait for one of them."""
AWAY_SECONDS = 0.1
"""The same for one that was away before."""

log = structlog.get_logger("flashsale.ledger")


class Shard:
    """A ledger that may not be open yet. `opening` opens it; asked again until it does."""

    def __init__(self, number: int, opening: Callable[[], Awaitable[PostgresLedger]]) -> None:
        self.number = number
        self._opening = opening
        self._opened: PostgresLedger | None = None
        self._why_not = "not opened yet"
        self._said: str | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises LedgerUnavailable and SchemaUnknown."""
        if self._opened is not None or self._is_closed():
            return
        try:
            opened = await self._opening()
        except (LedgerUnavailable, SchemaUnknown) as error:
            self._why_not = str(error)
            raise
        self._opened = opened
        if self._is_closed():  # while it was being opened
            await opened.close()

    @property
    def ledger(self) -> PostgresLedger:
        """Raises LedgerUnavailable until it is open."""
        if self._opened is None:
            raise LedgerUnavailable(f"shard {self.number} cannot be reached: {self._why_not}")
        return self._opened

    @property
    def alarm(self) -> str | None:
        return self._why_not if self._opened is None else self._opened.alarm

    @property
    def waiting(self) -> int:
        return 0 if self._opened is None else self._opened.waiting

    async def find(self, query: Query[T]) -> T:
        return await self.ledger.find(query)

    async def expire(self) -> int:
        """The sweeper's round is also when a shard that was away at the start is opened."""
        try:
            with suppress(SchemaUnknown):  # the alarm says it, again and again
                await self.open()
            return await self.ledger.expire()
        finally:
            self._say()

    async def close(self) -> None:
        self._closed = True
        if self._opened is not None:
            await self._opened.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _say(self) -> None:
        """Once when it goes, once when it is back."""
        if self.alarm and self._said is None:
            log.error("a shard is away", shard=self.number, alarm=self.alarm)
        if self._said and self.alarm is None:
            log.warning("a shard is back", shard=self.number)
        self._said = self.alarm


class Round:
    """Asks all shards one kind of thing. One that does not answer in time is left behind, and is not asked again
    before it has answered; so one that is away holds the others up once, and then hardly."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._late: dict[int, asyncio.Task[Any]] = {}

    async def ask(self, call: Callable[[Shard], Awaitable[T]]) -> dict[int, T]:
        """The answers that came, by shard. Raises LedgerUnavailable when there is none."""
        asked = {
            shard.number: asyncio.ensure_future(called(call, shard))
            for shard in self._shards
            if shard.number not in self._late
        }
        for task in asked.values():
            task.add_done_callback(_look_at)
        await self._wait(asked)
        answers: dict[int, T] = {}
        trouble: LedgerUnavailable | None = None
        for number, task in asked.items():
            if not task.done():
                self._late[number] = task
                task.add_done_callback(partial(self._came, number))
                continue
            try:
                answers[number] = task.result()
            except LedgerUnavailable as error:
                trouble = error
        if not answers:
            raise trouble or LedgerUnavailable("no shard answers")
        return answers

    async def _wait(self, asked: dict[int, asyncio.Task[T]]) -> None:
        """For the first one as long as it takes: whoever is asked answers in the end, if only that he cannot."""
        well = [task for number, task in asked.items() if not self._shards[number].alarm]
        if well:
            await asyncio.wait(well, timeout=PATIENCE_SECONDS)
        if asked:
            await asyncio.wait(asked.values(), timeout=AWAY_SECONDS)
        if asked and not any(task.done() for task in asked.values()):
            await asyncio.wait(asked.values(), return_when=asyncio.FIRST_COMPLETED)

    def _came(self, number: int, _: object) -> None:
        self._late.pop(number, None)


async def called(call: Callable[[A], Awaitable[T]], asked: A) -> T:
    """A coroutine of whatever can be awaited."""
    return await call(asked)


def _look_at(task: asyncio.Task[Any]) -> None:
    """What nobody waits for any more must not be reported as an error that nobody saw."""
    if not task.cancelled():
        task.exception()


async def itself(ledger: PostgresLedger) -> PostgresLedger:
    return ledger


async def wrong_one(shard: Shard) -> str | None:
    """Opens a shard. One that is away is opened later; one that is the wrong one is no start."""
    try:
        await shard.open()
    except SchemaUnknown as error:
        return str(error)
    except LedgerUnavailable:
        return None
    return None
