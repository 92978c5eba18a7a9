"""The published form: what a row becomes, and that its name stays the same."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from flashsale.core.books import Books
from flashsale.core.dead_letters import bury
from flashsale.core.event import RESERVATION_EVENT, STOCK_EVENT, VERSION, Event, Topic, published
from flashsale.core.journal import Kind, Movement, Stock, move
from flashsale.core.letter import DeadLetter
from flashsale.core.request import Item, Request
from flashsale.core.reservation import TRANSITIONS, Reservation, Status

DOCUMENT = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
AT_MS = 1_768_471_320_250


def a_movement(kind: Kind = Kind.RESERVE, reservation_id: str | None = "res_1", reason: str = "") -> Movement:
    stock = Stock("launch", "PHONE", 100, 4, 2, 11)
    return move(stock, kind, 1, AT_MS, reservation_id, "ann" if reservation_id else "operator", reason)


def an_order_event(name: str = "order.paid", sequence: int = 2) -> Event:
    body = {"saleId": "launch", "userId": "ann", "status": "PAID"}
    return Event(Topic.ORDERS, name, "ord_1", sequence, AT_MS, body)


def a_dead_letter() -> Event:
    letter = DeadLetter("dlq_1", AT_MS, "flashsale.requests", 7, 42, b"{}", "a fault", 3, ("res_1",))
    request = Request(("res_1",), "ann", "launch", (Item("PHONE", 1),), AT_MS)
    books = Books({})
    books.reservations["res_1"] = Reservation(
        "res_1", "ann", "launch", "PHONE", 1, Status.REJECTED, 0, "", AT_MS, AT_MS
    )  # fmt: skip
    bury(books, letter, request, AT_MS)
    (event,) = books.events
    return event


def a_rejection() -> Event:
    body = {"saleId": "launch", "skuId": "PHONE", "quantity": 1, "actor": "ann", "code": "SOLD_OUT"}
    return Event(Topic.RESERVATIONS, "reservation.rejected", "res_1", 1, AT_MS, body)


def test_a_rejected_request_is_told_under_its_products_key():
    (told,) = published(a_rejection())
    assert (told.topic, told.key, told.id) == ("flashsale.reservations", "PHONE", "res_1.1")
    assert (told.body["reservationId"], told.body["code"]) == ("res_1", "SOLD_OUT")


def test_a_movement_of_a_reservation_is_told_to_those_who_follow_it_and_to_those_who_count():
    told = published(a_movement())
    assert [(event.topic, event.type) for event in told] == [
        ("flashsale.reservations", "reservation.reserved"),
        ("flashsale.inventory", "stock.held"),
    ]
    assert {event.key for event in told} == {"PHONE"}
    assert {event.sku_seq for event in told} == {12}
    assert [told[1].body[name] for name in ("total", "available", "held", "sold")] == [100, 93, 5, 2]


def test_a_movement_without_a_reservation_is_told_to_those_who_count():
    (told,) = published(a_movement(Kind.RESTOCK, None, "a late delivery"))
    assert (told.topic, told.type, told.body["reason"]) == ("flashsale.inventory", "stock.restocked", "a late delivery")


def test_an_event_of_an_order_has_the_orders_key_and_number():
    (told,) = published(an_order_event())
    assert (told.topic, told.type, told.key, told.sequence) == ("flashsale.orders", "order.paid", "ord_1", 2)
    assert told.body == {"orderId": "ord_1", "saleId": "launch", "userId": "ann", "status": "PAID"}


def test_an_event_is_the_same_whenever_it_is_told_and_no_other_has_its_id():
    rows = [a_movement(), a_movement(Kind.RESTOCK, None), an_order_event(), an_order_event(sequence=3)]
    told = [event for row in rows for event in published(row)]
    assert told == [event for row in rows for event in published(row)]
    others = published(a_movement()._replace(sku_seq=13)) + published(a_movement()._replace(sale_id="other"))
    ids = [event.id for event in told[:2] + told[3:] + others[:2] + others[3:]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_movement_has_its_event(kind):
    assert STOCK_EVENT[kind].startswith("stock.")
    of_a_reservation = kind is Kind.RESERVE or kind in {moved for _, moved in TRANSITIONS}
    assert (kind in RESERVATION_EVENT) == of_a_reservation


def test_json_has_the_number_that_the_event_has_and_no_other():
    reserved, held = (json.loads(msgspec.json.encode(event)) for event in published(a_movement()))
    (paid,) = (json.loads(msgspec.json.encode(event)) for event in published(an_order_event()))
    assert reserved["skuSeq"] == held["skuSeq"] == 12 and paid["sequence"] == 2
    assert "sequence" not in reserved | held and "skuSeq" not in paid
    assert {each["version"] for each in (reserved, held, paid)} == {VERSION}
    assert {each["at"] for each in (reserved, held, paid)} == {"2026-01-15T10:02:00.250Z"}


# -- The document.


def test_the_document_has_an_example_of_each_topic_as_the_code_tells_it():
    examples = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]
    told = [*published(a_movement()), *published(an_order_event()), *published(a_dead_letter())]
    assert examples == [json.loads(msgspec.json.encode(event)) for event in told]
    assert [event["topic"] for event in examples] == list(Topic)


def test_the_document_lists_every_type_of_event_and_every_field():
    types = {*STOCK_EVENT.values(), *RESERVATION_EVENT.values(), *ORDER_EVENTS, "reservation.rejected", "request.dead"}
    assert set(re.findall(r"^\| `((?!flashsale)\w+\.\w+)` \|", DOCUMENT, re.MULTILINE)) == types
    fields = {
        name
        for row in (a_movement(), an_order_event(), a_rejection(), a_dead_letter())
        for event in published(row)
        for name in event.body
    }
    fields |= {field.encode_name for field in msgspec.structs.fields(published(a_movement())[0])}
    assert set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE)) == fields


ORDER_EVENTS = {
    "order.created", "order.paid", "order.cancelled", "order.expired", "order.refunding", "order.refunded",
}  # fmt: skip
