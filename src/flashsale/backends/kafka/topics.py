"""The topics: which there are, how they are made, and what is wrong with those that are there.

Two topics hold the requests of queued sales, one for each priority. A request's key is its product, and both topics
must put a product into the partition of the same number, because the consumer of that number decides for both. So both
have the same number of partitions, whoever made them, and every producer uses `PARTITIONER`. The number is never
changed while requests wait: a product would move to another partition, and its requests would overtake each other.

Whoever serves or consumes makes what is missing. Several may do so at once: the broker lets one of them.
"""

import time
from concurrent.futures import Future
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not declared so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from flashsale.backends.kafka.connect import Connection
from flashsale.core.event import Topic
from flashsale.core.request import Priority
from flashsale.ports import BrokerUnavailable

PARTITIONER = "murmur2_random"
EVENT_PARTITIONS = 12
DEAD_PARTITIONS = 1
REPLICATION_MAX = 3
REPLICAS_IN_SYNC = 2
"""Where there are three replicas: what is acknowledged is then on two machines at least."""
RETENTION_MS = 7 * 24 * 3600 * 1000
ANSWER_SECONDS = 5.0
VISIBLE_SECONDS = 10.0
LOOK_SECONDS = 0.1
SESSION_MS = 2_000
"""How long a consumer may be silent before its slices go to others, where the broker lets it be so short."""
BROKERS_SESSION_MS = 6_000
"""What a broker allows at least (`group.min.session.timeout.ms`) if it does not say."""


class TopicsUnfit(Exception):
    """The topics do not go together; the message says what to do."""


class Names(msgspec.Struct, frozen=True):
    """Of the topics of the queue, and of the group of those who read it."""

    prefix: str = "flashsale"

    @property
    def normal(self) -> str:
        return f"{self.prefix}.requests"

    @property
    def high(self) -> str:
        return f"{self.prefix}.requests.high"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.requests.dlq"

    @property
    def group(self) -> str:
        return self.prefix

    def of(self, priority: Priority) -> str:
        return self.high if priority is Priority.HIGH else self.normal


class Plan(msgspec.Struct, frozen=True):
    """What is made where it is missing."""

    partitions: int = 100
    replication: int = 0
    """Copies of each message; 0: one on each broker, three at most."""
    names: Names = Names()

    def copies(self, brokers: int) -> int:
        return self.replication or min(REPLICATION_MAX, brokers)

    @property
    def events(self) -> tuple[str, ...]:
        return tuple(topic.value for topic in Topic if topic is not Topic.DEAD_LETTERS)

    @property
    def topics(self) -> tuple[str, ...]:
        return (self.names.normal, self.names.high, self.names.dead, *self.events)


class Facts(msgspec.Struct, frozen=True):
    """What there is."""

    brokers: int
    partitions: dict[str, int]
    """Of the topics of the plan that exist."""
    copies: dict[str, int]
    """Of each message in them."""
    missing: tuple[str, ...]
    """Those that do not exist."""
    unfit: str
    """Why the queue cannot work with the topics that exist; empty if it can."""
    session_ms: int
    """After so long without a sign of life a consumer's slices go to others."""
    settings: dict[str, dict[str, str]]
    """Of the topics that exist, where this user may see them."""


def ensure(connection: Connection, plan: Plan) -> int:
    """Makes what is missing. The session of a consumer, in ms. Blocks. Raises BrokerUnavailable and TopicsUnfit."""
    with _Admin(connection) as admin:
        there = admin.partitions(plan)
        _require_fit(there, plan)
        missing = [name for name in plan.topics if name not in there]
        if missing:
            admin.make(_new_topics(missing, there, plan, admin.brokers))
            _require_fit(admin.visible(plan), plan)
        return admin.session_ms()


def facts(connection: Connection, plan: Plan) -> Facts:
    """Looks, and changes nothing. Blocks. Raises BrokerUnavailable."""
    with _Admin(connection) as admin:
        there = admin.partitions(plan)
        return Facts(
            brokers=admin.brokers,
            partitions=there,
            copies=admin.copies,
            missing=tuple(name for name in plan.topics if name not in there),
            unfit=_unfit(there, plan),
            session_ms=admin.session_ms(),
            settings=admin.settings_of(list(there)),
        )


def _new_topics(missing: list[str], there: dict[str, int], plan: Plan, brokers: int) -> list[NewTopic]:
    copies = plan.copies(brokers)
    of_queue = there.get(plan.names.normal) or there.get(plan.names.high) or plan.partitions
    numbers = {plan.names.normal: of_queue, plan.names.high: of_queue, plan.names.dead: DEAD_PARTITIONS}
    config = {
        "min.insync.replicas": str(REPLICAS_IN_SYNC if copies >= REPLICATION_MAX else 1),
        "unclean.leader.election.enable": "false",
        "retention.ms": str(RETENTION_MS),
    }
    return [NewTopic(name, numbers.get(name, EVENT_PARTITIONS), copies, config=config) for name in missing]


