"""The queue on Kafka when brokers and consumers die, and while slices change hands. A real broker, real processes."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from backends.queue_consumer import ConsumerProcess
from confluent_kafka import Consumer, KafkaError, TopicPartition
from contract.queues import SLICES, KafkaMade, a_request, append, by_product, requests_of, take, take_all, until
from servers.kafka import KafkaServer
from servers.process import running
from structlog.testing import capture_logs

from flashsale.backends.kafka import Connection, KafkaDeliveries, KafkaQueue, Plan
from flashsale.backends.kafka.queue import ACKNOWLEDGED_MS, PROBES
from flashsale.core.request import Priority, Request, decode
from flashsale.ports import Batch, BrokerUnavailable

NOBODY = Connection("kafka://127.0.0.1:9")
TAKEOVER_SECONDS = 3.0
AWAY_SECONDS = 10.0


@pytest.fixture
async def made() -> AsyncIterator[KafkaMade]:
    made = KafkaMade()
    yield made
    await made.close()


@pytest.fixture
def mortal() -> Iterator[KafkaServer]:
    with running(KafkaServer()) as server:
        yield server


def committed(made: KafkaMade) -> dict[tuple[str, int], int]:
    """How far the group is done."""
    names = made.plan.names
    places = [TopicPartition(topic, part) for topic in (names.normal, names.high) for part in range(SLICES)]
    consumer = Consumer({"bootstrap.servers": made.servers, "group.id": names.group, "log_level": 0})
    found = {(each.topic, each.partition): each.offset for each in consumer.committed(places, timeout=10)}
    consumer.close()
    return {place: offset for place, offset in found.items() if offset >= 0}


def positions_of(*batches: Batch) -> dict[tuple[str, int], int]:
    return {(at.topic, at.partition): at.offset + 1 for batch in batches for at, _ in batch.deliveries}


# -- Appending.


async def test_both_topics_put_a_product_into_the_partition_of_the_same_number(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    for priority in Priority:
        await append(queue, *(a_request(number, f"sku-{number}", priority=priority) for number in range(60)))
    parts: dict[str, set[tuple[str, int]]] = {}
    while sum(len(each) for each in parts.values()) < 120:
        batch = await take(deliveries)
        for at, message in batch.deliveries:
            parts.setdefault(decode(message).slice_key, set()).add((at.topic, at.partition))
        deliveries.done(batch)
    assert all(len(each) == 2 and len({number for _, number in each}) == 1 for each in parts.values())
    assert len({number for each in parts.values() for _, number in each}) == SLICES


async def test_before_its_broker_has_answered_a_queue_takes_nothing_and_says_so():
    queue = KafkaQueue(NOBODY, Plan())
    assert await append(queue, a_request(1)) == [False]
    await until(lambda: "127.0.0.1:9" in (queue.trouble or ""))
    await queue.close()


async def test_a_request_too_large_for_the_broker_is_answered_false_and_the_next_is_taken(made):
    queue = await made.queue()
    large = Request(("r",), "u" * 2_000_000, "s", a_request(1).items, 1)
    assert await append(queue, large) == [False]
    assert await append(queue, a_request(1)) == [True]


async def test_whoever_fails_to_take_his_answer_keeps_nobody_elses(made):
    queue = await made.queue()

    def fail(_: bool) -> None:
        raise RuntimeError("as if")

    queue.append(a_request(1), fail)
    with capture_logs() as logs:
        assert await append(queue, a_request(2)) == [True]
        assert await append(queue, a_request(3)) == [True]
    assert [each["event"] for each in logs] == ["an answer could not be delivered"]


async def test_a_producer_that_has_lost_count_is_replaced(made):
    """The library calls such an error fatal: that producer refuses everything from then on."""
    queue = await made.queue()
    broken = queue._line
    broken._hear(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "as if", True))
    assert queue._line is not broken
    assert await append(queue, a_request(1)) == [True]


async def test_what_is_acknowledged_is_delivered_although_the_broker_is_killed_meanwhile(mortal):
    made = KafkaMade(mortal.servers)
    queue, acknowledged = await made.queue(), []
    number, killing = 0, None
    while killing is None or not killing.done() or len(acknowledged) <= 1_000:
        requests = [a_request(number + each, f"sku-{each % 8}") for each in range(200)]
        answers = await append(queue, *requests)
        acknowledged += [request for request, taken in zip(requests, answers, strict=True) if taken]
        number += 200
        if killing is None and all(answers):
            killing = asyncio.create_task(killed_and_started(mortal))
        await asyncio.sleep(0.01)
    await killing
    await until(lambda: queue.trouble is None)
    deliveries = await made.deliveries()
    last = a_request(number)
    assert await append(queue, last) == [True]
    missing = {request.reservation_ids for request in [*acknowledged, last]}
    while missing:
        batch = await take(deliveries)
        missing -= {request.reservation_ids for request in requests_of(batch)}
        deliveries.done(batch)
    await made.close()


async def killed_and_started(server: KafkaServer) -> None:
    for _ in range(2):
        await asyncio.sleep(1)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        await asyncio.sleep(1)


async def test_a_broker_that_is_away_for_ten_seconds_costs_nothing_that_was_acknowledged(mortal):
    made = KafkaMade(mortal.servers)
    queue, deliveries = await made.queue(), await made.deliveries()
    before, after = a_request(1), a_request(2)
    await append(queue, before)
    assert await take_all(deliveries, 1) == [before]
    await asyncio.to_thread(mortal.kill)
    began = gone_at = time.monotonic()
    assert not any(await append(queue, *(a_request(number) for number in range(100, 300))))
    assert time.monotonic() - began < ACKNOWLEDGED_MS / 1000 + 0.5
    began = time.monotonic()
    assert not any(await append_more_than_probes(queue))
    assert time.monotonic() - began < 1
    await until(lambda: deliveries.trouble is not None)
    assert queue.trouble is not None
    await until(lambda: time.monotonic() > gone_at + AWAY_SECONDS)
    await asyncio.to_thread(mortal.start)
    await until(lambda: appended(queue, after))
    assert queue.trouble is None
    while after not in requests_of(batch := await take(deliveries)):
        deliveries.done(batch)
    await until(lambda: deliveries.trouble is None)
    await made.close()


async def test_a_broker_that_hangs_is_waited_for_five_seconds_by_those_who_append_and_those_who_close(mortal):
    made = KafkaMade(mortal.servers)
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, a_request(1))
    batch = await take(deliveries)
    mortal.freeze()
    deliveries.done(batch)
    began = time.monotonic()
    assert await append(queue, a_request(2)) == [False]
    assert time.monotonic() - began < ACKNOWLEDGED_MS / 1000 + 0.5
    began = time.monotonic()
    await made.close()
    assert time.monotonic() - began < 2 * ACKNOWLEDGED_MS / 1000 + 1
    mortal.thaw()


async def appended(queue: KafkaQueue, request: Request) -> bool:
    return all(await append(queue, request))


async def append_more_than_probes(queue: KafkaQueue) -> list[bool]:
    """The answers of those that are not let through to the broker: they come at once."""
    answers: list[bool] = []
    for number in range(1_000, 1_200 + PROBES):
        queue.append(a_request(number), answers.append)
    await until(lambda: len(answers) >= 200)
    return answers


# -- Committing.


async def test_nothing_is_committed_before_it_is_done_and_soon_after_it_is(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number) for number in range(300)))
    first = await take(deliveries)
    assert committed(made) == {}
    deliveries.done(first)
    await until(lambda: committed(made) == positions_of(first), 5)


async def test_what_is_done_is_committed_when_its_consumer_closes(made):
    queue, deliveries = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number, f"sku-{number % 9}") for number in range(90)))
    batches: list[Batch] = []
    while sum(len(each.deliveries) for each in batches) < 90:
        batches.append(await take(deliveries))
        deliveries.done(batches[-1])
    await deliveries.close()
    assert committed(made) == positions_of(*batches)


async def test_whoever_takes_from_a_queue_that_is_closed_is_told(made, monkeypatch):
    deliveries = await made.deliveries()
    rings = deliveries._ring

    def ring_and_linger() -> None:
        rings()
        time.sleep(0.1)  # the thread is not gone yet when it is heard

    monkeypatch.setattr(deliveries, "_ring", ring_and_linger)
    taking = asyncio.ensure_future(deliveries.take())
    await asyncio.sleep(0)
    await deliveries.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        await asyncio.wait_for(taking, 5)


# -- Consumers that die, stop and come.


async def test_a_killed_consumers_slices_go_on_within_three_seconds_with_what_it_had_in_work(made):
    queue = await made.queue()
    with ConsumerProcess(made, hold=True) as victim:
        await append(queue, *(a_request(number) for number in range(10)))
        await asyncio.to_thread(victim.batch)
        successor = await made.deliveries()
        await until(lambda: 0 < len(successor._slices._slices) < SLICES)
        await append(queue, *(a_request(number, f"sku-{number}") for number in range(100)))
        held = {each["slice"] for each in await asyncio.to_thread(some, victim)}
        victim.kill()
        killed_at = time.monotonic()
        while held:
            batch = await take(successor)
            held.discard(batch.slice_name)
            successor.done(batch)
        assert 0.5 < time.monotonic() - killed_at < TAKEOVER_SECONDS


def some(consumer: ConsumerProcess) -> list[dict]:
    return [consumer.batch(), *consumer.rest()]


async def test_a_consumer_that_was_stopped_past_its_session_and_wakes_rewinds_nothing(made):
    queue = await made.queue()
    with ConsumerProcess(made, hold=True) as sleeper:
        await append(queue, *(a_request(number, f"sku-{number}") for number in range(40)))
        await asyncio.to_thread(some, sleeper)
        sleeper.signal(signal.SIGSTOP)
        successor = await made.deliveries()
        assert len(await take_all(successor, 40)) == 40
        await until(lambda: sum(committed(made).values()) == 40)
        done = committed(made)
        sleeper.signal(signal.SIGUSR1)  # as soon as it wakes it is done with what the other one has done already
        sleeper.signal(signal.SIGCONT)
        await append(queue, *(a_request(number, f"sku-{number}") for number in range(1_000, 1_400)))
        seen = await both_take(successor, sleeper, 400)
        assert set(seen) >= set(range(2_000, 2_400))
        assert all(offset >= done[place] for place, offset in committed(made).items())


async def both_take(successor: KafkaDeliveries, other: ConsumerProcess, number: int) -> Counter:
    """Numbers of the requests that either has taken, until there are so many new ones."""
    seen: Counter[int] = Counter()
    async with asyncio.timeout(30):
        while sum(1 for each in seen if each >= 2_000) < number:
            try:
                async with asyncio.timeout(0.1):
                    batch = await successor.take()
            except TimeoutError:
                pass
            else:
                seen.update(request.at_ms for request in requests_of(batch))
                successor.done(batch)
            seen.update(each for said in other.rest() for each in said["numbers"])
    return seen


async def test_a_consumer_is_done_with_its_batches_before_it_gives_their_slices_up(made):
    queue, first = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number, f"sku-{number}") for number in range(40)))
    batches = [await take(first) for _ in range(SLICES)]
    second = await made.deliveries()
    await until(lambda: all(each.leaving for each in first._slices._slices.values()))
    for batch in batches:
        first.done(batch)
    await first.close()
    last = a_request(1_000)
    await append(queue, last)
    came: list[Request] = []
    while last not in came:
        came += await take_all(second, 1)
    decided = {request.user_id for batch in batches for request in requests_of(batch)}
    assert decided.isdisjoint(request.user_id for request in came)


async def test_a_line_that_was_full_when_its_slice_went_and_came_back_is_read_on(made):
    queue, first = await made.queue(), await made.deliveries()
    await append(queue, *(a_request(number) for number in range(5_000)))
    in_work = await take(first)
    await until(lambda: any(line.paused for _, line in first._slices._lines()))
    second = await made.deliveries()
    await until(lambda: all(each.in_work is None for each in first._slices._slices.values()))
    await second.close()
    first.done(in_work)
    missing = {f"user-{number}" for number in range(5_000)}
    while missing:
        batch = await take(first)
        missing -= {request.user_id for request in requests_of(batch)}
        first.done(batch)


async def ready(deliveries: KafkaDeliveries) -> None:
    await until(lambda: deliveries.trouble is None)


async def test_while_consumers_come_and_go_requests_of_a_product_are_decided_in_order(made):
    """Each is decided at least once, and the first time in its order."""
    queue = await made.queue()
    requests = [a_request(number, f"sku-{number % 16}") for number in range(8_000)]
    decided: list[Request] = []

    async def decide(deliveries: KafkaDeliveries) -> None:
        while True:
            batch = await deliveries.take()
            await asyncio.sleep(0.02)
            decided.extend(requests_of(batch))
            deliveries.done(batch)

    first = await made.deliveries()
    deciding = [asyncio.create_task(decide(first)) for _ in range(4)]
    for start in range(0, 8_000, 1_000):
        assert all(await append(queue, *requests[start : start + 1_000]))
        if start == 2_000:
            second = await made.deliveries()
            deciding += [asyncio.create_task(decide(second)) for _ in range(4)]
            await ready(second)
        if start == 5_000:
            await first.close()
    await until(lambda: len({each.reservation_ids for each in decided}) == 8_000)
    for each in deciding:
        each.cancel()
    await asyncio.gather(*deciding, return_exceptions=True)
    first_times = list(dict.fromkeys(each.reservation_ids for each in decided))
    by_id = {each.reservation_ids: each for each in requests}
    assert by_product([by_id[each] for each in first_times]) == by_product(requests)
    assert len(decided) < 8_000 * 1.2
