"""The parent of `serve --workers`: what happens to its workers does not end a shop that can still sell."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from e2e.scenario import children
from servers.postgres import PostgresServer, fresh_database

from flashsale.backends.postgres.connect import migrate
from flashsale.rehearsal.http_client import HttpClient, LostReply
from flashsale.rehearsal.servers import Process, free_port

WORKERS = 2
PATIENCE_SECONDS = 30.0


class Server(Process):
    """`flashsale serve --workers` with settings of a file, and a sandbox of its own."""

    def __init__(self, directory: Path, ledger: str) -> None:
        port = free_port()
        self.url, self.config = f"http://127.0.0.1:{port}", directory / "settings.toml"
        self.config.write_text("")
        command = [sys.executable, "-m", "flashsale.cli", "serve", "--port", str(port)]
        command += ["--data", str(directory / "data"), "--workers", str(WORKERS)]
        env = {"FLASHSALE_LEDGER": ledger, "FLASHSALE_CONFIG": str(self.config)}
        super().__init__("the server", command, env, directory / "server.log")

    @property
    def workers(self) -> set[int]:
        """The sandbox is a child too; a worker is one that serves."""
        return {pid for pid in children(self.pid) if b"--socket" in Path(f"/proc/{pid}/cmdline").read_bytes()}

    async def ready(self) -> bool:
        return await self.status() == 200

    async def status(self) -> int:
        client = HttpClient(self.url, connections=1, timeout=5.0)
        try:
            return (await client.fetch("GET", "/health/ready")).status
        except LostReply:
            return 0
        finally:
            client.close()

    def says(self, words: str) -> bool:
        return words in self.log.read_text()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not true():  # noqa: ASYNC110  # another process's doing
            await asyncio.sleep(0.05)


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await server.ready():  # noqa: ASYNC110  # another process's doing
            await asyncio.sleep(0.1)


@asynccontextmanager
async def serving(tmp_path: Path, ledger: str) -> AsyncIterator[Server]:
    await migrate(ledger)
    async with Server(tmp_path, ledger) as server:
        await until(lambda: server.says('"workers serve"'))
        yield server


async def test_workers_that_do_not_come_to_serve_replace_nobody(tmp_path):
    async with serving(tmp_path, await fresh_database("broken_settings")) as server:
        old = server.workers
        server.config.write_text('queue_max = "nonsense"')
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: server.says("workers were not replaced"))
        assert server.workers == old
        assert await server.status() == 200
        server.config.write_text("")
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: server.says("workers were replaced"))
        assert not server.workers & old
        assert await server.status() == 200


async def test_impatient_operators_get_as_many_workers_as_they_asked_for(tmp_path):
    async with serving(tmp_path, await fresh_database("impatient")) as server:
        old = server.workers
        for _ in range(3):
            os.kill(server.pid, signal.SIGHUP)
            await asyncio.sleep(0.02)
        await until(lambda: server.log.read_text().count("workers were replaced") >= 1 and not server.workers & old)
        await asyncio.sleep(3)
        await until(lambda: len(server.workers) == WORKERS)
        assert await server.status() == 200


async def test_a_worker_that_dies_while_the_database_is_away_takes_nobody_with_it(tmp_path):
    postgres = PostgresServer()
    await asyncio.to_thread(postgres.start)
    try:
        async with serving(tmp_path, postgres.url()) as server:
            victim, survivor = server.workers
            await asyncio.to_thread(postgres.kill)
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(4)
            assert survivor in server.workers
            assert await server.status() == 503
            await asyncio.to_thread(postgres.start)
            await until(lambda: len(server.workers) == WORKERS)
            await until_ready(server)
    finally:
        postgres.stop()


async def test_a_server_whose_first_workers_fail_ends_with_the_reason(tmp_path):
    ledger = await fresh_database("without_schema")
    server = Server(tmp_path, ledger)
    await server.launch()
    try:
        await until(lambda: not server.running)
    finally:
        await server.kill()
    assert server.says("run `flashsale migrate`")
    assert server.says("workers end with code 1 before they serve")


async def test_workers_find_the_sandbox_again_after_it_was_killed(tmp_path):
    async with serving(tmp_path, await fresh_database("sandbox_killed")) as server:
        (sandbox,) = set(children(server.pid)) - server.workers
        os.kill(sandbox, signal.SIGKILL)
        await until(lambda: bool(set(children(server.pid)) - server.workers - {sandbox}))
        client = HttpClient(server.url, connections=1, timeout=5.0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while b'"provider":{"state":"ok"' not in (await client.fetch("GET", "/health")).body:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_workers_leave_when_they_are_told_to(tmp_path, number):
    async with serving(tmp_path, await fresh_database("leaving")) as server:
        os.kill(server.pid, number)
        await until(lambda: not server.running)
        assert await server.stop() == 0
        assert await server.status() == 0


async def test_a_scrape_of_one_worker_tells_for_all_of_them(tmp_path):
    async with serving(tmp_path, await fresh_database("scraped")) as server:
        client = HttpClient(server.url, connections=1, timeout=5.0)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                told = (await client.fetch("GET", "/metrics")).body.decode()
                if all(f'worker="{slot}"' in told for slot in range(WORKERS)):
                    break
                await asyncio.sleep(0.2)  # each leaves its numbers every two seconds
        client.close()
        assert told.count("flashsale_build_info{") == WORKERS
        assert sorted(each.name for each in (tmp_path / "data" / "metrics").glob("*.json")) == [
            f"worker-{slot}.json" for slot in range(WORKERS)
        ]
