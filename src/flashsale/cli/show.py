"""The API's answers on a terminal: tables for people, or the JSON itself for scripts.

The names are those of the API, so that what is read here can be written into a sale file. Fields that a
later version adds are shown without being known here.
"""

from typing import Any

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_encode = msgspec.json.Encoder(decimal_format="number").encode


def sale(answer: dict[str, Any], as_json: bool) -> None:
    """A sale: its own fields, then its products."""
    if as_json:
        _print_json(answer)
        return
    Console().print(_fields(answer))
    Console().print(_rows(answer["products"]))


def sales(answer: list[dict[str, Any]], as_json: bool) -> None:
    """A line for each sale."""
    if as_json:
        _print_json(answer)
        return
    if not answer:
        typer.echo("There is no sale yet. `flashsale sale create FILE` makes one.")
        return
    columns = ("id", "name", "state", "startsAt", "endsAt")
    Console().print(_rows([{name: each.get(name) for name in columns} for each in answer]))


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


def _rows(answers: list[dict[str, Any]]) -> Table:
    names = [name for name in answers[0] if any(each.get(name) not in (None, "") for each in answers)]
    table = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False)
    for each in answers:
        table.add_row(*(_text(each.get(name)) for name in names))
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
