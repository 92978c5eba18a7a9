"""The broker port on Kafka: a plain producer, a thread that polls it, and a future for each page.

confluent-kafka's AIOProducer holds each awaited message back for 0.1 s and more; here a page is handed over at once,
and the thread wakes the loop when the last of its messages has been acknowledged by all replicas.

Order is what the settings below are about. The producer is idempotent, so what it sends again arrives once and in
place. A message must never time out alone: those behind it would arrive without it, and a consumer that has seen them
drops it when it comes at last. So messages wait for ever, and a page has a deadline: when it passes, or anything of the
page fails, the whole producer is thrown away with all that it holds. What has arrived by then is a beginning of what
was sent, and the next producer sends all of it again.
"""

import asyncio
import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Delivered

from flashsale.backends.kafka.connect import Connection
from flashsale.ports import BrokerUnavailable, Message

ACKNOWLEDGED_SECONDS = 10.0
"""The deadline of a page."""
POLL_SECONDS = 0.1
SETTINGS: dict[str, str | int | bool] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "linger.ms": 1,
    "queue.buffering.max.messages": 10_000,
    "reconnect.backoff.ms": 100,
    "reconnect.backoff.max.ms": 1_000,
}


class KafkaBroker:
    """For one event loop and one caller at a time."""

    def __init__(self, connection: Connection) -> None:
        """Nobody is asked before the first page."""
        self._connection = connection
        self._line: _Line | None = None

    async def publish(self, messages: Sequence[Message]) -> None:
        line = self._line = self._line or _Line(self._connection)
        try:
            async with asyncio.timeout(ACKNOWLEDGED_SECONDS):
                await line.send(messages)
        except (KafkaException, BufferError, TimeoutError) as error:
            self._hang_up(line)
            raise BrokerUnavailable(line.trouble or str(error) or "no acknowledgement in time") from error
        except BaseException:
            self._hang_up(line)
            raise

    async def close(self) -> None:
        if self._line is not None:
            thread = self._line.thread
            self._hang_up(self._line)
            await asyncio.to_thread(thread.join)

    def _hang_up(self, line: "_Line") -> None:
        line.hang_up()
        if self._line is line:
            self._line = None


class _Line:
    """A producer and the thread that polls it; the thread ends the producer too, because that may take a while."""

    def __init__(self, connection: Connection) -> None:
        self.trouble = ""
        """What the library said last of its connections."""
        self._hung_up = threading.Event()
        self._producer = Producer(connection.settings({**SETTINGS, "error_cb": self._heard}))
        self.thread = threading.Thread(target=self._poll, name="kafka", daemon=True)
        self.thread.start()

    async def send(self, messages: Sequence[Message]) -> None:
        page = _Page(len(messages), asyncio.get_running_loop())
        for message in messages:
            self._producer.produce(message.topic, message.value, message.key, on_delivery=page.delivered)
        await page.future

    def hang_up(self) -> None:
        self._hung_up.set()

    def _heard(self, error: KafkaError) -> None:
        self.trouble = error.str()

    def _poll(self) -> None:
        while not self._hung_up.is_set():
            self._producer.poll(POLL_SECONDS)
        self._producer.purge()
        self._producer.poll(0)
        del self._producer


class _Page:
    """Messages that are acknowledged together. `delivered` is called by the polling thread."""

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._left = size

    def delivered(self, error: KafkaError | None, _: Delivered) -> None:
        self._left -= 1
        if error is None and self._left:
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finish, error)

    def _finish(self, error: KafkaError | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(KafkaException(error))
