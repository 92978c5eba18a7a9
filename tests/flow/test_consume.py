"""What becomes of the messages of the queue: decided, held, or written down as dead."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from itertools import count
from pathlib import Path

import pytest
from contract.ledgers import Audience, HandClock, Shop, sqlite
from contract.queues import until
from core.shop import OPENING_MS, a_product, a_sale
from msgspec.structs import replace
from structlog.testing import capture_logs

from flashsale.backends.memory import MemoryGate
from flashsale.core.catalogue import EditSale, SaleDraft, SwitchSale
from flashsale.core.pending import fresh_id
from flashsale.core.permits import Verdict, Wish
from flashsale.core.questions import DeadLetters, FindReservations, QueuedPage, QueueFigures
from flashsale.core.refusal import Refusal, recalled
from flashsale.core.request import Item, Priority, Request, encode
from flashsale.core.reservation import Status
from flashsale.core.sale import Mode, Switch
from flashsale.flow.consume import Consuming
from flashsale.flow.lease import Always
from flashsale.flow.ledger_queue import LedgerQueue
from flashsale.flow.storefront import Storefront
from flashsale.flow.waiting import Waiting
from flashsale.ports import FAILED, Batch, Delivery, Origin

CHANCE = count(1)
TOPIC = "flashsale.requests"
POISON = """
CREATE TRIGGER poison BEFORE INSERT ON reservation WHEN new.user_id = 'poison' AND new.status = 'RESERVED'
BEGIN SELECT raise(ABORT, 'this one cannot be written'); END
"""


class Window(Audience):
    """An observer that is the shop window too."""

    def __init__(self, clock: HandClock) -> None:
        super().__init__()
        self.storefront = Storefront(clock)

    def stock_changed(self, rows) -> None:
        self.storefront.stock_changed(rows)

    def sale_changed(self, sale_id, sale) -> None:
        self.storefront.sale_changed(sale_id, sale)


class Slice:
    """A source with one slice: what is put in comes out, a batch at a time, until it is done."""

    def __init__(self) -> None:
        self._batches: asyncio.Queue[Batch] = asyncio.Queue()
        self._offsets = count()
        self.finished: list[Batch] = []
        self.fails = 0

    def put(self, *messages: bytes) -> Batch:
        batch = Batch("0", [Delivery(Origin(TOPIC, 0, next(self._offsets)), each) for each in messages])
        self._batches.put_nowait(batch)
        return batch

    async def take(self) -> Batch:
        batch = await self._batches.get()
        if self.fails:
            self.fails -= 1
            self._batches.put_nowait(batch)
            raise RuntimeError("out of file descriptors")
        return batch

    def done(self, batch: Batch) -> None:
        self.finished.append(batch)

    async def close(self) -> None:
        pass


class Line:
    """A queued sale of 300 lamps with everything that consumes."""

    def __init__(self, ledger, clock: HandClock, window: Window, folder: Path) -> None:
        self.shop = Shop(ledger, clock, window)
        self.ledger = ledger
        self.file = folder / "ledger.db"
        self.gate = MemoryGate(clock)
        self.waiting = Waiting(ledger)
        self.source = Slice()
        self.own = LedgerQueue(ledger, window.storefront, clock, Always().held)
        sources = (self.source, self.own)
        self.consuming = Consuming(ledger, sources, self.gate, window.storefront, self.waiting, clock)

    async def consumed(self, *messages: bytes) -> Batch:
        batch = self.source.put(*messages)
        await until(lambda: batch in self.source.finished)
        return batch

    async def statuses(self, requests: Sequence[Request]) -> list[Status]:
        ids = tuple(each for request in requests for each in request.reservation_ids)
        rows = {row.reservation_id: row.status for row in await self.ledger.find(FindReservations(ids))}
        return [rows.get(each) for each in ids]

    async def waits(self, number: int) -> bool:
        return sum((await self.ledger.find(QueueFigures())).values()) == number

    async def have(self, requests: Sequence[Request], statuses: Sequence[Status]) -> bool:
        return await self.statuses(requests) == statuses

    def poison(self) -> None:
        with closing(sqlite3.connect(self.file)) as file:
            file.execute(POISON)


def wants(it: Line, user: str) -> Request:
    reservation_id = fresh_id(it.ledger.secret, user, OPENING_MS, next(CHANCE).to_bytes(6, "big"))
    return Request((reservation_id,), user, "sale", (Item("lamp", 1),), OPENING_MS)


@asynccontextmanager
async def a_line(folder: Path) -> AsyncIterator[Line]:
    clock = HandClock()
    window = Window(clock)
    with capture_logs():
        async with sqlite(folder, clock, window) as ledger:
            it = Line(ledger, clock, window, folder)
            await it.shop.opens(a_sale(a_product(), a_product("vase"), mode=Mode.QUEUED), units=300)
            task = asyncio.create_task(it.consuming.run())
            try:
                yield it
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


@pytest.fixture
async def line(tmp_path) -> AsyncIterator[Line]:
    async with a_line(tmp_path) as it:
        yield it


async def test_a_batch_is_done_when_everything_in_it_is_decided(line: Line) -> None:
    requests = [wants(line, f"u{number}") for number in range(250)]
    await line.consumed(*map(encode, requests))
    assert await line.statuses(requests) == [Status.RESERVED] * 250


async def test_one_poisoned_message_harms_none_of_its_249_neighbours(line: Line) -> None:
    line.poison()
    requests = [wants(line, "poison" if number == 77 else f"u{number}") for number in range(250)]
    await line.consumed(*map(encode, requests))
    statuses = await line.statuses(requests)
    assert statuses.pop(77) is Status.REJECTED and statuses == [Status.RESERVED] * 249
    (letter,) = await line.ledger.find(DeadLetters())
    assert (letter.topic, letter.offset, letter.tries) == (TOPIC, 77, 3)
    assert letter.message == encode(requests[77]) and "this one cannot be written" in letter.error
    (row,) = await line.ledger.find(FindReservations(requests[77].reservation_ids))
    assert recalled(row.refusal).refusal is Refusal.UNAVAILABLE
    assert await line.shop.counters() == (51, 249, 0)


async def test_several_poisoned_messages_of_a_batch_do_not_stop_what_is_behind_them(
    line: Line,
) -> None:
    line.poison()
    requests = [wants(line, "poison" if number in (3, 7) else f"u{number}") for number in range(20)]
    await line.consumed(*map(encode, requests))
    assert [each.offset for each in sorted(await line.ledger.find(DeadLetters()), key=lambda it: it.offset)] == [3, 7]
    later = wants(line, "later")
    await line.consumed(encode(later))
    assert await line.statuses([later]) == [Status.RESERVED]


async def test_a_message_nested_without_end_is_a_dead_letter(line: Line) -> None:
    await line.consumed(b"[" * 100_000, encode(wants(line, "ann")))
    assert len(await line.ledger.find(DeadLetters())) == 1


async def test_a_dead_letter_gives_its_permit_back(line: Line) -> None:
    line.poison()
    poison, request = wants(line, "poison"), wants(line, "ann")
    await line.consuming.synchronise()
    wishes = [Wish(poison.reservation_ids[0], "poison", "sale", "lamp", 1, 1, "f")]
    assert [permit.verdict for permit in await line.gate.permit(wishes)] == [Verdict.PERMITTED]
    await line.consumed(encode(poison), encode(request))
    again = [Wish("res_again", "poison", "sale", "lamp", 1, 1, "f")]
    assert [permit.verdict for permit in await line.gate.permit(again)] == [Verdict.PERMITTED]


async def test_permits_come_back_for_what_was_asked_not_for_what_another_request_got(line: Line) -> None:
    """One key for two products: the second request is answered with the first one's row, and keeps no unit."""
    await line.consuming.synchronise()
    ids = wants(line, "ann").reservation_ids
    lamp = Request(ids, "ann", "sale", (Item("lamp", 1),), OPENING_MS)
    vase = Request(ids, "ann", "sale", (Item("vase", 1),), OPENING_MS)
    wishes = [Wish(ids[0], "ann", "sale", sku, 1, 1, "f") for sku in ("lamp", "vase")]
    assert [permit.verdict for permit in await line.gate.permit(wishes)] == [Verdict.PERMITTED] * 2
    await line.consumed(encode(lamp))
    await line.consumed(encode(vase))
    others = [Wish(f"res_{number}", f"u{number}", "sale", "vase", 1, 1, "f") for number in range(300)]
    assert {permit.verdict for permit in await line.gate.permit(others)} == {Verdict.PERMITTED}


