"""The writer's moves: each loads its rows, lets the rules of `core/` decide, and stores what they decided.

They run inside the writer's transaction. The time is taken here, after the write lock.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from flashsale.backends.ids import IdMint
from flashsale.backends.sqlite import queue, rows
from flashsale.backends.sqlite.by_user import ByUser, place
from flashsale.backends.sqlite.rows import SQL, array
from flashsale.core import dead_letters, exits, settlement, stock
from flashsale.core.books import Books
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.checkout import open_order as find_or_open
from flashsale.core.journal import Movement, Stock
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.refusal import Refused
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Decided
from flashsale.ports import Clock, Outcome, PaymentFact, PutOff, RefundFact

T = TypeVar("T")

FAR = 2**62
LAPSED_MAX = 500
"""Reservations released in one batch."""


class Desk:
    """What the writer works with, and what it will tell when the transaction has committed."""

    def __init__(self, db: sqlite3.Connection, clock: Clock) -> None:
        self.db = db
        self.clock = clock
        self.new_id = IdMint(clock.now_ms)
        self.by_user = ByUser(db)
        self.sales = rows.sales(db)
        self.secret = queue.secret(db)
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.stock: dict[tuple[str, str], Stock] = {}
        self.changed_sales: dict[str, Sale | None] = {}
        self.wrote = False
        self.full = False
        """Whether the disk had no room for the last write."""
        self.next_expiry_ms = 0
        """Nothing that is held lapses before this time."""
        self.trace_id: str | None = None
        """Of the move that is being made."""

    def begin(self) -> None:
        self.db.execute(SQL["begin"])
        self.stock, self.changed_sales, self.wrote = {}, {}, False

    def commit(self) -> None:
        counted = [(*key, times) for key, times in self.refusals.items()] if self.wrote else []
        if counted:
            self.db.executemany(SQL["refusals"], counted)
        self.by_user.sink()
        self.db.execute(SQL["commit"])
        self.full = self.full and not self.wrote
        if counted:
            self.refusals.clear()

    def roll_back(self) -> None:
        if self.db.in_transaction:
            self.db.execute(SQL["rollback"])
        self.by_user.count()
        if self.changed_sales:
            self.sales = rows.sales(self.db)
        self.next_expiry_ms = 0
        self.stock, self.changed_sales = {}, {}

    def traced(self, trace_id: str | None, move: Callable[["Desk"], T]) -> T:
        """Makes a move in the name of its request."""
        self.trace_id = trace_id
        return move(self)

    def books(self, reservation_ids: Iterable[str] = (), order_ids: Iterable[str] = ()) -> Books:
        """Those of a move."""
        books = rows.books_of(self.db, self.sales, reservation_ids, order_ids)
        books.trace_id = self.trace_id
        return books

    def store_journal(self, movements: Sequence[Movement]) -> None:
        rows.store_journal(self.db, [each._replace(trace_id=self.trace_id) for each in movements])

    def store(self, books: Books) -> None:
        if books.unchanged:
            return
        self.wrote = True
        rows.store(self.db, books, self.by_user)
        for reservation in books.new_reservations:
            if reservation.expires_at_ms < self.next_expiry_ms:
                self.next_expiry_ms = reservation.expires_at_ms
        for line in books.touched_stock:
            self.stock[line] = books.stock[line]


def reserve(desk: Desk, attempts: Sequence[Attempt]) -> list[Outcome]:
    """Decides a batch of attempts, after giving back what has lapsed: a buyer's own, and what is on sale again."""
    _expire(desk, attempts)
    books = rows.books_of_attempts(desk.db, desk.sales, attempts)
    outcomes = stock.reserve(books, attempts, desk.clock.now_ms(), desk.new_id)
    desk.store(books)
    return outcomes


def _expire(desk: Desk, attempts: Sequence[Attempt] = ()) -> int:
    now_ms = desk.clock.now_ms()
    if now_ms < desk.next_expiry_ms:
        return 0
    ids = [row[0] for row in desk.db.execute(SQL["lapsed_ids"], (now_ms, LAPSED_MAX))]
    if len(ids) == LAPSED_MAX and attempts:
        buyers = {(attempt.user_id, attempt.sale_id) for attempt in attempts}
        users = array((place(*buyer), *buyer) for buyer in buyers)
        ids += [row[0] for row in desk.db.execute(SQL["lapsed_ids_of_users"], (users, now_ms))]
    books = rows.books_of(desk.db, desk.sales, ids)  # of no trace: nobody asked for it
    released = exits.expire(books, now_ms)
    desk.store(books)
    (next_ms,) = desk.db.execute(SQL["next_expiry"]).fetchone()
    desk.next_expiry_ms = FAR if next_ms is None else next_ms
    return released


