"""Challenges: what the widget is given, and which of the solutions that come back are worth something."""

import json
from base64 import b64decode, b64encode
from copy import deepcopy
from random import Random

import altcha
import pytest
from contract.ledgers import HandClock

from flashsale.backends.challenges import AltchaChallenges
from flashsale.core.challenge import HEADER_MAX, VALID_SECONDS, Challenge, Hardness

SECRET = b"s" * 32


def solve(made: dict) -> dict:
    """As the widget does it."""
    challenge = altcha.Challenge.from_dict(made)
    solution = altcha.solve_challenge(challenge)
    return {"challenge": made, "solution": {"counter": solution.counter, "derivedKey": solution.derived_key, "time": 1}}


def written(payload: object) -> str:
    return b64encode(json.dumps(payload).encode()).decode()


@pytest.fixture(scope="module")
def challenges() -> AltchaChallenges:
    return AltchaChallenges(SECRET, HandClock())


@pytest.fixture(scope="module")
def solved(challenges: AltchaChallenges) -> dict:
    return solve(challenges.make(Hardness.USUAL, "ann"))


def test_a_solution_says_of_which_challenge_it_is_and_is_right(challenges, solved):
    opened = challenges.opened(written(solved))
    nonce = solved["challenge"]["parameters"]["nonce"]
    assert opened == Challenge(nonce, Hardness.USUAL, "ann", HandClock().at_ms + VALID_SECONDS * 1000)
    assert challenges.solved(written(solved))


def test_a_solution_fits_into_its_header(solved):
    assert len(written(solved)) < HEADER_MAX / 2


def test_what_is_harder_is_more_work_and_no_two_challenges_are_the_same(challenges):
    usual, hard = (challenges.make(hardness, "")["parameters"] for hardness in Hardness)
    assert hard["cost"] > 2 * usual["cost"]
    assert (usual["nonce"], usual["salt"]) != (hard["nonce"], hard["salt"])


def test_a_challenge_of_another_ledger_is_none(solved):
    assert AltchaChallenges(b"t" * 32, HandClock()).opened(written(solved)) is None


def test_a_wrong_number_is_no_solution(challenges, solved):
    wrong = deepcopy(solved)
    wrong["solution"]["counter"] += 1
    assert challenges.opened(written(wrong)) is not None
    assert not challenges.solved(written(wrong))


def test_a_key_that_was_not_worked_for_is_no_solution(challenges):
    made = challenges.make(Hardness.USUAL, "ann")
    lazy = {"challenge": made, "solution": {"counter": 0, "derivedKey": "0" * 64}}
    assert not challenges.solved(written(lazy))


CHANGED = {
    "its cost": ("cost", 1),
    "its zeros": ("keyPrefix", ""),
    "whom it is for": ("data", {"for": "bob", "hardness": 1, "untilMs": 1}),
    "until when": ("expiresAt", 9_999_999_999),
    "its algorithm": ("algorithm", "SHA-256"),
    "its salt": ("salt", "00" * 16),
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED.keys())
def test_a_challenge_in_which_something_was_changed_is_none(challenges, solved, change):
    name, value = change
    forged = deepcopy(solved)
    forged["challenge"]["parameters"][name] = value
    assert challenges.opened(written(forged)) is None
    assert not challenges.solved(written(forged))


def test_a_long_expired_one_is_known_as_that(challenges, solved):
    old = deepcopy(solved)
    old["challenge"]["parameters"]["expiresAt"] = 1
    assert challenges.opened(written(old)).expires_at_ms == 0


@pytest.mark.parametrize(
    "text",
    ["", "%%%", "eyJ9", written([]), written({}), written({"challenge": 5}), written({"challenge": {"parameters": []}}),
     written({"challenge": {"parameters": {}}}), "A" * (HEADER_MAX + 4), b64encode(b"[" * 3000).decode(),
     b64encode(b"\xff\xfe").decode()],
)  # fmt: skip
def test_what_is_no_solution_at_all_is_none_of_any_challenge(challenges, text):
    assert challenges.opened(text) is None


def test_of_ten_thousand_solutions_with_a_changed_byte_each_is_refused_or_still_the_same_one(challenges, solved):
    """The same: what was changed is a word that nobody reads, and so it is used up together with the original."""
    chance, whole = Random(7), b64decode(written(solved))
    original, refused = challenges.opened(written(solved)), 0
    for _ in range(10_000):
        changed = bytearray(whole)
        changed[chance.randrange(len(changed))] = chance.randrange(32, 127)
        text = b64encode(changed).decode()
        opened = challenges.opened(text)
        refused += opened is None
        if opened is not None and opened.expires_at_ms:
            assert opened == original
            assert (
                not challenges.solved(text)
                or json.loads(changed)["solution"]["counter"] == (solved["solution"]["counter"])
            )
    assert refused > 7_000
