"""The API's answers on a terminal: tables for people, or the JSON itself for scripts.

The names are those of the API, so that what is read here can be written into a sale file. Tables leave out
what does not fit a line; the JSON has everything.
"""

from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

SALE_COLUMNS = ("id", "name", "state", "startsAt", "endsAt")
PRODUCT_COLUMNS = (
    *("skuId", "name", "flashSalePrice", "currency", "perUserLimit"),
    *("stock", "available", "held", "sold"),
)

_encode = msgspec.json.Encoder(decimal_format="number").encode


def sale(answer: dict[str, Any], as_json: bool) -> None:
    """A sale: its own fields, then its products."""
    if as_json:
        _print_json(answer)
        return
    Console().print(_fields(answer))
    Console().print(_rows(answer["products"], PRODUCT_COLUMNS))


def sales(answer: list[dict[str, Any]], as_json: bool) -> None:
    """A line for each sale."""
    if as_json:
        _print_json(answer)
        return
    if not answer:
        typer.echo("There is no sale yet. `flashsale sale create FILE` makes one.")
        return
    Console().print(_rows(answer, SALE_COLUMNS))


def stats(answer: dict[str, Any], as_json: bool) -> None:
    """Figures, one on each line."""
    if as_json:
        _print_json(answer)
    else:
        Console().print(_fields(answer))


def _print_json(answer: Any) -> None:
    typer.echo(_encode(answer))


def _fields(answer: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in answer.items():
        if not isinstance(value, list):
            table.add_row(name, _text(value))
    return table


def _rows(answers: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in answers:
        table.add_row(*(_text(each.get(name)) for name in columns))
    return table


def _text(value: Any) -> Text:
    """Without markup or control characters: a name may hold anything."""
    return Text("".join(each if each.isprintable() else " " for each in _plain(value)))


def _plain(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return str(value)
