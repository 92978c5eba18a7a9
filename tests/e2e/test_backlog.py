"""A queue that is not worked off: while consumers stand still, while PostgreSQL or Kafka is away.

The losers are told so at the door and not in the queue, what is acknowledged waits, and no trouble of a store makes a
dead letter.
"""

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from pathlib import Path

import asyncpg
import msgspec
import pytest
from contract.queues import until
from contract.topics import Topics
from servers.kafka import KafkaServer
from servers.postgres import PostgresServer
from servers.process import running
from servers.valkey import ValkeyServer

from flashsale.backends.postgres.joining import migrate_all
from flashsale.core.request import Request
from flashsale.rehearsal.http_client import HttpClient
from flashsale.rehearsal.operator import Operator, SaleFacts
from flashsale.rehearsal.servers import Sandbox, ShopServer, Worker

UNITS, BUYERS = 400, 2_500
AWAY_SECONDS = 10.0
KAFKA_AWAY_SECONDS = 60.0 if os.environ.get("FLASHSALE_SOAK") else 2.0
BACKLOG_SECONDS = 5.0
SPARE = 1.05
"""Permits may be this many times the units."""
PATIENCE_SECONDS = 20.0


@pytest.fixture
def stores() -> Iterator[tuple[PostgresServer, KafkaServer, ValkeyServer]]:
    with running(PostgresServer()) as postgres, running(KafkaServer()) as kafka, running(ValkeyServer()) as valkey:
        yield postgres, kafka, valkey


class Sale:
    """A server with two API processes, its crowd, and the consumer that comes late."""

    def __init__(self, operator: Operator, client: HttpClient, server: ShopServer, directory: Path) -> None:
        self.operator, self.client, self.server, self.directory = operator, client, server, directory
        self.answers: list[int] = []

    async def crowd(self, first: int, size: int) -> list[int]:
        return await asyncio.gather(*(self.wants(number) for number in range(first, first + size)))

    async def insisting_crowd(self, first: int, size: int) -> list[int]:
        """Whoever is told to come back later (a store was slow to answer) does."""
        statuses = await self.crowd(first, size)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for place, status in enumerate(statuses):
                while status == 503:
                    statuses[place] = status = await self.wants(first + place)
        return statuses

    async def wants(self, number: int) -> int:
        body = {"skuId": self.operator.sale.sku, "quantity": 1, "userId": f"u{number}"}
        answer = await self.client.fetch("POST", "/api/v1/reservations", body, {"Idempotency-Key": "k"})
        return answer.status

    def consumer(self) -> Worker:
        settings = {name: value for name, value in self.server.settings.items() if name != "FLASHSALE_LOOPS"}
        return Worker(self.directory, "consumer", ["consume"], settings)

    async def all_told(self, first: int, size: int) -> bool:
        return set(await self.crowd(first, size)) == {202}

    async def all_held(self) -> bool:
        return (await self.operator.ledger())[0].held == UNITS


@pytest.fixture
async def sale(stores, tmp_path: Path) -> AsyncIterator[Sale]:
    postgres, kafka, valkey = stores
    await migrate_all([postgres.url()])
    token = secrets.token_urlsafe(16)
    facts = SaleFacts("sale", "PHONE", UNITS, 600, mode="queued")
    settings = {"FLASHSALE_GATE": valkey.url, "FLASHSALE_PARTITIONS": "4", "FLASHSALE_LOOPS": "none"}
    broker = f"kafka://{kafka.servers}"
    async with (
        Sandbox(tmp_path) as sandbox,
        ShopServer(tmp_path, token, sandbox.url, postgres.url(), 2, broker, **settings) as server,
    ):
        with closing(HttpClient(server.url, 200)) as client, closing(HttpClient(sandbox.url, 2)) as provider:
            operator = Operator(client, provider, token, facts)
            await operator.create_sale(opens_in_seconds=-1.0)
            yield Sale(operator, client, server, tmp_path)


async def test_a_backlog_of_five_seconds_grants_no_more_permits_than_units_and_five_percent(sale, stores):
    postgres, kafka, _ = stores
    began = time.monotonic()
    statuses = await sale.insisting_crowd(0, BUYERS)
    while time.monotonic() < began + BACKLOG_SECONDS:
        statuses += await sale.insisting_crowd(len(statuses), 100)
        await asyncio.sleep(0.1)
    waiting, refused = statuses.count(202), statuses.count(409)
    assert waiting + refused == len(statuses)
    with Topics(kafka.servers, "flashsale.requests") as topics:
        read = [msgspec.json.decode(each, type=Request) for key in topics.read_all().values() for each in key]
    queued = {request.reservation_ids for request in read}
    assert UNITS <= waiting <= UNITS * SPARE
    assert len(queued) == waiting
    async with sale.consumer():
        await until(sale.all_held, PATIENCE_SECONDS)
    held = "SELECT count(DISTINCT user_id) FROM reservation WHERE status = 'RESERVED'"
    assert await asked(postgres, held) == UNITS


async def test_ten_seconds_without_postgres_lose_nothing_that_was_acknowledged(sale, stores):
    postgres, _, _ = stores
    async with sale.consumer():
        statuses = await sale.crowd(0, 100)
        await asyncio.to_thread(postgres.kill)
        statuses += await sale.crowd(100, 100)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(postgres.start)
        acknowledged = statuses.count(202)
        assert set(statuses) <= {202, 503} and acknowledged > 100
        await until(lambda: decided(postgres, acknowledged), PATIENCE_SECONDS)
    assert await dead_letters(postgres) == 0


async def test_while_kafka_is_away_nobody_is_told_that_he_waits_and_later_everybody_can(sale, stores):
    postgres, kafka, _ = stores
    async with sale.consumer():
        statuses = await sale.crowd(0, 50)
        await asyncio.to_thread(kafka.kill)
        away_until = time.monotonic() + KAFKA_AWAY_SECONDS
        meanwhile = await sale.crowd(50, 50)
        await asyncio.sleep(away_until - time.monotonic())
        await asyncio.to_thread(kafka.start)
        assert set(statuses) == {202} and set(meanwhile) == {503}
        await until(lambda: sale.all_told(50, 50), PATIENCE_SECONDS)
        await until(lambda: decided(postgres, 100), PATIENCE_SECONDS)
    assert await dead_letters(postgres) == 0


async def decided(postgres: PostgresServer, number: int) -> bool:
    """Whether so many requests have units; a server that has just started may not answer yet."""
    with suppress(OSError, asyncpg.PostgresError):
        return await asked(postgres, "SELECT count(*) FROM reservation WHERE status = 'RESERVED'") == number
    return False


async def dead_letters(postgres: PostgresServer) -> int:
    return await asked(postgres, "SELECT count(*) FROM dead_letter")


async def asked(postgres: PostgresServer, question: str) -> int:
    db = await asyncpg.connect(postgres.url())
    try:
        return int(await db.fetchval(question))
    finally:
        await db.close()
