"""Modules of this package that are imported when they are needed: a web server and an engine take their time."""

import importlib
from typing import Any


def load(name: str) -> Any:
    """The module `name` of the command line."""
    return importlib.import_module(f"flashsale.cli.{name}")
