"""Two thousand slow clients against a real server: honest ones hardly notice.

Loopback addresses are not capped, so all 2,000 get their connections, and take them again whenever they lose them
(`slow_crowd.py` says what they do). Honest clients ask meanwhile at a steady rate, and their latency is counted from
the moment at which they wanted to ask. Rounds with and without the slow ones alternate in one run; what is compared
are the medians of the rounds, because the machine has other things to do as well.
"""

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import uvloop
from cli.program import NO_SANDBOX, Server
from edge.shop import OPERATOR, TOKEN, product, sale

from flashsale.rehearsal.http_client import HttpClient

SLOW = 2000
RATE = 300
ROUND_SECONDS = 1.0
CALM_ROUNDS, SLOW_ROUNDS = 2, 3
"""In a turn: so long that each request that drips in reaches its deadline."""
TURNS_MIN, TURNS_MAX = 3, 8
RECEIVE_SECONDS = 1.5
LATE_SECONDS = 1.5
"""More would let the deadline pass that holds where none is set."""
DRIPPING = ("HEAD", "BODY")
ENDED_MIN = 0.8 * SLOW / 4
"""Of each kind in a turn."""
GROWTH_MAX_MB = 160


class SlowCrowd:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, what: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what.encode() + b"\n")
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode()


@asynccontextmanager
async def slow_crowd(port: int, count: int) -> AsyncIterator[SlowCrowd]:
    command = [sys.executable, str(Path(__file__).with_name("slow_crowd.py")), str(port), str(count)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield SlowCrowd(process)
    finally:
        process.kill()
        await process.wait()


class Honest:
    """Clients who look and buy."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._numbers = itertools.count()
        self.refused: list[int] = []

    async def round(self) -> float:
        """The 99th percentile of a round, in milliseconds."""
        begin = time.monotonic()
        tasks = [
            asyncio.create_task(self._ask(begin + number / RATE, next(self._numbers)))
            for number in range(int(RATE * ROUND_SECONDS))
        ]
        return statistics.quantiles(await asyncio.gather(*tasks), n=100)[98] * 1000

    async def _ask(self, when: float, number: int) -> float:
        await asyncio.sleep(when - time.monotonic())
        if number % 4:
            answer = await self._client.fetch("GET", "/api/v1/products/PHONE/availability")
        else:
            body = {"skuId": "PHONE", "userId": f"user-{number}"}
            answer = await self._client.fetch("POST", "/api/v1/reservations", body)
        if answer.status not in (200, 201):
            self.refused.append(answer.status)
        return time.monotonic() - when


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


class Seen:
    """Of a run."""

    def __init__(self) -> None:
        self.calm: list[float] = []
        self.slow: list[float] = []
        self.turns = 0
        self.ended: Counter[str] = Counter()
        """Connections that the server has ended, by what their clients did."""
        self.grown_mb = 0.0
        self.refused: list[int] = []

    @property
    def ratio(self) -> float:
        return statistics.median(self.slow) / statistics.median(self.calm)

    @property
    def enough(self) -> bool:
        return self.turns >= TURNS_MAX or (self.turns >= TURNS_MIN and self.ratio < 2)

    def __str__(self) -> str:
        calm, slow = (f"{statistics.median(p99s):.2f} (of {len(p99s)})" for p99s in (self.calm, self.slow))
        p99s = f"p99 in ms: calm {calm}, slow {slow}, ratio {self.ratio:.2f}"
        return f"{p99s}; ended in {self.turns} turns: {dict(self.ended)}; memory grown by {self.grown_mb:.0f} MB"


async def observe(server: Server, crowd: SlowCrowd, client: HttpClient) -> Seen:
    seen, honest = Seen(), Honest(client)
    created = await client.fetch("POST", "/api/v1/admin/sales", sale(product(stock=100_000)), OPERATOR)
    assert created.status == 201
    await honest.round()  # warm
    before_mb = resident_mb(server.process.pid)
    while not seen.enough:
        seen.calm += [await honest.round() for _ in range(CALM_ROUNDS)]
        assert await crowd.do("open") == "open\n"
        seen.slow += [await honest.round() for _ in range(SLOW_ROUNDS)]
        seen.grown_mb = max(seen.grown_mb, resident_mb(server.process.pid) - before_mb)
        await drips_end(crowd)
        seen.ended.update(json.loads(await crowd.do("close")))
        seen.turns += 1
    seen.refused = honest.refused
    return seen


async def drips_end(crowd: SlowCrowd) -> None:
    """On a busy machine a deadline may pass late."""
    until = time.monotonic() + LATE_SECONDS
    while time.monotonic() < until:
        ended = json.loads(await crowd.do("told"))
        if min(ended.get(kind, 0) for kind in DRIPPING) > ENDED_MIN:
            return
        await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    settings = {"FLASHSALE_ADMIN_TOKEN": TOKEN, "FLASHSALE_RECEIVE_SECONDS": str(RECEIVE_SECONDS), **NO_SANDBOX}

    async def run(server: Server) -> Seen:
        with closing(HttpClient(server.url, 64)) as client:
            async with slow_crowd(server.port, SLOW) as crowd:
                return await observe(server, crowd, client)

    with Server(tmp_path_factory.mktemp("slow"), **settings) as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seen = runner.run(run(server))
        assert "Traceback" not in server.errors
    print(seen)
    return seen


def test_two_thousand_slow_clients_do_not_double_the_latency_of_honest_ones(seen: Seen) -> None:
    assert seen.refused == []
    assert seen.ratio < 2, str(seen)


def test_a_request_that_drips_in_is_ended_at_its_deadline(seen: Seen) -> None:
    for kind in DRIPPING:
        assert seen.ended[kind] > seen.turns * ENDED_MIN, str(seen)


def test_what_slow_clients_do_not_read_takes_bounded_memory(seen: Seen) -> None:
    assert seen.grown_mb < GROWTH_MAX_MB, str(seen)
