"""The other end of the queue on Kafka: a consumer of the group, in a thread that never stops polling.

    thread:   poll ──► lines of each slice ──► pause what is full, resume what has room ──► commit what is done
                            │      ▲                                                             ▲
    loop:               take()     └───────────────────── done() ───────────────────────────────┘

The thread polls whatever the deciding of a batch takes, so that the group keeps this consumer. It alone speaks to
the library, so what it commits is always of slices that are ours at that moment. The loop is woken once for all that a
poll brought.

**One writer for each product.** Partitions are assigned by range: of both topics, a consumer gets the partitions of the
same numbers. That needs the eager form of rebalancing, in which everybody gives everything back first. Before a
consumer does so it waits for its batches in work (`LAST_WORD_SECONDS` at most), commits them, and only then lets the
next one begin.

**Nothing before it is done.** Positions are those of batches that were `done`; the library's own bookkeeping is off.
They are committed every `COMMIT_SECONDS`, when slices go, and at the end. The broker takes a commit only from the
group's present generation: a consumer that was stopped for longer than its session and wakes up commits nothing, and
finds that its slices are lost.

**A dead consumer's slices go on soon.** The session is as short as the broker allows (`topics.SESSION_MS`,
`group.min.session.timeout.ms`). Heartbeats come from the library's own thread, which needs no interpreter lock, so a
short session does not make a busy process look dead.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from flashsale.backends.kafka.connect import Connection
from flashsale.backends.kafka.slices import Place, Slices, Waiting
from flashsale.backends.kafka.topics import Plan, TopicsUnfit, ensure
from flashsale.ports import Batch, BrokerUnavailable, Delivery, Origin

ROUND_SECONDS = 0.01
ROUND_MAX = 500
"""Messages of one poll."""
COMMIT_SECONDS = 0.5
LAST_WORD_SECONDS = 0.5
AGAIN_SECONDS = 1.0
ASK_SECONDS = 0.2
CLOSING_SECONDS = 5.0
AWAY_SECONDS = 0.5
"""The same while the broker is away: there is nobody to take leave of."""
HEARTBEATS = 5
"""In a session."""
SETTINGS: dict[str, str | int | bool] = {
    "partition.assignment.strategy": "range",
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "max.poll.interval.ms": 30_000,  # a process whose thread is stuck gives its slices up
    "fetch.wait.max.ms": 50,  # the end of a partition is told by an empty answer
    "fetch.queue.backoff.ms": 10,
    "fetch.error.backoff.ms": 100,
    "queued.max.messages.kbytes": 16_384,
    "max.partition.fetch.bytes": 262_144,
    "socket.timeout.ms": 5_000,
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 250,
}

log = structlog.get_logger("flashsale.queue")


class KafkaDeliveries:
    """For one event loop. What it needs of the cluster it looks for by itself; until that is there nothing comes."""

    def __init__(self, connection: Connection, plan: Plan) -> None:
        self.trouble: str | None = "not connected yet"
        """Why nothing may come, in words for the operator."""
        self._connection = connection
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._bell = asyncio.Event()
        self._asked = 0
        self._slices = Slices(plan.names)
        self._changed = threading.Condition()
        """Guards the slices; told when a batch is done."""
        self._closing = threading.Event()
        self._ended = threading.Event()
        """Nothing will come any more. The thread itself still lives when it rings for the last time."""
        self._sent: dict[Place, int] = {}
        self._commit_at = 0.0
        self._down = False
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)
        self._thread.start()

    async def take(self) -> Batch:
        """Raises BrokerUnavailable when nothing can come any more."""
        self._asked += 1
        try:
            while not self._ended.is_set():
                with self._changed:
                    batch = self._slices.take(time.monotonic())
                if batch is not None:
                    return batch
                self._bell.clear()
                await self._bell.wait()
        finally:
            self._asked -= 1
        raise BrokerUnavailable("the queue is closed")

    def done(self, batch: Batch) -> None:
        with self._changed:
            self._slices.done(batch)
            self._changed.notify_all()
        self._bell.set()

    async def close(self) -> None:
        """What is done is committed, and the group told, so that others go on at once. Batches in work come again.

        A broker that does not answer is not waited for: then the group misses us when the session has run out.
        """
        self._closing.set()
        patience = CLOSING_SECONDS if self.trouble is None else AWAY_SECONDS
        await asyncio.to_thread(self._thread.join, patience)

    # -- The thread.

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._serve()
        finally:
            self.trouble = self.trouble or "closed"
            self._ended.set()
            self._ring()

    def _serve(self) -> None:
        """Until it is closed, or something has failed that the library does not repair by itself."""
        try:
            session_ms = self._look()
            if session_ms is not None:
                self._consume(session_ms)
        except Exception as error:
            self.trouble = f"{type(error).__name__}: {error}"
            log.exception("the queue could not be read and is asked again")
            self._closing.wait(AGAIN_SECONDS)

    def _look(self) -> int | None:
        """The session to ask for, as soon as the cluster answers and has its topics. None: closed meanwhile."""
        while not self._closing.is_set():
            try:
                return ensure(self._connection, self._plan)
            except (BrokerUnavailable, TopicsUnfit) as error:
                self.trouble = str(error)
                self._closing.wait(AGAIN_SECONDS)
        return None

    def _consume(self, session_ms: int) -> None:
        names = self._plan.names
        consumer = Consumer(
            self._connection.settings(
                {
                    **SETTINGS,
                    "group.id": names.group,
                    "session.timeout.ms": session_ms,
                    "heartbeat.interval.ms": session_ms // HEARTBEATS,
                    "error_cb": self._hear,
                    "on_commit": self._committed,
                }
            )
        )
        consumer.subscribe(
            [names.normal, names.high], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )
        self.trouble = None
        try:
            while not self._closing.is_set():
                try:
                    self._round(consumer)
                except KafkaException as error:
                    self.trouble = str(error)
                    self._closing.wait(AGAIN_SECONDS)
        finally:
            consumer.close()  # tells `_revoked`, and waits for its commit

    def _round(self, consumer: Consumer) -> None:
        first = consumer.poll(ROUND_SECONDS)
        fetched = [] if first is None else [first, *consumer.consume(ROUND_MAX - 1, 0)]
        now = time.monotonic()
        with self._changed:
            for message in fetched:
                self._sort(message, now)
            pauses, resumes = list(self._slices.pauses()), list(self._slices.resumes())
            waiting = self._slices.any_waiting()
        if pauses:
            consumer.pause(_partitions(pauses))
        if resumes:
            consumer.resume(_partitions(resumes))
        if waiting and self._asked:
            self._ring()
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_SECONDS
            self._commit(consumer)
            if self._down:
                self._ask_again(consumer)

    def _sort(self, message: Message, now: float) -> None:
        error, place = message.error(), (message.topic() or "", message.partition() or 0)
        if error is None:
            origin = Origin(*place, message.offset() or 0)
            product = (message.key() or b"").decode(errors="replace")
            self._slices.put(place, Waiting(product, Delivery(origin, message.value() or b"")), now)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._slices.end(place, now)
        else:
            self.trouble = error.str()
            return
        self.trouble, self._down = None, False

    def _commit(self, consumer: Consumer) -> None:
        """What is done and has not been sent yet; the answer comes to `_committed`."""
        with self._changed:
            positions = self._slices.positions()
        fresh = {place: offset for place, offset in positions.items() if self._sent.get(place) != offset}
        if fresh:
            self._sent |= fresh
            consumer.commit(offsets=_partitions(fresh), asynchronous=True)

    def _committed(self, error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        """What failed is sent again, if it is still ours then."""
        for each in partitions:
            if error is not None or each.error is not None:
                self._sent.pop((each.topic, each.partition), None)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._changed:
            self._slices.assign({each.partition for each in partitions}, time.monotonic())
        self._sent.clear()
        self.trouble = None
        consumer.assign(partitions)
        if partitions:
            consumer.resume(partitions)  # the library remembers what was paused in an earlier assignment

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {each.partition for each in partitions}
        with self._changed:
            self._slices.leave(numbers)
            self._changed.wait_for(lambda: not self._slices.busy(numbers), LAST_WORD_SECONDS)
        self._commit(consumer)
        self._forget(numbers)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Somebody else has them already."""
        log.warning("slices of the queue were lost", slices=len({each.partition for each in partitions}))
        self._forget({each.partition for each in partitions})

    def _forget(self, numbers: set[int]) -> None:
        with self._changed:
            self._slices.drop(numbers)

    def _hear(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._down = True
        if self._down or error.fatal():
            self.trouble = error.str()

    def _ask_again(self, consumer: Consumer) -> None:
        """Where nothing waits, nothing else would tell that the brokers are back."""
        with suppress(KafkaException):
            consumer.list_topics(self._plan.names.normal, timeout=ASK_SECONDS)
            self.trouble, self._down = None, False

    def _ring(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._bell.set)


def _partitions(places: "Sequence[Place] | dict[Place, int]") -> list[TopicPartition]:
    if isinstance(places, dict):
        return [TopicPartition(*place, offset) for place, offset in places.items()]
    return [TopicPartition(*place) for place in places]
