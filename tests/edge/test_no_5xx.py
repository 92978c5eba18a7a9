"""Nothing that a client can send makes the server fail, whoever it is: thousands of strange requests say so.

The requests are those of `strange_requests.py`, over real connections. What must not happen is a 5xx other than a 503
that the document promises, and no answer at all. With FLASHSALE_SOAK=1 each operation gets 10,000 inputs with each
identity (`scripts/soak`), else as many as fit in a quarter of a minute.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import schemathesis
import uvloop
from edge.lanes import Client
from edge.shop import OPERATOR, Shop, product, sale, served
from edge.strange_requests import Changes, Strange, generated
from edge.test_who_is_asking import GATEWAY, JWT, token

SOAK = os.environ.get("FLASHSALE_SOAK") == "1"
DRAWN, CHANGED = (1000, 9) if SOAK else (14, 6)
"""Of each operation, and of each of those."""
SEED = int(os.environ.get("FLASHSALE_SEED") or 20_260_115)
HELD_SECONDS = 0.05
"""Who holds the line is let go."""
IDENTITIES: dict[str, dict[str, Any]] = {"open": {}, "gateway": GATEWAY, "jwt": JWT}
ALICE = {"open": {"X-User-ID": "alice"}, "gateway": {"X-User-ID": "alice"}}
ROOM = {"enabled": True, "admitPerSecond": 1000, "burst": 1000, "passSeconds": 86_400}
LAST = ("limits", "tier", "/end", "/pause", "delete")
"""Operations that take something from those after them come at the end."""


class Asker:
    """A client with one connection to one shop."""

    def __init__(self, identity: str, shop: Shop, known: dict[str, str]) -> None:
        self.identity, self.shop, self.known = identity, shop, known
        self._client: Client | None = None
        self._dice = random.Random(SEED)
        self.statuses: Counter[int] = Counter()

    async def ask(self, request: Strange) -> str | None:
        """What is wrong with the answer."""
        data = self._bytes(request)
        client = self._client or Client(*await asyncio.open_connection("127.0.0.1", self.shop.client.base_url.port))
        self._client = None
        client.send(data)
        try:
            async with asyncio.timeout(HELD_SECONDS if self._may_hold(request) else 5):
                got = await client.get()
                while got.status == 100:
                    got = await client.get()
        except TimeoutError:
            client.vanish()
            return None if self._may_hold(request) else f"no answer in time: {data!r}"
        except (asyncio.IncompleteReadError, ConnectionError):
            client.vanish()
            return f"no answer: {data!r}"
        self.statuses[got.status] += 1
        if got.header("connection") == "close" or got.header("transfer-encoding"):
            client.vanish()
        else:
            self._client = client
        promised = got.status == 503 and got.header("retry-after") and got.json["code"] == "UNAVAILABLE"
        return f"{got.status}: {data!r}: {got.body!r}" if got.status >= 500 and not promised else None

    def hang_up(self) -> None:
        """The next request has a connection of its own."""
        if self._client is not None:
            self._client.vanish()
            self._client = None

    def _may_hold(self, request: Strange) -> bool:
        return "wait=" in request.target or "/events" in request.target or "Prefer" in dict(request.headers)

    def _bytes(self, request: Strange) -> bytes:
        target, body = request.target, request.body
        for name, value in self.known.items():
            target, body = (
                target.replace(f"known-{name}", value),
                body.replace(f"known-{name}".encode(), value.encode()),
            )
        headers = [*request.headers, *self._who(target)]
        if body or request.method in ("POST", "PUT"):
            headers.append(("Content-Length", str(len(body))))
        lines = [f"{request.method} {target} HTTP/1.1", "Host: shop", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _who(self, target: str) -> list[tuple[str, str]]:
        if self._dice.random() < 0.1:
            return []
        if "/admin/" in target:
            return [*OPERATOR.items()]
        return [*(ALICE.get(self.identity) or token("alice")).items()]


async def furnished(identity: str, shop: Shop) -> Asker:
    """A sale with a reservation and an order, another one with a waiting room and somebody who has been let in."""
    who = ALICE.get(identity) or token("alice")
    await shop.open(product(stock=10**6, perUserLimit=10**4))
    room = sale(product("TICKET", stock=1000), id="S2", waitingRoom=ROOM)
    assert (await shop.operate("POST", "sales", room)).status_code == 201
    reserved = [(await shop.ask("POST", "reservations", {"skuId": "PHONE"}, headers=who)).json() for _ in range(2)]
    pay = {"reservationId": reserved[0]["reservationId"], "paymentTransactionId": f"pay_{identity}"}
    order = await shop.ask("POST", "orders/checkout", pay, headers=who)
    assert order.status_code == 201, order.text
    ticket = (await shop.ask("POST", "sales/S2/queue", headers=who)).json()["ticket"]
    known = {"reservationId": reserved[1]["reservationId"], "orderId": order.json()["orderId"], "ticket": ticket}
    return Asker(identity, shop, known)


@asynccontextmanager
async def askers(folder: Path, sandbox_url: str) -> AsyncIterator[list[Asker]]:
    async with AsyncExitStack() as stack:
        found = []
        for identity, settings in IDENTITIES.items():
            shop = await stack.enter_async_context(served(folder / identity, sandbox_url, "on", **settings))
            found.append(await furnished(identity, shop))
        yield found


def inputs(operation: schemathesis.schemas.APIOperation) -> list[Strange]:
    names = {"saleId": "S2" if "queue" in operation.path else "S1", "skuId": "PHONE", "userId": "alice"}
    known = names | {name: f"known-{name}" for name in ("reservationId", "orderId", "ticket")}
    drawn = generated(operation, DRAWN, known, SEED)
    changes = Changes(SEED)
    each_changed = max(CHANGED, DRAWN * (CHANGED + 1) // max(1, len(drawn)) - 1)
    return [each for request in drawn for each in (request, *changes.of(request, each_changed))]


async def faults(folder: Path, sandbox_url: str) -> tuple[list[str], Counter[int], int]:
    found: list[str] = []
    async with askers(folder, sandbox_url) as all_of_them:
        document = (await all_of_them[0].shop.ask("GET", "/api/openapi.json")).json()
        operations = [each.ok() for each in schemathesis.openapi.from_dict(document).get_all_operations()]
        operations.sort(key=lambda each: any(word in f"{each.path} {each.method}" for word in LAST))
        fewest = 10**9
        for operation in operations:
            requests = await asyncio.to_thread(inputs, operation)
            fewest = min(fewest, len(requests))
            for asker in all_of_them:
                found += [fault for request in requests if (fault := await asker.ask(request)) is not None]
            for asker in all_of_them:
                asker.hang_up()
        return found, sum((each.statuses for each in all_of_them), Counter()), fewest


def test_no_input_makes_the_server_fail(tmp_path: Path, sandbox_url: str) -> None:
    began = time.monotonic()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found, statuses, fewest = runner.run(faults(tmp_path, sandbox_url))
    print(f"{statuses.total()} answers in {time.monotonic() - began:.0f} s, {fewest} for each operation: {statuses}")
    assert found == [], f"{len(found)}: {found[:10]}"
    assert fewest >= (10_000 if SOAK else 50)
    assert {200, 201, 204, 400, 401, 404, 405, 409} <= statuses.keys()
    assert statuses[503] < 0.01 * statuses.total()
