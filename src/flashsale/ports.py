"""The seams: what the purchase needs from the outside world, at the level of meaning.

Each port has one contract suite in `tests/contract/`, run on every backend that claims it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from flashsale.core.books import Line
from flashsale.core.catalogue import SaleChange
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.journal import Stock
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.payment import Due, Transaction
from flashsale.core.permits import Permit, Synchronised, Wish
from flashsale.core.questions import Query
from flashsale.core.rate_limit import Allowance, Draft
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.retention import Reach
from flashsale.core.sale import Sale
from flashsale.core.sighting import Sighting
from flashsale.core.signs import Back, Signs
from flashsale.core.stock import Attempt, Decided, Granted, Pending
from flashsale.core.waiting_room import DrawStep, Joining, Room, Ticket, Turn, Turned

Outcome = Granted | Refused | Decided
"""`Decided` of queued attempts; of these a refusal says why they are not decided yet: PAUSED, or UNAVAILABLE."""
Answer = Outcome | Pending
"""What a buyer can be told: `Pending` while his request waits."""
Reply = Callable[[Outcome], None]
"""Takes the outcome of an attempt, on the event loop's thread, once it is durable."""

FAILED = Refused(Refusal.UNAVAILABLE, "The ledger could not take this: nothing was changed", {"retryAfterSeconds": 1})
"""What the ledger says of an attempt, or of a job, that failed alone: of all that was in its batch only it is at fault,
or something is wrong that the ledger knows no name for."""

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
    def drift_ms(self) -> int:
        """How far the clock that it follows was ahead when it was last looked at."""

    @property
    def alarm(self) -> str | None:
        """What is wrong with the clock, in words for the operator; None while nothing is."""


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

    @property
    def waiting(self) -> int:
        """How much waits for the writer now."""

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        """Decides an attempt. `reply` is called on the event loop after the commit."""

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        """Answers from a read where that is certain (a replay, a refusal); otherwise like `reserve`. A queued attempt
        is never decided here: if it may win, the answer is `Decided` with no reservation."""

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


