"""Kafka with TLS and a password: what is believed, what is refused, and that no password is told."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from contract.queues import KafkaMade, a_request, append, take_all
from servers.kafka_secure import PASSWORD, USER, SecureKafka

from flashsale.backends.kafka import Connection, KafkaBroker, Plan, facts
from flashsale.ports import BrokerUnavailable, Message
from flashsale.settings import load


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    kafka = SecureKafka(tmp_path_factory.mktemp("secure"))
    try:
        kafka.start()
        yield kafka
    finally:
        kafka.stop()


def connection(kafka: SecureKafka, password: str = PASSWORD, options: str = "tls=1&ca={ca}") -> Connection:
    """As the settings take it."""
    account = f"{USER}:{quote(password, safe='')}"
    url = f"kafka://{account}@{kafka.servers}?{options.format(ca=kafka.ca)}"
    return Connection(load({"FLASHSALE_BROKER": url}).broker)


async def test_requests_and_events_travel_with_tls_and_a_password(kafka):
    made = KafkaMade(kafka.servers)
    made.connection = connection(kafka)
    queue, deliveries = await made.queue(), await made.deliveries()
    assert await append(queue, a_request(1)) == [True]
    assert await take_all(deliveries, 1) == [a_request(1)]
    await made.close()
    broker = KafkaBroker(connection(kafka))
    await broker.publish([Message("flashsale.orders", "key", b"value")])
    await broker.close()


def test_a_wrong_password_is_refused_and_not_told(kafka):
    with pytest.raises(BrokerUnavailable, match="Authentication failed") as refused:
        facts(connection(kafka, "hush-hush"), Plan())
    assert "hush" not in str(refused.value)


def test_a_certificate_that_nobody_vouches_for_is_refused(kafka):
    with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
        facts(connection(kafka, options="tls=1"), Plan())


def test_a_certificate_file_that_is_not_there_is_named(kafka):
    with pytest.raises(BrokerUnavailable, match=r"ssl\.ca\.location"):
        facts(connection(kafka, options="tls=1&ca={ca}.gone"), Plan())
