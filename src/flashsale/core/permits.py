"""Permits: who may put a request for units of a queued sale into its queue.

A permit is no reservation. It keeps those who cannot win out of the queue; the ledger decides about the others. So a
wrong permit costs a wasted attempt, and a gate may forget all of this at any moment.

What is free is what the ledger had at the last synchronisation less what is outstanding: permits whose requests are
still on their way to a decision. A permit is removed when its request has been decided, in the same step that takes
the ledger's new figure in, so that no unit is counted twice or not at all. Until its request is in the queue it lives
for three seconds only: whoever took it may have died.

SOLD_OUT is said only out of a synchronisation that is fresh; out of an older one the answer is UNSURE and nothing is
taken. `lua/gate.lua` does the same inside Redis, and a test compares the two on random sequences.
"""

from collections.abc import Sequence
from enum import StrEnum
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import msgspec

from flashsale.core.books import Line

APPEND_SECONDS = 3
"""How long a permit lives whose request is not in the queue yet."""
PERMIT_SECONDS = 600
"""How long a permit lives whose request is in the queue."""
FRESH_MS = 250
"""From an older synchronisation nobody is told SOLD_OUT."""
SHOWN_MS = 1000
"""An older synchronisation is not shown as what is available."""
LAPSED_MAX = 1000
"""Permits that lapse in one call; the next call goes on."""
PERMITS_MAX = 1_000_000
"""Permits of one product that may be outstanding; beyond it the answer is UNSURE."""


class Verdict(StrEnum):
    PERMITTED = "PERMITTED"
    QUEUED = "QUEUED"
    """This very request is in the queue already: there is nothing to append."""
    SOLD_OUT = "SOLD_OUT"
    LIMIT = "LIMIT"
    """By what is on its way, this would be above the user's limit: a hint, which the ledger confirms or not."""
    KEY_REUSED = "KEY_REUSED"
    UNSURE = "UNSURE"
    """There may be units or not, and nothing was taken: synchronise and ask again."""


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """One reservation id's wish for units."""

    reservation_id: str
    user_id: str
    sale_id: str
    sku_id: str
    quantity: int
    per_user_limit: int
    fingerprint: str
    """Of the kind of request and its items: the same id with another fingerprint is a key that was used before."""

    @property
    def line(self) -> Line:
        return self.sale_id, self.sku_id


class Permit(NamedTuple):
    verdict: Verdict
    units: int = 0
    """For the one who is told SOLD_OUT: those that are free; LIMIT: those that he has on their way. Else 0."""


class Synchronised(NamedTuple):
    """What the ledger says of a product."""

    sale_id: str
    sku_id: str
    available: int
    sku_seq: int

    @property
    def line(self) -> Line:
        return self.sale_id, self.sku_id


class Outstanding(NamedTuple):
    user_id: str
    quantity: int
    fingerprint: str


class Told(NamedTuple):
    """The last synchronisation, and when it came."""

    available: int
    sku_seq: int
    at_ms: int

    def is_younger(self, limit_ms: int, now_ms: int) -> bool:
        """One from the future is not: the clock was set back."""
        return 0 <= now_ms - self.at_ms <= limit_ms


