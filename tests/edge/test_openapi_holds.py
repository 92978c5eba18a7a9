"""The document holds: thousands of requests made from it, good and bad, against a real server.

Nothing they send causes a 5xx, and every answer is one that the document describes. Two kinds of examination are
left out, because JSON Schema cannot say the rule: identity may stand in the header or the body, and a price has
the decimals of its currency, so some requests of the right shape are rightly refused.
"""

import asyncio
import importlib
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import hypothesis
import pytest
import schemathesis
from edge.lanes import until
from edge.shop import ADMIN, API, OPERATOR, TOKEN, product, sale
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flashsale.edge.app import create_app
from flashsale.edge.server import HttpServer
from flashsale.engine import Engine
from flashsale.settings import Settings

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance, allow_header_conformance, negative_data_rejection,
]  # fmt: skip
EXAMPLES = 40


importlib.import_module("schemathesis.specs.openapi.schemas")
"""Now, and not when it is first needed: pytest parses it, which Python 3.11 cannot do in two threads at once."""


class Thread(threading.Thread):
    """A server on an event loop of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.ready = threading.Event()
        self.port = 0

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        async with Engine.open(self.settings) as engine:
            self.server = HttpServer(engine, create_app(engine, TOKEN), "127.0.0.1", 0)
            task = asyncio.create_task(self.server.serve())
            await until(lambda: self.server.started)
            self.port = self.server.port
            self.ready.set()
            await task

    def stop(self) -> None:
        self.server.should_exit = True
        self.join()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, sandbox_url: str) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("holds")
    thread = Thread(Settings(data=str(folder), sandbox_url=sandbox_url))
    thread.start()
    assert thread.ready.wait(10)
    yield f"http://127.0.0.1:{thread.port}"
    thread.stop()


def furnish(url: str) -> dict[str, str]:
    """A sale, a reservation and an order, so that not every id is unknown."""
    created = httpx.post(
        url + f"{ADMIN}/sales", json=sale(product(stock=10_000, perUserLimit=10_000)), headers=OPERATOR
    )
    assert created.status_code == 201
    reserved = httpx.post(url + f"{API}/reservations", json={"skuId": "PHONE", "userId": "alice"}).json()
    pay = {"reservationId": reserved["reservationId"], "paymentTransactionId": "pay_holds"}
    order = httpx.post(url + f"{API}/orders/checkout", json=pay).json()
    return {
        "saleId": "S1", "skuId": "PHONE", "userId": "alice",
        "reservationId": reserved["reservationId"], "orderId": order["orderId"],
    }  # fmt: skip


def test_every_answer_is_one_that_the_document_describes(url: str) -> None:
    known = furnish(url)
    schema = schemathesis.openapi.from_url(f"{url}/api/openapi.json")
    load_all_checks()
    asked = 0
    for found in schema.get_all_operations():
        asked += examine(found.ok(), known)
    assert asked > 1000


def examine(operation: schemathesis.schemas.APIOperation, known: dict[str, str]) -> int:
    """Asks one operation in many ways, right and wrong; half of the right ones are about things that exist."""
    right = operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
    asked = put(right, known)
    with suppress(hypothesis.errors.Unsatisfiable):  # nothing can be wrong with a request that takes nothing
        asked += put(wrong, {})
    return asked


def put(cases: hypothesis.strategies.SearchStrategy[schemathesis.Case], known: dict[str, str]) -> int:
    asked = 0

    @hypothesis.seed(20_260_115)
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=cases, real=hypothesis.strategies.booleans())
    def ask(case: schemathesis.Case, real: bool) -> None:
        nonlocal asked
        asked += 1
        if {*(case.query or {})} - {parameter.name for parameter in case.operation.query}:
            return  # a query may carry what is not for us: nobody is refused for that
        if real:
            case.path_parameters |= {name: known[name] for name in case.path_parameters if name in known}
        case.call_and_validate(checks=CHECKS, headers=OPERATOR)

    ask()
    return asked
