"""Composition: settings, then backends, then flows; and the engine as a library.

    async with Engine.open(load()) as engine:
        outcome = await engine.reserve("user-1", "IPHONE15-256GB")

Works without HTTP; `edge/` is a translation of these methods. Refusals are values: `match` on `Granted` and
`Refused`. What raises is what the world does: `LedgerUnavailable` (nothing has changed, try again).
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from flashsale.backends.clock import HeardClock, SteadyClock
from flashsale.backends.sandbox import KeptSandbox, SandboxProvider
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.backends.sqlite.outbox import SqliteOutbox
from flashsale.core.catalogue import SaleChange
from flashsale.core.order import Order
from flashsale.core.refusal import Refused, not_found
from flashsale.core.reservation import Reservation
from flashsale.core.sale import Sale
from flashsale.core.stock import Item
from flashsale.flow.publish import Publishing
from flashsale.flow.reserve import Reserving
from flashsale.flow.settle import Settling
from flashsale.flow.storefront import Storefront
from flashsale.flow.watch import SEEN_SECONDS, Watch, look_around
from flashsale.ports import (
    Clock,
    FindActiveReservations,
    FindOrder,
    FindOrders,
    FindReservations,
    Ledger,
    LedgerUnavailable,
    Outbox,
    Outcome,
    PaymentProvider,
    Query,
    Reply,
)
from flashsale.settings import Settings
from flashsale.worker import Worker

try:
    from flashsale.backends import postgres as installed
except ModuleNotFoundError as missing:
    if missing.name != "asyncpg":
        raise
    installed = None  # type: ignore[assignment]  # the extra is not installed

try:
    from flashsale.backends import kafka as installed_kafka
except ModuleNotFoundError as missing:
    if missing.name != "confluent_kafka":
        raise
    installed_kafka = None  # type: ignore[assignment]  # the extra is not installed


T = TypeVar("T")
Fatal = Callable[[Exception], None]


class ExtraMissing(Exception):
    """The settings name a backend whose driver is not installed; the message says how to install it."""


class Engine:
    """One shop's engine. Made by `Engine.open`; safe to use from one event loop."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        provider: PaymentProvider,
        clock: Clock,
        storefront: Storefront,
        publishing: Publishing | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.ledger = ledger
        self.storefront = storefront
        self.provider = provider
        self._watch = Watch(ledger, storefront) if settings.postgres_url else None
        self._reserving = Reserving(ledger, storefront, clock, self._watch)
        self._settling = Settling(ledger, provider, clock, settings.provider_seconds)
        self.publishing = publishing
        self.worker = Worker(ledger, self._settling, clock, self._watch, publishing)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, on_fatal: Fatal | None = None) -> AsyncIterator["Engine"]:
        """Opens the ledger, recovers what a crash left open, and runs the loops until the block ends.

        `on_fatal` is called when the store breaks (an I/O error): the process should end. Raises LedgerInUse and
        SchemaUnknown.
        """
        async with AsyncExitStack() as stack:
            clock: Clock = HeardClock() if settings.postgres_url else SteadyClock()
            storefront = Storefront(clock)
            ledger, outbox = await _ledger(settings, clock, storefront, on_fatal)
            stack.push_async_callback(ledger.close)
            await look_around(ledger, storefront)
            provider = await _provider(settings, stack)
            publishing = _publishing(settings, ledger, outbox, clock, stack)
            engine = cls(settings, ledger, provider, clock, storefront, publishing)
            await stack.enter_async_context(engine.worker)
            yield engine

    def reserve_soon(self, user_id: str, sku_id: str, quantity: int, key: str | None, reply: Reply) -> None:
        """The hot path: `reply` gets the outcome on the event loop, once it is durable. No task, no future."""
        self._reserving.reserve(user_id, sku_id, quantity, key, reply)

    async def reserve(self, user_id: str, sku_id: str, quantity: int = 1, key: str | None = None) -> Outcome:
        """Holds units for a user. With a key it can be repeated: the same key gets the same reservation."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._reserving.reserve(user_id, sku_id, quantity, key, _into(future))
        return await future

    async def reserve_cart(self, user_id: str, items: tuple[Item, ...], key: str | None = None) -> Outcome:
        """Holds several products of one sale: all of them or none."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._reserving.reserve_cart(user_id, items, key, _into(future))
        return await future

    async def reservation(self, reservation_id: str, user_id: str | None = None) -> Reservation | Refused:
        """A reservation as it stands. With a user, only his own is found."""
        found = await self.ledger.find(FindReservations((reservation_id,)))
        if not found or user_id not in (None, found[0].user_id):
            return not_found("reservationId", reservation_id)
        return found[0]

    async def active_reservations(self, user_id: str) -> list[Reservation]:
        return await self.ledger.find(FindActiveReservations(user_id, self.clock.now_ms()))

    async def release(self, reservation_id: str, user_id: str | None = None) -> Reservation | Refused:
        """Gives the units of an unpaid reservation back."""
        return await self.ledger.release(reservation_id, user_id)

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
        return await self._settling.checkout(reservation_ids, user_id, transaction_id, payment_method, shipping_address)

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
        self.worker.wake()
        return order

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        """Creates, edits, switches, restocks or deletes a sale; audited. None: it has been deleted.

        In a fleet the answer waits a moment, so that the operator finds his change wherever he looks next.
        """
        changed = await self.ledger.change_sale(change)
        if self._watch is not None and not isinstance(changed, Refused):
            await asyncio.sleep(SEEN_SECONDS)
        return changed

    async def find(self, query: Query[T]) -> T:
        """Any question of `ports` to the ledger."""
        return await self.ledger.find(query)


