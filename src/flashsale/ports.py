"""The seams: what the purchase needs from the outside world, at the level of meaning.

Each port has one contract suite in `tests/contract/`, run on every backend that claims it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from flashsale.core.catalogue import SaleChange
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.event import Told, Topic
from flashsale.core.journal import Movement, Stock
from flashsale.core.order import Order
from flashsale.core.payment import Due, Payment, Refund, Transaction
from flashsale.core.refusal import Refused
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Attempt, Granted

Outcome = Granted | Refused
Reply = Callable[[Outcome], None]
"""Takes the outcome of an attempt, on the event loop's thread, once it is durable."""

T = TypeVar("T")


class LedgerUnavailable(Exception):
    """The ledger cannot take this now (queue full, disk full, closing). Nothing has changed; try again."""


class LedgerInUse(Exception):
    """Another process owns this ledger."""


class LedgerBroken(Exception):
    """The store failed in a way that makes its memory untrustworthy (an fsync or I/O error).

    The process must end: a restart recovers from what is on the disk.
    """


class SchemaUnknown(Exception):
    """The ledger's schema is not the one this version works with."""


class Clock(Protocol):
    """The ledger's time: follows the wall clock, but never jumps with it."""

    def now_ms(self) -> int: ...

    def follow(self) -> None:
        """Compares with the wall clock; to be called on every tick of the sweeper."""

    def hear(self, told_ms: int) -> int:
        """What time it is, now that the ledger's store says it is `told_ms`."""

    @property
    def alarm(self) -> str | None:
        """What is wrong with the clock, in words for the operator; None while nothing is."""


class Query(msgspec.Struct, Generic[T], frozen=True):
    """A question to the ledger; `T` is the type of its answer."""


class FindReservations(Query[list[Reservation]], frozen=True):
    """Those of the ids that exist, in no particular order."""

    reservation_ids: tuple[str, ...]


class FindActiveReservations(Query[list[Reservation]], frozen=True):
    """What a user holds at `now_ms`, newest first, at most 200."""

    user_id: str
    now_ms: int


class FindOrder(Query[Order | None], frozen=True):
    """An order by its own id or by that of one of its reservations."""

    order_id: str | None = None
    reservation_id: str | None = None


class FindOrders(Query[list[Order]], frozen=True):
    """A user's orders, newest first, at most 200."""

    user_id: str


class FindSales(Query[list[Sale]], frozen=True):
    """All sales with their terms, oldest first."""


class StockOf(Query[list[Stock]], frozen=True):
    """The counters of a sale (all sales: None), read from the ledger itself, in the order of the SKU."""

    sale_id: str | None = None


class LedgerCheck(Query[list[str]], frozen=True):
    """Proves the counters of a sale against the rows they count; one sentence for each discrepancy."""

    sale_id: str


class JournalPage(Query[list[tuple[int, Movement]]], frozen=True):
    """Stock movements of a sale after a cursor, oldest first, with their cursors."""

    sale_id: str
    sku_id: str | None = None
    after: int = 0
    limit: int = 200


class EventsAfter(Query[list[tuple[int, Told]]], frozen=True):
    """What the world is told of all sales, in commit order, with its cursors. A page is never overtaken: whatever is
    committed later comes after it. With a topic, only the rows that it tells of."""

    after: int
    limit: int = 200
    topic: Topic | None = None


class AuditEntry(msgspec.Struct, frozen=True, array_like=True):
    """Who did what, when."""

    seq: int
    at_ms: int
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


class AuditPage(Query[list[AuditEntry]], frozen=True):
    after: int = 0
    limit: int = 200


class SaleFigures(msgspec.Struct, frozen=True, array_like=True):
    """What a sale has come to, counted from its rows."""

    reservations: int
    unique_users: int
    orders: int
    orders_paid: int
    orders_failed: int
    revenue_minor: int
    peak_orders_per_second: int
    refusals: dict[str, int]


class FiguresOf(Query[SaleFigures], frozen=True):
    sale_id: str


class Work(msgspec.Struct, frozen=True):
    """Steps owed to providers that nobody is working on."""

    payments: list[Payment]
    refunds: list[tuple[Refund, Payment]]


class DueWork(Query[Work], frozen=True):
    now_ms: int
    limit: int = 100


