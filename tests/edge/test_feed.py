"""The event feed: the same events that a broker is told, by cursor."""

import msgspec
import pytest
from edge.shop import OPERATOR, Shop, faults, said

from flashsale.core.event import Topic, published
from flashsale.flow.publish import messages_of
from flashsale.ports import EventsAfter

FEED = "/api/v1/admin/events"


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
    everything = (await shop.operate("GET", "events")).json()["events"]
    told = (await shop.operate("GET", f"events?topic={topic}")).json()["events"]
    assert told == [event for event in everything if event["topic"] == topic]
    assert told


async def test_the_feed_is_for_operators_and_knows_its_topics(shop: Shop) -> None:
    assert said(await shop.ask("GET", FEED)) == (401, "UNAUTHENTICATED")
    assert list(faults(await shop.ask("GET", f"{FEED}?topic=weather", headers=OPERATOR))) == ["topic"]
    assert list(faults(await shop.ask("GET", f"{FEED}?after=-1", headers=OPERATOR))) == ["after"]
