"""The books: the rows of one transaction, loaded under lock, changed by pure rules, then stored.

Every ledger works in the same three steps: load the rows a request needs into `Books`, let the rules of
`core/` decide on them, store what changed. The rules never see a database, and a database never decides.
`Books` also is the whole ledger of the model test and of the simulator: nothing is ever stored there.

What a rule changes it records here: rows in the `new_*` lists and the `changed` sets, movements in
`journal`, facts in `events`. A store that writes all of them, and fails the transaction when a row is not
in the state it was loaded in, has done a compare-and-set of the whole decision.
"""

from collections.abc import Mapping

from flashsale.core.event import Event, Topic
from flashsale.core.journal import Kind, Movement, Stock, move
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.origin import read_marks
from flashsale.core.payment import Payment, Refund, Right, TransactionKey
from flashsale.core.refusal import recalled
from flashsale.core.request import Request
from flashsale.core.reservation import CLAIMING, TRANSITIONS, Reservation, Status
from flashsale.core.sale import Sale

Line = tuple[str, str]
"""`(sale_id, sku_id)`: the key of a stock row."""
Claim = tuple[str, str, str]
"""`(user_id, sale_id, sku_id)`: what a purchase limit is counted over."""
Place = tuple[str, str]
"""`(sale_id, mark)`: what the limits of devices and addresses are counted over."""
Keyed = tuple[str, str, str]
"""`(user_id, sale_id, request_key)`."""

CLAIMED_BY: dict[Kind, int] = {Kind.RELEASE: -1, Kind.EXPIRE: -1, Kind.CONFIRM: 0, Kind.HONOUR: 1, Kind.RETURN: -1}
"""By how much per unit a transition changes what counts against the user's purchase limit."""


