"""Did the shop keep its word? Compares what the buyers were told with the ledger, the shop's own later
answers and the payment provider's books.

Pure: evidence in, verdict out. Each check is one function that returns what it found, a line per
fault, and finds nothing when all is well. A promise counts from the moment it was sent, heard or not.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cached_property
from typing import NamedTuple

import msgspec

from flashsale.rehearsal.evidence import (
    Acknowledged,
    Ask,
    History,
    Order,
    Reservation,
    acknowledged_orders,
    acknowledged_reservations,
    asked,
    decode,
    last,
)

PAID_STATES = ("PAID", "PROCESSING", "SHIPPED", "DELIVERED")

CLOCK_SLACK = 0.05
"""Seconds by which a reservation may seem to end early, as clocks are read at different moments."""

EXPECTED = {
    Ask.RESERVE: {201, 202, 403, 409},
    Ask.CHECKOUT: {201, 402, 409, 410},
    Ask.CANCEL: {204, 409, 410},
    Ask.LOOK: {200},
}
NO_ANSWER = {0, 202, 429, 503}


class Stock(msgspec.Struct, frozen=True):
    """The counters of the product as the ledger gives them."""

    total: int
    available: int
    held: int
    sold: int


class Booking(msgspec.Struct, frozen=True):
    """What the payment provider's books say about one transaction, in minor units."""

    captured_minor: int = 0
    refunded_minor: int = 0

    @property
    def kept_minor(self) -> int:
        return self.captured_minor - self.refunded_minor


class Evidence(msgspec.Struct, frozen=True, dict=True):
    """All there is to judge by. `reservations` and `orders` are the shop's answers when it was asked
    again afterwards, None where it did not know; `books` are those of this crowd's transactions."""

    histories: Sequence[History]
    stock: Stock
    consistent: bool
    reservations: Mapping[str, Reservation | None]
    orders: Mapping[str, Order | None]
    books: Mapping[str, Booking]
    per_user_limit: int = 1
    hold_seconds: float = 0.0

    @cached_property
    def reserved(self) -> list[Acknowledged[Reservation]]:
        return list(acknowledged_reservations(self.histories))

    @cached_property
    def paid(self) -> list[Acknowledged[Order]]:
        """Promises of a paid order, one for each answer."""
        return [promise for promise in acknowledged_orders(self.histories) if promise.told.status in PAID_STATES]

    @cached_property
    def confirmed(self) -> list[Reservation]:
        return [told for told in self.reservations.values() if told is not None and told.status == "CONFIRMED"]

    @cached_property
    def paid_now(self) -> dict[str, Order]:
        """The paid orders that the shop knows, heard of by a buyer or not."""
        return {key: told for key, told in self.orders.items() if told is not None and told.status in PAID_STATES}


class _Span(NamedTuple):
    since: float
    until: float
    units: int


class Verdict(msgspec.Struct, frozen=True):
    """What was found, by check; nothing found is a good shop."""

    total: int
    sold: int
    oversold: int
    findings: Mapping[str, Sequence[str]]

    @property
    def lost(self) -> int:
        return sum(len(self.findings[name]) for name in LOST)

    @property
    def ok(self) -> bool:
        return not any(self.findings.values())

    @property
    def line(self) -> str:
        return f"sold {self.sold} of {self.total}, oversold {self.oversold}, lost {self.lost}"


def judge(evidence: Evidence) -> Verdict:
    findings = {name: list(check(evidence)) for name, check in CHECKS.items()}
    return Verdict(evidence.stock.total, evidence.stock.sold, units_oversold(evidence), findings)


def minor(price: Decimal) -> int:
    """The rehearsal's sale is in a currency of two decimals."""
    return int(price * 100)


def units_oversold(evidence: Evidence) -> int:
    """Units promised beyond the total, by whichever witness says the most."""
    paid = {promise.told.order_id: promise.told.quantity for promise in evidence.paid}
    witnesses = (
        evidence.stock.held + evidence.stock.sold,
        sum(paid.values()),
        sum(told.quantity for told in evidence.confirmed),
        sum(told.quantity for told in evidence.paid_now.values()),
    )
    return max(0, max(witnesses) - evidence.stock.total)


def oversold(evidence: Evidence) -> Iterator[str]:
    if units := units_oversold(evidence):
        yield f"{units} units were promised beyond the total of {evidence.stock.total}"


