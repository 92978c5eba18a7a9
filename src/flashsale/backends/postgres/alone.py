"""Work of the writer that is a transaction of its own, in its place between the batches."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from flashsale.backends.postgres.connect import Connection
from flashsale.core.journal import Stock


class Altered(msgspec.Struct, frozen=True):
    """What came of a transaction of its own, and what the observer is to be told of the sale that it changed."""

    outcome: Any
    sale_id: str = ""
    stock: dict[tuple[str, str], Stock] = {}
    changed: bool = False


Alone = Callable[[Connection], Awaitable[Altered]]
"""Work that is a transaction of its own; it is committed if it says that something was changed."""
