"""One of several processes at one limit: `limit_crowd.py URL USER RATE SECONDS PATTERN`.

32 callers beside each other ask in a pattern, as a process of the server would ask the gate, and it says in JSON how
often they asked and were allowed, when they began and ended, and when there was last nothing left.
"""

import asyncio
import json
import sys
import time

from flashsale.backends.clock import SteadyClock
from flashsale.backends.redis import RedisGate
from flashsale.core.limits import inside
from flashsale.core.rate_limit import Buckets
from flashsale.core.thresholds import Thresholds
from flashsale.flow.limiting import Limiting

CALLERS = 32
PACES = {"hammering": 0.0, "just too fast": 0.7, "slower": 2.0}
"""Of all callers together, how much longer they wait than the limit asks; bursts have a pace of their own."""


class Crowd:
    def __init__(self, limiting: Limiting, user: str) -> None:
        self.limiting = limiting
        self.user = user
        self.asked = self.allowed = 0
        self.answered_at = 0.0
        """When the first answer came."""
        self.empty_at = 0.0
        """When the last was sent that was refused: then there was nothing left."""

    async def ask(self) -> None:
        self.asked += 1
        at = time.monotonic()
        future = asyncio.get_running_loop().create_future()
        self.limiting.take(inside(self.limiting.rates, self.user, None), future.set_result)
        refused = await future
        self.answered_at = self.answered_at or time.monotonic()
        self.allowed += refused is None
        if refused is not None:
            self.empty_at = max(self.empty_at, at)

    async def caller(self, until: float, pause: float, at_once: int) -> None:
        while time.monotonic() < until:
            await asyncio.gather(*(self.ask() for _ in range(at_once)))
            await asyncio.sleep(pause)


async def main(url: str, user: str, rate: str, seconds: str, pattern: str, processes: str) -> None:
    gate = await RedisGate.open(url)
    limit = Thresholds(user_per_second=float(rate), user_burst=600)
    crowd = Crowd(Limiting(limit, Buckets(1000), SteadyClock(), gate), user)
    pause = CALLERS * int(processes) / float(rate) * PACES.get(pattern, 0.0)
    pause, at_once = (0.5, 30) if pattern == "in bursts" else (pause, 1)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    began = time.monotonic()
    await asyncio.gather(*(crowd.caller(began + float(seconds), pause, at_once) for _ in range(CALLERS)))
    ended = time.monotonic()
    assert gate.trouble is None
    await gate.close()
    told = {"asked": crowd.asked, "allowed": crowd.allowed, "began": began, "ended": ended}
    print(json.dumps(told | {"answered": crowd.answered_at, "empty": crowd.empty_at}))


asyncio.run(main(*sys.argv[1:]))
