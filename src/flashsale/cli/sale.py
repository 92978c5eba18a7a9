"""`flashsale sale ...`: what an operator does with sales, at a server or at the ledger itself."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from flashsale.cli import show
from flashsale.cli.options import Data, Json, Token, Url, new_app
from flashsale.cli.sale_file import read_sale, refused
from flashsale.cli.shop import Place, Refusal, open_shop

app = new_app("sale")

SaleId = Annotated[str, typer.Argument(metavar="ID", help="The sale's id, as `flashsale sale list` shows it.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The sale, in TOML (FILE ends in .toml) or JSON.")]


@app.callback()
def sale() -> None:
    """Create, watch and steer sales.

    The commands ask the server at --url. If none is named and none runs on this machine, they open the
    ledger in the data directory themselves.
    """


@app.command(epilog="Example: flashsale sale create examples/sale.toml")
def create(file: File, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Create a sale from a file.

    The fields are those of POST /api/v1/admin/sales. Without startsAt the sale is a draft until
    `flashsale sale start`.
    """
    asyncio.run(_create(Place(url, token, data), file, json))


async def _create(place: Place, file: Path, json: bool) -> None:
    body = read_sale(file)
    async with open_shop(place, makes_ledger=True) as shop:
        try:
            show.sale(await shop.ask("POST", "/sales", body), json)
        except Refusal as refusal:
            raise refused(file, refusal.errors) if refusal.errors else refusal from refusal


@app.command("list", epilog="Example: flashsale sale list --json")
def list_sales(url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """List all sales with their states."""
    _ask(Place(url, token, data), "GET", "/sales", json, show.sales)


@app.command("show", epilog="Example: flashsale sale show launch")
def show_sale(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Show a sale: its terms, its state, its products."""
    _ask(Place(url, token, data), "GET", f"/sales/{quote(sale_id, safe='')}", json, show.sale)


@app.command(epilog="Example: flashsale sale start launch")
def start(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Open a draft or scheduled sale now."""
    _switch(Place(url, token, data), sale_id, "start", json)


@app.command(epilog="Example: flashsale sale pause launch")
def pause(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Take no new reservations for now; what exists can be paid and cancelled."""
    _switch(Place(url, token, data), sale_id, "pause", json)


@app.command(epilog="Example: flashsale sale resume launch")
def resume(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Go on with a paused sale."""
    _switch(Place(url, token, data), sale_id, "resume", json)


@app.command(epilog="Example: flashsale sale end launch")
def end(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """End a sale for good; what exists can still be paid and cancelled."""
    _switch(Place(url, token, data), sale_id, "end", json)


@app.command(epilog="Example: flashsale sale stats launch --json")
def stats(sale_id: SaleId, url: Url = None, token: Token = None, data: Data = None, json: Json = False) -> None:
    """Show what a sale has come to: orders, revenue, users, refusals."""
    _ask(Place(url, token, data), "GET", f"/sales/{quote(sale_id, safe='')}/stats", json, show.stats)


def _switch(place: Place, sale_id: str, switch: str, json: bool) -> None:
    _ask(place, "POST", f"/sales/{quote(sale_id, safe='')}/{switch}", json, show.sale)


def _ask(place: Place, method: str, path: str, json: bool, shown: Callable[[Any, bool], None]) -> None:
    asyncio.run(_asked(place, method, path, json, shown))


async def _asked(place: Place, method: str, path: str, json: bool, shown: Callable[[Any, bool], None]) -> None:
    async with open_shop(place) as shop:
        shown(await shop.ask(method, path), json)
