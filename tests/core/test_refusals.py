"""The closed list of refusals: each with its status, in the order in which they are said."""

import pytest

from flashsale.core.refusal import Refusal, Refused, invalid, not_found

DOCUMENTED = [
    ("RATE_LIMITED", 429),
    ("VALIDATION_FAILED", 400),
    ("UNAUTHENTICATED", 401),
    ("ACCESS_DENIED", 403),
    ("KEY_REUSED", 422),
    ("BLOCKED", 403),
    ("CHALLENGE_REQUIRED", 403),
    ("NOT_FOUND", 404),
    ("NOT_STARTED", 409),
    ("ENDED", 409),
    ("PAUSED", 409),
    ("PASS_REQUIRED", 403),
    ("LIMIT_EXCEEDED", 403),
    ("SOLD_OUT", 409),
    ("RESERVATION_EXPIRED", 410),
    ("ILLEGAL_STATE", 409),
    ("PAYMENT_DECLINED", 402),
    ("PAYMENT_MISMATCH", 409),
    ("PAYMENT_REUSED", 409),
    ("UNAVAILABLE", 503),
]


def test_the_refusals_stand_in_their_documented_order():
    assert [(refusal.code, refusal.status) for refusal in Refusal] == DOCUMENTED


@pytest.mark.parametrize("refusal", Refusal)
def test_no_refusal_is_an_internal_error_and_each_has_a_title_of_its_own(refusal):
    assert 400 <= refusal.status < 500 or refusal is Refusal.UNAVAILABLE
    assert [each.title for each in Refusal].count(refusal.title) == 1


def test_a_wrong_field_is_named():
    refused = invalid("quantity", "must be at least 1")
    assert refused.details == {"errors": [{"field": "quantity", "message": "must be at least 1"}]}


def test_what_is_missing_is_named():
    assert not_found("skuId", "lamp") == Refused(Refusal.NOT_FOUND, "No such skuId: lamp", {"skuId": "lamp"})
