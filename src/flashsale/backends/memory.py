"""The gate port inside one process: for a machine that runs one API process, and the model of the others.

It is never away and forgets everything with its process. Its maxima only decide what is forgotten first: a forgotten
product permits a few wasted attempts, a forgotten bucket allows one burst more.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from flashsale.backends.gate_calls import by, require_small, settlements, shown
from flashsale.core import permits, signs
from flashsale.core.books import Line
from flashsale.core.permits import Counter, Permit, Synchronised, Wish
from flashsale.core.rate_limit import Allowance, Buckets, Draft, at_us
from flashsale.core.sighting import Groups, Sighting
from flashsale.core.signs import Back, Heard, Signs
from flashsale.ports import Clock

PRODUCTS_MAX = 10_000
BUCKETS_MAX = 200_000
ROOMS_MAX = 1_000
MEMBERS_MAX = 200_000
"""Of all groups of sightings together."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class MemoryGate:
    """For one event loop."""

    trouble: str | None = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._products: OrderedDict[Line, Counter] = OrderedDict()
        self.buckets = Buckets(BUCKETS_MAX)
        self._rooms: OrderedDict[str, Heard] = OrderedDict()
        self.groups = Groups(MEMBERS_MAX)
        self._settings: dict[str, tuple[int, str]] = {}

    async def permit(self, wishes: Sequence[Wish]) -> list[Permit]:
        now_ms = self._clock.now_ms()
        answers: list[Permit] = [Permit(permits.Verdict.UNSURE)] * len(wishes)
        for line, places in by(wishes, lambda wish: wish.line).items():
            decided = permits.permit(self._product(line), [wishes[place] for place in places], now_ms)
            for place, answer in zip(places, decided, strict=True):
                answers[place] = answer
        return answers

    async def appended(self, wishes: Sequence[Wish]) -> None:
        now_ms = self._clock.now_ms()
        for line, places in by(wishes, lambda wish: wish.line).items():
            permits.appended(self._product(line), [wishes[place].reservation_id for place in places], now_ms)

    async def queued(self, wishes: Sequence[Wish]) -> list[bool]:
        now_ms = self._clock.now_ms()
        return [permits.queued(self._product(wish.line), wish, now_ms) for wish in wishes]

    async def settle(self, lines: Sequence[tuple[Line, Sequence[str]]], synchronised: Sequence[Synchronised]) -> None:
        now_ms = self._clock.now_ms()
        for line, (ids, told) in settlements(lines, synchronised).items():
            permits.settle(self._product(line), ids, told, now_ms)

    async def synchronise(self, rows: Sequence[Synchronised]) -> None:
        await self.settle((), rows)

    async def availability(self, lines: Sequence[Line]) -> list[int | None]:
        now_ms = self._clock.now_ms()
        known = [self._products.get(line) for line in lines]
        return [permits.available(counter, now_ms) if counter else None for counter in known]

    async def take(self, drafts: Sequence[Draft]) -> list[Allowance]:
        now_us = self._now_us()
        return [self.buckets.take(draft, now_us) for draft in drafts]

    async def take_together(self, requests: Sequence[Sequence[Draft]]) -> list[list[Allowance]]:
        now_us = self._now_us()
        return [self.buckets.take_together(drafts, now_us) for drafts in requests]

    async def forget(self, buckets: Sequence[str]) -> None:
        self.buckets.forget(buckets)

    def _now_us(self) -> float:
        return at_us(self._clock.now_ms())

    async def sighted(self, sightings: Sequence[Sighting]) -> list[int]:
        now_ms = self._clock.now_ms()
        return [self.groups.sighted(sighting, now_ms) for sighting in sightings]

    async def tell_signs(self, sale_id: str, numbers: Sequence[int], back: Sequence[Back], grace_ms: int) -> None:
        now_ms = self._clock.now_ms()
        signs.tell(self._room(sale_id, now_ms), numbers, back, now_ms, grace_ms)

    async def ask_signs(
        self, sale_id: str, numbers: Sequence[int], done: Sequence[int], most: int, grace_ms: int
    ) -> Signs:
        now_ms = self._clock.now_ms()
        return signs.ask(self._room(sale_id, now_ms), numbers, done, most, now_ms, grace_ms)

    async def settings(self) -> dict[str, str]:
        return shown(self._settings)

    async def put_settings(self, changes: dict[str, str], version: int) -> None:
        require_small(changes, len(self._settings.keys() | changes.keys()))
        for name, value in changes.items():
            if version >= self._settings.get(name, (version, ""))[0]:
                self._settings[name] = version, value

    async def close(self) -> None:
        """Forgets nothing that matters."""

    def _room(self, sale_id: str, now_ms: int) -> Heard:
        heard = self._rooms.pop(sale_id, None) or Heard(now_ms)
        _keep(self._rooms, sale_id, heard, ROOMS_MAX)
        return heard

    def _product(self, line: Line) -> Counter:
        counter = self._products.pop(line, None) or Counter()
        _keep(self._products, line, counter, PRODUCTS_MAX)
        return counter


def _keep(kept: OrderedDict[K, V], key: K, value: V, maximum: int) -> None:
    """Puts an entry behind the others; what was not asked for longest makes room."""
    kept[key] = value
    if len(kept) > maximum:
        kept.popitem(last=False)
