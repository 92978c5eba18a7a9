"""The gate on one server that is killed, stopped, emptied, set back and short of memory. Nobody repairs anything."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from contract.gates import fresh, wish
from servers.process import running
from servers.valkey import ValkeyServer

from flashsale.backends.redis import RedisGate
from flashsale.backends.redis.breaker import FAILURES_MAX
from flashsale.backends.redis.caller import WAITING_MAX
from flashsale.backends.redis.connect import CALL_SECONDS, CONNECT_SECONDS, CONNECTIONS
from flashsale.core.permits import Permit, Synchronised, Verdict
from flashsale.core.rate_limit import Draft
from flashsale.ports import GateAway

BACK_SECONDS = 3.0
"""How long after its server the gate may come back."""
PATIENCE_SECONDS = 15.0
DAY_MS = 86_400_000
PERMITTED = Permit(Verdict.PERMITTED)
SOLD_OUT = Permit(Verdict.SOLD_OUT)
UNSURE = Permit(Verdict.UNSURE)


@pytest.fixture(scope="module")
def server():
    with running(ValkeyServer()) as started:
        yield started


@pytest.fixture
async def gate(server) -> AsyncIterator[RedisGate]:
    server.thaw()  # whatever a test before this one came to
    server.ask("CONFIG", "SET", "maxmemory", "0")
    opened = await RedisGate.open(server.url)
    assert opened.trouble is None
    yield opened
    await opened.close()


async def ask(gate: RedisGate, sale: str, *reservations: str) -> list[Permit]:
    return await gate.permit([wish(sale, each) for each in reservations])


async def has(gate: RedisGate, sale: str, available: int, sku_seq: int = 1) -> None:
    await gate.synchronise([Synchronised(sale, "PHONE", available, sku_seq)])


async def until(true: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_SECONDS) -> float:
    """How long it took."""
    began = time.monotonic()
    while not await true():
        assert time.monotonic() - began < seconds
        await asyncio.sleep(0.01)
    return time.monotonic() - began


def answers(gate: RedisGate) -> Callable[[], Awaitable[bool]]:
    async def true() -> bool:
        try:
            await ask(gate, fresh(), "a")
        except GateAway:
            return False
        return True

    return true


async def goes_away(gate: RedisGate) -> None:
    """Calls fail until the breaker is open; then nobody waits for a time-out."""
    for _ in range(FAILURES_MAX):
        with pytest.raises(GateAway):
            await ask(gate, "sale", "a")
    began = time.monotonic()
    for _ in range(100):
        with pytest.raises(GateAway):
            await ask(gate, "sale", "a")
    assert time.monotonic() - began < 10 * CALL_SECONDS


# A server that goes and comes


async def test_a_server_that_was_killed_and_started_again_is_used_again_within_3_seconds(gate, server):
    sale = fresh()
    await has(gate, sale, 1)
    await ask(gate, sale, "a")
    server.kill()
    await goes_away(gate)
    assert f"redis://127.0.0.1:{server.port}: " in gate.trouble
    server.start()
    assert await until(answers(gate)) < BACK_SECONDS
    assert gate.trouble is None
    await has(gate, sale, 1)
    assert await ask(gate, sale, "b", "c") == [PERMITTED, SOLD_OUT]


async def test_a_server_that_is_away_at_the_start_is_used_once_it_is_there(server):
    server.kill()
    gate = await RedisGate.open(server.url)
    await goes_away(gate)
    server.start()
    assert await until(answers(gate)) < BACK_SECONDS
    await gate.close()


async def test_a_gate_can_be_closed_while_its_server_is_away(server):
    server.kill()
    gate = await RedisGate.open(server.url)
    began = time.monotonic()
    await gate.close()
    assert time.monotonic() - began < 1
    server.start()


async def test_a_server_that_does_not_answer_costs_a_bounded_time_and_then_none(gate, server):
    """Whoever waits is told within the time-outs; what was asked of the server meanwhile is answered to nobody."""
    server.freeze()
    began = time.monotonic()
    crowd = [ask(gate, fresh(), f"frozen-{each}") for each in range(WAITING_MAX + 20)]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)
    took = time.monotonic() - began
    assert {type(each) for each in outcomes} == {GateAway}
    assert took < CONNECT_SECONDS + 3 * CALL_SECONDS
    await goes_away(gate)
    server.thaw()
    assert await until(answers(gate)) < BACK_SECONDS
    for number in range(50):  # an answer of before would have another form
        drafts = [Draft(fresh("bucket"), 1, number + 1)]
        assert [each.remaining for each in await gate.take(drafts)] == [number]
        assert await ask(gate, fresh(), *map(str, range(number % 5))) == [UNSURE] * (number % 5)


async def test_a_server_whose_memory_is_full_is_away_until_there_is_room_and_settling_makes_room(gate, server):
    sale = fresh()
    await has(gate, sale, 1)
    await ask(gate, sale, "a")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    await goes_away(gate)
    assert "maxmemory" in gate.trouble
    server.ask("CONFIG", "SET", "maxmemory", "0")
    assert await until(answers(gate)) < BACK_SECONDS
    server.ask("CONFIG", "SET", "maxmemory", "1")
    await gate.settle([((sale, "PHONE"), ["res_a"])], [])
    assert server.ask("EXISTS", f"fs:{{{sale}/PHONE}}:permits") == 0
    server.ask("CONFIG", "SET", "maxmemory", "0")


async def test_a_password_that_does_not_fit_is_trouble_and_is_not_told(server):
    gate = await RedisGate.open(f"redis://:not-the-password@127.0.0.1:{server.port}")
    assert "password" in gate.trouble
    assert "not-the-password" not in gate.trouble
    with pytest.raises(GateAway):
        await gate.settings()
    await gate.close()


# A server that forgets, or remembers too much


async def test_an_emptied_server_starts_anew(gate, server):
    sale = fresh()
    await has(gate, sale, 1)
    await ask(gate, sale, "a")
    server.ask("FLUSHALL")
    assert await gate.availability([(sale, "PHONE")]) == [None]
    assert await ask(gate, sale, "b") == [UNSURE]
    await has(gate, sale, 1)
    assert await ask(gate, sale, "c", "d") == [PERMITTED, SOLD_OUT]


async def test_a_server_that_forgot_the_scripts_is_told_them_again(gate, server):
    server.ask("SCRIPT", "FLUSH")
    assert await ask(gate, fresh(), "a") == [UNSURE]
    assert gate.trouble is None


async def test_permits_of_an_older_snapshot_keep_no_unit_from_sale(gate, server):
    """They were settled after the snapshot, so nobody would ever settle them again."""
    sale = fresh()
    await has(gate, sale, 3, sku_seq=1)
    await ask(gate, sale, "a", "b", "c")
    await gate.appended([wish(sale, each) for each in "abc"])
    server.ask("SAVE")
    await gate.settle([((sale, "PHONE"), ["res_a", "res_b", "res_c"])], [Synchronised(sale, "PHONE", 0, 4)])
    await has(gate, sale, 2, sku_seq=6)
    server.kill()
    server.start()
    await until(answers(gate))
    assert server.ask("EXISTS", f"fs:{{{sale}/PHONE}}:permits") == 1
    await has(gate, sale, 2, sku_seq=6)
    assert await ask(gate, sale, "d", "e", "f") == [PERMITTED, PERMITTED, SOLD_OUT]


@pytest.mark.parametrize("lost", ["counter", "permits", "deadlines", "users"])
async def test_a_product_of_which_a_part_was_evicted_keeps_no_unit_from_sale_and_sells_none_twice_for_long(
    gate, server, lost
):
    sale = fresh()
    await has(gate, sale, 2)
    await ask(gate, sale, "a", "b")
    server.ask("DEL", f"fs:{{{sale}/PHONE}}:{lost}")
    await gate.settle([((sale, "PHONE"), ["res_a", "res_b"])], [])
    await has(gate, sale, 2)
    assert await ask(gate, sale, "c", "d", "e") == [PERMITTED, PERMITTED, SOLD_OUT]


async def test_what_nobody_touches_is_forgotten(gate, server):
    sale, bucket = fresh(), fresh("bucket")
    await has(gate, sale, 2)
    await ask(gate, sale, "a")
    await gate.take([Draft(bucket, 2, 5)])
    parts = [f"fs:{{{sale}/PHONE}}:{name}" for name in ("counter", "permits", "deadlines", "users")]
    assert all(DAY_MS - 60_000 < server.ask("PTTL", key) <= DAY_MS for key in parts)
    assert 0 < server.ask("PTTL", f"fs:bucket:{bucket}") <= 1500


# Many at once


async def test_a_caller_that_gives_up_mixes_up_no_answers(gate):
    async def one(number: int) -> None:
        drafts = [Draft(fresh("bucket"), 1, number + 1)] * 2
        assert [each.remaining for each in await gate.take(drafts)] == [number, max(number - 1, 0)]

    callers = [asyncio.create_task(one(each)) for each in range(200)]
    for caller in callers[::2]:
        await asyncio.sleep(0)
        caller.cancel()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert all(each is None for each in outcomes[1::2])
    assert any(isinstance(each, asyncio.CancelledError) for each in outcomes)


async def test_a_call_whose_caller_gives_up_goes_on_to_its_end(gate):
    sale = fresh()
    await has(gate, sale, 1)
    await ask(gate, sale, "a")
    await gate.appended([wish(sale, "a")])
    settling = asyncio.create_task(gate.settle([((sale, "PHONE"), ["res_a"])], []))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling

    async def is_settled() -> bool:
        await has(gate, sale, 1)
        return await ask(gate, sale, "b") == [PERMITTED]

    await until(is_settled)


async def test_nobody_waits_long_for_a_connection(gate):
    for _ in range(CONNECTIONS):
        await gate._caller._connections.acquire()
    began = time.monotonic()
    with pytest.raises(GateAway, match="no connection became free"):
        await ask(gate, fresh(), "a")
    assert time.monotonic() - began < 2 * CALL_SECONDS


async def test_however_many_ask_there_are_few_connections(gate, server):
    before = server.ask("CLIENT", "LIST").count("laddr=")
    crowd = [ask(gate, fresh(), "a") for _ in range(WAITING_MAX)]
    outcomes = await asyncio.gather(*crowd, return_exceptions=True)  # on a busy machine some wait in vain for one
    answered = [each for each in outcomes if not isinstance(each, GateAway)]
    assert answered
    assert all(each == [Permit(Verdict.UNSURE)] for each in answered)
    assert server.ask("CLIENT", "LIST").count("laddr=") - before <= CONNECTIONS


async def test_processes_share_units_and_limits(gate, server):
    sale, bucket = fresh(), fresh("bucket")
    await has(gate, sale, 1000)
    program = Path(__file__).parents[1] / "contract" / "gate_crowd.py"
    command = [sys.executable, str(program), server.url, sale, bucket]
    pipe = asyncio.subprocess.PIPE
    crowds = [await asyncio.create_subprocess_exec(*command, name, stdin=pipe, stdout=pipe) for name in "ab"]
    assert [await each.stdout.readline() for each in crowds] == [b"ready\n"] * 2
    told = [json.loads(out) for out, _ in await asyncio.gather(*(each.communicate(b"go\n") for each in crowds))]
    assert sum(each["permitted"] for each in told) == 1000
    assert sum(each["allowed"] for each in told) == 2000
    assert all(each["permitted"] and each["allowed"] for each in told)
