"""The ledger port on several PostgreSQL databases: a sale with all its products lives in one of them.

Whatever happens to a sale happens in its database, in one transaction, as in a ledger that is one database. So each
promise about units, limits, keys and orders holds here because it holds there. Three things span databases:

    which one a sale is in, and that no product is in two sales     placing.py, on the first shard
    that a transaction of the provider pays for one order only      core/right.py, on the first shard
    lists and questions about everything                            merged.py, asked of all

An attempt goes to its shard without asking anybody: where a sale is never changes, and is learned from the shards'
own lists of sales. An id tells its shard (backends/ids.py); if it does not, all are asked. A shard that is away takes
nothing and gives nothing back, and the others go on; if it is the first, no order can be opened on the others and no
sale made, because both are written down there.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from flashsale.backends.batch import AWAY, BUSY
from flashsale.backends.ids import mark_of
from flashsale.backends.postgres import catalogue, moves, placing
from flashsale.backends.postgres.alone import Alone, Altered
from flashsale.backends.postgres.catalogue import Announced
from flashsale.backends.postgres.connect import Connection
from flashsale.backends.postgres.ledger import PostgresLedger
from flashsale.backends.postgres.merged import OF_ALL, Merged
from flashsale.backends.postgres.moves import Move
from flashsale.backends.postgres.rows import SHARDS
from flashsale.backends.postgres.seat import Seat, place_of
from flashsale.backends.postgres.shard import Round, Shard, itself, wrong_one
from flashsale.backends.postgres.whereabouts import Heard, Whereabouts
from flashsale.core.catalogue import CreateSale, DeleteSale, EditSale, SaleChange, sale_id_of
from flashsale.core.checkout import Checkout, Opened
from flashsale.core.exits import illegal
from flashsale.core.letter import DeadLetter
from flashsale.core.order import Order
from flashsale.core.payment import PaymentStatus, TransactionKey
from flashsale.core.questions import (
    AdmissionOf,
    BasesOf,
    DrawnOrder,
    EntrantsOf,
    FiguresOf,
    FindDeadLetter,
    FindOrder,
    FindReservations,
    FindSales,
    FindTickets,
    JournalPage,
    LedgerCheck,
    Query,
    StockOf,
)
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.request import Request
from flashsale.core.reservation import Reservation
from flashsale.core.right import FIRST
from flashsale.core.sale import Sale, SaleState, state_at
from flashsale.core.stock import Attempt, Decided
from flashsale.core.waiting_room import DrawStep, Joining, Room, Ticket, Turn, Turned
from flashsale.ports import Clock, LedgerUnavailable, Observer, PaymentFact, PutOff, RefundFact, Reply, SchemaUnknown
from flashsale.tracing import TRACE_ID

T = TypeVar("T")

LOOKUPS_MAX = 1_000
"""Attempts that wait to learn where their sale is."""
TRIES = 8
"""Of an order whose transaction's right changes hands meanwhile."""


