"""`flashsale` with a ledger in several databases, from `migrate` on."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from cli.program import NO_SANDBOX, Server, run
from servers.postgres import fresh_database

SALE = """
id = "{sku}s"
name = "{sku}s"
startsAt = "2025-01-01T00:00:00Z"

[[products]]
skuId = "{sku}"
name = "A {sku}"
currency = "EUR"
basePrice = 20
flashSalePrice = 10
stock = 5
"""


@pytest.fixture
def urls(request) -> list[str]:
    name = f"cli_shards_{abs(hash(request.node.name)) % 10**8}"
    return [asyncio.run(fresh_database(f"{name}_{number}")) for number in range(2)]


def findings(cwd: Path, ledger: str) -> dict[str, dict[str, str]]:
    told = run("doctor", "--json", cwd=cwd, FLASHSALE_LEDGER=ledger)
    return {finding["name"]: finding for finding in json.loads(told.out)["checks"]}


def test_migrate_makes_several_databases_one_ledger(tmp_path, urls):
    ledger = " ".join(urls)
    first = run("migrate", cwd=tmp_path, FLASHSALE_LEDGER=ledger)
    assert first.code == 0, first.said
    assert "applied 0001_ledger.sql (shard 0)" in first.said
    assert "applied 0001_ledger.sql (shard 1)" in first.said
    assert "joined as shard 1" in first.said
    again = run("migrate", "--json", cwd=tmp_path, FLASHSALE_LEDGER=ledger)
    assert json.loads(again.out)["applied"] == []
    refused = run("migrate", cwd=tmp_path, FLASHSALE_LEDGER=" ".join(reversed(urls)))
    assert refused.code == 1
    assert "URL 1 of FLASHSALE_LEDGER names the database that is shard 1 (URL 2), not shard 0" in refused.said


def test_doctor_looks_at_each_database_its_place_and_the_clocks(tmp_path, urls):
    ledger = " ".join(urls)
    assert findings(tmp_path, ledger)["schema 1"]["level"] == "warning"
    run("migrate", cwd=tmp_path, FLASHSALE_LEDGER=ledger)
    well = findings(tmp_path, ledger)
    for name in ("ledger 0", "schema 0", "ledger 1", "schema 1", "databases' clocks"):
        assert well[name]["level"] != "problem", well[name]
    wrong = findings(tmp_path, " ".join(reversed(urls)))
    for name in ("ledger 0", "ledger 1"):
        assert wrong[name]["level"] == "problem"
        assert "put the list back into its order" in wrong[name]["found"]
    nobody = urls[1].rpartition("@")[0] + "@127.0.0.1:1/shop"
    away = findings(tmp_path, f"{urls[0]} {nobody}")
    assert away["ledger 1"]["level"] == "problem"
    assert away["ledger 0"]["level"] != "problem"
    assert urls[1].partition("://")[2].partition("@")[0].partition(":")[2] not in json.dumps(away)


def test_serve_refuses_a_list_in_another_order(tmp_path, urls):
    run("migrate", cwd=tmp_path, FLASHSALE_LEDGER=" ".join(urls))
    refused = run("serve", cwd=tmp_path, FLASHSALE_LEDGER=" ".join(reversed(urls)), **NO_SANDBOX)
    assert refused.code == 1
    assert "put the list back into its order" in refused.said


def test_a_server_sells_from_all_databases(tmp_path, urls):
    ledger = " ".join(urls)
    run("migrate", cwd=tmp_path, FLASHSALE_LEDGER=ledger)
    with Server(tmp_path, FLASHSALE_LEDGER=ledger, **NO_SANDBOX) as server:
        for sku in ("lamp", "vase"):
            (tmp_path / f"{sku}.toml").write_text(SALE.format(sku=sku))
            made = run("sale", "create", f"{sku}.toml", "--url", server.url, "--data", server.data, cwd=tmp_path)
            assert made.code == 0, made.said
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            ids = {}
            for sku in ("lamp", "vase"):
                body = {"skuId": sku, "quantity": 1, "userId": "ann"}
                answer = client.post("/api/v1/reservations", json=body)
                assert answer.status_code == 201, answer.text
                ids[sku] = answer.json()["reservationId"]
            assert sorted("s01" in each[-3:] for each in ids.values()) == [False, True]
            active = client.get("/api/v1/reservations/user/ann/active").json()
            assert {each["reservationId"] for each in active} == set(ids.values())
            for each in ids.values():
                assert client.get(f"/api/v1/reservations/{each}").status_code == 200
                assert client.delete(f"/api/v1/reservations/{each}").status_code == 204
            health = client.get("/health").json()
            assert health["parts"]["ledger"]["state"] == "ok"
            client.headers["authorization"] = f"Bearer {(server.data / 'admin-token').read_text().strip()}"
            told = client.get("/api/v1/admin/events").json()
            assert sorted({event["key"] for event in told["events"]}) == ["lamp", "vase"]
            rest = client.get("/api/v1/admin/events", params={"after": told["next"]}).json()
            assert rest == {"events": [], "next": told["next"]}
            for after in ("x", "xyz", f"x1{32 * '0'}", str(2**63)):
                assert client.get("/api/v1/admin/events", params={"after": after}).status_code == 400
            assert len(client.get("/api/v1/admin/audit").json()["entries"]) == 2
