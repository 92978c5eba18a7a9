"""What the buyers saw: every request they sent and every answer they received. The verdict rests on this.

An answer is kept as the bytes that came, and read only when somebody needs to know. An answer that
arrived after its buyer had hung up is kept too, but `read` is false: the server gave its word, the
buyer does not know it.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Ask(StrEnum):
    """What a buyer can ask of the shop."""

    RESERVE = "reserve"
    CHECKOUT = "checkout"
    CANCEL = "cancel"
    LOOK = "look"


class Exchange(msgspec.Struct):
    """One request and its answer; status 0 is no answer. `subject` is the request key of a
    reservation, the reservation of a cancellation, the transaction of a checkout."""

    ask: Ask
    subject: str
    status: int
    body: bytes
    sent_at: float
    answered_at: float
    reservation_id: str = ""
    read: bool = True

    @property
    def code(self) -> str:
        """The code of a refusal, empty when the answer is not one."""
        refusal = decode(self.body, _Refusal) if self.status >= 400 else None
        return refusal.code if refusal else ""


class History(msgspec.Struct):
    """One buyer's evidence. `patient` ones leave only with a unit, or when all units are sold."""

    user: str
    behaviour: str
    patient: bool = False
    exchanges: list[Exchange] = []


class Reservation(msgspec.Struct, frozen=True, rename="camel"):
    """A reservation as the shop's answers tell it."""

    reservation_id: str
    status: str
    user_id: str = ""
    sku_id: str = ""
    quantity: int = 1


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """An order as the shop's answers tell it; the price is exact."""

    order_id: str
    status: str
    total_price: Decimal
    reservation_id: str = ""
    user_id: str = ""
    payment_transaction_id: str | None = None
    quantity: int = 1


class Acknowledged(msgspec.Struct, Generic[T], frozen=True):
    """A promise: what the shop told a user, in which exchange."""

    user: str
    exchange: Exchange
    told: T


class _Refusal(msgspec.Struct):
    code: str = ""


def decode(body: bytes, kind: type[T]) -> T | None:
    """The answer as a `kind`, or None where it is not one."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError:
        return None


def asked(histories: Iterable[History], ask: Ask) -> list[tuple[str, Exchange]]:
    """Every exchange of one kind, with its user; in time order for each user."""
    return [(it.user, exchange) for it in histories for exchange in it.exchanges if exchange.ask is ask]


def acknowledged_reservations(histories: Iterable[History]) -> Iterator[Acknowledged[Reservation]]:
    return _acknowledged(histories, Ask.RESERVE, Reservation)


def acknowledged_orders(histories: Iterable[History]) -> Iterator[Acknowledged[Order]]:
    return _acknowledged(histories, Ask.CHECKOUT, Order)


def last(history: History, ask: Ask) -> Exchange | None:
    return next((exchange for exchange in reversed(history.exchanges) if exchange.ask is ask), None)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a `share` of the sorted `values` lies; 0 for none."""
    return values[min(int(len(values) * share), len(values) - 1)] if values else 0.0


def _acknowledged(histories: Iterable[History], ask: Ask, kind: type[T]) -> Iterator[Acknowledged[T]]:
    for user, exchange in asked(histories, ask):
        told = decode(exchange.body, kind) if exchange.status == 201 else None
        if told is not None:
            yield Acknowledged(user, exchange, told)
