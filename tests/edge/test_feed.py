"""The event feed: the same events that a broker is told, by cursor."""

import msgspec
import pytest
from edge.shop import OPERATOR, Shop, faults, product, said

from flashsale.core.event import Topic, published
from flashsale.core.letter import DeadLetter
from flashsale.core.questions import EventsAfter, PrunedTo
from flashsale.core.retention import EVERYTHING, Reach
from flashsale.flow.publish import messages_of
from flashsale.tracing import trace_id_in

FEED = "/api/v1/admin/events"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_the_feed_tells_what_happened_in_its_order(shop: Shop) -> None:
    await shop.open()
    order = await shop.paid("alice")
    told = (await shop.operate("GET", "events")).json()
    assert [event["type"] for event in told["events"]] == [
        "stock.opened", "reservation.reserved", "stock.held", "order.created", "reservation.confirmed", "stock.sold",
        "order.paid",
    ]  # fmt: skip
    assert [event["skuSeq"] for event in told["events"] if event["topic"] == Topic.INVENTORY] == [1, 2, 3]
    assert told["events"][-1]["body"] == {
        "orderId": order["orderId"], "saleId": "S1", "userId": "alice", "status": "PAID",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["direct", "queued"])
async def test_an_event_has_the_trace_of_the_request_that_caused_it(shop: Shop, mode: str) -> None:
    await shop.open(mode=mode)
    named = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    body, headers = {"skuId": "PHONE", "userId": "alice"}, {**named, "Prefer": "wait=5"}
    answer = await shop.ask("POST", "reservations", body, headers=headers)
    assert answer.status_code == 201
    await shop.ask("DELETE", f"reservations/{answer.json()['reservationId']}")
    events = (await shop.operate("GET", "events?topic=flashsale.reservations")).json()["events"]
    assert [(event["type"], event.get("traceId")) for event in events] == [
        ("reservation.reserved", TRACE), ("reservation.cancelled", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-00", TRACE),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-more", TRACE),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", None),
        (f"00-{TRACE}-00f067aa0ba902b7-01x", None),
        (f"00-{TRACE}-00f067aa0ba902b7-01-more", None),
        ("", None),
    ],
)
def test_a_trace_is_read_as_the_standard_says(traceparent: str, trace_id: str | None) -> None:
    assert trace_id_in(traceparent.encode()) == trace_id


async def test_a_request_with_two_traces_has_none_and_is_answered_like_any_other(shop: Shop) -> None:
    await shop.open()
    two = [("traceparent", f"00-{each * 32}-00f067aa0ba902b7-01") for each in "ab"]
    assert (await shop.ask("GET", "products", headers=two)).status_code == 200
    body = {"skuId": "PHONE", "userId": "alice"}
    assert (await shop.ask("POST", "reservations", body, headers=two)).status_code == 201
    events = (await shop.operate("GET", "events?topic=flashsale.reservations")).json()["events"]
    assert [event.get("traceId") for event in events] == [None]


async def test_the_feed_and_a_broker_are_told_the_same(shop: Shop) -> None:
    await shop.open()
    await shop.paid("alice")
    rows = [row for _, row in await shop.engine.find(EventsAfter(0))]
    told = (await shop.operate("GET", "events")).json()["events"]
    assert told == [msgspec.json.decode(message.value) for message in messages_of(rows)]
    assert len(told) == len([event for row in rows for event in published(row)])


async def test_a_reader_goes_on_where_he_was_also_when_there_was_nothing_new(shop: Shop) -> None:
    await shop.open()
    first = (await shop.operate("GET", "events")).json()
    nothing = (await shop.operate("GET", f"events?after={first['next']}")).json()
    assert nothing == {"events": [], "next": first["next"]}
    await shop.held("alice")
    more = (await shop.operate("GET", f"events?after={nothing['next']}")).json()
    assert [event["type"] for event in more["events"]] == ["reservation.reserved", "stock.held"]


@pytest.mark.parametrize("topic", Topic)
async def test_a_topic_is_told_alone(shop: Shop, topic: Topic) -> None:
    await shop.open()
    await shop.paid("alice")
    letter = DeadLetter("dlq_1", 0, "flashsale.requests", 0, 0, b"?", "no request", 1)
    await shop.engine.ledger.bury(letter, None)
    everything = (await shop.operate("GET", "events")).json()["events"]
    told = (await shop.operate("GET", f"events?topic={topic}")).json()["events"]
    assert told == [event for event in everything if event["topic"] == topic]
    assert told


async def forget_all(shop: Shop) -> int:
    """Forgets everything, of a sale that has ended; up to which number."""
    await shop.operate("POST", "sales/S1/end")
    history, reach = shop.history, Reach(EVERYTHING, 0, EVERYTHING)
    await history.prune_events(reach)
    assert await history.prune_movements(("S1", "PHONE"), reach)
    return await shop.engine.find(PrunedTo())


async def test_a_reader_who_comes_too_late_is_told_so_and_from_where_on_nothing_is_missing(shop: Shop) -> None:
    await shop.open()
    await shop.paid("alice")
    oldest = await forget_all(shop)
    for after in (0, 1, oldest - 1):
        late = await shop.operate("GET", f"events?after={after}")
        assert said(late) == (410, "NOT_FOUND")
        assert late.json()["details"] == {"after": after, "oldest": oldest}
    on_time = await shop.operate("GET", f"events?after={oldest}")
    assert (on_time.status_code, on_time.json()) == (200, {"events": [], "next": oldest})


async def test_a_reader_without_a_cursor_begins_with_the_oldest_event_that_is_kept(shop: Shop) -> None:
    await shop.open()
    await shop.paid("alice")
    oldest = await forget_all(shop)
    assert (await shop.operate("GET", "events")).json() == {"events": [], "next": oldest}
    await shop.open(product("LAMP"), id="S2")
    told = (await shop.operate("GET", "events")).json()["events"]
    assert [event["type"] for event in told] == ["stock.opened"]


async def test_the_journal_tells_what_the_movements_have_come_to_that_were_pruned(shop: Shop) -> None:
    await shop.open()
    await shop.paid("alice")
    assert (await shop.operate("GET", "sales/S1/journal")).json()["pruned"] == []
    await forget_all(shop)
    told = (await shop.operate("GET", "sales/S1/journal?skuId=PHONE")).json()
    assert told == {
        "entries": [],
        "next": None,
        "pruned": [{"skuId": "PHONE", "skuSeq": 3, "total": 10, "held": 0, "sold": 1}],
    }
    assert (await shop.operate("GET", "sales/S1/ledger")).json()["consistent"] is True


async def test_the_feed_is_for_operators_and_knows_its_topics(shop: Shop) -> None:
    assert said(await shop.ask("GET", FEED)) == (401, "UNAUTHENTICATED")
    assert list(faults(await shop.ask("GET", f"{FEED}?topic=weather", headers=OPERATOR))) == ["topic"]
    assert list(faults(await shop.ask("GET", f"{FEED}?after=-1", headers=OPERATOR))) == ["after"]
