"""Published draws and receipts in files, as they were fetched: pages one after the other, or in a list."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from flashsale.cli.problem import WRONG_INPUT, Problem
from flashsale.core.draw import Published

STANDARD_INPUT = "-"
PATH_CHARACTERS_MAX = 250
"""A receipt is longer."""

_decode = msgspec.json.Decoder(Published | list[Published]).decode
_printed = re.compile(r"\S").search


def read_pages(name: str) -> Iterator[Published]:
    """The pages of a draw. One that has a line of its own is read and forgotten before the next."""
    try:
        if name == STANDARD_INPUT:
            yield from _pages(sys.stdin)
            return
        with Path(name).open(encoding="utf-8") as file:
            yield from _pages(file)
    except OSError as error:
        raise Problem(f"{name}: {error.strerror}", remedy="name a readable file", code=WRONG_INPUT) from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        remedy = "save what GET /api/v1/sales/{id}/draw answers, page after page"
        raise Problem(f"{name}: is not a published draw: {error}", remedy=remedy, code=WRONG_INPUT) from error


def read_receipts(said: str) -> list[str]:
    """Receipts from a file, one on each line, or the one that was said."""
    if len(said) > PATH_CHARACTERS_MAX:
        return [said]
    try:
        receipts = Path(said).read_text(encoding="utf-8").split()
    except OSError as error:
        remedy = "name a readable file, or give the receipt itself"
        raise Problem(f"{said}: {error.strerror}", remedy=remedy, code=WRONG_INPUT) from error
    except ValueError as error:
        raise Problem(f"{said}: is not UTF-8 text", remedy="save it as UTF-8", code=WRONG_INPUT) from error
    if not receipts:
        raise Problem(f"{said}: holds no receipt", remedy="write one on each line", code=WRONG_INPUT)
    return receipts


def _pages(file: IO[str]) -> Iterator[Published]:
    for line in file:
        if not line.strip():
            continue
        try:
            page = _decode(line)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            yield from _run_together(line + file.read())
            return
        yield from page if isinstance(page, list) else [page]


def _run_together(text: str) -> Iterator[Published]:
    """Pages over several lines, or several on one."""
    decoder, at = json.JSONDecoder(), 0
    while found := _printed(text, at):
        value, at = decoder.raw_decode(text, found.start())
        page = msgspec.convert(value, Published | list[Published])
        yield from page if isinstance(page, list) else [page]
