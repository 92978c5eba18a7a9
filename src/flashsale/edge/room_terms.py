"""The terms of a waiting room, as an operator writes and sees them."""

import math
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from flashsale.core.catalogue import UNITS_MAX
from flashsale.core.sale import RoomTerms, Sale
from flashsale.core.thresholds import RATE_MIN

ROOM_MAX = 10_000_000
"""Who may wait in one room."""


class RoomTermsBody(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """The waiting room of a sale. Without `burst` as many may be let in at once as in a second; without `maxActive` as
    many may hold a pass or an unpaid reservation as the rate lets in."""

    enabled: bool = False
    admit_per_second: Annotated[float, Meta(ge=RATE_MIN, le=100_000)] | None = None
    burst: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    max_active: Annotated[int, Meta(ge=1, le=UNITS_MAX)] | None = None
    max_waiting: Annotated[int, Meta(ge=1, le=ROOM_MAX)] | None = None
    pass_seconds: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    prequeue_seconds: Annotated[int, Meta(ge=0, le=604_800)] | None = None


class RoomTermsShown(msgspec.Struct, rename="camel", gc=False):
    """As it is in force; of a room that is not on, no more than that."""

    enabled: bool
    admit_per_second: float | UnsetType = UNSET
    burst: int | UnsetType = UNSET
    max_active: int | UnsetType | None = UNSET
    max_waiting: int | UnsetType = UNSET
    pass_seconds: int | UnsetType = UNSET
    prequeue_seconds: int | UnsetType = UNSET


def room_terms(asked: RoomTermsBody | None) -> RoomTerms | None:
    if asked is None or not asked.enabled:
        return None
    terms = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}
    del terms["enabled"]
    if asked.admit_per_second is not None and asked.burst is None:
        terms["burst"] = max(1, math.ceil(asked.admit_per_second))
    return RoomTerms(**terms)


def shown_terms(sale: Sale) -> RoomTermsShown:
    terms = sale.waiting_room
    if terms is None:
        return RoomTermsShown(enabled=False)
    return RoomTermsShown(
        True, terms.admit_per_second, terms.burst, terms.max_active, terms.max_waiting, terms.pass_seconds,
        terms.prequeue_seconds,
    )  # fmt: skip
