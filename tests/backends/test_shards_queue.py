"""Queued sales on several databases: a request waits, is decided and is given up where its sale is."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import pytest
from backends.test_shards import SALE_OF, held, units_of
from contract.ledgers import Shop, databases_of, shards, shop
from core.shop import OPENING_MS, a_product, a_sale, refusal_of

from flashsale.backends.ids import mark_of, shard_of
from flashsale.backends.postgres.history import PostgresHistory
from flashsale.core.dead_letters import attempt_of
from flashsale.core.letter import DeadLetter
from flashsale.core.pending import fresh_id, is_genuine
from flashsale.core.questions import (
    BasesOf,
    DeadLetterCount,
    DeadLetters,
    EventsAfter,
    EventsWaiting,
    FindDeadLetter,
    FindReservations,
    MovedProducts,
    PrunedTo,
    PruneReach,
    Queued,
    QueuedPage,
    QueueFigures,
    StockOf,
)
from flashsale.core.refusal import Refusal
from flashsale.core.request import Item, Priority, Request, encode
from flashsale.core.reservation import RequestKind, Status
from flashsale.core.retention import EVERYTHING, Reach
from flashsale.core.sale import Mode
from flashsale.core.stock import Decided
from flashsale.ports import LedgerUnavailable

CHANCE = count(1)
SHARD_OF = {"vase": 1, "lamp": 0}


@pytest.fixture
async def both(tmp_path) -> AsyncIterator[Shop]:
    """Queued sales of vases and of lamps, each in a database of its own."""
    async with shop(shards, tmp_path) as it:
        for sku_id, sale_id in SALE_OF.items():
            await it.opens(a_sale(a_product(sku_id, 5), sale_id=sale_id, mode=Mode.QUEUED), units=100)
        yield it


def wants(it: Shop, user: str, sku_id: str) -> Request:
    sale_id = SALE_OF[sku_id]
    chance = next(CHANCE).to_bytes(6, "big")
    reservation_id = fresh_id(it.ledger.secret, user, OPENING_MS, chance, it.ledger.mark_of(sale_id))
    return Request((reservation_id,), user, sale_id, (Item(sku_id, 1),), OPENING_MS, RequestKind.SINGLE)


async def enqueued(it: Shop, request: Request) -> bool:
    taken_in: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    it.ledger.enqueue(request, taken_in.set_result)
    return await taken_in


async def waiting(it: Shop) -> list[Queued]:
    return await it.ledger.find(QueuedPage(Priority.NORMAL))


def away(it: Shop, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard takes nothing and answers nothing."""
    monkeypatch.setattr(it.ledger.shards[number], "_opened", None)


def a_letter(request: Request | None, message: bytes, partition: int = 0, place: int = 0) -> DeadLetter:
    ids = request.reservation_ids if request else ()
    return DeadLetter("dlq_1", OPENING_MS, "ledger", partition, place, message, "a fault", 3, ids)


async def test_the_id_of_a_queued_reservation_tells_its_shard(both):
    for sku_id, number in SHARD_OF.items():
        (reservation_id,) = wants(both, "ann", sku_id).reservation_ids
        assert shard_of(reservation_id) == number
        assert is_genuine(both.ledger.secret, reservation_id, "ann")


async def test_an_id_with_another_mark_is_not_genuine(both):
    (there,) = wants(both, "ann", "vase").reservation_ids
    (here,) = wants(both, "ann", "lamp").reservation_ids
    for forged in (there.removesuffix("s01"), there[:-1] + "2", here + "s00", here + "s01"):
        assert not is_genuine(both.ledger.secret, forged, "ann")


async def test_all_processes_seal_with_one_secret_also_where_another_database_decides(both, tmp_path):
    async with shop(shards, tmp_path) as other:
        assert other.ledger.secret == both.ledger.secret
    request = wants(both, "ann", "vase")
    await both.ledger.bury(a_letter(request, encode(request)), request)
    (row,) = (await both.ledger.redrive("dlq_1", request, "operator")).reservations
    assert is_genuine(both.ledger.secret, row.reservation_id, "ann")
    assert shard_of(row.reservation_id) == SHARD_OF["vase"]


