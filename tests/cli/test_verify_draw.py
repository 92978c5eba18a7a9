"""`flashsale verify-draw`: a draw is verified from files alone, by anybody, and whatever is wrong is said.

The files in `draws/` are a draw of twelve as it was published, with its receipts. They do not change: whoever has kept
such files must be able to verify them with any later version.
"""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cli.program import PATIENCE_SECONDS, Finished, run
from core.published import a_shop, changed, paged

from flashsale.core.draw import Published

GOLDEN = Path(__file__).parent / "draws"
DRAWN, CLOSED, OPEN = (GOLDEN / f"{name}.json" for name in ("drawn", "closed", "open"))
RECEIPTS = GOLDEN / "receipts.txt"


def verify(*arguments: object, cwd: Path) -> Finished:
    return run("verify-draw", *arguments, cwd=cwd)


def encoded(*pages: Published) -> list[str]:
    return [msgspec.json.encode(page).decode() for page in pages]


def saved(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# -- The draw in the files


def test_the_published_draw_is_proven_with_all_receipts_and_what_was_told_before(tmp_path):
    shown = verify(DRAWN, "--receipt", RECEIPTS, "--earlier", OPEN, "--earlier", CLOSED, cwd=tmp_path)
    assert shown.code == 0, shown.said
    assert "Proven: the order of all 12 is the one that was promised." in shown.said
    assert "Number 7 has place 5" in shown.said
    assert list(tmp_path.iterdir()) == [], "it asks nobody and writes nothing"


def test_a_script_reads_the_same(tmp_path):
    told = json.loads(verify(DRAWN, "--receipt", RECEIPTS, "--json", cwd=tmp_path).out)
    assert (told["saleId"], told["state"], told["entrants"], told["proven"]) == ("launch", "DRAWN", 12, True)
    assert [check["name"] for check in told["checks"][:5]] == ["pages", "entrants", "commitment", "root", "order"]
    order = json.loads(DRAWN.read_text())["order"]
    receipts = {check["number"]: check["place"] for check in told["checks"] if check["name"] == "receipt"}
    assert receipts == {number: place for place, number in enumerate(order, 1)} | {13: 13}


def test_what_is_published_today_is_what_is_in_the_files():
    shop = a_shop(12)
    for path, state in ((DRAWN, "DRAWN"), (CLOSED, "CLOSED"), (OPEN, "OPEN")):
        assert path.read_text() == encoded(shop.published(state))[0] + "\n"
    assert RECEIPTS.read_text().split() == [*shop.receipts(), shop.receipt(13, "line")]


def test_one_receipt_may_be_given_as_it_is(tmp_path):
    shown = verify(DRAWN, "--receipt", RECEIPTS.read_text().split()[2], cwd=tmp_path)
    assert shown.code == 0
    assert "Number 3 has place" in shown.said


@pytest.mark.parametrize(
    "how",
    [
        lambda pages: "\n".join(encoded(*pages)),
        lambda pages: "".join(encoded(*pages)),
        lambda pages: "[" + ",".join(encoded(*pages)) + "]",
        lambda pages: "\n\n".join(json.dumps(json.loads(each), indent=2) for each in encoded(*pages)),
    ],
    ids=["lines", "run together", "a list", "printed"],
)
def test_pages_may_be_kept_one_after_the_other(tmp_path, how):
    file = saved(tmp_path / "draw.json", how(paged(a_shop(12).published(), 5)))
    shown = verify(file, "--receipt", RECEIPTS, cwd=tmp_path)
    assert shown.code == 0, shown.said


# -- What is wrong is said, with exit code 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": "00" * 32}, "The seed is not the one that was committed to: it was changed"),
        ({"hashes": ["ab" * 32] * 12}, "The entrants are not those of the close"),
        ({"hashes": []}, "12 are said to take part, and there are 0 hashes: somebody was added or left out"),
        ({"order": [*range(1, 13)]}, "Place 1 belongs to number"),
        ({"next": 12}, "The last page is missing"),
    ],
)
def test_a_document_that_does_not_fit_together(tmp_path, change, said):
    file = saved(tmp_path / "draw.json", encoded(changed(a_shop(12).published(), **change))[0])
    shown = verify(file, cwd=tmp_path)
    assert shown.code == 1
    assert said in shown.said
    assert "Not proven: " in shown.said


def test_a_document_that_was_made_anew_without_one_of_them(tmp_path):
    shop = a_shop(12)
    other = shop.replace(tickets=shop.tickets[:6] + shop.tickets[7:])
    file = saved(tmp_path / "draw.json", encoded(other.published())[0])
    assert verify(file, cwd=tmp_path).code == 0
    for proof in (("--receipt", RECEIPTS), ("--earlier", CLOSED)):
        assert verify(file, *proof, cwd=tmp_path).code == 1
    assert "Number 7: the ticket is not among the entrants: it was left out" in (
        verify(file, "--receipt", RECEIPTS, cwd=tmp_path).said
    )


