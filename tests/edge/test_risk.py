"""Risk, challenges and the limits of devices and addresses, on both lanes of a real server."""

import asyncio
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import altcha
import httpx
import pytest
from edge.shop import API, Shop, faults, product, said, transaction
from edge.test_who_is_asking import served

GATEWAY = {"identity": "gateway", "trusted_proxies": ("127.0.0.1",), "rate_per_user": 0.0, "rate_per_address": 0.0}
FORBIDDEN = 403
WISH = {"skuId": "PHONE"}


@pytest.fixture(params=["on", "off"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, request.param, **GATEWAY) as opened:
        yield opened


def who(user: str = "alice", address: str = "192.0.2.1", **more: str) -> dict[str, str]:
    return {"X-User-ID": user, "X-Forwarded-For": address} | more


def device(**facts: Any) -> dict[str, str]:
    return {"X-Flashsale-Device": urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")}


async def wants(shop: Shop, headers: dict[str, str], **more: Any) -> httpx.Response:
    return await shop.ask("POST", "reservations", WISH | more, headers=headers)


async def made_suspicious(shop: Shop, user: str = "alice") -> httpx.Response:
    """By as many attempts as it takes, and no more: some more would block him."""
    for _ in range(21):
        answer = await wants(shop, who(user), skuId="GONE")
        if answer.status_code == FORBIDDEN:
            break
    assert said(answer) == (403, "CHALLENGE_REQUIRED")
    return answer


async def solved(shop: Shop, refused: httpx.Response) -> str:
    """As the widget does it, while the server goes on."""
    made = (await shop.ask("GET", refused.json()["details"]["challengeUrl"])).json()
    solution = await asyncio.to_thread(altcha.solve_challenge, altcha.Challenge.from_dict(made))
    return b64encode(json.dumps({"challenge": made, "solution": solution.to_dict()}).encode()).decode()


GONE = product("GONE", stock=0)


async def test_a_suspect_who_solves_his_challenge_buys_and_its_solution_counts_once(shop: Shop) -> None:
    await shop.open(product(perUserLimit=5), GONE)
    refused = await made_suspicious(shop)
    solution = await solved(shop, refused)
    await made_suspicious(shop)  # on a busy machine the work takes so long that he might buy without
    bought = await wants(shop, who() | {"X-Flashsale-Challenge": solution})
    assert bought.status_code == 201
    await made_suspicious(shop)
    again = await wants(shop, who() | {"X-Flashsale-Challenge": solution})
    assert said(again) == (403, "CHALLENGE_REQUIRED")
    assert "used before" in again.json()["message"]
    ledger = (await shop.operate("GET", "sales/S1/ledger")).json()["products"]
    assert [each["held"] for each in ledger if each["skuId"] == "PHONE"] == [1]


async def test_a_repeated_request_finds_its_reservation_whatever_is_against_its_user_now(shop: Shop) -> None:
    await shop.open(product(), GONE)
    first = await wants(shop, who() | {"Idempotency-Key": "k"})
    for _ in range(60):
        blocked = await wants(shop, who(), skuId="GONE")
    assert said(blocked) == (403, "BLOCKED")
    again = await wants(shop, who() | {"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["idempotent-replay"]) == (201, "true")
    assert again.json()["reservationId"] == first.json()["reservationId"]


async def test_reading_and_polling_are_never_held_against_anybody(shop: Shop) -> None:
    await shop.open(product())
    for _ in range(60):
        await shop.ask("GET", "products/PHONE/availability", headers=who())
        await shop.ask("GET", "reservations/res_1", headers=who())
    assert (await wants(shop, who())).status_code == 201


async def test_a_cart_is_judged_like_a_single_product(shop: Shop) -> None:
    await shop.open(product(), GONE)
    await made_suspicious(shop)
    cart = {"items": [{"skuId": "PHONE", "quantity": 1}]}
    assert said(await shop.ask("POST", "reservations/cart", cart, headers=who())) == (403, "CHALLENGE_REQUIRED")


async def test_operators_see_what_was_decided_and_why(shop: Shop) -> None:
    await shop.open(product(), GONE)
    await made_suspicious(shop)
    await made_suspicious(shop, "bob")
    told = (await shop.operate("GET", "risk/decisions?userId=alice")).json()
    [decision] = told["decisions"]
    assert told["next"] is None
    named = ("userId", "saleId", "verdict", "score", "reasons", "solved", "times")
    assert {name: decision[name] for name in named} == {
        "userId": "alice", "saleId": "S1", "verdict": "CHALLENGE", "score": 50, "reasons": ["attempts"],
        "solved": False, "times": 1,
    }  # fmt: skip
    everybody = (await shop.operate("GET", "risk/decisions")).json()["decisions"]
    assert [each["userId"] for each in everybody] == ["alice", "bob"]
    assert list(faults(await shop.operate("GET", "risk/decisions?userId=a%20b"))) == ["userId"]


async def test_thresholds_of_risk_hold_from_the_moment_in_which_they_are_set(shop: Shop) -> None:
    await shop.open(product(perUserLimit=9))
    assert (await shop.operate("PUT", "limits", {"riskChallengePerMinute": 2})).status_code == 200
    told = [(await wants(shop, who())).status_code for _ in range(3)]
    assert told == [201, 201, 403]


# -- Devices.


@pytest.mark.parametrize("value", ["%%%", "eyJ9", urlsafe_b64encode(b'{"imei":"1"}').decode(), "A" * 2049])
async def test_a_malformed_device_header_is_refused_by_its_name(shop: Shop, value: str) -> None:
    await shop.open(product())
    assert list(faults(await wants(shop, who() | {"X-Flashsale-Device": value}))) == ["X-Flashsale-Device"]
    cart = {"items": [{"skuId": "PHONE", "quantity": 1}]}
    refused = await shop.ask("POST", "reservations/cart", cart, headers=who() | {"X-Flashsale-Device": value})
    assert list(faults(refused)) == ["X-Flashsale-Device"]


async def test_a_sale_that_requires_a_device_challenges_who_shows_none(shop: Shop) -> None:
    told = await shop.open(product(), requireDevice=True)
    assert told["requireDevice"] is True
    assert said(await wants(shop, who())) == (403, "CHALLENGE_REQUIRED")
    whole = device(deviceId="d", platform="p", browser="b", os="o", screen="s", timezone="t")
    assert (await wants(shop, who() | whole)).status_code == 201


async def test_a_device_gets_what_the_sale_says_whatever_its_accounts(shop: Shop) -> None:
    told = await shop.open(product(), perDeviceLimit=2)
    assert told["perDeviceLimit"] == 2
    phone = device(deviceId="d-1")
    answers = [
        await wants(shop, who(user, f"198.51.100.{place}") | phone) for place, user in enumerate(["a", "b", "c"])
    ]
    assert [each.status_code for each in answers] == [201, 201, 403]
    assert said(answers[2]) == (403, "LIMIT_EXCEEDED")
    assert answers[2].json()["details"] == {"limitedBy": "device", "limit": 2, "alreadyHeld": 2}
    assert list(faults(await wants(shop, who("d")))) == ["X-Flashsale-Device"]


@pytest.mark.parametrize("facts", [{}, {"platform": "iOS", "browser": "Safari"}])
async def test_phones_of_one_model_are_not_one_device(shop: Shop, facts: dict[str, str]) -> None:
    await shop.open(product(stock=20))
    for number in range(10):
        bought = await wants(shop, who(f"user-{number}", f"192.0.2.{number}") | device(**facts))
        assert bought.status_code == 201, bought.text


async def test_a_limit_per_device_wants_a_device_that_can_be_known_again(shop: Shop) -> None:
    await shop.open(product(), perDeviceLimit=1)
    for facts in ({}, {"platform": "iOS"}):
        answer = await wants(shop, who() | device(**facts))
        assert "deviceId" in faults(answer)["X-Flashsale-Device"]


async def test_what_a_device_gives_back_it_may_have_again(shop: Shop) -> None:
    await shop.open(product(), perDeviceLimit=1)
    phone = device(deviceId="d-1")
    held = (await wants(shop, who("a") | phone)).json()["reservationId"]
    assert said(await wants(shop, who("b") | phone)) == (403, "LIMIT_EXCEEDED")
    assert (await shop.ask("DELETE", f"reservations/{held}", headers=who("a"))).status_code == 204
    assert (await wants(shop, who("b") | phone)).status_code == 201


# -- Addresses.


async def test_an_address_gets_what_the_sale_says_and_an_ipv6_48_sixteen_times_that(shop: Shop) -> None:
    await shop.open(product(stock=100), perAddressLimit=1)
    told = [
        (await wants(shop, who(f"u{number}", f"2001:db8:1:{number:x}00::1"))).status_code for number in range(1, 31)
    ]
    assert (told.count(201), told.count(403)) == (16, 14)
    assert (await wants(shop, who("v4", "192.0.2.7"))).status_code == 201
    refused = await wants(shop, who("v4-too", "192.0.2.7"))
    assert refused.json()["details"] == {"limitedBy": "address", "limit": 1, "alreadyHeld": 1}


# -- Holds that nobody pays for.


async def test_whoever_keeps_reserving_without_paying_gets_shorter_holds_then_a_challenge(shop: Shop) -> None:
    await shop.open(product(perUserLimit=10))
    answers = [await wants(shop, who()) for _ in range(8)]
    assert [each.json().get("expiresInSeconds") for each in answers] == [120] * 4 + [30] * 3 + [None]
    assert said(answers[-1]) == (403, "CHALLENGE_REQUIRED")
    [decision] = (await shop.operate("GET", "risk/decisions")).json()["decisions"]
    assert (decision["reasons"], decision["facts"]) == (
        ["hoarding"],
        {"address_accounts": 1, "unpaid": 7, "address_unpaid": 7},
    )


async def test_whoever_pays_is_not_held_to_have_hoarded(shop: Shop) -> None:
    await shop.open(product(perUserLimit=10))
    for _ in range(8):
        held = (await wants(shop, who())).json()
        assert held["expiresInSeconds"] == 120
        paid = {"reservationId": held["reservationId"], "paymentTransactionId": transaction()}
        assert (await shop.ask("POST", "orders/checkout", paid, headers=who())).status_code == 201


async def test_holds_of_a_queued_sale_count_when_they_are_decided(shop: Shop) -> None:
    await shop.open(product(perUserLimit=10), mode="queued")
    for number in range(7):
        answer = await wants(shop, who() | {"Prefer": "wait=5"}, requestKey=f"k{number}")
        assert answer.status_code == 201, answer.text
    assert answer.json()["expiresInSeconds"] in (29, 30)
    assert said(await wants(shop, who())) == (403, "CHALLENGE_REQUIRED")


# -- Challenges without a refusal.


async def test_a_challenge_may_be_asked_for_beforehand_and_is_for_whoever_asks(shop: Shop) -> None:
    await shop.open(product(), GONE)
    answer = await shop.ask("GET", "challenge", headers=who())
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    made = answer.json()
    assert made.keys() == {"parameters", "signature"}
    solution = await asyncio.to_thread(altcha.solve_challenge, altcha.Challenge.from_dict(made))
    text = b64encode(json.dumps({"challenge": made, "solution": solution.to_dict()}).encode()).decode()
    await made_suspicious(shop, "bob")
    refused = await wants(shop, who("bob") | {"X-Flashsale-Challenge": text})
    assert "another user's" in refused.json()["message"]
    await made_suspicious(shop)
    assert (await wants(shop, who() | {"X-Flashsale-Challenge": text})).status_code == 201


@pytest.mark.parametrize("link", ["", "1-ab-cd", "x" * 101, "%F0%9F"])
async def test_a_link_to_a_challenge_that_nobody_gave_out_is_refused(shop: Shop, link: str) -> None:
    assert set(faults(await shop.ask("GET", f"challenge?for={link}"))) <= {"for", "query"}


async def test_the_page_of_a_challenge_loads_only_what_this_server_has(shop: Shop) -> None:
    page = await shop.ask("GET", "/challenge?for=1")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 5
    for each in [*(path for path in loaded if path != "data:,"), "/challenge/pbkdf2.js"]:
        asset = await shop.ask("GET", each)
        assert asset.status_code == 200, each
    assert said(await shop.ask("GET", "/challenge/../secret"))[0] == 404
    assert "http" not in page.text.replace("https://www.w3.org", "")


# -- Off.


async def test_where_everybody_is_believed_nobody_is_judged(tmp_path: Path, sandbox_url: str) -> None:
    async with served(tmp_path, sandbox_url, "on") as shop:
        await shop.open(product(perUserLimit=100, stock=100), requireDevice=True)
        told = [(await wants(shop, {"X-User-ID": "alice"})).status_code for _ in range(60)]
        assert told == [201] * 60
        assert (await shop.ask("GET", f"{API}/challenge")).status_code == 200
