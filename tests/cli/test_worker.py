"""`flashsale worker`: a process that runs loops and has no buyers; and servers that leave the loops to it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from cli.program import NO_SANDBOX, run
from servers.postgres import fresh_database

from flashsale.backends.postgres.connect import migrate
from flashsale.rehearsal.http_client import HttpClient, LostReply
from flashsale.rehearsal.servers import Process, free_port

PATIENCE_SECONDS = 20.0
TAKEN_OVER_SECONDS = 3.0
LEASES = {"sweep", "resume", "consume"}
"""What a worker without a broker holds."""
NOWHERE = "postgresql://nobody:secret@127.0.0.1:1/nothing"


class Program(Process):
    """A command of flashsale that stays, on a ledger that others share."""

    def __init__(self, folder: Path, ledger: str, *arguments: str) -> None:
        folder.mkdir()
        command = [sys.executable, "-m", "flashsale.cli", *arguments, "--data", str(folder / "data")]
        super().__init__(arguments[0], command, {"FLASHSALE_LEDGER": ledger, **NO_SANDBOX}, folder / "log")

    async def ready(self) -> bool:
        return '"working"' in self.log.read_text() or '"serving"' in self.log.read_text()

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture
async def ledger(request: pytest.FixtureRequest) -> str:
    url = await fresh_database(f"worker_{abs(hash(request.node.name))}")
    await migrate(url)
    return url


async def holders(ledger: str) -> dict[str, str]:
    """Who has which lease now."""
    db = await asyncpg.connect(ledger)
    try:
        now = "floor(extract(epoch FROM clock_timestamp()) * 1000)"
        return dict(await db.fetch(f"SELECT relay, owner FROM relay WHERE until_ms > {now}"))
    finally:
        await db.close()


async def until_held(ledger: str, wanted: Callable[[dict[str, str]], bool], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not wanted(await holders(ledger)):  # noqa: ASYNC110  # other processes' doing
            await asyncio.sleep(0.05)


def taken_over_from(before: dict[str, str]) -> Callable[[dict[str, str]], bool]:
    """Whether somebody else holds all of them."""
    return lambda held: held.keys() == LEASES and not held.items() & before.items()


@asynccontextmanager
async def working(folder: Path, ledger: str, *arguments: str) -> AsyncIterator[Program]:
    async with Program(folder, ledger, "worker", *arguments) as program:
        yield program


# -- What it refuses


def test_a_ledger_in_a_file_is_refused_naming_postgresql(tmp_path):
    refused = run("worker", cwd=tmp_path)
    assert refused.code == 2
    assert "SQLite" in refused.said and "postgresql://" in refused.said
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_loop_is_refused_by_name(tmp_path):
    refused = run("worker", "sweep", "juggle", cwd=tmp_path, FLASHSALE_LEDGER=NOWHERE)
    assert refused.code == 2
    assert "'juggle' must be one of sweep, publish, consume" in refused.said


def test_a_worker_without_the_provider_of_the_servers_is_refused(tmp_path):
    refused = run("worker", cwd=tmp_path, FLASHSALE_LEDGER=NOWHERE)
    assert refused.code == 2
    assert "FLASHSALE_SANDBOX_URL" in refused.said


def test_a_ledger_that_is_not_there_is_refused_in_a_sentence(tmp_path):
    refused = run("worker", cwd=tmp_path, FLASHSALE_LEDGER=NOWHERE, **NO_SANDBOX)
    assert refused.code == 1
    assert "cannot be used now" in refused.said
    assert "secret" not in refused.said


@pytest.mark.parametrize("arguments", [("--loops", "none"), ("--loops", "sweep,publish")])
def test_a_server_on_a_file_runs_all_loops(tmp_path, arguments):
    refused = run("serve", *arguments, cwd=tmp_path)
    assert refused.code == 2
    assert "runs all loops" in refused.said


# -- What it does


async def test_a_worker_says_what_it_does_and_that_it_has_stopped(tmp_path, ledger):
    async with working(tmp_path / "one", ledger, "sweep", "consume") as worker:
        assert await worker.stop() == 0
    assert [event for event in worker.events if event in ("working", "stopped")] == ["working", "stopped"]
    assert '"loops": ["sweep", "consume"]' in worker.log.read_text()


async def test_leases_are_held_by_the_worker_and_not_by_a_server_without_loops(tmp_path, ledger):
    server = Program(tmp_path / "server", ledger, "serve", "--port", str(free_port()), "--loops", "none")
    async with server:
        await asyncio.sleep(1)  # longer than two questions: a server that asked would have them
        assert await holders(ledger) == {}
        async with working(tmp_path / "worker", ledger):
            await until_held(ledger, lambda held: held.keys() == LEASES)


async def test_a_worker_that_ends_gives_its_leases_back(tmp_path, ledger):
    async with working(tmp_path / "one", ledger) as worker:
        await until_held(ledger, lambda held: held.keys() == LEASES)
        assert await worker.stop() == 0
        assert await holders(ledger) == {}


async def test_of_two_workers_the_second_takes_over_within_three_seconds_when_the_first_is_killed(tmp_path, ledger):
    async with working(tmp_path / "one", ledger) as first:
        await until_held(ledger, lambda held: held.keys() == LEASES)
        before = await holders(ledger)
        async with working(tmp_path / "two", ledger):
            assert await holders(ledger) == before
            await first.kill()
            await until_held(ledger, taken_over_from(before), TAKEN_OVER_SECONDS)


async def test_a_worker_that_was_stopped_past_its_lease_and_goes_on_takes_nothing_from_its_successor(tmp_path, ledger):
    async with working(tmp_path / "one", ledger) as first:
        await until_held(ledger, lambda held: held.keys() == LEASES)
        before = await holders(ledger)
        async with working(tmp_path / "two", ledger) as second:
            os.kill(first.pid, signal.SIGSTOP)
            await until_held(ledger, taken_over_from(before))
            after = await holders(ledger)
            os.kill(first.pid, signal.SIGCONT)
            await asyncio.sleep(1)  # in which the first asks for its leases, and would take them
            assert await holders(ledger) == after
            assert (await first.stop(), await second.stop()) == (0, 0)
    assert "a loop failed" not in first.log.read_text() + second.log.read_text()


async def test_lapsed_units_go_back_on_sale_though_no_server_sweeps(tmp_path, ledger):
    port = free_port()
    server = Program(tmp_path / "server", ledger, "serve", "--port", str(port), "--loops", "none")
    async with server, working(tmp_path / "worker", ledger, "sweep"):
        client = HttpClient(f"http://127.0.0.1:{port}", connections=1, timeout=5.0)
        token = (tmp_path / "server" / "data" / "admin-token").read_text()
        await a_sale(client, token)
        reserved = await client.fetch("POST", "/api/v1/reservations", {"userId": "ann", "skuId": "LAMP"})
        assert reserved.status == 201
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b'"availableCount":1,' not in (await client.fetch("GET", "/api/v1/products/LAMP")).body:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        client.close()


async def a_sale(client: HttpClient, token: str) -> None:
    product = {"skuId": "LAMP", "name": "A lamp", "basePrice": 2, "flashSalePrice": 1, "stock": 1}
    sale = {"name": "A sale", "startsAt": "2020-01-01T00:00:00Z", "reservationSeconds": 1, "products": [product]}
    created = await client.fetch("POST", "/api/v1/admin/sales", sale, {"Authorization": f"Bearer {token}"})
    assert created.status == 201, created.body


# -- How it is


async def test_a_worker_tells_how_it_is_and_has_no_other_routes(tmp_path, ledger):
    port = free_port()
    async with working(tmp_path / "one", ledger, "--health", str(port)) as worker:
        client = HttpClient(f"http://127.0.0.1:{port}", connections=1, timeout=5.0)
        statuses = {path: await status(client, path) for path in ("/health/live", "/health/ready", "/api/v1/products")}
        assert statuses == {"/health/live": 200, "/health/ready": 200, "/api/v1/products": 404}
        client.close()
        assert await worker.stop() == 0
    assert worker.events[-1] == "stopped"


async def status(client: HttpClient, path: str) -> int:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return (await client.fetch("GET", path)).status
            except LostReply:  # it says "working" before it listens
                await asyncio.sleep(0.05)


async def test_a_health_port_in_use_is_refused_in_a_sentence(tmp_path, ledger):
    port = free_port()
    async with working(tmp_path / "one", ledger, "--health", str(port)) as worker:
        client = HttpClient(f"http://127.0.0.1:{port}", connections=1, timeout=5.0)
        await status(client, "/health/live")
        client.close()
        second = await asyncio.to_thread(
            run, "worker", "--health", port, cwd=tmp_path, FLASHSALE_LEDGER=ledger, **NO_SANDBOX
        )
        assert second.code == 1 and f"cannot listen on 127.0.0.1:{port}" in second.said
        assert worker.running
