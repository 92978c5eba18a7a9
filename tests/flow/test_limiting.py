"""What the engine makes of limits: at once in a process, in one call at a gate, and with a share while that is away."""

import asyncio
from contextvars import copy_context

import pytest
from contract.gates import Hand

from flashsale.backends.memory import MemoryGate
from flashsale.core.limits import Bucket, inside
from flashsale.core.rate_limit import Buckets
from flashsale.core.refusal import Refused
from flashsale.core.thresholds import Thresholds
from flashsale.flow.limiting import Limiting
from flashsale.ports import GateAway
from flashsale.tracing import TRACE_ID

LIMIT_2 = Thresholds(user_per_second=2)


class CountingGate(MemoryGate):
    """A gate that all share, as far as a test can tell; it may be away."""

    def __init__(self, clock: Hand) -> None:
        super().__init__(clock)
        self.calls: list[int] = []
        self.away = False

    async def take_together(self, requests):
        self.calls.append(len(requests))
        return await self._unless_away(super().take_together(requests))

    async def take(self, drafts):
        return await self._unless_away(super().take(drafts))

    async def forget(self, buckets):
        return await self._unless_away(super().forget(buckets))

    async def _unless_away(self, call):
        answer = await call
        if self.away:
            raise GateAway("it is unplugged")
        return answer


class Desk:
    """Limiting with a clock in the hand."""

    def __init__(self, thresholds: Thresholds = LIMIT_2, shared: bool = False) -> None:
        self.clock = Hand()
        self.gate = CountingGate(self.clock)
        self.limiting = Limiting(thresholds, Buckets(1000), self.clock, self.gate if shared else None)

    def buckets(self, user: str = "ann") -> list[Bucket]:
        return inside(self.limiting.rates, user, None)

    def told(self, user: str = "ann") -> list[Refused | None]:
        told: list[Refused | None] = []
        self.limiting.take(self.buckets(user), told.append)
        return told

    async def allowed(self, times: int, user: str = "ann") -> int:
        futures = [asyncio.get_running_loop().create_future() for _ in range(times)]
        for future in futures:
            self.limiting.take(self.buckets(user), future.set_result)
        return (await asyncio.gather(*futures)).count(None)


def test_in_a_process_the_answer_is_there_before_the_call_returns():
    desk = Desk()
    [first], [second], [third] = desk.told(), desk.told(), desk.told()
    assert (first, second) == (None, None)
    assert third is not None
    assert third.details["retryAfterSeconds"] == 1


def test_a_request_without_any_limit_goes_on_at_once():
    assert Desk(Thresholds()).told() == [None]
    assert Desk(Thresholds(), shared=True).told() == [None]


async def test_what_comes_in_one_turn_of_the_loop_is_one_call_to_the_gate():
    desk = Desk(shared=True)
    assert await desk.allowed(50) == 2
    assert desk.gate.calls == [50]


async def test_a_call_to_the_gate_is_not_too_large():
    desk = Desk(shared=True)
    assert await desk.allowed(300) == 2
    assert desk.gate.calls == [128, 128, 44]


@pytest.mark.parametrize(("processes", "allowed"), [(1, 20), (4, 5), (40, 1)])
async def test_while_the_gate_is_away_a_process_goes_by_its_share(processes, allowed):
    desk = Desk(Thresholds(user_per_second=20), shared=True)
    desk.limiting.set(desk.limiting.thresholds, processes)
    desk.gate.away = True
    assert await desk.allowed(100) == allowed
    desk.clock.ms += 10_000
    assert await desk.allowed(100) == allowed


async def test_when_the_gate_is_back_it_counts_again():
    desk = Desk(shared=True)
    desk.gate.away = True
    assert await desk.allowed(5) == 2
    desk.gate.away = False
    desk.clock.ms += 60_000
    assert await desk.allowed(5, "bob") == 2


async def test_processes_without_a_gate_allow_together_no_more_than_the_limit():
    desks = [Desk(Thresholds(user_per_second=20)) for _ in range(4)]
    for desk in desks:
        desk.limiting.set(desk.limiting.thresholds, len(desks))
    assert sum([await desk.allowed(100) for desk in desks]) == 20


async def test_what_follows_an_answer_belongs_to_its_request_and_not_to_those_that_went_with_it():
    desk, told = Desk(shared=True), asyncio.Queue()
    for trace_id in ("one", "two"):
        context = copy_context()
        context.run(TRACE_ID.set, trace_id)
        context.run(desk.limiting.take, desk.buckets(), lambda _: told.put_nowait(TRACE_ID.get()))
    assert [await told.get(), await told.get()] == ["one", "two"]


async def test_an_asker_who_cannot_be_told_is_not_his_neighbours_trouble():
    desk, neighbour = Desk(shared=True), asyncio.get_running_loop().create_future()

    def broken(_: Refused | None) -> None:
        raise RuntimeError("nobody is there")

    desk.limiting.take(desk.buckets(), broken)
    desk.limiting.take(desk.buckets(), neighbour.set_result)
    async with asyncio.timeout(1):
        assert await neighbour is None


# Tiers


def test_a_tier_from_an_operator_counts_more_than_one_from_a_token():
    limiting = Desk().limiting
    limiting.tiers["ann"] = "LIMITED"
    assert limiting.tier_of("ann", "VIP") == "LIMITED"
    assert limiting.tier_of("bob", "VIP") == "VIP"
    assert (limiting.tier_of("bob", "EMPEROR"), limiting.tier_of("bob", None)) == (None, None)


# What operators ask


@pytest.mark.parametrize("shared", [False, True])
async def test_how_a_user_stands_costs_him_nothing(shared):
    desk = Desk(shared=shared)
    assert await desk.allowed(1) == 1
    for _ in range(3):
        [(limit, answer)] = await desk.limiting.standing("ann")
        assert (limit.scope, limit.burst, answer.remaining, answer.reset_ms) == ("user", 2, 1, 500)
    desk.limiting.tiers["ann"] = "VIP"
    assert [limit.scope for limit, _ in await desk.limiting.standing("ann")] == ["user", "tier"]


async def test_while_the_gate_is_away_a_user_stands_as_in_this_process():
    desk = Desk(shared=True)
    desk.gate.away = True
    assert await desk.allowed(5) == 2
    [(_, answer)] = await desk.limiting.standing("ann")
    assert answer.remaining == 0


@pytest.mark.parametrize("shared", [False, True])
async def test_a_user_whose_buckets_are_forgotten_begins_anew(shared):
    desk = Desk(shared=shared)
    assert await desk.allowed(5) == 2
    await desk.limiting.forget("ann")
    assert await desk.allowed(5) == 2