async def test_a_waiter_whose_answer_cannot_be_delivered_holds_up_nobody(line: Line) -> None:
    def gone(_: list) -> None:
        raise RuntimeError("the client has gone")

    requests = [wants(line, "ann"), wants(line, "bob")]
    line.waiting.wait(requests[0].reservation_ids, 5, gone)
    await line.consumed(*map(encode, requests))
    assert await line.statuses(requests) == [Status.RESERVED] * 2


async def test_a_source_that_fails_once_is_asked_again_and_the_others_go_on(line: Line) -> None:
    line.source.fails = 1
    request = wants(line, "ann")
    line.own.append(request, lambda _: None)
    await until(lambda: line.have([request], [Status.RESERVED]))
    later = wants(line, "bob")
    await line.consumed(encode(later))
    assert await line.statuses([later]) == [Status.RESERVED]


async def test_what_waited_while_its_sale_was_paused_is_decided_when_the_window_is_over(line: Line) -> None:
    sale = line.shop.audience.storefront.sales["sale"]
    units = {"lamp": 300, "vase": 300}
    ending = replace(sale, ends_at_ms=OPENING_MS + 60_000)
    await line.ledger.change_sale(EditSale(SaleDraft(ending, units), None, "operator"))
    await line.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    request = wants(line, "ann")
    line.own.append(request, lambda _: None)
    await until(lambda: line.waits(1))
    line.shop.clock.pass_ms(60_001)
    await until(lambda: line.have([request], [Status.RESERVED]))


