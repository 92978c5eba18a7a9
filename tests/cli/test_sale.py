"""`flashsale sale ...`, at a server and at a ledger without one."""

import json
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from cli.program import NO_SANDBOX, Finished, Server, run

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"id": "small", "name": "Small", "products": [{"skuId": "S", "name": "S", "flashSalePrice": 1.5, "stock": 3}]}


def sale_file(directory: Path, **changes: object) -> Path:
    path = directory / "sale.json"
    path.write_text(json.dumps(SMALL | changes))
    return path


def one_product(**changes: object) -> list[dict[str, object]]:
    return [{**SMALL["products"][0], **changes}]


def ask(server: Server, cwd: Path, *arguments: object) -> Finished:
    return run("sale", *arguments, "--url", server.url, "--data", server.data, cwd=cwd)


@pytest.mark.parametrize("name", ["sale.toml", "sale.json"])
def test_a_sale_is_created_from_the_example(name, server, tmp_path):
    created = ask(server, tmp_path, "create", EXAMPLES / name, "--json")
    assert created.code == 0, created.said
    shown = json.loads(created.out)
    text = (EXAMPLES / name).read_text()
    wanted = tomllib.loads(text) if name.endswith("toml") else json.loads(text)
    assert shown["id"] == wanted["id"]
    assert shown["state"] == "SCHEDULED"
    assert [it["flashSalePrice"] for it in shown["products"]] == [it["flashSalePrice"] for it in wanted["products"]]
    assert [it["available"] for it in shown["products"]] == [it["stock"] for it in wanted["products"]]


def test_a_sale_goes_through_its_life(server, tmp_path):
    path = sale_file(tmp_path, id="life", products=one_product(skuId="LIFE"))
    assert "DRAFT" in ask(server, tmp_path, "create", path).said
    for command, state in {"start": "ACTIVE", "pause": "PAUSED", "resume": "ACTIVE", "end": "ENDED"}.items():
        switched = ask(server, tmp_path, command, "life", "--json")
        assert (switched.code, json.loads(switched.out)["state"]) == (0, state)
    refused = ask(server, tmp_path, "pause", "life")
    assert refused.code == 1
    assert "Sale life is ENDED: cannot pause" in refused.said


def test_what_is_there_is_listed_and_shown_with_prices_as_they_are_written(server, tmp_path):
    path = sale_file(tmp_path, id="listed", products=one_product(skuId="LISTED", flashSalePrice=19.5))
    ask(server, tmp_path, "create", path)
    assert "listed" in ask(server, tmp_path, "list").said
    shown = ask(server, tmp_path, "show", "listed")
    assert "LISTED" in shown.said
    assert "19.50" in shown.said
    figures = ask(server, tmp_path, "stats", "listed", "--json")
    assert json.loads(figures.out)["totalOrders"] == 0
    assert "totalOrders" in ask(server, tmp_path, "stats", "listed").said


def test_a_name_cannot_paint_the_terminal(server, tmp_path):
    path = sale_file(tmp_path, id="painted", name="[red]cheap[/red]", products=one_product(skuId="PAINTED"))
    assert "[red]cheap[/red]" in ask(server, tmp_path, "create", path).said


def test_wrong_fields_are_all_named_with_their_file_and_remedy(server, tmp_path):
    path = sale_file(tmp_path, endsAt="soon", settlement="manual", products=one_product(flashSalePrice=1.999))
    refused = ask(server, tmp_path, "create", path)
    assert refused.code == 2
    assert f"{path}: endsAt: must be a time with its offset" in refused.said
    assert f"{path}: settlement: manual is not available yet: use online or none" in refused.said
    assert f"{path}: products[0].flashSalePrice: has more than 2 decimals for USD" in refused.said
    assert "examples/sale.toml" in refused.said


def test_a_queued_sale_is_created(server, tmp_path):
    path = sale_file(tmp_path, id="queued", mode="queued", products=one_product(skuId="QUEUED"))
    created = ask(server, tmp_path, "create", path, "--json")
    assert (created.code, json.loads(created.out)["mode"]) == (0, "queued")


def test_a_field_that_does_not_exist_is_named(server, tmp_path):
    refused = ask(server, tmp_path, "create", sale_file(tmp_path, produkts=[]))
    assert refused.code == 2
    assert "sale.json: produkts: is not a known field" in refused.said


@pytest.mark.parametrize(("name", "text"), [("sale.toml", "name = x"), ("sale.json", '{"name": ')])
def test_a_file_that_cannot_be_read_as_what_it_is_says_where(name, text, tmp_path, alone):
    (tmp_path / name).write_text(text)
    refused = run("sale", "create", tmp_path / name, "--data", alone, cwd=tmp_path)
    assert refused.code == 2
    assert f"{tmp_path / name}: is not" in refused.said
    assert "line 1" in refused.said


