"""A sale in a file, TOML or JSON, with the names of the HTTP interface; what is in it, the server judges.

So there is one list of fields and one set of rules, and a file may say whatever the interface may. Prices
keep the decimals they were written with.
"""

import json
import tomllib
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from flashsale.cli.problem import WRONG_INPUT, Problem

EXAMPLES = "examples/sale.toml and examples/sale.json show every field"

_encoder = msgspec.json.Encoder(decimal_format="number")


def read_sale(path: Path) -> bytes:
    """The file as the body of a request; JSON goes as it is."""
    text = _text(path)
    if path.suffix.lower() == ".toml":
        return _from_toml(path, text)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        raise Problem(f"{path}: is not JSON: {error}", remedy=EXAMPLES, code=WRONG_INPUT) from error
    return text.encode()


def refused(path: Path, errors: list[dict[str, str]]) -> Problem:
    """The server's findings about the fields of this file."""
    lines = "\n".join(f"{path}: {error['field']}: {error['message']}" for error in errors)
    return Problem("the sale was not created", lines, f"correct the file; {EXAMPLES}", WRONG_INPUT)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise Problem(f"{path}: {error.strerror}", remedy="name a readable file", code=WRONG_INPUT) from error
    except UnicodeDecodeError as error:
        raise Problem(f"{path}: is not UTF-8 text", remedy="save it as UTF-8", code=WRONG_INPUT) from error


def _from_toml(path: Path, text: str) -> bytes:
    try:
        return _encoder.encode(_plain(tomllib.loads(text, parse_float=Decimal)))
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"{path}: is not TOML: {error}", remedy=EXAMPLES, code=WRONG_INPUT) from error


def _plain(value: Any) -> Any:
    """TOML's own dates and times as the text that JSON has for them; without an offset they mean UTC."""
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case datetime():
            return value.isoformat() if value.tzinfo else f"{value.isoformat()}Z"
        case date() | time():
            return value.isoformat()
    return value
