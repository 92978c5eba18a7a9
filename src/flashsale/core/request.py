"""A queued request: what is asked for in a queued sale, on its way from the buyer's call to its decision.

It carries everything that its decision needs but the rows: the ids that its reservations will have (`core/pending.py`),
what is asked for, and when it was taken into the queue. It is decided by the rules of that moment. It may arrive
twice, and late; its ids make it one request.
"""

import re
from enum import StrEnum
from hashlib import blake2b

import msgspec
from msgspec.structs import replace

from flashsale.core.origin import is_mark
from flashsale.core.reservation import RequestKind

ITEMS_MAX = 100
MARKS_MAX = 8
QUANTITY_MAX = 10_000

BATCH_MAX = 250
"""Requests of one product decided together."""
HIGH_TURNS = 4
"""At most so many requests of high priority are taken before one of normal priority that waits: nobody starves."""

VERSION = 1
"""Of the form in which a request travels."""


class Item(msgspec.Struct, frozen=True):
    sku_id: str
    quantity: int


class Priority(StrEnum):
    """Comes from a token's claim or an operator, never from the client's word."""

    NORMAL = "normal"
    HIGH = "high"


class Request(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One queued request. `reservation_ids` has one id for each item, in their order."""

    reservation_ids: tuple[str, ...]
    user_id: str
    sale_id: str
    items: tuple[Item, ...]
    at_ms: int
    """The ledger's time when it was taken into the queue; the sale is judged by it."""
    kind: RequestKind = RequestKind.SINGLE
    priority: Priority = Priority.NORMAL
    redrive_of: str | None = None
    trace_id: str | None = None
    pass_number: int | None = None
    """Of the pass that it brings."""
    marks: tuple[str, ...] = ()
    """Over which the sale limits units (core/origin.py)."""
    hold_seconds: int | None = None
    """Shorter than the sale's, for somebody who keeps reserving without paying."""
    version: int = VERSION

    @property
    def fingerprint(self) -> str:
        """What is asked for, so that another request with the same key is seen to be another one."""
        asked = sorted((item.sku_id, item.quantity) for item in self.items)
        return blake2b(f"{self.kind}{asked}".encode(), digest_size=8).hexdigest()

    @property
    def name(self) -> str:
        """The same for the same request, however often it is appended."""
        return f"{self.reservation_ids[0]}.{self.fingerprint}"

    @property
    def slice_key(self) -> str:
        """Requests of one key are decided in their order, by one writer: that of the lowest SKU."""
        return min(item.sku_id for item in self.items)


class Unreadable(ValueError):
    """A message that is no request; the text says why."""


_TRACE_ID = re.compile("[0-9a-f]{32}").fullmatch
_decode = msgspec.json.Decoder(Request).decode
encode = msgspec.json.Encoder().encode


def decode(message: bytes) -> Request:
    """Reads a message. Raises Unreadable: whatever reaches a decision is in good form."""
    try:
        request = _decode(message)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if fault := _fault(request):
        raise Unreadable(fault)
    if request.trace_id is not None and not _TRACE_ID(request.trace_id):
        return replace(request, trace_id=None)  # nothing is decided by it
    return request


def _fault(request: Request) -> str | None:
    if request.version != VERSION:
        return f"version {request.version} is not known, only {VERSION}"
    if not 1 <= len(request.items) <= ITEMS_MAX:
        return f"items: must be 1 to {ITEMS_MAX}"
    if len(request.reservation_ids) != len(request.items):
        return "reservationIds: must be as many as items"
    if len({item.sku_id for item in request.items}) != len(request.items):
        return "items: must name each product once"
    if not all(1 <= item.quantity <= QUANTITY_MAX for item in request.items):
        return f"items: each quantity must be 1 to {QUANTITY_MAX}"
    if len(request.marks) > MARKS_MAX or not all(map(is_mark, request.marks)):
        return f"marks: must be at most {MARKS_MAX} marks of an origin"
    if request.hold_seconds is not None and request.hold_seconds < 1:
        return "holdSeconds: must be at least 1"
    texts = [*request.reservation_ids, request.user_id, request.sale_id, *(item.sku_id for item in request.items)]
    if request.redrive_of is not None:
        texts.append(request.redrive_of)
    if not all(0 < len(text) <= 255 and "\0" not in text for text in texts):
        return "an id is empty, too long or contains the character U+0000"
    return None
