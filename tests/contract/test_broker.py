"""What a broker promises to those who publish; asked of Kafka."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from contract.topics import Topics
from servers.kafka import KafkaServer, kafka_servers
from servers.process import running

from flashsale.backends.kafka import Connection, KafkaBroker, publisher
from flashsale.ports import BrokerUnavailable, Message

NOBODY = "127.0.0.1:9"


@pytest.fixture(scope="module")
def servers() -> str:
    return kafka_servers()


@pytest.fixture
async def broker(servers) -> AsyncIterator[KafkaBroker]:
    broker = broker_at(servers)
    yield broker
    await broker.close()


def broker_at(servers: str) -> KafkaBroker:
    return KafkaBroker(Connection(f"kafka://{servers}"))


@pytest.fixture
def topic() -> str:
    """One that nobody has used."""
    return f"test.{secrets.token_hex(6)}"


def letters(topic: str, keys: str, number: int, first: int = 0) -> list[Message]:
    return [Message(topic, key, b"%d" % each) for each in range(first, first + number) for key in keys]


async def test_what_is_published_has_arrived_when_publish_returns(broker, servers, topic):
    await broker.publish(letters(topic, "a", 10))
    with Topics(servers, topic) as topics:
        assert topics.read(10) == {"a": [b"%d" % each for each in range(10)]}


async def test_messages_of_a_key_arrive_in_the_order_in_which_they_were_sent(broker, servers, topic):
    for first in range(0, 1_000, 200):
        await broker.publish(letters(topic, "abcdefgh", 200, first))
    with Topics(servers, topic) as topics:
        assert topics.read(8_000) == {key: [b"%d" % each for each in range(1_000)] for key in "abcdefgh"}


async def test_a_page_is_acknowledged_without_waiting_for_the_next(broker, topic):
    await broker.publish(letters(topic, "a", 1))
    began = time.monotonic()
    for each in range(20):
        await broker.publish(letters(topic, "a", 1, each))
    assert time.monotonic() - began < 2


async def test_a_broker_that_is_away_is_unavailable_after_a_while(monkeypatch):
    monkeypatch.setattr(publisher, "ACKNOWLEDGED_SECONDS", 0.5)
    broker = broker_at(NOBODY)
    with pytest.raises(BrokerUnavailable, match=NOBODY):
        await broker.publish(letters("test", "a", 3))
    await broker.close()


async def test_a_message_that_the_broker_refuses_is_unavailable_and_the_next_page_gets_through(broker, servers, topic):
    with pytest.raises(BrokerUnavailable):
        await broker.publish([Message(topic, "a", b"x" * 2_000_000)])
    await broker.publish(letters(topic, "a", 3))
    with Topics(servers, topic) as topics:
        assert topics.read(3) == {"a": [b"0", b"1", b"2"]}


async def test_whoever_gives_up_waiting_for_a_broker_that_is_away_can_close_it(topic):
    broker = broker_at(NOBODY)
    waiting = asyncio.ensure_future(broker.publish(letters(topic, "a", 3)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await broker.close()


# -- A broker that is killed and comes again. It has to be one that can be killed.


@pytest.fixture
def mortal() -> Iterator[KafkaServer]:
    with running(KafkaServer()) as server:
        yield server


async def test_a_broker_that_is_killed_and_started_again_has_everything_in_order_without_a_gap(mortal, topic):
    """Whoever repeats a page until it is acknowledged may repeat, but never lets what is newer come first."""
    broker = broker_at(mortal.servers)
    kill = asyncio.create_task(killed_and_started(mortal))
    first = 0
    while first < 2_000 or not kill.done():
        await until_acknowledged(broker, letters(topic, "ab", 100, first))
        first += 100
    await kill
    await broker.close()
    with Topics(mortal.servers, topic) as topics:
        arrived = topics.read_all()
    for numbers in arrived.values():
        assert list(dict.fromkeys(numbers)) == [b"%d" % each for each in range(first)]


async def killed_and_started(server: KafkaServer) -> None:
    for _ in range(2):
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)


async def until_acknowledged(broker: KafkaBroker, page: list[Message]) -> None:
    while True:
        try:
            return await broker.publish(page)
        except BrokerUnavailable:
            await asyncio.sleep(0.1)