def _postgres() -> ModuleType:
    if installed is None:
        raise ExtraMissing("a ledger on PostgreSQL needs asyncpg: pip install 'flashsale[postgres]'")
    return installed


async def migrate_postgres(url: str) -> list[str]:
    """Brings the schema of a ledger on PostgreSQL up to this version; the names of what was applied."""
    applied: list[str] = await _postgres().migrate(url)
    return applied


async def postgres_facts(url: str) -> Any:
    """What `flashsale doctor` wants to know of the server: `backends.postgres.connect.Facts`."""
    return await _postgres().facts(url)


def _into(future: asyncio.Future[Outcome]) -> Reply:
    """A reply into a future; an outcome that nobody waits for any more is dropped (it is in the ledger)."""

    def reply(outcome: Outcome) -> None:
        if not future.done():
            future.set_result(outcome)

    return reply


def _owned(order: Order | None, field: str, name: str, user_id: str | None) -> Order | Refused:
    if order is None or user_id not in (None, order.user_id):
        return not_found(field, name)
    return order


async def _ledger(
    settings: Settings, clock: Clock, storefront: Storefront, on_fatal: Fatal | None
) -> tuple[Ledger, Outbox]:
    queue_max, batch_max = settings.queue_max, settings.batch_max
    if settings.postgres_url is None:
        ledger = await SqliteLedger.open(settings.ledger_path, clock, storefront, queue_max, batch_max, on_fatal)
        return ledger, SqliteOutbox(ledger.move)
    postgres = _postgres()
    opened: Ledger = await postgres.PostgresLedger.open(settings.postgres_url, clock, storefront, queue_max, batch_max)
    return opened, postgres.PostgresOutbox(settings.postgres_url, clock)


def _publishing(
    settings: Settings, ledger: Ledger, outbox: Outbox, clock: Clock, stack: AsyncExitStack
) -> Publishing | None:
    if settings.kafka_servers is None:
        return None
    if installed_kafka is None:
        raise ExtraMissing("a broker needs confluent-kafka: pip install 'flashsale[kafka]'")
    broker = installed_kafka.KafkaBroker(settings.kafka_servers)
    publishing = Publishing(ledger, outbox, broker, clock, secrets.token_hex(8))
    stack.push_async_callback(outbox.close)
    stack.push_async_callback(_leave, publishing)
    stack.push_async_callback(broker.close)
    return publishing


async def _leave(publishing: Publishing) -> None:
    with suppress(LedgerUnavailable):  # the lease runs out by itself
        await publishing.close()


async def _provider(settings: Settings, stack: AsyncExitStack) -> PaymentProvider:
    if settings.sandbox_url:
        provider = SandboxProvider(settings.sandbox_url, settings.provider_seconds)
    else:
        sandbox = await stack.enter_async_context(KeptSandbox(Path(settings.data) / "sandbox.db"))
        provider = SandboxProvider(sandbox.url, settings.provider_seconds)
    stack.push_async_callback(provider.close)
    return provider


def admin_token(settings: Settings) -> tuple[str, Path | None]:
    """The operators' token, and where it is kept when nobody has configured one (mode 0600, made once)."""
    if settings.admin_token:
        return settings.admin_token, None
    place = Path(settings.data) / "admin-token"
    if not place.exists() or not place.read_text().strip():
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(place.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(32))
        fresh.replace(place)  # whole or not at all
    return place.read_text().strip(), place
