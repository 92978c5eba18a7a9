"""Bots win no more than the limits allow, however many addresses, accounts and devices they have.

Each crowd asks a real server at once, in its fast lane, behind a gateway that says who asks and from where. Between
the bots there are people, each at home at an address of his own: what the bots do is not held against them.
"""

import asyncio
import json
import random
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from edge.lanes import Client, post
from edge.shop import Shop, product, served

from flashsale.core.thresholds import Thresholds

GATEWAY: dict[str, Any] = {"identity": "gateway", "trusted_proxies": ("127.0.0.1",)}
NO_RATES = {"rate_per_user": 0.0, "rate_per_address": 0.0}
NO_RISK = {"riskChallengeScore": 1000, "riskBlockScore": 1000}
BOTS, PEOPLE, DEVICES = 10_000, 100, 50
CONNECTIONS, PIPELINED = 8, 16


class Buyer(NamedTuple):
    name: str
    address: str
    device: str

    @property
    def is_bot(self) -> bool:
        return self.name.startswith("bot")

    @property
    def request(self) -> bytes:
        told = urlsafe_b64encode(json.dumps({"deviceId": self.device}).encode()).decode().rstrip("=")
        said = (f"X-User-ID: {self.name}", f"X-Forwarded-For: {self.address}", f"X-Flashsale-Device: {told}")
        return post("/api/v1/reservations", b'{"skuId":"PHONE"}', *said)


def people() -> list[Buyer]:
    return [
        Buyer(f"person-{each}", f"198.51.{each // 100}.{each % 100 + 1}", f"theirs-{each}") for each in range(PEOPLE)
    ]


def mixed(bots: list[Buyer]) -> list[Buyer]:
    everybody = [*bots, *people()]
    random.Random(48).shuffle(everybody)
    return everybody


async def answers(shop: Shop, crowd: list[Buyer]) -> dict[Buyer, tuple[int, str]]:
    """What each is told: status and code."""
    told: dict[Buyer, tuple[int, str]] = {}

    async def ask(part: list[Buyer]) -> None:
        async with Client(*await asyncio.open_connection("127.0.0.1", shop.client.base_url.port)) as client:
            for at in range(0, len(part), PIPELINED):
                client.send(*(buyer.request for buyer in part[at : at + PIPELINED]))
                for buyer in part[at : at + PIPELINED]:
                    got = await client.get()
                    told[buyer] = got.status, "" if got.status == 201 else got.json["code"]

    await asyncio.gather(*(ask(crowd[number::CONNECTIONS]) for number in range(CONNECTIONS)))
    return told


def winners(told: dict[Buyer, tuple[int, str]]) -> tuple[list[Buyer], list[Buyer]]:
    """Bots and people who got a unit."""
    won = [buyer for buyer, (status, _) in told.items() if status == 201]
    return [each for each in won if each.is_bot], [each for each in won if not each.is_bot]


@asynccontextmanager
async def a_shop(folder: Path, sandbox_url: str, thresholds: dict[str, Any], **rates: float) -> AsyncIterator[Shop]:
    async with served(folder, sandbox_url, "on", **GATEWAY, **rates) as shop:
        if thresholds:
            answer: httpx.Response = await shop.operate("PUT", "limits", thresholds)
            assert answer.status_code == 200, answer.text
        yield shop


@pytest.mark.parametrize(
    ("step", "most"), [(1, 2), (1 << 64, 8), (0x133 << 64, 32)], ids=["one /64", "two /56", "one /48"]
)
async def test_ten_thousand_addresses_of_one_network_count_as_one_customer(tmp_path, sandbox_url, step, most):
    """2 for an address, 4 times that for a /56, 16 times that for a /48."""
    bots = [
        Buyer(f"bot-{number}", address_in_48(number * step), f"d-{number}")
        for number in range(BOTS if step != 1 << 64 else 256)
    ]
    async with a_shop(tmp_path, sandbox_url, NO_RISK, **NO_RATES) as shop:
        await shop.open(product(stock=5000), perAddressLimit=2)
        told = await answers(shop, mixed(bots))
    of_bots, of_people = winners(told)
    assert len(of_bots) == most
    assert len(of_people) == PEOPLE
    assert Counter(code for _, code in told.values()) == {"": most + PEOPLE, "LIMIT_EXCEEDED": len(bots) - most}


def address_in_48(number: int) -> str:
    """So far into 2001:db8:48::/48."""
    return str(IPv6Address((0x20010DB80048 << 80) + number % (1 << 80)))


async def test_ten_thousand_accounts_on_fifty_devices_win_fifty_units(tmp_path, sandbox_url):
    bots = [
        Buyer(f"bot-{each}", f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}", f"d-{each % DEVICES}")
        for each in range(BOTS)
    ]
    async with a_shop(tmp_path, sandbox_url, NO_RISK, **NO_RATES) as shop:
        await shop.open(product(stock=5000), perDeviceLimit=1)
        of_bots, of_people = winners(await answers(shop, mixed(bots)))
    assert Counter(each.device for each in of_bots) == {f"d-{number}": 1 for number in range(DEVICES)}
    assert len(of_people) == PEOPLE


async def test_where_the_sale_says_nothing_risk_stops_accounts_that_share_devices(tmp_path, sandbox_url):
    bots = [
        Buyer(f"bot-{each}", f"10.{each >> 16}.{each >> 8 & 255}.{each & 255}", f"d-{each % DEVICES}")
        for each in range(BOTS)
    ]
    async with a_shop(tmp_path, sandbox_url, {}, **NO_RATES) as shop:
        await shop.open(product(stock=20_000))
        told = await answers(shop, mixed(bots))
    of_bots, of_people = winners(told)
    assert len(of_bots) <= DEVICES * Thresholds().risk_device_accounts_many
    assert len(of_people) == PEOPLE


async def test_the_rate_of_a_48_is_sixteen_times_that_of_an_address_whatever_it_sends(tmp_path, sandbox_url):
    bots = [Buyer(f"bot-{each}", address_in_48(each * (0x133 << 64)), f"d-{each}") for each in range(BOTS)]
    rate, burst = 10, 20
    async with a_shop(tmp_path, sandbox_url, {**NO_RISK, "addressPerSecond": rate, "addressBurst": burst}) as shop:
        await shop.open(product(stock=20_000))
        began = time.monotonic()
        told = await answers(shop, mixed(bots))
        seconds = time.monotonic() - began
    of_bots, of_people = winners(told)
    assert 16 * burst <= len(of_bots) <= 16 * (burst + rate * seconds) * 1.01
    assert len(of_people) == PEOPLE
    assert {code for _, code in told.values()} == {"", "RATE_LIMITED"}