def test_a_file_that_is_not_there_is_named(tmp_path, alone):
    refused = run("sale", "create", "nowhere.toml", "--data", alone, cwd=tmp_path)
    assert refused.code == 2
    assert "nowhere.toml: No such file or directory" in refused.said


def test_a_sale_that_exists_is_a_refusal_and_not_a_wrong_file(server, tmp_path):
    path = sale_file(tmp_path, id="twice", products=one_product(skuId="TWICE"))
    ask(server, tmp_path, "create", path)
    refused = ask(server, tmp_path, "create", path)
    assert refused.code == 1
    assert "Sale twice exists" in refused.said


def test_an_unknown_sale_is_not_found(server, tmp_path):
    refused = ask(server, tmp_path, "show", "nobody")
    assert refused.code == 1
    assert "No such saleId" in refused.said


def test_a_wrong_token_is_refused_with_where_a_right_one_comes_from(server, tmp_path):
    refused = run("sale", "list", "--url", server.url, "--token", "wrong", cwd=tmp_path)
    assert refused.code == 1
    assert "does not accept this token" in refused.said
    assert "FLASHSALE_ADMIN_TOKEN" in refused.said


def test_the_token_may_come_from_the_environment(server, tmp_path):
    token = (server.data / "admin-token").read_text()
    assert run("sale", "list", "--url", server.url, cwd=tmp_path, FLASHSALE_ADMIN_TOKEN=token).code == 0


def test_without_any_token_it_is_said_where_one_was_looked_for(server, tmp_path):
    refused = run("sale", "list", "--url", server.url, cwd=tmp_path)
    assert refused.code == 1
    assert "flashsale-data/admin-token" in refused.said


def test_the_server_of_a_data_directory_is_found_on_any_port(server, tmp_path):
    found = run("sale", "list", "--data", server.data, cwd=tmp_path)
    assert found.code == 0
    assert "using the ledger" not in found.err


def test_a_named_server_that_does_not_answer_is_not_replaced_by_the_ledger(tmp_path, alone):
    refused = run("sale", "list", "--url", "http://127.0.0.1:1", "--token", "t", "--data", alone, cwd=tmp_path)
    assert refused.code == 1
    assert "nothing answers at http://127.0.0.1:1" in refused.said
    assert "flashsale serve" in refused.said


def test_an_address_without_its_scheme_is_explained(tmp_path):
    refused = run("sale", "list", "--url", "localhost:8080", "--token", "t", cwd=tmp_path)
    assert refused.code == 2
    assert "http://localhost:8080" in refused.said


def test_what_is_not_flashsale_is_recognised(tmp_path):
    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Stranger) as stranger:
        Thread(target=stranger.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{stranger.server_port}"
        refused = run("sale", "list", "--url", url, "--token", "t", cwd=tmp_path)
    assert refused.code == 1
    assert "is not flashsale" in refused.said


def test_without_a_server_the_ledger_is_opened_and_answers_alike(tmp_path, alone):
    created = run("sale", "create", sale_file(tmp_path), "--data", alone, "--json", cwd=tmp_path)
    assert created.code == 0, created.said
    assert f"using the ledger {alone / 'ledger.db'} itself" in created.err
    assert json.loads(created.out)["state"] == "DRAFT"
    started = run("sale", "start", "small", "--data", alone, cwd=tmp_path)
    assert "ACTIVE" in started.said
    with Server(tmp_path, **NO_SANDBOX) as server:
        assert server.data == alone
        shown = ask(server, tmp_path, "show", "small", "--json")
        assert json.loads(shown.out)["products"] == json.loads(created.out)["products"]


def test_wrong_fields_are_named_without_a_server_too(tmp_path, alone):
    refused = run("sale", "create", sale_file(tmp_path, name=7), "--data", alone, cwd=tmp_path)
    assert refused.code == 2
    assert "sale.json: name: must be a string" in refused.said


def test_reading_makes_no_ledger_where_there_is_none(tmp_path, alone):
    refused = run("sale", "list", "--data", alone, cwd=tmp_path)
    assert refused.code == 1
    assert "there is no ledger" in refused.said
    assert "flashsale serve" in refused.said
    assert not (alone / "ledger.db").exists()


def test_a_ledger_in_use_by_a_server_elsewhere_is_left_alone(server, tmp_path):
    lost = server.data / "server-url"
    url = lost.read_text()
    lost.write_text("http://127.0.0.1:1\n")
    refused = run("sale", "list", "--data", server.data, cwd=tmp_path)
    lost.write_text(url)
    assert refused.code == 1
    assert f"in use by the process with pid {server.process.pid}" in refused.said
    assert "--url" in refused.said
