"""Streams of events cost a bounded amount, whatever happens in the room and whether or not anybody reads them.

What happens is the worst: the question about a place is answered at once, again and again, as if everybody's
questions woke everybody else.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from edge.lanes import Client, get
from edge.shop import Shop, product, served

from flashsale.core.waiting_room import Standing
from flashsale.edge import waiting_room

ROOM = {"enabled": True, "admitPerSecond": 0.001, "burst": 1}
SOCKETS_MAX_BYTES = 16_000_000
"""What the system may keep for both ends of a connection."""


class Busy:
    """A room in which something happens all the time, and somebody who waits in it."""

    def __init__(self, shop: Shop, ticket: str) -> None:
        self.request = get(f"/api/v1/sales/S1/queue/{ticket}/events")
        self.port = shop.client.base_url.port
        self.asked = 0


@pytest.fixture
async def busy(tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Busy]:
    async with served(tmp_path, sandbox_url, "on") as shop:
        await shop.open(product(), waitingRoom=ROOM)
        await shop.engine.rooms.look()
        ticket = (await shop.ask("POST", "sales/S1/queue", {"userId": "alice"})).json()["ticket"]
        seen = (await shop.engine.visiting.ask("S1", ticket, None))._replace(standing=Standing.WAITING)  # type: ignore[union-attr]
        room = Busy(shop, ticket)

        async def at_once(*_: Any) -> Any:
            room.asked += 1
            return seen

        monkeypatch.setattr(shop.engine.visiting, "ask", at_once)
        yield room


async def test_a_stream_rests_between_two_things_that_it_tells(busy: Busy) -> None:
    async with Client(*await asyncio.open_connection("127.0.0.1", busy.port)) as client:
        client.send(busy.request)
        told = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    told += await client.reader.read(65536)
        client.vanish()
    assert 2 <= told.count(b"event: place") <= 1 + 1 / waiting_room.STREAM_REST_SECONDS


async def test_a_stream_that_nobody_reads_stops_until_somebody_does(
    busy: Busy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting_room, "STREAM_REST_SECONDS", 0)
    async with Client(*await asyncio.open_connection("127.0.0.1", busy.port, limit=1024)) as client:
        client.send(busy.request)
        before = -1
        async with asyncio.timeout(20):
            while busy.asked != before:
                before = busy.asked
                await asyncio.sleep(0.3)
        event = await client.reader.readuntil(b"\n\n")
        assert busy.asked * len(event) < SOCKETS_MAX_BYTES
        client.vanish()
