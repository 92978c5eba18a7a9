"""The topics: made where they are missing, by any number of processes at once, and refused where they do not fit."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from contract.queues import KafkaMade, a_request, append, until
from msgspec.structs import replace

from flashsale.backends.kafka import KafkaQueue, TopicsUnfit, facts
from flashsale.backends.kafka.topics import RETENTION_MS, SESSION_MS, Plan, _new_topics, ensure
from flashsale.ports import BrokerUnavailable

DAYS_MS = 24 * 3600 * 1000


@pytest.fixture
def made() -> KafkaMade:
    return KafkaMade(partitions=7)


def make(made: KafkaMade, **partitions: int) -> None:
    """These topics of the queue, by somebody else."""
    admin = AdminClient({"bootstrap.servers": made.servers, "log_level": 0})
    new = [NewTopic(getattr(made.plan.names, name), number, 1) for name, number in partitions.items()]
    for topic in admin.create_topics(new).values():
        topic.result(timeout=10)


def test_what_is_missing_is_made(made):
    names = made.plan.names
    assert set(facts(made.connection, made.plan).missing) >= {names.normal, names.high, names.dead}
    ensure(made.connection, made.plan)
    found = facts(made.connection, made.plan)
    assert found.missing == ()
    assert (found.partitions[names.normal], found.partitions[names.high]) == (7, 7)
    assert {"flashsale.reservations", "flashsale.inventory", "flashsale.orders"} <= found.partitions.keys()


def test_requests_are_kept_for_seven_days_at_least(made):
    ensure(made.connection, made.plan)
    said = facts(made.connection, made.plan).settings[made.plan.names.normal]
    assert int(said["retention.ms"]) == RETENTION_MS == 7 * DAYS_MS
    assert said["unclean.leader.election.enable"] == "false"


@pytest.mark.parametrize(("brokers", "copies"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_there_is_a_copy_on_each_broker_and_three_at_most(brokers, copies):
    assert Plan().copies(brokers) == copies
    assert Plan(replication=2).copies(brokers) == 2


@pytest.mark.parametrize(("copies", "in_sync"), [(1, "1"), (2, "1"), (3, "2")])
def test_with_three_copies_a_message_is_on_two_brokers_before_it_is_acknowledged(copies, in_sync):
    (topic,) = _new_topics(["flashsale.requests"], {}, Plan(replication=copies), brokers=3)
    assert (topic.replication_factor, topic.config["min.insync.replicas"]) == (copies, in_sync)


def test_the_session_is_the_shortest_that_the_broker_allows_and_that_is_of_use(made):
    """The broker of the tests allows one second."""
    assert ensure(made.connection, made.plan) == SESSION_MS == 2_000


def test_any_number_of_processes_may_make_them_at_once(made):
    with ThreadPoolExecutor(5) as processes:
        found = list(processes.map(lambda _: ensure(made.connection, made.plan), range(5)))
    assert found == [SESSION_MS] * 5


def test_topics_that_are_there_are_left_as_they_are(made):
    make(made, normal=3, high=3)
    ensure(made.connection, made.plan)
    assert facts(made.connection, made.plan).partitions[made.plan.names.normal] == 3


@pytest.mark.parametrize("there", ["normal", "high"])
def test_the_missing_one_of_the_two_gets_as_many_partitions_as_the_other_has(made, there):
    make(made, **{there: 3})
    ensure(made.connection, made.plan)
    partitions = facts(made.connection, made.plan).partitions
    assert (partitions[made.plan.names.normal], partitions[made.plan.names.high]) == (3, 3)


async def test_with_two_numbers_of_partitions_nothing_is_taken_in_and_it_is_said_what_to_do(made):
    make(made, normal=3, high=5)
    with pytest.raises(TopicsUnfit, match=rf"--topic {made.plan.names.normal} --partitions 5"):
        ensure(made.connection, made.plan)
    queue = KafkaQueue(made.connection, made.plan)
    await until(lambda: "must have the same number" in (queue.trouble or ""))
    assert await append(queue, a_request(1)) == [False]
    await queue.close()


def test_copies_that_the_cluster_has_not_got_are_refused_with_the_brokers_words(made):
    with pytest.raises(BrokerUnavailable, match="cannot be made"):
        ensure(made.connection, replace(made.plan, replication=3))
