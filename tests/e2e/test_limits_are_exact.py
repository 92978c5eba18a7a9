"""One limit, several processes at one Redis, 32 callers in each: together they get the limit, within 1 %."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from contract.gates import fresh
from servers.valkey import server_url

PROGRAM = Path(__file__).with_name("limit_crowd.py")
PROCESSES = 3
RATE, BURST = 500, 600
SECONDS = 5


async def crowd(pattern: str) -> tuple[int, int, float, float]:
    """How often they asked and were allowed; and how long that took, at least and at most: from the first answer until
    there was last nothing left, and from the first question to the last answer."""
    pipe = asyncio.subprocess.PIPE
    words = [server_url(), fresh("user"), str(RATE), str(SECONDS), pattern, str(PROCESSES)]
    command = [sys.executable, str(PROGRAM), *words]
    each = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(PROCESSES)]
    assert [await one.stdout.readline() for one in each] == [b"ready\n"] * PROCESSES
    told = [json.loads(out) for out, _ in await asyncio.gather(*(one.communicate(b"go\n") for one in each))]
    least = max(one["empty"] for one in told) - min(one["answered"] for one in told)
    most = max(one["ended"] for one in told) - min(one["began"] for one in told)
    return sum(one["asked"] for one in told), sum(one["allowed"] for one in told), least, most


@pytest.mark.parametrize("pattern", ["hammering", "in bursts", "just too fast"])
async def test_together_they_get_the_limit_and_not_1_percent_more_or_less(pattern):
    asked, allowed, *seconds = await crowd(pattern)
    least, most = (BURST + RATE * each for each in seconds)
    assert asked > least * 1.05, "they ask for more than there is"
    assert least * 0.99 <= allowed <= most * 1.01, (asked, allowed, seconds)


async def test_who_stays_below_the_limit_is_never_refused():
    asked, allowed, *_ = await crowd("slower")
    assert allowed == asked > RATE