def inconsistent_ledger(evidence: Evidence) -> Iterator[str]:
    stock = evidence.stock
    if stock.available + stock.held + stock.sold != stock.total or min(stock.available, stock.held, stock.sold) < 0:
        yield f"the counters do not add up: {stock}"
    if not evidence.consistent:
        yield "the ledger says of itself that it is not consistent"
    ordered = sum(order.quantity for order in evidence.paid_now.values())
    if ordered != stock.sold:
        yield f"the ledger has {stock.sold} units sold, its paid orders make {ordered}"


def lost_reservations(evidence: Evidence) -> Iterator[str]:
    paid = {promise.told.reservation_id for promise in evidence.paid}
    promises = {promise.told.reservation_id: promise.user for promise in evidence.reserved}
    for key, user in promises.items():
        now = evidence.reservations.get(key)
        if now is None:
            yield f"{user} was given reservation {key}, which the shop no longer knows"
        elif now.user_id != user:
            yield f"reservation {key} of {user} now belongs to {now.user_id}"
        elif key in paid and now.status != "CONFIRMED":
            yield f"reservation {key} of {user} was paid for and is now {now.status}"


def lost_orders(evidence: Evidence) -> Iterator[str]:
    promises = {promise.told.order_id: promise for promise in evidence.paid}
    for key, promise in promises.items():
        now, kept = evidence.orders.get(key), _kept(evidence, promise.told)
        if now is None or now.status not in PAID_STATES:
            yield f"{promise.user} paid order {key}, which is now {now.status if now else 'unknown'}"
        elif now.total_price != promise.told.total_price or now.reservation_id != promise.told.reservation_id:
            yield f"order {key} of {promise.user} is not what it was: {promise.told}, now {now}"
        elif kept != minor(now.total_price):
            yield f"order {key} costs {minor(now.total_price)}, the provider keeps {kept} of {promise.user}"


def broken_keys(evidence: Evidence) -> Iterator[str]:
    """Once a key has a reservation, whoever asks with it again gets that one and no other."""
    promises: dict[tuple[str, str], Acknowledged[Reservation]] = {}
    for promise in sorted(evidence.reserved, key=lambda promise: promise.exchange.answered_at):
        promises.setdefault((promise.user, promise.exchange.subject), promise)
    for user, exchange in asked(evidence.histories, Ask.RESERVE):
        first = promises.get((user, exchange.subject))
        if first is None or exchange.status in NO_ANSWER:
            continue
        again = decode(exchange.body, Reservation) if exchange.status == 201 else None
        if again is None and exchange.sent_at > first.exchange.answered_at:
            yield f"{user} has {first.told.reservation_id} and was answered {exchange.status} {exchange.code}"
        elif again is not None and again.reservation_id != first.told.reservation_id:
            yield f"one key of {user} got {first.told.reservation_id} and {again.reservation_id}"


def double_charges(evidence: Evidence) -> Iterator[str]:
    """What the provider keeps of a user is what his paid orders cost: once, and nothing for nothing."""
    owed: dict[str, int] = defaultdict(int)
    for order in evidence.paid_now.values():
        owed[order.user_id] += minor(order.total_price)
    kept = {history.user: 0 for history in evidence.histories}
    for user, transaction in {(user, exchange.subject) for user, exchange in asked(evidence.histories, Ask.CHECKOUT)}:
        kept[user] += evidence.books.get(transaction, Booking()).kept_minor
    for user, amount in kept.items():
        if amount > owed[user]:
            yield f"{user} owes {owed[user]} and was charged {amount}"


def over_limit(evidence: Evidence) -> Iterator[str]:
    """At no moment does a user have more units, held or bought, than the limit allows."""
    for user, spans in _possession(evidence).items():
        most = max(sum(other.units for other in spans if other.since <= one.since < other.until) for one in spans)
        if most > evidence.per_user_limit:
            yield f"{user} had {most} units at once, the limit is {evidence.per_user_limit}"


def stranded_units(evidence: Evidence) -> Iterator[str]:
    """The rehearsal ends when nothing is held any more, and its patient buyers never give up: units
    left over beside such a buyer, sent away with SOLD_OUT, are units that did not come back."""
    stock = evidence.stock
    if stock.held:
        yield f"{stock.held} units are held by nobody"
    refused = sum(_left_without(history) for history in evidence.histories)
    if stock.available > 0 and refused:
        yield f"{stock.available} units were left over though {refused} patient buyers were refused to the end"


