"""Device facts: what is read from the header, what is refused, and by what a device is known again."""

import json
from base64 import urlsafe_b64encode

import pytest
from core.shop import refusal_of
from hypothesis import given
from hypothesis import strategies as st

from flashsale.core.device import FACTS, HEADER_MAX, Device, completeness, mark_of, read_device
from flashsale.core.refusal import Refusal

PHONE = {
    "deviceId": "d-1", "platform": "iPhone", "browser": "Safari 17", "os": "iOS 17.1", "screen": "1170x2532",
    "timezone": "Europe/Berlin", "language": "de-DE", "canvas": "ab12", "webgl": "Apple GPU",
}  # fmt: skip


def header(facts: object, padded: bool = False) -> str:
    text = urlsafe_b64encode(json.dumps(facts).encode()).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize("padded", [True, False])
def test_all_facts_are_read_with_and_without_padding(padded):
    device = read_device(header(PHONE, padded))
    assert [getattr(device, fact) for fact in FACTS] == list(PHONE.values())


WRONG = {
    "no base64": "%%%",
    "base64 with something behind its end": "e30=e30",
    "base64 of the other alphabet": "eyJvcyI6Ii8/Pz8ifQ/+",
    "cut off": header(PHONE)[:-3],
    "no JSON": urlsafe_b64encode(b"hello").decode(),
    "a list": header([1]),
    "an unknown fact": header({"imei": "1"}),
    "a number": header({"os": 17}),
    "an empty fact": header({"os": ""}),
    "a fact that is too long": header({"canvas": "x" * 257}),
    "not UTF-8": urlsafe_b64encode(b'{"os":"\xff"}').decode(),
    "nothing": "",
    "a newline in it": header(PHONE)[:8] + "\n" + header(PHONE)[8:],
    "too long": header({"canvas": "x" * HEADER_MAX}),
    "deeply nested": header(json.loads("[" * 400 + "]" * 400)),
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
def test_a_header_that_is_not_right_is_refused_by_its_name(value):
    refused = read_device(value)
    assert refusal_of(refused) is Refusal.VALIDATION_FAILED
    [error] = refused.details["errors"]
    assert error["field"] == "X-Flashsale-Device"


@given(st.text(st.characters(max_codepoint=255), max_size=300))
def test_whatever_stands_in_the_header_is_read_or_refused(value):
    assert isinstance(read_device(value), Device) or refusal_of(read_device(value)) is Refusal.VALIDATION_FAILED


@pytest.mark.parametrize(
    ("facts", "share"), [(PHONE, 1.0), ({}, 0.0), ({"os": "x", "webgl": "y", "canvas": "z"}, 1 / 3)]
)
def test_completeness_is_the_share_of_facts_that_are_there(facts, share):
    assert completeness(read_device(header(facts))) == share
    assert completeness(None) == 0.0


def test_a_device_is_known_by_its_id_after_an_update_of_its_browser():
    updated = PHONE | {"browser": "Safari 18", "language": "en"}
    assert mark_of(read_device(header(PHONE))) == mark_of(read_device(header(updated)))
    assert mark_of(read_device(header(PHONE))) != mark_of(read_device(header(PHONE | {"deviceId": "d-2"})))


@pytest.mark.parametrize("facts", [{}, {name: fact for name, fact in PHONE.items() if name != "deviceId"}])
def test_a_device_without_an_id_is_told_from_no_other(facts):
    assert mark_of(read_device(header(facts))) is None
    assert mark_of(None) is None
