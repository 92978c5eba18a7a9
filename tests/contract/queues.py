"""Queues to which the contract is put, and requests to put into them.

A backend has a factory here: it makes a queue that nobody has used, to which any number of ends may be opened.
"""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from servers.kafka import real_kafka

from flashsale.backends.kafka import Connection, KafkaDeliveries, KafkaQueue, Plan
from flashsale.backends.kafka.topics import Names
from flashsale.core.request import Priority, Request, decode
from flashsale.core.stock import Item
from flashsale.ports import Batch, Deliveries, Queue

PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.01
SLICES = 5
"""An odd number: two consumers must not come to fit by chance."""


class Made(Protocol):
    """A queue of a backend."""

    async def queue(self) -> Queue: ...

    async def deliveries(self) -> Deliveries: ...

    async def close(self) -> None: ...


class KafkaMade:
    def __init__(self, servers: str | None = None, partitions: int = SLICES, names: Names | None = None) -> None:
        self.servers = servers or real_kafka()
        self.connection = Connection(f"kafka://{self.servers}")
        self.plan = Plan(partitions=partitions, names=names or Names(f"test-{secrets.token_hex(6)}"))
        self._open: list[Queue | Deliveries] = []

    async def queue(self) -> KafkaQueue:
        queue = KafkaQueue(self.connection, self.plan)
        self._open.append(queue)
        await until(lambda: queue.trouble is None)
        return queue

    async def deliveries(self) -> KafkaDeliveries:
        deliveries = KafkaDeliveries(self.connection, self.plan)
        self._open.append(deliveries)
        return deliveries

    async def close(self) -> None:
        for each in self._open:
            await each.close()


MADE: dict[str, Callable[[], Made]] = {"kafka": KafkaMade}


def a_request(number: int, *skus: str, priority: Priority = Priority.NORMAL) -> Request:
    skus = skus or ("lamp",)
    ids = tuple(f"res_{number:06d}_{sku}" for sku in skus)
    return Request(
        ids, f"user-{number}", "launch", tuple(Item(sku, 1) for sku in skus), 1_000 + number, priority=priority
    )


async def append(queue: Queue, *requests: Request) -> list[bool]:
    """All of them in this order; what each was answered."""
    answers: list[asyncio.Future[bool]] = []
    for request in requests:
        answers.append(asyncio.get_running_loop().create_future())
        queue.append(request, answers[-1].set_result)
    async with asyncio.timeout(PATIENCE_SECONDS):
        return list(await asyncio.gather(*answers))


async def take(deliveries: Deliveries) -> Batch:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await deliveries.take()


async def take_all(deliveries: Deliveries, number: int) -> list[Request]:
    """Takes and is done with batches until so many requests have come."""
    came: list[Request] = []
    while len(came) < number:
        batch = await take(deliveries)
        came += requests_of(batch)
        deliveries.done(batch)
    return came


async def nothing_comes(deliveries: Deliveries, seconds: float = 1.0) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await deliveries.take()
    except TimeoutError:
        return True
    return False


def requests_of(batch: Batch) -> list[Request]:
    return [decode(each.message) for each in batch.deliveries]


def by_product(requests: Sequence[Request]) -> dict[str, list[Request]]:
    found: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        found[request.slice_key].append(request)
    return dict(found)


async def until(true: Callable[[], bool | Awaitable[bool]], seconds: float = PATIENCE_SECONDS) -> None:
    """Looks again and again."""
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if found is True or (found is not False and await found):
                return
            await asyncio.sleep(LOOK_SECONDS)