async def test_an_old_shop_window_is_not_passed_on_to_the_gate(line: Line) -> None:
    line.shop.audience.storefront.seen_at_ms = OPENING_MS
    line.shop.clock.pass_ms(201)
    await line.consuming.synchronise()
    assert await line.gate.availability([("sale", "lamp")]) == [None]


async def test_a_message_that_is_no_request_is_a_dead_letter_at_once(line: Line) -> None:
    requests = [wants(line, "ann"), wants(line, "bob")]
    await line.consumed(encode(requests[0]), b"\xff{not json", encode(requests[1]))
    assert await line.statuses(requests) == [Status.RESERVED] * 2
    (letter,) = await line.ledger.find(DeadLetters())
    assert (letter.message, letter.tries, letter.reservation_ids) == (b"\xff{not json", 1, ())


async def test_a_ledger_in_trouble_is_nobodys_fault(line: Line) -> None:
    """Whatever the whole batch fails with is tried until it goes."""
    with closing(sqlite3.connect(line.file)) as file:
        file.execute("ALTER TABLE journal RENAME TO gone")
        requests = [wants(line, f"u{number}") for number in range(5)]
        batch = line.source.put(*map(encode, requests))
        await asyncio.sleep(0.8)  # more rounds than a message has tries
        assert batch not in line.source.finished
        file.execute("ALTER TABLE gone RENAME TO journal")
    await until(lambda: batch in line.source.finished)
    assert await line.statuses(requests) == [Status.RESERVED] * 5
    assert await line.ledger.find(DeadLetters()) == []


async def test_requests_of_a_paused_sale_wait_in_the_ledger_and_go_on_with_it(line: Line) -> None:
    await line.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    requests = [wants(line, f"u{number}") for number in range(3)]
    await line.consumed(*map(encode, requests))
    assert await line.ledger.find(QueueFigures()) == {"sale": 3}
    await line.ledger.change_sale(SwitchSale("sale", Switch.RESUME, "operator"))
    await until(lambda: line.have(requests, [Status.RESERVED] * 3))
    assert await line.ledger.find(QueuedPage(Priority.NORMAL)) == []


async def test_a_batch_that_comes_again_changes_nothing(line: Line) -> None:
    requests = [wants(line, f"u{number}") for number in range(10)]
    await line.consumed(*map(encode, requests))
    await line.consumed(*map(encode, reversed(requests)))
    assert await line.shop.counters() == (290, 10, 0)
    assert await line.shop.discrepancies() == []


async def test_permits_are_given_back_with_the_decision_and_the_gate_hears_what_is_left(line: Line) -> None:
    request = wants(line, "ann")
    wish = Wish(request.reservation_ids[0], "ann", "sale", "lamp", 1, 1, "f")
    await line.consuming.synchronise()
    (permit,) = await line.gate.permit([wish])
    assert permit.verdict is Verdict.PERMITTED
    await line.consumed(encode(request))
    assert await line.gate.availability([("sale", "lamp")]) == [299]
    other = Wish("res_other", "ann", "sale", "lamp", 1, 1, "f")
    assert (await line.gate.permit([other]))[0].verdict is Verdict.PERMITTED  # ann's permit counts no more


async def test_whoever_waits_in_this_process_is_told_at_once(line: Line) -> None:
    request = wants(line, "ann")
    told: asyncio.Future[list] = asyncio.get_running_loop().create_future()
    line.waiting.wait(request.reservation_ids, 5, told.set_result)
    await line.consumed(encode(request))
    assert [row.status for row in await told] == [Status.RESERVED]


async def test_the_ledgers_own_queue_is_decided_in_its_order(line: Line) -> None:
    requests = [wants(line, f"u{number}") for number in range(5)]
    replies: list[bool] = []
    for each in requests:
        line.own.append(each, replies.append)
    await until(lambda: line.have(requests, [Status.RESERVED] * 5))
    assert replies == [True] * 5
    rows = await line.shop.journal()
    assert [row.actor for row in rows[2:]] == [f"u{number}" for number in range(5)]


async def test_a_poisoned_message_in_the_ledgers_own_queue_leaves_it(line: Line) -> None:
    line.poison()
    requests = [wants(line, "ann"), wants(line, "poison"), wants(line, "bob")]
    for each in requests:
        line.own.append(each, lambda _: None)
    await until(lambda: line.have(requests, [Status.RESERVED, Status.REJECTED, Status.RESERVED]))
    assert await line.ledger.find(QueuedPage(Priority.NORMAL)) == []


async def test_a_failure_says_what_it_was_to_the_log_and_not_to_the_client() -> None:
    assert "error" not in FAILED.details
