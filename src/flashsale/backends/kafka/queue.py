"""The queue port on Kafka: where the requests of queued sales are appended, thousands a second from the event loop.

librdkafka reports each acknowledgement by calling back, and takes the interpreter's lock anew for each one. A thread of
its own would fight the event loop for that lock thousands of times a second, and would have to wake it besides. So the
loop polls the producer by itself: every millisecond while something is under way, once a second otherwise. One poll
brings all reports that have come in meanwhile.

A request is acknowledged by all replicas in sync (`acks=all`) or answered False within `ACKNOWLEDGED_MS`. False does
not mean that it is not there: the broker's answer may be what was lost. Whoever appends it again appends the same
request.

When a request was not acknowledged, or no broker can be reached, only `PROBES` requests are let through at a time until
one is acknowledged, and all others are answered False at once: a crowd is told quickly, and the broker is asked
all the time.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from flashsale.answering import tell
from flashsale.backends.kafka.connect import Connection
from flashsale.backends.kafka.topics import PARTITIONER, Plan, TopicsUnfit, ensure
from flashsale.core.request import Priority, Request, encode
from flashsale.ports import BrokerUnavailable

ACKNOWLEDGED_MS = 5_000
LOOKS_MS = 1_000
"""How often the library looks whose time is over."""
UNDER_WAY_MAX = 50_000
"""Requests without an acknowledgement: more than two seconds' worth of one process."""
PROBES = 64
TICK_SECONDS = 0.001
IDLE_SECONDS = 1.0
AGAIN_SECONDS = 1.0
"""How often the topics are looked for while they cannot be had."""
SETTINGS: dict[str, str | int | bool] = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": PARTITIONER,
    "linger.ms": 1,
    "delivery.timeout.ms": ACKNOWLEDGED_MS - LOOKS_MS,
    "queue.buffering.max.messages": UNDER_WAY_MAX,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 250,
}

Answer = Callable[[bool], None]


class KafkaQueue:
    """For one event loop. What it needs of the cluster it looks for by itself; until that is there it takes nothing."""

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self._connection = connection
        self._plan = plan
        self._topics = {priority: plan.names.of(priority) for priority in Priority}
        self._loop = asyncio.get_running_loop()
        self._line: _Line | None = None
        self._worn: set[asyncio.Task[None]] = set()
        self._trouble: str | None = "not connected yet"
        self._opening = asyncio.create_task(self._open(), name="queue")

    @property
    def trouble(self) -> str | None:
        """Why requests cannot be appended, in words for the operator."""
        return self._line.trouble if self._line is not None else self._trouble

    def append(self, request: Request, reply: Answer) -> None:
        line = self._line
        if line is None or not line.send(self._topics[request.priority], request.slice_key, encode(request), reply):
            self._loop.call_soon(reply, False)

    async def close(self) -> None:
        """Everything under way is answered first; that takes `ACKNOWLEDGED_MS` at most."""
        self._opening.cancel()
        with suppress(asyncio.CancelledError):
            await self._opening
        line, self._line = self._line, None
        if line is not None:
            await line.close()
        await asyncio.gather(*self._worn)

    async def _open(self) -> None:
        while self._line is None:
            try:
                await asyncio.to_thread(ensure, self._connection, self._plan)
                self._line = _Line(self._connection, self._renew)
            except (BrokerUnavailable, TopicsUnfit) as error:
                self._trouble = str(error)
                await asyncio.sleep(AGAIN_SECONDS)

    def _renew(self) -> None:
        """An idempotent producer that has lost count takes nothing more: another one begins to count anew."""
        if self._line is not None:
            ending = asyncio.create_task(self._line.close())
            self._worn.add(ending)
            ending.add_done_callback(self._worn.discard)
            self._line = _Line(self._connection, self._renew)


class _Line:
    """A producer, and what has been handed to it. Everything happens on the loop's thread, the callbacks included."""

    def __init__(self, connection: Connection, broken: Callable[[], None]) -> None:
        self.trouble: str | None = None
        self._loop = asyncio.get_running_loop()
        self._broken: Callable[[], None] | None = broken
        self._under_way = 0
        self._reported: list[tuple[Answer, bool]] = []
        self._producer = Producer(connection.settings({**SETTINGS, "error_cb": self._hear}))
        self._ticking = self._loop.call_later(IDLE_SECONDS, self._tick)
        self._empty = asyncio.Event()

    def send(self, topic: str, key: str, value: bytes, reply: Answer) -> bool:
        """False: it has not been taken, and `reply` will not be called."""
        if self._under_way >= (UNDER_WAY_MAX if self.trouble is None else PROBES):
            return False
        try:
            self._producer.produce(topic, value, key, on_delivery=partial(self._report, reply))
        except (BufferError, KafkaException):
            return False
        self._under_way += 1
        if self._under_way == 1:
            self._ticking.cancel()
            self._ticking = self._loop.call_later(TICK_SECONDS, self._tick)
        return True

    async def close(self) -> None:
        self._broken = None
        try:
            async with asyncio.timeout(ACKNOWLEDGED_MS / 1000):
                await self._all_answered()
        except TimeoutError:
            self._producer.purge()
            await self._all_answered()
        self._ticking.cancel()
        await asyncio.to_thread(self._end)

    async def _all_answered(self) -> None:
        while self._under_way:
            self._empty.clear()
            await self._empty.wait()

    def _end(self) -> None:
        del self._producer  # joins the library's threads

    def _report(self, reply: Answer, error: KafkaError | None, _: Any) -> None:
        self._reported.append((reply, error is None))
        if error is not None:
            self.trouble = self.trouble or error.str()

    def _hear(self, error: KafkaError) -> None:
        if error.fatal() and self._broken is not None:
            broken, self._broken = self._broken, None
            broken()
        if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.trouble = error.str()

    def _tick(self) -> None:
        self._producer.poll(0)
        reported, self._reported = self._reported, []
        self._under_way -= len(reported)
        if any(acknowledged for _, acknowledged in reported):
            self.trouble = None
        pause = TICK_SECONDS if self._under_way else IDLE_SECONDS
        self._ticking = self._loop.call_later(pause, self._tick)
        if not self._under_way:
            self._empty.set()
        for reply, acknowledged in reported:
            tell(reply, acknowledged)
