"""What has been fetched of our slices and is not done: lines of messages, and the batches in work.

A slice is a partition number: the partition of that number of both topics. Nothing here knows of Kafka or of threads;
`deliveries.py` holds a lock around it.

How far a slice is done is a position in each of its two topics. It moves when a batch is done, and only then, so that
what a consumer had in work when it died comes again to the next one. A slice that we have lost is forgotten with its
lines and positions. Its batch may still be in work here: `done` of it moves nothing, and a slice of that name that
came back meanwhile hands nothing out before it, so that no two batches of a slice are ever in work in one process.

Whether requests of normal priority wait is not always to be seen in their line: they may wait at the broker. A line
that has not been read to the end of its topic counts as one in which somebody waits, for `PATIENCE_SECONDS` at most.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from flashsale.backends.kafka.topics import Names
from flashsale.core.turns import pick
from flashsale.ports import Batch, Delivery

FULL = 1_000
"""Messages of a line from which on no more are fetched; those of one fetch may still come on top."""
HUNGRY = 500
"""Messages of a full line from which on fetching goes on."""
PATIENCE_SECONDS = 0.5

Place = tuple[str, int]
"""A partition of a topic."""


class Waiting(NamedTuple):
    product: str
    delivery: Delivery


class Line:
    """Messages of one partition, in their order."""

    def __init__(self, now: float) -> None:
        self.waiting: deque[Waiting] = deque()
        self.read_to_end = False
        self.seen_at = now
        self.paused = False

    def may_hold_more(self, now: float) -> bool:
        return not self.read_to_end and now < self.seen_at + PATIENCE_SECONDS


class Slice:
    def __init__(self, now: float) -> None:
        self.high = Line(now)
        self.normal = Line(now)
        self.in_a_row = 0
        self.leaving = False
        self.in_work: Batch | None = None
        self.positions: dict[Place, int] = {}


class Slices:
    """Those that are ours."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._slices: OrderedDict[str, Slice] = OrderedDict()
        self._in_work: dict[str, Batch] = {}
        """By the slice's name; also those of slices that we have lost."""

    def assign(self, numbers: Iterable[int], now: float) -> None:
        self._slices |= {str(number): Slice(now) for number in numbers}

    def leave(self, numbers: Iterable[int]) -> None:
        """Hand out nothing more of these."""
        for slice_ in self._of(numbers):
            slice_.leaving = True

    def drop(self, numbers: Iterable[int]) -> None:
        """These are somebody else's now."""
        for number in numbers:
            self._slices.pop(str(number), None)

    def busy(self, numbers: Iterable[int]) -> bool:
        return any(slice_.in_work is not None for slice_ in self._of(numbers))

    def put(self, place: Place, waiting: Waiting, now: float) -> None:
        if (line := self._line(place)) is not None:
            line.waiting.append(waiting)
            line.read_to_end, line.seen_at = False, now

    def end(self, place: Place, now: float) -> None:
        """This partition has been read to its end."""
        if (line := self._line(place)) is not None:
            line.read_to_end, line.seen_at = True, now

    def take(self, now: float) -> Batch | None:
        """The next batch of the slice that has waited longest for its turn."""
        for name, slice_ in self._slices.items():
            if slice_.leaving or name in self._in_work:
                continue
            if batch := _next(name, slice_, now):
                self._slices.move_to_end(name)
                self._in_work[name] = slice_.in_work = batch
                return batch
        return None

    def any_waiting(self) -> bool:
        return any(
            slice_.high.waiting or slice_.normal.waiting
            for name, slice_ in self._slices.items()
            if name not in self._in_work and not slice_.leaving
        )

    def done(self, batch: Batch) -> None:
        """Takes the very batch that was handed out: one that looks like it may be of another time."""
        if self._in_work.get(batch.slice_name) is not batch:
            return
        del self._in_work[batch.slice_name]
        slice_ = self._slices.get(batch.slice_name)
        if slice_ is not None and slice_.in_work is batch:
            slice_.in_work = None
            slice_.positions |= {(at.topic, at.partition): at.offset + 1 for at, _ in batch.deliveries}

    def positions(self) -> dict[Place, int]:
        """How far everything of ours is done."""
        return {place: offset for slice_ in self._slices.values() for place, offset in slice_.positions.items()}

    def pauses(self) -> Iterator[Place]:
        """The lines that have become full."""
        for place, line in self._lines():
            if not line.paused and len(line.waiting) >= FULL:
                line.paused = True
                yield place

    def resumes(self) -> Iterator[Place]:
        """Those that were full and have room again."""
        for place, line in self._lines():
            if line.paused and len(line.waiting) <= HUNGRY:
                line.paused = False
                yield place

    def _lines(self) -> Iterator[tuple[Place, Line]]:
        for name, slice_ in self._slices.items():
            yield (self._names.high, int(name)), slice_.high
            yield (self._names.normal, int(name)), slice_.normal

    def _line(self, place: Place) -> Line | None:
        topic, number = place
        slice_ = self._slices.get(str(number))
        if slice_ is None:
            return None
        return slice_.high if topic == self._names.high else slice_.normal

    def _of(self, numbers: Iterable[int]) -> Iterator[Slice]:
        return (slice_ for number in numbers if (slice_ := self._slices.get(str(number))) is not None)


def _next(name: str, slice_: Slice, now: float) -> Batch | None:
    high, normal = slice_.high.waiting, slice_.normal.waiting
    if not high and not normal:
        return None
    more = slice_.normal.may_hold_more(now)
    picked = pick(high, normal, _product, slice_.in_a_row, more)
    slice_.in_a_row = picked.in_a_row
    for _ in range(picked.high):
        high.popleft()
    for _ in range(picked.normal):
        normal.popleft()
    return Batch(name, [waiting.delivery for waiting in picked.items]) if picked.items else None


def _product(waiting: Waiting) -> str:
    return waiting.product
