"""Health, the document, and the page that shows it."""

import re
from collections.abc import Iterator

import pytest
from edge.shop import Shop, said

from flashsale.edge.call import Call
from flashsale.ports import GateAway, LedgerUnavailable, ProviderUnavailable


async def test_a_living_process_says_so(shop: Shop) -> None:
    answer = await shop.ask("GET", "/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_healthy_server_tells_every_part(shop: Shop) -> None:
    for path, status in (("/health", "ok"), ("/health/ready", "ready")):
        answer = await shop.ask("GET", path)
        told = answer.json()
        assert (answer.status_code, told["status"]) == (200, status)
        assert {name: part["state"] for name, part in told["parts"].items()} == {
            "server": "ok", "ledger": "ok", "provider": "ok", "gate": "ok", "clock": "ok",
        }  # fmt: skip


async def test_a_draining_server_is_not_ready(shop: Shop) -> None:
    shop.app.state.draining = True
    answer = await shop.ask("GET", "/health/ready")
    assert (answer.status_code, answer.json()["parts"]["server"]["state"]) == (503, "draining")
    assert (await shop.ask("GET", "/health/live")).status_code == 200


async def test_a_server_without_its_ledger_is_not_ready(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unavailable(*_: object) -> None:
        raise LedgerUnavailable("the disk is full")

    monkeypatch.setattr(shop.engine.ledger, "find", unavailable)
    answer = await shop.ask("GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["parts"]["ledger"]["state"] == "the disk is full"


async def test_a_provider_that_is_away_is_told_but_takes_no_server_out(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ProviderUnavailable("no answer")

    monkeypatch.setattr("flashsale.backends.sandbox.SandboxProvider.look_up", away)
    answer = await shop.ask("GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["parts"]["provider"]["state"] == "no answer"


@pytest.mark.parametrize("trouble", [None, "redis://gate:6379: no answer"])
async def test_a_gate_that_is_away_is_told_but_takes_no_server_out(shop: Shop, trouble) -> None:
    """It is asked, so that its trouble is known before a buyer meets it."""
    shop.engine.gate = SilentGate(trouble)
    answer = await shop.ask("GET", "/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded" if trouble else "ready")
    assert answer.json()["parts"]["gate"] == {"state": trouble or "ok", "needed": False}


class SilentGate:
    def __init__(self, trouble: str | None) -> None:
        self.trouble = None
        self._found_when_asked = trouble

    async def settings(self) -> dict[str, str]:
        if self._found_when_asked:
            raise GateAway(self._found_when_asked)
        return {}


# The document


def calls(shop: Shop) -> Iterator[Call]:
    yield from shop.app.opt["calls"]


async def test_the_document_has_every_route_with_its_errors(shop: Shop) -> None:
    paths = (await shop.ask("GET", "/api/openapi.json")).json()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert documented == {(call.method, call.path) for call in calls(shop) if call.answers}
    assert {call.path for call in calls(shop)} - paths.keys() == {
        "/api/docs", "/api/docs/{file}", "/challenge", "/challenge/{file}", "/metrics",
    }  # fmt: skip
    reserve = paths["/api/v1/reservations"]["post"]
    assert {"201", "202", "400", "403", "404", "409", "413", "422", "429", "503"} == reserve["responses"].keys()
    assert "SOLD_OUT" in reserve["responses"]["409"]["description"]
    assert {param["name"] for param in reserve["parameters"]} == {
        "X-User-ID", "Idempotency-Key", "Prefer", "X-Flashsale-Device", "X-Flashsale-Challenge",
    }  # fmt: skip
    assert paths["/api/v1/admin/sales"]["get"]["security"] == [{"operator": []}]


async def test_names_of_operations_are_unique_and_references_lead_somewhere(shop: Shop) -> None:
    answer = await shop.ask("GET", "/api/openapi.json")
    document = answer.json()
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    referred = set(re.findall(r'"#/components/schemas/(\w+)"', answer.text))
    assert referred <= document["components"]["schemas"].keys()
    assert r"\Z" not in answer.text


async def test_the_page_loads_only_what_this_server_has(shop: Shop) -> None:
    page = await shop.ask("GET", "/api/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|href)="(/[^"]+)"', page.text)
    assert len(loaded) == 4
    assert "//" not in page.text.replace("<!doctype html>", "")
    for path in loaded:
        assert (await shop.ask("GET", path)).status_code == 200, path
    assert "SwaggerUIBundle" in (await shop.ask("GET", "/api/docs/docs.js")).text


@pytest.mark.parametrize("name", ["nothing.js", "..", "docs.html", "%2e%2e%2fdocs.html", "vendor"])
async def test_the_page_loads_nothing_else(shop: Shop, name: str) -> None:
    assert said(await shop.ask("GET", f"/api/docs/{name}")) == (404, "NOT_FOUND")
