"""The questions a ledger answers. Each is a value; its type says what the answer is."""

from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from flashsale.core.books import Line
from flashsale.core.event import Told, Topic
from flashsale.core.journal import Movement, Stock
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.payment import Payment, Refund
from flashsale.core.request import Priority
from flashsale.core.reservation import Reservation
from flashsale.core.retention import Base
from flashsale.core.sale import Sale
from flashsale.core.waiting_room import Figures, Room, Ticket

T = TypeVar("T")


class Query(msgspec.Struct, Generic[T], frozen=True):
    """A question to the ledger; `T` is the type of its answer."""


class FindReservations(Query[list[Reservation]], frozen=True):
    """Those of the ids that exist, in no particular order."""

    reservation_ids: tuple[str, ...]
    whole: bool = True
    """False: those that cannot be looked for now, because their database is away, are left out."""


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


class Waiting(NamedTuple):
    """What a relay has not passed on yet."""

    rows: int
    oldest_ms: int | None
    """When the oldest of them happened; None: there is none."""


class EventsWaiting(Query[Waiting], frozen=True):
    """What waits for a relay; it is counted up to `limit`."""

    relay: str
    limit: int = 100_000


class Queued(NamedTuple):
    """A message in the ledger's own queue. Its place is its number in the order of arrival, in its database."""

    place: int
    sku_id: str
    message: bytes
    partition: int = 0
    """The number of its database, where the ledger is several."""


class QueuedPage(Query[list[Queued]], frozen=True):
    """The head of the ledger's own queue, oldest first, without the requests of some sales."""

    priority: Priority
    but_not: tuple[str, ...] = ()
    limit: int = 500


class QueueFigures(Query[dict[str, int]], frozen=True):
    """How many requests of each sale wait in the ledger's own queue."""


class DeadLetters(Query[list[DeadLetter]], frozen=True):
    """Dead letters in the order of their ids, after one of them; `waiting`: only those not redriven."""

    after: str = ""
    limit: int = 100
    waiting: bool = False


class FindDeadLetter(Query[DeadLetter | None], frozen=True):
    letter_id: str


class DeadLetterCount(Query[int], frozen=True):
    """How many were not redriven."""


class PrunedTo(Query[int], frozen=True):
    """The highest number of an event that was forgotten, or `after` if nothing behind that was. Who reads after another
    number than the answer has missed something."""

    after: int = 0


class BasesOf(Query[list[Base]], frozen=True):
    """What the forgotten movements of a sale have come to, for each product that has any."""

    sale_id: str


class PruneReach(Query[tuple[int, int]], frozen=True):
    """Up to which number the relays have passed on everything, and what is the highest one behind the newest `rows`."""

    rows: int
    relays: tuple[str, ...]


class MovedProducts(Query[list[Line]], frozen=True):
    """The products that have movements, in order, a page of them."""

    after: Line
    limit: int


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


class FindRooms(Query[list[Room]], frozen=True):
    """The waiting rooms of these sales, those that exist."""

    sale_ids: tuple[str, ...]


class FindTickets(Query[tuple[Room | None, list[Ticket]]], frozen=True):
    """A waiting room as it is now, and those of the tickets that exist, in no particular order."""

    sale_id: str
    numbers: tuple[int, ...]


class EntrantsOf(Query[list[tuple[int, str]]], frozen=True):
    """Numbers and users of a room's tickets after a number, in the order of arrival."""

    sale_id: str
    after: int = 0
    limit: int = 10_000


class DrawnOrder(Query[bytes], frozen=True):
    """The outcome of a draw, as `core.waiting_room.Drawn` has it; empty until there is one."""

    sale_id: str


class AdmissionOf(Query[tuple[Room, Figures] | None], frozen=True):
    """What counts when somebody of a sale's room is to be let in."""

    sale_id: str
    now_ms: int
    active: bool = True
    """Whether unpaid reservations count."""


class Work(msgspec.Struct, frozen=True):
    """Steps owed to providers that nobody is working on."""

    payments: list[Payment]
    refunds: list[tuple[Refund, Payment]]


class DueWork(Query[Work], frozen=True):
    now_ms: int
    limit: int = 100
