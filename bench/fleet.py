"""A fleet on one machine: API processes and workers of their own, with PostgreSQL (fsync on), Valkey and Kafka."""

import asyncio
import contextlib
import secrets
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from machine import ROOT, free_port, process
from rivals import call, expect, sale, wait_for

from flashsale.backends.postgres.joining import migrate_all

sys.path.append(str(ROOT / "tests"))
from servers.kafka import KafkaServer
from servers.postgres import PostgresServer
from servers.valkey import ValkeyServer

PROGRAM = str(ROOT / ".venv/bin/flashsale")
SALES = count(1)
"""One fleet after the other is on the same databases."""


class Fleet:
    """`apis` processes behind one port, and a worker that consumes and publishes."""

    def __init__(self, postgres: str, apis: int, **settings: str) -> None:
        self.url, self.apis, self.settings = postgres, apis, settings
        self.port, self.token = free_port(), secrets.token_hex(16)
        self.pids: dict[str, int] = {}

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator["Fleet"]:
        home = str(place / f"fleet-{secrets.token_hex(4)}")
        nobody = "http://127.0.0.1:9"  # nothing is paid for here
        shared = {"FLASHSALE_ADMIN_TOKEN": self.token, "FLASHSALE_LEDGER": self.url, "FLASHSALE_SANDBOX_URL": nobody}
        shared |= self.settings
        serve = [PROGRAM, "serve", "--port", str(self.port), "--data", home, "--workers", str(self.apis)]
        with contextlib.ExitStack() as stack:
            api = stack.enter_context(process("api", [*serve, "--loops", "none"], place, **shared))
            wait_for(api, self.port, "/health/ready")
            worker = stack.enter_context(
                process("worker", [PROGRAM, "worker", "consume", "publish", "--data", home], place, **shared)
            )
            self.pids = {"api": api.pid, "worker": worker.pid}
            yield self

    def admin(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call(self.port, method, f"/api/v1/admin{path}", body, Authorization=f"Bearer {self.token}")

    def open_sale(self, stock: int, mode: str = "queued") -> str:
        """Returns the product."""
        number = next(SALES)
        self.sale, sku = f"bench-{number}", f"BENCH-{number}"
        expect(201, self.admin("POST", "/sales", sale(self.sale, sku, stock) | {"mode": mode}))
        return sku

    def held(self) -> int:
        ledger = expect(200, self.admin("GET", f"/sales/{self.sale}/ledger"))
        if not ledger["consistent"]:
            raise RuntimeError(f"the ledger is not consistent: {ledger}")
        return sum(product["held"] + product["sold"] for product in ledger["products"])


async def another(server: PostgresServer, number: int) -> str:
    """A second database on the same server."""
    db = await asyncpg.connect(server.url())
    await db.execute(f"CREATE DATABASE shard_{number}")
    await db.close()
    return server.url(f"shard_{number}")


@contextlib.contextmanager
def stores(kafka: bool = True, databases: int = 1) -> Iterator[dict[str, Any]]:
    """The servers of a fleet; `ledger` is the value of FLASHSALE_LEDGER."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Any] = {}
        postgres = found["postgres"] = PostgresServer(durable=True)
        stack.callback(postgres.stop)
        postgres.start()
        urls = [postgres.url()] + [asyncio.run(another(postgres, number)) for number in range(1, databases)]
        asyncio.run(migrate_all(urls))
        found["ledger"] = " ".join(urls)
        valkey = found["valkey"] = ValkeyServer()
        stack.callback(valkey.stop)
        valkey.start()
        if kafka:
            broker = found["kafka"] = KafkaServer()
            stack.callback(broker.stop)
            broker.start()
        yield found
