"""What a ledger's batch is made of: for each move the rows it needs and the rule that decides it.

A move knows no database. All moves of a batch are decided on the same books, one after the other, so that each sees
what those before it have changed.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from flashsale.backends.postgres.rows import Needs
from flashsale.core import dead_letters, exits, right, settlement
from flashsale.core.books import Books
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.checkout import open_order as find_or_open
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.payment import Right, TransactionKey
from flashsale.core.refusal import Refused
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.stock import Decided, NewId
from flashsale.ports import PaymentFact, PutOff, RefundFact

T = TypeVar("T")

LAPSED_MAX = 500
"""Reservations released in one batch."""
FAR = 2**62


class Desk(NamedTuple):
    """What a move is decided with."""

    books: Books
    now_ms: int
    new_id: NewId
    released: int
    """How many lapsed reservations this batch has released."""


class Move(NamedTuple, Generic[T]):
    needs: Needs
    decide: Callable[[Desk], T]
    after_lapsed: bool = False
    """Whether what has lapsed is to be released first."""


def storable(*ids: str | None) -> set[str]:
    """PostgreSQL keeps no U+0000 in a text: nothing has such an id, and it must not be asked for one."""
    return {each for each in ids if each and "\0" not in each}


def expire() -> Move[int]:
    return Move(Needs(), lambda desk: desk.released, after_lapsed=True)


def release(reservation_id: str, user_id: str | None) -> Move[Reservation | Refused]:
    needs = Needs(reservation_ids=storable(reservation_id))
    return Move(needs, lambda desk: exits.release(desk.books, reservation_id, user_id, desk.now_ms))


def withdraw(reservation_id: str, user_id: str | None) -> Move[Reservation | Refused]:
    needs = Needs(reservation_ids=storable(reservation_id))
    return Move(needs, lambda desk: exits.withdraw(desk.books, reservation_id, user_id, desk.now_ms))


def enqueue(request: Request) -> Move[None]:
    return Move(Needs(), lambda desk: desk.books.queued.append(request))


def bury(letter: DeadLetter, request: Request | None, place: int | None) -> Move[None]:
    needs = Needs(letter_ids={letter.letter_id})
    if request is not None:
        needs.decided_ids = set(request.reservation_ids)
    return Move(needs, lambda desk: _bury(desk, letter, request, place))


def _bury(desk: Desk, letter: DeadLetter, request: Request | None, place: int | None) -> None:
    dead_letters.bury(desk.books, letter, request, desk.now_ms)
    if place is not None:
        desk.books.taken.append(place)


def redrive(secret: bytes, letter_id: str, request: Request, actor: str) -> Move[Decided | Refused]:
    ids = dead_letters.redriven_ids(secret, letter_id, request)
    lines = {(request.sale_id, item.sku_id) for item in request.items}
    needs = Needs(letter_ids={letter_id}, decided_ids=set(ids), lines=lines, users={(request.user_id, request.sale_id)})
    needs.places = {(request.sale_id, mark) for mark in request.marks}
    return Move(needs, lambda desk: dead_letters.redrive(desk.books, letter_id, request, ids, actor, desk.now_ms))


def open_order(checkout: Checkout) -> Move[Opened | Refused]:
    needs = Needs(
        reservation_ids=storable(*checkout.reservation_ids), transactions={(checkout.provider, checkout.transaction_id)}
    )
    return Move(needs, lambda desk: find_or_open(desk.books, checkout, desk.now_ms, desk.new_id))


def open_order_if_known(checkout: Checkout) -> Move[Opened | Refused]:
    """Without the right to its transaction: finds what is there, refuses what is to be refused, and answers
    PAYMENT_REUSED where the right is all that is missing."""

    def decide(desk: Desk) -> Opened | Refused:
        key, rights = (checkout.provider, checkout.transaction_id), desk.books.rights
        noted = rights.get(key)
        rights[key] = right.NOT_ASKED
        opened = find_or_open(desk.books, checkout, desk.now_ms, desk.new_id)
        rights.pop(key)
        if noted is not None:
            rights[key] = noted
        return opened

    return Move(open_order(checkout).needs, decide)


def with_right(move: Move[T] | Move[T | None], key: TransactionKey, turn: int) -> Move[T | None]:
    """A move that needs the right to a transaction, given in `turn`. None: it was given up since."""
    return Move(
        move.needs,
        lambda desk: move.decide(desk) if right.take(desk.books, key, turn) else None,
        move.after_lapsed,
    )


def hold(key: TransactionKey, asker: int, given_up_turn: int | None) -> Move[Right]:
    return Move(Needs(transactions={key}), lambda desk: right.hold(desk.books, key, asker, given_up_turn))


def give_up(key: TransactionKey, to: int, turn: int) -> Move[bool]:
    return Move(Needs(transactions={key}), lambda desk: right.give_up(desk.books, key, to, turn))


def cancel_order(order_id: str, user_id: str | None, reason: str) -> Move[Order | Refused]:
    needs = Needs(order_ids=storable(order_id))
    return Move(
        needs,
        lambda desk: settlement.cancel_order(desk.books, order_id, user_id, reason, desk.now_ms, desk.new_id),
    )


def settle(fact: PaymentFact | RefundFact | PutOff) -> Move[Opened | None]:
    match fact:
        case PaymentFact():
            # Late money may be honoured with a unit whose time is over.
            return Move(Needs(payment_ids={fact.payment_id}), lambda desk: _settle(desk, fact), after_lapsed=True)
        case RefundFact():
            needs = Needs(refund_ids={fact.refund_id})
            return Move(needs, lambda desk: _refunded(desk, fact))
        case PutOff():
            needs = Needs(payment_ids=storable(fact.payment_id), refund_ids=storable(fact.refund_id))
            return Move(needs, lambda desk: _put_off(desk, fact))


def _settle(desk: Desk, fact: PaymentFact) -> Opened:
    return settlement.settle(
        desk.books, fact.payment_id, fact.transaction, desk.now_ms, desk.new_id, fact.lease_ms, fact.answers
    )


def _refunded(desk: Desk, fact: RefundFact) -> None:
    settlement.refunded(desk.books, fact.refund_id, desk.now_ms)


def _put_off(desk: Desk, step: PutOff) -> None:
    """What is done already cannot be put off."""
    books, until_ms = desk.books, desk.now_ms + step.delay_ms
    payment = books.payments[step.payment_id] if step.payment_id else None
    if payment and payment.due is not None:
        payment.due_at_ms = until_ms
        books.changed_payments[payment.payment_id] = payment
    refund = books.refunds[step.refund_id] if step.refund_id else None
    if refund and not refund.done:
        refund.due_at_ms = until_ms
        books.changed_refunds[refund.refund_id] = refund