async def test_whoever_hears_of_a_sale_can_give_out_ids_of_it(tmp_path):
    """Also the very first one, told by the process that makes the sale."""
    marks = {}
    async with shop(shards, tmp_path) as it:
        it.audience.sale_changed = lambda sale_id, sale: marks.setdefault(sale_id, it.ledger.mark_of(sale_id))
        for sku_id, sale_id in SALE_OF.items():
            await it.opens(a_sale(a_product(sku_id), sale_id=sale_id))
    assert marks == {SALE_OF[sku_id]: mark_of(number) for sku_id, number in SHARD_OF.items()}


async def test_a_request_waits_where_its_sale_is_and_its_decision_takes_its_own_row(both):
    """The rows of both databases have the same numbers."""
    asked = {sku_id: [wants(both, user, sku_id) for user in ("ann", "bob")] for sku_id in SALE_OF}
    for requests in zip(*asked.values(), strict=True):
        assert [await enqueued(both, each) for each in requests] == [True, True]
    page = {each.message: each for each in await waiting(both)}
    assert await both.ledger.find(QueueFigures()) == {"vases": 2, "sale": 2}
    for sku_id, (first, _) in asked.items():
        assert page[encode(first)].partition == SHARD_OF[sku_id]
    assert len({(each.partition, each.place) for each in page.values()}) == 4
    assert len({each.place for each in page.values()}) == 2
    for sku_id, (first, second) in asked.items():
        outcome = await both.asks(attempt_of(first, page[encode(first)].place))
        assert isinstance(outcome, Decided) and outcome.reservations[0].status is Status.RESERVED
        left = [each.message for each in await waiting(both) if each.partition == SHARD_OF[sku_id]]
        assert left == [encode(second)]
        assert await units_of(both, sku_id) == (99, 1, 0)


async def test_a_message_that_cannot_be_read_leaves_the_queue_that_it_is_in(both):
    for sku_id in SALE_OF:
        await enqueued(both, wants(both, "ann", sku_id))
    (there,) = [each for each in await waiting(both) if each.partition == 1]
    await both.ledger.bury(a_letter(None, there.message, 1, there.place), None, there.place)
    assert [each.partition for each in await waiting(both)] == [0]
    assert (await both.ledger.find(FindDeadLetter("dlq_1"))).partition == 1


async def test_giving_up_a_request_before_it_arrives_is_known_where_it_is_decided(both):
    for sku_id in SALE_OF:
        request = wants(both, "ann", sku_id)
        gone = await both.ledger.withdraw(request.reservation_ids[0], "ann")
        assert gone.status is Status.CANCELLED
        (row,) = (await both.asks(attempt_of(request))).reservations
        assert row.status is Status.CANCELLED
        assert await units_of(both, sku_id) == (100, 0, 0)


@pytest.mark.parametrize("gone", [0, 1])
async def test_while_a_database_is_away_the_queued_sales_of_the_other_go_on(both, gone, monkeypatch):
    """Also while it is the first: what its clients ask for elsewhere needs nothing of it."""
    here, there = sorted(SALE_OF, key=lambda sku_id: SHARD_OF[sku_id] == gone)
    lost, known = wants(both, "zoe", there), wants(both, "cid", here)
    await both.asks(attempt_of(known))
    away(both, gone, monkeypatch)
    request = wants(both, "ann", here)
    assert await enqueued(both, request)
    assert not await enqueued(both, lost)
    (found,) = await waiting(both)
    (row,) = (await both.asks(attempt_of(request, found.place))).reservations
    assert (row.status, await waiting(both)) == (Status.RESERVED, [])
    assert refusal_of(await both.asks(attempt_of(lost))) is Refusal.UNAVAILABLE
    assert (await both.ledger.withdraw(request.reservation_ids[0], "ann")).status is Status.CANCELLED
    await held(both, "bob", here)
    assert await both.ledger.find(StockOf("-health-")) == []
    ids = (known.reservation_ids[0], *lost.reservation_ids)
    (kept,) = await both.ledger.find(FindReservations(ids, whole=False))
    assert kept.status is Status.RESERVED
    with pytest.raises(LedgerUnavailable):
        await both.ledger.find(FindReservations(ids))


