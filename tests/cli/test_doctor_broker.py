"""`flashsale doctor` on a broker: whether it answers, and whether its topics keep what is queued."""

from collections.abc import Iterator

import pytest
from cli.test_doctor import findings
from confluent_kafka.admin import AdminClient, NewTopic
from msgspec.structs import replace
from servers.kafka import KafkaServer
from servers.process import running

from flashsale.backends.kafka.topics import Facts
from flashsale.cli import broker_check
from flashsale.cli.broker_check import broker
from flashsale.cli.finding import Finding, Level
from flashsale.rehearsal.servers import free_port
from flashsale.settings import Settings

REQUESTS, HIGH = "flashsale.requests", "flashsale.requests.high"
FIT = Facts(
    brokers=3,
    partitions={REQUESTS: 100, HIGH: 100},
    copies={REQUESTS: 3, HIGH: 3},
    missing=(),
    unfit="",
    session_ms=2_000,
    settings={name: {"min.insync.replicas": "2", "retention.ms": "604800000"} for name in (REQUESTS, HIGH)},
)


@pytest.fixture
def kafka() -> Iterator[KafkaServer]:
    with running(KafkaServer()) as server:
        yield server


def looked_at(monkeypatch: pytest.MonkeyPatch, facts: Facts) -> list[Finding]:
    """What is wrong with a cluster of these facts."""
    monkeypatch.setattr(broker_check, "kafka_facts", lambda _: facts)
    monkeypatch.setattr(broker_check, "_listens", lambda _: True)
    found = broker(Settings(broker="kafka://host:1"))
    return [finding for finding in found if finding.level is not Level.OK]


def test_a_broker_that_cannot_be_reached_is_a_problem_and_its_password_is_not_told(tmp_path):
    code, found = findings(tmp_path, FLASHSALE_BROKER="kafka://ann:hush-hush@127.0.0.1:9")
    assert code == 1
    assert found["broker"]["level"] == "problem"
    assert "127.0.0.1:9" in found["broker"]["found"]
    assert "hush" not in str(found)


def test_a_broker_is_examined_without_changing_it(kafka, tmp_path):
    """Then with topics that do not go together."""
    _, found = findings(tmp_path, FLASHSALE_BROKER=f"kafka://{kafka.servers}")
    assert found["broker"] == {"name": "broker", "level": "ok", "found": "1 to be reached"}
    assert found["queue sessions"]["found"] == "2 s"
    assert found["topics"]["found"] == "0 are there, 6 are made at the start"
    admin = AdminClient({"bootstrap.servers": kafka.servers, "log_level": 0})
    for made in admin.create_topics([NewTopic(REQUESTS, 100, 1), NewTopic(HIGH, 50, 1)]).values():
        made.result(timeout=10)
    code, found = findings(tmp_path, FLASHSALE_BROKER=f"kafka://{kafka.servers}")
    assert code == 1
    assert found["topics"]["found"] == f"{REQUESTS} has 100 partitions, {HIGH} has 50; they must have the same number"
    assert f"--topic {HIGH} --partitions 100" in found["topics"]["remedy"]


def test_one_of_several_brokers_that_is_not_there_is_a_warning(kafka, tmp_path):
    code, found = findings(tmp_path, "--port", free_port(), FLASHSALE_BROKER=f"kafka://127.0.0.1:1,{kafka.servers}")
    assert (code, found["broker"]["level"]) == (0, "warning")
    assert found["broker"]["found"] == "nobody listens at 127.0.0.1:1"


def test_a_fit_cluster_gives_no_warning(monkeypatch):
    assert looked_at(monkeypatch, FIT) == []


def test_a_broker_with_its_long_sessions_is_a_warning(monkeypatch):
    (warning,) = looked_at(monkeypatch, replace(FIT, session_ms=6_000))
    assert warning.found == "a killed consumer is waited for 6 s"
    assert "group.min.session.timeout.ms=2000" in warning.remedy


def test_a_setting_that_differs_from_the_topics_is_a_warning(monkeypatch):
    (warning,) = looked_at(monkeypatch, replace(FIT, partitions={REQUESTS: 12, HIGH: 12}))
    assert warning.found == f"partitions: {REQUESTS} 12, {HIGH} 12; the setting says 100"
    assert "FLASHSALE_PARTITIONS=12" in warning.remedy


@pytest.mark.parametrize(
    ("copies", "said", "level", "found"),
    [
        (3, {"min.insync.replicas": "1"}, Level.WARNING, "acknowledges what one of 3 brokers has"),
        (2, {"min.insync.replicas": "3"}, Level.PROBLEM, "wants 3 replicas in sync and has 2: it takes nothing in"),
        (1, {"min.insync.replicas": "1"}, Level.WARNING, "has 1 of 3 possible copies"),
        (3, {"min.insync.replicas": "2", "retention.ms": "3600000"}, Level.WARNING, "for less than 7 days"),
    ],
)
def test_a_topic_that_may_lose_what_is_queued_is_told_with_what_to_do(monkeypatch, copies, said, level, found):
    facts = replace(FIT, copies=FIT.copies | {HIGH: copies}, settings=FIT.settings | {HIGH: said})
    (finding,) = looked_at(monkeypatch, facts)
    assert finding.level is level
    assert finding.found.startswith(HIGH)
    assert found in finding.found
    assert finding.remedy


def test_without_a_broker_nothing_is_looked_for():
    assert broker(Settings()) == []
