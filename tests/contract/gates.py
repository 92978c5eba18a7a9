"""Gates with a clock in hand: the contract speaks of seconds and minutes, and no test waits for them."""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis
from servers.valkey import server_url

from flashsale.backends.memory import MemoryGate
from flashsale.backends.redis import RedisGate
from flashsale.backends.redis.connect import script
from flashsale.backends.redis.gate import SETTINGS_KEY
from flashsale.core.permits import Wish
from flashsale.ports import Gate

START_MS = 1_800_000_000_000
MS = (
    re.compile(r"local function clock_ms\(\).*?\nend\n", re.DOTALL),
    "local function clock_ms() return {} end\n",
)
CLOCK = {
    "gate": MS,
    "signs": MS,
    "buckets": (
        re.compile(r"local function clock_us\(\).*?\nend\n", re.DOTALL),
        "local function clock_us() return {} end\n",
    ),
    "sightings": MS,
}
ORIGIN_MS = 1_700_000_000_000


class Hand:
    """A clock that goes when it is told to."""

    alarm = None

    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms

    def follow(self) -> None: ...

    def hear(self, told_ms: int) -> int:
        return self.ms


class Held:
    """A gate and the hand on its clock."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.clock = Hand()

    def pass_ms(self, ms: int) -> None:
        self.clock.ms += ms


class HeldRedis(Held):
    """In its scripts the server's clock is replaced by a number."""

    def __init__(self, gate: RedisGate) -> None:
        super().__init__(gate)
        self._as_they_come = gate.scripts
        self.pass_ms(0)

    def pass_ms(self, ms: int) -> None:
        super().pass_ms(ms)
        times = {"buckets": (self.clock.ms - ORIGIN_MS) * 1000}
        times |= dict.fromkeys(("gate", "sightings", "signs"), self.clock.ms)
        self.gate.scripts = self._as_they_come._replace(**{name: self._at(name, now) for name, now in times.items()})

    def _at(self, name: str, now: int):
        pattern, clock = CLOCK[name]
        text, found = pattern.subn(clock.format(now), getattr(self._as_they_come, name).text)
        assert found == 1
        return script(text)


@asynccontextmanager
async def held(kind: str) -> AsyncIterator[Held]:
    if kind == "memory":
        opened = Held(MemoryGate(clock := Hand()))
        opened.clock = clock
        yield opened
        return
    gate = await RedisGate.open(server_url())
    assert gate.trouble is None
    yield HeldRedis(gate)
    await gate.close()


async def forget_settings() -> None:
    async with Redis.from_url(server_url()) as client:
        await client.delete(SETTINGS_KEY)


def fresh(name: str = "sale") -> str:
    """A name that nobody has used on this server."""
    return f"{name}-{secrets.token_hex(6)}"


def wish(sale: str, reservation: str, user: str = "", quantity: int = 1, limit: int = 10, print_: str = "p") -> Wish:
    """By a user of its own if none is named."""
    return Wish(f"res_{reservation}", user or f"user-{reservation}", sale, "PHONE", quantity, limit, print_)
