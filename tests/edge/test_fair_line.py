"""The line is fair to whoever asks when he is told to: hammering, joining again and leaving gain nothing.

A real server and its loops; the impatient ask over connections of their own, as fast as the server answers.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from edge.lanes import Client, get, post
from edge.shop import Shop, product, served

from flashsale.core.draw import merkle_root, order, ticket_hash

PEOPLE = 30
SLOWLY = {"enabled": True, "admitPerSecond": 15, "burst": 1}
IMPATIENT = 11
"""Who of them hammers."""
HAMMERED_SECONDS = 0.5
ASKED_MIN = 1000
"""A second."""


@pytest.fixture
async def shop(tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, "on") as shop:
        yield shop


async def opened(shop: Shop, **terms: Any) -> None:
    await shop.open(product(stock=1000), waitingRoom=SLOWLY, **terms)
    await shop.engine.rooms.look()


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def join(shop: Shop, user: str) -> dict[str, Any]:
    answer = await shop.ask("POST", "sales/S1/queue", {"userId": user})
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


class Hammer:
    """Asks for one place without a pause, and joins again and again meanwhile."""

    def __init__(self, shop: Shop, user: str, ticket: str) -> None:
        self.asked = 0
        self.tickets: set[str] = set()
        self.positions: list[int] = []
        asking, path = get(f"/api/v1/sales/S1/queue/{ticket}"), "/api/v1/sales/S1/queue"
        self._batch = [*[asking] * 15, post(path, b'{"userId":"%b"}' % user.encode())]
        self._port = shop.client.base_url.port

    async def hit(self) -> None:
        async with Client(*await asyncio.open_connection("127.0.0.1", self._port)) as client:
            while True:
                client.send(*self._batch)
                for _ in self._batch:
                    self._note((await client.get()).json)

    def _note(self, told: dict[str, Any]) -> None:
        self.asked += 1
        self.tickets.add(told["ticket"])
        if told["position"] is not None:
            self.positions.append(told["position"])


@asynccontextmanager
async def hammering(shop: Shop, user: str, ticket: str) -> AsyncIterator[Hammer]:
    hammer = Hammer(shop, user, ticket)
    hits = [asyncio.create_task(hammer.hit()) for _ in range(3)]
    began = asyncio.get_running_loop().time()
    try:
        yield hammer
    finally:
        seconds = asyncio.get_running_loop().time() - began
        for hit in hits:
            hit.cancel()
            with suppress(asyncio.CancelledError):
                await hit
    assert hammer.asked > ASKED_MIN * seconds
    assert hammer.tickets == {ticket}


async def admitted_at(shop: Shop, tickets: list[str]) -> list[int]:
    """Until when each pass is good, which is as long after everybody's turn."""
    found = {}
    async with asyncio.timeout(30):
        while len(found) < len(tickets):
            for ticket in tickets:
                if ticket not in found:
                    told = await shop.engine.visiting.ask("S1", ticket, None)
                    if told.pass_until_ms is not None:
                        found[ticket] = told.pass_until_ms
            await asyncio.sleep(0.05)
    return [found[ticket] for ticket in tickets]


async def test_after_the_start_everybody_has_his_turn_in_the_order_of_arrival_however_often_he_asks(shop: Shop) -> None:
    await opened(shop)
    places = [await join(shop, f"user-{number}") for number in range(PEOPLE)]
    tickets = [place["ticket"] for place in places]
    async with hammering(shop, f"user-{IMPATIENT}", tickets[IMPATIENT]) as hammer:
        turns = await admitted_at(shop, tickets)
    assert turns == sorted(turns)
    assert turns[IMPATIENT - 1] <= turns[IMPATIENT] <= turns[IMPATIENT + 1]
    assert turns[-1] - turns[0] > 1000, "they were let in one after the other"
    assert hammer.positions == sorted(hammer.positions, reverse=True)


async def test_before_the_start_hammering_changes_nothing_about_the_draw(shop: Shop) -> None:
    await opened(shop, startsAt=in_seconds(60))
    tickets = [(await join(shop, f"user-{number}"))["ticket"] for number in range(PEOPLE)]
    async with hammering(shop, f"user-{IMPATIENT}", tickets[IMPATIENT]):
        await asyncio.sleep(HAMMERED_SECONDS)
        assert (await shop.operate("POST", "sales/S1/start")).status_code == 200
        turns = await admitted_at(shop, tickets)
    drawn = (await shop.ask("GET", "sales/S1/draw")).json()
    hashes = [ticket_hash(ticket) for ticket in tickets]
    assert [bytes.fromhex(each) for each in drawn["hashes"]] == hashes, "one entry for each, in the order of arrival"
    numbers = order(bytes.fromhex(drawn["seed"]), merkle_root(hashes), hashes)
    in_order = [turns[number - 1] for number in numbers]
    assert in_order == sorted(in_order)


async def test_a_line_is_not_filled_by_somebody_who_leaves_and_joins_again(shop: Shop) -> None:
    await shop.open(product(stock=1000), waitingRoom={**SLOWLY, "admitPerSecond": 0.001, "maxWaiting": 5})
    await shop.engine.rooms.look()
    for _ in range(20):
        told = await join(shop, "mallory")
        if told["state"] == "WAITING":
            assert (await shop.ask("DELETE", f"sales/S1/queue/{told['ticket']}")).status_code == 204
    assert (await join(shop, "alice"))["state"] == "WAITING"
