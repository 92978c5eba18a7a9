"""What leases and the pages of events promise to those who pass events on; asked of every ledger."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import asyncpg
import pytest
from contract.ledgers import DATABASES, HandClock, Shop, database_of, leases_of, postgres, shop
from core.shop import a_product, a_sale, an_attempt
from msgspec.structs import replace

from flashsale.core.catalogue import Restock
from flashsale.core.event import Event, Told, Topic, published
from flashsale.core.journal import Kind, Movement
from flashsale.core.letter import DeadLetter
from flashsale.core.questions import EventsAfter
from flashsale.core.request import Item, Request, encode
from flashsale.ports import Leases
from flashsale.tracing import TRACE_ID

LEASE_MS = 2_000


@contextmanager
def in_trace(trace_id: str) -> Iterator[None]:
    before = TRACE_ID.set(trace_id)
    yield
    TRACE_ID.reset(before)


class Post(NamedTuple):
    """A shop and the leases of its ledger."""

    shop: Shop
    leases: Leases

    async def page(self, after: int = 0, limit: int = 1000, topic: Topic | None = None) -> list[tuple[int, Told]]:
        return await self.shop.ledger.find(EventsAfter(after, limit, topic))

    async def everything(self, limit: int = 1000, topic: Topic | None = None) -> list[Told]:
        """Read page by page, each after the last cursor of the one before."""
        told: list[Told] = []
        after = 0
        while page := await self.page(after, limit, topic):
            told += [row for _, row in page]
            after = page[-1][0]
        return told


@pytest.fixture(params=DATABASES)
def opening(request):
    return request.param


@pytest.fixture
async def post(opening, tmp_path) -> AsyncIterator[Post]:
    clock = HandClock()
    async with shop(opening, tmp_path, clock) as it, leases_of(it.ledger, tmp_path, clock) as leases:
        yield Post(it, leases)


# -- A relay has one owner at a time, under a lease.


async def test_a_relay_that_nobody_has_run_yet_begins_before_the_first_row(post):
    assert await post.leases.lease("broker", "ann", LEASE_MS) == 0


async def test_of_two_owners_one_holds_the_relay_and_the_other_gets_none(post):
    owners = [f"owner-{number}" for number in range(10)]
    cursors = await asyncio.gather(*(post.leases.lease("broker", owner, LEASE_MS) for owner in owners))
    assert sorted(cursors, key=str) == [0] + [None] * 9


async def test_an_owner_prolongs_his_lease(post):
    for _ in range(3):
        assert await post.leases.lease("broker", "ann", LEASE_MS) == 0
        post.shop.clock.pass_ms(LEASE_MS - 1)
        assert await post.leases.lease("broker", "bob", LEASE_MS) is None


async def test_a_lease_that_has_run_out_is_taken_over_where_its_owner_had_got_to(post):
    await post.leases.lease("broker", "ann", LEASE_MS)
    await post.leases.advance("broker", "ann", 7)
    post.shop.clock.pass_ms(LEASE_MS)
    assert await post.leases.lease("broker", "bob", LEASE_MS) == 7
    assert await post.leases.lease("broker", "ann", LEASE_MS) is None


async def test_a_lost_lease_cannot_advance(post):
    await post.leases.lease("broker", "ann", LEASE_MS)
    post.shop.clock.pass_ms(LEASE_MS)
    await post.leases.lease("broker", "bob", LEASE_MS)
    assert await post.leases.advance("broker", "ann", 9) is False
    assert await post.leases.lease("broker", "bob", LEASE_MS) == 0


async def test_nobody_advances_a_relay_that_he_never_had(post):
    assert await post.leases.advance("broker", "ann", 9) is False
    assert await post.leases.lease("broker", "ann", LEASE_MS) == 0


async def test_a_cursor_never_goes_back(post):
    await post.leases.lease("broker", "ann", LEASE_MS)
    assert await post.leases.advance("broker", "ann", 9) is True
    assert await post.leases.advance("broker", "ann", 8) is False
    assert await post.leases.lease("broker", "ann", LEASE_MS) == 9


async def test_a_relay_that_is_given_back_is_anybodys_at_once(post):
    await post.leases.lease("broker", "ann", LEASE_MS)
    await post.leases.lease("broker", "ann", 0)
    assert await post.leases.lease("broker", "bob", LEASE_MS) == 0


async def test_relays_know_nothing_of_each_other(post):
    await post.leases.lease("broker", "ann", LEASE_MS)
    await post.leases.advance("broker", "ann", 9)
    assert await post.leases.lease("archive", "bob", LEASE_MS) == 0


async def test_a_cursor_is_there_when_the_ledger_is_opened_again(opening, tmp_path):
    clock = HandClock()
    async with shop(opening, tmp_path, clock) as it, leases_of(it.ledger, tmp_path, clock) as leases:
        await leases.lease("broker", "ann", LEASE_MS)
        await leases.advance("broker", "ann", 9)
    clock.pass_ms(LEASE_MS)
    async with shop(opening, tmp_path, clock) as it, leases_of(it.ledger, tmp_path, clock) as leases:
        assert await leases.lease("broker", "bob", LEASE_MS) == 9


# -- Everything is told once, in commit order.


async def test_every_movement_and_every_order_event_is_told_in_the_order_of_its_commit(post):
    await post.shop.opens(units=3)
    await post.shop.paid("ann")
    await post.shop.ledger.change_sale(Restock("sale", "lamp", 5, "more", "operator"))
    (held,) = await post.shop.held("bob")
    await post.shop.ledger.release(held.reservation_id, None)
    told = [event.type for row in await post.everything() for event in published(row)]
    assert told == [
        "stock.opened",
        "reservation.reserved", "stock.held",
        "order.created",
        "reservation.confirmed", "stock.sold",
        "order.paid",
        "stock.restocked",
        "reservation.reserved", "stock.held",
        "reservation.cancelled", "stock.released",
    ]  # fmt: skip


async def test_what_a_request_causes_has_its_trace_and_what_nobody_asked_for_has_none(post):
    shop = post.shop
    with in_trace("a"):
        await shop.opens()
    granted = await shop.asks(replace(an_attempt("ann"), trace_id="b"))
    both = [shop.asks(replace(an_attempt(user), trace_id=trace)) for user, trace in (("bob", "c"), ("cid", None))]
    held, _ = [(await outcome).reservations[0] for outcome in both]
    with in_trace("d"):
        opened = await shop.open_order(granted.reservations[0].reservation_id)
    with in_trace("e"):
        await shop.ledger.cancel_order(opened.order.order_id, None, "")
    with in_trace("f"):
        await shop.ledger.release(held.reservation_id, None)
    shop.clock.pass_ms(10**9)
    await shop.ledger.expire()
    told = [(row.kind if isinstance(row, Movement) else row.type, row.trace_id) for row in await post.everything()]
    assert Counter(told) == Counter([
        ("STOCK", "a"), ("RESERVE", "b"), ("RESERVE", "c"), ("RESERVE", None), ("order.created", "d"),
        ("RELEASE", "e"), ("order.cancelled", "e"), ("RELEASE", "f"), ("EXPIRE", None),
    ])  # fmt: skip


async def test_what_a_dead_letter_becomes_has_the_trace_of_whoever_redrives_it(post):
    await post.shop.opens()
    waiting = Request(("res_dead",), "ann", "sale", (Item("lamp", 1),), 1, trace_id="a" * 32)
    letter = DeadLetter("dlq_1", 0, "flashsale.requests", 0, 0, encode(waiting), "as if", 3, waiting.reservation_ids)
    await post.shop.ledger.bury(letter, waiting)
    with in_trace("b" * 32):
        await post.shop.ledger.redrive("dlq_1", waiting, "operator")
    told = [(row.kind if isinstance(row, Movement) else row.type, row.trace_id) for row in await post.everything()]
    assert told[1:] == [("reservation.rejected", "a" * 32), ("request.dead", "a" * 32), ("RESERVE", "b" * 32)]


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_pages_of_any_size_tell_the_same_and_nothing_twice(post, limit):
    await crowd(post.shop)
    told = await post.everything(limit)
    assert told == await post.everything()
    ids = [event.id for row in told for event in published(row)]
    assert len(ids) == len(set(ids))
    gapless(told)


async def test_a_topic_tells_its_own_rows_only(post):
    await crowd(post.shop)
    everything = [event for row in await post.everything() for event in published(row)]
    for topic in Topic:
        rows = await post.everything(7, topic)
        assert [each for row in rows for each in published(row) if each.topic is topic] == [
            each for each in everything if each.topic is topic
        ]
    assert all(isinstance(row, Event) for row in await post.everything(topic=Topic.ORDERS))
    assert all(row.reservation_id for row in await post.everything(topic=Topic.RESERVATIONS))


async def test_a_reader_who_keeps_up_with_a_crowd_misses_nothing(post):
    """He reads while batches commit, and never goes back."""
    reading = asyncio.ensure_future(kept_up(post))
    await crowd(post.shop)
    await post.shop.ledger.change_sale(Restock("sale", "lamp", 1, "the end", "operator"))
    read = await asyncio.wait_for(reading, 20)
    assert read == await post.everything()
    gapless(read)


async def kept_up(post: Post) -> list[Told]:
    read: list[Told] = []
    after = 0
    while not (read and getattr(read[-1], "reason", "") == "the end"):
        page = await post.page(after, 50)
        read += [row for _, row in page]
        after = page[-1][0] if page else after
        await asyncio.sleep(0)
    return read


async def crowd(it: Shop) -> None:
    await it.opens(a_sale(a_product("lamp"), a_product("bulb")), units=100)
    wishes = [an_attempt(f"user-{number}", (("lamp", "bulb")[number % 2], 1)) for number in range(60)]
    granted = await asyncio.gather(*(it.asks(each) for each in wishes))
    held = [outcome.reservations[0].reservation_id for outcome in granted]
    await asyncio.gather(*(it.ledger.release(each, None) for each in held[:20]))
    await asyncio.gather(*(it.open_order(each, transaction=f"tx-{each}") for each in held[20:30]))


def gapless(told: list[Told]) -> None:
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for row in told:
        if isinstance(row, Movement):
            numbers[row.sku_id].append(row.sku_seq)
        else:
            numbers[row.subject].append(row.sequence)
    assert numbers and all(each == list(range(1, len(each) + 1)) for each in numbers.values())


# -- Nothing that is committed late is skipped. (One writer commits in order; of several, one may be slow.)


async def test_a_page_stops_before_the_oldest_transaction_under_way(tmp_path):
    clock = HandClock()
    async with shop(postgres, tmp_path, clock) as it, leases_of(it.ledger, tmp_path, clock) as leases:
        post = Post(it, leases)
        await it.opens(units=5)
        before = await post.everything()
        slow = await asyncpg.connect(await database_of(tmp_path))
        try:
            transaction = slow.transaction()
            await transaction.start()
            await slow.execute(LATE_ROW, 99, Kind.ADJUST)
            await it.paid("ann")
            assert await post.everything() == before, "what committed later must not be shown before it"
            await transaction.commit()
        finally:
            await slow.close()
        told = await post.everything()
        assert [row.actor for row in told if isinstance(row, Movement)][: len(before) + 1] == ["operator", "slow"]
        assert [row.type for row in told if isinstance(row, Event)] == ["order.created", "order.paid"]


LATE_ROW = """
INSERT INTO journal
VALUES ((pg_current_xact_id()::text::bigint << 20) + 1, 'sale', 'vase', $1, $2, 1, 1, 1, 1, NULL, 'slow', '', 1)"""
