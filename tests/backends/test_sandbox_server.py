"""The sandbox provider as an auditor, a careless caller and an operator meet it."""

import asyncio
import signal
import socket
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.till import Sandbox, Till

from flashsale.backends.sandbox import SandboxProvider
from flashsale.ports import ProviderUnavailable

AUTHORISE = {"transactionId": "pay_1", "amountMinor": 500, "currency": "EUR", "key": "key_1"}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox") / "books.db") as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[tuple[Sandbox, Till]]:
    with Sandbox(tmp_path / "books.db") as running, running.till() as till:
        yield running, till


# -- The books


def test_the_books_show_every_transaction_and_what_was_moved_in_each_currency(fresh: tuple[Sandbox, Till]) -> None:
    sandbox, till = fresh
    till.authorise("pay_declined_1", 70)
    till.authorise("pay_dollars", 900, "USD")
    till.void(till.held(300))
    till.refund(till.captured(500), 120)
    books = sandbox.http.get("/books").json()
    assert books["totals"] == {
        "EUR": totals(authorised=800, declined=70, captured=500, voided=300, refunded=120),
        "USD": totals(authorised=900),
    }
    shown = [(it["status"], it["amountMinor"], it["refundedMinor"]) for it in books["transactions"]]
    assert shown == [("FAILED", 70, 0), ("AUTHORIZED", 900, 0), ("VOIDED", 300, 0), ("CAPTURED", 500, 120)]


def totals(**moved: int) -> dict[str, int]:
    kinds = ("authorised", "declined", "captured", "voided", "refunded")
    return {f"{kind}Minor": moved.get(kind, 0) for kind in kinds}


def test_every_movement_is_an_entry_with_its_key(fresh: tuple[Sandbox, Till]) -> None:
    sandbox, till = fresh
    till.authorise("pay_1", 500, key="a")
    till.capture("pay_1", 500, "b")
    till.capture("pay_1", 500, "moves nothing")
    till.refund("pay_1", 20, "c")
    entries = sandbox.http.get("/entries").json()["entries"]
    moved = [(it["kind"], it["amountMinor"], it["key"]) for it in entries]
    assert moved == [("authorise", 500, "a"), ("capture", 500, "b"), ("refund", 20, "c")]


def test_a_transaction_made_beforehand_has_entries_for_what_it_went_through(fresh: tuple[Sandbox, Till]) -> None:
    sandbox, _ = fresh
    assert sandbox.create("pay_1", 500, status="CAPTURED").status_code == 200
    assert sandbox.create("pay_1", 500, status="CAPTURED").status_code == 200
    assert sandbox.create("pay_1", 501, status="CAPTURED").status_code == 422
    entries = sandbox.http.get("/entries").json()["entries"]
    assert [it["kind"] for it in entries] == ["authorise", "capture"]


@pytest.mark.parametrize(("path", "items"), [("books", "transactions"), ("entries", "entries")])
def test_the_books_are_read_page_by_page(fresh: tuple[Sandbox, Till], path: str, items: str) -> None:
    sandbox, till = fresh
    for number in range(5):
        till.held(500, f"pay_{number}")
    seen, after = [], 0
    while after is not None:
        page = sandbox.http.get(f"/{path}", params={"after": after, "limit": 2}).json()
        seen += [it["transactionId"] for it in page[items]]
        after = page["next"]
    assert seen == [f"pay_{number}" for number in range(5)]


def test_entries_cannot_be_changed_or_removed(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as sandbox, sandbox.till() as till:
        till.held(500)
    file = sqlite3.connect(tmp_path / "books.db")
    for forgery in ("UPDATE entry SET amount_minor = 1", "DELETE FROM entry"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            file.execute(forgery)
    file.close()


# -- Limits


@pytest.mark.parametrize(
    "wrong",
    [
        {"transactionId": "pay 1"},
        {"transactionId": "x" * 129},
        {"transactionId": "pay_1\n"},
        {"amountMinor": -1},
        {"amountMinor": 1.5},
        {"amountMinor": "500"},
        {"amountMinor": 10**16},
        {"currency": "eur"},
        {"key": ""},
        {"key": "create\tpay_1"},
        {"key": None},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_malformed_call_is_refused_and_leaves_no_trace(sandbox: Sandbox, wrong: dict[str, object]) -> None:
    answer = sandbox.http.post("/authorise", json={**AUTHORISE, **wrong})
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED")
    assert sandbox.http.get("/transactions/pay_1").status_code == 404


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 16_000], ids=lambda it: repr(it[:5]))
def test_a_body_that_is_no_json_object_is_refused(sandbox: Sandbox, body: bytes) -> None:
    assert sandbox.http.post("/capture", content=body).status_code == 400


def test_a_body_has_at_most_16_kib(sandbox: Sandbox) -> None:
    assert sandbox.http.post("/void", content=b" " * 16_385).status_code == 413


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "after=-1", f"after={2**63}", "limit=many", "page=2"])
def test_a_page_of_the_books_is_bounded(sandbox: Sandbox, query: str) -> None:
    assert sandbox.http.get(f"/books?{query}").status_code == 400


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/books"), ("DELETE", "/transactions/pay_1")])
def test_there_is_nothing_else(sandbox: Sandbox, method: str, path: str) -> None:
    assert sandbox.http.request(method, path).status_code == 404


# -- The process


def test_two_providers_on_one_file_keep_one_set_of_books(tmp_path: Path) -> None:
    books = tmp_path / "books.db"
    with Sandbox(books) as one, Sandbox(books) as other, one.till() as till:
        transaction_id = till.captured(500)

        async def refunds_at_both() -> None:
            there = SandboxProvider(other.url)
            desks = [till.provider, there] * 10
            await asyncio.gather(*(desk.refund(transaction_id, 60, f"refund {i}") for i, desk in enumerate(desks)))
            await there.close()

        till.run(refunds_at_both())
        found = till.look_up(transaction_id)
    assert found is not None
    assert found.refunded_minor == 480


def test_a_call_waits_while_another_process_writes_the_books(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as sandbox, sandbox.till() as till:
        other = sqlite3.connect(tmp_path / "books.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        async def authorise_while_locked() -> str:
            asyncio.get_running_loop().call_later(0.2, other.execute, "COMMIT")
            return (await till.provider.authorise("pay_1", 500, "EUR", "key")).status.name

        assert till.run(authorise_while_locked()) == "AUTHORIZED"
        other.close()


def test_it_ends_rather_than_go_on_with_books_it_cannot_trust(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as sandbox, sandbox.till() as till:
        vandal = sqlite3.connect(tmp_path / "books.db")
        vandal.execute("DROP TABLE answer")
        vandal.close()
        with pytest.raises(ProviderUnavailable):
            till.held(500)
        assert sandbox.process.wait(5) == 1


def test_sigterm_ends_it_in_good_order(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as sandbox, sandbox.till() as till:
        till.held(500)
        sandbox.process.terminate()
        assert sandbox.process.wait(5) in (0, -signal.SIGTERM)


def test_a_port_in_use_is_said_in_the_first_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = Sandbox(tmp_path / "books.db", "--port", str(taken.getsockname()[1]))
    assert refused.first_line.startswith("sandbox cannot start: ")
    assert "Address already in use" in refused.first_line
    assert refused.process.wait() == 1
    refused.close()


def test_books_that_are_no_books_are_said_in_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "books.db").write_text("a diary, not a database\n" * 100)
    refused = Sandbox(tmp_path / "books.db")
    assert "file is not a database" in refused.first_line
    assert str(tmp_path / "books.db") in refused.first_line
    assert refused.process.wait() == 1
    refused.close()
