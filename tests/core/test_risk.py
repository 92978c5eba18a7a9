"""The rules of risk: who is let through, who has to solve a challenge, who is refused, and why."""

import pytest
from msgspec.structs import replace

from flashsale.core.risk import PASSED, RULES, Facts, RiskTerms, Verdict, hold_seconds, judge

TERMS = RiskTerms()
ORDINARY = Facts(tier="STANDARD", address_accounts=3, device_accounts=1, early_attempts=2)

CASES = {
    "an ordinary visitor": (ORDINARY, Verdict.PASS, 0, ()),
    "nothing known": (Facts(), Verdict.PASS, 0, ()),
    "too fast": (Facts(over_challenge_rate=True), Verdict.CHALLENGE, 50, ("attempts",)),
    "much too fast": (
        Facts(over_challenge_rate=True, over_block_rate=True), Verdict.BLOCK, 80, ("attempts", "attempts-flood"),
    ),
    "no device facts where they are wanted": (Facts(device_wanted=True), Verdict.CHALLENGE, 50, ("device-absent",)),
    "no device facts where nobody wants them": (Facts(device_share=0.0, tier="STANDARD"), Verdict.PASS, 0, ()),
    "few device facts": (Facts(device_wanted=True, device_share=0.4), Verdict.PASS, 25, ("device-incomplete",)),
    "enough device facts": (Facts(device_wanted=True, device_share=0.5), Verdict.PASS, 0, ()),
    "a new account": (Facts(identity_new=True), Verdict.PASS, 15, ("identity-new",)),
    "the lowest tier": (Facts(tier="LIMITED"), Verdict.PASS, 10, ("tier-lowest",)),
    "an office behind one address": (Facts(address_accounts=11), Verdict.PASS, 20, ("address-shared",)),
    "a farm behind one address": (
        Facts(address_accounts=41), Verdict.CHALLENGE, 50, ("address-shared", "address-crowded"),
    ),
    "a couple on one device": (Facts(device_accounts=2), Verdict.PASS, 0, ()),
    "three accounts on one device": (Facts(device_accounts=3), Verdict.PASS, 30, ("device-shared",)),
    "six accounts on one device": (Facts(device_accounts=6), Verdict.BLOCK, 80, ("device-shared", "device-crowded")),
    "tries before the start": (Facts(early_attempts=11), Verdict.PASS, 20, ("early",)),
    "a storm before the start": (Facts(early_attempts=41), Verdict.CHALLENGE, 50, ("early", "early-flood")),
    "an address that hoards": (Facts(address_unpaid=61), Verdict.CHALLENGE, 50, ("hoarding-address",)),
    "hoarding": (Facts(unpaid=7), Verdict.CHALLENGE, 50, ("hoarding",)),
    "a new account on a shared device of the lowest tier": (
        Facts(identity_new=True, device_accounts=3, tier="LIMITED"), Verdict.CHALLENGE, 55,
        ("identity-new", "tier-lowest", "device-shared"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("facts", "verdict", "score", "reasons"), CASES.values(), ids=CASES.keys())
def test_what_is_made_of_the_facts(facts, verdict, score, reasons):
    judged = judge(facts, TERMS)
    assert (judged.verdict, judged.score, set(judged.reasons)) == (verdict, score, set(reasons))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_each_rule_is_the_reason_of_some_case(rule):
    assert any(rule.name in reasons for *_, reasons in CASES.values())


def test_each_rule_has_a_name_of_its_own_and_says_when_it_applies():
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert "{" not in rule.says.format(**{name: getattr(TERMS, name) for name in TERMS.__struct_fields__})


def test_the_scores_from_which_one_is_challenged_and_blocked_are_terms():
    facts = Facts(address_accounts=11)
    assert judge(facts, replace(TERMS, challenge_score=20)).verdict is Verdict.CHALLENGE
    assert judge(facts, replace(TERMS, challenge_score=10, block_score=20)).verdict is Verdict.BLOCK
    assert judge(facts, replace(TERMS, address_accounts_some=11)) == PASSED


@pytest.mark.parametrize(
    ("usual", "facts", "seconds"),
    [
        (120, Facts(unpaid=3, address_unpaid=40), None),
        (120, Facts(unpaid=4), 30),
        (120, Facts(address_unpaid=41), 30),
        (40, Facts(unpaid=9), 15),
        (15, Facts(unpaid=9), None),
        (600, Facts(unpaid=4), 150),
    ],
)
def test_whoever_keeps_reserving_without_paying_gets_shorter_holds(usual, facts, seconds):
    assert hold_seconds(usual, facts, TERMS) == seconds
