"""The waiting room over HTTP: join, ask, hold the line, be let in, buy; and the draw that everybody can check."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from edge.lanes import until
from edge.shop import LONG_AGO, Shop, faults, opened, product, said

from flashsale.core.draw import commitment, merkle_root, order, read_receipt, ticket_hash
from flashsale.core.reservation import Status
from flashsale.core.waiting_room import Phase

ROOM = {"enabled": True, "admitPerSecond": 1000, "burst": 1000}
SHUT = {"enabled": True, "admitPerSecond": 0.001, "burst": 1}
"""Lets one in, and then nobody for long."""


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.fixture
async def shop(tmp_path: Path, sandbox_url: str) -> AsyncIterator["Hall"]:
    async with opened(tmp_path, sandbox_url) as shop:
        yield Hall(shop)


class Hall:
    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.ask, self.operate = shop.ask, shop.operate

    async def open(self, room: dict[str, Any] = ROOM, **terms: Any) -> dict[str, Any]:
        told = await self.shop.open(product(stock=terms.pop("stock", 10)), waitingRoom=room, **terms)
        await self.shop.engine.rooms.look()
        return told

    async def starts(self) -> None:
        """Now, whenever it was to start: so nobody comes too late because the machine is slow."""
        assert (await self.operate("POST", "sales/S1/start")).status_code == 200

    async def join(self, user: str = "alice", sale: str = "S1") -> httpx.Response:
        return await self.ask("POST", f"sales/{sale}/queue", {"userId": user})

    async def ticket(self, user: str = "alice") -> str:
        answer = await self.join(user)
        assert answer.status_code == 201, answer.text
        ticket: str = answer.json()["ticket"]
        return ticket

    async def place(self, ticket: str, **more: Any) -> dict[str, Any]:
        answer = await self.ask("GET", f"sales/S1/queue/{ticket}", **more)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def admitted(self, user: str = "alice") -> dict[str, Any]:
        """The place of somebody, when he has been let in."""
        return await self.turn_of(await self.ticket(user))

    async def turn_of(self, ticket: str) -> dict[str, Any]:
        """The place of a ticket when its owner has been let in."""
        async with asyncio.timeout(10):
            while (place := await self.place(f"{ticket}?wait=5"))["state"] != "ADMITTED":
                assert place["state"] in ("PRE_QUEUE", "WAITING", "SOLD_OUT")
        return place

    async def buy(self, user: str, pass_text: str | None, **more: Any) -> httpx.Response:
        headers = {} if pass_text is None else {"X-Flashsale-Pass": pass_text}
        return await self.ask("POST", "reservations", {"skuId": "PHONE", "userId": user} | more, headers=headers)


# Joining


async def test_who_joins_is_told_his_place_his_wait_and_when_to_ask_again(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    told = (await shop.join("alice")).json()
    assert told["ticket"].startswith("tkt_")
    assert (told["state"], told["position"], told["peopleAhead"]) == ("WAITING", 1, 0)
    assert set(told["estimatedWaitSeconds"]) == {"low", "likely", "high", "reason"}
    assert 1 <= told["pollAfterSeconds"] <= 15
    behind = (await shop.join("bob")).json()
    assert (behind["position"], behind["peopleAhead"]) == (2, 1)


async def test_joining_again_gives_the_same_ticket_on_every_device(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    first, again = (await shop.join()).json(), (await shop.join()).json()
    assert (first["ticket"], first["receipt"]) == (again["ticket"], again["receipt"])


async def test_the_header_alone_says_who_joins_and_somebody_must(shop):
    await shop.open(SHUT)
    alone = await shop.ask("POST", "sales/S1/queue", headers={"X-User-ID": "alice"})
    assert alone.status_code == 201
    assert faults(await shop.ask("POST", "sales/S1/queue")) == {"userId": "is required, here or in header X-User-ID"}
    assert faults(await shop.ask("POST", "sales/S1/queue", {"ticket": "mine"})) != {}


async def test_a_sale_without_a_room_has_no_queue(shop):
    await shop.shop.open()
    assert said(await shop.join()) == (404, "NOT_FOUND")
    assert said(await shop.join(sale="nowhere")) == (404, "NOT_FOUND")
    assert said(await shop.ask("GET", "sales/S1/draw")) == (404, "NOT_FOUND")
    assert (await shop.shop.reserve()).status_code == 201


async def test_before_the_room_opens_one_is_told_when_it_does(shop):
    await shop.open({**ROOM, "prequeueSeconds": 60}, startsAt=in_seconds(3600))
    answer = await shop.join()
    assert said(answer) == (409, "NOT_STARTED")
    assert answer.json()["details"]["queueOpensAt"] < answer.json()["details"]["startsAt"]
    sale = (await shop.ask("GET", "sales/S1")).json()
    assert sale["queueOpensAt"] == answer.json()["details"]["queueOpensAt"]


async def test_a_full_line_says_so(shop):
    await shop.open({**SHUT, "maxWaiting": 1})
    await shop.admitted("first")
    await shop.ticket("alice")
    answer = await shop.join("bob")
    assert said(answer) == (503, "UNAVAILABLE")
    assert "full" in answer.json()["message"]
    assert int(answer.headers["retry-after"]) >= 1


# Asking


async def test_a_ticket_that_nobody_gave_out_or_of_somebody_else_is_not_found(shop):
    await shop.open(SHUT)
    ticket = await shop.ticket("alice")
    invented = ticket[:-1] + ("0" if ticket[-1] != "0" else "1")
    for other, headers in ((invented, {}), (ticket, {"X-User-ID": "bob"}), ("tkt_1", {})):
        for method in ("GET", "DELETE"):
            answer = await shop.ask(method, f"sales/S1/queue/{other}", headers=headers)
            assert said(answer) == (404, "NOT_FOUND")
        assert said(await shop.ask("GET", f"sales/S1/queue/{other}/events", headers=headers)) == (404, "NOT_FOUND")
    assert said(await shop.ask("GET", f"sales/S2/queue/{ticket}")) == (404, "NOT_FOUND")
    assert (await shop.place(ticket, headers={"X-User-ID": "alice"}))["ticket"] == ticket


async def test_a_position_never_grows(shop):
    await shop.open({"enabled": True, "admitPerSecond": 40, "burst": 1})
    tickets = [await shop.ticket(f"user-{number}") for number in range(30)]
    last: dict[str, int] = {}
    for _ in range(25):
        for ticket in tickets:
            position = (await shop.place(ticket))["position"] or 0
            assert position <= last.get(ticket, position)
            last[ticket] = position
        await asyncio.sleep(0.02)
    assert min(last.values()) == 0


async def test_whoever_holds_the_line_is_told_as_soon_as_his_turn_has_come(shop):
    await shop.open({"enabled": True, "admitPerSecond": 2, "burst": 1})
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    loop = asyncio.get_running_loop()
    began = loop.time()
    told = await shop.place(f"{ticket}?wait=10")
    assert (told["state"], loop.time() - began < 3) == ("ADMITTED", True)


async def test_whoever_holds_the_line_in_vain_is_told_after_his_time(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    assert (await shop.place(f"{ticket}?wait=1"))["state"] == "WAITING"
    assert faults(await shop.ask("GET", f"sales/S1/queue/{ticket}?wait=11")) != {}


async def is_held(shop: Hall, holds: int = 1) -> None:
    picture = shop.shop.engine.rooms.pictures["S1"]
    await until(lambda: picture._holding.many + picture._resigned.many >= holds)


@pytest.mark.parametrize("way", ["end", "delete", "switch off"])
@pytest.mark.parametrize("asks", ["poll", "stream"])
async def test_whoever_holds_the_line_is_told_at_once_that_it_is_closed(shop, way, asks):
    body = await shop.open(SHUT, stock=0)
    ticket = await shop.ticket("alice")
    path = f"sales/S1/queue/{ticket}" + ("?wait=10" if asks == "poll" else "/events")
    held = asyncio.create_task(shop.ask("GET", path))
    await is_held(shop)
    if way == "end":
        answer = await shop.operate("POST", "sales/S1/end")
    elif way == "delete":
        answer = await shop.operate("DELETE", "sales/S1")
    else:
        answer = await shop.operate("PUT", "sales/S1", writable(body) | {"waitingRoom": {"enabled": False}})
    assert answer.is_success, answer.text
    told = await asyncio.wait_for(held, 8)  # less than he would hold on
    last = told.json() if asks == "poll" else msgspec.json.decode(told.text.strip().rpartition("data: ")[2])
    assert (last["state"], last["position"], last["estimatedWaitSeconds"]) == ("CLOSED", None, None)


def writable(told: dict[str, Any]) -> dict[str, Any]:
    """A sale as it was told, as it can be sent."""
    products = [{"skuId": "PHONE", "name": "A phone", "flashSalePrice": 999.99, "stock": 0}]
    return {"name": told["name"], "startsAt": told["startsAt"], "products": products}


async def test_when_a_room_is_switched_off_a_ticket_says_that_the_line_is_closed_and_nobody_needs_a_pass(shop):
    body = await shop.open(SHUT)
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    off = writable(body) | {"waitingRoom": {"enabled": False}}
    off["products"][0]["stock"] = 10
    assert (await shop.operate("PUT", "sales/S1", off)).status_code == 200
    assert (await shop.place(ticket))["state"] == "CLOSED"
    assert (await shop.buy("alice", None)).status_code == 201
    answer = await shop.join("bob")
    assert said(answer) == (404, "NOT_FOUND")
    assert "without a pass" in answer.json()["message"]


async def test_a_draft_is_nobodys_business(shop):
    await shop.open(startsAt=None)
    assert (await shop.join()).json()["message"] == (await shop.join(sale="NONE")).json()["message"].replace(
        "NONE", "S1"
    )


async def test_a_stream_tells_the_place_and_ends_with_the_pass(shop):
    await shop.open({"enabled": True, "admitPerSecond": 2, "burst": 1})
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    events = []
    async with asyncio.timeout(10):
        answer = await shop.ask("GET", f"sales/S1/queue/{ticket}/events")
        assert answer.headers["content-type"] == "text/event-stream"
        for block in answer.text.strip().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.split("\n"))
            assert lines["event"] == "place"
            events.append(msgspec.json.decode(lines["data"]))
    assert [each["state"] for each in events][-1] == "ADMITTED"
    assert events[0]["state"] == "WAITING"
    assert events[-1]["pass"].startswith("pass_")


# Buying


async def test_without_a_pass_nobody_buys(shop):
    await shop.open()
    for pass_text in (None, "", "pass_invented", "x" * 5000):
        answer = await shop.buy("alice", pass_text)
        assert said(answer) == (403, "PASS_REQUIRED")
        assert answer.json()["details"]["queueUrl"] == "/api/v1/sales/S1/queue"


async def test_a_pass_buys_once(shop):
    await shop.open()
    place = await shop.admitted("alice")
    assert (await shop.buy("alice", place["pass"])).status_code == 201
    assert said(await shop.buy("alice", place["pass"])) == (403, "PASS_REQUIRED")
    assert (await shop.place(place["ticket"]))["state"] == "CLOSED"


async def test_a_pass_of_somebody_else_or_for_another_sale_buys_nothing(shop):
    await shop.open()
    await shop.shop.open(product("VASE"), id="S2", waitingRoom=ROOM)
    place = await shop.admitted("alice")
    assert said(await shop.buy("bob", place["pass"])) == (403, "PASS_REQUIRED")
    assert said(await shop.buy("alice", place["pass"], skuId="VASE")) == (403, "PASS_REQUIRED")


async def test_an_expired_pass_buys_nothing_and_says_so(shop):
    await shop.open({**ROOM, "passSeconds": 1})
    place = await shop.admitted("alice")
    await asyncio.sleep(1.1)
    answer = await shop.buy("alice", place["pass"])
    assert said(answer) == (403, "PASS_REQUIRED")
    assert "expired" in answer.json()["message"]
    assert (await shop.place(place["ticket"]))["state"] == "CLOSED"


async def test_a_repeated_request_finds_its_reservation_without_a_pass(shop):
    await shop.open()
    place = await shop.admitted("alice")
    first = await shop.buy("alice", place["pass"], requestKey="k")
    for pass_text in (None, place["pass"]):
        again = await shop.buy("alice", pass_text, requestKey="k")
        assert (again.status_code, again.json()["reservationId"]) == (201, first.json()["reservationId"])
        assert again.headers["idempotent-replay"] == "true"


async def test_a_forged_pass_is_refused_before_any_store_is_touched(shop):
    await shop.open()
    ledger = shop.shop.engine.ledger
    touched: list[Any] = []
    for name in ("reserve", "refuse"):
        setattr(ledger, name, lambda attempt, reply: touched.append(attempt))
    for key in ({}, {"requestKey": "k"}):
        assert said(await shop.buy("alice", "pass_" + "0" * 54, **key)) == (403, "PASS_REQUIRED")
        assert said(await shop.buy("alice", None)) == (403, "PASS_REQUIRED")
    assert touched == []


async def test_a_keyed_request_of_a_queued_sale_brings_its_pass_also_where_its_key_is_looked_for(shop):
    await shop.open(mode="queued")
    place = await shop.admitted("alice")
    answers = [await shop.buy("alice", place["pass"], requestKey="k") for _ in range(2)]
    assert [each.status_code for each in answers] in ([202, 202], [202, 201])
    assert len({each.json()["reservationId"] for each in answers}) == 1
    path = f"reservations/{answers[0].json()['reservationId']}?wait=5"
    assert (await shop.ask("GET", path)).json()["status"] == Status.RESERVED
    assert said(await shop.buy("alice", place["pass"], requestKey="another")) == (403, "PASS_REQUIRED")


async def test_before_the_start_a_missing_pass_is_not_what_is_said(shop):
    await shop.open(startsAt=in_seconds(60))
    assert said(await shop.buy("alice", None)) == (409, "NOT_STARTED")


async def test_a_cart_and_a_queued_sale_want_a_pass_too(shop):
    await shop.open(mode="queued")
    place = await shop.admitted("alice")
    cart = {"items": [{"skuId": "PHONE"}], "userId": "alice"}
    assert said(await shop.ask("POST", "reservations/cart", cart)) == (403, "PASS_REQUIRED")
    assert said(await shop.buy("alice", None)) == (403, "PASS_REQUIRED")
    bought = await shop.buy("alice", place["pass"])
    assert bought.status_code == 202
    path = f"reservations/{bought.json()['reservationId']}?wait=5"
    assert (await shop.ask("GET", path)).json()["status"] == Status.RESERVED
    again = (await shop.buy("alice", place["pass"])).json()["reservationId"]
    told = (await shop.ask("GET", f"reservations/{again}?wait=5")).json()
    assert (told["status"], told["refusal"]["code"]) == (Status.REJECTED, "PASS_REQUIRED")


# Sold out, leaving, the end


async def test_when_the_sale_is_sold_out_everybody_is_told_and_the_next_one_gets_what_comes_back(shop):
    await shop.open({"enabled": True, "admitPerSecond": 1000, "burst": 1000, "maxActive": 1}, stock=1)
    first = await shop.admitted("first")
    tickets = [await shop.ticket(user) for user in ("alice", "bob")]
    waiting = asyncio.ensure_future(shop.place(f"{tickets[0]}?wait=10"))
    await asyncio.sleep(0.2)
    bought = await shop.buy("first", first["pass"])
    async with asyncio.timeout(2):
        assert (await waiting)["state"] == "SOLD_OUT"
    assert [(await shop.place(each))["state"] for each in tickets] == ["SOLD_OUT"] * 2
    await shop.ask("DELETE", f"reservations/{bought.json()['reservationId']}")
    place = await shop.turn_of(tickets[0])
    assert (await shop.place(tickets[1]))["state"] == "WAITING"
    assert (await shop.buy("alice", place["pass"])).status_code == 201


async def test_who_leaves_is_not_waited_for_and_has_his_place_again_if_he_joins_again(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    for _ in range(2):
        assert (await shop.ask("DELETE", f"sales/S1/queue/{ticket}")).status_code == 204
    assert (await shop.place(ticket))["state"] == "CLOSED"
    assert await shop.ticket("alice") == ticket
    assert (await shop.place(ticket))["state"] == "WAITING"


async def test_when_the_sale_ends_the_room_is_closed(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    assert (await shop.operate("POST", "sales/S1/end")).status_code == 200
    assert (await shop.place(ticket))["state"] == "CLOSED"
    assert said(await shop.join("bob")) == (409, "ENDED")


async def test_a_paused_sale_keeps_everybody_in_his_place(shop):
    await shop.open({"enabled": True, "admitPerSecond": 5, "burst": 1})
    await shop.admitted("first")
    await shop.operate("POST", "sales/S1/pause")
    ticket = await shop.ticket("alice")
    assert (await shop.place(f"{ticket}?wait=1"))["state"] == "WAITING"
    await shop.operate("POST", "sales/S1/resume")
    assert (await shop.place(f"{ticket}?wait=5"))["state"] == "ADMITTED"


# The draw


async def test_the_draw_is_what_everybody_can_recompute(shop):
    await shop.open(startsAt=in_seconds(60))
    joined = [(await shop.join(f"user-{number}")).json() for number in range(20)]
    assert {each["state"] for each in joined} == {"PRE_QUEUE"}
    assert {each["position"] for each in joined} == {None}
    before = (await shop.ask("GET", "sales/S1/draw")).json()
    assert (before["state"], before["seed"], before["root"], before["entrants"]) == ("OPEN", None, None, None)
    await shop.starts()
    async with asyncio.timeout(10):
        while (drawn := (await shop.ask("GET", "sales/S1/draw")).json())["state"] != "DRAWN":
            assert drawn["seed"] is None
            await asyncio.sleep(0.02)
    hashes = [ticket_hash(each["ticket"]) for each in joined]
    seed, root = bytes.fromhex(drawn["seed"]), bytes.fromhex(drawn["root"])
    assert (drawn["hashes"], drawn["entrants"]) == ([each.hex() for each in hashes], 20)
    assert (merkle_root(hashes), commitment(seed).hex()) == (root, before["commitment"])
    assert order(seed, root, hashes) == drawn["order"]


async def test_people_are_let_in_in_the_drawn_order_and_those_who_came_late_behind_them(shop):
    await shop.open({"enabled": True, "admitPerSecond": 0.001, "burst": 1}, startsAt=in_seconds(60))
    joined = [(await shop.join(f"user-{number}")).json()["ticket"] for number in range(8)]
    await shop.starts()
    await until_drawn(shop)
    late = await shop.ticket("late")
    drawn = (await shop.ask("GET", "sales/S1/draw")).json()
    await until(lambda: shop.shop.engine.rooms.pictures["S1"].room.head == 1)
    positions = {ticket: (await shop.place(ticket))["position"] for ticket in (*joined, late)}
    for place, number in enumerate(drawn["order"][1:], 1):
        assert positions[joined[number - 1]] == place
    assert (await shop.place(joined[drawn["order"][0] - 1]))["state"] == "ADMITTED"
    assert positions[late] == 8


async def until_drawn(shop: Hall) -> None:
    pictures = shop.shop.engine.rooms.pictures
    await until(lambda: "S1" in pictures and pictures["S1"].room.phase is Phase.DRAWN)


async def test_a_receipt_says_who_came_when_and_is_signed(shop):
    await shop.open(startsAt=in_seconds(60))
    early = (await shop.join("alice")).json()
    await shop.starts()
    await until_drawn(shop)
    late = (await shop.join("bob")).json()
    drawn = (await shop.ask("GET", "sales/S1/draw")).json()
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(drawn["publicKey"]))
    first, second = (read_receipt(each["receipt"], key) for each in (early, late))
    assert first is not None
    assert second is not None
    assert (first.kind, first.number, first.commitment) == ("prequeue", 1, drawn["commitment"])
    assert (second.kind, second.number, second.commitment) == ("line", 2, None)
    assert first.ticket_hash == ticket_hash(early["ticket"]).hex() == drawn["hashes"][0]


async def test_a_page_of_a_draw_begins_where_a_page_begins(shop):
    await shop.open(startsAt=in_seconds(60))
    await shop.ticket("alice")
    await shop.ticket("bob")
    await shop.starts()
    await until_drawn(shop)
    assert (await shop.ask("GET", "sales/S1/draw?after=0")).status_code == 200
    for after in (1, 2):
        assert list(faults(await shop.ask("GET", f"sales/S1/draw?after={after}"))) == ["after"]


async def test_a_draw_nobody_came_to_shows_its_seed_all_the_same(shop):
    await shop.open(startsAt=LONG_AGO)
    await until_drawn(shop)
    drawn = (await shop.ask("GET", "sales/S1/draw")).json()
    assert (drawn["entrants"], drawn["hashes"]) == (0, [])
    assert commitment(bytes.fromhex(drawn["seed"])).hex() == drawn["commitment"]


# What an operator sees and sets


async def test_an_operator_reads_the_terms_that_he_wrote(shop):
    terms = {
        "enabled": True, "admitPerSecond": 2.5, "burst": 7, "maxActive": 100, "maxWaiting": 5000, "passSeconds": 90,
        "prequeueSeconds": 300,
    }  # fmt: skip
    assert (await shop.open(terms))["waitingRoom"] == terms
    told = (await shop.operate("GET", "sales/S1")).json()
    assert told["waitingRoom"] == terms


async def test_a_room_without_numbers_has_sensible_ones(shop):
    told = (await shop.open({"enabled": True, "admitPerSecond": 12.5}))["waitingRoom"]
    assert (told["burst"], told["maxActive"], told["passSeconds"]) == (13, None, 120)


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"admitPerSecond": 0}, "waitingRoom.admitPerSecond"),
        ({"burst": 0}, "waitingRoom.burst"),
        ({"maxActive": -1}, "waitingRoom.maxActive"),
        ({"maxWaiting": 10_000_001}, "waitingRoom.maxWaiting"),
        ({"passSeconds": 0}, "waitingRoom.passSeconds"),
        ({"prequeueSeconds": -1}, "waitingRoom.prequeueSeconds"),
        ({"colour": "red"}, "waitingRoom.colour"),
    ],
)
async def test_wrong_terms_are_named(shop, terms, field):
    body = {
        "id": "S1",
        "name": "A sale",
        "products": [product()],
        "waitingRoom": {"enabled": True} | terms,
    }
    assert field in faults(await shop.operate("POST", "sales", body))


async def test_a_room_can_be_taken_away_and_put_back_while_the_sale_goes_on(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    ticket = await shop.ticket("alice")
    body = {"name": "A sale", "startsAt": LONG_AGO, "products": [product()]}
    assert (await shop.operate("PUT", "sales/S1", body)).status_code == 200
    assert (await shop.buy("bob", None)).status_code == 201
    assert (await shop.operate("PUT", "sales/S1", body | {"waitingRoom": SHUT})).status_code == 200
    assert (await shop.place(ticket))["position"] == 1


async def test_how_many_wait_is_a_metric(shop):
    await shop.open(SHUT)
    await shop.admitted("first")
    for user in ("alice", "bob"):
        await shop.ticket(user)
    await shop.shop.engine.rooms.look()
    told = (await shop.ask("GET", "/metrics")).text
    assert 'flashsale_people_waiting{sale="S1"} 2.0' in told