class PaymentFact(msgspec.Struct, frozen=True):
    """What the provider says of a payment, and for how long the next step belongs to the caller."""

    payment_id: str
    transaction: Transaction
    lease_ms: int
    answers: Due | None = None
    """The step that this is the answer to; None when the provider spoke without being asked."""


class RefundFact(msgspec.Struct, frozen=True):
    """The provider has paid a refund back."""

    refund_id: str


class PutOff(msgspec.Struct, frozen=True):
    """A step's outcome is unknown: it stays due, and is taken up again after `delay_ms`."""

    payment_id: str | None
    refund_id: str | None
    delay_ms: int


class Ledger(Protocol):
    """The truth. Every method commits before it answers, or changes nothing.

    Attempts that arrive while a commit is in flight are decided together in the next one. Ways out
    (release, expire, orders, payments) go before new reservations. Beyond its bounded queue the ledger
    answers UNAVAILABLE (attempts) or raises `LedgerUnavailable` (everything else).
    """

    @property
    def alarm(self) -> str | None:
        """Why nothing can be written now, in words for the operator; None while it can."""

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        """Decides an attempt. `reply` is called on the event loop after the commit."""

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        """Answers from a read where that is certain (a replay, a refusal); otherwise like `reserve`."""

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused: ...

    async def expire(self) -> int:
        """Releases what has lapsed, one bounded batch. Returns how many; a full batch means: call again."""

    async def open_order(self, checkout: Checkout) -> Opened | Refused: ...

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        """Takes in a fact about money. Answers where the order stands (None for refunds and put-off steps)."""

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused: ...

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        """An operator's change, with its audit row. None: the sale has been deleted."""

    async def find(self, query: Query[T]) -> T: ...

    async def close(self) -> None: ...


class Outbox(Protocol):
    """How far what the world is told has got. A relay is one way out; one owner at a time runs it, under a lease.

    Methods raise `LedgerUnavailable`.
    """

    async def lease(self, relay: str, owner: str, lease_ms: int) -> int | None:
        """Takes the relay, or prolongs its lease: its cursor. None while somebody else has it. A lease of 0 ms gives
        it back."""

    async def advance(self, relay: str, owner: str, cursor: int) -> bool:
        """All rows up to `cursor` are out. False when the relay was taken over; a cursor never goes back."""

    async def close(self) -> None: ...


class BrokerUnavailable(Exception):
    """The broker has not acknowledged everything: what has arrived is unknown, so all of it is to be sent again."""


class Message(NamedTuple):
    """An event on its way to the broker. Messages of one topic and key arrive in the order in which they were sent."""

    topic: str
    key: str
    value: bytes


class Broker(Protocol):
    """Takes events to the world outside, at least once and in order."""

    async def publish(self, messages: Sequence[Message]) -> None:
        """Returns when all of them are acknowledged; raises BrokerUnavailable. Nothing that was sent before an error
        arrives behind what is sent after it, except as a copy of what has been there already."""

    async def close(self) -> None: ...


class Observer(Protocol):
    """Is told, on the event loop and after the commit, what has become of stock and sales."""

    def stock_changed(self, rows: list[Stock]) -> None: ...

    def sale_changed(self, sale_id: str, sale: Sale | None) -> None: ...


class ProviderUnavailable(Exception):
    """The provider did not answer, or answered that it cannot: what it did is unknown.

    Ask again with the same idempotency key, or look the transaction up.
    """


class PaymentProvider(Protocol):
    """Money. Every call carries an idempotency key: repeating a call with its key repeats its answer
    and moves nothing twice. A refusal is an answer (`FAILED` with a reason); only an unknown outcome
    raises `ProviderUnavailable`. A void also closes a transaction that the provider has not seen yet, so that an
    authorisation overtaken by it holds no money. Amounts are integer minor units."""

    name: str

    async def authorise(self, transaction_id: str, amount_minor: int, currency: str, key: str) -> Transaction: ...

    async def capture(self, transaction_id: str, amount_minor: int, key: str) -> Transaction: ...

    async def void(self, transaction_id: str, key: str) -> Transaction: ...

    async def refund(self, transaction_id: str, amount_minor: int, key: str) -> Transaction: ...

    async def look_up(self, transaction_id: str) -> Transaction | None: ...

    async def close(self) -> None: ...
