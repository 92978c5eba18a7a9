"""One of several processes at one gate: `gate_crowd.py URL SALE BUCKET NUMBER`.

Waits for a line, then asks for more than there is, and says in JSON how much it got.
"""

import asyncio
import json
import sys

from flashsale.backends.redis import RedisGate
from flashsale.core.permits import Verdict, Wish
from flashsale.core.rate_limit import Draft

CALLERS = 20
CALLS = 5
BATCH = 20
BURST = 2000


async def caller(gate: RedisGate, sale: str, bucket: str, name: str) -> tuple[int, int]:
    permitted = allowed = 0
    for call in range(CALLS):
        ids = [f"res_{name}-{call}-{each}" for each in range(BATCH)]
        permits = await gate.permit([Wish(each, each, sale, "PHONE", 1, 1, "p") for each in ids])
        permitted += sum(each.verdict is Verdict.PERMITTED for each in permits)
        allowed += sum(each.allowed for each in await gate.take([Draft(bucket, 0.001, BURST)] * BATCH))
    return permitted, allowed


async def main(url: str, sale: str, bucket: str, number: str) -> None:
    gate = await RedisGate.open(url)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    got = await asyncio.gather(*(caller(gate, sale, bucket, f"{number}-{each}") for each in range(CALLERS)))
    await gate.close()
    print(json.dumps({"permitted": sum(each[0] for each in got), "allowed": sum(each[1] for each in got)}))


asyncio.run(main(*sys.argv[1:]))
