"""How processes come by what operators set: every one goes by it before the operator is answered, or he hears of it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from contract.gates import Hand

from flashsale.backends.memory import MemoryGate
from flashsale.core.limits import Fleet, LimitsChange, News, ResetUser, SetThresholds, SetTier, State, inside, turned
from flashsale.core.rate_limit import Buckets
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.thresholds import Thresholds
from flashsale.flow import in_force
from flashsale.flow.in_force import InForce, Settled
from flashsale.flow.limiting import Limiting
from flashsale.ports import GateAway, LedgerUnavailable


class SharedBook:
    """A book in memory, of several processes."""

    def __init__(self) -> None:
        self.state = State(0, 0, 0)
        self.rows: dict[str, float] = {}
        self.users: dict[str, tuple[str | None, int]] = {}
        self.processes: dict[str, int] = {}
        self.away = False

    async def change(self, change: LimitsChange) -> int | Refused:
        self._require()
        user = getattr(change, "user_id", "")
        turn = turned(self.state, change, self.users.get(user, (None, 0))[0])
        assert not isinstance(turn, Refused)
        self.state = turn.state
        self.rows |= {name: value for name, value in turn.thresholds.items() if value is not None}
        self.users |= {user_id: (tier, version) for user_id, tier, version in turn.users}
        return turn.state.version

    async def news(self, after: int) -> News | None:
        self._require()
        if after == self.state.version:
            return None
        users = [(user_id, tier) for user_id, (tier, version) in self.users.items() if version > after]
        return News(self.state.version, self.rows, users, after == 0)

    async def present(self, process_id: str, version: int) -> Fleet:
        self._require()
        self.processes[process_id] = version
        return Fleet(len(self.processes), sum(each < version for each in self.processes.values()))

    async def leave(self, process_id: str) -> None:
        self._require()
        self.processes.pop(process_id, None)

    async def close(self) -> None: ...

    def _require(self) -> None:
        if self.away:
            raise LedgerUnavailable("it is unplugged")


class Process:
    def __init__(self, book: SharedBook, name: str, gate: MemoryGate | None = None) -> None:
        defaults = Thresholds(user_per_second=20)
        clock = Hand()
        self.limiting = Limiting(defaults, Buckets(1000), clock, gate)
        self.in_force = InForce(book, self.limiting, defaults, name)
        self.in_force.serve()

    @contextmanager
    def looking(self) -> Iterator[None]:
        async def look() -> None:
            while True:
                await self.in_force.look()
                await asyncio.sleep(0.005)

        task = asyncio.create_task(look())
        yield
        task.cancel()

    def allowed(self, user: str = "ann") -> bool:
        told: list[Refused | None] = []
        self.limiting.take(inside(self.limiting.rates, user, None), told.append)
        return told == [None]


async def set_to(process: Process, **values: float | None) -> Settled:
    settled = await process.in_force.change(SetThresholds(values, "operator"))
    assert isinstance(settled, Settled), settled
    return settled


async def test_an_operator_is_answered_when_all_processes_go_by_his_change():
    book = SharedBook()
    one, two, three = (Process(book, name) for name in ("one", "two", "three"))
    for process in (one, two, three):
        await process.in_force.look()
    with two.looking(), three.looking():
        assert await set_to(one, userPerSecond=5) == Settled(1, Fleet(3, 0))
        assert [each.limiting.thresholds.user_per_second for each in (one, two, three)] == [5, 5, 5]


async def test_a_process_that_does_not_come_is_waited_for_a_second_and_counted(monkeypatch):
    monkeypatch.setattr(in_force, "SETTLE_SECONDS", 0.1)
    book = SharedBook()
    one, frozen = Process(book, "one"), Process(book, "frozen")
    await frozen.in_force.look()
    began = time.monotonic()
    assert await set_to(one, userPerSecond=5) == Settled(1, Fleet(2, 1))
    assert 0.1 <= time.monotonic() - began < 1


async def test_a_process_that_answers_no_buyers_is_not_waited_for():
    book = SharedBook()
    one, worker = Process(book, "one"), Process(book, "worker")
    worker.in_force.serving = False
    await worker.in_force.look()
    assert (await set_to(one, userPerSecond=5)).fleet == Fleet(1, 0)


async def test_limits_in_processes_are_divided_among_those_that_live():
    book = SharedBook()
    one, two = Process(book, "one"), Process(book, "two")
    await one.in_force.look()
    assert one.limiting.processes == 1
    await two.in_force.look()
    assert two.limiting.processes == 2
    await two.in_force.leave()
    await set_to(one, userBurst=7)
    assert one.limiting.processes == 1


async def test_what_operators_set_holds_beside_the_defaults_of_each_process():
    process = Process(SharedBook(), "one")
    await set_to(process, globalPerSecond=7)
    assert process.limiting.thresholds == Thresholds(user_per_second=20, global_per_second=7)


async def test_a_wrong_value_is_refused_before_it_is_written_down():
    book = SharedBook()
    told = await Process(book, "one").in_force.change(SetThresholds({"userPerSecond": -1}, "operator"))
    assert isinstance(told, Refused)
    assert (told.refusal, told.details["errors"][0]["field"]) == (Refusal.VALIDATION_FAILED, "userPerSecond")
    assert book.state.version == 0


async def test_a_tier_is_known_in_every_process_and_can_be_taken_away():
    book = SharedBook()
    one, two = Process(book, "one"), Process(book, "two")
    await two.in_force.look()
    for tier in ("VIP", "LIMITED", None):
        with two.looking():
            assert isinstance(await one.in_force.change(SetTier("ann", tier, "operator")), Settled)
        assert [each.limiting.tier_of("ann", None) for each in (one, two)] == [tier, tier]


async def test_a_reset_empties_the_buckets_of_that_user_in_every_process():
    book = SharedBook()
    one, two = Process(book, "one"), Process(book, "two")
    await two.in_force.look()
    await set_to(one, userPerSecond=0.01)
    await two.in_force.look()
    for process in (one, two):
        assert (process.allowed(), process.allowed(), process.allowed("bob")) == (True, False, True)
    with two.looking():
        assert isinstance(await one.in_force.change(ResetUser("ann", "operator")), Settled)
    for process in (one, two):
        assert (process.allowed(), process.allowed("bob")) == (True, False)


async def test_a_reset_while_the_gate_is_away_says_that_it_did_not_reach_it():
    class AwayGate(MemoryGate):
        async def forget(self, buckets):
            raise GateAway("it is unplugged")

    told = await Process(SharedBook(), "one", AwayGate(Hand())).in_force.change(ResetUser("ann", "operator"))
    assert isinstance(told, Refused)
    assert (told.refusal, "buckets there are as they were" in told.message) == (Refusal.UNAVAILABLE, True)


async def test_while_the_ledger_is_away_a_process_goes_by_what_it_knows():
    book = SharedBook()
    process = Process(book, "one")
    await set_to(process, userPerSecond=5)
    book.away = True
    with pytest.raises(LedgerUnavailable):
        await process.in_force.load()
    assert process.limiting.thresholds.user_per_second == 5
    await process.in_force.leave()  # and its end is no trouble either


async def test_news_that_come_late_do_not_undo_newer_ones():
    book = SharedBook()
    process = Process(book, "one")
    await set_to(process, userPerSecond=5)
    old = News(process.in_force.version, {"userPerSecond": 1}, [], False)
    await set_to(process, userPerSecond=6)

    async def late(after: int) -> News:
        return old

    book.news = late
    await process.in_force.load()
    assert process.limiting.thresholds.user_per_second == 6
