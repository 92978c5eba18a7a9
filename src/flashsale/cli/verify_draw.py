"""`flashsale verify-draw`: whether the random order of a waiting room is the one that was promised. Asks nobody."""

from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashsale.cli.draw_file import read_pages, read_receipts
from flashsale.cli.options import Json, new_app
from flashsale.cli.problem import FAILED, WRONG_INPUT, Problem
from flashsale.core.draw import Published
from flashsale.core.draw_checks import Check, Outcome, Pages, check_draw, check_earlier, check_receipts, is_proven

app = new_app()

STYLE = {Outcome.OK: "green", Outcome.NOT_YET: "yellow", Outcome.FAILED: "bold red"}
File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="What `GET /api/v1/sales/{id}/draw` answered, all pages; `-` reads them."),
]
Receipts = Annotated[
    list[str] | None,
    typer.Option("--receipt", metavar="FILE|TEXT", help="A receipt, or a file with one on each line. May be repeated."),
]
Earlier = Annotated[
    list[str] | None,
    typer.Option("--earlier", metavar="FILE", help="The same document, kept from before. May be repeated."),
]


@app.command(epilog="Example: flashsale verify-draw draw.json --receipt my-receipt.txt --earlier before-the-start.json")
def verify_draw(file: File, receipt: Receipts = None, earlier: Earlier = None, json: Json = False) -> None:
    """Recompute the random order of a waiting room, and look for anybody who was added, left out or moved.

    The document alone shows whether it fits together. Whether it is the one that was promised is shown by a
    receipt from the time of joining, and by the document as it was published before: name as many as you have.

    Exit code 1 if anything does not hold, or if the draw is not over; 2 if a file cannot be read.
    """
    pages, facts = _gathered(file)
    checks = check_draw(pages)
    checks += [check_earlier(facts, _gathered(name)[1]) for name in earlier or ()]
    checks += check_receipts(facts, pages, (text for said in receipt or () for text in read_receipts(said)))
    proven = is_proven(pages, checks)
    if json:
        told = {"saleId": facts.sale_id, "state": facts.state, "entrants": facts.entrants}
        typer.echo(msgspec.json.encode(told | {"proven": proven, "checks": checks}))
    else:
        _show(pages, checks, proven)
    if not proven:
        raise typer.Exit(FAILED)


def _gathered(name: str) -> tuple[Pages, Published]:
    """A draw, and what all its pages tell."""
    pages = Pages()
    for page in read_pages(name):
        pages.add(page)
    if pages.first is None:
        raise Problem(f"{name}: is empty", remedy="save the answer of the server again", code=WRONG_INPUT)
    return pages, pages.first


def _show(pages: Pages, checks: list[Check], proven: bool) -> None:
    table = Table("check", "", "found", box=box.SIMPLE_HEAD, pad_edge=False)
    for check in checks:
        outcome = Text(check.outcome.replace("_", " ").lower(), STYLE[check.outcome])
        table.add_row(check.name, outcome, Text(check.found))
    Console().print(table)
    Console().print(_verdict(pages, checks, proven), highlight=False)


def _verdict(pages: Pages, checks: list[Check], proven: bool) -> str:
    failed = sum(check.outcome is Outcome.FAILED for check in checks)
    if failed:
        return f"Not proven: {failed} of {len(checks)} checks failed."
    if not proven:
        return "Nothing speaks against it so far. Keep this file, and look again when the draw is over."
    return f"Proven: the order of all {len(pages.hashes)} is the one that was promised."
