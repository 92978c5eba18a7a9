"""Risk: what is known of somebody who asks for units, and what is made of it.

Rules are data. Each has a name, says in words when it applies, and how many points it then gives; the points are added.
From `challenge_score` on he has to solve a challenge, from `block_score` on he is refused. Nothing
here looks at reads or polls: only attempts to purchase count.

The numbers that rules compare with are terms that operators may change at run time; the points are not, so that the
reasons in the log mean the same next month.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import asdict


class RiskTerms(msgspec.Struct, frozen=True):
    """What operators may change."""

    challenge_score: int = 50
    block_score: int = 80
    challenge_per_minute: int = 20
    """Purchase attempts of one user."""
    block_per_minute: int = 50
    device_facts_min: float = 0.5
    """Share of the device facts below which they count as incomplete."""
    new_for_minutes: int = 60
    """How long an identity counts as new."""
    address_accounts_some: int = 10
    """Accounts seen on one address within an hour."""
    address_accounts_many: int = 40
    device_accounts_some: int = 2
    device_accounts_many: int = 5
    early_attempts_some: int = 10
    """Attempts to purchase within a minute before the start of a sale."""
    early_attempts_many: int = 40
    unpaid_some: int = 3
    """Reservations within an hour that were neither paid nor are paid for."""
    unpaid_many: int = 6
    address_unpaid_some: int = 40
    address_unpaid_many: int = 60


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What is known. What is not known speaks neither for nor against anybody."""

    over_challenge_rate: bool = False
    over_block_rate: bool = False
    device_wanted: bool = False
    device_share: float = 0.0
    """Of the device facts, how many were given: from 0 to 1."""
    identity_new: bool = False
    tier: str | None = None
    address_accounts: int = 0
    device_accounts: int = 0
    early_attempts: int = 0
    unpaid: int = 0
    """Reservations of his, or from his device, within an hour that were not paid."""
    address_unpaid: int = 0


NOTHING_KNOWN = Facts()
LOWEST_TIER = "LIMITED"


class Verdict(StrEnum):
    PASS = "PASS"  # noqa: S105  # not a password
    CHALLENGE = "CHALLENGE"
    BLOCK = "BLOCK"


class Rule(NamedTuple):
    name: str
    says: str
    """In words, with names of terms in braces."""
    points: int
    applies: Callable[[Facts, RiskTerms], bool]


RULES: tuple[Rule, ...] = (
    Rule("attempts", "more than {challenge_per_minute} purchase attempts a minute", 50,
         lambda facts, terms: facts.over_challenge_rate),
    Rule("attempts-flood", "more than {block_per_minute} purchase attempts a minute", 30,
         lambda facts, terms: facts.over_block_rate),
    Rule("device-absent", "no device facts, though the sale wants them", 50,
         lambda facts, terms: facts.device_wanted and not facts.device_share),
    Rule("device-incomplete", "less than {device_facts_min:.0%} of the device facts, though the sale wants them", 25,
         lambda facts, terms: facts.device_wanted and 0 < facts.device_share < terms.device_facts_min),
    Rule("identity-new", "an identity younger than {new_for_minutes} minutes", 15,
         lambda facts, terms: facts.identity_new),
    Rule("tier-lowest", "the lowest tier", 10, lambda facts, terms: facts.tier == LOWEST_TIER),
    Rule("address-shared", "more than {address_accounts_some} accounts on the address in an hour", 20,
         lambda facts, terms: facts.address_accounts > terms.address_accounts_some),
    Rule("address-crowded", "more than {address_accounts_many} accounts on the address in an hour", 30,
         lambda facts, terms: facts.address_accounts > terms.address_accounts_many),
    Rule("device-shared", "more than {device_accounts_some} accounts on the device in an hour", 30,
         lambda facts, terms: facts.device_accounts > terms.device_accounts_some),
    Rule("device-crowded", "more than {device_accounts_many} accounts on the device in an hour", 50,
         lambda facts, terms: facts.device_accounts > terms.device_accounts_many),
    Rule("early", "more than {early_attempts_some} purchase attempts in a minute before the start", 20,
         lambda facts, terms: facts.early_attempts > terms.early_attempts_some),
    Rule("early-flood", "more than {early_attempts_many} purchase attempts in a minute before the start", 30,
         lambda facts, terms: facts.early_attempts > terms.early_attempts_many),
    Rule("hoarding", "more than {unpaid_many} reservations in an hour that were not paid", 50,
         lambda facts, terms: facts.unpaid > terms.unpaid_many),
    Rule("hoarding-address", "more than {address_unpaid_many} reservations from the address in an hour, not paid", 50,
         lambda facts, terms: facts.address_unpaid > terms.address_unpaid_many),
)  # fmt: skip


class Judged(NamedTuple):
    verdict: Verdict
    score: int
    reasons: tuple[str, ...]
    """Names of the rules that applied."""


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """What was decided of somebody, for the log."""

    at_ms: int
    user_id: str
    sale_id: str
    verdict: Verdict
    score: int
    reasons: tuple[str, ...]
    facts: dict[str, Any]
    """Those that are not as they are of everybody."""
    solved: bool = False
    """Whether he brought the solution of a challenge, and so was let through."""
    times: int = 1
    """How often in a row, within a second or so."""


class Kept(NamedTuple):
    """What of the log is kept; beyond that its oldest rows go, a batch with each that is written."""

    rows: int
    since_ms: int
    batch: int


def told_of(facts: Facts) -> dict[str, Any]:
    """The facts for the log: those that say something."""
    return {name: value for name, value in asdict(facts).items() if value != getattr(NOTHING_KNOWN, name)}


PASSED = Judged(Verdict.PASS, 0, ())


def judge(facts: Facts, terms: RiskTerms) -> Judged:
    """What is made of the facts."""
    if facts == NOTHING_KNOWN:
        return PASSED
    applied = [rule for rule in RULES if rule.applies(facts, terms)]
    if not applied:
        return PASSED
    score = sum(rule.points for rule in applied)
    return Judged(_verdict(score, terms), score, tuple(rule.name for rule in applied))


def _verdict(score: int, terms: RiskTerms) -> Verdict:
    if score >= terms.block_score:
        return Verdict.BLOCK
    return Verdict.CHALLENGE if score >= terms.challenge_score else Verdict.PASS


SHORTER = 4
"""Whoever keeps reserving without paying is given this part of a sale's reservation time."""
HOLD_SECONDS_MIN = 15


def hold_seconds(usual_seconds: int, facts: Facts, terms: RiskTerms) -> int | None:
    """How long somebody's reservations are held if that is shorter than usual; else None."""
    if facts.unpaid <= terms.unpaid_some and facts.address_unpaid <= terms.address_unpaid_some:
        return None
    shorter = max(usual_seconds // SHORTER, HOLD_SECONDS_MIN)
    return shorter if shorter < usual_seconds else None