@pytest.mark.parametrize("path", [OPEN, CLOSED], ids=["open", "closed"])
def test_a_draw_that_is_not_over_is_not_proven_and_nothing_speaks_against_it(tmp_path, path):
    shown = verify(path, "--receipt", RECEIPTS, cwd=tmp_path)
    assert shown.code == 1
    assert "Nothing speaks against it so far." in shown.said
    assert json.loads(verify(path, "--json", cwd=tmp_path).out)["proven"] is False


# -- A file that cannot be read, with exit code 2


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[1]", '{"saleId":1}', "null", "[" * 100_000, "{}\n{}", '{"a":"' + "\\" * 9, "é" * 9, "\ud800"],
)
def test_a_file_that_is_no_draw(tmp_path, text):
    file = tmp_path / "draw.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    refused = verify(file, cwd=tmp_path)
    assert refused.code == 2
    assert "draw.json: is " in refused.err


@pytest.mark.parametrize(
    "change",
    [{"order": [0]}, {"hashes": ["AB" * 32]}, {"root": "ab" * 32 + "\n"}, {"saleId": "\x1b[31m"}, {"state": "OVER"}],
)
def test_a_field_that_is_none_is_named(tmp_path, change):
    told = json.loads(DRAWN.read_text()) | change
    refused = verify(saved(tmp_path / "draw.json", json.dumps(told)), cwd=tmp_path)
    assert refused.code == 2
    assert f"$.{next(iter(change))}" in refused.err


def test_files_that_are_not_there_or_empty_are_named(tmp_path):
    saved(tmp_path / "empty.txt", "\n")
    for arguments in (["none.json"], [DRAWN, "--earlier", "none.json"], [DRAWN, "--receipt", "none.json"]):
        refused = verify(*arguments, cwd=tmp_path)
        assert refused.code == 2
        assert "none.json: No such file or directory" in refused.err
    refused = verify(DRAWN, "--receipt", "empty.txt", cwd=tmp_path)
    assert refused.code == 2
    assert "empty.txt: holds no receipt" in refused.err


# -- The draw of a server


def fetched(url: str, **query: object) -> dict[str, Any]:
    answer = httpx.get(url, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_server_s_draw_is_proven_with_the_receipts_that_it_gave(server, tmp_path):
    starts_at = datetime.now(UTC) + timedelta(seconds=60)
    product = {"skuId": "DRAWN", "name": "Drawn", "flashSalePrice": 1, "stock": 3}
    room = {"enabled": True, "prequeueSeconds": 60}
    sale = {"id": "drawn", "name": "Drawn", "startsAt": starts_at.isoformat(), "waitingRoom": room}
    file = saved(tmp_path / "sale.json", json.dumps(sale | {"products": [product]}))
    created = run("sale", "create", file, "--url", server.url, "--data", server.data, cwd=tmp_path)
    assert created.code == 0, created.said
    joins = [httpx.post(f"{server.url}/api/v1/sales/drawn/queue", json={"userId": f"u{each}"}) for each in range(20)]
    receipts = saved(tmp_path / "receipts.txt", "\n".join(join.json()["receipt"] for join in joins))
    url = f"{server.url}/api/v1/sales/drawn/draw"
    earlier = saved(tmp_path / "open.json", json.dumps(fetched(url)))
    assert verify(earlier, "--receipt", receipts, cwd=tmp_path).code == 1
    started = run("sale", "start", "drawn", "--url", server.url, "--data", server.data, cwd=tmp_path)
    assert started.code == 0, started.said
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (told := fetched(url))["state"] != "DRAWN":
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
    assert told["entrants"] == 20
    file = saved(tmp_path / "drawn.json", json.dumps(told))
    shown = verify(file, "--receipt", receipts, "--earlier", earlier, cwd=tmp_path)
    assert shown.code == 0, shown.said
    assert "Proven: the order of all 20" in shown.said


# -- The document about it

FAIRNESS = (Path(__file__).parents[2] / "docs" / "waiting-room-fairness.md").read_text()


def test_the_program_in_the_document_finds_the_same_order(tmp_path):
    program = saved(tmp_path / "check.py", re.search(r"```python\n(.*?)```", FAIRNESS, re.DOTALL)[1])
    done = subprocess.run([sys.executable, program, DRAWN], capture_output=True, text=True, check=True)
    assert done.stdout == f"{json.loads(DRAWN.read_text())['order']} True True True\n"


def test_the_command_in_the_document_proves_a_draw(tmp_path):
    command = re.search(r"^flashsale (verify-draw .*)$", FAIRNESS, re.MULTILINE)[1]
    for name, path in {"drawn.json": DRAWN, "before.json": OPEN, "my-receipt.txt": RECEIPTS}.items():
        saved(tmp_path / name, path.read_text())
    shown = run(*command.split(), cwd=tmp_path)
    assert shown.code == 0, shown.said
