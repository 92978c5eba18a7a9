"""Topics as a consumer reads them: from their beginning, by key, in the order of arrival."""

import time
from collections import defaultdict
from typing import Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

PATIENCE_SECONDS = 20.0


class Topics:
    """A consumer without a group: it reads all partitions of these topics from the beginning."""

    def __init__(self, servers: str, *names: str) -> None:
        self._names = names
        self._consumer = Consumer(
            {"bootstrap.servers": servers, "group.id": "test", "enable.auto.commit": False, "log_level": 0}
        )
        self._admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        self._read: defaultdict[str, list[bytes]] = defaultdict(list)
        self._number = 0
        self._known: set[tuple[str, int]] = set()

    def read(self, number: int, seconds: float = PATIENCE_SECONDS) -> dict[str, list[bytes]]:
        """Until so many messages have arrived in all, or none comes any more."""
        until = time.monotonic() + seconds
        while self._number < number and time.monotonic() < until:
            self._follow()
            for message in self._consumer.consume(1000, timeout=0.2):
                assert message.error() is None, message.error()
                self._read[message.key().decode()].append(message.value())
                self._number += 1
        return dict(self._read)

    def read_all(self) -> dict[str, list[bytes]]:
        """What has arrived until now."""
        self._follow()
        return self.read(sum(self._ends()))

    def _ends(self) -> list[int]:
        """Of all partitions, asked at once. A broker that has just started again may have no leader for a moment."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            asked = self._admin.list_offsets({TopicPartition(*each): OffsetSpec.latest() for each in self._known})
            try:
                return [int(each.result().offset) for each in asked.values()]
            except KafkaException:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def _follow(self) -> None:
        """Topics may be made while they are waited for."""
        if {topic for topic, _ in self._known} == set(self._names):
            return
        made = self._consumer.list_topics(timeout=10).topics
        known = {(name, part) for name in self._names if name in made for part in made[name].partitions}
        self._consumer.incremental_assign([TopicPartition(*each, 0) for each in sorted(known - self._known)])
        self._known = known

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()
