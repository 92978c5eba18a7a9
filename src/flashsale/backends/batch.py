"""What waits for a ledger, and how it is answered: the part of a group commit that knows no database."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import structlog

from flashsale.answering import tell
from flashsale.core.journal import Stock
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Decided
from flashsale.ports import FAILED, LedgerUnavailable, Observer, Outcome, Reply
from flashsale.tracing import TRACE_ID

BUSY = Refused(Refusal.UNAVAILABLE, "The ledger is busy: try again", {"retryAfterSeconds": 1})
FULL = Refused(Refusal.UNAVAILABLE, "The ledger's disk is full: nothing was changed", {"retryAfterSeconds": 5})

AWAY = Refused(
    Refusal.UNAVAILABLE, "The ledger cannot be reached now: nothing was changed, try again", {"retryAfterSeconds": 1}
)
UNKNOWN = Refused(
    Refusal.UNAVAILABLE,
    "The ledger was lost during a commit; whether this was taken shows when it is back: repeat it with the same key",
    {"retryAfterSeconds": 1},
)

T = TypeVar("T")

log = structlog.get_logger("flashsale.ledger")


def failed(error: Exception) -> Refused:
    """FAILED, with what the log and a dead letter are to say of it."""
    return Refused(FAILED.refusal, FAILED.message, {**FAILED.details, "error": f"{type(error).__name__}: {error}"})


class Job:
    """A move or a read: is run by a ledger in its own way, answers on the loop."""

    __slots__ = ("answer", "run", "trace_id")

    def __init__(self, run: Any, answer: Callable[[Any], None]) -> None:
        self.run = run
        self.answer = answer
        self.trace_id = TRACE_ID.get()


def into(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """An answer for somebody who awaits it."""

    def answer(result: object) -> None:
        if future.done():
            return
        if isinstance(result, Refused) and result.refusal is Refusal.UNAVAILABLE:
            future.set_exception(LedgerUnavailable(result.message))
        else:
            future.set_result(result)

    return answer


def taken_in(reply: Callable[[bool], None]) -> Callable[[Any], None]:
    """An answer for somebody who only wants to know whether it is there for good."""
    return lambda result: reply(not isinstance(result, Refused))


def in_their_places(batch: Sequence["Item"], moved: Iterable[Any], decided: Iterable[Any]) -> list[Any]:
    """The results of jobs and of attempts, each in the place of its item."""
    of_jobs, of_attempts = iter(moved), iter(decided)
    return [next(of_jobs) if isinstance(item, Job) else next(of_attempts) for item in batch]


class Asked:
    """An attempt and who waits for its outcome."""

    __slots__ = ("answer", "attempt")

    def __init__(self, attempt: Attempt, reply: Reply) -> None:
        self.attempt = attempt
        self.answer = reply


Item = Job | Asked


class Committed(NamedTuple):
    """What a batch has come to: a result per item, and what the observer is told."""

    results: list[Any]
    stock: dict[tuple[str, str], Stock]
    changed: dict[str, Sale | None]
    sales: dict[str, Sale]


def take(urgent: deque[T], waiting: deque[T], most: int) -> list[T]:
    """The next batch: what is urgent first."""
    batch: list[T] = []
    for queue in (urgent, waiting):
        while queue and len(batch) < most:
            batch.append(queue.popleft())
    return batch


class Undecided:
    """The requests with a key that wait for the writer: a copy of one must not be answered before it."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str | None]] = Counter()

    def add(self, attempt: Attempt) -> None:
        if attempt.key is not None:
            self._requests[attempt.user_id, attempt.sale_id, attempt.key] += 1

    def remove(self, attempt: Attempt) -> None:
        if attempt.key is None:
            return
        request = (attempt.user_id, attempt.sale_id, attempt.key)
        self._requests[request] -= 1
        if not self._requests[request]:
            del self._requests[request]

    def __contains__(self, attempt: Attempt) -> bool:
        return (attempt.user_id, attempt.sale_id, attempt.key) in self._requests


def deliver(batch: Sequence[Item], committed: Committed, undecided: Undecided, observer: Observer) -> None:
    """After the commit: the observer hears of it before those who asked."""
    try:
        _tell(observer, committed)
    except Exception:
        log.exception("the observer could not be told")
    for item, result in zip(batch, committed.results, strict=True):
        if isinstance(item, Asked):
            undecided.remove(item.attempt)
        tell(item.answer, result)


def _tell(observer: Observer, committed: Committed) -> None:
    for sale_id, sale in committed.changed.items():
        observer.sale_changed(sale_id, sale)
    if committed.stock:
        observer.stock_changed(list(committed.stock.values()))


def count_refusals(batch: Sequence[Item], outcomes: Sequence[Any], counts: Counter[tuple[str, str]]) -> None:
    """Counts the refusals of attempts, by sale and code."""
    for item, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Refused) and isinstance(item, Asked):
            counts[item.attempt.sale_id, outcome.refusal.code] += 1


def from_a_read(attempt: Attempt, outcome: Outcome | None, lapsed: bool, now_ms: int) -> Outcome | None:
    """What a read may say of an attempt that it finds refused, or not (None). None: only the writer knows, because
    limit and units may be taken up by what has lapsed and is not swept yet. Of a queued one that may win it says so."""
    if isinstance(outcome, Refused) and outcome.refusal in _OPEN_ENDS[lapsed, attempt.slip is None]:
        outcome = None
    return Decided([], now_ms) if outcome is None and attempt.slip is not None else outcome


_OPEN_ENDS = {
    (True, True): {Refusal.LIMIT_EXCEEDED, Refusal.SOLD_OUT},
    (True, False): {Refusal.LIMIT_EXCEEDED, Refusal.SOLD_OUT},
    (False, True): {Refusal.LIMIT_EXCEEDED},
    (False, False): set(),
}
"""By whether something has lapsed, and whether the attempt goes to the writer next."""
