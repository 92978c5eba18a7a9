"""The shop as tests visit it: buyers and an operator who ask the ordinary app over ASGI, without a socket."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from edge.lanes import until
from litestar import Litestar

from flashsale.backends.sqlite.history import SqliteHistory
from flashsale.backends.sqlite.leases import SqliteLeases
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.edge.app import create_app
from flashsale.edge.server import HttpServer
from flashsale.engine import Engine
from flashsale.settings import Settings

TOKEN = "the-operators-token"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
LONG_AGO = "2020-01-01T00:00:00Z"
TOMORROW = "2999-01-01T00:00:00Z"
API = "/api/v1"
ADMIN = "/api/v1/admin"

_numbers = count(1)


def product(sku: str = "PHONE", **more: Any) -> dict[str, Any]:
    return {"skuId": sku, "name": "A phone", "basePrice": 1299.99, "flashSalePrice": 999.99, "stock": 10} | more


def sale(*products: dict[str, Any], **terms: Any) -> dict[str, Any]:
    """The body of a sale that is on; None leaves a term out."""
    body = {"id": "S1", "name": "A sale", "startsAt": LONG_AGO, "products": list(products) or [product()]} | terms
    return {name: value for name, value in body.items() if value is not None}


def transaction(prefix: str = "pay") -> str:
    """A transaction id that nobody has used."""
    return f"{prefix}_{id(_numbers):x}_{next(_numbers)}"


def said(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, after a look at the whole error object."""
    error = answer.json()
    assert list(error) == ["timestamp", "status", "error", "code", "message", "path", "details"]
    assert error["status"] == answer.status_code
    assert answer.headers["content-type"] == "application/json"
    assert error["path"] == answer.request.url.raw_path.partition(b"?")[0].decode()
    return answer.status_code, error["code"]


def faults(answer: httpx.Response) -> dict[str, str]:
    """The fields that a VALIDATION_FAILED names, with its words."""
    assert said(answer) == (400, "VALIDATION_FAILED")
    return {each["field"]: each["message"] for each in answer.json()["details"]["errors"]}


class Shop:
    def __init__(self, engine: Engine, app: Litestar, client: httpx.AsyncClient) -> None:
        self.engine = engine
        self.app = app
        self.client = client

    @property
    def history(self) -> SqliteHistory:
        """What was told in this shop, to be forgotten."""
        assert isinstance(self.engine.ledger, SqliteLedger)
        return SqliteHistory(self.engine.ledger.move)

    @property
    def leases(self) -> SqliteLeases:
        assert isinstance(self.engine.ledger, SqliteLedger)
        return SqliteLeases(self.engine.ledger.move)

    async def ask(self, method: str, path: str, json: Any = None, **more: Any) -> httpx.Response:
        """A buyer's request below /api/v1; `json` may be bytes, sent as they are."""
        content = {"content": json} if isinstance(json, bytes) else {"json": json} if json is not None else {}
        return await self.client.request(method, path if path.startswith("/") else f"{API}/{path}", **content, **more)

    async def operate(self, method: str, path: str, json: Any = None, **headers: str) -> httpx.Response:
        """An operator's request below /api/v1/admin."""
        return await self.ask(method, f"{ADMIN}/{path}", json, headers=OPERATOR | headers)

    async def open(self, *products: dict[str, Any], **terms: Any) -> dict[str, Any]:
        """Opens a sale and gives back what the operator was told."""
        answer = await self.operate("POST", "sales", sale(*products, **terms))
        assert answer.status_code == 201, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def reserve(self, user: str = "alice", sku: str = "PHONE", **more: Any) -> httpx.Response:
        return await self.ask("POST", "reservations", {"skuId": sku, "userId": user} | more)

    async def held(self, user: str = "alice", sku: str = "PHONE", **more: Any) -> str:
        """The id of a new reservation."""
        answer = await self.reserve(user, sku, **more)
        assert answer.status_code == 201, answer.text
        reservation_id: str = answer.json()["reservationId"]
        return reservation_id

    async def checkout(self, *reservations: str, pay: str | None = None, **more: Any) -> httpx.Response:
        named = {"reservationId": reservations[0]} if len(reservations) == 1 else {"reservationIds": [*reservations]}
        return await self.ask("POST", "orders/checkout", named | {"paymentTransactionId": pay or transaction()} | more)

    async def paid(self, user: str = "alice", **more: Any) -> dict[str, Any]:
        """An order that is paid."""
        answer = await self.checkout(await self.held(user), **more)
        assert answer.status_code == 201, answer.text
        order: dict[str, Any] = answer.json()
        return order

    async def counters(self) -> dict[str, int]:
        """What the ledger says of the only product of sale S1."""
        told = (await self.operate("GET", "sales/S1/ledger")).json()
        assert told["consistent"] is True
        [counters] = told["products"]
        return {name: counters[name] for name in ("total", "available", "held", "sold")}


@asynccontextmanager
async def opened(folder: Path, sandbox_url: str, **settings: Any) -> AsyncIterator[Shop]:
    async with Engine.open(Settings(data=str(folder / "data"), sandbox_url=sandbox_url, **settings)) as engine:
        app = create_app(engine, TOKEN)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            yield Shop(engine, app, client)


@asynccontextmanager
async def served(folder: Path, sandbox_url: str, lane: str, **settings: Any) -> AsyncIterator[Shop]:
    """A shop that is asked over a socket."""
    wanted = Settings(data=str(folder), sandbox_url=sandbox_url, fast_lane=lane, **settings)  # type: ignore[arg-type]
    async with Engine.open(wanted) as engine:
        app = create_app(engine, TOKEN)
        server = HttpServer(engine, app, "127.0.0.1", 0)
        task = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
            try:
                yield Shop(engine, app, client)
            finally:
                server.should_exit = True
                await task
