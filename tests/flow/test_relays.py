"""Publishing from a ledger in several databases: each has its relay, and none waits for another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from contract.ledgers import HandClock, Shop, databases_of, shards, shop
from core.shop import a_product, a_sale, an_attempt
from flow.test_publish import Wire
from structlog.testing import capture_logs

from flashsale.backends.postgres.leases import PostgresLeases
from flashsale.flow.lease import Lease
from flashsale.flow.publish import LEASE, Publishing
from flashsale.flow.relays import Relays
from flashsale.ports import BrokerUnavailable, LedgerUnavailable

SALE_OF = {"lamp": "sale", "vase": "vases"}
"""Lamps are sold by the first database, vases by the second."""


class Office:
    """A process's relays, each with a wire of its own to the one broker."""

    def __init__(self, it: Shop, urls: list[str], owner: str) -> None:
        self.shop = it
        self.stores = [PostgresLeases(url, it.clock) for url in urls]
        self.leases = [Lease(store, LEASE, owner, it.clock) for store in self.stores]
        self.wires = [Wire() for _ in urls]
        parts = zip(it.ledger.shards, self.leases, self.wires, strict=True)
        self.relays = Relays([Publishing(shard, lease, wire, it.clock) for shard, lease, wire in parts])

    async def leave(self) -> None:
        await self.relays.stop()
        for lease in self.leases:
            await lease.close()

    async def close(self) -> None:
        await self.leave()
        for store in self.stores:
            await store.close()

    async def until(self, number: int, events: int) -> None:
        """Until the wire of a shard has carried so many."""
        async with asyncio.timeout(20):
            while len(self.wires[number].news) < events:
                self.shop.clock.pass_ms(1_000)
                await self.relays.publish()


@pytest.fixture
async def office(tmp_path) -> AsyncIterator[Office]:
    with capture_logs():
        async with shop(shards, tmp_path, HandClock()) as it:
            for sku_id in reversed(SALE_OF):
                await it.opens(a_sale(a_product(sku_id), sale_id=SALE_OF[sku_id]), units=100)
            await asyncio.gather(*(it.asks(wish(number)) for number in range(40)))
            made = Office(it, await databases_of(tmp_path), "ann")
            yield made
            await made.close()


def wish(number: int) -> Any:
    sku_id = [*SALE_OF][number % 2]
    return an_attempt(f"user-{number}", (sku_id, 1), sale_id=SALE_OF[sku_id])


def seqs(wire: Wire) -> list[int]:
    return [event.sku_seq for event in wire.events if event.topic == "flashsale.inventory"]


async def test_the_events_of_each_database_go_out_in_order_and_once(office):
    for number in range(2):
        await office.until(number, 41)
    for number, sku_id in enumerate(SALE_OF):
        assert {event.key for event in office.wires[number].events} == {sku_id}
        assert seqs(office.wires[number]) == list(range(1, 22))


async def test_two_processes_share_the_relays_and_each_event_goes_out_once(office, tmp_path):
    other = Office(office.shop, await databases_of(tmp_path), "bob")
    try:
        await asyncio.gather(office.relays.publish(), other.relays.publish())
        async with asyncio.timeout(20):
            while any(len(seqs(one)) + len(seqs(two)) < 21 for one, two in zip(office.wires, other.wires, strict=True)):
                await asyncio.gather(office.relays.publish(), other.relays.publish())
        for one, two in zip(office.wires, other.wires, strict=True):
            assert sorted(seqs(one) + seqs(two)) == list(range(1, 22))
    finally:
        await other.close()


async def test_a_relay_that_hangs_does_not_hold_the_other_up(office):
    office.wires[0].slow = asyncio.Event()
    await office.until(1, 41)
    assert office.wires[0].arrived == []
    office.wires[0].slow.set()
    await office.until(0, 41)


async def test_a_database_that_is_away_does_not_hold_the_other_up(office, monkeypatch):
    async def away(_: object) -> None:
        raise LedgerUnavailable("away")

    with monkeypatch.context() as one:
        one.setattr(office.shop.ledger.shards[0], "find", away)
        await office.until(1, 41)
    await office.until(0, 41)


async def test_trouble_of_one_relay_is_told(office):
    office.wires[1].away = True
    await office.until(0, 41)
    async with asyncio.timeout(20):
        while office.relays.trouble is None:
            await office.relays.publish()
    assert office.relays.trouble == str(BrokerUnavailable("nobody listens"))


async def test_who_leaves_gives_all_leases_back(office):
    await office.until(0, 41)
    await office.until(1, 41)
    await office.leave()
    for store in office.stores:
        assert await store.lease(LEASE, "bob", 1_000) is not None


async def test_a_relay_that_is_stopped_sends_nothing_any_more(office):
    office.wires[0].slow = asyncio.Event()
    await office.until(1, 41)
    await office.relays.stop()
    office.wires[0].slow.set()
    assert office.wires[0].arrived == []