def ended_early(evidence: Evidence) -> Iterator[str]:
    """A reservation holds for the time promised: no checkout is too late before."""
    first_asked = _first_asked(evidence)
    for user, exchange in asked(evidence.histories, Ask.CHECKOUT):
        if exchange.code == "RESERVATION_EXPIRED":
            lived = exchange.answered_at - first_asked.get(exchange.reservation_id, 0.0)
            if lived < evidence.hold_seconds - CLOCK_SLACK:
                yield f"{exchange.reservation_id} of {user} ended after {lived:.2f} s"


def _first_asked(evidence: Evidence) -> dict[str, float]:
    """When each reservation may have been made at the earliest: a request that got no answer may have made it, one that
    was refused has not."""
    first_asked: dict[str, float] = {}
    since: dict[tuple[str, str], float] = {}
    for user, exchange in asked(evidence.histories, Ask.RESERVE):
        key = (user, exchange.subject)
        since.setdefault(key, exchange.sent_at)
        told = decode(exchange.body, Reservation) if exchange.status == 201 else None
        if told is not None:
            first_asked.setdefault(told.reservation_id, since[key])
        elif exchange.status not in NO_ANSWER:
            del since[key]
    return first_asked


def books_differ(evidence: Evidence) -> Iterator[str]:
    kept = sum(booking.kept_minor for booking in evidence.books.values())
    owed = sum(minor(order.total_price) for order in evidence.paid_now.values())
    if kept != owed:
        yield f"the provider keeps {kept}, the paid orders make {owed}"


def unexpected_answers(evidence: Evidence) -> Iterator[str]:
    """Answers that nothing these buyers do should bring about."""
    for ask, statuses in EXPECTED.items():
        for user, exchange in asked(evidence.histories, ask):
            if exchange.status not in statuses | NO_ANSWER:
                yield f"{ask} by {user}: {exchange.status} {exchange.body[:300]!r}"


def unanswered(evidence: Evidence) -> Iterator[str]:
    """A buyer who repeated his request and never got a proper answer: the shop was not there for him."""
    for history in evidence.histories:
        final = history.exchanges[-1] if history.exchanges else None
        if final is None or final.status in NO_ANSWER:
            yield f"{history.user} never got an answer"


def _kept(evidence: Evidence, order: Order) -> int:
    return evidence.books.get(order.payment_transaction_id or "", Booking()).kept_minor


def _possession(evidence: Evidence) -> dict[str, list[_Span]]:
    """From when to when each user certainly had his units: from the answer that said so, until he cancelled or the
    hold had to end, or for good once bought. A hold counts from the first time he asked for it: who repeats a request
    that got no answer may be told of a reservation that is nearly over."""
    cancelled = {exchange.subject: exchange.sent_at for _, exchange in reversed(asked(evidence.histories, Ask.CANCEL))}
    bought = {reservation.reservation_id for reservation in evidence.confirmed}
    first_asked = _first_asked(evidence)
    spans: dict[str, dict[str, _Span]] = defaultdict(dict)
    for promise in sorted(evidence.reserved, key=lambda promise: promise.exchange.answered_at):
        key = promise.told.reservation_id
        ends_at = first_asked[key] + evidence.hold_seconds - CLOCK_SLACK
        until = math.inf if key in bought else cancelled.get(key, ends_at)
        spans[promise.user].setdefault(key, _Span(promise.exchange.answered_at, until, promise.told.quantity))
    return {user: list(own.values()) for user, own in spans.items()}


def _left_without(history: History) -> bool:
    final = last(history, Ask.RESERVE) if history.patient else None
    return final is not None and final.code == "SOLD_OUT"


CHECKS: Mapping[str, Callable[[Evidence], Iterator[str]]] = {
    "oversold": oversold,
    "ledger inconsistent": inconsistent_ledger,
    "reservations lost": lost_reservations,
    "orders lost": lost_orders,
    "request keys broken": broken_keys,
    "charged twice": double_charges,
    "over the limit": over_limit,
    "units stranded": stranded_units,
    "holds cut short": ended_early,
    "books differ": books_differ,
    "unexpected answers": unexpected_answers,
    "never answered": unanswered,
}
LOST = ("reservations lost", "orders lost", "request keys broken")
