"""Judging: whom risk lets through, whom it challenges, whom it refuses; with the gate in the process and beside it."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from json import dumps

import altcha
import pytest
from contract.gates import fresh, held
from contract.ledgers import HandClock
from core.shop import OPENING_MS, a_sale, an_attempt
from msgspec.structs import replace

from flashsale.backends.challenges import AltchaChallenges
from flashsale.backends.memory import MemoryGate
from flashsale.core.challenge import VALID_SECONDS, Hardness, unsealed
from flashsale.core.device import Device
from flashsale.core.rate_limit import Allowance, Buckets, Draft
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.reservation import Reservation, Status
from flashsale.core.risk import Decision, Verdict
from flashsale.core.sale import Sale
from flashsale.core.sighting import Sighting
from flashsale.core.stock import Attempt
from flashsale.core.thresholds import Thresholds
from flashsale.core.visitor import Visitor
from flashsale.flow.judging import Judging
from flashsale.flow.limiting import Limiting
from flashsale.ports import GateAway

SECRET = b"s" * 32
MINUTE_MS = 60_000
DURING_MS = OPENING_MS + 10 * MINUTE_MS


class Noted:
    """What was noted."""

    def __init__(self) -> None:
        self.all: list[Decision] = []

    def note(self, decision: Decision) -> None:
        self.all.append(decision)


class Gate(MemoryGate):
    """One that can be taken away."""

    away = False

    async def take(self, drafts: Sequence[Draft]) -> list[Allowance]:
        self._hear()
        return await super().take(drafts)

    async def sighted(self, sightings: Sequence[Sighting]) -> list[int]:
        self._hear()
        return await super().sighted(sightings)

    def _hear(self) -> None:
        if self.away:
            raise GateAway("nobody listens")


class Court:
    """A judge, and all that he goes by."""

    def __init__(self, shared: Gate | None, clock: HandClock) -> None:
        self.clock = clock
        self.noted = Noted()
        self.limiting = Limiting(Thresholds(), Buckets(1000), clock)
        self.challenges = AltchaChallenges(SECRET, clock)
        self.gate = shared
        own = Buckets(10_000)
        self.judging = Judging(clock, self.limiting, own, 10_000, self.challenges, self.noted, SECRET, shared)

    async def judges(self, visitor: Visitor, sale: Sale | None = None) -> Attempt:
        attempt = an_attempt(visitor.user_id)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.judging(visitor, sale or a_sale(), attempt, lambda: done.set_result(None))
        async with asyncio.timeout(5):
            await done
        return attempt

    async def says(self, visitor: Visitor, sale: Sale | None = None) -> Refusal | None:
        barred = (await self.judges(visitor, sale)).barred
        return barred.refusal if barred else None

    async def tries(self, visitor: Visitor, times: int) -> list[str]:
        """What so many attempts in a row are told, each only once."""
        told = [await self.says(visitor) for _ in range(times)]
        return [f"{told.count(each)} {each.code if each else 'PASS'}" for each in dict.fromkeys(told)]


def a_hold(number: int, user: str = "ann", status: Status = Status.RESERVED) -> Reservation:
    return Reservation(f"res_{number}", user, "sale", "lamp", 1, status, 1, "EUR", 0, 0)


def solved(court: Court, refused: Refused) -> str:
    """What the widget makes of the challenge that a refusal names."""
    link = unsealed(SECRET, refused.details["challengeUrl"].partition("?for=")[2])
    return worked_out(court.challenges.make(*link))


def worked_out(made: dict) -> str:
    solution = altcha.solve_challenge(altcha.Challenge.from_dict(made))
    return b64encode(dumps({"challenge": made, "solution": solution.to_dict()}).encode()).decode()


@pytest.fixture(params=["here", "beside"])
async def court(request: pytest.FixtureRequest) -> AsyncIterator[Court]:
    clock = HandClock(DURING_MS)
    yield Court(Gate(clock) if request.param == "beside" else None, clock)


# -- Rates.


async def test_an_ordinary_buyer_is_let_through_and_nothing_is_noted(court):
    assert await court.tries(Visitor("ann", address="192.0.2.1"), 20) == ["20 PASS"]
    assert court.noted.all == []


async def test_more_than_20_attempts_a_minute_are_challenged_and_more_than_50_refused(court):
    assert await court.tries(Visitor("ann"), 80) == ["20 PASS", "30 CHALLENGE_REQUIRED", "30 BLOCKED"]
    assert await court.says(Visitor("bob")) is None


async def test_somebody_who_slows_down_is_let_through_again(court):
    await court.tries(Visitor("ann"), 60)
    court.clock.pass_ms(MINUTE_MS)
    assert await court.tries(Visitor("ann"), 20) == ["20 PASS"]


async def test_whoever_has_a_tier_is_held_to_that_and_not_to_a_number_for_everybody(court):
    assert await court.tries(Visitor("ann", tier="VIP"), 80) == ["80 PASS"]
    court.limiting.tiers = {"bob": "PREFERRED"}
    assert await court.tries(Visitor("bob"), 80) == ["80 PASS"]
    assert "30 BLOCKED" in await court.tries(Visitor("cyd", tier="a tier that there is not"), 80)


async def test_thresholds_hold_from_the_moment_in_which_an_operator_sets_them(court):
    court.limiting.set(Thresholds(risk_challenge_per_minute=2, risk_block_per_minute=4), 1)
    assert await court.tries(Visitor("ann"), 6) == ["2 PASS", "2 CHALLENGE_REQUIRED", "2 BLOCKED"]


# -- Devices, addresses, identities.


async def test_device_facts_are_missed_only_where_a_sale_wants_them(court):
    wanting = a_sale(require_device=True)
    assert await court.says(Visitor("ann")) is None
    assert await court.says(Visitor("ann"), wanting) is Refusal.CHALLENGE_REQUIRED
    whole = Device("d", "iPhone", "Safari", "iOS", "1x1", "UTC", "en", "c", "w")
    assert await court.says(Visitor("ann", device=whole), wanting) is None


async def test_many_accounts_on_one_device_are_challenged_and_then_refused(court):
    phone = Device("d-1")
    told = [await court.says(Visitor(f"user-{number}", device=phone)) for number in range(7)]
    assert told == [None] * 5 + [Refusal.BLOCKED] * 2
    assert await court.says(Visitor("user-9", device=Device("d-2"))) is None


async def test_accounts_on_one_address_count_together_with_other_reasons(court):
    for number in range(41):
        assert await court.says(Visitor(f"user-{number}", address="192.0.2.1")) in (None, Refusal.CHALLENGE_REQUIRED)
    assert await court.says(Visitor("late", address="192.0.2.1")) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("late", address="192.0.2.2")) is None


async def test_addresses_of_one_ipv6_network_are_one_address(court):
    for number in range(41):
        await court.judges(Visitor(f"user-{number}", address=f"2001:db8::{number:x}"))
    assert await court.says(Visitor("late", address="2001:db8::ffff")) is Refusal.CHALLENGE_REQUIRED


async def test_the_address_of_this_machine_is_nobodys(court):
    told = [await court.says(Visitor(f"user-{number}", address="127.0.0.1")) for number in range(60)]
    assert told == [None] * 60


async def test_an_account_of_today_counts_a_little(court):
    court.limiting.set(Thresholds(risk_challenge_score=15), 1)
    assert await court.says(Visitor("ann", known_since_ms=court.clock.at_ms - MINUTE_MS)) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("bob", known_since_ms=court.clock.at_ms - 61 * MINUTE_MS)) is None
    assert await court.says(Visitor("cyd")) is None


# -- Before the start.


async def test_whoever_storms_the_door_before_the_start_is_challenged_for_a_minute_after_it(court):
    court.clock.at_ms = OPENING_MS - 30_000
    court.limiting.set(Thresholds(risk_challenge_per_minute=100, risk_block_per_minute=200), 1)
    for _ in range(45):
        await court.judges(Visitor("ann"))
    court.clock.at_ms = OPENING_MS + 1_000
    assert await court.says(Visitor("ann")) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("bob")) is None
    court.clock.at_ms = OPENING_MS + MINUTE_MS
    assert await court.says(Visitor("ann")) is None


# -- Holds that nobody pays for.


async def test_whoever_keeps_reserving_without_paying_gets_shorter_holds_then_a_challenge(court):
    ann = Visitor("ann")
    holds = []
    for number in range(7):
        holds.append((await court.judges(ann)).hold_seconds)
        court.judging.granted(ann, [a_hold(number)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert holds == [None] * 4 + [30] * 3
    assert await court.says(ann) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("bob")) is None


async def test_a_payment_takes_its_reservations_out_of_the_count(court):
    ann = Visitor("ann", device=Device("d-1"), address="192.0.2.1")
    court.judging.granted(ann, [a_hold(number) for number in range(7)])
    await asyncio.sleep(0)
    court.judging.paid("ann", [f"res_{number}" for number in range(6)])
    await asyncio.sleep(0)
    assert (await court.judges(ann)).hold_seconds is None
    assert await court.says(Visitor("bob", device=Device("d-1"))) is None


async def test_a_device_or_an_address_that_hoards_is_known_whatever_the_account(court):
    for number in range(61):
        await_device = Device("d-1") if number < 7 else None
        court.judging.granted(Visitor(f"u{number}", device=await_device, address="192.0.2.1"), [a_hold(number)])
    await asyncio.sleep(0)
    assert await court.says(Visitor("new", device=Device("d-1"))) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("other", address="192.0.2.1")) is Refusal.CHALLENGE_REQUIRED
    assert await court.says(Visitor("third", address="192.0.2.9")) is None


async def test_what_is_bought_with_its_reservation_is_no_hold(court):
    court.judging.granted(Visitor("ann"), [a_hold(number, status=Status.CONFIRMED) for number in range(9)])
    await asyncio.sleep(0)
    assert await court.says(Visitor("ann")) is None


# -- Challenges.


@pytest.fixture
async def suspect(court: Court) -> Visitor:
    """Somebody who has to solve a challenge."""
    await court.tries(Visitor("ann"), 20)
    return Visitor("ann")


async def challenged(court: Court, visitor: Visitor) -> Refused:
    barred = (await court.judges(visitor)).barred
    assert barred is not None
    assert barred.refusal is Refusal.CHALLENGE_REQUIRED
    return barred


async def test_whoever_solves_his_challenge_is_let_through_once(court, suspect):
    solution = solved(court, await challenged(court, suspect))
    answer = Visitor("ann", solution=solution)
    assert await court.says(answer) is None
    assert "used before" in (await challenged(court, answer)).message


async def test_one_solution_that_is_brought_many_times_at_once_counts_once(court, suspect):
    answer = Visitor("ann", solution=solved(court, await challenged(court, suspect)))
    court.limiting.set(Thresholds(risk_block_per_minute=10_000), 1)
    told = await asyncio.gather(*(court.says(answer) for _ in range(20)))
    assert told.count(None) == 1


async def test_a_wrong_solution_is_refused_with_the_word_for_it_and_uses_its_challenge_up(court, suspect):
    made = court.challenges.make(Hardness.HARD, "")
    lazy = b64encode(dumps({"challenge": made, "solution": {"counter": 0, "derivedKey": "00"}}).encode()).decode()
    assert "is wrong" in (await challenged(court, Visitor("ann", solution=lazy))).message
    assert "used before" in (await challenged(court, Visitor("ann", solution=worked_out(made)))).message
    assert "is wrong" in (await challenged(court, Visitor("ann", solution="nonsense"))).message


async def test_an_expired_challenge_is_refused_with_the_word_for_it(court, suspect):
    solution = solved(court, await challenged(court, suspect))
    court.clock.pass_ms(VALID_SECONDS * 1000)
    await court.tries(Visitor("ann"), 20)
    assert "expired" in (await challenged(court, Visitor("ann", solution=solution))).message


async def test_a_challenge_of_another_user_is_refused(court, suspect):
    solution = solved(court, await challenged(court, suspect))
    await court.tries(Visitor("bob"), 20)
    assert "another user's" in (await challenged(court, Visitor("bob", solution=solution))).message


async def test_whoever_is_more_suspicious_gets_a_harder_challenge_and_an_easy_one_does_not_do(court):
    suspect = Visitor("ann", known_since_ms=court.clock.at_ms, tier=None)
    court.limiting.set(Thresholds(risk_block_score=70), 1)
    await court.tries(suspect, 20)
    refused = await challenged(court, suspect)
    link = unsealed(SECRET, refused.details["challengeUrl"].partition("?for=")[2])
    assert link.hardness is Hardness.HARD
    easy = worked_out(court.challenges.make(Hardness.USUAL, link.bound))
    answer = Visitor("ann", known_since_ms=court.clock.at_ms, solution=easy)
    assert "easier" in (await challenged(court, answer)).message


async def test_no_solution_helps_whoever_is_blocked(court, suspect):
    solution = solved(court, await challenged(court, suspect))
    await court.tries(suspect, 40)
    assert await court.says(Visitor("ann", solution=solution)) is Refusal.BLOCKED


# -- The log.


async def test_challenges_blocks_and_solutions_are_noted_with_their_reasons(court, suspect):
    solution = solved(court, await challenged(court, suspect))
    await court.judges(Visitor("ann", solution=solution))
    await court.tries(suspect, 40)
    challenge, solution_noted, *_, block = court.noted.all
    assert (challenge.verdict, challenge.score, challenge.reasons) == (Verdict.CHALLENGE, 50, ("attempts",))
    assert (challenge.facts, challenge.solved) == ({"over_challenge_rate": True}, False)
    assert solution_noted.solved
    assert (block.verdict, block.reasons) == (Verdict.BLOCK, ("attempts", "attempts-flood"))


async def test_a_pass_with_half_the_score_of_a_challenge_is_noted_and_one_with_less_is_not(court):
    await court.judges(Visitor("ann", device=Device("d")), a_sale(require_device=True))
    await court.judges(Visitor("bob", tier="LIMITED"))
    assert [(each.user_id, each.verdict, each.score) for each in court.noted.all] == [("ann", Verdict.PASS, 25)]


# -- The gate.


async def test_two_processes_with_one_gate_count_together():
    clock = HandClock(DURING_MS)
    gate = Gate(clock)
    one, other = Court(gate, clock), Court(gate, clock)
    assert await one.tries(Visitor("ann"), 15) == ["15 PASS"]
    assert await other.tries(Visitor("ann"), 15) == ["5 PASS", "10 CHALLENGE_REQUIRED"]
    for number in range(3):
        one.judging.granted(Visitor("bob"), [a_hold(number)])
        other.judging.granted(Visitor("bob"), [a_hold(number + 10)])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await one.judges(Visitor("bob"))).hold_seconds == 30


async def test_a_solution_that_was_used_in_one_process_is_used_in_all():
    clock = HandClock(DURING_MS)
    gate = Gate(clock)
    one, other = Court(gate, clock), Court(gate, clock)
    await one.tries(Visitor("ann"), 20)
    answer = Visitor("ann", solution=solved(one, await challenged(one, Visitor("ann"))))
    assert await one.says(answer) is None
    assert "used before" in (await challenged(other, answer)).message


async def test_while_the_gate_is_away_a_process_goes_by_what_it_has_seen():
    clock = HandClock(DURING_MS)
    gate = Gate(clock)
    court = Court(gate, clock)
    gate.away = True
    assert await court.tries(Visitor("ann"), 60) == ["20 PASS", "30 CHALLENGE_REQUIRED", "10 BLOCKED"]
    await court.tries(Visitor("bob"), 20)
    answer = Visitor("bob", solution=solved(court, await challenged(court, Visitor("bob"))))
    assert await court.says(answer) is None
    assert "used before" in (await challenged(court, answer)).message


async def test_two_processes_with_one_redis_count_together():
    ann, bob = Visitor(fresh("ann"), device=Device(fresh("d"))), Visitor(fresh("bob"))
    async with held("redis") as first, held("redis") as second:
        one, other = Court(first.gate, HandClock(DURING_MS)), Court(second.gate, HandClock(DURING_MS))
        assert await one.tries(ann, 15) == ["15 PASS"]
        assert await other.tries(ann, 15) == ["5 PASS", "10 CHALLENGE_REQUIRED"]
        answer = replace(ann, solution=solved(one, await challenged(one, ann)))
        assert await one.says(answer) is None
        assert "used before" in (await challenged(other, answer)).message
        one.judging.granted(bob, [a_hold(number) for number in range(7)])
        while (await other.judges(bob)).hold_seconds is None:
            pass  # nobody waits until it is told
