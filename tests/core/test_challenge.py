"""Challenges: how hard, for whom, until when; and the sealed link that says so."""

import pytest

from flashsale.core.challenge import (
    EXPIRED,
    NOT_HIS,
    TOO_EASY,
    Challenge,
    Hardness,
    Link,
    bound_to,
    fault,
    hardness_of,
    required,
    sealed,
    unsealed,
)
from flashsale.core.refusal import Refusal

SECRET = b"s" * 32
LINK = Link(Hardness.HARD, bound_to(SECRET, "ann", "sale"))
ANN = bound_to(SECRET, "ann")


@pytest.mark.parametrize(("score", "hardness"), [(50, 1), (65, 1), (66, 2), (79, 2)])
def test_the_more_suspicious_somebody_is_the_harder_is_his_challenge(score, hardness):
    assert hardness_of(score, 50, 80) == hardness


def test_a_link_is_read_as_it_was_written_and_no_other_is_read():
    text = sealed(SECRET, LINK)
    assert unsealed(SECRET, text) == LINK
    assert unsealed(b"t" * 32, text) is None
    for place in range(len(text)):
        other = "0" if text[place] != "0" else "1"
        assert unsealed(SECRET, text[:place] + other + text[place + 1 :]) is None
    assert [unsealed(SECRET, each) for each in ("", "-", "1--", "é", text + "0", text[:-1])] == [None] * 6


def test_a_link_tells_nobody_whom_it_is_for():
    assert "ann" not in sealed(SECRET, LINK)
    assert bound_to(SECRET, "ann", "sale") != bound_to(SECRET, "ann", "other")
    assert bound_to(SECRET, "ann", "sale") != bound_to(SECRET, "bob", "sale")


NOW_MS = 1_000


@pytest.mark.parametrize(
    ("challenge", "wrong"),
    [
        (Challenge("1", 2, LINK.bound, NOW_MS + 1), None),
        (Challenge("1", 2, ANN, NOW_MS + 1), None),
        (Challenge("1", 2, "", NOW_MS + 1), None),
        (Challenge("1", 2, LINK.bound, NOW_MS), EXPIRED),
        (Challenge("1", 2, bound_to(SECRET, "bob"), NOW_MS + 1), NOT_HIS),
        (Challenge("1", 2, bound_to(SECRET, "ann", "other"), NOW_MS + 1), NOT_HIS),
        (Challenge("1", 1, LINK.bound, NOW_MS + 1), TOO_EASY),
    ],
)
def test_what_is_wrong_with_a_challenge_is_said(challenge, wrong):
    assert fault(challenge, LINK, ANN, NOW_MS) == wrong


def test_the_refusal_says_where_there_is_a_challenge_that_would_do():
    refused = required(SECRET, LINK, "Why")
    assert refused.refusal is Refusal.CHALLENGE_REQUIRED
    path, _, text = refused.details["challengeUrl"].partition("?for=")
    assert (path, unsealed(SECRET, text)) == ("/api/v1/challenge", LINK)
