"""Every route, asked by everybody: its owner, another user, nobody, an analyst, operators. Made from the app's table of
routes, so that a route which nobody has thought about fails here.
"""

import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from edge.issuer import claims, signed
from edge.shop import OPERATOR, Shop, opened, product, sale, transaction
from edge.test_who_is_asking import GATEWAY, JWT

from flashsale.core.questions import AuditPage
from flashsale.edge.app import create_app
from flashsale.edge.call import Audience, Call

PUBLIC = "everybody"
OWN = "whoever it belongs to"
OPERATORS = "operators"
ANALYSTS = "analysts and operators"

V1, ADMIN = "/api/v1", "/api/v1/admin"
WHO_MAY = {
    f"GET {V1}/products": PUBLIC,
    f"GET {V1}/products/{{skuId}}": PUBLIC,
    f"GET {V1}/products/{{skuId}}/availability": PUBLIC,
    f"GET {V1}/sales": PUBLIC,
    f"GET {V1}/sales/{{saleId}}": PUBLIC,
    f"GET {V1}/sales/{{saleId}}/draw": PUBLIC,
    f"POST {V1}/reservations": OWN,
    f"POST {V1}/reservations/cart": OWN,
    f"GET {V1}/reservations/{{reservationId}}": OWN,
    f"DELETE {V1}/reservations/{{reservationId}}": OWN,
    f"GET {V1}/reservations/user/{{userId}}/active": OWN,
    f"POST {V1}/orders/checkout": OWN,
    f"GET {V1}/orders/{{orderId}}": OWN,
    f"GET {V1}/orders/{{orderId}}/status": OWN,
    f"GET {V1}/orders/reservation/{{reservationId}}": OWN,
    f"GET {V1}/orders/user/{{userId}}": OWN,
    f"DELETE {V1}/orders/{{orderId}}": OWN,
    f"POST {V1}/sales/{{saleId}}/queue": OWN,
    f"GET {V1}/sales/{{saleId}}/queue/{{ticket}}": OWN,
    f"GET {V1}/sales/{{saleId}}/queue/{{ticket}}/events": OWN,
    f"DELETE {V1}/sales/{{saleId}}/queue/{{ticket}}": OWN,
    f"POST {ADMIN}/sales": OPERATORS,
    f"GET {ADMIN}/sales": OPERATORS,
    f"GET {ADMIN}/sales/{{saleId}}": OPERATORS,
    f"PUT {ADMIN}/sales/{{saleId}}": OPERATORS,
    f"DELETE {ADMIN}/sales/{{saleId}}": OPERATORS,
    f"POST {ADMIN}/sales/{{saleId}}/start": OPERATORS,
    f"POST {ADMIN}/sales/{{saleId}}/pause": OPERATORS,
    f"POST {ADMIN}/sales/{{saleId}}/resume": OPERATORS,
    f"POST {ADMIN}/sales/{{saleId}}/end": OPERATORS,
    f"POST {ADMIN}/sales/{{saleId}}/products/{{skuId}}/restock": OPERATORS,
    f"GET {ADMIN}/sales/{{saleId}}/ledger": OPERATORS,
    f"GET {ADMIN}/sales/{{saleId}}/journal": OPERATORS,
    f"GET {ADMIN}/sales/{{saleId}}/stats": ANALYSTS,
    f"GET {ADMIN}/events": OPERATORS,
    f"GET {ADMIN}/audit": OPERATORS,
    f"GET {ADMIN}/dead-letters": OPERATORS,
    f"POST {ADMIN}/dead-letters/redrive": OPERATORS,
    f"POST {ADMIN}/dead-letters/{{letterId}}/redrive": OPERATORS,
    f"GET {ADMIN}/limits": OPERATORS,
    f"PUT {ADMIN}/limits": OPERATORS,
    f"GET {ADMIN}/limits/users/{{userId}}": OPERATORS,
    f"DELETE {ADMIN}/limits/users/{{userId}}": OPERATORS,
    f"PUT {ADMIN}/users/{{userId}}/tier": OPERATORS,
    f"GET {ADMIN}/risk/decisions": OPERATORS,
    f"GET {V1}/challenge": PUBLIC,
    "GET /challenge": PUBLIC,
    "GET /challenge/{file}": PUBLIC,
    "GET /health": PUBLIC,
    "GET /health/live": PUBLIC,
    "GET /health/ready": PUBLIC,
    "GET /metrics": PUBLIC,
    "GET /api/openapi.json": PUBLIC,
    "GET /api/docs": PUBLIC,
    "GET /api/docs/{file}": PUBLIC,
}
"""What the interface promises, written down by hand: it is not read from what is tested."""

