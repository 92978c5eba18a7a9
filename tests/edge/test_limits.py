"""Rate limits as clients and operators meet them, on both lanes of a real server."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge.lanes import Client
from edge.shop import Shop, faults, product, said, served, transaction

GATEWAY = {
    "identity": "gateway", "trusted_proxies": ("127.0.0.1",), "rate_per_address": 0.0, "rate_per_user": 0.0,
}  # fmt: skip
NEVER = 0.001
"""A rate by which no bucket gains anything while a test runs."""


@pytest.fixture(params=["on", "off"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def shop(lane: str, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, lane, **GATEWAY) as shop:
        await shop.open(product(perUserLimit=10, stock=100))
        yield shop


def forget(shop: Shop, address: str) -> None:
    """The bucket of an address is full again."""
    shop.engine.gate.buckets.forget([f"a:{address}"])  # type: ignore[attr-defined]


async def limit(shop: Shop, **thresholds: float | None) -> dict[str, Any]:
    answer = await shop.operate("PUT", "limits", thresholds)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def buy(shop: Shop, user: str | None = "alice", wish: Any = None, **headers: str) -> httpx.Response:
    named = {"X-User-ID": user} if user else {}
    body = {"skuId": "PHONE"} if wish is None else wish
    return await shop.ask("POST", "reservations", body, headers=named | headers)


async def cart(shop: Shop, user: str = "alice") -> httpx.Response:
    return await shop.ask("POST", "reservations/cart", {"items": [{"skuId": "PHONE"}]}, headers={"X-User-ID": user})


async def get(shop: Shop, path: str, user: str = "alice", **headers: str) -> httpx.Response:
    return await shop.ask("GET", path, headers={"X-User-ID": user} | headers)


def refused(answer: httpx.Response, scope: str) -> dict[str, Any]:
    assert said(answer) == (429, "RATE_LIMITED")
    details: dict[str, Any] = answer.json()["details"]
    assert details["scope"] == scope
    return details


# What is counted


async def test_an_address_gets_its_burst_and_then_429_with_both_families_of_headers(shop: Shop) -> None:
    await limit(shop, addressPerSecond=0.5, addressBurst=2)
    assert [(await buy(shop)).status_code for _ in range(2)] == [201, 201]
    answer = await buy(shop)
    details = refused(answer, "address")
    assert details == {"scope": "address", "limit": 2, "remaining": 0, "resetSeconds": 4}
    headers = answer.headers
    assert (headers["retry-after"], headers["ratelimit-reset"]) == ("2", "4")
    for family in ("", "x-"):
        assert (headers[f"{family}ratelimit-limit"], headers[f"{family}ratelimit-remaining"]) == ("2", "0")
    assert 3 <= int(headers["x-ratelimit-reset"]) - time.time() <= 6
    assert "x-ratelimit-tier" not in headers


async def test_every_route_of_buyers_is_counted_at_the_door(shop: Shop) -> None:
    reservation_id = (await buy(shop)).json()["reservationId"]
    for path in (
        "products/PHONE/availability", "products", "sales/S1", f"reservations/{reservation_id}",
        "reservations/user/alice/active", "orders/user/alice",
    ):  # fmt: skip
        await limit(shop, addressPerSecond=NEVER, addressBurst=1)
        forget(shop, "127.0.0.1")
        assert (await get(shop, path)).status_code == 200, path
        refused(await get(shop, path), "address")


async def test_a_request_in_the_very_same_bytes_is_counted_too(shop: Shop) -> None:
    await limit(shop, addressPerSecond=NEVER, addressBurst=5)
    answers = [(await get(shop, "products/PHONE/availability")).status_code for _ in range(8)]
    assert answers == [200] * 5 + [429] * 3


async def test_each_address_behind_a_trusted_proxy_has_a_limit_of_its_own(shop: Shop) -> None:
    await limit(shop, addressPerSecond=NEVER, addressBurst=1)
    for path in ("products/PHONE/availability", "reservations/user/alice/active"):
        forget(shop, "203.0.113.8")
        forget(shop, "203.0.113.9")
        for address in ("203.0.113.8", "203.0.113.9"):
            headers = {"X-Forwarded-For": f"6.6.6.6, {address}"}
            assert [(await get(shop, path, **headers)).status_code for _ in range(2)] == [200, 429]


async def test_addresses_of_one_48_get_no_more_than_a_48(shop: Shop) -> None:
    await limit(shop, addressPerSecond=NEVER, addressBurst=2)
    for apart, times in ((1, 4), (256, 12)):  # in one /56; then in a /56 each, and the /48 has what is left of 16
        ways = [{"X-Forwarded-For": f"2001:db8:7:{number * apart:x}::1"} for number in range(1, 200)]
        answers = [(await get(shop, "products/PHONE/availability", **way)).status_code for way in ways]
        assert answers.count(200) == 2 * times
    refused(await get(shop, "products/PHONE/availability", **ways[-1]), "network")


async def test_everybody_together_has_a_limit(shop: Shop) -> None:
    await limit(shop, globalPerSecond=NEVER, globalBurst=2)
    ways = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(3)]
    assert [(await get(shop, "products", **way)).status_code for way in ways[:2]] == [200, 200]
    refused(await get(shop, "products", **ways[2]), "global")


async def test_a_user_is_counted_in_whatever_is_his_own(shop: Shop) -> None:
    reservation_id = (await buy(shop)).json()["reservationId"]
    await limit(shop, userPerSecond=NEVER, userBurst=4)
    assert (await buy(shop)).status_code == 201
    assert (await get(shop, f"reservations/{reservation_id}")).status_code == 200
    assert (await get(shop, "orders/user/alice")).status_code == 200
    assert (await cart(shop)).status_code == 201
    for answer in (
        await buy(shop), await cart(shop), await get(shop, f"reservations/{reservation_id}"),
        await get(shop, "orders/user/alice"), await pay(shop, reservation_id),
        await shop.ask("DELETE", f"reservations/{reservation_id}", headers={"X-User-ID": "alice"}),
    ):  # fmt: skip
        refused(answer, "user")
    assert (await buy(shop, "bob")).status_code == 201
    assert (await get(shop, "products")).status_code == 200, "what is everybody's is nobody's own"


async def test_a_sale_is_counted_by_purchase_attempts(shop: Shop) -> None:
    await limit(shop, salePerSecond=NEVER, saleBurst=2)
    assert ((await buy(shop, "ann")).status_code, (await cart(shop, "bob")).status_code) == (201, 201)
    refused(await buy(shop, "eve"), "sale")
    refused(await cart(shop, "eve"), "sale")
    assert (await get(shop, "reservations/user/eve/active", "eve")).status_code == 200


async def test_operators_health_and_metrics_are_not_limited(shop: Shop) -> None:
    await limit(shop, globalPerSecond=NEVER, globalBurst=1, addressPerSecond=NEVER, addressBurst=1)
    await get(shop, "products")
    refused(await get(shop, "products"), "address")
    for path in ("/health/live", "/health/ready", "/metrics", "/api/openapi.json"):
        assert [(await shop.ask("GET", path)).status_code for _ in range(3)] == [200] * 3
    assert [(await shop.operate("GET", "sales")).status_code for _ in range(3)] == [200] * 3


async def test_who_asks_a_thousand_times_a_second_gains_nothing(shop: Shop) -> None:
    await limit(shop, userPerSecond=20)
    reservation_id = (await buy(shop)).json()["reservationId"]
    began = time.monotonic()
    answers = []
    while time.monotonic() - began < 1.5 or len(answers) <= 200:
        answers += await asyncio.gather(*(get(shop, f"reservations/{reservation_id}") for _ in range(20)))
    took = time.monotonic() - began
    allowed = sum(answer.status_code == 200 for answer in answers)
    assert allowed <= (20 + 20 * took) * 1.01


# In which order


async def test_the_door_is_asked_before_anything_else(shop: Shop) -> None:
    await limit(shop, addressPerSecond=NEVER, addressBurst=1, userPerSecond=NEVER, userBurst=1)
    await buy(shop)
    for answer in (
        await buy(shop, wish=b"{"), await buy(shop, None), await buy(shop, wish={"skuId": "NONE"}), await buy(shop),
    ):  # fmt: skip
        refused(answer, "address")


async def test_a_malformed_request_is_that_before_it_is_one_too_many_of_its_user(shop: Shop) -> None:
    await limit(shop, userPerSecond=NEVER, userBurst=1)
    await buy(shop)
    refused(await buy(shop), "user")
    assert "body" in faults(await buy(shop, wish=b"{"))
    checkout = await shop.ask("POST", "orders/checkout", {"reservationId": 5}, headers={"X-User-ID": "alice"})
    assert "reservationId" in faults(checkout)
    assert said(await buy(shop, None)) == (401, "UNAUTHENTICATED")


async def test_one_too_many_is_that_before_key_product_and_stock_are_looked_at(shop: Shop) -> None:
    key = {"Idempotency-Key": "k"}
    assert (await buy(shop, **key)).status_code == 201
    await limit(shop, userPerSecond=NEVER, userBurst=1)
    assert (await buy(shop, **key)).headers["idempotent-replay"] == "true"
    refused(await buy(shop, **key), "user")
    refused(await buy(shop, wish={"skuId": "PHONE", "quantity": 2}, **key), "user")
    refused(await buy(shop, wish={"skuId": "NONE"}), "user")


async def test_the_door_does_not_wait_for_a_body(shop: Shop) -> None:
    await limit(shop, addressPerSecond=NEVER, addressBurst=1)
    await get(shop, "products")
    reader, writer = await asyncio.open_connection(shop.client.base_url.host, shop.client.base_url.port)
    async with Client(reader, writer) as client:
        head = "POST /api/v1/reservations/cart HTTP/1.1", "Host: shop", "X-User-ID: alice", "Content-Length: 9000"
        client.send("\r\n".join([*head, "", ""]).encode())
        assert (await client.get()).status == 429


# Tiers


async def test_a_tier_takes_the_place_of_the_users_limit_for_purchase_attempts_only(shop: Shop) -> None:
    await limit(shop, userPerSecond=NEVER, userBurst=30)
    told = await shop.operate("PUT", "users/alice/tier", {"tier": "LIMITED"})
    assert told.json()["tier"] == "LIMITED"
    reservation_id = (await buy(shop)).json()["reservationId"]
    answer = await buy(shop)
    assert refused(answer, "tier")["tier"] == "LIMITED"
    assert answer.headers["x-ratelimit-tier"] == "LIMITED"
    assert 55 <= int(answer.headers["retry-after"]) <= 60
    refused(await cart(shop), "tier")
    polls = [(await get(shop, f"reservations/{reservation_id}")).status_code for _ in range(20)]
    assert polls == [200] * 20
    assert (await pay(shop, reservation_id)).status_code == 201, "nobody is kept from paying by having bought"


async def pay(shop: Shop, reservation_id: str) -> httpx.Response:
    body = {"reservationId": reservation_id, "paymentTransactionId": transaction()}
    return await shop.ask("POST", "orders/checkout", body, headers={"X-User-ID": "alice"})


async def test_a_user_of_the_standard_tier_has_50_attempts_at_once(shop: Shop) -> None:
    await shop.operate("PUT", "users/alice/tier", {"tier": "STANDARD"})
    answers = [await buy(shop, wish={"skuId": "NONE"}) for _ in range(51)]
    assert [answer.status_code for answer in answers] == [404] * 50 + [429]
    assert answers[-1].headers["x-ratelimit-limit"] == "50"


async def test_a_tier_that_is_taken_away_is_gone(shop: Shop) -> None:
    await shop.operate("PUT", "users/alice/tier", {"tier": "LIMITED"})
    assert (await shop.operate("PUT", "users/alice/tier", {"tier": None})).json()["tier"] is None
    assert [(await buy(shop)).status_code for _ in range(3)] == [201] * 3


async def test_a_tier_that_is_none_is_refused_by_name(shop: Shop) -> None:
    assert "tier" in faults(await shop.operate("PUT", "users/alice/tier", {"tier": "EMPEROR"}))
    assert "tier" in faults(await shop.operate("PUT", "users/alice/tier", {}))
    assert "userId" in faults(await shop.operate("PUT", "users/a%20b/tier", {"tier": "VIP"}))


# Operators


async def test_what_is_in_force_is_shown_with_its_defaults(shop: Shop) -> None:
    told = await limit(shop, userPerSecond=5)
    assert (await shop.operate("GET", "limits")).json() == told
    assert (told["thresholds"]["userPerSecond"], told["defaults"]["userPerSecond"]) == (5, 0)
    assert told["thresholds"]["tierVipPerMinute"] == 200
    assert (told["version"], told["usersWithTier"], told["processes"]) == (1, 0, {"live": 1, "behind": 0})


async def test_thresholds_are_changed_one_by_one_or_all_together_and_go_back(shop: Shop) -> None:
    await limit(shop, userPerSecond=5)
    told = await limit(shop, userBurst=7)
    assert (told["thresholds"]["userPerSecond"], told["thresholds"]["userBurst"]) == (5, 7)
    whole = told["thresholds"] | {"globalPerSecond": 9.5}
    assert (await limit(shop, **whole))["thresholds"] == whole
    told = await limit(shop, userPerSecond=None)
    assert told["thresholds"] == whole | {"userPerSecond": 0}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userPerSecond": -1}, "userPerSecond"),
        ({"userPerSecond": "5"}, "userPerSecond"),
        ({"userPerSecond": 5, "userBurst": 1.5}, "userBurst"),
        ({"perUser": 5}, "perUser"),
        ({}, "body"),
        ([], "body"),
        (b"{", "body"),
        (b'{"userBurst":1,"userBurst":2}', "userBurst"),
    ],
)
async def test_a_change_with_a_wrong_field_is_refused_whole(shop: Shop, body: Any, field: str) -> None:
    assert list(faults(await shop.operate("PUT", "limits", body))) == [field]
    assert (await shop.operate("GET", "limits")).json()["version"] == 0


async def test_how_a_user_stands_can_be_asked_and_he_can_be_let_off(shop: Shop) -> None:
    await limit(shop, userPerSecond=NEVER, userBurst=2)
    await shop.operate("PUT", "users/alice/tier", {"tier": "LIMITED"})
    await buy(shop)
    await get(shop, "orders/user/alice")
    told = (await shop.operate("GET", "limits/users/alice")).json()
    assert (told["userId"], told["tier"]) == ("alice", "LIMITED")
    user, tier = told["buckets"]
    assert (user["scope"], user["limit"], user["remaining"]) == ("user", 2, 1)
    assert (tier["scope"], tier["limit"], tier["remaining"], tier["resetSeconds"]) == ("tier", 1, 0, 60)
    refused(await buy(shop), "tier")
    assert (await shop.operate("DELETE", "limits/users/alice")).status_code == 204
    told = (await shop.operate("GET", "limits/users/alice")).json()
    assert [(each["remaining"], each["resetSeconds"]) for each in told["buckets"]] == [(2, 0), (1, 0)]
    assert (await buy(shop)).status_code == 201


async def test_what_operators_set_is_audited(shop: Shop) -> None:
    await limit(shop, userPerSecond=5)
    await shop.operate("PUT", "users/alice/tier", {"tier": "VIP"})
    await shop.operate("DELETE", "limits/users/alice")
    entries = (await shop.operate("GET", "audit")).json()["entries"][-3:]
    assert [(each["action"], each["subject"]) for each in entries] == [
        ("limits.change", "limits"), ("limits.tier", "alice"), ("limits.reset", "alice"),
    ]  # fmt: skip


# Defaults


@pytest.mark.parametrize(("identity", "address", "user"), [("open", 0, 0), ("gateway", 10, 20)])
async def test_strangers_are_limited_and_who_is_believed_is_not(
    identity: str, address: float, user: float, lane: str, tmp_path: Path, sandbox_url: str
) -> None:
    async with served(tmp_path, sandbox_url, lane, identity=identity) as shop:
        told = (await shop.operate("GET", "limits")).json()["thresholds"]
        assert (told["addressPerSecond"], told["userPerSecond"], told["globalPerSecond"]) == (address, user, 0)


async def test_where_requests_are_believed_the_user_whom_they_name_is_counted(
    lane: str, tmp_path: Path, sandbox_url: str
) -> None:
    async with served(tmp_path, sandbox_url, lane, rate_per_user=NEVER) as shop:
        await shop.open()
        assert (await shop.reserve("ann")).status_code == 201
        refused(await shop.reserve("ann"), "user")
        refused(await shop.ask("GET", "orders/user/ann"), "user")
        pay = {"reservationId": "res_x", "userId": "bob", "paymentTransactionId": "p"}
        assert (await shop.ask("POST", "orders/checkout", pay)).status_code == 404
        refused(await shop.ask("POST", "orders/checkout", pay), "user")


async def test_what_was_set_survives_a_restart(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    async with served(tmp_path, sandbox_url, lane, **GATEWAY) as shop:
        await shop.open(product(perUserLimit=10))
        await limit(shop, userPerSecond=NEVER, userBurst=1)
        await shop.operate("PUT", "users/vip/tier", {"tier": "VIP"})
    async with served(tmp_path, sandbox_url, lane, **GATEWAY) as shop:
        assert [(await buy(shop)).status_code for _ in range(2)] == [201, 429]
        assert [(await buy(shop, "vip")).status_code for _ in range(3)] == [201] * 3


# Every route

BODIES = {
    "/reservations": {"skuId": "PHONE"},
    "/reservations/cart": {"items": [{"skuId": "PHONE"}]},
    "/orders/checkout": {"reservationId": "res_x", "paymentTransactionId": "p"},
    "/sales/{saleId}/queue": {},
}
"""In good form, of each private route that has a body."""


async def test_no_private_route_forgets_to_count_its_user(shop: Shop) -> None:
    await limit(shop, userPerSecond=NEVER, userBurst=1)
    await get(shop, "orders/user/alice")
    private = [call for call in shop.app.opt["calls"] if call.private]
    assert len(private) >= 12
    for call in private:
        path = call.path.replace("{userId}", "alice").replace("{saleId}", "S1")
        path = re.sub(r"\{\w+\}", "x_1", path)
        body = BODIES[call.path.removeprefix("/api/v1")] if call.body is not None else None
        answer = await shop.ask(call.method, path, body, headers={"X-User-ID": "alice"})
        assert (call.path, answer.status_code) == (call.path, 429)