class ShardedLedger:
    """The truth in several places. Made by `open`; used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        self.shards: list[Shard] = []
        self._clock = clock
        self._merged = Merged(self.shards)
        self._sweep = Round(self.shards)
        self.where = Whereabouts(self.shards)
        self._secret = b""
        self._lookups: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    @classmethod
    async def open(
        cls, urls: Sequence[str], clocks: Sequence[Clock], observer: Observer, queue_max: int, batch_max: int
    ) -> "ShardedLedger":
        """Connects; `clocks` has one for each shard, the engine's own for the first. The first database has to be
        there; each that is there has to be the one that belongs in its place. Raises LedgerUnavailable, SchemaUnknown.
        """
        ledger = cls(clocks[0])

        def opening(number: int, ledger_id: str | None) -> Callable[[], Awaitable[PostgresLedger]]:
            seat, heard = Seat(number, len(urls), ledger_id), Heard(number, ledger.where.known, observer)
            return partial(PostgresLedger.open, urls[number], clocks[number], heard, queue_max, batch_max, seat)

        first = await opening(FIRST, None)()
        ledger._secret = first.secret
        ledger.shards.append(Shard(FIRST, partial(itself, first)))
        try:
            await ledger.shards[FIRST].open()
            ledger_id = (await first.alone(_ledger_id)) or ""
            ledger.shards += [Shard(number, opening(number, ledger_id)) for number in range(1, len(urls))]
            wrong = [fault for fault in await asyncio.gather(*map(wrong_one, ledger.shards)) if fault]
            if wrong:
                raise SchemaUnknown("; ".join(wrong))
            await ledger._look()
        except BaseException:
            await ledger.close()
            raise
        return ledger

    # The port.

    @property
    def alarm(self) -> str | None:
        """While one shard takes changes, the ledger does; `away` says which ones do not."""
        return "; ".join(self.away.values()) if len(self.away) == len(self.shards) else None

    @property
    def away(self) -> dict[int, str]:
        """Of each shard that takes nothing now, why."""
        return {shard.number: alarm for shard in self.shards if (alarm := shard.alarm)}

    @property
    def waiting(self) -> int:
        """Of all shards together."""
        return sum(shard.waiting for shard in self.shards)

    def reserve(self, attempt: Attempt, reply: Reply) -> None:
        self._pass_on(attempt.sale_id, lambda ledger: ledger.reserve(attempt, reply), reply)

    def refuse(self, attempt: Attempt, reply: Reply) -> None:
        self._pass_on(attempt.sale_id, lambda ledger: ledger.refuse(attempt, reply), reply)

    async def release(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self._ask(await self._home((reservation_id,)), moves.release(reservation_id, user_id))

    async def join(self, sale_id: str, wanted: Sequence[Joining]) -> list[Ticket | Refused]:
        return await self.shards[await self.where.of_sale(sale_id)].ledger.join(sale_id, wanted)

    async def leave(self, sale_id: str, number: int) -> None:
        await self.shards[await self.where.of_sale(sale_id)].ledger.leave(sale_id, number)

    async def draw(self, sale_id: str, step: DrawStep) -> Room | None:
        return await self.shards[await self.where.of_sale(sale_id)].ledger.draw(sale_id, step)

    async def admit(self, turn: Turn) -> Turned:
        return await self.shards[await self.where.of_sale(turn.sale_id)].ledger.admit(turn)

    async def expire(self) -> int:
        return sum((await self._sweep.ask(Shard.expire)).values())

    async def open_order(self, checkout: Checkout) -> Opened | Refused:
        """First without the right to the transaction, so that a checkout which is to be refused writes nothing."""
        if refused := await self._scattered(checkout):
            return refused
        number = await self._home(checkout.reservation_ids)
        opening = moves.open_order(checkout) if number == FIRST else moves.open_order_if_known(checkout)
        opened = await self._ask(number, opening)
        key, stale_turn = (checkout.provider, checkout.transaction_id), None
        for _ in range(TRIES):
            if not (isinstance(opened, Refused) and opened.refusal is Refusal.PAYMENT_REUSED):
                return opened
            turn = await self._right(number, key, stale_turn)
            if turn is None:
                return opened
            again = await self._ask(number, moves.with_right(moves.open_order(checkout), key, turn))
            if again is not None:
                return again
            stale_turn = turn
        raise LedgerUnavailable("this transaction is being used for other orders: nothing was changed, try again")

    async def settle(self, fact: PaymentFact | RefundFact | PutOff) -> Opened | None:
        number = self._of_step(fact)
        settled = await self._ask(number, moves.settle(fact))
        if not isinstance(fact, PaymentFact) or settled is None or not _may_be_another_orders(settled, fact):
            return settled
        key = (settled.payment.provider, settled.payment.transaction_id)
        turn = await self._right(number, key, None)
        if turn is None:
            return settled
        again: Move[Opened | None] = moves.with_right(moves.settle(fact), key, turn)
        return await self._ask(number, again) or settled

    async def cancel_order(self, order_id: str, user_id: str | None, reason: str) -> Order | Refused:
        number = self.where.told((order_id,))
        if number is None:
            found = await self.find(FindOrder(order_id=order_id))
            number = await self.where.of_sale(found.sale_id) if found else FIRST
        return await self._ask(number, moves.cancel_order(order_id, user_id, reason))

    async def change_sale(self, change: SaleChange) -> Sale | Refused | None:
        """New sales and new products are announced first; everything else concerns one shard."""
        if isinstance(change, CreateSale | EditSale):
            async with self._changing:
                return await self._placed(change)
        sale_id = sale_id_of(change)
        changed: Sale | Refused | None = await self._write(
            change, await self.where.of_sale(sale_id), catalogue.UNANNOUNCED
        )
        if changed is None and isinstance(change, DeleteSale):
            await self._forget(sale_id)
        return changed

    @property
    def secret(self) -> bytes:
        """The first shard's, for all of them."""
        return self._secret

    def mark_of(self, sale_id: str) -> str:
        return mark_of(self.where.known.get(sale_id, FIRST))

    async def withdraw(self, reservation_id: str, user_id: str | None) -> Reservation | Refused:
        return await self._ask(await self._home((reservation_id,)), moves.withdraw(reservation_id, user_id))

    def enqueue(self, request: Request, reply: Callable[[bool], None]) -> None:
        """Where its sale is, as every attempt for it: so what decides it deletes its row."""
        self._pass_on(request.sale_id, lambda ledger: ledger.enqueue(request, reply), lambda _: reply(False))

    async def bury(self, letter: DeadLetter, request: Request | None, place: int | None = None) -> None:
        number = await self._of_letter(letter, request, place)
        await self._ask(number, moves.bury(letter, request, place))

    async def redrive(self, letter_id: str, request: Request, actor: str) -> Decided | Refused:
        number = await self.where.of_sale(request.sale_id)
        question = FindDeadLetter(letter_id)
        here = await self.shards[number].find(question)
        if here is None and await self.find(question) is not None:
            return illegal("deadLetterId", letter_id, "is in another database than its sale: send its request anew")
        return await self._ask(number, moves.redrive(self.secret, letter_id, request, actor))

    async def find(self, query: Query[T]) -> T:
        number = await self._of_query(query)
        if number is not None:
            return await self.shards[number].find(query)
        found: T = await OF_ALL[type(query)](self._merged, query)
        if isinstance(query, FindSales):
            self.where.known |= self._merged.shard_of_sale
        return found

    async def close(self) -> None:
        for task in self._lookups:
            task.cancel()
        await asyncio.gather(*(shard.close() for shard in self.shards))

    # Where things are.

    async def _home(self, reservation_ids: tuple[str, ...]) -> int:
        """The shard of reservations that are on one; what is nowhere is the first's to refuse."""
        number = self.where.told(reservation_ids)
        if number is not None:
            return number
        found = await self.find(FindReservations(reservation_ids[:1]))
        return await self.where.of_sale(found[0].sale_id) if found else FIRST

    def _of_step(self, fact: PaymentFact | RefundFact | PutOff) -> int:
        match fact:
            case PaymentFact(payment_id=each) | RefundFact(refund_id=each):
                return self.where.told((each,)) or FIRST
            case PutOff():
                return self.where.told((fact.payment_id or fact.refund_id,)) or FIRST

    async def _of_query(self, query: Query[Any]) -> int | None:
        """The one shard that can answer; None: all have to be asked."""
        match query:
            case LedgerCheck() | JournalPage() | FiguresOf() | BasesOf():
                return await self.where.of_sale(query.sale_id)
            case FindTickets() | EntrantsOf() | DrawnOrder() | AdmissionOf():
                return await self.where.of_sale(query.sale_id)
            case StockOf(sale_id=str(sale_id)):
                return self.where.known.get(sale_id)
            case FindReservations(whole=True):
                return self.where.told(query.reservation_ids)
            case FindOrder():
                return self.where.told((query.order_id or query.reservation_id,))
        return None

    async def _of_letter(self, letter: DeadLetter, request: Request | None, place: int | None) -> int:
        """Beside its sale, if that is known. Of a message that cannot be read: where it waits, or the first."""
        if request is not None:
            return await self.where.of_sale(request.sale_id)
        told = self.where.told(letter.reservation_ids)
        if told is not None:
            return told
        return letter.partition if place is not None and letter.partition < len(self.shards) else FIRST

    async def _look(self) -> None:
        await self.find(FindSales())

    # Attempts.

    def _pass_on(self, sale_id: str, ask: Callable[[PostgresLedger], None], say: Callable[[Refused], None]) -> None:
        """Has a sale's shard asked, or says why it cannot be."""
        number = self.where.known.get(sale_id)
        if number is not None:
            self._ask_now(number, ask, say)
        elif len(self._lookups) >= LOOKUPS_MAX:
            say(BUSY)
        else:
            task = asyncio.create_task(self._looked_up(sale_id, ask, say))
            self._lookups.add(task)
            task.add_done_callback(self._lookups.discard)

    def _ask_now(self, number: int, ask: Callable[[PostgresLedger], None], say: Callable[[Refused], None]) -> None:
        try:
            ledger = self.shards[number].ledger
        except LedgerUnavailable:
            say(AWAY)
        else:
            ask(ledger)

    async def _looked_up(
        self, sale_id: str, ask: Callable[[PostgresLedger], None], say: Callable[[Refused], None]
    ) -> None:
        try:
            number = await self.where.of_sale(sale_id)
        except LedgerUnavailable:
            say(AWAY)
        else:
            self._ask_now(number, ask, say)

    # Orders.

    async def _ask(self, number: int, move: Move[T]) -> T:
        return await self.shards[number].ledger.ask(move)

    async def _scattered(self, checkout: Checkout) -> Refused | None:
        """Reservations of several sales cannot be in one order; on one shard the rules see that."""
        if self.where.told(checkout.reservation_ids) is not None or len(checkout.reservation_ids) < 2:
            return None
        found = {each.reservation_id: each for each in await self.find(FindReservations(checkout.reservation_ids))}
        for reservation_id in checkout.reservation_ids:
            owner = found[reservation_id].user_id if reservation_id in found else None
            if owner is None or checkout.user_id not in (None, owner):
                return not_found("reservationId", reservation_id)
        if len({await self.where.of_sale(each.sale_id) for each in found.values()}) == 1:
            return None
        return invalid("reservationIds", "must be of one sale and one user")

    async def _right(self, asker: int, key: TransactionKey, given_up_turn: int | None) -> int | None:
        """The turn in which a shard has the right to a transaction; None: a payment on another shard claims it."""
        for _ in range(TRIES):
            right = await self._ask(FIRST, moves.hold(key, asker, given_up_turn))
            if right.shard_id == asker:
                return right.turn
            if right.shard_id == FIRST:
                return None
            if not await self._ask(right.shard_id, moves.give_up(key, asker, right.turn)):
                return None
            given_up_turn = right.turn
        raise LedgerUnavailable("this transaction is being used for other orders: nothing was changed, try again")

    # Sales.

    async def _placed(self, change: CreateSale | EditSale) -> Sale | Refused | None:
        now_ms = self._clock.now_ms()
        open_sales = await self._merged.open_sales(lambda sale: state_at(sale, now_ms) is not SaleState.ENDED)
        to = min(open_sales, key=lambda number: (open_sales[number], -number))  # the newest shard has most room
        write: placing.Write = partial(self._write, change)
        return await placing.place(change, len(self.shards), to, self._clock.now_ms, self._alone, write)

    async def _alone(self, number: int, work: Alone) -> object:
        return await self.shards[number].ledger.alone(work)

    async def _write(self, change: SaleChange, number: int, announced: Announced) -> Any:
        altered = await self._alone(number, partial(catalogue.alter, self._clock, change, announced, TRACE_ID.get()))
        if isinstance(altered, Sale):
            self.where.known[altered.sale_id] = number
        return altered

    async def _forget(self, sale_id: str) -> None:
        """Its products are free; its id stays with its shard. If this is lost, nothing depends on it."""

        async def forget(db: Connection) -> Altered:
            await db.execute(SHARDS["keep_terms"], sale_id, None)
            return Altered(None, changed=True)

        try:
            await self._alone(FIRST, forget)
        except LedgerUnavailable:
            return


def _may_be_another_orders(settled: Opened, fact: PaymentFact) -> bool:
    """Money for a payment that FAILED was not taken in: its transaction may have gone to an order elsewhere."""
    return settled.payment.status is PaymentStatus.FAILED and fact.transaction.status > PaymentStatus.FAILED


async def _ledger_id(db: Connection) -> Altered:
    return Altered((await place_of(db)).ledger_id)