class Backlog(Protocol):
    """What a ledger does for queued sales beside deciding their requests. The same object as the `Ledger`."""

    @property
    def secret(self) -> bytes:
        """Random, made with the ledger, the same for all its processes: what ids are sealed with."""

    def mark_of(self, sale_id: str) -> str:
        """What the ids of a sale end with, so that they tell where it is; empty in most ledgers."""

    async def withdraw(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        """Gives up a queued reservation that may have no row yet; the caller has found its id genuine."""

    def enqueue(self, request: Request, reply: Callable[[bool], None]) -> None:
        """Takes a request into the ledger's own queue. `reply` as in `Queue.append`."""

    async def bury(self, letter: DeadLetter, request: Request | None, place: int | None = None) -> None:
        """Writes a dead letter down, once; `request` is what it says, `place` its own in the ledger's queue."""

    async def redrive(self, letter_id: str, request: Request, actor: str) -> Decided | Refused:
        """Decides a dead letter's request anew, once; audited. `request` is what it says."""


class Rooms(Protocol):
    """What a ledger does for waiting rooms. The same object as the `Ledger`. Methods raise `LedgerUnavailable`."""

    async def join(self, sale_id: str, wanted: Sequence[Joining]) -> list[Ticket | Refused]:
        """A ticket for each, in their order: a new one, or the one that he has."""

    async def leave(self, sale_id: str, number: int) -> None:
        """The owner of a ticket gives his place up, and his pass if he has one."""

    async def draw(self, sale_id: str, step: DrawStep) -> Room | None:
        """The next step of a draw. Returns the room as it is then."""

    async def admit(self, turn: Turn) -> Turned:
        """Lets in those whose turn it is, of those that are named."""


class WholeLedger(Ledger, Backlog, Rooms, Protocol): ...


class Leases(Protocol):
    """Who of the processes of a ledger does what only one of them has to do, and how far he has got.

    Methods raise `LedgerUnavailable`.
    """

    async def lease(self, name: str, owner: str, lease_ms: int) -> int | None:
        """Takes the lease, or prolongs it: its cursor, 0 at first. None while somebody else has it. A lease of 0 ms
        gives it back."""

    async def advance(self, name: str, owner: str, cursor: int) -> bool:
        """All rows up to `cursor` are done. False when the lease was taken over; a cursor never goes back."""

    async def close(self) -> None: ...


class History(Protocol):
    """What was told, of which the oldest part may be forgotten. A batch is one short transaction.

    Methods raise `LedgerUnavailable`.
    """

    async def prune_events(self, reach: Reach) -> int:
        """Forgets the oldest events of orders. Returns how many; 0: there are no more within reach."""

    async def prune_movements(self, line: Line, reach: Reach) -> int | None:
        """Forgets the oldest movements of a product, and adds them to its base. None: they do not add up, and stay."""

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


class Queue(Protocol):
    """Where the requests of queued sales wait."""

    def append(self, request: Request, reply: Callable[[bool], None]) -> None:
        """Takes a request in. `reply` is called once, on the event loop: True when it is there for good. False: whether
        it is there is unknown; it may be appended again, because its ids make it one request."""

    async def close(self) -> None: ...


class Origin(NamedTuple):
    """Where a message stood: a Kafka topic, or the ledger's own queue."""

    topic: str
    partition: int
    offset: int


class Delivery(NamedTuple):
    """A message out of the queue, as it was put in."""

    origin: Origin
    message: bytes


class Batch(NamedTuple):
    """Messages of one slice of the queue, in the order in which they are to be decided."""

    slice_name: str
    deliveries: Sequence[Delivery]


class Deliveries(Protocol):
    """The other end of the queue. A message comes at least once; those of a slice in order, one batch at a time."""

    async def take(self) -> Batch:
        """Waits for the next batch of a slice whose last one is done: at most `core.request.BATCH_MAX` messages of
        one product, and at most `HIGH_TURNS` of high priority before each one of normal priority that waits."""

    def done(self, batch: Batch) -> None:
        """What became of all of it is in the ledger: it need not come again."""

    async def close(self) -> None: ...


class GateAway(Exception):
    """The gate cannot be asked now (down, slow, breaker open). What the call did is unknown; it may be repeated, and no
    sale needs it to be right. The text says why, for the operator."""


class Gate(Protocol):
    """What may be approximate or rebuilt. It may be empty, stale or gone at any moment; the ledger decides. Its methods
    raise GateAway. Callers hand over together what has gathered: a call is a round trip, however many it is about."""

    async def permit(self, wishes: Sequence[Wish]) -> list[Permit]:
        """One decision for each wish, in order. Where a part of the gate is away, its products are UNSURE; GateAway is
        raised when that is all of them."""

    async def appended(self, wishes: Sequence[Wish]) -> None:
        """Their requests are in the queue: the permits that are still outstanding now live PERMIT_SECONDS."""

    async def queued(self, wishes: Sequence[Wish]) -> list[bool]:
        """Of each whether its very request is in the queue, as far as the gate knows."""

    async def settle(self, lines: Sequence[tuple[Line, Sequence[str]]], synchronised: Sequence[Synchronised]) -> None:
        """Removes the permits of these reservation ids (decided, or never appended), and takes in what the ledger says,
        in one step for each product. A permit that is not there is no mistake."""

    async def synchronise(self, rows: Sequence[Synchronised]) -> None:
        """Takes in what the ledger says, unless a higher `sku_seq` is known. The same one renews its age."""

    async def availability(self, lines: Sequence[Line]) -> list[int | None]:
        """What the ledger had at the last synchronisation; None if that is unknown or older than a second."""

    async def take(self, drafts: Sequence[Draft]) -> list[Allowance]:
        """Takes out of rate-limit buckets, by the gate's own clock; one answer for each draft, in order."""

    async def take_together(self, requests: Sequence[Sequence[Draft]]) -> list[list[Allowance]]:
        """The same for requests that need several buckets each, all different ones: a request is allowed by all of
        them, or takes nothing out of any. Where the gate is several servers, that holds for what is on one of them."""

    async def forget(self, buckets: Sequence[str]) -> None:
        """These buckets are full again."""

    async def sighted(self, sightings: Sequence[Sighting]) -> list[int]:
        """Of each how many members its group has had within the window, by the gate's own clock, after this one."""

    async def tell_signs(self, sale_id: str, numbers: Sequence[int], back: Sequence[Back], grace_ms: int) -> None:
        """The owners of these tickets were heard of; those in `back` had been passed over."""

    async def ask_signs(
        self, sale_id: str, numbers: Sequence[int], done: Sequence[int], most: int, grace_ms: int
    ) -> Signs:
        """Who of these tickets' owners is alive, and who is back: `most` at most. `done`: they need not be told of."""

    async def settings(self) -> dict[str, str]:
        """The shared settings, and under "version" the highest that set one; empty when none is known."""

    async def put_settings(self, changes: dict[str, str], version: int) -> None:
        """Sets what no higher version has set. Raises ValueError beyond 100 names or 1000 characters."""

    @property
    def trouble(self) -> str | None:
        """Why it is degraded, in words for the operator; None while it is not."""

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
