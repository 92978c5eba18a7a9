"""The three identities, on both lanes of a real server: who gets what, and in which order he is refused."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from edge.issuer import ED, OTHER_RSA, RSA, SECRET, claims, jwk, key_set, signed
from edge.lanes import until
from edge.shop import API, OPERATOR, Shop, faults, product, said, sale, served, transaction
from servers.web import Web

from flashsale.core.questions import AuditPage
from flashsale.engine import Engine
from flashsale.flow.queueing import Queueing

UNLIMITED = {"rate_per_address": 0.0, "rate_per_user": 0.0}
JWT = UNLIMITED | {"identity": "jwt", "jwt_secret": SECRET}
GATEWAY = UNLIMITED | {"identity": "gateway", "trusted_proxies": ("127.0.0.1",)}
STRANGER = UNLIMITED | {"identity": "gateway", "trusted_proxies": ("192.0.2.1",)}
WISH = {"skuId": "PHONE"}


def token(user: str = "alice", **more: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed(claims(user, int(time.time()) + 600, **more))}"}


def named(user: str) -> dict[str, str]:
    return {"X-User-ID": user}


AS = {"jwt": token, "gateway": named}


@pytest.fixture(params=["on", "off"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["jwt", "gateway"])
async def known(request: pytest.FixtureRequest, lane: str, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    """A shop that knows its users, in one of the two ways."""
    settings = {"jwt": JWT, "gateway": GATEWAY}[request.param]
    async with served(tmp_path, sandbox_url, lane, **settings) as shop:
        await shop.open(product(perUserLimit=5))
        yield shop


def who(shop: Shop, user: str) -> dict[str, str]:
    return AS[shop.engine.settings.identity](user)


async def reserved(shop: Shop, user: str) -> str:
    answer = await shop.ask("POST", "reservations", WISH, headers=who(shop, user))
    assert (answer.status_code, answer.json()["userId"]) == (201, user)
    return str(answer.json()["reservationId"])


# A user is known


async def test_the_caller_reserves_for_himself_without_naming_himself(known: Shop) -> None:
    await reserved(known, "alice")
    same = await known.ask("POST", "reservations", WISH | {"userId": "alice"}, headers=who(known, "alice"))
    assert same.status_code == 201
    cart = {"items": [WISH]}
    answer = await known.ask("POST", "reservations/cart", cart, headers=who(known, "alice"))
    assert [each["userId"] for each in answer.json()["reservations"]] == ["alice"]


async def test_nobody_reserves_for_somebody_else(known: Shop) -> None:
    wish = WISH | {"userId": "bob"}
    assert said(await known.ask("POST", "reservations", wish, headers=who(known, "alice"))) == (404, "NOT_FOUND")
    cart = {"items": [WISH], "userId": "bob"}
    assert said(await known.ask("POST", "reservations/cart", cart, headers=who(known, "alice"))) == (404, "NOT_FOUND")
    assert (await known.counters())["held"] == 0


async def test_without_an_identity_there_is_401(known: Shop) -> None:
    reservation_id = await reserved(known, "alice")
    pay = {"reservationId": reservation_id, "paymentTransactionId": "p"}
    for answer in (
        await known.ask("POST", "reservations", WISH | {"userId": "alice"}),
        await known.ask("POST", "reservations/cart", {"items": [WISH], "userId": "alice"}),
        await known.ask("GET", f"reservations/{reservation_id}"),
        await known.ask("GET", f"reservations/{reservation_id}?wait=0"),
        await known.ask("DELETE", f"reservations/{reservation_id}"),
        await known.ask("GET", "reservations/user/alice/active"),
        await known.ask("POST", "orders/checkout", pay),
        await known.ask("GET", "orders/user/alice"),
    ):
        assert said(answer) == (401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await known.counters())["held"] == 1


async def test_only_ones_own_things_are_found(known: Shop) -> None:
    reservation_id = await reserved(known, "alice")
    alice, bob = who(known, "alice"), who(known, "bob")
    path = f"reservations/{reservation_id}"
    pay = {"reservationId": reservation_id, "paymentTransactionId": transaction()}
    for method, place, body in (
        ("GET", path, None), ("GET", path + "?wait=1", None), ("DELETE", path, None),
        ("POST", "orders/checkout", pay), ("GET", "reservations/user/alice/active", None),
        ("GET", "orders/user/alice", None), ("GET", f"orders/{path}".replace("reservations", "reservation"), None),
    ):  # fmt: skip
        assert said(await known.ask(method, place, body, headers=bob)) == (404, "NOT_FOUND"), (method, place)
    assert (await known.ask("GET", path, headers=alice)).json()["status"] == "RESERVED"
    order = (await known.ask("POST", "orders/checkout", pay, headers=alice)).json()
    for place in (
        f"orders/{order['orderId']}",
        f"orders/{order['orderId']}/status",
        f"orders/reservation/{pay['reservationId']}",
    ):
        assert said(await known.ask("GET", place, headers=bob)) == (404, "NOT_FOUND")
        assert (await known.ask("GET", place, headers=alice)).status_code == 200
    assert said(await known.ask("DELETE", f"orders/{order['orderId']}", headers=bob)) == (404, "NOT_FOUND")
    assert (await known.ask("DELETE", f"orders/{order['orderId']}", headers=alice)).status_code == 200


async def test_another_users_pending_reservation_is_not_found(known: Shop) -> None:
    """There is no row that could tell whose it is, but its id does."""
    await known.operate("POST", "sales", sale(product("QUEUED"), id="S2", mode="queued"))
    assert said(await known.ask("GET", "reservations/res_q" + "0" * 56, headers=who(known, "alice")))[0] == 404
    headers = who(known, "alice") | {"Prefer": "wait=0"}
    pending = await known.ask("POST", "reservations", {"skuId": "QUEUED"}, headers=headers)
    path = f"reservations/{pending.json()['reservationId']}"
    assert pending.status_code == 202
    assert said(await known.ask("GET", path, headers=who(known, "bob"))) == (404, "NOT_FOUND")
    assert said(await known.ask("DELETE", path, headers=who(known, "bob"))) == (404, "NOT_FOUND")
    assert (await known.ask("GET", path, headers=who(known, "alice"))).status_code == 200


async def test_the_window_is_for_everybody(known: Shop) -> None:
    for path in ("products", "products/PHONE", "products/PHONE/availability", "sales", "sales/S1"):
        assert (await known.ask("GET", path)).status_code == 200
        assert (await known.ask("GET", path, headers={"Authorization": "Bearer nonsense"})).status_code == 200


async def test_a_malformed_request_is_refused_before_anybody_asks_who_sends_it(known: Shop) -> None:
    for body in ({}, {"skuId": "a b"}, WISH | {"quantity": 0}, WISH | {"userId": "a b"}, WISH | {"color": "red"}):
        assert faults(await known.ask("POST", "reservations", body))
        assert faults(await known.ask("POST", "reservations", body, headers=who(known, "bob")))
    assert faults(await known.ask("POST", "reservations", WISH | {"userId": ""}, headers=who(known, "alice")))
    assert faults(await known.ask("POST", "reservations/cart", {"items": []}))
    assert faults(await known.ask("POST", "reservations", WISH, headers={"Idempotency-Key": "\u00e9".encode()}))
    assert faults(await known.ask("POST", "orders/checkout", {"reservationId": "r"}))
    assert faults(await known.ask("GET", "reservations/user/a%20b/active"))
    assert faults(await known.ask("GET", "orders/user/a%20b"))
    assert faults(await known.ask("GET", "reservations/res_1?wait=x"))
    assert faults(await known.ask("DELETE", f"orders/ord_1?reason={'x' * 501}"))


async def test_whoever_is_not_known_learns_nothing_of_what_there_is(known: Shop) -> None:
    there, none = f"reservations/{await reserved(known, 'alice')}", "reservations/res_nothing"
    told = [(await known.ask("GET", path)).json()["message"] for path in (there, none)]
    assert told[0] == told[1]
    assert said(await known.ask("POST", "reservations", {"skuId": "NONE"})) == (401, "UNAUTHENTICATED")


async def test_an_operator_may_act_for_anybody(known: Shop) -> None:
    for user in ("alice", "bob"):
        answer = await known.ask("POST", "reservations", WISH | {"userId": user}, headers=OPERATOR)
        assert (answer.status_code, answer.json()["userId"]) == (201, user)
        path = f"reservations/{answer.json()['reservationId']}"
        assert (await known.ask("GET", path, headers=OPERATOR)).status_code == 200
        assert len((await known.ask("GET", f"reservations/user/{user}/active", headers=OPERATOR)).json()) == 1
        assert (await known.ask("DELETE", path, headers=OPERATOR)).status_code == 204
    assert list(faults(await known.ask("POST", "reservations", WISH, headers=OPERATOR))) == ["userId"]
    cart = {"items": [WISH]}
    assert list(faults(await known.ask("POST", "reservations/cart", cart, headers=OPERATOR))) == ["userId"]


async def test_two_identities_at_once_are_none(known: Shop) -> None:
    alice, bob = ([*who(known, user).items()] for user in ("alice", "bob"))
    answer = await known.ask("POST", "reservations", WISH, headers=[*alice, *bob])
    assert said(answer) == (400, "VALIDATION_FAILED")


async def test_an_operators_route_is_for_no_user(known: Shop) -> None:
    answer = await known.ask("GET", f"{API}/admin/sales", headers=who(known, "alice"))
    assert said(answer) == (403, "ACCESS_DENIED")
    assert answer.json()["details"] == {"roles": ["operator"]}
    assert said(await known.ask("GET", f"{API}/admin/sales")) == (401, "UNAUTHENTICATED")
    assert said(await known.ask("GET", f"{API}/admin/sales", headers={"Authorization": "Bearer x"}))[0] == 401


# The gateway


async def test_x_user_id_of_a_stranger_is_as_good_as_not_there(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    async with served(tmp_path, sandbox_url, lane, **STRANGER) as shop:
        await shop.open()
        for headers in (named("alice"), named("alice") | {"X-Forwarded-For": "192.0.2.1"}):
            assert said(await shop.ask("POST", "reservations", WISH, headers=headers)) == (401, "UNAUTHENTICATED")
            assert said(await shop.ask("GET", "reservations/res_1", headers=headers)) == (401, "UNAUTHENTICATED")
        assert said(await shop.ask("GET", "/api/v1/admin/sales", headers=named("alice")))[0] == 401
        assert (await shop.counters())["held"] == 0


async def test_a_gateway_must_name_a_user_id(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    async with served(tmp_path, sandbox_url, lane, **GATEWAY) as shop:
        await shop.open()
        for name in ("", "a b", "x" * 129, "a/b"):
            answer = await shop.ask("POST", "reservations", WISH, headers=named(name))
            assert said(answer) == (401, "UNAUTHENTICATED")
            assert "X-User-ID must be 1 to 128" in answer.json()["message"]


# The token


@pytest.fixture
async def signed_in(lane: str, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, lane, **JWT) as shop:
        await shop.open()
        yield shop


async def test_beside_a_token_x_user_id_means_nothing(signed_in: Shop) -> None:
    answer = await signed_in.ask("POST", "reservations", WISH, headers=token("alice") | named("bob"))
    assert (answer.status_code, answer.json()["userId"]) == (201, "alice")
    path = f"reservations/{answer.json()['reservationId']}"
    assert (await signed_in.ask("GET", path, headers=token("alice") | named("a b"))).status_code == 200
    assert said(await signed_in.ask("GET", path, headers=token("bob") | named("alice"))) == (404, "NOT_FOUND")
    assert said(await signed_in.ask("GET", path, headers=named("alice"))) == (401, "UNAUTHENTICATED")


async def test_a_bad_token_is_told_what_is_wrong_with_it(signed_in: Shop) -> None:
    old = {"Authorization": f"Bearer {signed(claims('alice', int(time.time()) - 60))}"}
    answer = await signed_in.ask("POST", "reservations", WISH, headers=old)
    assert (said(answer), answer.json()["message"]) == ((401, "UNAUTHENTICATED"), "The token has expired")


async def test_the_role_operator_does_what_the_operators_token_does_under_its_own_name(signed_in: Shop) -> None:
    olga = token("olga", roles=["operator"])
    assert (await signed_in.ask("POST", f"{API}/admin/sales/S1/pause", headers=olga)).status_code == 200
    assert (await signed_in.operate("POST", "sales/S1/resume")).status_code == 200
    entries = await signed_in.engine.find(AuditPage())
    assert [each.actor for each in entries] == ["operator", "olga", "operator"]
    bob = await signed_in.ask("POST", "reservations", WISH | {"userId": "bob"}, headers=olga)
    own = await signed_in.ask("POST", "reservations", WISH, headers=olga)
    assert (bob.json()["userId"], own.json()["userId"]) == ("bob", "olga")
    assert (await signed_in.ask("GET", f"reservations/{bob.json()['reservationId']}", headers=olga)).status_code == 200


async def test_statistics_are_for_analysts_too_and_nothing_else_is(signed_in: Shop) -> None:
    ann = token("ann", roles=["analyst"])
    assert (await signed_in.ask("GET", f"{API}/admin/sales/S1/stats", headers=ann)).status_code == 200
    assert said(await signed_in.ask("GET", f"{API}/admin/sales/S1", headers=ann)) == (403, "ACCESS_DENIED")
    assert said(await signed_in.ask("POST", f"{API}/admin/sales/S1/end", headers=ann)) == (403, "ACCESS_DENIED")
    answer = await signed_in.ask("GET", f"{API}/admin/sales/S1/stats", headers=token("bob", roles=["fulfilment"]))
    assert answer.json()["details"] == {"roles": ["analyst", "operator"]}


async def test_a_refused_operator_makes_the_server_buffer_nothing(signed_in: Shop) -> None:
    huge = json.dumps({"name": "x" * 900_000}).encode()
    for headers in (token("bob"), {}):
        answer = await signed_in.ask("POST", f"{API}/admin/sales", huge, headers=headers)
        assert answer.status_code in (401, 403)


# Keys that change


def by(key: Any, kid: str, user: str = "alice") -> dict[str, str]:
    algorithm = "EdDSA" if key is ED else "RS256"
    return {"Authorization": f"Bearer {signed(claims(user, int(time.time()) + 600), key, algorithm, kid)}"}


async def test_the_first_token_of_a_new_key_waits_for_it_and_is_answered(
    lane: str, tmp_path: Path, sandbox_url: str
) -> None:
    async with Web() as web:
        web.body = key_set(jwk(RSA, "old"))
        async with served(tmp_path, sandbox_url, lane, identity="jwt", jwt_jwks=web.url) as shop:
            await shop.open(product(perUserLimit=5))
            assert (await shop.ask("POST", "reservations", WISH, headers=by(RSA, "old"))).status_code == 201
            web.body = key_set(jwk(ED, "new"))
            web.gate.clear()
            headers = [by(ED, "new"), by(ED, "new", "bob"), by(RSA, "forged"), by(OTHER_RSA, "new")]
            asking = [asyncio.create_task(shop.ask("POST", "reservations", WISH, headers=each)) for each in headers]
            reading = asyncio.create_task(shop.ask("GET", "reservations/user/bob/active", headers=headers[1]))
            await until(lambda: web.asked == 2)
            web.gate.set()
            answers = [await each for each in asking]
            assert [each.status_code for each in answers] == [201, 201, 401, 401]
            assert [each.json().get("userId") for each in answers[:2]] == ["alice", "bob"]
            assert (await reading).status_code == 200
            path = f"reservations/{answers[1].json()['reservationId']}"
            assert (await shop.ask("GET", path, headers=headers[1])).status_code == 200
            assert web.asked == 2


async def test_whoever_waits_for_a_key_keeps_his_trace(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    users = {"alice": "0af7651916cd43dd8448eb211c80319c", "bob": "4bf92f3577b34da6a3ce929d0e0e4736"}
    async with Web() as web:
        web.body = key_set(jwk(RSA, "old"))
        async with served(tmp_path, sandbox_url, lane, identity="jwt", jwt_jwks=web.url) as shop:
            await shop.open()
            web.body = key_set(jwk(ED, "new"))
            web.gate.clear()
            asking = []
            for user, trace in users.items():
                headers = by(ED, "new", user) | {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
                asking.append(asyncio.create_task(shop.ask("POST", "reservations", WISH, headers=headers)))
                await until(lambda: web.asked == 2)
            await until(lambda: len(shop.engine.keys._waiting) == 2)
            web.gate.set()
            assert [(await each).status_code for each in asking] == [201, 201]
            events = (await shop.operate("GET", "events?topic=flashsale.reservations")).json()["events"]
    assert sorted(event["traceId"] for event in events) == sorted(users.values())


async def test_without_keys_there_is_503_until_they_come(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    async with Web() as web:
        web.body, web.status = b"", 500
        async with served(tmp_path, sandbox_url, lane, identity="jwt", jwt_jwks=web.url) as shop:
            await shop.open()
            answer = await shop.ask("POST", "reservations", WISH, headers=by(ED, "new"))
            assert (said(answer), answer.headers["retry-after"]) == ((503, "UNAVAILABLE"), "1")
            health = (await shop.ask("GET", "/health")).json()
            assert (health["status"], health["parts"]["keys"]["needed"]) == ("degraded", False)
            assert "500" in health["parts"]["keys"]["state"]


# What admission learns of a visitor


@pytest.mark.parametrize("settings", [JWT | {"trusted_proxies": ("127.0.0.1",)}, JWT])
async def test_address_tier_age_and_priority_reach_the_engine(
    settings: dict[str, Any], lane: str, tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    reserve = Engine.reserve_soon
    monkeypatch.setattr(
        Engine, "reserve_soon", lambda engine, who, *more: (seen.append(who), reserve(engine, who, *more))
    )
    async with served(tmp_path, sandbox_url, lane, **settings) as shop:
        await shop.open()
        headers = token("alice", tier="gold", known_since=1_700_000_000, priority="high")
        headers |= {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Flashsale-Pass": "a-pass"}
        assert (await shop.ask("POST", "reservations", WISH, headers=headers)).status_code == 201
    [visitor] = seen
    trusted = "trusted_proxies" in settings
    assert (visitor.user_id, visitor.pass_text, visitor.tier) == ("alice", "a-pass", "gold")
    assert visitor.address == ("203.0.113.9" if trusted else "127.0.0.1")
    assert (visitor.known_since_ms, visitor.priority) == (1_700_000_000_000, "high")


@pytest.mark.parametrize("kind", ["reservations", "reservations/cart"])
async def test_high_priority_is_a_token_s_word_and_reaches_the_queue(
    kind: str, signed_in: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    append = Queueing._append
    monkeypatch.setattr(Queueing, "_append", lambda self, each: (seen.append(each.request), append(self, each)))
    await signed_in.operate("POST", "sales", sale(product("QUEUED", perUserLimit=5), id="S2", mode="queued"))
    body = {"skuId": "QUEUED"} if kind == "reservations" else {"items": [{"skuId": "QUEUED"}]}
    for headers in (token("ann"), token("bob", priority="high"), token("carl") | {"Priority": "high"}):
        answer = await signed_in.ask("POST", kind, body, headers=headers | {"Prefer": "wait=5"})
        assert answer.status_code == 201
    assert [(each.user_id, each.priority) for each in seen] == [("ann", "normal"), ("bob", "high"), ("carl", "normal")]


async def test_x_forwarded_for_in_several_headers_is_one_list(
    lane: str, tmp_path: Path, sandbox_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    reserve = Engine.reserve_soon
    monkeypatch.setattr(
        Engine, "reserve_soon", lambda engine, who, *more: (seen.append(who), reserve(engine, who, *more))
    )
    async with served(tmp_path, sandbox_url, lane, trusted_proxies=("127.0.0.1", "10.0.0.0/8")) as shop:
        await shop.open()
        lists = ["6.6.6.6", "203.0.113.9", "10.0.0.1, 10.0.0.2"]
        headers = [("X-User-ID", "alice"), *(("X-Forwarded-For", each) for each in lists)]
        assert (await shop.ask("POST", "reservations", WISH, headers=headers)).status_code == 201
    assert [each.address for each in seen] == ["203.0.113.9"]


# Identity open is as it was


async def test_open_needs_nobody_and_believes_the_header(lane: str, tmp_path: Path, sandbox_url: str) -> None:
    async with served(tmp_path, sandbox_url, lane) as shop:
        await shop.open()
        held = await shop.ask("POST", "reservations", WISH, headers=named("alice"))
        path = f"reservations/{held.json()['reservationId']}"
        assert (await shop.ask("GET", path)).status_code == 200
        assert (await shop.ask("GET", path, headers={"Authorization": "Bearer nonsense"})).status_code == 200
        assert said(await shop.ask("GET", path, headers=named("bob"))) == (404, "NOT_FOUND")
        assert said(await shop.ask("GET", path, headers=named("bob") | OPERATOR)) == (404, "NOT_FOUND")
        assert list(faults(await shop.ask("GET", path, headers=named("a b")))) == ["userId"]
        differing = await shop.ask("POST", "reservations", WISH | {"userId": "bob"}, headers=named("alice"))
        assert faults(differing) == {"userId": "differs from header X-User-ID"}
        assert said(await shop.ask("GET", f"{API}/admin/sales", headers=named("alice")))[0] == 401
