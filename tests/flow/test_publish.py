"""Publishing with a broker and a clock in the hand: at least once, in order, one process at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest
from contract.ledgers import HandClock, Shop, leases_of, shop, sqlite
from structlog.testing import capture_logs

from flashsale.core.event import Published
from flashsale.flow import lease
from flashsale.flow.lease import ASK_MS, LEASE_MS, Lease
from flashsale.flow.publish import LEASE, PAGE, REST_MS, TICK_SECONDS, Publishing
from flashsale.ports import BrokerUnavailable, Leases, LedgerUnavailable, Message


class Wire:
    """A broker that remembers what it has acknowledged; it can be taken away, or cut in the middle of a page."""

    def __init__(self) -> None:
        self.arrived: list[Message] = []
        self.away = False
        self.cut_after: int | None = None
        self.tries = 0
        self.asked = asyncio.Event()
        self.slow: asyncio.Event | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        self.tries += 1
        self.asked.set()
        if self.slow is not None:
            await self.slow.wait()
        if self.away:
            raise BrokerUnavailable("nobody listens")
        self.arrived += messages[: self.cut_after]
        if self.cut_after is not None:
            raise BrokerUnavailable("the line was cut")

    async def close(self) -> None:
        pass

    @property
    def events(self) -> list[Published]:
        return [msgspec.json.decode(message.value, type=Published) for message in self.arrived]

    @property
    def news(self) -> list[str]:
        """The ids in the order in which each came first: what a consumer sees that drops what it knows."""
        return list(dict.fromkeys(event.id for event in self.events))


class Post:
    """A shop whose events go out over a wire, published by any number of processes."""

    def __init__(self, it: Shop, leases: Leases) -> None:
        self.shop = it
        self.leases = leases
        self.wire = Wire()

    def publisher(self, owner: str = "ann", leases: Leases | None = None) -> Publishing:
        lease = Lease(leases or self.leases, LEASE, owner, self.shop.clock)
        return Publishing(self.shop.ledger, lease, self.wire, self.shop.clock)

    async def sells(self, number: int, first: int = 0) -> None:
        await asyncio.gather(*(self.shop.held(f"user-{first + each}") for each in range(number)))

    def all_arrived(self, units_sold: int) -> bool:
        """One event opens the stock, two tell each reservation: each of them once, in order, without a gap."""
        numbers = [event.sku_seq for event in self.wire.events if event.topic == "flashsale.inventory"]
        return numbers == list(range(1, units_sold + 2)) and len(self.wire.events) == 2 * units_sold + 1


@pytest.fixture
async def post(tmp_path) -> AsyncIterator[Post]:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(shop(sqlite, tmp_path, HandClock()))
        await it.opens(units=5_000)
        yield Post(it, await stack.enter_async_context(leases_of(it.ledger, tmp_path, it.clock)))


async def test_everything_there_is_goes_out_once_page_by_page(post):
    await post.sells(2 * PAGE)
    publisher = post.publisher()
    assert await publisher.publish() == 2 * PAGE + 1
    assert await publisher.publish() == 0
    assert post.all_arrived(2 * PAGE)
    assert post.wire.tries == 3


async def test_a_message_has_its_events_topic_key_and_json(post):
    await post.sells(1)
    await post.publisher().publish()
    for message, event in zip(post.wire.arrived, post.wire.events, strict=True):
        assert (message.topic, message.key) == (event.topic, event.key)
    assert {message.key for message in post.wire.arrived} == {"lamp"}


async def test_one_process_publishes_and_the_other_looks_on(post):
    await post.sells(3)
    ann, bob = post.publisher("ann"), post.publisher("bob")
    assert [await ann.publish(), await bob.publish()] == [4, 0]
    await post.sells(3, first=3)
    assert [await bob.publish(), await ann.publish()] == [0, 3]
    assert post.all_arrived(6)


async def test_when_a_publisher_dies_another_goes_on_within_three_seconds(post):
    ann, bob = post.publisher("ann"), post.publisher("bob")
    await ann.publish()
    await bob.publish()
    await post.sells(3)
    waited_ms, tick_ms = 0, int(TICK_SECONDS * 1000)
    while not await bob.publish():
        post.shop.clock.pass_ms(tick_ms)
        waited_ms += tick_ms
    assert waited_ms <= LEASE_MS + ASK_MS + tick_ms < 3_000
    assert post.all_arrived(3)


async def test_a_publisher_that_leaves_in_good_order_is_followed_at_once(post):
    held, bob = Lease(post.leases, LEASE, "ann", post.shop.clock), post.publisher("bob")
    await Publishing(post.shop.ledger, held, post.wire, post.shop.clock).publish()
    await held.close()
    await post.sells(1)
    assert await bob.publish() == 1


async def test_a_publisher_that_was_only_slow_repeats_at_most_a_page_and_leaves_the_relay_to_its_successor(post):
    await post.sells(3)
    ann, bob = post.publisher("ann"), post.publisher("bob")
    post.wire.slow = asyncio.Event()
    slow = asyncio.ensure_future(ann.publish())
    await post.wire.asked.wait()
    post.shop.clock.pass_ms(LEASE_MS)
    quick, post.wire.slow = post.wire.slow, None
    assert await bob.publish() == 4
    quick.set()
    await slow
    await post.sells(1, first=3)
    assert [await ann.publish(), await bob.publish()] == [0, 1]
    assert len(post.wire.news) == 2 * 4 + 1 and len(post.wire.events) == 2 * 4 + 1 + 2 * 3 + 1


async def test_while_a_page_is_under_way_its_lease_is_prolonged(post, monkeypatch):
    monkeypatch.setattr(lease, "PROLONG_MS", 1)
    await post.sells(1)
    leases = Counted(post.leases)
    post.wire.slow = asyncio.Event()
    slow = asyncio.ensure_future(post.publisher(leases=leases).publish())
    await asyncio.wait_for(leases.three.wait(), 5)
    post.wire.slow.set()
    assert await slow == 2


class Counted:
    """Leases that count how often they are asked for one."""

    def __init__(self, leases: Leases) -> None:
        self.advance = leases.advance
        self.three = asyncio.Event()
        self._leases = leases
        self._count = 0

    async def lease(self, relay: str, owner: str, lease_ms: int) -> int | None:
        self._count += 1
        if self._count == 3:
            self.three.set()
        return await self._leases.lease(relay, owner, lease_ms)


# -- The broker goes and comes.


async def test_while_the_broker_is_away_sales_go_on_and_afterwards_everything_arrives_in_order(post):
    publisher = post.publisher()
    post.wire.away = True
    for number in range(5):
        await post.sells(10, first=10 * number)
        assert await publisher.publish() == 0
        post.shop.clock.pass_ms(REST_MS[-1])
    assert publisher.trouble == "nobody listens"
    post.wire.away = False
    assert await publisher.publish() == 51
    assert publisher.trouble is None
    assert post.all_arrived(50)


async def test_that_the_broker_is_away_is_said_once_and_that_it_is_back_too(post):
    publisher = post.publisher()
    await post.sells(1)
    with capture_logs() as logs:
        for away in (True, True, True, False, False):
            post.wire.away = away
            await publisher.publish()
            post.shop.clock.pass_ms(REST_MS[-1])
    assert [entry["event"] for entry in logs] == ["the broker is away", "the broker is back"]


async def test_a_broker_that_is_away_is_asked_less_and_less_often(post):
    publisher = post.publisher()
    await post.sells(1)
    post.wire.away = True
    for rest_ms in (*REST_MS, REST_MS[-1]):
        before = post.wire.tries
        await publisher.publish()
        post.shop.clock.pass_ms(rest_ms - 1)
        await publisher.publish()
        assert post.wire.tries == before + 1
        post.shop.clock.pass_ms(1)


async def test_the_relay_is_kept_while_the_broker_is_away(post):
    ann, bob = post.publisher("ann"), post.publisher("bob")
    await post.sells(1)
    post.wire.away = True
    for _ in range(40):
        await ann.publish()
        await bob.publish()
        post.shop.clock.pass_ms(int(TICK_SECONDS * 1000))
    assert (ann.trouble, bob.trouble) == ("nobody listens", None)


async def test_a_page_that_was_cut_is_told_again_and_nothing_new_comes_before_what_is_older(post):
    await post.sells(20)
    publisher = post.publisher()
    for cut_after in (7, 19):
        post.wire.cut_after = cut_after
        assert await publisher.publish() == 0
        post.shop.clock.pass_ms(REST_MS[-1])
    post.wire.cut_after = None
    await publisher.publish()
    assert len(post.wire.events) == 7 + 19 + 41
    assert post.wire.news == [event.id for event in post.wire.events[-41:]]


async def test_what_was_acknowledged_before_a_crash_is_told_again_and_nothing_is_left_out(post):
    class Crash(Exception):
        pass

    class Crashing(Counted):
        async def advance(self, relay: str, owner: str, cursor: int) -> bool:
            raise Crash

    await post.sells(5)
    crashing = Crashing(post.leases)
    crashing.advance = Crashing.advance.__get__(crashing)
    with pytest.raises(Crash):
        await post.publisher("ann", crashing).publish()
    post.shop.clock.pass_ms(LEASE_MS)
    assert await post.publisher("bob").publish() == 6
    assert len(post.wire.events) == 22 and len(post.wire.news) == 11


async def test_a_ledger_that_closes_in_the_middle_of_a_page_ends_its_publication(post, monkeypatch):
    monkeypatch.setattr(lease, "PROLONG_MS", 1)
    await post.sells(1)
    post.wire.slow = asyncio.Event()
    slow = asyncio.ensure_future(post.publisher().publish())
    await post.wire.asked.wait()
    await post.shop.ledger.close()
    with pytest.raises(LedgerUnavailable):
        await slow
