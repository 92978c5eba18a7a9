"""A queued request as it is read from a message: whatever reaches a decision is in good form."""

import msgspec
import pytest

from flashsale.core.request import Item, Request, Unreadable, decode, encode

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
GOOD = Request(("res_1",), "ann", "sale", (Item("lamp", 1),), 1, trace_id=TRACE, redrive_of="res_0")


def changed(**fields: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(encode(GOOD)) | fields)


def test_a_request_is_read_as_it_was_written():
    assert decode(encode(GOOD)) == GOOD


@pytest.mark.parametrize("trace_id", ["\0" * 32, "a" * 100_000, "", TRACE.upper()])
def test_a_trace_that_is_none_is_dropped_and_the_request_goes_on(trace_id):
    assert decode(changed(traceId=trace_id)) == msgspec.structs.replace(GOOD, trace_id=None)


@pytest.mark.parametrize(
    "fault",
    [
        {"version": 2},
        {"items": []},
        {"items": [{"sku_id": "lamp", "quantity": 0}]},
        {"items": [{"sku_id": "lamp", "quantity": 1}] * 2, "reservationIds": ["res_1", "res_2"]},
        {"reservationIds": ["res_1", "res_2"]},
        {"userId": "a\0b"},
        {"saleId": ""},
        {"redriveOf": "res_\0"},
        {"redriveOf": "r" * 256},
    ],
)
def test_what_no_ledger_could_keep_is_unreadable(fault):
    with pytest.raises(Unreadable):
        decode(changed(**fault))
