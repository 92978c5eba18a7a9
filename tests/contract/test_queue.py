"""What a queue promises to those who append, and to those who decide; asked of every backend."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import groupby

import pytest
from contract.queues import MADE, Made, a_request, append, by_product, nothing_comes, requests_of, take, take_all

from flashsale.core.request import BATCH_MAX, HIGH_TURNS, Priority, encode
from flashsale.core.turns import SLICE_BATCH_MAX


@pytest.fixture(params=sorted(MADE))
async def made(request: pytest.FixtureRequest) -> AsyncIterator[Made]:
    made = MADE[request.param]()
    yield made
    await made.close()


# -- What goes in comes out.


async def test_what_has_been_acknowledged_is_delivered_as_it_was_put_in(made):
    requests = [a_request(1), a_request(2, "lamp", "chair", priority=Priority.HIGH)]
    queue, deliveries = await made.queue(), await made.deliveries()
    assert await append(queue, *requests) == [True, True]
    came = await take_all(deliveries, 2)
    assert sorted(map(encode, came)) == sorted(map(encode, requests))


async def test_every_append_is_answered_once(made):
    queue, answers = await made.queue(), Counter()
    for number in range(1_000):
        queue.append(a_request(number), lambda taken, number=number: answers.update([(number, taken)]))
    await queue.close()
    assert answers == Counter((number, True) for number in range(1_000))


async def test_requests_of_a_product_come_in_the_order_in_which_they_were_appended(made):
    products = [f"sku-{number}" for number in range(10)]
    requests = [a_request(number, products[number % 10]) for number in range(2_000)]
    queue, deliveries = await made.queue(), await made.deliveries()
    assert all(await append(queue, *requests))
    assert by_product(await take_all(deliveries, 2_000)) == by_product(requests)


async def test_a_cart_waits_in_the_line_of_its_lowest_sku(made):
    requests = [a_request(1, "b"), a_request(2, "c", "b"), a_request(3, "b", "z")]
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, *requests)
    assert await take_all(deliveries, 3) == requests


async def test_whoever_gives_up_taking_loses_nothing(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    taking = asyncio.ensure_future(deliveries.take())
    assert not (await asyncio.wait({taking}, timeout=0.1))[0]
    taking.cancel()
    await append(queue, a_request(1))
    assert await take_all(deliveries, 1) == [a_request(1)]


# -- Batches.


async def test_the_next_batch_of_a_slice_comes_when_the_last_one_is_done(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, a_request(1))
    first = await take(deliveries)
    await append(queue, a_request(2))
    assert await nothing_comes(deliveries)
    deliveries.done(first)
    assert requests_of(await take(deliveries)) == [a_request(2)]


async def test_slices_are_in_work_at_the_same_time(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number, f"sku-{number}") for number in range(50)))
    first, second = await take(deliveries), await take(deliveries)
    assert first.slice_name != second.slice_name


async def test_a_batch_has_at_most_250_requests_of_a_product(made):
    queue = await made.queue()
    await append(queue, *(a_request(number) for number in range(1_000)))
    deliveries, came = await made.deliveries(), 0
    while came < 1_000:
        batch = await take(deliveries)
        came += len(batch.deliveries)
        assert len(batch.deliveries) <= BATCH_MAX
        deliveries.done(batch)


async def test_a_batch_has_at_most_500_requests_of_all_products(made):
    queue = await made.queue()
    await append(queue, *(a_request(number, f"sku-{number % 40}") for number in range(4_000)))
    deliveries, came = await made.deliveries(), 0
    while came < 4_000:
        batch = await take(deliveries)
        came += len(batch.deliveries)
        assert len(batch.deliveries) <= SLICE_BATCH_MAX
        deliveries.done(batch)


async def test_a_crowd_larger_than_all_bounds_comes_whole_and_in_order(made):
    """More than a consumer keeps in memory: it stops fetching and goes on, without a gap and without a repetition."""
    requests = [a_request(number) for number in range(5_000)]
    queue, deliveries = await made.queue(), await made.deliveries()
    assert all(await append(queue, *requests))
    assert await take_all(deliveries, 5_000) == requests


# -- Priority.


async def test_high_priority_goes_first_with_at_most_4_before_each_of_normal_priority_that_waits(made):
    queue = await made.queue()
    await append(queue, *(a_request(number) for number in range(200)))
    await append(queue, *(a_request(number, priority=Priority.HIGH) for number in range(200, 600)))
    came = [request.priority for request in await take_all(await made.deliveries(), 600)]
    runs = [(priority, len(list(run))) for priority, run in groupby(came)]
    turns = [(Priority.HIGH, HIGH_TURNS), (Priority.NORMAL, 1)] * 99
    assert runs == [*turns, (Priority.HIGH, HIGH_TURNS), (Priority.NORMAL, 101)]


async def test_requests_of_one_priority_keep_their_order(made):
    queue = await made.queue()
    requests = [a_request(number, priority=list(Priority)[number % 3 == 0]) for number in range(900)]
    await append(queue, *requests)
    came = await take_all(await made.deliveries(), 900)
    for priority in Priority:
        assert [each for each in came if each.priority is priority] == [
            each for each in requests if each.priority is priority
        ]


# -- What is done, and what is not.


async def test_a_batch_that_was_not_done_comes_again_to_the_next_consumer(made):
    queue, first = await made.queue(), await made.deliveries()
    await append(queue, a_request(1), a_request(2))
    taken = requests_of(await take(first))
    await first.close()
    assert taken == (await take_all(await made.deliveries(), 2))[: len(taken)]


async def test_what_is_done_does_not_come_again(made):
    queue, first = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number, f"sku-{number % 7}") for number in range(700)))
    await take_all(first, 700)
    await first.close()
    await append(queue, a_request(700))
    assert await take_all(await made.deliveries(), 1) == [a_request(700)]


async def test_two_consumers_share_the_slices_and_a_product_has_one_of_them(made):
    queue, one, two = await made.queue(), await made.deliveries(), await made.deliveries()
    keepers: dict[str, set[int]] = {}
    taken = Counter()

    async def decide(number: int, deliveries) -> None:
        while True:
            batch = await deliveries.take()
            for request in requests_of(batch):
                keepers.setdefault(request.slice_key, set()).add(number)
                taken.update([number])
            deliveries.done(batch)

    deciding = [asyncio.create_task(decide(*each)) for each in enumerate((one, two))]
    async with asyncio.timeout(30):
        while len(taken) < 2:  # until both have their share
            await append(queue, *(a_request(number, f"sku-{number}") for number in range(50)))
        keepers.clear()
        for _ in range(20):
            await append(queue, *(a_request(number, f"sku-{number}") for number in range(50)))
            await append(queue, *(a_request(number, f"sku-{number}", priority=Priority.HIGH) for number in range(50)))
    for each in deciding:
        each.cancel()
    await asyncio.gather(*deciding, return_exceptions=True)
    assert {len(each) for each in keepers.values()} == {1}
    assert set.union(*keepers.values()) == {0, 1}