class Books:
    """The rows of one transaction and what has been decided on them."""

    __slots__ = (
        "audited", "changed_orders", "changed_payments", "changed_refunds", "changed_reservations", "changed_rights",
        "claims", "events", "filled", "journal", "letters", "new_letters", "new_orders", "new_payments", "new_refunds",
        "new_reservations", "orders", "origins", "payments", "queued", "redriven", "refunds", "requests",
        "reservations", "rights", "sales", "spent", "stock", "taken", "touched_stock", "trace_id",
    )  # fmt: skip

    def __init__(self, sales: Mapping[str, Sale]) -> None:  # noqa: PLR0915  # a line for each kind of row
        self.sales = sales
        self.trace_id: str | None = None
        """Of the request that is being decided: what is recorded now belongs to it."""
        self.stock: dict[Line, Stock] = {}
        self.claims: dict[Claim, int] = {}
        """Units held and bought, counted from the user's reservations."""
        self.origins: dict[Place, int] = {}
        """The same, from one device or network."""
        self.requests: dict[Keyed, list[Reservation]] = {}
        self.reservations: dict[str, Reservation] = {}
        self.orders: dict[str, Order] = {}
        self.payments: dict[str, Payment] = {}
        self.refunds: dict[str, Refund] = {}
        self.letters: dict[str, DeadLetter] = {}
        self.rights: dict[TransactionKey, Right] = {}
        """Of transactions that may be another shard's."""

        self.spent: dict[tuple[str, int], str] = {}
        """Passes that are of no use any more, by `(sale_id, number)`: the reservation that one is spent on now."""

        self.journal: list[Movement] = []
        self.events: list[Event] = []
        self.touched_stock: set[Line] = set()
        self.new_reservations: list[Reservation] = []
        self.filled: list[Reservation] = []
        """Withdrawn before their requests arrived, and completed now."""
        self.queued: list[Request] = []
        """Taken into the ledger's own queue."""
        self.taken: list[int] = []
        """Places of the queue that are done with."""
        self.new_letters: list[DeadLetter] = []
        self.redriven: list[DeadLetter] = []
        self.audited: list[tuple[int, str, str, str, dict[str, object]]] = []
        """Of what operators did: when, who, what, to what, with what."""
        self.new_orders: list[Order] = []
        self.new_payments: list[Payment] = []
        self.new_refunds: list[Refund] = []
        self.changed_reservations: dict[str, Status] = {}
        self.changed_orders: dict[str, Order] = {}
        self.changed_payments: dict[str, Payment] = {}
        self.changed_refunds: dict[str, Refund] = {}
        self.changed_rights: dict[TransactionKey, Right | None] = {}
        """None: the row goes."""

    @property
    def unchanged(self) -> bool:
        written = (
            self.journal, self.events, self.new_reservations, self.new_orders, self.new_payments, self.new_refunds,
            self.changed_reservations, self.changed_orders, self.changed_payments, self.changed_refunds,
            self.filled, self.queued, self.taken, self.new_letters, self.redriven,
            self.changed_rights,
        )  # fmt: skip
        return not any(written)

    @property
    def newly_spent(self) -> list[tuple[str, int, str]]:
        """`(sale_id, number, reservation_id)` of the passes that are spent now."""
        return [(*key, reservation_id) for key, reservation_id in self.spent.items() if reservation_id]

    def lines_of(self, order: Order) -> list[Reservation]:
        return [self.reservations[line.reservation_id] for line in order.lines]

    def payments_of(self, order_id: str) -> list[Payment]:
        return [payment for payment in self.payments.values() if payment.order_id == order_id]

    def elsewhere(self, provider: str, transaction_id: str) -> bool:
        """Whether another shard has the right to this transaction."""
        right = self.rights.get((provider, transaction_id))
        return right is not None and not right.here

    def grant(self, reservation: Reservation, actor: str) -> None:
        """Writes a new reservation and holds its units. The caller has checked stock and limit."""
        self.reservations[reservation.reservation_id] = reservation
        self.new_reservations.append(reservation)
        self._claim(reservation, reservation.quantity)
        self._move(reservation, Kind.RESERVE, actor, reservation.created_at_ms)
        if reservation.request_key is not None:
            request = (reservation.user_id, reservation.sale_id, reservation.request_key)
            self.requests.setdefault(request, []).append(reservation)

    def spend(self, reservation: Reservation, number: int) -> None:
        """Takes the pass that a new reservation was made with."""
        self.spent[reservation.sale_id, number] = reservation.reservation_id

    def reject(self, reservation: Reservation) -> None:
        """Writes the row of a queued request that was refused: it moves no unit, so its event stands for itself."""
        self.reservations[reservation.reservation_id] = reservation
        self.new_reservations.append(reservation)
        self._tell(reservation, "reservation.rejected")

    def withdraw(self, reservation: Reservation) -> None:
        """Writes the row of a request that is given up before it arrives; its event comes when it is filled in."""
        self.reservations[reservation.reservation_id] = reservation
        self.new_reservations.append(reservation)

    def fill(self, reservation: Reservation) -> None:
        """Completes a row that knew no more than its id."""
        self.reservations[reservation.reservation_id] = reservation
        self.filled.append(reservation)
        self._tell(reservation, "reservation.cancelled")

    def transition(self, reservation: Reservation, kind: Kind, now_ms: int, actor: str) -> None:
        """Moves a reservation along `TRANSITIONS`, with its units, its limit, its journal row and its event.

        A transition that is not in the table is a KeyError: callers refuse first.
        """
        target = TRANSITIONS[reservation.status, kind]
        self.changed_reservations.setdefault(reservation.reservation_id, reservation.status)
        if CLAIMED_BY[kind]:
            self._claim(reservation, CLAIMED_BY[kind] * reservation.quantity)
        reservation.status = target
        self._move(reservation, kind, actor, now_ms)

    def attach(self, reservation: Reservation, order_id: str | None) -> None:
        """Puts a reservation under an order, or takes it out of one."""
        self.changed_reservations.setdefault(reservation.reservation_id, reservation.status)
        reservation.order_id = order_id

    def announce(self, order: Order, what: str, now_ms: int) -> None:
        """Records an order event with the next number of the order's own sequence."""
        order.sequence += 1
        self.changed_orders[order.order_id] = order
        body: dict[str, object] = {"saleId": order.sale_id, "userId": order.user_id, "status": order.status}
        self._record(Topic.ORDERS, f"order.{what}", order.order_id, order.sequence, now_ms, body)

    def _tell(self, reservation: Reservation, what: str) -> None:
        body: dict[str, object] = {
            "saleId": reservation.sale_id,
            "skuId": reservation.sku_id,
            "quantity": reservation.quantity,
            "actor": reservation.user_id,
        }
        if reservation.refusal is not None:
            body["code"] = recalled(reservation.refusal).refusal.code
        at_ms = reservation.created_at_ms
        self._record(Topic.RESERVATIONS, what, reservation.reservation_id, 1, at_ms, body)

    def tell_dead(self, letter: DeadLetter, now_ms: int, body: dict[str, object]) -> None:
        """Records that a letter was buried; the caller has put it down."""
        self._record(Topic.DEAD_LETTERS, "request.dead", letter.letter_id, 1, now_ms, body)

    def _record(
        self, topic: Topic, what: str, subject: str, sequence: int, at_ms: int, body: dict[str, object]
    ) -> None:
        self.events.append(Event(topic, what, subject, sequence, at_ms, body, self.trace_id))

    def _claim(self, reservation: Reservation, quantity: int) -> None:
        claim = (reservation.user_id, reservation.sale_id, reservation.sku_id)
        self.claims[claim] = self.claims.get(claim, 0) + quantity
        for mark in read_marks(reservation.origin):
            place = (reservation.sale_id, mark)
            self.origins[place] = self.origins.get(place, 0) + quantity

    def origins_moved(self) -> tuple[list[Reservation], list[Reservation]]:
        """The reservations with marks that begin, and those that cease, to count for these."""
        fresh = {each.reservation_id for each in self.new_reservations if each.origin}
        begin = [each for each in self.new_reservations if each.origin and each.status in CLAIMING]
        cease: list[Reservation] = []
        for reservation_id, before in self.changed_reservations.items():
            row = self.reservations[reservation_id]
            if row.origin and reservation_id not in fresh and (row.status in CLAIMING) != (before in CLAIMING):
                (begin if row.status in CLAIMING else cease).append(row)
        return begin, cease

    def _move(self, reservation: Reservation, kind: Kind, actor: str, now_ms: int) -> None:
        line = (reservation.sale_id, reservation.sku_id)
        self.touched_stock.add(line)
        units, reservation_id = reservation.quantity, reservation.reservation_id
        self.journal.append(move(self.stock[line], kind, units, now_ms, reservation_id, actor, "", self.trace_id))