def expire(desk: Desk, refusals: Counter[tuple[str, str]]) -> int:
    """One bounded batch; also the moment in which refusals counted since the last write are written."""
    desk.refusals.update(refusals)
    if desk.full:
        desk.db.execute(SQL["probe"])  # a write like any other: is there room again?
        desk.wrote = True
    refusals.clear()  # taken over once, also if this is run again
    desk.wrote = desk.wrote or bool(desk.refusals)
    return _expire(desk)


def release(desk: Desk, reservation_id: str, user_id: str | None) -> Reservation | Refused:
    books = desk.books([reservation_id])
    outcome = exits.release(books, reservation_id, user_id, desk.clock.now_ms())
    desk.store(books)
    return outcome


def withdraw(desk: Desk, reservation_id: str, user_id: str | None) -> Reservation | Refused:
    books = desk.books([reservation_id])
    outcome = exits.withdraw(books, reservation_id, user_id, desk.clock.now_ms())
    desk.store(books)
    return outcome


def enqueue(desk: Desk, request: Request) -> None:
    books = Books(desk.sales)
    books.queued.append(request)
    desk.store(books)


def bury(desk: Desk, letter: DeadLetter, request: Request | None, place: int | None) -> None:
    books = desk.books(request.reservation_ids if request else ())
    queue.load_letters(desk.db, books, [letter.letter_id])
    dead_letters.bury(books, letter, request, desk.clock.now_ms())
    if place is not None:
        books.taken.append(place)
    desk.store(books)


def redrive(desk: Desk, letter_id: str, request: Request, actor: str) -> Decided | Refused:
    ids, now_ms = dead_letters.redriven_ids(desk.secret, letter_id, request), desk.clock.now_ms()
    attempt = dead_letters.attempt_of(replace(request, reservation_ids=ids))
    books = rows.books_of_attempts(desk.db, desk.sales, [attempt])
    books.trace_id = desk.trace_id
    queue.load_letters(desk.db, books, [letter_id])
    outcome = dead_letters.redrive(books, letter_id, request, ids, actor, now_ms)
    desk.store(books)
    return outcome


def open_order(desk: Desk, checkout: Checkout) -> Opened | Refused:
    books = desk.books(checkout.reservation_ids)
    rows.add_claims(desk.db, books, checkout.provider, checkout.transaction_id)
    outcome = find_or_open(books, checkout, desk.clock.now_ms(), desk.new_id)
    desk.store(books)
    return outcome


def settle(desk: Desk, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
    match fact:
        case PaymentFact():
            return _settle_payment(desk, fact)
        case RefundFact():
            _settle_refund(desk, fact)
        case PutOff():
            _put_off(desk, fact)
    return None


def _settle_payment(desk: Desk, fact: PaymentFact) -> Opened:
    _expire(desk)  # late money may be honoured with a unit whose time is over
    (order_id,) = desk.db.execute(SQL["order_of_payment"], (fact.payment_id,)).fetchone()
    books = desk.books(order_ids=[order_id])
    payment = books.payments[fact.payment_id]
    rows.add_claims(desk.db, books, payment.provider, payment.transaction_id)
    now_ms = desk.clock.now_ms()
    opened = settlement.settle(
        books, fact.payment_id, fact.transaction, now_ms, desk.new_id, fact.lease_ms, fact.answers
    )
    desk.store(books)
    return opened


def _settle_refund(desk: Desk, fact: RefundFact) -> None:
    (order_id,) = desk.db.execute(SQL["order_of_refund"], (fact.refund_id,)).fetchone()
    books = desk.books(order_ids=[order_id])
    settlement.refunded(books, fact.refund_id, desk.clock.now_ms())
    desk.store(books)


def _put_off(desk: Desk, step: PutOff) -> None:
    desk.wrote = True
    until_ms = desk.clock.now_ms() + step.delay_ms
    if step.payment_id is not None:
        desk.db.execute(SQL["put_off_payment"], (step.payment_id, until_ms))
    if step.refund_id is not None:
        desk.db.execute(SQL["put_off_refund"], (step.refund_id, until_ms))


def cancel_order(desk: Desk, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
    books = desk.books(order_ids=[order_id])
    outcome = settlement.cancel_order(books, order_id, user_id, reason, desk.clock.now_ms(), desk.new_id)
    desk.store(books)
    return outcome
