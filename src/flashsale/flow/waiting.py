"""Waiting for the outcome of queued requests, on behalf of buyers who hold the line.

Whoever decides in this process tells at once. What other processes decide is found in the ledger: a look asks for a
bounded number of those who wait, oldest first; those without an answer go to the end of the line. While most of a look
are answered the next one follows at once, so that a look costs what it finds, however many wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice

from flashsale.answering import tell
from flashsale.core.questions import FindReservations
from flashsale.core.reservation import Reservation
from flashsale.ports import Ledger

LOOK_SECONDS = 0.05
LOOK_MAX = 250
WAITING_MAX = 20_000
"""Buyers who hold the line; those beyond are told at once that their request is pending."""

Told = Callable[[list[Reservation]], None]
"""Gets the rows of the request, in the order of its ids; none while it is not decided."""


class Waiter:
    __slots__ = ("ids", "timer", "told")

    def __init__(self, ids: tuple[str, ...], told: Told) -> None:
        self.ids = ids
        self.told = told
        self.timer: asyncio.TimerHandle | None = None


class Waiting:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._line: dict[Waiter, None] = {}
        self._by_id: dict[str, list[Waiter]] = {}
        self._leaving = False

    @property
    def number(self) -> int:
        """How many hold the line."""
        return len(self._line)

    def leave(self) -> None:
        """The process is about to end: nobody is kept waiting any more, he can ask another one."""
        self._leaving = True
        for waiter in list(self._line):
            self._answer(waiter, [])

    def wait(self, reservation_ids: tuple[str, ...], seconds: float, told: Told) -> None:
        """`told` is called once: with the rows as soon as they are there, with none when the time is over."""
        if self._leaving or len(self._line) >= WAITING_MAX or seconds <= 0:
            told([])
            return
        waiter = Waiter(reservation_ids, told)
        waiter.timer = asyncio.get_running_loop().call_later(seconds, self._answer, waiter, [])
        self._line[waiter] = None
        self._by_id.setdefault(reservation_ids[0], []).append(waiter)

    def decided(self, reservations: Sequence[Reservation]) -> None:
        """These have just been decided, together."""
        for waiter in self._by_id.get(reservations[0].reservation_id, ())[:] if reservations else ():
            self._find(waiter, {row.reservation_id: row for row in reservations})

    async def look(self) -> int:
        """Asks the ledger about some of those who wait. Returns how many were answered."""
        answered = 0
        for _ in range(1 + len(self._line) // LOOK_MAX):
            some = list(islice(self._line, LOOK_MAX))
            if not some:
                return answered
            ids = tuple(each for waiter in some for each in waiter.ids)
            found = await self._ledger.find(FindReservations(ids, whole=False))
            rows = {row.reservation_id: row for row in found}
            hits = sum(self._find(waiter, rows) for waiter in some if waiter in self._line)
            self._to_the_end(some)
            answered += hits
            if hits * 2 < len(some):
                return answered
        return answered

    def _to_the_end(self, some: list[Waiter]) -> None:
        for waiter in some:
            if waiter in self._line:
                del self._line[waiter]
                self._line[waiter] = None

    def _find(self, waiter: Waiter, rows: dict[str, Reservation]) -> bool:
        if not all(each in rows for each in waiter.ids):
            return False
        self._answer(waiter, [rows[each] for each in waiter.ids])
        return True

    def _answer(self, waiter: Waiter, rows: list[Reservation]) -> None:
        if waiter not in self._line:
            return
        del self._line[waiter]
        same = self._by_id[waiter.ids[0]]
        same.remove(waiter)
        if not same:
            del self._by_id[waiter.ids[0]]
        if waiter.timer is not None:
            waiter.timer.cancel()
        tell(waiter.told, rows)