class Counter:
    """What a gate knows of one product."""

    def __init__(self) -> None:
        self.told: Told | None = None
        self.permits: dict[str, Outstanding] = {}
        self.units = 0
        """Outstanding in all."""
        self.by_user: dict[str, int] = {}
        self.deadlines: dict[str, int] = {}
        self._queue: list[tuple[int, str]] = []
        """Deadlines in order; what `deadlines` does not confirm is out of date."""

    def record(self, wish: Wish) -> None:
        self.permits[wish.reservation_id] = Outstanding(wish.user_id, wish.quantity, wish.fingerprint)
        self.units += wish.quantity
        self.by_user[wish.user_id] = self.by_user.get(wish.user_id, 0) + wish.quantity

    def prolong(self, reservation_id: str, deadline_ms: int) -> None:
        if deadline_ms <= self.deadlines.get(reservation_id, -1):
            return
        self.deadlines[reservation_id] = deadline_ms
        if len(self._queue) > 2 * len(self.deadlines) + 64:
            self._queue = [(deadline, each) for each, deadline in self.deadlines.items()]
            heapify(self._queue)
        else:
            heappush(self._queue, (deadline_ms, reservation_id))

    def remove(self, reservation_id: str) -> None:
        """Of a permit that is not there: nothing."""
        permit = self.permits.pop(reservation_id, None)
        if permit is None:
            return
        del self.deadlines[reservation_id]
        self.units -= permit.quantity
        self.by_user[permit.user_id] -= permit.quantity
        if not self.by_user[permit.user_id]:
            del self.by_user[permit.user_id]

    def drop_lapsed(self, now_ms: int) -> None:
        """The oldest first, at most LAPSED_MAX."""
        dropped = 0
        while dropped < LAPSED_MAX and self._queue and self._queue[0][0] <= now_ms:
            deadline_ms, reservation_id = heappop(self._queue)
            if self.deadlines.get(reservation_id) == deadline_ms:
                self.remove(reservation_id)
                dropped += 1


def permit(counter: Counter, wishes: Sequence[Wish], now_ms: int) -> list[Permit]:
    """Decides wishes for one product, each against what those before it have left."""
    counter.drop_lapsed(now_ms)
    return [_decide(counter, wish, now_ms) for wish in wishes]


def _decide(counter: Counter, wish: Wish, now_ms: int) -> Permit:
    earlier = counter.permits.get(wish.reservation_id)
    if earlier is not None and earlier.fingerprint != wish.fingerprint:
        return Permit(Verdict.KEY_REUSED)
    if earlier is None and (refused := _refuse(counter, wish, now_ms)):
        return refused
    if earlier is not None and counter.deadlines[wish.reservation_id] > now_ms + APPEND_SECONDS * 1000:
        return Permit(Verdict.QUEUED)
    # Below this line nothing can fail.
    if earlier is None:
        counter.record(wish)
    counter.prolong(wish.reservation_id, now_ms + APPEND_SECONDS * 1000)
    return Permit(Verdict.PERMITTED)


def _refuse(counter: Counter, wish: Wish, now_ms: int) -> Permit | None:
    has = counter.by_user.get(wish.user_id, 0)
    if has + wish.quantity > wish.per_user_limit:
        return Permit(Verdict.LIMIT, has)
    if counter.told is None or len(counter.permits) >= PERMITS_MAX:
        return Permit(Verdict.UNSURE)
    free = counter.told.available - counter.units
    if free < wish.quantity:
        fresh = counter.told.is_younger(FRESH_MS, now_ms)
        return Permit(Verdict.SOLD_OUT, max(free, 0)) if fresh else Permit(Verdict.UNSURE)
    return None


def appended(counter: Counter, reservation_ids: Sequence[str], now_ms: int) -> None:
    """These are in the queue. One that is not outstanding has been decided already, and stays away."""
    for reservation_id in reservation_ids:
        if reservation_id in counter.permits:
            counter.prolong(reservation_id, now_ms + PERMIT_SECONDS * 1000)


def queued(counter: Counter, wish: Wish, now_ms: int) -> bool:
    """Whether the request of this wish is in the queue."""
    permit = counter.permits.get(wish.reservation_id)
    if permit is None or permit.fingerprint != wish.fingerprint:
        return False
    return counter.deadlines[wish.reservation_id] > now_ms + APPEND_SECONDS * 1000


def settle(counter: Counter, reservation_ids: Sequence[str], told: Synchronised | None, now_ms: int) -> None:
    """Removes permits and takes in what the ledger says, unless something newer is known."""
    for reservation_id in reservation_ids:
        counter.remove(reservation_id)
    if told is not None and (counter.told is None or told.sku_seq >= counter.told.sku_seq):
        counter.told = Told(told.available, told.sku_seq, now_ms)
    counter.drop_lapsed(now_ms)


def available(counter: Counter, now_ms: int) -> int | None:
    """What the ledger had at the last synchronisation; None if that is too long ago."""
    told = counter.told
    return told.available if told is not None and told.is_younger(SHOWN_MS, now_ms) else None
