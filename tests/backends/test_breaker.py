"""The breaker before the gate: whom it lets through, and how it comes back by itself."""

import asyncio
import time

import pytest

from flashsale.backends.redis import breaker
from flashsale.backends.redis.breaker import FAILURES_MAX, Breaker
from flashsale.ports import GateAway


class Server:
    """What a probe meets: each answer in its turn, the last one for good."""

    def __init__(self, *answers: Exception | None) -> None:
        self._answers = list(answers)
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is not None:
            raise answer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(breaker, "PROBE_SECONDS", 0.01)


def nothing() -> None: ...


def lets_through(tried: Breaker) -> bool:
    try:
        tried.require_closed()
    except GateAway:
        return False
    return True


async def until(true) -> None:
    until = time.monotonic() + 5
    while not true():
        assert time.monotonic() < until
        await asyncio.sleep(0.001)


async def test_it_opens_after_so_many_failures_in_a_row_and_says_why():
    tried = Breaker(Server(GateAway("still away")).probe, nothing)
    for _ in range(FAILURES_MAX - 1):
        tried.failed("no answer")
        assert lets_through(tried)
    tried.failed("no answer at all")
    with pytest.raises(GateAway, match="no answer at all"):
        tried.require_closed()
    await tried.close()


async def test_a_success_between_failures_keeps_it_closed():
    tried = Breaker(Server(None).probe, nothing)
    for _ in range(FAILURES_MAX * 2):
        tried.failed("no answer")
        assert lets_through(tried)
        assert tried.trouble == "no answer"
        tried.succeeded()
        assert tried.trouble is None
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "a probe that nobody needs goes on"


async def test_trouble_that_no_call_meets_again_is_forgotten_after_a_probe():
    forgotten: list[bool] = []
    tried = Breaker(Server(GateAway("away"), None).probe, lambda: forgotten.append(True))
    tried.failed("no answer")
    await until(lambda: forgotten)
    assert tried.trouble is None


async def test_it_closes_by_itself_after_the_first_probe_that_succeeds():
    server = Server(GateAway("away"), GateAway("loading"), None)
    tried = Breaker(server.probe, nothing)
    tried.open("away")
    await until(lambda: tried.trouble == "loading")
    assert not lets_through(tried)
    await until(lambda: lets_through(tried))
    assert (server.probes, tried.trouble) == (3, None)
    for _ in range(FAILURES_MAX - 1):  # failures of before do not count any more
        tried.failed("no answer")
    assert lets_through(tried)
    await tried.close()


async def test_one_probe_is_under_way_at_a_time_and_nobody_else_gets_through():
    reached, go_on = asyncio.Event(), asyncio.Event()
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1
        reached.set()
        await go_on.wait()

    tried = Breaker(probe, nothing)
    tried.open("away")
    await reached.wait()
    for _ in range(FAILURES_MAX * 2):  # calls that were under way when it opened
        tried.failed("no answer")
        tried.succeeded()
        assert not lets_through(tried)
    go_on.set()
    await until(lambda: lets_through(tried))
    assert probes == 1


async def test_a_probe_that_fails_by_a_mistake_of_ours_is_not_the_last_one():
    tried = Breaker(Server(KeyError("mistake"), None).probe, nothing)
    tried.open("away")
    await until(lambda: lets_through(tried))


async def test_it_can_be_closed_down_while_it_probes():
    server = Server(GateAway("away"))
    tried = Breaker(server.probe, nothing)
    tried.open("away")
    await until(lambda: server.probes > 1)
    await tried.close()
