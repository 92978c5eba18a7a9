"""A waiting room keeps every place and every pass, however its processes and stores are killed.

People join before the start and after it, ask again and again, and buy when they are let in. Meanwhile the process that
serves them is killed with -9, or Valkey is killed, started again empty, and emptied. FLASHSALE_SEED says which moments.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from e2e.queue_of_people import Hall, a_hall
from e2e.scenario import SEED, children
from servers.postgres import PostgresServer
from servers.process import running
from servers.valkey import ValkeyServer

from flashsale.backends.postgres.connect import migrate

AWAY_SECONDS = 2.0
GOES_ON_SECONDS = 3.0
STARTS_IN_SECONDS = 5.0


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running(PostgresServer()) as server:
        yield server


@pytest.fixture
def valkey() -> Iterator[ValkeyServer]:
    with running(ValkeyServer()) as server:
        yield server


class Fleet:
    """Two workers on PostgreSQL with a gate on Valkey, and a look into the ledger."""

    def __init__(self, hall: Hall, valkey: ValkeyServer, ledger: asyncpg.Connection) -> None:
        self.hall = hall
        self.valkey = valkey
        self._ledger = ledger

    async def head(self) -> int:
        head: int = await self._ledger.fetchval("SELECT head FROM room")
        return head

    async def goes_on(self) -> float:
        """How long it takes until somebody is let in."""
        began, before = time.monotonic(), await self.head()
        async with asyncio.timeout(20):
            while await self.head() == before:  # noqa: ASYNC110 another process does it
                await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def kill_a_worker(self) -> None:
        os.kill(self.hall.dice.choice(children(self.hall.server.pid)), signal.SIGKILL)


@asynccontextmanager
async def a_fleet(folder, postgres: PostgresServer, valkey: ValkeyServer) -> AsyncIterator[Fleet]:
    await migrate(postgres.url())
    async with a_hall(folder, SEED, postgres.url(), 2, FLASHSALE_GATE=valkey.url) as hall:
        ledger = await asyncpg.connect(postgres.url())
        try:
            yield Fleet(hall, valkey, ledger)
        finally:
            await ledger.close()


async def test_a_killed_process_loses_no_ticket_no_place_and_no_pass(tmp_path):
    print(f"FLASHSALE_SEED={SEED}")
    async with a_hall(tmp_path, SEED) as hall:
        await hall.open(STARTS_IN_SECONDS)
        hall.come(100, within_seconds=4.0)
        for seconds in (1.5, 1.0):
            await asyncio.sleep(seconds)
            await kill(hall)
        await asyncio.sleep(STARTS_IN_SECONDS - 2.5)
        hall.come(50, within_seconds=3.0)
        for _ in range(4):
            await asyncio.sleep(hall.dice.uniform(0.2, 1.0))
            await kill(hall)
        await hall.all_have_bought()
        assert await hall.faults() == []


async def kill(hall: Hall) -> None:
    await hall.server.kill()
    await hall.server.start()
    await hall.join_again()


async def test_a_fleet_loses_nothing_when_valkey_or_a_worker_is_killed_or_valkey_is_emptied(tmp_path, postgres, valkey):
    print(f"FLASHSALE_SEED={SEED}")
    async with a_fleet(tmp_path, postgres, valkey) as fleet:
        hall = fleet.hall
        await hall.open(STARTS_IN_SECONDS)
        hall.come(120, within_seconds=4.0)
        await asyncio.sleep(1.5)
        await fleet.kill_a_worker()
        valkey.ask("FLUSHALL")
        await asyncio.sleep(STARTS_IN_SECONDS - 1.5)
        hall.come(60, within_seconds=4.0)
        await fleet.goes_on()

        valkey.ask("FLUSHALL")
        recovered = {"emptied": await fleet.goes_on()}
        await fleet.kill_a_worker()
        recovered["worker"] = await fleet.goes_on()
        recovered["valkey"] = await killed_valkey(fleet)
        await hall.join_again()
        await hall.all_have_bought()
        assert await hall.faults() == []
        assert {name: seconds for name, seconds in recovered.items() if seconds > GOES_ON_SECONDS} == {}


async def killed_valkey(fleet: Fleet) -> float:
    """While it is away nobody is let in, and whoever has a pass buys. How long it takes afterwards to go on."""
    hall, valkey = fleet.hall, fleet.valkey
    patient = next(person for person in hall.people if "ADMITTED" not in person.states)
    patient.may_buy.clear()
    async with asyncio.timeout(30):
        while patient.states[-1] != "ADMITTED":  # noqa: ASYNC110 he asks by himself
            await asyncio.sleep(0.05)
    valkey.kill()
    await asyncio.sleep(0.5)  # what was under way
    before = await fleet.head()
    patient.may_buy.set()
    await asyncio.sleep(AWAY_SECONDS)
    assert await fleet.head() == before, "somebody was let in while nobody could be heard"
    assert patient.bought == 1
    valkey.start()
    return await fleet.goes_on()