async def test_dead_letters_of_all_databases_are_one_list_and_are_redriven_where_they_are(both):
    for number, sku_id in enumerate(SALE_OF):
        request = wants(both, "ann", sku_id)
        letter = DeadLetter(f"dlq_{number}", OPENING_MS, "t", 7, 42, encode(request), "x", 3, request.reservation_ids)
        await both.ledger.bury(letter, request)
        await both.ledger.bury(letter, None)
    assert [each.letter_id for each in await both.ledger.find(DeadLetters())] == ["dlq_0", "dlq_1"]
    assert [each.letter_id for each in await both.ledger.find(DeadLetters("dlq_0"))] == ["dlq_1"]
    assert [each.letter_id for each in await both.ledger.find(DeadLetters(limit=1))] == ["dlq_0"]
    assert await both.ledger.find(DeadLetterCount()) == 2
    for number, sku_id in enumerate(SALE_OF):
        (row,) = (await both.ledger.redrive(f"dlq_{number}", wants(both, "ann", sku_id), "operator")).reservations
        assert row.status is Status.RESERVED
        assert await units_of(both, sku_id) == (99, 1, 0)
    assert await both.ledger.find(DeadLetterCount()) == 0


async def test_a_letter_in_another_database_than_its_sale_is_not_redriven_into_nothing(both):
    """It was unreadable when it was written down."""
    request = wants(both, "ann", "vase")
    await both.ledger.bury(a_letter(None, encode(request)), None)
    assert refusal_of(await both.ledger.redrive("dlq_1", request, "operator")) is Refusal.ILLEGAL_STATE
    assert refusal_of(await both.ledger.redrive("dlq_2", request, "operator")) is Refusal.NOT_FOUND


async def test_figures_of_a_database_that_is_away_stand_as_it_last_said_them(both, monkeypatch):
    for sku_id in SALE_OF:
        await enqueued(both, wants(both, "ann", sku_id))
    before = await both.ledger.find(QueueFigures()), await both.ledger.find(EventsWaiting("broker"))
    assert before[1].rows == 2
    away(both, 1, monkeypatch)
    assert (await both.ledger.find(QueueFigures()), await both.ledger.find(EventsWaiting("broker"))) == before


async def test_what_was_forgotten_is_told_of_each_database(both, tmp_path):
    """A cursor has missed something if one of the databases has forgotten what it would lead to."""
    urls = await databases_of(tmp_path)
    for sku_id in SALE_OF:
        await held(both, "ann", sku_id)
    rows = await both.ledger.find(EventsAfter(0, 1000))
    middle, last = rows[0][0], rows[-1][0]
    assert await both.ledger.find(MovedProducts(("", ""), 10)) == [("sale", "lamp"), ("vases", "vase")]
    history = PostgresHistory(urls[1])
    reach = Reach(EVERYTHING, 0, both.clock.now_ms() + 1)
    while await history.prune_movements(("vases", "vase"), reach):
        pass
    await history.close()
    assert await both.ledger.find(PrunedTo()) != 0
    assert await both.ledger.find(PrunedTo(middle)) != middle
    assert await both.ledger.find(PrunedTo(last)) == last
    rest = await both.ledger.find(PrunedTo(0))
    assert {row.sku_id for _, row in await both.ledger.find(EventsAfter(rest, 1000))} == {"lamp"}
    assert [each.sku_id for each in await both.ledger.find(BasesOf("vases"))] == ["vase"]
    passed, _ = await both.ledger.find(PruneReach(1, ()))
    assert passed >= last
