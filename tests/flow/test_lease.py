"""Leases with a clock in the hand: one process at a time has one, and it is soon another's when that is gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import DATABASES, HandClock, Shop, leases_of, shop

from flashsale.core.journal import Kind
from flashsale.flow import lease
from flashsale.flow.expire import TICK_SECONDS, Sweeping
from flashsale.flow.lease import ASK_MS, LEASE_MS, PROLONG_MS, Lease
from flashsale.flow.settle import Resuming
from flashsale.ports import Leases, LedgerUnavailable

TICK_MS = int(TICK_SECONDS * 1000)


class Fleet:
    """Processes on one ledger, each with a lease of its own name for the same thing."""

    def __init__(self, it: Shop, leases: Leases) -> None:
        self.shop = it
        self.leases = leases

    def process(self, owner: str, leases: "Leases | Asked | None" = None, name: str = "sweep") -> Lease:
        return Lease(leases or self.leases, name, owner, self.shop.clock)

    async def ticks(self, for_ms: int, *processes: Lease) -> list[set[str]]:
        """Who held the lease at each tick."""
        held = []
        for _ in range(for_ms // TICK_MS):
            held.append({each.owner for each in processes if await each.held()})
            self.shop.clock.pass_ms(TICK_MS)
        return held


class Asked:
    """Leases that count how often they are asked."""

    def __init__(self, leases: Leases) -> None:
        self.times = 0
        self.twice = asyncio.Event()
        self._leases = leases

    async def lease(self, name: str, owner: str, lease_ms: int) -> int | None:
        self.times += 1
        if self.times == 2:
            self.twice.set()
        return await self._leases.lease(name, owner, lease_ms)


@pytest.fixture(params=DATABASES)
async def fleet(request, tmp_path) -> AsyncIterator[Fleet]:
    clock = HandClock()
    async with shop(request.param, tmp_path, clock) as it, leases_of(it.ledger, tmp_path, clock) as leases:
        yield Fleet(it, leases)


# -- One process at a time


async def test_of_several_processes_one_holds_a_lease_as_long_as_it_lives(fleet):
    held = await fleet.ticks(20_000, *(fleet.process(f"process-{number}") for number in range(4)))
    assert held == [{"process-0"}] * 100


async def test_when_its_holder_is_gone_another_has_a_lease_in_less_than_three_seconds(fleet):
    ann, bob = fleet.process("ann"), fleet.process("bob")
    await fleet.ticks(5_000, ann, bob)
    held = await fleet.ticks(3_000, bob)
    assert held[-1] == {"bob"}
    assert LEASE_MS + ASK_MS + TICK_MS < 3_000


async def test_a_lease_that_is_given_back_is_anothers_at_its_next_question(fleet):
    ann, bob = fleet.process("ann"), fleet.process("bob")
    await fleet.ticks(1_000, ann, bob)
    await ann.close()
    held = await fleet.ticks(ASK_MS + TICK_MS, bob)
    assert held[-1] == {"bob"}


async def test_a_lease_that_was_never_ours_is_not_given_back(fleet):
    ann, bob = fleet.process("ann"), fleet.process("bob")
    await fleet.ticks(1_000, ann, bob)
    await bob.close()
    assert await fleet.ticks(2_000, ann, bob) == [{"ann"}] * 10


async def test_leases_of_two_names_know_nothing_of_each_other(fleet):
    assert await fleet.process("ann", name="sweep").held()
    assert await fleet.process("bob", name="resume").held()


async def test_the_ledger_is_asked_once_a_second_by_the_holder_and_twice_by_the_others(fleet):
    ann, bob = Asked(fleet.leases), Asked(fleet.leases)
    await fleet.ticks(30_000, fleet.process("ann", ann), fleet.process("bob", bob))
    assert ann.times <= 30_000 // PROLONG_MS
    assert bob.times <= 30_000 // ASK_MS


# -- A holder that was stopped and goes on


async def test_a_holder_that_was_stopped_past_its_lease_finds_out_before_its_next_step(fleet):
    ann, bob = fleet.process("ann"), fleet.process("bob")
    await fleet.ticks(1_000, ann, bob)
    await fleet.ticks(3_000, bob)  # ann is stopped
    assert not await ann.held()
    assert await bob.held()


async def test_two_that_both_believe_that_it_is_their_turn_release_each_unit_once(fleet):
    """The moment between a holder's question and its step, in which it was stopped and the lease has been taken."""
    await fleet.shop.opens(units=10)
    for number in range(10):
        await fleet.shop.held(f"user-{number}")
    fleet.shop.clock.pass_ms(10 * 60 * 1000)
    ann, bob = (Sweeping(fleet.shop.ledger, fleet.process(name), fleet.shop.clock) for name in ("ann", "bob"))
    await asyncio.gather(ann.sweep(), bob.sweep())
    assert len([row for row in await fleet.shop.journal() if row.kind is Kind.EXPIRE]) == 10
    assert await fleet.shop.counters() == (10, 0, 0)
    assert await fleet.shop.discrepancies() == []


async def test_a_cursor_is_advanced_by_the_holder_only(fleet):
    ann, bob = fleet.process("ann"), fleet.process("bob")
    assert await ann.held()
    fleet.shop.clock.pass_ms(LEASE_MS)
    assert await bob.held()
    await bob.advance(9)
    await ann.advance(7)
    assert (ann.cursor, bob.cursor) == (None, 9)


# -- While something takes longer than a lease


async def test_a_lease_is_prolonged_while_something_is_done_under_it(fleet, monkeypatch):
    monkeypatch.setattr(lease, "PROLONG_MS", 1)
    asked = Asked(fleet.leases)
    assert await fleet.process("ann", asked).during(asked.twice.wait()) is True


async def test_what_is_done_under_a_lease_ends_with_whoever_does_it(fleet):
    doing = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(fleet.process("ann").during(doing))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert doing.cancelled()


# -- Without a ledger


async def test_without_a_ledger_nobody_knows_whose_turn_it_is(fleet):
    class Away:
        async def lease(self, *_: object) -> int | None:
            raise LedgerUnavailable("away")

    with pytest.raises(LedgerUnavailable):
        await fleet.process("ann", Away()).held()


async def test_what_a_process_was_woken_for_needs_no_lease(fleet):
    class Till:
        resumed = 0

        async def resume(self) -> int:
            self.resumed += 1
            return 1

    till = Till()
    await fleet.process("ann", name="resume").held()
    theirs = Resuming(till, fleet.process("bob", name="resume"))
    theirs.wake()
    assert (await theirs.resume(), till.resumed) == (1, 1)
    assert (await theirs.resume(), till.resumed) == (0, 1)
