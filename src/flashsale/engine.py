"""The engine as a library, put together from its settings (`composition.py`).

    async with Engine.open(load()) as engine:
        outcome = await engine.reserve("user-1", "IPHONE15-256GB")

Works without HTTP; `edge/` is a translation of these methods. Refusals are values: `match` on `Granted` and
`Refused`. What raises is what the world does: `LedgerUnavailable` (nothing has changed, try again).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar

from flashsale import composition
from flashsale.answering import told
from flashsale.composition import Database, Fatal, Line, Risk, Turns
from flashsale.core.catalogue import SaleChange
from flashsale.core.exits import illegal
from flashsale.core.letter import DeadLetter
from flashsale.core.limits import LimitsChange
from flashsale.core.order import Order
from flashsale.core.pending import is_genuine
from flashsale.core.questions import FindActiveReservations, FindOrder, FindOrders, FindReservations, Query
from flashsale.core.refusal import Refusal, Refused, not_found
from flashsale.core.request import Item, Unreadable, decode
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Decided
from flashsale.core.visitor import Visitor
from flashsale.counts import Counts
from flashsale.flow import admit, consume, decisions, expire, in_force, prune, publish, rooms, settle, visit, waiting
from flashsale.flow.admit import Admitting
from flashsale.flow.consume import Consuming
from flashsale.flow.expire import Sweeping
from flashsale.flow.in_force import InForce, Settled
from flashsale.flow.lease import Lease
from flashsale.flow.origins import Origins
from flashsale.flow.prune import Pruning
from flashsale.flow.queueing import Queueing
from flashsale.flow.relays import Relays
from flashsale.flow.reserve import Reserving
from flashsale.flow.rooms import RoomsSeen
from flashsale.flow.settle import Resuming, Settling
from flashsale.flow.storefront import Storefront
from flashsale.flow.visit import Visiting
from flashsale.flow.waiting import Waiting
from flashsale.flow.watch import LOOK_SECONDS, SEEN_SECONDS, Watch, look_around
from flashsale.ports import (
    Answer,
    Clock,
    Gate,
    PaymentProvider,
    WholeLedger,
)
from flashsale.settings import Settings
from flashsale.token_keys import TokenKeys
from flashsale.worker import CLOCK_SECONDS, ClockWatch, Loop, Worker, last_sweep

T = TypeVar("T")
KEYS_SECONDS = 1.0
"""How often it is looked whether the keys of tokens should be read."""
Told = Callable[[Answer], None]


class Engine:
    """One shop's engine. Made by `Engine.open`; safe to use from one event loop."""

    def __init__(
        self,
        settings: Settings,
        ledger: WholeLedger,
        provider: PaymentProvider,
        clock: Clock,
        storefront: Storefront,
        turns: Turns,
        gate: Gate,
        line: Line,
        databases: Sequence[Database],
        in_force: InForce,
        risk: Risk,
        publishing: Relays | None = None,
        keys: TokenKeys | None = None,
        shards_away: Callable[[], Mapping[int, str]] = dict,
    ) -> None:
        self.settings = settings
        self.gate = gate
        self.clock = clock
        self.ledger = ledger
        self.storefront = storefront
        self.provider = provider
        self._watch = Watch(ledger, storefront, clock) if settings.postgres_url else None
        self.waiting = Waiting(ledger)
        queueing = Queueing(ledger, line.queue, line.permits, storefront, clock, os.urandom)
        grace_ms = int(settings.queue_grace_seconds * 1000)
        self.rooms = RoomsSeen(ledger, storefront, clock)
        self.visiting = Visiting(ledger, line.permits, self.rooms, clock, grace_ms)
        self.risk = risk
        looks = (Origins(ledger.secret), self.visiting.look_at_pass)
        self._reserving = Reserving(ledger, storefront, clock, queueing, self._watch, looks, risk.judging, risk.granted)
        self._consuming = Consuming(ledger, line.sources, line.permits, storefront, self.waiting, clock, risk.granted)
        self._settling = Settling(ledger, provider, clock, settings.provider_seconds)
        self._resuming = Resuming(self._settling, turns.resume)
        self.in_force = in_force
        self.limiting = in_force.limiting
        self.publishing = publishing
        self.keys = keys
        """Of tokens, where they are read from somewhere."""
        self.shards_away = shards_away
        """Of each of the ledger's databases that is away while others are there, why."""
        self.queue_ends = line.ends
        """Of the queue at a broker, if there is one."""
        self.leases: tuple[Lease, ...] = ()
        """What this process may hold."""
        self.counts = Counts()
        self._admitting = Admitting(ledger, line.permits, self.rooms, turns.admit, clock, self.counts, grace_ms)
        self.worker = Worker([*self._loops(turns, databases)])

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, on_fatal: Fatal | None = None) -> AsyncIterator["Engine"]:
        """Opens the ledger, recovers what a crash left open, and runs the loops until the block ends.

        `on_fatal` is called when the store breaks (an I/O error): the process should end. Raises LedgerInUse and
        SchemaUnknown.
        """
        async with AsyncExitStack() as stack:
            clock = composition.clock_of(settings)
            storefront = Storefront(clock)
            store = await composition.open_store(settings, clock, storefront, on_fatal, stack)
            ledger, databases = store.ledger, store.databases
            await look_around(ledger, storefront)
            gate = await composition.open_gate(settings, clock)
            stack.push_async_callback(gate.close)
            provider = await composition.open_provider(settings, stack)
            owned = composition.Owned(databases, clock, stack)
            publishing = composition.publishing_of(settings, databases, owned, stack)
            line = composition.line_of(settings, store, storefront, gate, owned, stack)
            turns = composition.turns_of(settings, owned)
            limiting = composition.limiting_of(settings, clock, gate)
            in_force = await composition.open_in_force(settings, store, limiting, owned.owner, stack)
            keys = await composition.open_keys(settings, stack)
            risk = composition.risk_of(settings, store, clock, limiting, gate, stack)
            engine = cls(
                settings, ledger, provider, clock, storefront, turns, gate, line, databases, in_force, risk,
                publishing, keys, store.away,
            )  # fmt: skip
            engine.leases = tuple(owned.taken)
            stack.push_async_callback(last_sweep, ledger)
            await stack.enter_async_context(engine.worker)
            yield engine

    def _loops(self, turns: Turns, databases: Sequence[Database]) -> Iterator[Loop]:
        """What this process does beside the requests."""
        sweeping = Sweeping(self.ledger, turns.sweep, self.clock)
        keeping = composition.keeping_of(self.settings)
        yield Loop("clock", CLOCK_SECONDS, ClockWatch(self.clock).look)
        yield Loop(expire.LEASE, expire.TICK_SECONDS, sweeping.sweep)
        for number, database in enumerate(databases):
            pruning = Pruning(database.source, database.history, turns.sweep, self.clock, keeping)
            yield Loop(f"prune {number}", prune.TICK_SECONDS, pruning.prune)
        yield Loop(settle.LEASE, settle.TICK_SECONDS, self._resuming.resume)
        if self._watch is not None:
            yield Loop("watch", LOOK_SECONDS, self._watch.look)
            yield Loop("limits", in_force.LOOK_SECONDS, self.in_force.look)
        if self.keys is not None:
            yield Loop("keys", KEYS_SECONDS, self.keys.look)
        yield Loop("waiting", waiting.LOOK_SECONDS, self.waiting.look)
        yield Loop("risk", decisions.TICK_SECONDS, self.risk.decisions.write)
        yield Loop("rooms", rooms.LOOK_SECONDS, self.rooms.look)
        yield Loop("signs", visit.SIGNS_SECONDS, self.visiting.tell)
        yield Loop(admit.LEASE, admit.TICK_SECONDS, self._admitting.admit)
        if self.settings.runs("consume"):
            yield Loop(consume.LEASE, consume.TICK_SECONDS, self._consuming.run)
            yield Loop("synchronise", consume.SYNCHRONISE_SECONDS, self._consuming.synchronise)
        if self.publishing is not None:
            yield Loop("publish", publish.TICK_SECONDS, self.publishing.publish)

    @property
    def secret(self) -> bytes:
        """What the ids of queued reservations are sealed with."""
        return self.ledger.secret

    def reserve_soon(self, visitor: Visitor, sku_id: str, quantity: int, key: str | None, reply: Told) -> None:
        """The hot path: `reply` gets the outcome on the event loop, once it is durable. No task, no future."""
        self._reserving.reserve(visitor, sku_id, quantity, key, reply)

    async def reserve(self, visitor: Visitor | str, sku_id: str, quantity: int = 1, key: str | None = None) -> Answer:
        """Holds units for a visitor, or for a user of whom nothing else is known. With a key it can be repeated: the
        same key gets the same reservation."""
        return await told(partial(self._reserving.reserve, _visitor(visitor), sku_id, quantity, key))

    async def reserve_cart(self, visitor: Visitor | str, items: tuple[Item, ...], key: str | None = None) -> Answer:
        """Holds several products of one sale: all of them or none."""
        return await told(partial(self._reserving.reserve_cart, _visitor(visitor), items, key))

    async def reservation(self, reservation_id: str, user_id: str | None = None) -> Reservation | Refused:
        """A reservation as it stands. With a user, only his own is found."""
        found = await self.ledger.find(FindReservations((reservation_id,)))
        if not found or user_id not in (None, found[0].user_id):
            return not_found("reservationId", reservation_id)
        return found[0]

    async def active_reservations(self, user_id: str) -> list[Reservation]:
        return await self.ledger.find(FindActiveReservations(user_id, self.clock.now_ms()))

    async def release(self, reservation_id: str, user_id: str | None = None) -> Reservation | Refused:
        """Gives the units of an unpaid reservation back, or a queued one up."""
        released = await self.ledger.release(reservation_id, user_id)
        if isinstance(released, Reservation) or not self._is_pending(released, reservation_id, user_id):
            return released
        return await self.ledger.withdraw(reservation_id, user_id)

    def _is_pending(self, refused: Refused, reservation_id: str, user_id: str | None) -> bool:
        unknown = refused.refusal is Refusal.NOT_FOUND
        return unknown and is_genuine(self.secret, reservation_id, user_id)

    async def checkout(
        self,
        reservation_ids: tuple[str, ...],
        transaction_id: str,
        payment_method: str = "",
        shipping_address: str = "",
        user_id: str | None = None,
    ) -> Order | Refused:
        """Pays for reservations of one user and sale with one transaction: the PAID order, or why not.

        May be repeated with the same transaction. Survives a crash between any two of its steps.
        """
        paid = await self._settling.checkout(reservation_ids, user_id, transaction_id, payment_method, shipping_address)
        if self.risk.judging and isinstance(paid, Order):
            self.risk.judging.paid(paid.user_id, reservation_ids)
        return paid

    async def order(self, order_id: str, user_id: str | None = None) -> Order | Refused:
        return _owned(await self.ledger.find(FindOrder(order_id=order_id)), "orderId", order_id, user_id)

    async def order_of(self, reservation_id: str, user_id: str | None = None) -> Order | Refused:
        """The order a reservation is in."""
        found = await self.ledger.find(FindOrder(reservation_id=reservation_id))
        return _owned(found, "reservationId", reservation_id, user_id)

    async def orders(self, user_id: str) -> list[Order]:
        return await self.ledger.find(FindOrders(user_id))

    async def cancel_order(self, order_id: str, user_id: str | None = None, reason: str = "") -> Order | Refused:
        """Cancels an unpaid order; starts the refund of a paid one. The units are on sale again at once."""
        order = await self.ledger.cancel_order(order_id, user_id, reason)
        self._resuming.wake()
        self.worker.wake(settle.LEASE)
        return order

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        """Creates, edits, switches, restocks or deletes a sale; audited. None: it has been deleted.

        In a fleet the answer waits a moment, so that the operator finds his change wherever he looks next.
        """
        changed = await self.ledger.change_sale(change)
        if self._watch is not None and not isinstance(changed, Refused):
            await asyncio.sleep(SEEN_SECONDS)
        return changed

    async def change_limits(self, change: LimitsChange) -> Settled | Refused:
        """Changes what admission goes by; audited. Answers when all processes go by it."""
        return await self.in_force.change(change)

    async def redrive(self, letter: DeadLetter, actor: str) -> Decided | Refused:
        """Has a dead letter decided anew, under its sale's rules of this moment; repeated: the same reservations."""
        try:
            request = decode(letter.message)
        except Unreadable as fault:
            return illegal("deadLetterId", letter.letter_id, f"cannot be read: {fault}")
        return await self.ledger.redrive(letter.letter_id, request, actor)

    def leave(self) -> None:
        """The process is about to end: whoever holds the line is told what there is, and can ask another one."""
        self.waiting.leave()
        self.visiting.leave_all()

    async def find(self, query: Query[T]) -> T:
        """Any question of `ports` to the ledger."""
        return await self.ledger.find(query)


def _visitor(named: Visitor | str) -> Visitor:
    return named if isinstance(named, Visitor) else Visitor(named)


def _owned(order: Order | None, field: str, name: str, user_id: str | None) -> Order | Refused:
    if order is None or user_id not in (None, order.user_id):
        return not_found(field, name)
    return order