_numbers = count(1)


class Person(NamedTuple):
    """Somebody who asks for alice's things."""

    name: str
    roles: tuple[str, ...] = ()
    token: bool = False
    """Whether he has the operators' token."""


ALICE, BOB, NOBODY, ADMINISTRATOR = Person("alice"), Person("bob"), Person(""), Person("", token=True)
PEOPLE = {
    "jwt": [
        ALICE, BOB, NOBODY, ADMINISTRATOR, Person("ann", ("analyst",)), Person("fred", ("fulfilment",)),
        Person("olga", ("operator",)), Person("carl", ("admin", "OPERATOR", "root")),
    ],
    "gateway": [ALICE, BOB, NOBODY, ADMINISTRATOR],
}  # fmt: skip


def headers(identity: str, person: Person, user: str) -> dict[str, str]:
    """`user` is what alice is called this time."""
    if person.token:
        return OPERATOR
    name = user if person is ALICE else person.name
    if not name:
        return {}
    if identity == "gateway":
        return {"X-User-ID": name}
    return {"Authorization": f"Bearer {signed(claims(name, int(time.time()) + 600, roles=list(person.roles)))}"}


def promised(who_may: str, person: Person) -> set[int]:
    """The status of a refusal; empty: he is not refused."""
    operator = person.token or "operator" in person.roles
    if who_may is PUBLIC or operator or (who_may is ANALYSTS and "analyst" in person.roles):
        return set()
    if not person.name:
        return {401}
    if who_may is OWN:
        return set() if person is ALICE else {404}
    return {403}