def _require_fit(there: dict[str, int], plan: Plan) -> None:
    if unfit := _unfit(there, plan):
        raise TopicsUnfit(unfit)


def _unfit(there: dict[str, int], plan: Plan) -> str:
    normal, high = (there.get(name) for name in (plan.names.normal, plan.names.high))
    if normal is None or high is None or normal == high:
        return ""
    fewer, more = sorted((normal, high))
    name = plan.names.normal if normal == fewer else plan.names.high
    return (
        f"{plan.names.normal} has {normal} partitions, {plan.names.high} has {high}; they must have the same number: "
        f"stop the sales, let the consumers empty both, then raise the lower one "
        f"(kafka-topics.sh --alter --topic {name} --partitions {more}) and start again"
    )


class _Admin:
    """One conversation with the cluster."""

    def __init__(self, connection: Connection) -> None:
        self._heard = ""
        self._servers = connection.servers
        try:
            self._client = AdminClient(connection.settings({"error_cb": self._hear, "reconnect.backoff.max.ms": 500}))
        except KafkaException as error:  # a certificate that cannot be read
            raise BrokerUnavailable(f"{self._servers}: {_text(error)}") from error
        self.brokers = 0
        self.copies: dict[str, int] = {}

    def __enter__(self) -> "_Admin":
        return self

    def __exit__(self, *_: object) -> None:
        del self._client

    def _hear(self, error: KafkaError) -> None:
        """That no broker is left is what comes of it, not why."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._heard:
            self._heard = error.str()

    def partitions(self, plan: Plan) -> dict[str, int]:
        """Of the plan's topics that exist."""
        try:
            told = self._client.list_topics(timeout=ANSWER_SECONDS)
        except KafkaException as error:
            self._client.poll(0)
            raise BrokerUnavailable(f"{self._servers}: {self._heard or _text(error)}") from error
        self.brokers = len(told.brokers)
        found = {name: told.topics[name].partitions for name in plan.topics if name in told.topics}
        self.copies = {name: min(len(each.replicas) for each in parts.values()) for name, parts in found.items()}
        return {name: len(parts) for name, parts in found.items()}

    def visible(self, plan: Plan) -> dict[str, int]:
        """As soon as all of them are to be seen: what has been made takes a moment."""
        until = time.monotonic() + VISIBLE_SECONDS
        while len(there := self.partitions(plan)) < len(plan.topics):
            if time.monotonic() > until:
                raise BrokerUnavailable(f"{self._servers}: topics that were made are not to be seen")
            time.sleep(LOOK_SECONDS)
        return there

    def make(self, topics: list[NewTopic]) -> None:
        for name, made in self._client.create_topics(topics, request_timeout=ANSWER_SECONDS).items():
            try:
                made.result()
            except KafkaException as error:
                if _code(error) != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody else was faster
                    raise BrokerUnavailable(f"{name} cannot be made: {_text(error)}") from error

    def session_ms(self) -> int:
        """The shortest session that is of use to us and allowed by the brokers."""
        try:
            broker = str(self._client.list_topics(timeout=ANSWER_SECONDS).controller_id)
        except KafkaException as error:
            raise BrokerUnavailable(f"{self._servers}: {_text(error)}") from error
        said = self._configs(ResourceType.BROKER, [broker]).get(broker, {})
        return max(SESSION_MS, int(said.get("group.min.session.timeout.ms", BROKERS_SESSION_MS)))

    def settings_of(self, topics: list[str]) -> dict[str, dict[str, str]]:
        return self._configs(ResourceType.TOPIC, topics) if topics else {}

    def _configs(self, kind: ResourceType, names: list[str]) -> dict[str, dict[str, str]]:
        """Without those that this user may not see."""
        wanted = [ConfigResource(kind, name) for name in names]
        told = self._client.describe_configs(wanted, request_timeout=ANSWER_SECONDS)
        answers = {resource.name: _answer(answer) for resource, answer in told.items()}
        return {
            name: {key: entry.value for key, entry in answer.items()}
            for name, answer in answers.items()
            if answer is not None
        }


def _answer(future: "Future[dict[str, Any]]") -> dict[str, Any] | None:
    try:
        return future.result()
    except KafkaException:
        return None


def _code(error: KafkaException) -> int:
    code: int = error.args[0].code()
    return code


def _text(error: KafkaException) -> str:
    text: str = error.args[0].str()
    return text
