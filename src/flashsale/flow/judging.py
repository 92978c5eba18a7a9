"""Judging: whether somebody who asks for units is let through, has to solve a challenge, or is refused.

    what is known of him ──► core/risk.py ──► PASS | CHALLENGE (unless he brings a solution) | BLOCK ──► the attempt

What is counted is counted where all processes see it. Where the gate is in this process that is at once, without a task
or a future; else what comes in one turn of the loop is one call for rates and one for sightings. While the gate is
away each process goes by what it has seen itself: that lets a bot do a little more, and nobody less.

What is known of a device or an address is only what other accounts did there within the hour. An address of this very
machine (a proxy that names nobody, a test) is nobody's.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from flashsale.answering import tell
from flashsale.core import challenge
from flashsale.core.challenge import Challenge, Hardness, Link, bound_to, hardness_of, required
from flashsale.core.device import completeness, mark_of
from flashsale.core.limits import networks
from flashsale.core.rate_limit import Allowance, Buckets, Draft, Pace, at_us, pace_of
from flashsale.core.refusal import Refusal, Refused, first_said
from flashsale.core.reservation import Reservation, Status
from flashsale.core.risk import Decision, Facts, Judged, RiskTerms, Verdict, hold_seconds, judge, told_of
from flashsale.core.sale import Sale
from flashsale.core.sighting import Groups, How, Sighting
from flashsale.core.stock import Attempt
from flashsale.core.thresholds import risk_terms_of
from flashsale.core.velocity import User, Velocity
from flashsale.core.visitor import Visitor
from flashsale.flow.decisions import Decisions
from flashsale.flow.gathering import Gathering
from flashsale.flow.limiting import Limiting
from flashsale.ports import Clock, Gate, GateAway

TOGETHER_MAX = 128
WINDOW_SECONDS = 3600
WINDOW_MS = WINDOW_SECONDS * 1000
EARLY_SECONDS = 60
EARLY_MS = EARLY_SECONDS * 1000
VERDICTS_MAX = 10_000
"""Most people are alike: what was made of the same facts before is remembered."""

log = structlog.get_logger("flashsale.risk")

Then = Callable[[], None]


class Asked(msgspec.Struct, frozen=True):
    """An attempt to be judged."""

    visitor: Visitor
    sale: Sale
    attempt: Attempt
    then: Then


class Challenges(Protocol):
    """Proofs of work. Nothing is kept of a challenge: it says all about itself, under a signature."""

    def make(self, hardness: Hardness, bound: str) -> dict[str, Any]:
        """A challenge for whom it is bound to, in JSON for the widget."""

    def opened(self, solution: str) -> Challenge | None:
        """Of which challenge this claims to be the solution; None: of none that was made here. Cheap."""

    def solved(self, solution: str) -> bool:
        """Whether it is one."""


def per_minute(most: int) -> Pace:
    """So many a minute, at once if somebody likes."""
    return pace_of(most / 60, most)


class Judging:
    """A judge for `Reserving`. For one event loop."""

    def __init__(
        self, clock: Clock, limiting: Limiting, buckets: Buckets, most: int, challenges: Challenges,
        decisions: Decisions, secret: bytes, gate: Gate | None = None,
    ) -> None:  # fmt: skip
        """`limiting` has the thresholds in force and the users' tiers; `buckets` are of this process, which remembers
        `most` users and places; `gate` is one that all processes share."""
        self._clock = clock
        self._limiting = limiting
        self._buckets = buckets
        self._velocity = Velocity(most, WINDOW_MS)
        self._early_ones = Groups(most)
        self._challenges = challenges
        self._decisions = decisions
        self._secret = secret
        self._gate = gate
        self._asking = Gathering(self._ask, TOGETHER_MAX)
        self._telling = Gathering(self._tell, TOGETHER_MAX)
        self._burning = Gathering(self._burn, TOGETHER_MAX)
        self._numbers = count()
        self._verdicts: dict[Facts, Judged] = {}
        self._heard: object = None
        self._hear_terms()

    def _hear_terms(self) -> None:
        """The thresholds as they are now, each of which an operator may have changed."""
        thresholds = self._limiting.thresholds
        if thresholds is self._heard:
            return
        self._heard = thresholds
        self._verdicts.clear()
        self.terms: RiskTerms = risk_terms_of(thresholds)
        self._new_for_ms = self.terms.new_for_minutes * 60_000
        self._usual = per_minute(self.terms.challenge_per_minute)
        self._beyond = per_minute(max(self.terms.block_per_minute - self.terms.challenge_per_minute, 1))

    def __call__(self, visitor: Visitor, sale: Sale, attempt: Attempt, then: Then) -> None:
        self._hear_terms()
        asked = Asked(visitor, sale, attempt, then)
        if self._gate is None:
            now_ms = self._clock.now_ms()
            self._judged(asked, self._facts_here(visitor, sale, now_ms))
        else:
            self._asking.add(asked)

    # What is known

    def _facts_here(self, visitor: Visitor, sale: Sale, now_ms: int) -> Facts:
        """What this process knows."""
        user_id, user = visitor.user_id, self._velocity.user(visitor.user_id)
        tier = self._limiting.tier_of(user_id, visitor.tier)
        over = beyond = False
        if tier is None:
            over, beyond = user.tries(self._usual, self._beyond, at_us(now_ms))
        unpaid = self._velocity.count(user.unpaid, now_ms)
        on_address = address_unpaid = on_device = 0
        if (network := network_of(visitor.address)) is not None:
            on_address, address_unpaid = self._velocity.enter(network, user_id, now_ms)
        if (device := mark_of(visitor.device)) is not None:
            on_device, device_unpaid = self._velocity.enter(device, user_id, now_ms)
            unpaid = max(unpaid, device_unpaid)
        wanted = sale.require_device
        return Facts(
            over, beyond, wanted, completeness(visitor.device) if wanted else 0.0, self._is_new(visitor, now_ms),
            tier, on_address, on_device, self._early_here(user, user_id, sale, now_ms), unpaid, address_unpaid,
        )  # fmt: skip

    def _is_new(self, visitor: Visitor, now_ms: int) -> bool:
        return visitor.known_since_ms is not None and now_ms - visitor.known_since_ms < self._new_for_ms

    def _early(self, user_id: str, sale: Sale, now_ms: int) -> Sighting | None:
        """Before the start attempts are counted, in the minute after it they are asked for."""
        if sale.starts_at_ms is None or now_ms - sale.starts_at_ms >= EARLY_MS:
            return None
        how = How.SEEN if now_ms < sale.starts_at_ms else How.ASKED
        return Sighting(f"early:{sale.sale_id}:{user_id}", f"{now_ms}:{next(self._numbers)}", EARLY_SECONDS, how)

    def _early_here(self, user: User, user_id: str, sale: Sale, now_ms: int) -> int:
        if sale.starts_at_ms is not None and now_ms < sale.starts_at_ms:
            user.early_ms = now_ms
        if now_ms - user.early_ms >= EARLY_MS:  # as everybody who has come at the start, or later
            return 0
        sighting = self._early(user_id, sale, now_ms)
        return 0 if sighting is None else self._early_ones.sighted(sighting, now_ms)

    async def _ask(self, asked: list[Asked]) -> None:
        """Of the gate; while it is away, of what this process has seen."""
        assert self._gate is not None
        now_ms = self._clock.now_ms()
        drafts = [self._drafts(each.visitor) for each in asked]
        sightings = [self._sightings(each, now_ms) for each in asked]
        try:
            allowed, counts = await asyncio.gather(
                self._gate.take([draft for of_one in drafts for draft in of_one]),
                self._gate.sighted([sighting for of_one in sightings for sighting in of_one.values()]),
            )
        except GateAway:
            known = [self._facts_here(each.visitor, each.sale, now_ms) for each in asked]
        else:
            rates, numbers = iter(allowed), iter(counts)
            known = [
                self._facts_there(each, [not next(rates).allowed for _ in limits],
                                  {field: next(numbers) for field in about}, now_ms)
                for each, limits, about in zip(asked, drafts, sightings, strict=True)
            ]  # fmt: skip
        for each, facts in zip(asked, known, strict=True):
            tell(self._judged, each, facts)

    def _drafts(self, visitor: Visitor) -> list[Draft]:
        """None of whoever has a tier: that says how many attempts are right for him."""
        if self._limiting.tier_of(visitor.user_id, visitor.tier) is not None:
            return []
        limits = {"try": self.terms.challenge_per_minute, "fast": self.terms.block_per_minute}
        return [Draft(f"{name}:{visitor.user_id}", most / 60, most) for name, most in limits.items()]

    def _sightings(self, asked: Asked, now_ms: int) -> dict[str, Sighting]:
        """By what their answers are taken for."""
        visitor, network = asked.visitor, network_of(asked.visitor.address)
        found = {"unpaid": _about(_unpaid_of(visitor.user_id), "", How.ASKED)}
        if network is not None:
            found["on_address"] = _about(f"on:{network}", visitor.user_id)
            found["address_unpaid"] = _about(_unpaid_at(network), "", How.ASKED)
        if (device := mark_of(visitor.device)) is not None:
            found["on_device"] = _about(f"on:{device}", visitor.user_id)
            found["device_unpaid"] = _about(_unpaid_at(device), "", How.ASKED)
        if (early := self._early(visitor.user_id, asked.sale, now_ms)) is not None:
            found["early"] = early
        return found

    def _facts_there(self, asked: Asked, over: Sequence[bool], seen: Mapping[str, int], now_ms: int) -> Facts:
        visitor, wanted = asked.visitor, asked.sale.require_device
        return Facts(
            bool(over) and over[0], bool(over) and over[1],
            wanted, completeness(visitor.device) if wanted else 0.0, self._is_new(visitor, now_ms),
            self._limiting.tier_of(visitor.user_id, visitor.tier),
            seen.get("on_address", 0), seen.get("on_device", 0), seen.get("early", 0),
            max(seen["unpaid"], seen.get("device_unpaid", 0)), seen.get("address_unpaid", 0),
        )  # fmt: skip

    # What is made of it

    def _judged(self, asked: Asked, facts: Facts) -> None:
        judged = self._verdicts.get(facts)
        if judged is None:
            judged = self._verdicts[facts] = judge(facts, self.terms)
            if len(self._verdicts) > VERDICTS_MAX:
                self._verdicts.clear()
        if facts.unpaid or facts.address_unpaid:
            asked.attempt.hold_seconds = hold_seconds(asked.sale.reservation_seconds, facts, self.terms)
        if judged.verdict is Verdict.PASS:
            if judged.score and 2 * judged.score >= self.terms.challenge_score:
                self._note(asked, judged, facts)
            asked.then()
        elif judged.verdict is Verdict.BLOCK:
            self._note(asked, judged, facts)
            _bar(asked, BLOCKED)
        else:
            self._challenge(asked, judged, facts)

    def _challenge(self, asked: Asked, judged: Judged, facts: Facts) -> None:
        terms, solution, user_id = self.terms, asked.visitor.solution, asked.visitor.user_id
        hardness = hardness_of(judged.score, terms.challenge_score, terms.block_score)
        link = Link(hardness, bound_to(self._secret, user_id, asked.sale.sale_id))
        refuse = partial(required, self._secret, link)
        if solution is None:
            self._note(asked, judged, facts)
            _bar(asked, refuse(challenge.NEEDED))
            return
        opened = self._challenges.opened(solution)
        his = bound_to(self._secret, user_id)
        wrong = challenge.WRONG if opened is None else challenge.fault(opened, link, his, self._clock.now_ms())
        if wrong is not None or opened is None:
            _bar(asked, refuse(wrong or challenge.WRONG))
            return
        self._burning.add(Solved(asked, judged, facts, opened.number, solution, refuse))

    async def _burn(self, solved: "list[Solved]") -> None:
        """A solution is used up before it is checked: to check it is work, and nobody shall have it done twice."""
        drafts = [Draft(f"challenge:{each.number}", 1 / (2 * challenge.VALID_SECONDS), 1) for each in solved]
        for each, fresh in zip(solved, await self._first_uses(drafts), strict=True):
            tell(self._check, each, fresh.allowed)

    def _check(self, solved: "Solved", fresh: bool) -> None:
        if not fresh:
            _bar(solved.asked, solved.refuse(challenge.USED))
        elif not self._challenges.solved(solved.solution):
            _bar(solved.asked, solved.refuse(challenge.WRONG))
        else:
            self._note(solved.asked, solved.judged, solved.facts, solved=True)
            solved.asked.then()

    async def _first_uses(self, drafts: list[Draft]) -> list[Allowance]:
        if self._gate is not None:
            try:
                return await self._gate.take(drafts)
            except GateAway:
                log.debug("counted in this process: the gate is away", what="solutions")
        now_us = at_us(self._clock.now_ms())
        return [self._buckets.take(draft, now_us) for draft in drafts]

    def _note(self, asked: Asked, judged: Judged, facts: Facts, *, solved: bool = False) -> None:
        now_ms, user_id, sale_id = self._clock.now_ms(), asked.visitor.user_id, asked.sale.sale_id
        self._decisions.note(Decision(now_ms, user_id, sale_id, *judged, told_of(facts), solved))

    # Holds that nobody pays for

    def granted(self, visitor: Visitor, reservations: Sequence[Reservation]) -> None:
        """These were reserved just now: until they are paid they count against user, device and address."""
        user_id, places, now_ms = visitor.user_id, places_of(visitor), self._clock.now_ms()
        for each in reservations:
            if each.status is Status.RESERVED:
                self._velocity.hold(user_id, places, each.reservation_id, now_ms)
                self._tell_all(user_id, places, each.reservation_id, How.SEEN)

    def paid(self, user_id: str, reservation_ids: Sequence[str]) -> None:
        """They count no more. From which device and address they came is known where they were reserved."""
        for reservation_id in reservation_ids:
            places = self._velocity.paid(user_id, reservation_id)
            self._tell_all(user_id, places, reservation_id, How.GONE)

    def _tell_all(self, user_id: str, places: tuple[str, ...], reservation_id: str, how: How) -> None:
        """The other processes, where there are any."""
        if self._gate is not None:
            groups = (_unpaid_of(user_id), *map(_unpaid_at, places))
            self._telling.add(*(_about(group, reservation_id, how) for group in groups))

    async def _tell(self, sightings: list[Sighting]) -> None:
        assert self._gate is not None
        try:
            await self._gate.sighted(sightings)
        except GateAway:
            log.debug("counted in this process: the gate is away", what="holds")


class Solved(NamedTuple):
    """An attempt that brings a solution of a challenge that is his."""

    asked: Asked
    judged: Judged
    facts: Facts
    number: str
    solution: str
    refuse: Callable[[str], Refused]


BLOCKED = Refused(Refusal.BLOCKED, "This request looks like a bot's; an operator can tell why")


def _bar(asked: Asked, refused: Refused) -> None:
    asked.attempt.barred = first_said(asked.attempt.barred, refused)
    asked.then()


def _unpaid_of(user_id: str) -> str:
    return f"unpaid-of:{user_id}"


def _unpaid_at(mark: str) -> str:
    """An address or a device. A user may have a name like theirs."""
    return f"unpaid:{mark}"


def _about(group: str, member: str, how: How = How.SEEN) -> Sighting:
    return Sighting(group, member, WINDOW_SECONDS, how)


def network_of(address: str | None) -> str | None:
    """By what an address is known: of IPv6 its /64. None: by nothing, or it is of this machine."""
    if address is None or address.startswith("127.") or address == "::1":
        return None
    return networks(address)[0] if ":" in address else address


def places_of(visitor: Visitor) -> tuple[str, ...]:
    """By what the places are known that he comes from."""
    network, device = network_of(visitor.address), mark_of(visitor.device)
    if device is None:
        return () if network is None else (network,)
    return (device,) if network is None else (network, device)