@pytest.fixture(params=["jwt", "gateway"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    settings: dict[str, Any] = {"jwt": JWT, "gateway": GATEWAY}[request.param]
    async with opened(tmp_path, sandbox_url, **settings) as shop:
        await shop.open(product(stock=10_000))
        room = {"enabled": True, "admitPerSecond": 1, "burst": 1, "maxActive": 1, "maxWaiting": 1000, "passSeconds": 60,
                "prequeueSeconds": 0}  # fmt: skip
        waited = await shop.operate("POST", "sales", sale(product("ROOM"), id="S2", waitingRoom=room))
        assert waited.status_code == 201, waited.text
        await shop.operate("POST", "sales", sale(product("DESK"), id="S3"))
        yield shop


class Things:
    """What a user of his own name has, and what he asks about it."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.user = f"alice-{next(_numbers)}"
        self.named: dict[str, str] = {}

    async def made(self) -> "Things":
        """By an operator, in his name."""
        held = await self._operator("reservations", {"skuId": "PHONE", "userId": self.user})
        ticket = await self._operator("sales/S2/queue", {"userId": self.user})
        self.named = {
            "skuId": "PHONE", "userId": self.user, "reservationId": held["reservationId"],
            "ticket": ticket["ticket"], "letterId": "none", "file": "docs.js",
        }  # fmt: skip
        return self

    async def pay(self) -> None:
        pay = {"reservationId": self.named["reservationId"], "paymentTransactionId": transaction()}
        self.named["orderId"] = (await self._operator("orders/checkout", pay))["orderId"]

    async def _operator(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = await self.shop.ask("POST", path, body, headers=OPERATOR)
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def body(self, call: Call) -> dict[str, Any] | None:
        name = f"{self.user}:new"
        wishes: dict[str, dict[str, Any]] = {
            "/reservations": {"skuId": "PHONE", "userId": name},
            "/reservations/cart": {"items": [{"skuId": "PHONE"}], "userId": name},
            "/orders/checkout": {
                "reservationId": self.named["reservationId"], "paymentTransactionId": transaction(),
                "userId": self.user,
            },
            "/sales/{saleId}/queue": {"userId": name},
        }  # fmt: skip
        return wishes[call.path.removeprefix(V1)] if call.body is not None and call.private else None

    def user_of(self, call: Call) -> str:
        """Whom the request is about."""
        body = self.body(call) or {}
        return str(body.get("userId", self.user))


async def asked(shop: Shop, call: Call, person: Person, things: Things) -> httpx.Response:
    named = things.named | {"saleId": _sale_of(call)}
    identity = shop.engine.settings.identity
    return await shop.ask(
        call.method, call.path.format(**named), things.body(call),
        headers=headers(identity, person, things.user_of(call)),
    )  # fmt: skip


def _sale_of(call: Call) -> str:
    """Operators have one for themselves, because they end it."""
    if call.path.startswith(ADMIN):
        return "S3"
    return "S2" if "queue" in call.path or "draw" in call.path else "S1"


async def furnished(shop: Shop, call: Call) -> Things:
    things = await Things(shop).made()
    if "orderId" in call.path or call.path.startswith(f"{V1}/orders/reservation"):
        await things.pay()
    return things


def calls_of(shop: Shop) -> list[Call]:
    calls: list[Call] = shop.app.opt["calls"]
    return calls


async def test_every_route_has_an_expectation_and_every_expectation_a_route(shop: Shop) -> None:
    assert {f"{call.method} {call.path}" for call in calls_of(shop)} == WHO_MAY.keys()


async def test_everybody_gets_of_every_route_what_is_promised(shop: Shop) -> None:
    wrong, tried = [], 0
    for call in calls_of(shop):
        who_may = WHO_MAY[f"{call.method} {call.path}"]
        if call.path.endswith("/events") and who_may is OWN:
            continue  # a stream does not end by itself: below
        for person in PEOPLE[shop.engine.settings.identity]:
            answer = await asked(shop, call, person, await furnished(shop, call))
            refused, tried = promised(who_may, person), tried + 1
            if not _as_promised(answer.status_code, refused, who_may):
                wrong.append((call.method, call.path, person, answer.status_code, answer.text[:200]))
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
    assert wrong == []
    assert tried == (len(WHO_MAY) - 1) * len(PEOPLE[shop.engine.settings.identity])


def _as_promised(status: int, refused: set[int], who_may: str) -> bool:
    if refused:
        return status in refused
    if who_may is OWN:
        return status < 300
    return status not in (401, 403) and status < 500


async def test_a_stream_is_its_owners(shop: Shop) -> None:
    [call] = [call for call in calls_of(shop) if call.path.endswith("{ticket}/events")]
    for person in PEOPLE[shop.engine.settings.identity]:
        if refused := promised(OWN, person):
            answer = await asked(shop, call, person, await furnished(shop, call))
            assert answer.status_code in refused, person


async def test_whoever_is_refused_has_changed_nothing(shop: Shop) -> None:
    for call in calls_of(shop):
        who_may = WHO_MAY[f"{call.method} {call.path}"]
        if call.method == "GET":
            continue
        things = await furnished(shop, call)
        before = await _books(shop)
        for person in PEOPLE[shop.engine.settings.identity]:
            if promised(who_may, person):
                await asked(shop, call, person, things)
        assert await _books(shop) == before, (call.method, call.path)


async def _books(shop: Shop) -> list[object]:
    paths = ("sales", "sales/S1/ledger", "sales/S2/ledger", "sales/S3/ledger", "sales/S1/journal", "dead-letters")
    told = [(await shop.operate("GET", path)).json() for path in paths]
    for each in told[0]:
        each.pop("serverTime", None)
    return [*told, len(await shop.engine.find(AuditPage()))]


async def test_the_document_says_who_may(shop: Shop) -> None:
    """Security, 401 and 403 of the document are those of the promise."""
    paths = (await shop.ask("GET", "/api/openapi.json")).json()["paths"]
    jwt = shop.engine.settings.identity == "jwt"
    own, operators = [{"user": []}, {"operator": []}], [{"operator": []}]
    security = {
        PUBLIC: None, OWN: own, OPERATORS: [*operators, {"user": ["operator"]}] if jwt else operators,
        ANALYSTS: [*operators, {"user": ["analyst"]}, {"user": ["operator"]}] if jwt else operators,
    }  # fmt: skip
    shown = 0
    for path, operations in paths.items():
        for method, operation in operations.items():
            who_may, shown = WHO_MAY[f"{method.upper()} {path}"], shown + 1
            assert operation.get("security") == security[who_may], (method, path)
            assert ("401" in operation["responses"]) is (who_may is not PUBLIC)
            denied = "ACCESS_DENIED" in operation["responses"].get("403", {"description": ""})["description"]
            assert denied is (who_may in (OPERATORS, ANALYSTS))
    assert shown > 30


def test_an_operators_route_that_names_no_role_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="who of the operators may"):
        Call("GET", "/x", Audience.OPERATORS, "", None, {})  # type: ignore[arg-type]


async def test_an_app_without_a_token_cannot_be_made(shop: Shop) -> None:
    with pytest.raises(ValueError, match="token must not be empty"):
        create_app(shop.engine, "")
